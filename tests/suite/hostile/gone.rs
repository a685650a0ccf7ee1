//! Peers that ask for much and go away: nobody can be answered any more.

use std::fs;
use std::time::Duration;

use socket2::SockRef;

use crate::admin::Watched;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::Setup;
use crate::support::wire::*;

const MIB: usize = 1 << 20;

fn reads(w: &Watched) -> f64 {
    w.metrics().of("calls_total", "READ")
}

/// READ of a file, so many times.
fn ask(c: &mut Client, file: &Fh, count: u32, times: usize) {
    let args = packed(&READ3args { file: file.clone(), offset: 0, count });
    c.ask(NFS_PROGRAM::NFSPROC3_READ, &vec![args; times]);
}

/// Closes a connection with a reset.
fn reset(c: Client) {
    SockRef::from(c.stream()).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn what_was_read_before_the_peer_went_is_not_carried_out() {
    let file = |dir: &std::path::Path| fs::write(dir.join("file"), vec![7; MIB]).unwrap();
    let w = Watched::over(Setup::default(), file);
    let mut c = w.server.client();
    let root = c.root();
    let file = c.find(&root, "file");
    c.read(&file, 0, 1 << 20).ok(); // it is open, and read where calls arrive
    ask(&mut c, &file, 1 << 20, 1000);
    let (mut before, mut same) = (0.0, 0);
    eventually("the sockets are full", || {
        let now = reads(&w);
        same = if now.total_cmp(&before).is_eq() { same + 1 } else { 0 };
        before = now;
        same == 20
    });
    let open = w.metrics().get("berth_connections");
    reset(c);
    eventually("it is closed", || w.metrics().get("berth_connections") < open);
    let more = reads(&w) - before;
    assert!(more < 5.0, "{more} of them");
}

#[test]
fn calls_that_wait_for_a_thread_when_the_peer_goes_are_dropped() {
    let w = Watched::over(Setup::default().faults(), |dir| {
        fs::write(dir.join("file"), [7; 4096]).unwrap();
    });
    let (mut c, disk) = (w.server.client(), w.server.faults());
    let root = c.root();
    let file = c.find(&root, "file");
    c.content(&file);
    disk.cold();
    disk.hold_after(0);
    ask(&mut c, &file, 4096, 200); // more than there are threads
    let made: Vec<_> = (0..20).map(|n| create_args(&root, &format!("made{n}"))).collect();
    c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &made);
    let queue = || w.metrics().get("berth_pool_queue");
    eventually("they wait for threads", || queue() > 150.0);
    let (before, open) = (reads(&w), w.metrics().get("berth_connections"));
    reset(c);
    eventually("it is closed", || w.metrics().get("berth_connections") < open);
    disk.release();
    eventually("nothing waits any more", || queue() == 0.0);
    w.server.until_calls_rest();
    let more = reads(&w) - before;
    assert!(more < 100.0, "{more} of 200");
    let names = fs::read_dir(&w.server.dir).unwrap().count();
    assert!(names < 5, "{names} were made");
}

#[test]
fn a_connection_that_was_reset_leaves_no_socket_although_its_calls_wait() {
    const PEERS: usize = 100;
    const READS: usize = 100; // more than there are threads
    let w = Watched::over(Setup::default().faults(), |dir| {
        fs::write(dir.join("file"), [7; 4096]).unwrap();
        (0..PEERS).for_each(|n| fs::create_dir(dir.join(format!("dir{n}"))).unwrap());
    });
    let (mut c, disk) = (w.server.client(), w.server.faults());
    let root = c.root();
    let file = c.find(&root, "file");
    let dirs: Vec<_> = (0..PEERS).map(|n| c.find(&root, format!("dir{n}"))).collect();
    c.content(&file);
    disk.cold();
    disk.hold_after(0);
    ask(&mut c, &file, 4096, READS);
    let queue = || w.metrics().get("berth_pool_queue");
    // Each thread has taken one, and nothing leaves the queue any more.
    let rest = (READS - pool_threads(&w)) as f64;
    eventually("they wait for threads", || queue().total_cmp(&rest).is_eq());
    let before = sockets(&w);
    for dir in &dirs {
        let mut peer = w.server.client();
        let waiting = queue();
        peer.ask(NFS_PROGRAM::NFSPROC3_CREATE, &[create_args(dir, "made")]);
        eventually("its call waits", || queue() > waiting);
        reset(peer);
    }
    eventually("the sockets are closed", || sockets(&w) < before + 10);
    assert!(queue() > PEERS as f64, "the calls wait");
    disk.release();
}

/// How many threads carry out calls that may block.
fn pool_threads(w: &Watched) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", w.server.pid().as_raw_nonzero())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("berth-pool")).count()
}

/// How many sockets the server has open.
fn sockets(w: &Watched) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", w.server.pid().as_raw_nonzero())).unwrap();
    let targets = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}
