//! Start, restart and end of the server.

use std::fs;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use rustix::process::Signal;

use crate::support::client::{Client, Cred, MOUNT, NFS, Reply, message, record, unpacked};
use crate::support::server::{Server, Setup, free_port, program};
use crate::support::wire::*;
use crate::support::{PATIENCE, eventually};

#[test]
fn calls_in_flight_are_answered_before_the_end() {
    const CALLS: u32 = 64;
    let mut s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    let auth = c.cred.encoded();
    let mut stream = Vec::new();
    for xid in 0..CALLS {
        let args = WRITE3args {
            file: file.clone(),
            offset: u64::from(xid) * 4,
            count: 4,
            stable: stable_how::FILE_SYNC,
            data: (&b"data"[..]).into(),
        };
        stream.extend(record(&message(xid, NFS, 7, &auth, &packed(&args))));
    }
    c.send(&stream).unwrap();
    // With the first answer the server has taken them off the socket: they came in one piece.
    let first = c.receive().unwrap();
    s.signal(Signal::TERM);
    let mut answered = vec![Reply::decode(&first)];
    while let Ok(answer) = c.receive() {
        answered.push(Reply::decode(&answer));
    }
    assert_eq!(answered.len(), usize::try_from(CALLS).unwrap());
    for (_, reply) in answered {
        unpacked::<WRITE3res>(&reply.results()).ok();
    }
    assert!(s.wait().success(), "its log:\n{}", s.log());
    assert_eq!(fs::read(s.dir.join("file")).unwrap(), b"data".repeat(CALLS as usize));
}

#[test]
fn idle_connections_and_half_a_call_do_not_delay_the_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut s = Server::start();
        let mut idle = s.client();
        idle.null();
        let mut half = s.client();
        half.send(&[0x80, 0, 1]).unwrap();
        s.signal(signal);
        assert!(s.wait().success(), "its log:\n{}", s.log());
        assert!(idle.is_closed() && half.is_closed());
    }
}

#[test]
fn nobody_is_accepted_after_the_end_has_begun() {
    let mut s = Server::start();
    s.signal(Signal::TERM);
    assert!(s.wait().success());
    assert!(std::net::TcpStream::connect(s.addr).is_err());
}

#[test]
fn the_state_folder_is_not_served() {
    let refused = |state: &str, prepare: fn(&std::path::Path)| {
        // The last one counts: the argument overrides what the suite passes itself.
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("export");
        fs::create_dir(&dir).unwrap();
        prepare(&dir);
        let listen = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(program());
        command.arg("serve").arg(&dir).args(["--listen", &listen]);
        let output = command.arg("--state").arg(dir.join(state)).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{state}: {said}");
        assert!(said.contains("state"), "{said}");
    };
    refused("state", |_| ());
    refused(".", |_| ());
    refused("a/b/state", |dir| fs::create_dir_all(dir.join("a/b")).unwrap());
    refused("../link/state", |dir| symlink(dir, dir.parent().unwrap().join("link")).unwrap());
    refused("../export/state", |_| ());
}

#[test]
fn what_the_server_keeps_for_itself_is_for_itself() {
    let s = Server::start();
    s.client().root();
    let mut files = 0;
    for entry in fs::read_dir(s.beside("state")).unwrap().flatten() {
        let meta = entry.metadata().unwrap();
        assert_eq!(meta.mode() & 0o077, 0, "{}: {:o}", entry.path().display(), meta.mode());
        files += 1;
    }
    assert!(files > 0, "a key at least");
}

#[test]
fn it_listens_on_all_addresses_that_it_is_given() {
    let port = free_port();
    let also = format!("127.0.0.1:{port}");
    let six = format!("[::1]:{port}");
    let s = Setup::default().args(&["--listen", &also, "--listen", &six]).start();
    let root = s.client().root();
    for addr in [also, six] {
        let addr: SocketAddr = addr.parse().unwrap();
        let mut c = Client::connect(addr, Cred::superuser());
        assert_eq!(c.root(), root);
        c.getattr(&root).ok();
    }
}

#[test]
fn who_is_answered_over_tcp_is_answered_over_udp_as_well() {
    // Nothing is accepted before all is bound: else a client gives up on what comes a moment later.
    for _ in 0..20 {
        let s = Server::start(); // has answered over TCP
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(s.addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(&message(1, MOUNT, 0, &Cred::user(0).encoded(), &[])).unwrap();
        socket.recv(&mut [0; 100]).unwrap();
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let said = Setup::default().args(&["--listen", &addr]).refused(|_| ());
    assert!(said.contains(&addr), "{said}");
}

#[test]
fn a_start_after_a_crash_needs_nobody() {
    let mut s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for round in 0..5 {
        let file = c.file_of(&root, format!("file{round}"), b"content");
        s.crash_and_restart();
        c = s.client();
        assert_eq!(c.content(&file), b"content");
    }
    assert_eq!(c.names(&root, 4096).len(), 5);
}

#[test]
fn two_servers_can_serve_one_directory_with_states_of_their_own() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "file", b"content");
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut other = Command::new(program())
        .arg("serve")
        .arg("--insecure")
        .arg(&s.dir)
        .args(["--listen", &listen, "--state"])
        .arg(s.beside("other"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let addr: SocketAddr = listen.parse().unwrap();
    eventually("the second answers", || std::net::TcpStream::connect(addr).is_ok());
    let mut o = Client::connect(addr, Cred::superuser());
    let other_root = o.root();
    let file = o.find(&other_root, "file");
    assert_eq!(o.content(&file), b"content");
    one_of(o.getattr(&root).status(), &[NFS3ERR_STALE, NFS3ERR_BADHANDLE]);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let file = c.file(&root, "file");
    c.write(&file, 0, b"content", stable_how::UNSTABLE).ok();
    disk.hold_after(0);
    s.signal(Signal::TERM);
    eventually("it stops", || s.log().contains("stopping: "));
    s.signal(Signal::TERM);
    assert_eq!(s.wait().code(), Some(1));
    assert!(s.log().contains("ending at once"), "{}", s.log());
}
