//! Which connections are admitted, displaced and closed.

use super::*;
use crate::rpc::transport::buffers::Buffers;
use crate::rpc::transport::memory_budget::MINIMUM;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: usize = 8;

/// A server with a low limit. Nothing is sent over its connections.
struct Places {
    connections: Arc<Connections>,
    buffers: Arc<Buffers>,
    socket: SocketAddr,
    _listener: TcpListener,
}

impl Places {
    async fn new(knows: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let budget = MemoryBudget::new(MINIMUM);
        let connections = Connections::new(LIMIT, Arc::clone(&budget));
        connections.set_is_known(Box::new(knows));
        let (buffers, socket) = (Arc::new(Buffers::new(budget)), listener.local_addr().unwrap());
        Self { connections, buffers, socket, _listener: listener }
    }

    async fn enter(&self, ip: &str) -> ConnectionAdmission {
        let stream = TcpStream::connect(self.socket).await.unwrap();
        let peer = SocketAddr::new(ip.parse().unwrap(), 1);
        let origin = Origin { peer, local: "10.9.9.9:2049".parse().unwrap() };
        self.connections.enter(origin, |peer| Outbox::new(stream, Arc::clone(&self.buffers), peer))
    }

    /// Is admitted below the limit.
    async fn free(&self, ip: &str) -> ConnectionPermit {
        match self.enter(ip).await {
            ConnectionAdmission::Free(permit) => permit,
            ConnectionAdmission::Displaced(_) | ConnectionAdmission::Refused => {
                panic!("{ip} found no free place")
            }
        }
    }

    async fn displaces(&self, ip: &str) -> ConnectionPermit {
        match self.enter(ip).await {
            ConnectionAdmission::Displaced(permit) => permit,
            ConnectionAdmission::Free(_) | ConnectionAdmission::Refused => {
                panic!("{ip} displaced none")
            }
        }
    }

    async fn is_refused(&self, ip: &str) -> bool {
        matches!(self.enter(ip).await, ConnectionAdmission::Refused)
    }
}

fn gone(permits: &[ConnectionPermit]) -> Vec<usize> {
    let gone = permits.iter().enumerate().filter(|(_, permit)| permit.outbox().is_broken());
    gone.map(|(number, _)| number).collect()
}

#[tokio::test]
async fn the_idlest_connection_of_the_largest_address_is_displaced() {
    let places = Places::new(|_| false).await;
    let mut permits = Vec::new();
    for _ in 0..LIMIT - 2 {
        permits.push(places.free("10.0.0.1").await);
    }
    let others = [places.free("10.0.0.2").await, places.free("10.0.0.3").await];
    let later = Instant::now() + Duration::from_secs(5);
    permits.iter().enumerate().filter(|(n, _)| *n != 4).for_each(|(_, s)| s.outbox().called(later));
    let third = places.displaces("10.0.0.4").await;
    assert_eq!(gone(&permits), [4]);
    assert_eq!(places.connections.count(), LIMIT);
    // A permit of a displaced connection does not count when it is dropped.
    drop(permits.remove(4));
    assert_eq!(places.connections.count(), LIMIT);
    assert!(gone(&others).is_empty() && !third.outbox().is_broken());
    drop((permits, others, third));
    assert_eq!(places.connections.count(), 0);
    places.connections.sweep();
    assert!(places.connections.addresses().is_empty());
}

#[tokio::test]
async fn the_largest_address_is_refused_while_its_connections_are_in_use() {
    let places = Places::new(|_| false).await;
    let mut permits = Vec::new();
    for _ in 0..LIMIT {
        permits.push(places.free("10.0.0.1").await);
    }
    let later = Instant::now() + Duration::from_secs(5);
    permits.iter().for_each(|permit| permit.outbox().called(later));
    assert!(places.is_refused("10.0.0.1").await);
    assert!(gone(&permits).is_empty());
    assert_eq!(places.connections.count(), LIMIT);
    // Other addresses are admitted, and so is a health check from this machine.
    let _other = places.displaces("10.0.0.2").await;
    let _health = places.displaces("127.0.0.1").await;
    let _address = places.displaces("10.9.9.9").await;
    assert_eq!(gone(&permits).len(), 3);
}

#[tokio::test]
async fn known_addresses_displace_unknown_ones_however_many_they_are() {
    let places = Places::new(|ip| ip.to_string().starts_with("10.1.")).await;
    let known = [places.free("10.1.0.1").await, places.free("10.1.0.1").await];
    let mut permits = Vec::new();
    for n in 2..LIMIT {
        permits.push(places.free(&format!("10.0.0.{n}")).await);
    }
    let _next = places.displaces("10.1.0.2").await;
    assert_eq!(gone(&permits).len(), 1);
    assert!(gone(&known).is_empty());
}

#[tokio::test]
async fn one_address_of_a_network_of_ipv6_that_is_known_stays_so() {
    let places = Places::new(|ip| {
        let ip = ip.to_string();
        ip == "2001:db8::5" || ip.starts_with("10.1.")
    })
    .await;
    let mut known = Vec::new();
    for _ in 0..3 {
        known.push(places.free("2001:db8::5").await);
    }
    let mut permits = Vec::new();
    for n in 0..LIMIT - known.len() {
        permits.push(places.free(&format!("10.0.0.{n}")).await);
    }
    let _next = places.displaces("10.1.0.1").await;
    // A neighbour connects, and what is remembered is too old.
    permits.push(places.displaces("2001:db8::6").await);
    places.connections.addresses().values_mut().for_each(|entry| {
        entry.known = entry.known.map(|(known, _)| (known, Instant::now() - REMEMBERED));
    });
    let _last = places.displaces("10.1.0.2").await;
    assert!(gone(&known).is_empty(), "{:?}", gone(&known));
    assert_eq!(gone(&permits).len(), 3);
}

/// Connections of `10.0.0.1` hold so many records, while one of `10.0.0.2` waits for memory.
async fn pressed(records: usize) -> (Places, Vec<ConnectionPermit>, ConnectionPermit) {
    let places = Places::new(|_| false).await;
    let mut permits = Vec::new();
    for _ in 0..records {
        permits.push(places.free("10.0.0.1").await);
        permits.last().unwrap().outbox().memory.take(MINIMUM / records);
    }
    let newcomer = places.free("10.0.0.2").await;
    assert!(!newcomer.outbox().memory.admit(MINIMUM / 4));
    (places, permits, newcomer)
}

/// Returns which connections were closed after so many seconds, in each of which they received
/// so many bytes.
fn pass(places: &Places, permits: &[ConnectionPermit], seconds: u64, rates: &[u64]) -> Vec<usize> {
    let start = Instant::now();
    for second in 1..=seconds {
        let now = start + Duration::from_secs(second);
        let moved = permits.iter().zip(rates);
        moved.for_each(|(permit, bytes)| permit.outbox().progress().moved(*bytes, now));
        places.connections.sweep_at(now);
    }
    gone(permits)
}

const RATE: u64 = 8 * 1024;

#[tokio::test]
async fn a_slow_record_that_keeps_up_is_not_cut_off_however_many_wait() {
    let (places, permits, _newcomer) = pressed(1).await;
    assert!(pass(&places, &permits, 120, &[RATE]).is_empty());
    assert_eq!(pass(&places, &permits, 140, &[0]), [0], "and one that stops gives way");
}

#[tokio::test]
async fn a_connection_that_falls_behind_is_closed_for_one_that_waits() {
    let (places, permits, _newcomer) = pressed(1).await;
    assert!(pass(&places, &permits, 4, &[0]).is_empty(), "not at once");
    assert_eq!(pass(&places, &permits, 20, &[RATE / 4]), [0]);
}

#[tokio::test]
async fn a_connection_that_falls_behind_is_closed_before_one_that_keeps_up() {
    let (places, permits, newcomer) = pressed(3).await;
    assert_eq!(pass(&places, &permits, 5, &[RATE, 0, RATE]), [1]);
    // Of those that keep up, one stays.
    assert_eq!(pass(&places, &permits, 60, &[RATE, 0, RATE]).len(), 2);
    assert!(!newcomer.outbox().is_broken());
}

#[tokio::test]
async fn many_records_at_the_minimum_rate_are_cut_down_to_one() {
    let (places, permits, _newcomer) = pressed(4).await;
    assert_eq!(pass(&places, &permits, 60, &[RATE; 4]).len(), 3);
}

#[tokio::test]
async fn a_connection_that_completes_calls_is_not_slow() {
    let (places, permits, _newcomer) = pressed(2).await;
    let later = Instant::now() + Duration::from_secs(60);
    permits.iter().for_each(|permit| permit.outbox().called(later));
    assert!(pass(&places, &permits, 60, &[0, 0]).is_empty());
}

#[tokio::test]
async fn a_slow_address_gives_way_although_another_holds_more() {
    let (places, mut permits, _newcomer) = pressed(2).await;
    permits.iter().for_each(|permit| {
        permit.outbox().memory.give(MINIMUM / 4);
        permit.outbox().called(Instant::now() + Duration::from_secs(60));
    });
    permits.push(places.free("10.0.0.3").await);
    permits[2].outbox().memory.take(MINIMUM / 4);
    assert_eq!(pass(&places, &permits, 7, &[0; 3]), [2]);
}
