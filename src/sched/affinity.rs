//! Affinity: runs a data-plane thread on the processor that receives its packets, while that pays.
//!
//! The scheduler wakes a thread on an idle processor, if there is one. For a short call, waking
//! that processor and filling its cache costs more than the call. A thread whose packets all arrive
//! on one processor therefore moves there; a network card has an interrupt, and with it a
//! processor, for each connection.
//!
//! The thread does not move, or moves away again, if
//! - packets arrive on another processor as well,
//! - it runs so long after each wake-up that the wake-up does not matter: one processor should copy
//!   megabytes while another receives or sends,
//! - it has to wait for other threads there, or
//! - another data-plane thread is there.
//!
//! [`Affinity`] is the only entrance: the connections of a thread call [`Affinity::note`] after
//! each turn. [`MovePolicy`] decides, without system calls, by the constants below.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::sys::processor::{self, Kept, SchedStat, Spent};

/// The processor of a socket is queried once in this many turns of the thread.
const SAMPLE: u32 = 4;

/// How many queries in a row must agree before the thread moves.
const AGREED: u32 = 16;

/// The maximum time that a thread that has moved runs and waits to run after each wake-up, to stay.
/// Waking a processor costs both sides some 25 us.
const STAYS: Duration = Duration::from_micros(200);

/// As [`STAYS`], for a thread that has not moved, and whose cache is still elsewhere.
const GOES: Duration = Duration::from_micros(500);

/// How long a thread that moved away stays away the first time. The time doubles each time.
const REST: Duration = Duration::from_millis(100);

/// The maximum of [`REST`].
const REST_MAX: Duration = Duration::from_secs(64);

/// A claim to a processor ends if it is not renewed for this long.
const CLAIM: Duration = Duration::from_secs(1);

/// The processors to which data-plane threads have moved: the number of the thread, and when it
/// last renewed its claim.
pub type ProcessorClaims = Arc<Mutex<HashMap<usize, (usize, Instant)>>>;

/// The affinity of one data-plane thread.
pub struct Affinity {
    number: usize,
    claims: ProcessorClaims,
    turns: u32,
    policy: MovePolicy,
    stat: Option<SchedStat>,
    spent: Spent,
    kept: Option<Kept>,
}

impl Affinity {
    /// Creates the affinity of the thread with this number, which has not moved.
    pub fn new(number: usize, claims: ProcessorClaims) -> Self {
        let (policy, spent) = (MovePolicy::default(), Spent::default());
        Self { number, claims, turns: 0, policy, stat: None, spent, kept: None }
    }

    /// Begins. This and the following methods must be called on the thread itself.
    pub fn begin(&mut self) {
        self.stat = SchedStat::of_this_thread().ok();
    }

    /// Notes that data arrived on `socket`, and moves the thread if that pays.
    pub fn note(&mut self, socket: impl AsFd) {
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(SAMPLE) {
            return;
        }
        let Ok(processor) = processor::of_packets(socket) else { return };
        let at = self.kept.as_ref().map(Kept::processor);
        match self.policy.next(processor, at) {
            NextMove::Look => self.look(processor),
            NextMove::Leave => self.leave(),
            NextMove::Stay => {}
        }
    }

    /// Decides whether to be on `processor`, where all recent packets arrived.
    fn look(&mut self, processor: usize) {
        let (busy, now) = (self.busy(), Instant::now());
        let is_there = self.kept.is_some();
        let pays = self.policy.pays(busy, is_there, now) && self.claim(processor, now);
        if is_there && !pays {
            self.leave();
        }
        if !is_there && pays {
            self.kept = Kept::on(processor).ok();
            if self.kept.is_none() {
                self.policy.rest(now); // the thread is not allowed to run there
            }
        }
    }

    /// Returns how long the thread ran and waited to run on average after each wake-up since the
    /// last call; `None` if the kernel does not tell.
    fn busy(&mut self) -> Option<Duration> {
        let now = self.stat.as_ref()?.spent().ok()?;
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

/// What to do after a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextMove {
    /// Stays where it is.
    Stay,
    /// Checks whether being on that processor pays.
    Look,
    /// Moves away.
    Leave,
}

/// Decides when to move. Makes no system calls.
#[derive(Debug)]
struct MovePolicy {
    /// The processor of the last packets, and how many queries in a row returned it.
    seen: Option<(usize, u32)>,
    /// When the thread may move again, if it has moved away.
    away: Option<Instant>,
    /// How long it stays away the next time.
    rest: Duration,
}

impl Default for MovePolicy {
    fn default() -> Self {
        Self { seen: None, away: None, rest: REST }
    }
}

impl MovePolicy {
    /// Returns what to do after a packet arrived on `processor`. The thread has moved to `at`, if
    /// any.
    fn next(&mut self, processor: usize, at: Option<usize>) -> NextMove {
        let agreed = match self.seen {
            Some((seen, count)) if seen == processor => count + 1,
            _ => 1,
        };
        self.seen = Some((processor, agreed % AGREED));
        if at.is_some_and(|at| at != processor) {
            NextMove::Leave
        } else if agreed == AGREED {
            NextMove::Look
        } else {
            NextMove::Stay
        }
    }

    /// Whether it pays to be where packets arrive, for a thread that is so `busy` after each
    /// wake-up.
    fn pays(&mut self, busy: Option<Duration>, is_there: bool, now: Instant) -> bool {
        let most = if is_there { STAYS } else { GOES };
        let pays = busy.is_some_and(|busy| busy <= most);
        if is_there && !pays {
            self.rest(now);
        } else if is_there && self.away.is_some_and(|away| now > away + self.rest) {
            self.rest = REST; // it has stayed for long enough
        }
        pays && (is_there || self.away.is_none_or(|away| now >= away))
    }

    /// Keeps the thread away, longer every time.
    fn rest(&mut self, now: Instant) {
        self.away = Some(now + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Option<Duration> = Some(Duration::from_micros(10));

    /// Returns what is decided for packets that arrive on these processors, one after the other.
    fn decided(policy: &mut MovePolicy, packets: &[usize], at: Option<usize>) -> Vec<NextMove> {
        packets.iter().map(|processor| policy.next(*processor, at)).collect()
    }

    #[test]
    fn only_what_agrees_for_a_while_is_looked_at() {
        let (mut policy, agreed) = (MovePolicy::default(), AGREED as usize);
        for _ in 0..3 {
            let next = decided(&mut policy, &vec![1; agreed], None);
            assert_eq!(next.iter().position(|next| *next == NextMove::Look), Some(agreed - 1));
        }
        let nearly = [vec![1; agreed - 1], vec![0]].concat().repeat(5);
        let next = decided(&mut policy, &nearly, None);
        assert!(next.iter().all(|next| *next == NextMove::Stay), "{next:?}");
    }

    #[test]
    fn one_packet_from_elsewhere_is_enough_to_leave() {
        let mut policy = MovePolicy::default();
        assert_eq!(
            decided(&mut policy, &[3, 3, 1], Some(3)),
            [NextMove::Stay, NextMove::Stay, NextMove::Leave]
        );
    }

    #[test]
    fn a_busy_or_unknown_thread_does_not_move() {
        let (mut policy, now) = (MovePolicy::default(), Instant::now());
        assert!(policy.pays(QUICK, false, now));
        assert!(policy.pays(Some(GOES), false, now));
        assert!(!policy.pays(Some(GOES + STAYS), false, now));
        assert!(!policy.pays(None, false, now));
        assert!(policy.pays(QUICK, false, now), "not having gone is no reason to rest");
    }

    #[test]
    fn a_thread_that_moved_away_stays_away_longer_each_time() {
        let (mut policy, mut now) = (MovePolicy::default(), Instant::now());
        for doubled in 0..10 {
            assert!(!policy.pays(Some(GOES), true, now), "too much to stay");
            let rest = REST_MAX.min(REST * 2_u32.pow(doubled));
            assert!(!policy.pays(QUICK, false, now + rest - Duration::from_millis(1)));
            now += rest;
            assert!(policy.pays(QUICK, false, now));
        }
        // After it has stayed for long, the time to stay away begins anew.
        now += REST_MAX * 3;
        assert!(policy.pays(QUICK, true, now));
        assert!(!policy.pays(Some(GOES), true, now));
        assert!(policy.pays(QUICK, false, now + REST));
    }

    #[test]
    fn a_processor_has_one_thread_until_its_claim_ends() {
        let claims = ProcessorClaims::default();
        let [one, other] = [1, 2].map(|number| Affinity::new(number, Arc::clone(&claims)));
        let now = Instant::now();
        assert!(one.claim(7, now) && one.claim(7, now + CLAIM / 2));
        assert!(!other.claim(7, now + CLAIM));
        assert!(other.claim(8, now));
        assert!(other.claim(7, now + CLAIM * 2));
        assert!(!one.claim(7, now + CLAIM * 2));
    }
}
