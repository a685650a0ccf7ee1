//! Sessions, and the requests that run in them.

use std::sync::Arc;

use parking_lot::Mutex;

use super::slots::{ReplyCaching, SessionSlots, Suspension};
use super::{ChannelAttrs, ClientId, SequenceReply, SessionError, SessionId};

/// A session. Its slots have a lock of their own, held for moments only.
#[derive(Debug)]
pub struct Session {
    pub(super) id: SessionId,
    pub(super) client: ClientId,
    /// Limits of requests of the client.
    pub(super) fore: ChannelAttrs,
    /// Program number of callbacks, if the session has a back channel.
    pub(super) callback: Option<u32>,
    pub(super) slots: Mutex<SessionSlots>,
}

impl Session {
    /// Returns the id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Returns the client.
    pub const fn client(&self) -> ClientId {
        self.client
    }

    /// Returns the limits of requests and replies.
    pub const fn fore_channel(&self) -> &ChannelAttrs {
        &self.fore
    }

    /// Returns the program number of callbacks, if the session has a back channel.
    pub const fn callback_program(&self) -> Option<u32> {
        self.callback
    }
}

/// A request that runs in a slot. Until it has ended, a repetition gets DELAY.
///
/// It ends with [`RunningRequest::complete`] or [`RunningRequest::abandon`]. If it is dropped, it
/// may have changed something, and nothing is known of its reply: a repetition is refused.
#[derive(Debug)]
#[must_use = "a request that is dropped refuses its repetition"]
pub struct RunningRequest {
    session: Arc<Session>,
    caching: ReplyCaching,
    reply: SequenceReply,
    has_ended: bool,
}

impl RunningRequest {
    pub(super) const fn new(
        session: Arc<Session>,
        caching: ReplyCaching,
        reply: SequenceReply,
    ) -> Self {
        Self { session, caching, reply, has_ended: false }
    }

    /// Returns the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns the results of SEQUENCE.
    pub const fn reply(&self) -> &SequenceReply {
        &self.reply
    }

    /// Returns how large the reply may be, with the RPC header. Beyond it, the operation that does
    /// not fit gets the error of [`RunningRequest::size_error`].
    pub fn reply_max(&self) -> u32 {
        let attrs = &self.session.fore;
        match self.caching {
            //= RFC 8881 2.10.6.4: a reply that is to be kept fits into ca_maxresponsesize_cached
            ReplyCaching::Requested => attrs.max_cached_reply.min(attrs.max_reply),
            ReplyCaching::NotRequested => attrs.max_reply,
        }
    }

    /// Returns the error of an operation whose results exceed [`RunningRequest::reply_max`].
    pub fn size_error(&self) -> SessionError {
        let attrs = &self.session.fore;
        match self.caching {
            ReplyCaching::Requested if attrs.max_cached_reply < attrs.max_reply => {
                SessionError::RepTooBigToCache
            }
            ReplyCaching::Requested | ReplyCaching::NotRequested => SessionError::RepTooBig,
        }
    }

    /// Ends the request with its reply: the results of the compound, without the RPC header. The
    /// reply is kept if the client asked for it, or if it is small.
    pub fn complete(mut self, reply: &[u8]) {
        self.has_ended = true;
        self.session.slots.lock().complete(self.reply.slot, Some(reply));
    }

    /// Leaves the request in its slot until the same request comes again, from the thread that goes
    /// on with it or as a retransmission ([`SequenceOutcome::Resumed`](super::SequenceOutcome)).
    pub fn suspend(mut self, suspension: Suspension) {
        self.has_ended = true;
        self.session.slots.lock().suspend(self.reply.slot, suspension);
    }

    /// Ends the request as if it had never come. Only if nothing of it has happened, and no reply
    /// is sent: a repetition is carried out.
    pub fn abandon(mut self) {
        self.has_ended = true;
        self.session.slots.lock().abandon(self.reply.slot);
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        if !self.has_ended {
            self.session.slots.lock().complete(self.reply.slot, None);
        }
    }
}
