//! More connections than there are places for.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::client::{Client, Cred};
use crate::support::eventually;
use crate::support::server::{Server, Setup, berth, raise_descriptors};
use crate::support::wire::*;

const LIMIT: usize = 100;

fn crowded() -> Server {
    raise_descriptors();
    Setup::default().args(&["--max-connections", &LIMIT.to_string()]).start()
}

/// A connection from an address of this machine.
fn from(s: &Server, last: u8) -> Client {
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    Client::connect_from(from, 0, s.addr, Cred::superuser()).unwrap()
}

#[test]
fn a_crowd_of_idle_connections_shuts_nobody_out() {
    let s = crowded();
    let mut early = from(&s, 2);
    early.null();
    let mut crowd: Vec<_> = (0..LIMIT * 2).map(|_| from(&s, 3)).collect();
    let last = crowd.last_mut().unwrap();
    last.null();
    early.null();
    for next in 4..14 {
        let mut c = from(&s, next);
        let root = c.root();
        c.getattr(&root).ok();
    }
    let health = berth(&["health", "--nfs", &s.addr.to_string()]);
    assert!(health.status.success(), "{health:?}");
    early.null();
    assert!(crowd[0].is_closed(), "the quietest of the greediest gives way");
}

#[test]
fn who_is_busy_stays_however_many_come() {
    let s = crowded();
    let mut busy: Vec<_> = (2..12).map(|last| from(&s, last)).collect();
    for round in 0..3000 {
        let mut c = from(&s, 1);
        c.null();
        if round % 20 == 0 {
            busy.iter_mut().for_each(Client::null);
        }
    }
    let mut crowd: Vec<_> = (0..LIMIT * 3).map(|_| from(&s, 1)).collect();
    busy.iter_mut().for_each(Client::null);
    drop(crowd.split_off(LIMIT));
    eventually("there is room again", || s.client().try_null());
    busy.iter_mut().for_each(Client::null);
}
