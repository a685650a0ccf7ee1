//! Slots against a naive model, which remembers every request.

use std::collections::HashMap;

use proptest::prelude::*;

use super::slots::{Begun, ReplyCaching, SessionSlots};
use super::*;

const SLOTS: u32 = 3;
const CACHED: usize = 64;

/// What a client and the server do.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// SEQUENCE: slot, difference to the next number, checksum, sa_cachethis.
    Begin(u32, i8, u8, bool),
    /// A reply of this length.
    Complete(u32, u8),
    /// The guard is dropped.
    Lose(u32),
    Abandon(u32),
}

/// A slot, as a client sees it.
#[derive(Debug)]
struct NaiveSlot {
    /// Number of the next request.
    next: u32,
    /// Checksum of the request that runs.
    running: Option<u64>,
    /// All requests that were completed, by number: checksum and reply.
    done: HashMap<u32, (u64, NaiveReply)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum NaiveReply {
    Kept(Vec<u8>),
    Lost,
}

impl NaiveSlot {
    /// What a request gets; `None` if it is a new one.
    fn expected(&self, sequence: u32, checksum: u64) -> Option<Result<Vec<u8>, SessionError>> {
        if self.running.is_some() {
            let again = sequence == self.next;
            return Some(Err(if again {
                SessionError::Delay
            } else {
                SessionError::SeqMisordered
            }));
        }
        if sequence == self.next {
            return None;
        }
        let last = self.done.get(&sequence).filter(|_| sequence == self.next.wrapping_sub(1));
        Some(match last {
            None => Err(SessionError::SeqMisordered),
            Some((of, _)) if *of != checksum => Err(SessionError::SeqFalseRetry),
            Some((_, NaiveReply::Lost)) => Err(SessionError::RetryUncachedRep),
            Some((_, NaiveReply::Kept(reply))) => Ok(reply.clone()),
        })
    }

    fn end(&mut self, reply: Option<&[u8]>) {
        let Some(checksum) = self.running.take() else { return };
        // Those that were not asked for are kept too, because this limit is small.
        let kept = reply.filter(|reply| reply.len() <= CACHED);
        let kept = kept.map_or(NaiveReply::Lost, |reply| NaiveReply::Kept(reply.to_vec()));
        self.done.insert(self.next, (checksum, kept));
        self.next = self.next.wrapping_add(1);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS + 1;
    prop_oneof![
        4 => (slot.clone(), prop_oneof![6 => Just(0_i8), 3 => Just(-1), 1 => any::<i8>()], 0..3_u8,
              any::<bool>()).prop_map(|(s, d, c, k)| Step::Begin(s, d, c, k)),
        3 => (slot.clone(), 0..100_u8).prop_map(|(s, len)| Step::Complete(s, len)),
        1 => slot.clone().prop_map(Step::Lose),
        1 => slot.prop_map(Step::Abandon),
    ]
}

proptest! {
    #[test]
    fn each_request_is_carried_out_once(
        start in prop_oneof![Just(0_u32), Just(u32::MAX - 3)],
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut slots = SessionSlots::new(SLOTS, CACHED, charge(1 << 20)).unwrap();
        let mut naive = Vec::new();
        for slot in 0..SLOTS {
            slots.set_sequence(slot, start);
            let next = start.wrapping_add(1);
            naive.push(NaiveSlot { next, running: None, done: HashMap::new() });
        }
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Begin(slot, delta, checksum, keep) => {
                    let next = naive.get(slot as usize).map_or(1, |slot| slot.next);
                    let sequence = next.wrapping_add_signed(delta.into());
                    let caching =
                        if keep { ReplyCaching::Requested } else { ReplyCaching::NotRequested };
                    let found = slots.begin(slot, sequence, checksum.into(), caching);
                    let Some(model) = naive.get_mut(slot as usize) else {
                        prop_assert_eq!(found, Err(SessionError::Badslot));
                        continue;
                    };
                    match model.expected(sequence, checksum.into()) {
                        None => {
                            prop_assert_eq!(found, Ok(Begun::New));
                            model.running = Some(checksum.into());
                        }
                        Some(expected) => {
                            let expected = expected.map(|reply| Begun::Replay(reply.into()));
                            prop_assert_eq!(found, expected);
                        }
                    }
                }
                Step::Complete(slot, len) => {
                    let reply = vec![u8::try_from(n % 251).unwrap(); len.into()];
                    slots.complete(slot, Some(&reply));
                    if let Some(model) = naive.get_mut(slot as usize) { model.end(Some(&reply)) }
                }
                Step::Lose(slot) => {
                    slots.complete(slot, None);
                    if let Some(model) = naive.get_mut(slot as usize) { model.end(None) }
                }
                Step::Abandon(slot) => {
                    slots.abandon(slot);
                    if let Some(model) = naive.get_mut(slot as usize) { model.running = None }
                }
            }
            let running = naive.iter().filter(|slot| slot.running.is_some()).count();
            prop_assert_eq!(slots.running() as usize, running);
            prop_assert_eq!(slots.charged(), slots.bytes());
        }
    }
}
