//! Sends the replies of a connection.
//!
//! A thread that has a reply sends it itself, if no earlier reply is queued. What the socket does
//! not take is queued, and the connection's task sends it when the socket is writable again.
//! [`super::handover`] has the states, and the reason why no wake-up is lost.
//!
//! While much is unsent, [`Outbox::has_room`] is false and no call is started. Calls that are about
//! to run are parked, and resumed by the task when the queue is short again. Once the connection is
//! broken, its socket is closed and its queue is dropped.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::buffers::Buffers;
use super::handover::{Handover, SendFailed, Transmit};
use super::memory_budget::{AddressMemory, ConnectionMemory};
use super::progress::ConnectionProgress;
use super::unacknowledged::Unacknowledged;
use crate::rpc::record;
use crate::rpc::service::ReplySink;

/// Unsent bytes above which no call is started. The replies of running calls come on top.
const UNSENT_MAX: usize = 1024 * 1024;

/// Queued replies are joined up to this size, in bytes. A larger reply is queued in the buffer that
/// it was written into, without copying.
const TOGETHER: usize = 64 * 1024;

/// The maximum number of deferred calls of one connection.
const CALLS_MAX: usize = 256;

/// The maximum size of the deferred calls of one connection and of their replies, in bytes. A
/// connection must not take all that its address may hold, and 16 of the largest calls keep a disk
/// busy.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A call that must not run before there is room for its reply.
pub trait ParkedCall: Send {
    /// Queues the call again. Does not block.
    fn resume(self: Box<Self>);
}

/// The sending side of a connection, which its task and the threads of the pool share.
pub struct Outbox {
    /// The part of the memory budget that the connection holds.
    pub memory: Arc<ConnectionMemory>,
    handover: Handover<SendQueue>,
    buffers: Arc<Buffers>,
    progress: ConnectionProgress,
    /// Whether the kernel held replies that are charged when it was last queried.
    is_behind: AtomicBool,
}

/// Replies that wait for the socket, and calls that wait for these replies to be sent.
#[derive(Default)]
struct SendQueue {
    /// The socket, until the connection is given up. Calls that go on after that must not keep it
    /// open, or peers could use up all descriptors by connections that they reset.
    stream: Option<Arc<TcpStream>>,
    replies: VecDeque<Vec<u8>>,
    /// Bytes of the first of `replies` that are sent.
    sent: usize,
    /// The capacities of `replies`, which are charged to the memory budget.
    charged: usize,
    kernel: Unacknowledged,
    /// Calls that must not run before there is room for their replies.
    parked: Vec<Box<dyn ParkedCall>>,
}

impl SendQueue {
    /// Queues `replies`, of which the first bytes are `sent`. Copies small ones, and puts a `fresh`
    /// buffer in the place of a large one. Returns how much capacity the queue gained.
    fn append(
        &mut self,
        replies: &mut Vec<u8>,
        sent: usize,
        fresh: impl FnOnce() -> Vec<u8>,
    ) -> usize {
        let rest = replies.len() - sent;
        let is_first = self.replies.is_empty();
        let more = match self.replies.back_mut() {
            Some(last) if last.len() + rest <= TOGETHER => {
                let before = last.capacity();
                last.extend_from_slice(&replies[sent..]);
                last.capacity() - before
            }
            _ if rest <= TOGETHER => {
                self.replies.push_back(replies[sent..].to_vec());
                rest
            }
            _ => {
                let whole = std::mem::replace(replies, fresh());
                let capacity = whole.capacity();
                self.replies.push_back(whole);
                self.sent = if is_first { sent } else { self.sent };
                self.charged += capacity;
                return capacity;
            }
        };
        if is_first {
            self.sent = 0;
        }
        self.charged += more;
        more
    }
}

impl Outbox {
    /// Wraps a connected socket, whose memory is charged to `address`.
    pub fn new(stream: TcpStream, buffers: Arc<Buffers>, address: &Arc<AddressMemory>) -> Self {
        let wake = Arc::<Notify>::default();
        let queue = SendQueue { stream: Some(Arc::new(stream)), ..SendQueue::default() };
        Self {
            memory: ConnectionMemory::new(address, Arc::clone(&wake)),
            handover: Handover::new(queue, wake),
            buffers,
            progress: ConnectionProgress::new(Instant::now()),
            is_behind: AtomicBool::new(false),
        }
    }

    /// Returns what notifies the connection's task: the connection is broken, replies are queued,
    /// memory was granted, or there may be room for calls again.
    pub const fn wake(&self) -> &Arc<Notify> {
        &self.handover.wake
    }

    /// Returns the socket, or `None` if the connection was given up. Only the connection's task may
    /// read from it.
    pub fn stream(&self) -> Option<Arc<TcpStream>> {
        self.handover.lock().stream.clone()
    }

    /// Returns the progress of the connection.
    pub const fn progress(&self) -> &ConnectionProgress {
        &self.progress
    }

    /// Notes that a call was complete or began `at` this time, or had waited for memory until then.
    /// Ignored while replies are owed: then the progress is what the peer takes of them, because a
    /// slow peer could send cheap calls meanwhile.
    pub fn called(&self, at: Instant) {
        if !self.is_owed() {
            self.progress.begin(at);
        }
    }

    /// Whether replies are queued, or the kernel holds many.
    pub fn is_owed(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed) || self.has_unsent()
    }

    /// Notes what the peer has taken by `now` of the replies that are owed to it. A system call.
    pub fn look(&self, now: Instant) {
        let mut queue = self.handover.lock();
        if let SendQueue { stream: Some(stream), kernel, .. } = &mut *queue {
            let unsent = self.handover.unsent();
            kernel.look(unsent, stream, &self.memory, (&self.progress, now));
            self.note_behind(kernel);
        }
    }

    /// As [`ConnectionMemory::admit`], after the kernel was queried if that may make a difference.
    pub fn admit(&self, bytes: usize) -> bool {
        if self.is_behind.load(Ordering::Relaxed) && !self.memory.fits(bytes) {
            self.look_at_kernel(&mut self.handover.lock()); // it may hold less by now
        }
        self.memory.admit(bytes)
    }

    fn look_at_kernel(&self, queue: &mut SendQueue) {
        if let SendQueue { stream: Some(stream), kernel, .. } = queue {
            kernel.charge(stream, &self.memory);
            self.note_behind(kernel);
        }
    }

    fn note_behind(&self, kernel: &Unacknowledged) {
        let is_behind = kernel.charged() > 0 || kernel.is_limited();
        self.is_behind.store(is_behind, Ordering::Relaxed);
    }

    /// Sends marked replies, and empties `replies`. Does not block: what the socket does not take
    /// is sent by [`Outbox::flush`]. Replies to a broken connection are discarded.
    pub fn push(&self, replies: &mut Vec<u8>) {
        self.handover.push(self, replies);
    }

    /// Queues a marked reply for the connection's task, which sends together what came together. A
    /// reply that comes alone is sent at once. Empties `reply`.
    pub fn post(&self, reply: &mut Vec<u8>) {
        self.handover.post(self, reply);
    }

    /// Sends what is queued, as far as the socket takes it; returns whether it took anything.
    pub fn flush(&self) -> bool {
        self.handover.flush(self).unwrap_or_else(|SendFailed| {
            self.give_up();
            false
        })
    }

    /// Returns how many bytes of replies the peer has acknowledged since the start. A system call.
    pub fn acknowledged(&self) -> u64 {
        let queue = self.handover.lock();
        queue.stream.as_ref().map_or(0, |stream| queue.kernel.acknowledged(stream))
    }

    /// Keeps a call that is about to run if the peer does not take the replies that it has: the
    /// pool could fill the memory with replies of one megabyte each. Gives the call back otherwise.
    pub fn park<T: ParkedCall + 'static>(&self, call: Box<T>) -> Option<Box<T>> {
        let mut queue = self.handover.lock();
        if self.is_broken() || !self.is_full() {
            return Some(call);
        }
        queue.parked.push(call);
        None
    }

    /// Resumes the calls that were parked, if there is room again.
    pub fn unpark(&self) {
        let mut queue = self.handover.lock();
        if self.is_full() {
            return;
        }
        let parked = std::mem::take(&mut queue.parked);
        drop(queue);
        parked.into_iter().for_each(ParkedCall::resume);
    }

    /// Whether replies are queued.
    pub fn has_unsent(&self) -> bool {
        self.handover.unsent() > 0
    }

    /// Whether so much is queued that no further call may be started.
    fn is_full(&self) -> bool {
        let unsent = self.handover.unsent();
        unsent > UNSENT_MAX || unsent > TOGETHER && self.memory.is_over()
    }

    /// Whether the peer is gone.
    pub fn is_broken(&self) -> bool {
        self.handover.is_broken()
    }

    /// Whether another call may be started. If not, the task is notified when that may have
    /// changed.
    pub fn has_room(&self) -> bool {
        self.handover.has_room(|| {
            let bytes = self.handover.bytes();
            self.handover.calls() < CALLS_MAX
                && (bytes == 0 || bytes < BYTES_MAX && !self.memory.is_over())
                && !self.is_full()
        })
    }

    /// Whether every call that was started has ended.
    pub fn is_settled(&self) -> bool {
        self.handover.calls() == 0
    }

    /// Notes that a call was started. `bytes` are its memory and the maximum size of its reply.
    pub fn started(&self, bytes: usize) {
        self.handover.started(bytes);
        self.memory.take(bytes);
    }

    /// Gives the connection up: it ended, or a call of it cannot be answered and the client must
    /// send it again. Drops the queue, and closes the socket.
    pub fn give_up(&self) {
        let rest = self.handover.close();
        self.is_behind.store(false, Ordering::Relaxed);
        self.memory.give(rest.charged + rest.kernel.charged());
        // Not under the lock: a parked call that is dropped gives the connection up as well.
        drop(rest);
    }

    /// Notes that the task reads no more, and waits for the last call to end.
    pub fn finishing(&self) {
        self.handover.watch();
    }

    /// Notes that a call which has not ended needs so many bytes less.
    pub fn shrank(&self, bytes: usize) {
        self.memory.give(bytes);
        self.handover.shrank(bytes);
    }

    /// Notes that a call ended. Its reply must have been pushed or posted before.
    pub fn ended(&self, bytes: usize) {
        self.memory.give(bytes);
        self.handover.ended(bytes);
    }
}

impl Transmit<SendQueue> for Outbox {
    fn is_empty(&self, queue: &SendQueue) -> bool {
        queue.replies.is_empty()
    }

    fn write(&self, queue: &mut SendQueue, bytes: &[u8]) -> Result<usize, SendFailed> {
        let Some(stream) = &queue.stream else { return Err(SendFailed) };
        let mut sent = 0;
        let mut result = Ok(());
        while sent < bytes.len() && result.is_ok() {
            // Through try_io, which notes when the socket is full: otherwise the task would find
            // the socket writable at once, again and again.
            let written = stream.try_io(Interest::WRITABLE, || {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(stream, &bytes[sent..], flags).map_err(io::Error::from)
            });
            match written {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot send");
                    result = Err(SendFailed);
                }
            }
        }
        if queue.kernel.wrote(sent) {
            self.look_at_kernel(queue);
        }
        result.map(|()| sent)
    }

    fn queue(&self, queue: &mut SendQueue, replies: &mut Vec<u8>, sent: usize) {
        self.memory.take(queue.append(replies, sent, || self.buffers.take()));
    }

    fn flush(&self, queue: &mut SendQueue) -> Result<usize, SendFailed> {
        let mut written = 0;
        while let Some(first) = queue.replies.pop_front() {
            let at = queue.sent;
            let n = self.write(queue, &first[at..])?;
            written += n;
            if at + n < first.len() {
                queue.sent += n;
                queue.replies.push_front(first);
                break;
            }
            queue.sent = 0;
            queue.charged -= first.capacity();
            self.memory.give(first.capacity());
            self.buffers.give(first);
        }
        Ok(written)
    }
}

impl ReplySink for Outbox {
    fn send(&self, reply: &[u8]) {
        let mut marked = self.buffers.take();
        marked.extend_from_slice(&record::FragmentHeader::whole(reply.len()).to_be_bytes());
        marked.extend_from_slice(reply);
        self.push(&mut marked);
        self.buffers.give(marked);
    }

    fn is_reachable(&self) -> bool {
        !self.is_broken()
    }

    /// The client must send the call again. The connection's task does the rest: dropping parked
    /// calls here could call this again, for the connections that wait for their replies.
    fn mark_lost(&self) {
        self.handover.fail();
    }
}

#[cfg(test)]
mod tests;
