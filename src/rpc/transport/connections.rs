//! Who may have a connection when all of them are taken.
//!
//! Up to the limit everybody may. Beyond it, a new connection takes the place of another: of the
//! address that has most, the one that has been quiet the longest ([`super::progress`]). A flood
//! from one address so displaces its own connections, and costs others none. An address is counted
//! a [`CREDIT`]th if it is known: it is listed in an export by more than `*`, has something
//! mounted, or is this machine, from where health checks come. So unknown addresses give way to
//! known ones, however many they are.
//!
//! If the address of the newcomer is the one that has most, the newcomer is refused while the
//! others are in use: clients that need more connections than there are would displace each other
//! for ever. This machine is not refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::memory_budget::{MemoryBudget, Peer};
use super::outbox::Outbox;
use super::pressure::{Holder, giving_way};
use crate::rpc::address::Address;
use crate::rpc::service::Origin;

/// How many connections of a known address count as one of an unknown one.
const CREDIT: usize = 8;

/// A connection that has been quiet for longer is not in use. Peers that take replies are looked at
/// once a second.
const UNUSED: Duration = Duration::from_secs(2);

/// For how long an address is taken to be known, or unknown.
const REMEMBERED: Duration = Duration::from_secs(10);

/// Whether an address is a client's that is listed, or has something mounted.
pub type Knows = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The connections of a server.
pub struct Connections {
    limit: usize,
    budget: Arc<MemoryBudget>,
    knows: OnceLock<Knows>,
    open: AtomicUsize,
    hosts: Mutex<HashMap<Address, Host>>,
}

/// An address with its connections.
struct Host {
    peer: Arc<Peer>,
    /// Who is asked for when it is asked whether the address is known: the IP address that was
    /// found known, or the latest one. An [`Address`] may be a whole network, whose own address
    /// nobody has.
    ip: IpAddr,
    outboxes: Vec<Arc<Outbox>>,
    /// Whether it was known, and when that was asked.
    known: Option<(bool, Instant)>,
}

/// A connection that may be open. Its place is free again when this is dropped, or when it was
/// displaced.
pub struct Seat {
    connections: Arc<Connections>,
    address: Address,
    outbox: Arc<Outbox>,
}

/// How a connection came in.
pub enum Entry {
    /// There was room.
    Free(Seat),
    /// It took the place of another, which was given up.
    Displaced(Seat),
    /// There is no place for it.
    Refused,
}

impl Connections {
    /// At most `limit` connections at a time, whose memory is that of `budget`.
    pub fn new(limit: usize, budget: Arc<MemoryBudget>) -> Arc<Self> {
        let (knows, open, hosts) = (OnceLock::new(), AtomicUsize::new(0), Mutex::default());
        Arc::new(Self { limit, budget, knows, open, hosts })
    }

    /// Says who is known; for once, before the first connection.
    pub fn set_knows(&self, knows: Knows) {
        let _ = self.knows.set(knows);
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets a connection in that `outbox` makes, if there is a place.
    pub fn enter(
        self: &Arc<Self>,
        origin: Origin,
        outbox: impl FnOnce(&Arc<Peer>) -> Outbox,
    ) -> Entry {
        let (ip, address) = (origin.peer.ip().to_canonical(), Address::of(origin.peer.ip()));
        let is_here = ip.is_loopback() || ip == origin.local.ip().to_canonical();
        let mut hosts = self.hosts();
        let host = hosts.entry(address).or_insert_with(|| Host::new(self.budget.peer(), ip));
        host.came_from(ip);
        if is_here {
            host.known = Some((true, Instant::now() + REMEMBERED));
        }
        let outbox = Arc::new(outbox(&host.peer));
        let mut displaced = None;
        if self.count() >= self.limit {
            displaced = self.displace(&mut hosts, (address, ip), is_here);
            if displaced.is_none() {
                drop(outbox); // which makes use of the address
                if hosts.get(&address).is_some_and(|host| !host.is_used()) {
                    hosts.remove(&address);
                }
                return Entry::Refused;
            }
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        if let Some(host) = hosts.get_mut(&address) {
            host.outboxes.push(Arc::clone(&outbox));
        }
        drop(hosts);
        let seat = Seat { connections: Arc::clone(self), address, outbox };
        match displaced {
            Some(displaced) => {
                displaced.give_up();
                Entry::Displaced(seat)
            }
            None => Entry::Free(seat),
        }
    }

    /// Takes the place of a connection for one more of `newcomer`; answers whose place it was.
    fn displace(
        &self,
        hosts: &mut HashMap<Address, Host>,
        (newcomer, ip): (Address, IpAddr),
        is_here: bool,
    ) -> Option<Arc<Outbox>> {
        let now = Instant::now();
        let weight = |address: Address, host: &mut Host| {
            let count = host.outboxes.len() + usize::from(address == newcomer);
            let latest = if address == newcomer { ip } else { host.ip };
            if host.is_known(now, latest, |ip| self.knows(ip)) { count } else { count * CREDIT }
        };
        let weights = hosts.iter_mut().map(|(address, host)| (weight(*address, host), *address));
        let weights: Vec<_> = weights.collect();
        let most = weights.iter().map(|(weight, _)| *weight).max()?;
        let own =
            weights.iter().find(|(_, address)| *address == newcomer).map_or(0, |(own, _)| *own);
        let greediest = weights.iter().filter(|(weight, _)| *weight == most);
        // Of those that have most, the one that has been quiet the longest.
        let (quiet_since, address) = greediest
            .filter_map(|(_, address)| Some((hosts.get(address)?.quietest()?.0, *address)))
            .min_by_key(|(since, _)| *since)?;
        let is_in_use = now.saturating_duration_since(quiet_since) < UNUSED;
        if own == most && is_in_use && !is_here {
            return None;
        }
        let host = hosts.get_mut(&address)?;
        let (_, place) = host.quietest()?;
        let displaced = host.outboxes.swap_remove(place);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Some(displaced)
    }

    fn knows(&self, ip: IpAddr) -> bool {
        self.knows.get().is_some_and(|knows| knows(ip))
    }

    /// Forgets addresses that have no connections and hold nothing any more, and looks at what
    /// peers have taken of their replies. If an address waits for memory of which others hold much
    /// more, slow connections of those [give way](giving_way). To be called every second.
    pub fn sweep(&self) {
        self.sweep_at(Instant::now());
    }

    fn sweep_at(&self, now: Instant) {
        let mut hosts = self.hosts();
        hosts.retain(|_, host| host.is_used());
        let outboxes = hosts.values().flat_map(|host| &host.outboxes);
        let owed: Vec<_> = outboxes.filter(|outbox| outbox.is_owed()).cloned().collect();
        drop(hosts); // new connections need it
        owed.iter().for_each(|outbox| outbox.look(now));
        self.relieve(now);
    }

    fn relieve(&self, now: Instant) {
        let hosts = self.hosts();
        let waiting = hosts.values().filter(|host| host.peer.is_waiting());
        let waiting: Vec<_> = waiting.map(|host| host.peer.held()).collect();
        if waiting.is_empty() {
            return;
        }
        let holder = |host: &Host| Holder::new(host.peer.held(), &host.outboxes);
        let holders = hosts.values().map(holder).collect();
        drop(hosts);
        giving_way(holders, &waiting, now).iter().for_each(|outbox| outbox.give_up());
    }

    fn leave(&self, address: Address, outbox: &Arc<Outbox>) {
        let mut hosts = self.hosts();
        let Some(host) = hosts.get_mut(&address) else { return };
        // It is not there if it was displaced.
        if let Some(place) = host.outboxes.iter().position(|open| Arc::ptr_eq(open, outbox)) {
            drop(host.outboxes.swap_remove(place));
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<Address, Host>> {
        self.hosts.lock()
    }
}

impl Host {
    const fn new(peer: Arc<Peer>, ip: IpAddr) -> Self {
        Self { peer, ip, outboxes: Vec::new(), known: None }
    }

    /// Notes that `ip` makes a connection. A neighbour does not take the place of one that is
    /// known.
    const fn came_from(&mut self, ip: IpAddr) {
        if !matches!(self.known, Some((true, _))) {
            self.ip = ip;
        }
    }

    /// Whether it has connections, or its last ones still hold memory.
    fn is_used(&self) -> bool {
        !self.outboxes.is_empty() || Arc::strong_count(&self.peer) > 1
    }

    /// Whether its own IP address, or the `latest` one, is known.
    fn is_known(&mut self, now: Instant, latest: IpAddr, ask: impl Fn(IpAddr) -> bool) -> bool {
        match self.known {
            Some((known, asked)) if now.saturating_duration_since(asked) < REMEMBERED => known,
            _ => {
                let known = [self.ip, latest].into_iter().find(|ip| ask(*ip));
                self.ip = known.unwrap_or(latest);
                self.known.insert((known.is_some(), now)).0
            }
        }
    }

    /// Until when the connection that has been quiet the longest has kept up, and its place.
    fn quietest(&self) -> Option<(Instant, usize)> {
        let quiet_since =
            |(place, outbox): (usize, &Arc<Outbox>)| (outbox.progress().until(), place);
        self.outboxes.iter().enumerate().map(quiet_since).min()
    }
}

impl Seat {
    /// The connection.
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.leave(self.address, &self.outbox);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::transport::buffers::Buffers;
    use crate::rpc::transport::memory_budget::MINIMUM;
    use std::net::SocketAddr;
    use tokio::net::{TcpListener, TcpStream};

    const LIMIT: usize = 8;

    /// A server with few places; the outboxes of its connections are of sockets that lead nowhere.
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
            connections.set_knows(Box::new(knows));
            let (buffers, socket) =
                (Arc::new(Buffers::new(budget)), listener.local_addr().unwrap());
            Self { connections, buffers, socket, _listener: listener }
        }

        async fn enter(&self, ip: &str) -> Entry {
            let stream = TcpStream::connect(self.socket).await.unwrap();
            let peer = SocketAddr::new(ip.parse().unwrap(), 1);
            let origin = Origin { peer, local: "10.9.9.9:2049".parse().unwrap() };
            self.connections
                .enter(origin, |peer| Outbox::new(stream, Arc::clone(&self.buffers), peer))
        }

        /// Enters without displacing anybody.
        async fn free(&self, ip: &str) -> Seat {
            match self.enter(ip).await {
                Entry::Free(seat) => seat,
                Entry::Displaced(_) | Entry::Refused => panic!("{ip} found no free place"),
            }
        }

        async fn displaces(&self, ip: &str) -> Seat {
            match self.enter(ip).await {
                Entry::Displaced(seat) => seat,
                Entry::Free(_) | Entry::Refused => panic!("{ip} displaced nobody"),
            }
        }

        async fn is_refused(&self, ip: &str) -> bool {
            matches!(self.enter(ip).await, Entry::Refused)
        }
    }

    fn gone(seats: &[Seat]) -> Vec<usize> {
        let gone = seats.iter().enumerate().filter(|(_, seat)| seat.outbox().is_broken());
        gone.map(|(number, _)| number).collect()
    }

    #[tokio::test]
    async fn the_quietest_of_the_greediest_gives_way() {
        let places = Places::new(|_| false).await;
        let mut seats = Vec::new();
        for _ in 0..LIMIT - 2 {
            seats.push(places.free("10.0.0.1").await);
        }
        let others = [places.free("10.0.0.2").await, places.free("10.0.0.3").await];
        let later = Instant::now() + Duration::from_secs(5);
        seats
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != 4)
            .for_each(|(_, s)| s.outbox().called(later));
        let third = places.displaces("10.0.0.4").await;
        assert_eq!(gone(&seats), [4]);
        assert_eq!(places.connections.count(), LIMIT);
        // A place that was taken is not given back twice.
        drop(seats.remove(4));
        assert_eq!(places.connections.count(), LIMIT);
        assert!(gone(&others).is_empty() && !third.outbox().is_broken());
        drop((seats, others, third));
        assert_eq!(places.connections.count(), 0);
        places.connections.sweep();
        assert!(places.connections.hosts().is_empty());
    }

    #[tokio::test]
    async fn the_greediest_itself_waits_while_its_connections_are_in_use() {
        let places = Places::new(|_| false).await;
        let mut seats = Vec::new();
        for _ in 0..LIMIT {
            seats.push(places.free("10.0.0.1").await);
        }
        let later = Instant::now() + Duration::from_secs(5);
        seats.iter().for_each(|seat| seat.outbox().called(later));
        assert!(places.is_refused("10.0.0.1").await);
        assert!(gone(&seats).is_empty());
        assert_eq!(places.connections.count(), LIMIT);
        // Others are let in, and so is a health check of this machine.
        let _other = places.displaces("10.0.0.2").await;
        let _health = places.displaces("127.0.0.1").await;
        let _address = places.displaces("10.9.9.9").await;
        assert_eq!(gone(&seats).len(), 3);
    }

    #[tokio::test]
    async fn many_unknown_addresses_give_way_to_known_ones() {
        let places = Places::new(|ip| ip.to_string().starts_with("10.1.")).await;
        let known = [places.free("10.1.0.1").await, places.free("10.1.0.1").await];
        let mut seats = Vec::new();
        for n in 2..LIMIT {
            seats.push(places.free(&format!("10.0.0.{n}")).await);
        }
        let _next = places.displaces("10.1.0.2").await;
        assert_eq!(gone(&seats).len(), 1);
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
        let mut seats = Vec::new();
        for n in 0..LIMIT - known.len() {
            seats.push(places.free(&format!("10.0.0.{n}")).await);
        }
        let _next = places.displaces("10.1.0.1").await;
        // A neighbour comes, and what was asked is too old.
        seats.push(places.displaces("2001:db8::6").await);
        places.connections.hosts().values_mut().for_each(|host| {
            host.known = host.known.map(|(known, _)| (known, Instant::now() - REMEMBERED));
        });
        let _last = places.displaces("10.1.0.2").await;
        assert!(gone(&known).is_empty(), "{:?}", gone(&known));
        assert_eq!(gone(&seats).len(), 3);
    }

    /// Records that connections of `10.0.0.1` hold, while `10.0.0.2` waits for memory.
    async fn pressed(records: usize) -> (Places, Vec<Seat>, Seat) {
        let places = Places::new(|_| false).await;
        let mut seats = Vec::new();
        for _ in 0..records {
            seats.push(places.free("10.0.0.1").await);
            seats.last().unwrap().outbox().account.take(MINIMUM / records);
        }
        let newcomer = places.free("10.0.0.2").await;
        assert!(!newcomer.outbox().account.admit(MINIMUM / 4));
        (places, seats, newcomer)
    }

    /// Which connections gave way after so many seconds, in which they received so many bytes each
    /// second.
    fn pass(places: &Places, seats: &[Seat], seconds: u64, rates: &[u64]) -> Vec<usize> {
        let start = Instant::now();
        for second in 1..=seconds {
            let now = start + Duration::from_secs(second);
            let moved = seats.iter().zip(rates);
            moved.for_each(|(seat, bytes)| seat.outbox().progress().moved(*bytes, now));
            places.connections.sweep_at(now);
        }
        gone(seats)
    }

    const RATE: u64 = 8 * 1024;

    #[tokio::test]
    async fn a_slow_record_that_keeps_up_is_not_cut_off_however_many_wait() {
        let (places, seats, _newcomer) = pressed(1).await;
        assert!(pass(&places, &seats, 120, &[RATE]).is_empty());
        assert_eq!(pass(&places, &seats, 140, &[0]), [0], "and one that stops gives way");
    }

    #[tokio::test]
    async fn who_falls_behind_gives_way_to_who_waits() {
        let (places, seats, _newcomer) = pressed(1).await;
        assert!(pass(&places, &seats, 4, &[0]).is_empty(), "not at once");
        assert_eq!(pass(&places, &seats, 20, &[RATE / 4]), [0]);
    }

    #[tokio::test]
    async fn who_falls_behind_gives_way_before_who_keeps_up() {
        let (places, seats, newcomer) = pressed(3).await;
        assert_eq!(pass(&places, &seats, 5, &[RATE, 0, RATE]), [1]);
        // Of those that keep up, one stays.
        assert_eq!(pass(&places, &seats, 60, &[RATE, 0, RATE]).len(), 2);
        assert!(!newcomer.outbox().is_broken());
    }

    #[tokio::test]
    async fn many_records_at_the_minimum_rate_are_cut_down_to_one() {
        let (places, seats, _newcomer) = pressed(4).await;
        assert_eq!(pass(&places, &seats, 60, &[RATE; 4]).len(), 3);
    }

    #[tokio::test]
    async fn who_gets_calls_done_is_not_slow() {
        let (places, seats, _newcomer) = pressed(2).await;
        let later = Instant::now() + Duration::from_secs(60);
        seats.iter().for_each(|seat| seat.outbox().called(later));
        assert!(pass(&places, &seats, 60, &[0, 0]).is_empty());
    }

    #[tokio::test]
    async fn who_has_less_gives_way_where_who_has_most_is_not_slow() {
        let (places, mut seats, _newcomer) = pressed(2).await;
        seats.iter().for_each(|seat| {
            seat.outbox().account.give(MINIMUM / 4);
            seat.outbox().called(Instant::now() + Duration::from_secs(60));
        });
        seats.push(places.free("10.0.0.3").await);
        seats[2].outbox().account.take(MINIMUM / 4);
        assert_eq!(pass(&places, &seats, 7, &[0; 3]), [2]);
    }
}
