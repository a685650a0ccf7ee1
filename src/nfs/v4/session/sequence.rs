//! SEQUENCE (RFC 8881 section 18.46): begins a compound in a slot of a session.

use super::channel::MIN_REPLY;
use super::slots::{Begun, ReplyCaching, Suspension};
use super::{ConnectionId, RunningRequest, SessionError, SessionId, SessionTable};

/// Arguments of SEQUENCE, and what is known of its compound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceRequest {
    /// sa_sessionid.
    pub session: SessionId,
    /// sa_sequenceid.
    pub sequence: u32,
    /// sa_slotid.
    pub slot: u32,
    /// sa_highest_slotid.
    pub highest_slot: u32,
    /// sa_cachethis.
    pub cache_this: bool,
    /// Bytes of the request, with the RPC header.
    pub length: usize,
    /// Operations of the compound, with SEQUENCE.
    pub operations: usize,
    /// Checksum of the compound's arguments. Two requests with the same one count as the same.
    pub checksum: u64,
}

/// Results of SEQUENCE, apart from sr_status_flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceReply {
    /// sr_sessionid.
    pub session: SessionId,
    /// sr_sequenceid.
    pub sequence: u32,
    /// sr_slotid.
    pub slot: u32,
    /// sr_highest_slotid.
    pub highest_slot: u32,
    /// sr_target_highest_slotid.
    pub target_highest_slot: u32,
}

/// What a compound is.
#[derive(Debug)]
pub enum SequenceOutcome {
    /// A new one: carry out its operations.
    New(RunningRequest),
    /// One that was suspended: go on with it.
    Resumed(RunningRequest, Suspension),
    /// One that was carried out before: send its reply again.
    Replay(Box<[u8]>),
}

impl SessionTable {
    /// SEQUENCE. Binds the connection to the session if it is not. The caller renews the lease of
    /// the client, whichever the outcome.
    ///
    /// # Errors
    /// `Badsession`, `TooManyOps`, `ReqTooBig`, `Badslot`, `BadHighSlot`, `RepTooBig`,
    /// `RepTooBigToCache`, `SeqMisordered`, `SeqFalseRetry`, `RetryUncachedRep`; `Delay` if the
    /// request is running, or if there is no memory for its reply.
    pub fn sequence(
        &mut self,
        request: &SequenceRequest,
        connection: ConnectionId,
    ) -> Result<SequenceOutcome, SessionError> {
        //= RFC 8881 18.46.3: an unknown session gets BADSESSION
        let session = self.sessions.get(&request.session).ok_or(SessionError::Badsession)?;
        let attrs = &session.fore;
        //= RFC 8881 18.36.3: more operations than ca_maxoperations get TOO_MANY_OPS
        if request.operations > attrs.max_operations as usize {
            return Err(SessionError::TooManyOps);
        }
        //= RFC 8881 18.36.3: a request above ca_maxrequestsize gets REQ_TOO_BIG
        if request.length > attrs.max_request as usize {
            return Err(SessionError::ReqTooBig);
        }
        let caching =
            if request.cache_this { ReplyCaching::Requested } else { ReplyCaching::NotRequested };
        //= RFC 8881 15.1.3: a reply that is to be kept and cannot be gets REP_TOO_BIG_TO_CACHE
        if request.cache_this && attrs.max_cached_reply < MIN_REPLY {
            return Err(SessionError::RepTooBigToCache);
        }
        let mut slots = session.slots.lock();
        let highest_slot = slots.count() - 1;
        //= RFC 8881 15.1.11: a highest slot beyond the slots of the session gets BAD_HIGH_SLOT
        if request.slot <= highest_slot && request.highest_slot > highest_slot {
            return Err(SessionError::BadHighSlot);
        }
        let begun = slots.begin(request.slot, request.sequence, request.checksum, caching)?;
        let target_highest_slot = slots.target();
        drop(slots);
        //= RFC 8881 2.10.3.1: without state protection, SEQUENCE binds its connection
        if !self.bindings.is_bound(request.session, connection) {
            self.bindings.bind(request.session, connection);
        }
        //= RFC 8881 18.46.3: the reply repeats session, sequence number and slot
        let reply = SequenceReply {
            session: request.session,
            sequence: request.sequence,
            slot: request.slot,
            highest_slot,
            target_highest_slot,
        };
        let running = || RunningRequest::new(session.clone(), caching, reply);
        Ok(match begun {
            Begun::Replay(reply) => SequenceOutcome::Replay(reply),
            Begun::New => SequenceOutcome::New(running()),
            Begun::Resumed(suspension) => SequenceOutcome::Resumed(running(), suspension),
        })
    }
}
