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
//! Pure: no clock, no sockets. Bounds: [`ANSWERS`] for each client, [`CLIENTS`], and the size of
//! an answer ([`ANSWER_MAX`]); the oldest answer goes first, and a running call never.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Answers that are kept for one client. More than a client has outstanding, on all its
/// connections, is of no use to it.
const ANSWERS: usize = 1024;

/// Clients in one cache; the one that was quiet the longest is forgotten for a new one.
const CLIENTS: usize = 64;

/// Larger answers are not kept; those of the calls that change something are a tenth of it.
const ANSWER_MAX: usize = 4096;

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
}

#[derive(Debug)]
struct Client<W> {
    calls: HashMap<Key, State<W>>,
    /// The answered calls, oldest first, with the time of their answers.
    order: VecDeque<(Key, Instant)>,
    last: Instant,
}

#[derive(Debug)]
enum State<W> {
    Running(Vec<W>),
    Answered(Vec<u8>),
}

impl<W> Default for Replay<W> {
    fn default() -> Self {
        Self { clients: HashMap::new() }
    }
}

impl<W> Replay<W> {
    /// Looks a call up that arrives `now`, and marks a new one as running. `waiter` is asked for
    /// only if the call is running.
    pub fn begin(&mut self, key: Key, now: Instant, waiter: impl FnOnce() -> W) -> Seen<'_> {
        if !self.clients.contains_key(&key.client) {
            self.make_room();
        }
        let client = self.clients.entry(key.client).or_insert_with(|| Client::new(now));
        client.last = now;
        client.expire(now);
        // Two look-ups rather than one: the borrow checker cannot see that the answered arm,
        // which returns what it borrowed, does not reach the insertion.
        if let Some(State::Running(waiting)) = client.calls.get_mut(&key) {
            waiting.push(waiter());
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
        let before = client.calls.insert(key, State::Answered(answer.to_vec()));
        client.order.push_back((key, now));
        if client.order.len() > ANSWERS {
            client.forget_oldest();
        }
        match before {
            Some(State::Running(waiting)) => waiting,
            Some(State::Answered(_)) | None => Vec::new(),
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

    /// Forgets the client that was quiet the longest, if there are as many as may be. One with
    /// running calls stays: its copies must find them.
    fn make_room(&mut self) {
        if self.clients.len() < CLIENTS {
            return;
        }
        let idle = self.clients.iter().filter(|(_, client)| client.is_idle());
        if let Some(oldest) = idle.min_by_key(|(_, client)| client.last).map(|(ip, _)| *ip) {
            self.clients.remove(&oldest);
        }
    }
}

impl<W> Client<W> {
    fn new(now: Instant) -> Self {
        Self { calls: HashMap::new(), order: VecDeque::new(), last: now }
    }

    fn is_idle(&self) -> bool {
        self.calls.len() == self.order.len()
    }

    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(_, at)| now.duration_since(*at) > AGE_MAX) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((key, _)) = self.order.pop_front() {
            self.calls.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(client: u8, xid: u32) -> Key {
        Key { client: IpAddr::from([10, 0, 0, client]), xid, procedure: 8, checksum: 1 }
    }

    #[test]
    fn a_repeated_call_gets_the_first_answer() {
        let (mut replay, now) = (Replay::default(), Instant::now());
        assert_eq!(replay.begin(key(1, 5), now, || 0), Seen::New);
        assert_eq!(replay.finish(key(1, 5), now, b"answer"), [0; 0]);
        assert_eq!(replay.begin(key(1, 5), now, || 1), Seen::Answered(b"answer"));
    }

    #[test]
    fn a_copy_of_a_running_call_waits_for_its_answer() {
        let (mut replay, now) = (Replay::default(), Instant::now());
        assert_eq!(replay.begin(key(1, 5), now, || 0), Seen::New);
        assert_eq!(replay.begin(key(1, 5), now, || 7), Seen::Running);
        assert_eq!(replay.begin(key(1, 5), now, || 8), Seen::Running);
        assert_eq!(replay.finish(key(1, 5), now, b"answer"), [7, 8]);
    }

    #[test]
    fn another_client_request_or_procedure_is_another_call() {
        let (mut replay, now) = (Replay::default(), Instant::now());
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
        let (mut replay, now) = (Replay::default(), Instant::now());
        replay.begin(key(1, 5), now, || 0);
        replay.finish(key(1, 5), now, b"answer");
        assert_eq!(replay.begin(key(1, 5), now + AGE_MAX * 2, || 0), Seen::New);
    }

    #[test]
    fn an_abandoned_call_is_new_again() {
        let (mut replay, now) = (Replay::default(), Instant::now());
        replay.begin(key(1, 5), now, || 0);
        replay.begin(key(1, 5), now, || 3);
        assert_eq!(replay.abandon(key(1, 5)), [3]);
        assert_eq!(replay.begin(key(1, 5), now, || 0), Seen::New);
    }

    #[test]
    fn a_quiet_client_makes_room_and_a_busy_one_does_not() {
        let (mut replay, start) = (Replay::default(), Instant::now());
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
            let (mut replay, now) = (Replay::<u32>::default(), Instant::now());
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
            let (mut replay, now) = (Replay::<()>::default(), Instant::now());
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
