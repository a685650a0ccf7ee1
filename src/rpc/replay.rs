//! The reply cache (duplicate request cache): a retransmitted call gets the reply of the first.
//!
//! A client that lost its connection sends its outstanding calls again. A REMOVE that ran twice
//! would report that the file does not exist. Such calls have an entry in the cache:
//!
//! ```text
//!   unknown --begin--> running --finish--> answered --age, or too many--> unknown
//!                        |  ^
//!                        '--' begin: the copy waits, and gets its reply from finish
//! ```
//!
//! A copy of a running call must wait and not be dropped: if the connection of the first broke, its
//! reply can no longer be sent. The key has the client's address without the port, because a client
//! reconnects from another port. The checksum covers the whole request with its credentials,
//! because clients behind one address may use the same xid.
//!
//! Pure: no clock, no sockets. Bounds: the bytes of all replies, [`REPLIES`] for each client,
//! [`CLIENTS`], [`WAITERS`] for each call, and the size of a reply ([`REPLY_MAX`]). The oldest
//! reply of the client that uses most bytes is dropped first. A running call is never dropped.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::address::Address;

/// Most replies that are kept for one client: as many calls as a client has outstanding, on all its
/// connections.
const REPLIES: usize = 1024;

/// Most clients in one cache. A new one displaces the one that was idle the longest.
const CLIENTS: usize = 64;

/// Largest reply that is kept, in bytes. Replies to calls that change something are a tenth of it.
const REPLY_MAX: usize = 4096;

/// Memory for a reply besides its own bytes: its key twice, and its share of the tables.
const OVERHEAD: usize = 160;

/// Most copies that wait for the reply to one call. Further ones get no reply.
const WAITERS: usize = 16;

/// How long a reply is kept. A client uses an xid again after 2^32 calls, but one that restarts may
/// choose the same by chance.
const AGE_MAX: Duration = Duration::from_secs(120);

/// Identifies a call. Two calls with the same key are copies of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// The client's address.
    pub client: IpAddr,
    /// The transaction id.
    pub xid: u32,
    /// The procedure.
    pub procedure: u32,
    /// A checksum of the whole request.
    pub checksum: u64,
}

/// The result of looking a call up.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// It is new. It must be carried out, and then be finished or abandoned.
    New,
    /// It is running. The waiter gets its reply.
    Running,
    /// It was carried out, with this reply.
    Answered(&'a [u8]),
}

/// The replies to the calls of some clients. `W` is a copy that waits for a reply.
#[derive(Debug)]
pub struct ReplyCache<W> {
    clients: HashMap<IpAddr, ClientCalls<W>>,
    /// Bytes of all replies, and their limit.
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct ClientCalls<W> {
    calls: HashMap<CallKey, CachedCall<W>>,
    /// The answered calls, oldest first, with the times of their replies.
    order: VecDeque<(CallKey, Instant)>,
    /// Bytes of the replies.
    bytes: usize,
    /// When the last call arrived.
    last: Instant,
}

#[derive(Debug)]
enum CachedCall<W> {
    Running(Vec<W>),
    Answered(Vec<u8>),
}

impl<W> ReplyCache<W> {
    /// Creates a cache for replies of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { clients: HashMap::new(), bytes: 0, bytes_max }
    }

    /// Looks up a call that arrives `now`, and marks a new one as running. Calls `waiter` only if
    /// the call is running.
    pub fn begin(&mut self, key: CallKey, now: Instant, waiter: impl FnOnce() -> W) -> Lookup<'_> {
        if !self.clients.contains_key(&key.client) {
            self.make_room();
        }
        let client = self.clients.entry(key.client).or_insert_with(|| ClientCalls::new(now));
        client.last = now;
        self.bytes -= client.expire(now);
        // Two lookups: the borrow checker does not see that the arm which returns a borrowed reply
        // does not reach the insertion.
        if let Some(CachedCall::Running(waiting)) = client.calls.get_mut(&key) {
            if waiting.len() < WAITERS {
                waiting.push(waiter());
            }
            return Lookup::Running;
        }
        match client.calls.entry(key) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(CachedCall::Running(Vec::new()));
                Lookup::New
            }
            std::collections::hash_map::Entry::Occupied(found) => match found.into_mut() {
                CachedCall::Answered(reply) => Lookup::Answered(reply),
                CachedCall::Running(_) => Lookup::Running,
            },
        }
    }

    /// Keeps the reply to a call that was new. Returns the copies that wait for it.
    pub fn finish(&mut self, key: CallKey, now: Instant, reply: &[u8]) -> Vec<W> {
        if reply.len() > REPLY_MAX {
            return self.abandon(key);
        }
        let Some(client) = self.clients.get_mut(&key.client) else { return Vec::new() };
        let answered = CachedCall::Answered(reply.to_vec());
        let bytes = answered.size();
        let before = client.calls.insert(key, answered);
        client.order.push_back((key, now));
        client.bytes += bytes;
        self.bytes += bytes;
        if client.order.len() > REPLIES {
            self.bytes -= client.forget_oldest();
        }
        self.keep_bound();
        match before {
            Some(CachedCall::Running(waiting)) => waiting,
            Some(CachedCall::Answered(_)) | None => Vec::new(),
        }
    }

    /// Drops replies of the clients that use most bytes until all are within the limit.
    fn keep_bound(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(most) = self.clients.values_mut().max_by_key(|client| client.bytes) else {
                return;
            };
            self.bytes -= most.forget_oldest();
        }
    }

    /// Returns the copies that wait for the reply to a running call.
    pub fn waiting(&self, key: CallKey) -> &[W] {
        let call = self.clients.get(&key.client).and_then(|client| client.calls.get(&key));
        match call {
            Some(CachedCall::Running(waiting)) => waiting,
            Some(CachedCall::Answered(_)) | None => &[],
        }
    }

    /// Forgets a call that was new. Returns the copies that wait for its reply.
    pub fn abandon(&mut self, key: CallKey) -> Vec<W> {
        let client = self.clients.get_mut(&key.client);
        match client.and_then(|client| client.calls.remove(&key)) {
            Some(CachedCall::Running(waiting)) => waiting,
            Some(CachedCall::Answered(_)) | None => Vec::new(),
        }
    }

    /// Forgets a client if there are [`CLIENTS`]: the one that was idle the longest, of the network
    /// with most clients, because an IPv6 host may have any number of addresses. A client with
    /// running calls stays: copies of these calls must find them.
    fn make_room(&mut self) {
        if self.clients.len() < CLIENTS {
            return;
        }
        let mut counts: HashMap<Address, usize> = HashMap::new();
        self.clients.keys().for_each(|ip| *counts.entry(Address::of(*ip)).or_default() += 1);
        let idle = self.clients.iter().filter(|(_, client)| client.is_idle());
        let rank = |ip: &IpAddr| Reverse(counts.get(&Address::of(*ip)).copied());
        if let Some(oldest) =
            idle.min_by_key(|(ip, client)| (rank(ip), client.last)).map(|(ip, _)| *ip)
            && let Some(gone) = self.clients.remove(&oldest)
        {
            self.bytes -= gone.bytes;
        }
    }
}

impl<W> CachedCall<W> {
    /// Returns the memory for the reply, in bytes.
    fn size(&self) -> usize {
        match self {
            Self::Running(_) => 0,
            Self::Answered(reply) => OVERHEAD + reply.len(),
        }
    }
}

impl<W> ClientCalls<W> {
    fn new(now: Instant) -> Self {
        Self { calls: HashMap::new(), order: VecDeque::new(), bytes: 0, last: now }
    }

    fn is_idle(&self) -> bool {
        self.calls.len() == self.order.len()
    }

    /// Drops replies that are too old. Returns how many bytes that freed.
    fn expire(&mut self, now: Instant) -> usize {
        let before = self.bytes;
        while self.order.front().is_some_and(|(_, at)| now.duration_since(*at) > AGE_MAX) {
            self.forget_oldest();
        }
        before - self.bytes
    }

    /// Drops the oldest reply. Returns how many bytes that freed.
    fn forget_oldest(&mut self) -> usize {
        let gone = self.order.pop_front().and_then(|(key, _)| self.calls.remove(&key));
        let bytes = gone.map_or(0, |state| state.size());
        self.bytes -= bytes;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: usize = 64 << 20;

    fn key(client: u8, xid: u32) -> CallKey {
        CallKey { client: IpAddr::from([10, 0, 0, client]), xid, procedure: 8, checksum: 1 }
    }

    #[test]
    fn a_repeated_call_gets_the_first_reply() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        assert_eq!(cache.begin(key(1, 5), now, || 0), Lookup::New);
        assert_eq!(cache.finish(key(1, 5), now, b"reply"), [0; 0]);
        assert_eq!(cache.begin(key(1, 5), now, || 1), Lookup::Answered(b"reply"));
    }

    #[test]
    fn a_copy_of_a_running_call_waits_for_its_reply() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        assert_eq!(cache.begin(key(1, 5), now, || 0), Lookup::New);
        assert_eq!(cache.begin(key(1, 5), now, || 7), Lookup::Running);
        assert_eq!(cache.begin(key(1, 5), now, || 8), Lookup::Running);
        assert_eq!(cache.finish(key(1, 5), now, b"reply"), [7, 8]);
    }

    #[test]
    fn another_client_request_or_procedure_is_another_call() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        cache.begin(key(1, 5), now, || 0);
        cache.finish(key(1, 5), now, b"reply");
        let other = [
            key(2, 5),
            key(1, 6),
            CallKey { checksum: 2, ..key(1, 5) },
            CallKey { procedure: 9, ..key(1, 5) },
        ];
        for key in other {
            assert_eq!(cache.begin(key, now, || 0), Lookup::New, "{key:?}");
        }
    }

    #[test]
    fn an_old_reply_is_dropped() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        cache.begin(key(1, 5), now, || 0);
        cache.finish(key(1, 5), now, b"reply");
        assert_eq!(cache.begin(key(1, 5), now + AGE_MAX * 2, || 0), Lookup::New);
    }

    #[test]
    fn an_abandoned_call_is_new_again() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        cache.begin(key(1, 5), now, || 0);
        cache.begin(key(1, 5), now, || 3);
        assert_eq!(cache.abandon(key(1, 5)), [3]);
        assert_eq!(cache.begin(key(1, 5), now, || 0), Lookup::New);
    }

    #[test]
    fn an_idle_client_makes_room_and_a_busy_one_does_not() {
        let (mut cache, start) = (ReplyCache::new(BYTES), Instant::now());
        for n in 0..=u8::try_from(CLIENTS).unwrap() {
            let now = start + Duration::from_millis(n.into());
            cache.begin(key(n, 1), now, || 0);
            if n > 0 {
                cache.finish(key(n, 1), now, b"reply");
            }
        }
        assert_eq!(cache.clients.len(), CLIENTS);
        assert_eq!(cache.begin(key(0, 1), start, || 0), Lookup::Running, "it was running");
        assert_eq!(cache.begin(key(2, 1), start, || 0), Lookup::Answered(b"reply"));
        assert_eq!(cache.begin(key(1, 1), start, || 0), Lookup::New, "it was idle the longest");
    }

    #[test]
    fn the_client_that_uses_most_bytes_loses_its_oldest_replies() {
        let (mut cache, now) = (ReplyCache::new(20 * (OVERHEAD + 100)), Instant::now());
        let mut call = |client, xid| {
            cache.begin(key(client, xid), now, || 0);
            cache.finish(key(client, xid), now, &[7; 100]);
            assert!(cache.bytes <= cache.bytes_max);
        };
        (0..5).for_each(|xid| call(1, xid));
        (0..500).for_each(|xid| call(2, xid));
        let is_kept = |seen: Lookup<'_>| matches!(seen, Lookup::Answered(_));
        assert!((0..5).all(|xid| is_kept(cache.begin(key(1, xid), now, || 0))));
        assert!(is_kept(cache.begin(key(2, 499), now, || 0)));
        assert!(!is_kept(cache.begin(key(2, 400), now, || 0)));
        let later = now + AGE_MAX * 2;
        for client in [1, 2] {
            assert_eq!(cache.begin(key(client, 1000), later, || 0), Lookup::New);
        }
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn copies_that_wait_are_bounded() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        for n in 0..1000 {
            cache.begin(key(1, 5), now, || n);
        }
        assert_eq!(cache.finish(key(1, 5), now, b"reply").len(), WAITERS);
    }

    #[test]
    fn a_network_of_many_clients_displaces_its_own() {
        let (mut cache, now) = (ReplyCache::new(BYTES), Instant::now());
        let of = |ip: String| CallKey { client: ip.parse().unwrap(), ..key(1, 5) };
        let other = of("fd01::1".into());
        let mut call = |key, at| {
            cache.begin(key, at, || 0);
            cache.finish(key, at, b"reply");
        };
        call(other, now);
        (0..1000).for_each(|n| call(of(format!("fd00::{n:x}")), now + Duration::from_millis(n)));
        assert_eq!(cache.begin(other, now, || 0), Lookup::Answered(b"reply"));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin(u32),
        Finish(u32),
        Abandon(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u32..2000).prop_map(Step::Begin),
            (0u32..2000).prop_map(Step::Finish),
            (0u32..2000).prop_map(Step::Abandon),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Compares with a model that never forgets. With so few steps, the cache does not either.
        #[test]
        fn it_behaves_as_the_model(steps in steps()) {
            let (mut cache, now) = (ReplyCache::<u32>::new(BYTES), Instant::now());
            let mut running: HashMap<u32, u32> = HashMap::new();
            let mut answered: HashMap<u32, Vec<u8>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Begin(xid) => {
                        let xid = xid % 20;
                        let seen = cache.begin(key(1, xid), now, || 0);
                        if let Some(reply) = answered.get(&xid) {
                            prop_assert_eq!(seen, Lookup::Answered(reply));
                        } else if let Some(waiting) = running.get_mut(&xid) {
                            *waiting += 1;
                            prop_assert_eq!(seen, Lookup::Running);
                        } else {
                            running.insert(xid, 0);
                            prop_assert_eq!(seen, Lookup::New);
                        }
                    }
                    Step::Finish(xid) | Step::Abandon(xid) => {
                        let xid = xid % 20;
                        let Some(waiting) = running.remove(&xid) else { continue };
                        let woken = if let Step::Finish(_) = step {
                            answered.insert(xid, xid.to_be_bytes().to_vec());
                            cache.finish(key(1, xid), now, &xid.to_be_bytes())
                        } else {
                            cache.abandon(key(1, xid))
                        };
                        prop_assert_eq!(woken.len(), waiting as usize);
                    }
                }
            }
        }

        #[test]
        fn replies_are_bounded(extra in 1u32..3000) {
            let (mut cache, now) = (ReplyCache::<()>::new(BYTES), Instant::now());
            for xid in 0..extra + 1000 {
                cache.begin(key(1, xid), now, || ());
                cache.finish(key(1, xid), now, b"reply");
            }
            let client = &cache.clients[&key(1, 0).client];
            prop_assert!(client.calls.len() <= REPLIES);
            prop_assert_eq!(client.calls.len(), client.order.len());
        }
    }
}
