//! Attributes of channels, and how they are negotiated (RFC 8881 section 18.36.3).

use super::{SessionError, SessionLimits};

/// Bytes of the smallest request: an RPC header with AUTH_NONE, and a compound with SEQUENCE only.
const MIN_REQUEST: u32 = 40 + 12 + 36;

/// Bytes of the smallest reply to it.
pub(super) const MIN_REPLY: u32 = 24 + 12 + 44;

/// Bytes of the smallest request of a back channel that is of any use.
const MIN_CALLBACK: u32 = 256;

/// Operations of a callback: CB_SEQUENCE and another one.
const MIN_CALLBACK_OPERATIONS: u32 = 2;

/// Attributes of a channel (channel_attrs4). There is no RDMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelAttrs {
    /// ca_headerpadsize.
    pub header_pad: u32,
    /// ca_maxrequestsize: bytes of a request, with the RPC header.
    pub max_request: u32,
    /// ca_maxresponsesize: bytes of a reply, with the RPC header.
    pub max_reply: u32,
    /// ca_maxresponsesize_cached: bytes of a reply that is kept, with the RPC header.
    pub max_cached_reply: u32,
    /// ca_maxoperations: operations of a request, with SEQUENCE.
    pub max_operations: u32,
    /// ca_maxrequests: slots.
    pub max_requests: u32,
}

impl ChannelAttrs {
    /// Returns the attributes of the fore channel for a client that asks for these.
    ///
    /// # Errors
    /// `Toosmall`.
    pub(super) fn negotiate_fore(&self, limits: &SessionLimits) -> Result<Self, SessionError> {
        //= RFC 8881 18.36.3: a channel on which nothing could ever be sent gets TOOSMALL
        if self.max_request < MIN_REQUEST || self.max_reply < MIN_REPLY {
            return Err(SessionError::Toosmall);
        }
        if self.max_operations == 0 || self.max_requests == 0 {
            return Err(SessionError::Toosmall);
        }
        //= RFC 8881 18.36.3: the server may lower what the client asks for, and never raises it
        Ok(Self {
            header_pad: 0,
            max_request: self.max_request.min(limits.message),
            max_reply: self.max_reply.min(limits.message),
            max_cached_reply: self.max_cached_reply.min(limits.cached_reply).min(self.max_reply),
            max_operations: self.max_operations.min(limits.operations),
            max_requests: self.max_requests.min(limits.slots),
        })
    }

    /// Returns the attributes of the back channel. They are what the client asks for, because this
    /// server sends small requests, one at a time, whose replies need not be kept.
    ///
    /// # Errors
    /// `Toosmall`, even for a session without a back channel, as of the Linux server.
    pub(super) fn negotiate_back(&self) -> Result<Self, SessionError> {
        if self.max_request < MIN_CALLBACK
            || self.max_reply < MIN_REPLY
            || self.max_operations < MIN_CALLBACK_OPERATIONS
        {
            return Err(SessionError::Toosmall);
        }
        Ok(Self { header_pad: 0, ..*self })
    }
}
