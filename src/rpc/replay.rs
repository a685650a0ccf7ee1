//! The duplicate-request cache: a call that is repeated gets the answer of the first.
//!
//! A client that lost its connection sends its outstanding calls again. REMOVE carried out twice
//! would answer that the file is not there, so such calls are remembered:
//!
//! ```text
//!   unknown --begin--> running --finish--> answered --age, or too many--> unknown
//!                        |  ^
//!                        '--' begin: the copy waits, and is answered by finish
//! ```
//!
//! A copy of a running call must wait rather than be dropped: when its connection broke, the
//! first answer has nowhere to go. The address counts without the port, because a client
//! reconnects from another; the checksum is of the whole request with its credentials, because
//! clients behind one address may use the same xid.
//!
//! Pure: no clock, no sockets. Bounds: bytes for all, [`ANSWERS`] for each client, [`CLIENTS`],
//! [`WAITERS`] for each call, and the size of an answer ([`ANSWER_MAX`]). The oldest answer of the
//! client that has most goes first, and a running call never.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::address::Address;

/// Answers that are kept for one client. More than a client has outstanding, on all its
/// connections, is of no use to it.
const ANSWERS: usize = 1024;

/// Clients in one cache; the one that was quiet the longest is forgotten for a new one.
const CLIENTS: usize = 64;

/// Larger answers are not kept; those of the calls that change something are a tenth of it.
const ANSWER_MAX: usize = 4096;

/// What an answer takes besides its own bytes: twice its key, and its share of the tables.
const OVERHEAD: usize = 160;

/// Copies that wait for the answer of one call; further ones get none.
const WAITERS: usize = 16;

/// How long an answer is good for. An xid comes around again after 2^32 calls, but a client that
/// starts anew may pick the same by chance.
const AGE_MAX: Duration = Duration::from_secs(120);

/// What makes two calls the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The client.
    pub client: IpAddr,
    /// Its transaction.
    pub xid: u32,
    /// The procedure.
    pub procedure: u32,
    /// A checksum of the whole request.
    pub checksum: u64,
}

/// What is known of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// Nothing: it must be carried out, and finished or abandoned afterwards.
    New,
    /// It is being carried out; its answer will go to the one who waits, too.
    Running,
    /// It was carried out, with this answer.
    Answered(&'a [u8]),
}

/// The answers to the calls of some clients. `W` is who waits for an answer.
#[derive(Debug)]
pub struct Replay<W> {
    clients: HashMap<IpAddr, Client<W>>,
    /// Bytes of all answers, and how many there may be.
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Client<W> {
    calls: HashMap<Key, State<W>>,
    /// The answered calls, oldest first, with the time of their answers.
    order: VecDeque<(Key, Instant)>,
    /// Bytes of the answers.
    bytes: usize,
    last: Instant,
}

#[derive(Debug)]
enum State<W> {
    Running(Vec<W>),
    Answered(Vec<u8>),
}

impl<W> Replay<W> {
    /// With answers of at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { clients: HashMap::new(), bytes: 0, bytes_max }
    }

    /// Looks a call up that arrives `now`, and marks a new one as running. `waiter` is asked for
    /// only if the call is running.
    pub fn begin(&mut self, key: Key, now: Instant, waiter: impl FnOnce() -> W) -> Seen<'_> {
        if !self.clients.contains_key(&key.client) {
            self.make_room();
        }
        let client = self.clients.entry(key.client).or_insert_with(|| Client::new(now));
        client.last = now;
        self.bytes -= client.expire(now);
        // Two look-ups rather than one: the borrow checker cannot see that the answered arm,
        // which returns what it borrowed, does not reach the insertion.
        if let Some(State::Running(waiting)) = client.calls.get_mut(&key) {
            if waiting.len() < WAITERS {
                waiting.push(waiter());
            }
            return Seen::Running;
        }
        match client.calls.entry(key) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(State::Running(Vec::new()));
                Seen::New
            }
            std::collections::hash_map::Entry::Occupied(found) => match found.into_mut() {
                State::Answered(answer) => Seen::Answered(answer),
                State::Running(_) => Seen::Running,
            },
        }
    }

    /// Keeps the answer of a call that was new; gives back those who wait for it.
    pub fn finish(&mut self, key: Key, now: Instant, answer: &[u8]) -> Vec<W> {
        if answer.len() > ANSWER_MAX {
            return self.abandon(key);
        }
        let Some(client) = self.clients.get_mut(&key.client) else { return Vec::new() };
        let answered = State::Answered(answer.to_vec());
        let bytes = answered.size();
        let before = client.calls.insert(key, answered);
        client.order.push_back((key, now));
        client.bytes += bytes;
        self.bytes += bytes;
        if client.order.len() > ANSWERS {
            self.bytes -= client.forget_oldest();
        }
        self.keep_bound();
        match before {
            Some(State::Running(waiting)) => waiting,
            Some(State::Answered(_)) | None => Vec::new(),
        }
    }

    /// Forgets answers of the clients that have most until all are within their bound.
    fn keep_bound(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(most) = self.clients.values_mut().max_by_key(|client| client.bytes) else {
                return;
            };
            self.bytes -= most.forget_oldest();
        }
    }

    /// Those who wait for the answer of a running call.
    pub fn waiting(&self, key: Key) -> &[W] {
        let call = self.clients.get(&key.client).and_then(|client| client.calls.get(&key));
        match call {
            Some(State::Running(waiting)) => waiting,
            Some(State::Answered(_)) | None => &[],
        }
    }

    /// Forgets a call that was new; gives back those who wait for its answer.
    pub fn abandon(&mut self, key: Key) -> Vec<W> {
        let client = self.clients.get_mut(&key.client);
        match client.and_then(|client| client.calls.remove(&key)) {
            Some(State::Running(waiting)) => waiting,
            Some(State::Answered(_)) | None => Vec::new(),
        }
    }

    /// Forgets a client, if there are as many as may be: of the address with most of them, which a
    /// host of IPv6 may have any number of, the one that was quiet the longest. One with running
    /// calls stays: its copies must find them.
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

impl<W> State<W> {
    /// What an answer takes, in bytes.
    fn size(&self) -> usize {
        match self {
            Self::Running(_) => 0,
            Self::Answered(answer) => OVERHEAD + answer.len(),
        }
    }
}

impl<W> Client<W> {
    fn new(now: Instant) -> Self {
        Self { calls: HashMap::new(), order: VecDeque::new(), bytes: 0, last: now }
    }

    fn is_idle(&self) -> bool {
        self.calls.len() == self.order.len()
    }

    /// Forgets answers that are too old; answers how many bytes that gave back.
    fn expire(&mut self, now: Instant) -> usize {
        let before = self.bytes;
        while self.order.front().is_some_and(|(_, at)| now.duration_since(*at) > AGE_MAX) {
            self.forget_oldest();
        }
        before - self.bytes
    }

    /// Forgets the oldest answer; answers how many bytes that gave back.
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

    fn key(client: u8, xid: u32) -> Key {
        Key { client: IpAddr::from([10, 0, 0, client]), xid, procedure: 8, checksum: 1 }
    }

    #[test]
    fn a_repeated_call_gets_the_first_answer() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        assert_eq!(replay.begin(key(1, 5), now, || 0), Seen::New);
        assert_eq!(replay.finish(key(1, 5), now, b"answer"), [0; 0]);
        assert_eq!(replay.begin(key(1, 5), now, || 1), Seen::Answered(b"answer"));
    }

    #[test]
    fn a_copy_of_a_running_call_waits_for_its_answer() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        assert_eq!(replay.begin(key(1, 5), now, || 0), Seen::New);
        assert_eq!(replay.begin(key(1, 5), now, || 7), Seen::Running);
        assert_eq!(replay.begin(key(1, 5), now, || 8), Seen::Running);
        assert_eq!(replay.finish(key(1, 5), now, b"answer"), [7, 8]);
    }

    #[test]
    fn another_client_request_or_procedure_is_another_call() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        replay.begin(key(1, 5), now, || 0);
        replay.finish(key(1, 5), now, b"answer");
        let other = [
            key(2, 5),
            key(1, 6),
            Key { checksum: 2, ..key(1, 5) },
            Key { procedure: 9, ..key(1, 5) },
        ];
        for key in other {
            assert_eq!(replay.begin(key, now, || 0), Seen::New, "{key:?}");
        }
    }

    #[test]
    fn an_old_answer_is_no_answer() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        replay.begin(key(1, 5), now, || 0);
        replay.finish(key(1, 5), now, b"answer");
        assert_eq!(replay.begin(key(1, 5), now + AGE_MAX * 2, || 0), Seen::New);
    }

    #[test]
    fn an_abandoned_call_is_new_again() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        replay.begin(key(1, 5), now, || 0);
        replay.begin(key(1, 5), now, || 3);
        assert_eq!(replay.abandon(key(1, 5)), [3]);
        assert_eq!(replay.begin(key(1, 5), now, || 0), Seen::New);
    }

    #[test]
    fn a_quiet_client_makes_room_and_a_busy_one_does_not() {
        let (mut replay, start) = (Replay::new(BYTES), Instant::now());
        for n in 0..=u8::try_from(CLIENTS).unwrap() {
            let now = start + Duration::from_millis(n.into());
            replay.begin(key(n, 1), now, || 0);
            if n > 0 {
                replay.finish(key(n, 1), now, b"answer");
            }
        }
        assert_eq!(replay.clients.len(), CLIENTS);
        assert_eq!(replay.begin(key(0, 1), start, || 0), Seen::Running, "it was running");
        assert_eq!(replay.begin(key(2, 1), start, || 0), Seen::Answered(b"answer"));
        assert_eq!(replay.begin(key(1, 1), start, || 0), Seen::New, "it was the quietest");
    }

    #[test]
    fn the_client_that_has_most_loses_its_oldest_answers() {
        let (mut replay, now) = (Replay::new(20 * (OVERHEAD + 100)), Instant::now());
        let mut call = |client, xid| {
            replay.begin(key(client, xid), now, || 0);
            replay.finish(key(client, xid), now, &[7; 100]);
            assert!(replay.bytes <= replay.bytes_max);
        };
        (0..5).for_each(|xid| call(1, xid));
        (0..500).for_each(|xid| call(2, xid));
        let is_kept = |seen: Seen<'_>| matches!(seen, Seen::Answered(_));
        assert!((0..5).all(|xid| is_kept(replay.begin(key(1, xid), now, || 0))));
        assert!(is_kept(replay.begin(key(2, 499), now, || 0)));
        assert!(!is_kept(replay.begin(key(2, 400), now, || 0)));
        let later = now + AGE_MAX * 2;
        for client in [1, 2] {
            assert_eq!(replay.begin(key(client, 1000), later, || 0), Seen::New);
        }
        assert_eq!(replay.bytes, 0);
    }

    #[test]
    fn copies_that_wait_are_bounded() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        for n in 0..1000 {
            replay.begin(key(1, 5), now, || n);
        }
        assert_eq!(replay.finish(key(1, 5), now, b"answer").len(), WAITERS);
    }

    #[test]
    fn an_address_of_many_clients_forgets_its_own() {
        let (mut replay, now) = (Replay::new(BYTES), Instant::now());
        let of = |ip: String| Key { client: ip.parse().unwrap(), ..key(1, 5) };
        let other = of("fd01::1".into());
        let mut call = |key, at| {
            replay.begin(key, at, || 0);
            replay.finish(key, at, b"answer");
        };
        call(other, now);
        (0..1000).for_each(|n| call(of(format!("fd00::{n:x}")), now + Duration::from_millis(n)));
        assert_eq!(replay.begin(other, now, || 0), Seen::Answered(b"answer"));
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
        /// Against a model that never forgets; few enough steps that the cache does not either.
        #[test]
        fn it_behaves_as_the_picture_says(steps in steps()) {
            let (mut replay, now) = (Replay::<u32>::new(BYTES), Instant::now());
            let mut running: HashMap<u32, u32> = HashMap::new();
            let mut answered: HashMap<u32, Vec<u8>> = HashMap::new();
            for step in steps {
                match step {
                    Step::Begin(xid) => {
                        let xid = xid % 20;
                        let seen = replay.begin(key(1, xid), now, || 0);
                        if let Some(answer) = answered.get(&xid) {
                            prop_assert_eq!(seen, Seen::Answered(answer));
                        } else if let Some(waiting) = running.get_mut(&xid) {
                            *waiting += 1;
                            prop_assert_eq!(seen, Seen::Running);
                        } else {
                            running.insert(xid, 0);
                            prop_assert_eq!(seen, Seen::New);
                        }
                    }
                    Step::Finish(xid) | Step::Abandon(xid) => {
                        let xid = xid % 20;
                        let Some(waiting) = running.remove(&xid) else { continue };
                        let woken = if let Step::Finish(_) = step {
                            answered.insert(xid, xid.to_be_bytes().to_vec());
                            replay.finish(key(1, xid), now, &xid.to_be_bytes())
                        } else {
                            replay.abandon(key(1, xid))
                        };
                        prop_assert_eq!(woken.len(), waiting as usize);
                    }
                }
            }
        }

        #[test]
        fn answers_are_bounded(extra in 1u32..3000) {
            let (mut replay, now) = (Replay::<()>::new(BYTES), Instant::now());
            for xid in 0..extra + 1000 {
                replay.begin(key(1, xid), now, || ());
                replay.finish(key(1, xid), now, b"answer");
            }
            let client = &replay.clients[&key(1, 0).client];
            prop_assert!(client.calls.len() <= ANSWERS);
            prop_assert_eq!(client.calls.len(), client.order.len());
        }
    }
}
