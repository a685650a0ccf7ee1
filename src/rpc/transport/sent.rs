//! Replies of a connection that the kernel has taken and the peer has not acknowledged.
//!
//! The kernel keeps up to `net.ipv4.tcp_wmem` of them for each connection, some megabytes, and they
//! count towards the control group's limit. So what it keeps beyond [`FREE`] is charged to the
//! connection, and while its address holds its share, the kernel takes only little. A fixed bound
//! would cost a fast connection over a long line its speed.
//!
//! The kernel does not say when it holds less. It is asked when a connection has sent another
//! [`FREE`] bytes, before the connection has to wait for memory, and every second.

use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use super::memory_budget::Account;
use super::progress::Progress;
use crate::sys::socket;

/// Bytes in the kernel that are free of charge.
const FREE: usize = 64 * 1024;

/// What a connection has sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// What the socket has taken since the start.
    written: u64,
    /// When as much is written, the kernel is asked what it holds.
    look_at: u64,
    /// What the peer had acknowledged at the last look.
    acknowledged: u64,
    /// What it must have acknowledged to have taken what was owed when that was last set.
    goal: u64,
    charged: usize,
    /// Whether the kernel may keep only little.
    is_limited: bool,
}

impl Sent {
    /// Notes that the socket took so many bytes; returns whether to [`Sent::charge`].
    pub const fn wrote(&mut self, bytes: usize) -> bool {
        self.written += bytes as u64;
        self.written >= self.look_at
    }

    /// What the peer has acknowledged since the start, in bytes. A system call.
    pub fn acknowledged(&self, stream: &TcpStream) -> u64 {
        self.written.saturating_sub(socket::unacknowledged(stream).unwrap_or(0))
    }

    /// Asks the kernel what it holds, and charges it to `account`. A system call.
    pub fn charge(&mut self, stream: &TcpStream, account: &Arc<Account>) -> u64 {
        let acknowledged = self.acknowledged(stream);
        let held = usize::try_from(self.written - acknowledged).unwrap_or(usize::MAX);
        self.look_at = self.written + FREE as u64;
        self.set_charged(held.saturating_sub(FREE), account);
        if !self.is_limited && self.charged > 0 && account.is_over() {
            self.limit(true, stream);
        }
        acknowledged
    }

    /// The same, and notes how far the peer has come by `now` with what is owed to it: what the
    /// kernel holds, and `unsent` bytes.
    pub fn look(
        &mut self,
        unsent: usize,
        stream: &TcpStream,
        account: &Arc<Account>,
        (progress, now): (&Progress, Instant),
    ) {
        let acknowledged = self.charge(stream, account);
        if acknowledged >= self.goal {
            progress.begin(now);
            self.goal = self.written + unsent as u64;
        } else {
            progress.moved(acknowledged.saturating_sub(self.acknowledged), now);
        }
        self.acknowledged = acknowledged;
        if self.is_limited && account.has_plenty() {
            self.limit(false, stream);
        }
    }

    fn set_charged(&mut self, bytes: usize, account: &Account) {
        if bytes > self.charged {
            account.take(bytes - self.charged);
        } else if bytes < self.charged {
            account.give(self.charged - bytes);
        }
        self.charged = bytes;
    }

    fn limit(&mut self, limit: bool, stream: &TcpStream) {
        self.is_limited = limit;
        // Without this it keeps more, or less than it could: nothing else depends on it.
        let _ = if limit { socket::limit_sending(stream) } else { socket::unlimit_sending(stream) };
    }

    /// Whether it is limited: it is to be looked at until it is not.
    pub const fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// What the kernel held at the last look beyond what is free of charge, in bytes.
    pub const fn charged(&self) -> usize {
        self.charged
    }
}
