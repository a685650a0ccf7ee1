//! Where the server's threads run: a short call is answered on the processor that received it.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::support::client::{Client, NFS};
use crate::support::server::{Server, Setup};
use crate::support::{eventually, not_tried};

/// Calls between two looks at the threads: fewer than a thread makes before it thinks again.
const SOME: usize = 16;

/// Where the calling thread may run.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect()
}

/// On the loopback, packets are received on the processor of the thread that sends them.
fn send_from(processor: usize) {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).unwrap();
}

/// The processors to which threads of the data plane keep.
fn kept(s: &Server) -> Vec<usize> {
    let tasks = fs::read_dir(format!("/proc/{}/task", s.pid().as_raw_pid())).unwrap();
    let status = |task: std::io::Result<fs::DirEntry>| {
        fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default()
    };
    let data = tasks.map(status).filter(|status| status.contains("berth-data-"));
    let lists = data.filter_map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(str::trim).and_then(|list| list.parse().ok())
    });
    lists.collect()
}

fn calls(c: &mut Client) {
    for _ in 0..SOME {
        c.raw(NFS, 0, &[]);
    }
}

#[test]
fn a_thread_goes_where_the_packets_come_and_away_when_they_come_from_two() {
    let [first, second, ..] = allowed()[..] else {
        return not_tried("a choice of processors, of which there is one");
    };
    let s = Setup::default().start();
    let mut c = s.client();
    assert!(kept(&s).is_empty());
    for processor in [first, second, first] {
        send_from(processor);
        eventually("a thread is where the packets come to", || {
            calls(&mut c);
            kept(&s) == [processor]
        });
    }
    eventually("no thread keeps to one of two", || {
        for processor in [first, second] {
            send_from(processor);
            calls(&mut c);
        }
        kept(&s).is_empty()
    });
}
