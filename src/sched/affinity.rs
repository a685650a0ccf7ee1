//! Affinity: runs a data-plane thread on the processor that receives its packets, while that pays.
//!
//! The scheduler wakes a thread on an idle processor, if there is one. For a short call, waking
//! that processor and filling its cache costs more than the call. A thread whose packets all arrive
//! on one processor therefore moves there; a network card has an interrupt, and with it a
//! processor, for each connection.
//!
//! The thread does not move, or moves away again, when
//! - packets arrive on another processor, too,
//! - it runs so long each time that the wake-up does not matter: one processor should copy
//!   megabytes while another receives or sends,
//! - it has to wait there for other threads, or
//! - another data-plane thread is there.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sys::processor::{self, Account, Kept, Spent};

/// The socket is asked for its processor once in this many turns of the thread.
const SAMPLE: u32 = 4;

/// How many answers in a row must agree before the thread moves.
const AGREED: u32 = 16;

/// How long a thread that has moved may run and wait to run after each wake-up, to stay. Waking a
/// processor costs both sides some 25 us.
const STAYS: Duration = Duration::from_micros(200);

/// As [`STAYS`], for a thread that is to move; its cache is still elsewhere.
const GOES: Duration = Duration::from_micros(500);

/// How long a thread that moved away stays away: the first time, and at most.
const REST: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(64);

/// A claim to a processor ends if it is not renewed for this long.
const CLAIM: Duration = Duration::from_secs(1);

/// The processors to which data-plane threads have moved: the number of the thread, and when it
/// last renewed its claim.
pub type Claims = Arc<Mutex<HashMap<usize, (usize, Instant)>>>;

/// Moves one data-plane thread.
pub struct Follower {
    number: usize,
    claims: Claims,
    turns: u32,
    choice: Choice,
    account: Option<Account>,
    spent: Spent,
    kept: Option<Kept>,
}

impl Follower {
    /// Creates the follower of the thread with this number.
    pub fn new(number: usize, claims: Claims) -> Self {
        let (choice, spent) = (Choice::default(), Spent::default());
        Self { number, claims, turns: 0, choice, account: None, spent, kept: None }
    }

    /// Begins. This and the following methods must be called on the thread itself.
    pub fn begin(&mut self) {
        self.account = Account::of_this_thread().ok();
    }

    /// Notes that data arrived on `socket`, and moves the thread if that pays.
    pub fn note(&mut self, socket: impl AsFd) {
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(SAMPLE) {
            return;
        }
        let Ok(processor) = processor::of_packets(socket) else { return };
        let at = self.kept.as_ref().map(Kept::processor);
        match self.choice.next(processor, at) {
            Next::Look => self.look(processor),
            Next::Leave => self.leave(),
            Next::Stay => {}
        }
    }

    /// Decides whether to be on `processor`, where all recent packets arrived.
    fn look(&mut self, processor: usize) {
        let (busy, now) = (self.busy(), Instant::now());
        let is_there = self.kept.is_some();
        let pays = self.choice.pays(busy, is_there, now) && self.claim(processor, now);
        if is_there && !pays {
            self.leave();
        }
        if !is_there && pays {
            self.kept = Kept::on(processor).ok();
            if self.kept.is_none() {
                self.choice.rest(now); // it may not run there
            }
        }
    }

    /// Returns how long the thread ran and waited to run on average after each wake-up since the
    /// last call; `None` if the kernel does not tell.
    fn busy(&mut self) -> Option<Duration> {
        let now = self.account.as_ref()?.spent().ok()?;
        let before = std::mem::replace(&mut self.spent, now);
        let spent = (now.running + now.waiting).saturating_sub(before.running + before.waiting);
        Some(Duration::from_nanos(spent / now.times.saturating_sub(before.times).max(1)))
    }

    /// Claims a processor for this thread, or renews the claim. Returns false if another thread has
    /// it.
    fn claim(&self, processor: usize, now: Instant) -> bool {
        let mut claims = self.claims.lock();
        let (owner, said) = claims.entry(processor).or_insert((self.number, now));
        if *owner != self.number && now.saturating_duration_since(*said) < CLAIM {
            return false;
        }
        (*owner, *said) = (self.number, now);
        true
    }

    fn leave(&mut self) {
        let Some(kept) = self.kept.take() else { return };
        let mut claims = self.claims.lock();
        if claims.get(&kept.processor()).is_some_and(|(owner, _)| *owner == self.number) {
            claims.remove(&kept.processor());
        }
        drop(claims);
        kept.release();
    }
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Stays where it is.
    Stay,
    /// Checks whether being on that processor pays.
    Look,
    /// Moves away.
    Leave,
}

/// The decision, without system calls.
#[derive(Debug)]
struct Choice {
    /// The processor of the last packets, and how many in a row arrived there.
    seen: Option<(usize, u32)>,
    /// When the thread may move again, and how long it stays away the next time.
    away: Option<Instant>,
    rest: Duration,
}

impl Default for Choice {
    fn default() -> Self {
        Self { seen: None, away: None, rest: REST }
    }
}

impl Choice {
    /// A packet has come to `processor`; the thread is kept `at` one, or none.
    fn next(&mut self, processor: usize, at: Option<usize>) -> Next {
        let agreed = match self.seen {
            Some((seen, count)) if seen == processor => count + 1,
            _ => 1,
        };
        self.seen = Some((processor, agreed % AGREED));
        if at.is_some_and(|at| at != processor) {
            Next::Leave
        } else if agreed == AGREED {
            Next::Look
        } else {
            Next::Stay
        }
    }

    /// Whether being where packets come to pays for a thread that is so `busy` each time it wakes
    /// up.
    fn pays(&mut self, busy: Option<Duration>, is_there: bool, now: Instant) -> bool {
        let most = if is_there { STAYS } else { GOES };
        let pays = busy.is_some_and(|busy| busy <= most);
        if is_there && !pays {
            self.rest(now);
        } else if is_there && self.away.is_some_and(|away| now > away + self.rest) {
            self.rest = REST; // it has been good for long enough
        }
        pays && (is_there || self.away.is_none_or(|away| now >= away))
    }

    /// Has the thread stay away, longer every time.
    fn rest(&mut self, now: Instant) {
        self.away = Some(now + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Option<Duration> = Some(Duration::from_micros(10));

    /// What is decided for packets that come to these processors, one after the other.
    fn decided(choice: &mut Choice, packets: &[usize], at: Option<usize>) -> Vec<Next> {
        packets.iter().map(|processor| choice.next(*processor, at)).collect()
    }

    #[test]
    fn only_what_agrees_for_a_while_is_looked_at() {
        let (mut choice, agreed) = (Choice::default(), AGREED as usize);
        for _ in 0..3 {
            let next = decided(&mut choice, &vec![1; agreed], None);
            assert_eq!(next.iter().position(|next| *next == Next::Look), Some(agreed - 1));
        }
        let nearly = [vec![1; agreed - 1], vec![0]].concat().repeat(5);
        let next = decided(&mut choice, &nearly, None);
        assert!(next.iter().all(|next| *next == Next::Stay), "{next:?}");
    }

    #[test]
    fn one_packet_from_elsewhere_is_enough_to_leave() {
        let mut choice = Choice::default();
        assert_eq!(
            decided(&mut choice, &[3, 3, 1], Some(3)),
            [Next::Stay, Next::Stay, Next::Leave]
        );
    }

    #[test]
    fn who_is_busy_or_unknown_does_not_go() {
        let (mut choice, now) = (Choice::default(), Instant::now());
        assert!(choice.pays(QUICK, false, now));
        assert!(choice.pays(Some(GOES), false, now));
        assert!(!choice.pays(Some(GOES + STAYS), false, now));
        assert!(!choice.pays(None, false, now));
        assert!(choice.pays(QUICK, false, now), "not having gone is no reason to rest");
    }

    #[test]
    fn who_had_to_leave_rests_and_longer_each_time() {
        let (mut choice, mut now) = (Choice::default(), Instant::now());
        for doubled in 0..10 {
            assert!(!choice.pays(Some(GOES), true, now), "too much to stay");
            let rest = REST_MAX.min(REST * 2_u32.pow(doubled));
            assert!(!choice.pays(QUICK, false, now + rest - Duration::from_millis(1)));
            now += rest;
            assert!(choice.pays(QUICK, false, now));
        }
        // Once it has been there for long, all is forgotten.
        now += REST_MAX * 3;
        assert!(choice.pays(QUICK, true, now));
        assert!(!choice.pays(Some(GOES), true, now));
        assert!(choice.pays(QUICK, false, now + REST));
    }

    #[test]
    fn a_processor_has_one_thread_until_that_is_silent() {
        let claims = Claims::default();
        let [one, other] = [1, 2].map(|number| Follower::new(number, Arc::clone(&claims)));
        let now = Instant::now();
        assert!(one.claim(7, now) && one.claim(7, now + CLAIM / 2));
        assert!(!other.claim(7, now + CLAIM));
        assert!(other.claim(8, now));
        assert!(other.claim(7, now + CLAIM * 2));
        assert!(!one.claim(7, now + CLAIM * 2));
    }
}
