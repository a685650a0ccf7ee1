//! The slots of a session: each request is carried out at most once (RFC 8881 section 2.10.6).
//!
//! ```text
//!             next sequence number            complete
//!   idle(n) -----------------------> running -----------> idle(n+1), reply kept or not
//!      ^                             |  |  ^
//!      |                     suspend |  |  | the same request again
//!      |                             v  |  |
//!      |                       suspended ---'
//!      '--------------------------------' abandon: as before
//!
//!   the last number again:   idle -> the kept reply, RETRY_UNCACHED_REP or SEQ_FALSE_RETRY
//!                            running -> DELAY
//!   any other number:        SEQ_MISORDERED
//! ```
//!
//! A request that is sent again never changes its slot. The reply of request n stays until request
//! n+1 has completed, because an abandoned one leaves the slot as it was.

use std::any::Any;
use std::fmt;

use super::SessionError;
use super::memory::{Need, SlotCharge};

/// A reply of at most this size is kept even if the client did not ask for it: a SEQUENCE alone, or
/// an error.
const SMALL_REPLY: usize = 128;

/// What a kept reply takes besides its bytes.
const REPLY_OVERHEAD: usize = 32;

/// Whether the client has asked for its reply to be kept (sa_cachethis).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyCaching {
    /// It has.
    Requested,
    /// It has not, so it can send the request again as a new one.
    NotRequested,
}

/// What a request that waits to be continued has left in its slot.
pub struct Suspension(pub Box<dyn Any + Send>);

/// No two are equal. Implemented so that what a request is can be compared.
impl PartialEq for Suspension {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl fmt::Debug for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Suspension")
    }
}

/// What a request is.
#[derive(Debug, PartialEq)]
pub(super) enum Begun {
    /// A new one, which runs now.
    New,
    /// One that was suspended, and runs again now.
    Resumed(Suspension),
    /// The last one, with its reply.
    Replay(Box<[u8]>),
}

/// The slots of a session, with the memory that they take.
#[derive(Debug)]
pub(super) struct SessionSlots {
    /// Slots that were used, and those before them.
    slots: Vec<Slot>,
    /// The number of slots that the client may use.
    count: u32,
    /// Largest reply that is kept.
    cached_max: usize,
    running: u32,
    charge: SlotCharge,
}

/// A slot.
#[derive(Debug, Default)]
struct Slot {
    /// Sequence number of the last request that was completed.
    sequence: u32,
    last: LastReply,
    /// Checksum of that request.
    checksum: u64,
    running: Option<Running>,
}

/// The reply to the last request of a slot.
#[derive(Debug, Default)]
enum LastReply {
    /// There was no request.
    #[default]
    Unused,
    /// It was not kept.
    Uncached,
    /// It was kept.
    Cached(Box<[u8]>),
}

/// The request that runs in a slot. Its sequence number is one more than that of the slot.
#[derive(Debug)]
struct Running {
    checksum: u64,
    /// Memory that was taken for the reply.
    reserved: usize,
    /// Set while it waits to be continued.
    suspended: Option<Suspension>,
}

impl LastReply {
    fn bytes(&self) -> usize {
        match self {
            Self::Unused | Self::Uncached => 0,
            Self::Cached(reply) => reply.len() + REPLY_OVERHEAD,
        }
    }
}

impl SessionSlots {
    /// Takes the memory for up to `wanted` slots, or fewer if memory is short. `None` if there is
    /// not enough for one.
    pub(super) fn new(wanted: u32, cached_max: usize, mut charge: SlotCharge) -> Option<Self> {
        let mut count = wanted;
        while count > 0 {
            if charge.grow(count as usize * size_of::<Slot>(), Need::Must) {
                return Some(Self { slots: Vec::new(), count, cached_max, running: 0, charge });
            }
            count /= 2;
        }
        None
    }

    /// Returns the number of slots.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    /// Returns the highest slot that the client should use. Lower while memory is scarce; slots
    /// above it work all the same.
    pub(super) fn target(&self) -> u32 {
        if self.charge.is_scarce() { (self.count / 8).max(1) - 1 } else { self.count - 1 }
    }

    /// Returns how many requests run.
    pub(super) const fn running(&self) -> u32 {
        self.running
    }

    /// Begins a request. `checksum` is of the whole request.
    ///
    /// # Errors
    /// `Badslot`, `SeqMisordered`, `SeqFalseRetry`, `RetryUncachedRep`; `Delay` if the request is
    /// running, or if there is no memory for its reply.
    pub(super) fn begin(
        &mut self,
        slot: u32,
        sequence: u32,
        checksum: u64,
        caching: ReplyCaching,
    ) -> Result<Begun, SessionError> {
        //= RFC 8881 18.46.3: a slot id beyond the slots of the session gets BADSLOT
        if slot >= self.count {
            return Err(SessionError::Badslot);
        }
        let index = slot as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.slots[index];
        //= RFC 8881 2.10.6.1: sequence numbers of a slot begin at 1, and wrap at 2^32
        let next = slot.sequence.wrapping_add(1);
        if let Some(running) = &mut slot.running {
            if sequence != next {
                return Err(SessionError::SeqMisordered);
            }
            //= RFC 8881 2.10.6.2: a request that is sent again while it runs gets DELAY
            if running.suspended.is_none() {
                return Err(SessionError::Delay);
            }
            //= RFC 8881 2.10.6.1.3.1: another request under the last number gets SEQ_FALSE_RETRY
            if running.checksum != checksum {
                return Err(SessionError::SeqFalseRetry);
            }
            let suspension = running.suspended.take().ok_or(SessionError::Delay)?;
            self.running += 1;
            return Ok(Begun::Resumed(suspension));
        }
        if sequence != next {
            return slot.repeated(sequence, checksum).map(Begun::Replay);
        }
        let reserved = match caching {
            ReplyCaching::Requested => self.cached_max + REPLY_OVERHEAD,
            ReplyCaching::NotRequested => 0,
        };
        if !self.charge.grow(reserved, Need::Must) {
            return Err(SessionError::Delay);
        }
        slot.running = Some(Running { checksum, reserved, suspended: None });
        self.running += 1;
        Ok(Begun::New)
    }

    /// Completes the request that runs in a slot. Without a reply, a repetition is refused.
    pub(super) fn complete(&mut self, slot: u32, reply: Option<&[u8]>) {
        let Some(running) = self.take_running(slot) else { return };
        let kept = reply.and_then(|reply| self.keep(reply, running.reserved));
        if kept.is_none() {
            self.charge.shrink(running.reserved);
        }
        let slot = &mut self.slots[slot as usize];
        self.charge.shrink(slot.last.bytes());
        slot.sequence = slot.sequence.wrapping_add(1);
        slot.checksum = running.checksum;
        slot.last = kept.map_or(LastReply::Uncached, LastReply::Cached);
    }

    /// Returns a copy of a reply, if it is kept. Then what it takes is charged, and what was
    /// reserved for it is not any more.
    fn keep(&mut self, reply: &[u8], reserved: usize) -> Option<Box<[u8]>> {
        let bytes = reply.len() + REPLY_OVERHEAD;
        //= RFC 8881 2.10.6.1.3: a reply is kept if the client asked for it, others may be
        if bytes <= reserved {
            self.charge.shrink(reserved - bytes);
            return Some(reply.into());
        }
        let is_small = reserved == 0 && reply.len() <= SMALL_REPLY.min(self.cached_max);
        (is_small && self.charge.grow(bytes, Need::May)).then(|| reply.into())
    }

    /// Suspends the request that runs in a slot, until it comes again. Meanwhile it does not count
    /// as running: it may never come.
    pub(super) fn suspend(&mut self, slot: u32, suspension: Suspension) {
        let slot = self.slots.get_mut(slot as usize);
        if let Some(running) = slot.and_then(|slot| slot.running.as_mut()) {
            running.suspended = Some(suspension);
            self.running -= 1;
        }
    }

    /// Ends the request that runs in a slot as if it had never come.
    pub(super) fn abandon(&mut self, slot: u32) {
        if let Some(running) = self.take_running(slot) {
            self.charge.shrink(running.reserved);
        }
    }

    fn take_running(&mut self, slot: u32) -> Option<Running> {
        let running = self.slots.get_mut(slot as usize)?.running.take()?;
        self.running -= 1;
        Some(running)
    }

    /// Makes a slot as if its last request had this number, and nothing were known of it.
    #[cfg(test)]
    pub(super) fn set_sequence(&mut self, slot: u32, sequence: u32) {
        self.slots.resize_with(self.count as usize, Slot::default);
        self.slots[slot as usize].sequence = sequence;
    }

    /// Bytes that all slots are charged.
    #[cfg(test)]
    pub(super) fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// Bytes that all slots take, with the replies that are to come.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let of = |slot: &Slot| slot.last.bytes() + slot.running.as_ref().map_or(0, |r| r.reserved);
        self.count as usize * size_of::<Slot>() + self.slots.iter().map(of).sum::<usize>()
    }
}

impl Slot {
    /// Returns the reply to a request whose sequence number is not the next one.
    fn repeated(&self, sequence: u32, checksum: u64) -> Result<Box<[u8]>, SessionError> {
        let is_same = self.checksum == checksum;
        //= RFC 8881 18.46.3: neither the last sequence number nor the next: SEQ_MISORDERED
        if sequence != self.sequence {
            return Err(SessionError::SeqMisordered);
        }
        match &self.last {
            LastReply::Unused => Err(SessionError::SeqMisordered),
            //= RFC 8881 2.10.6.1.3.1: another request under the last number gets SEQ_FALSE_RETRY
            LastReply::Uncached | LastReply::Cached(_) if !is_same => {
                Err(SessionError::SeqFalseRetry)
            }
            //= RFC 8881 15.1.3: a repetition without a kept reply gets RETRY_UNCACHED_REP
            LastReply::Uncached => Err(SessionError::RetryUncachedRep),
            LastReply::Cached(reply) => Ok(reply.clone()),
        }
    }
}
