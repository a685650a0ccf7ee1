//! Peers that ask for much and do not read the replies, so that the kernel keeps them.

use std::fs;

use super::sockets;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::large::{MIB, Peer, megabytes};
use crate::support::server::{Server, Setup, raise_descriptors};
use crate::support::wire::*;

/// How many bytes the kernel keeps that the server has sent and nobody has acknowledged.
fn in_kernel(s: &Server) -> usize {
    let port = format!(":{:04X}", s.addr.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let queue = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (queue, _) = fields[4].split_once(':').unwrap();
        fields[1].ends_with(&port).then(|| usize::from_str_radix(queue, 16).unwrap())
    };
    table.lines().skip(1).filter_map(queue).sum()
}

/// Asks for some megabytes on each of many connections and reads nothing.
fn unread(s: &Server, count: usize, megabytes_each: usize) -> Vec<Peer> {
    let [_, read] = megabytes(&mut s.client());
    let mut peers: Vec<_> = (0..count).map(|_| Peer::from(s, 9)).collect();
    for peer in &mut peers {
        let len = megabytes_each * read.len();
        assert_eq!(peer.send(&read, len, usize::MAX), len);
    }
    peers
}

#[test]
fn what_the_kernel_keeps_of_replies_counts_and_all_are_delivered() {
    const COUNT: usize = 100;
    raise_descriptors();
    let s = Setup::default().args(&["--memory", "32Mi"]).start();
    let mut peers = unread(&s, COUNT, 2);
    let (mut held, mut same) = (0, 0);
    eventually("the kernel takes no more", || {
        let now = in_kernel(&s);
        same = if now == held && now > MIB { same + 1 } else { 0 };
        held = now;
        same == 20
    });
    assert!(held < 40 * MIB, "{} MiB", held / MIB);
    s.client().null();
    eventually("who reads after all gets everything", || {
        peers.iter_mut().for_each(Peer::receive);
        peers.iter().all(|peer| peer.received > 2 * MIB)
    });
    assert!(peers.iter().all(|peer| !peer.is_closed));
    check_reads(&mut s.client());
}

#[test]
fn who_is_cut_off_leaves_nothing_in_the_kernel() {
    let s = Setup::default().args(&["--stall-timeout", "2"]).start();
    let mut c = s.client();
    c.null();
    let before = sockets(&s);
    let peers = unread(&s, 5, 10);
    s.client().null(); // who came before is accepted by now
    eventually("they are cut off", || sockets(&s) <= before);
    eventually("nothing is kept", || in_kernel(&s) == 0);
    drop(peers);
    check_reads(&mut c);
}

fn check_reads(c: &mut Client) {
    let root = c.root();
    let file = c.find(&root, "file");
    assert_eq!(c.read(&file, 0, 1 << 20).ok().data.len(), MIB);
}
