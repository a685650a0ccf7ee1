//! Replies of a connection in the kernel's send buffer: sent, but not acknowledged by the peer.
//!
//! The kernel keeps up to `net.ipv4.tcp_wmem` bytes for each connection, some megabytes, which
//! count towards the limit of the control group. What it keeps beyond [`FREE`] is charged to the
//! connection. While the address holds its share of the budget, the send buffer is limited. A fixed
//! limit would slow down fast connections over long lines.
//!
//! The kernel does not report when it holds less. It is queried when a connection has sent another
//! [`FREE`] bytes, before the connection waits for memory, and every second.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::memory_budget::ConnectionMemory;
use super::progress::ConnectionProgress;
use crate::sys::socket;

/// Bytes in the kernel that are not charged.
const FREE: usize = 64 * 1024;

/// The bytes of a connection that the kernel may still hold.
#[derive(Debug, Default)]
pub struct Unacknowledged {
    /// Bytes that the socket has taken since the start.
    written: u64,
    /// The value of `written` at which the kernel is queried next.
    look_at: u64,
    /// Bytes that the peer had acknowledged at the last [`Unacknowledged::look`].
    acknowledged: u64,
    /// The value of `acknowledged` at which the peer has taken all that was owed when this was set.
    goal: u64,
    charged: usize,
    /// Whether the send buffer is limited.
    is_limited: bool,
}

impl Unacknowledged {
    /// Notes that the socket took so many bytes; returns whether [`Unacknowledged::charge`] is due.
    pub const fn wrote(&mut self, bytes: usize) -> bool {
        self.written += bytes as u64;
        self.written >= self.look_at
    }

    /// Returns how many bytes the peer has acknowledged since the start. A system call.
    pub fn acknowledged(&self, stream: &TcpStream) -> u64 {
        self.written.saturating_sub(socket::unacknowledged(stream).unwrap_or(0))
    }

    /// Queries what the kernel holds, and charges it to `memory`; returns how many bytes the peer
    /// has acknowledged since the start. A system call.
    pub fn charge(&mut self, stream: &TcpStream, memory: &Arc<ConnectionMemory>) -> u64 {
        let acknowledged = self.acknowledged(stream);
        let held = usize::try_from(self.written - acknowledged).unwrap_or(usize::MAX);
        self.look_at = self.written + FREE as u64;
        self.set_charged(held.saturating_sub(FREE), memory);
        if !self.is_limited && self.charged > 0 && memory.is_over() {
            self.limit(true, stream);
        }
        acknowledged
    }

    /// As [`Unacknowledged::charge`]. Also notes the peer's progress by `now` with the replies that
    /// are owed to it: those in the kernel, and `unsent` bytes. To be called every second.
    pub fn look(
        &mut self,
        unsent: usize,
        stream: &TcpStream,
        memory: &Arc<ConnectionMemory>,
        (progress, now): (&ConnectionProgress, Instant),
    ) {
        let acknowledged = self.charge(stream, memory);
        if acknowledged >= self.goal {
            progress.begin(now);
            self.goal = self.written + unsent as u64;
        } else {
            progress.moved(acknowledged.saturating_sub(self.acknowledged), now);
        }
        self.acknowledged = acknowledged;
        if self.is_limited && memory.has_plenty() {
            self.limit(false, stream);
        }
    }

    fn set_charged(&mut self, bytes: usize, memory: &ConnectionMemory) {
        if bytes > self.charged {
            memory.take(bytes - self.charged);
        } else if bytes < self.charged {
            memory.give(self.charged - bytes);
        }
        self.charged = bytes;
    }

    fn limit(&mut self, limit: bool, stream: &TcpStream) {
        self.is_limited = limit;
        // A failure is harmless: the kernel then keeps more, or less than it could.
        let _ = if limit { socket::limit_sending(stream) } else { socket::unlimit_sending(stream) };
    }

    /// Whether the send buffer is limited. Until it is not, [`Unacknowledged::look`] is due.
    pub const fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Returns what is charged for the kernel, in bytes.
    pub const fn charged(&self) -> usize {
        self.charged
    }
}
