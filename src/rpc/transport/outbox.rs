//! The replies of a connection, from the threads that answer its calls to its socket.
//!
//! A thread that has a reply sends it itself, if no earlier reply waits. What the socket does not
//! take is queued, and the connection's task sends it when the socket is writable again.
//!
//! ```text
//!               push: the socket takes all            give_up, lost, a failed send
//!                      +----+                    +---------------------------------+
//!                      v    |                    |                                 v
//!                    +--------+  push: it takes a part; post  +---------+    +--------+
//!                    | empty  | ----------------------------> | unsent  | -> | broken |
//!                    |        | <---------------------------- |         |    |        |
//!                    +--------+   flush: the queue is sent    +---------+    +--------+
//! ```
//!
//! While much is unsent, [`Outbox::has_room`] is false and no call is started; calls that are about
//! to run are parked, and resumed by the task when the queue is short again. `broken` is final: the
//! queue is dropped, the socket is closed, and replies that come later go nowhere.
//!
//! The task sleeps on [`Outbox::wake`]. Each change that it may wait for is made before the
//! wake-up: `unsent` grows before a push notifies, and `calls` and `bytes` shrink before
//! [`Outbox::ended`] looks at `watched`. The task sets `watched` before it looks at them for the
//! last time, so one of the two sees the other.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::buffers::Buffers;
use super::memory_budget::{Account, Peer};
use super::progress::Progress;
use super::sent::Sent;
use crate::rpc::record;
use crate::rpc::service::ReplySink;

/// Unsent bytes above which no further call is started. One reply more may come on top.
const UNSENT_MAX: usize = 1024 * 1024;

/// Small replies are joined up to this size, and those up to it are copied rather than kept in the
/// large buffer that they were written into.
const TOGETHER: usize = 64 * 1024;

/// Calls of one connection that wait for a thread, run on one, or wait for their results.
const CALLS_MAX: usize = 256;

/// Bytes of such calls and of what their replies may have: a connection must not take all that its
/// address may hold, and 16 of the largest keep a disk busy.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A call that must not run before there is room for its reply.
pub trait Parked: Send {
    /// Has the call run. Does not block.
    fn resume(self: Box<Self>);
}

/// A connection, as its task and the pool's threads share it.
pub struct Outbox {
    /// Wakes the task: bytes wait for the socket, or there is room for calls again.
    pub wake: Arc<Notify>,
    /// What the connection holds of the memory budget.
    pub account: Arc<Account>,
    buffers: Arc<Buffers>,
    state: Mutex<SendState>,
    /// Bytes in the queue, and whether the peer is gone: changed under its lock, and looked at
    /// without, because whoever sends holds that for as long as the kernel takes.
    unsent: AtomicUsize,
    broken: AtomicBool,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether the task waits for calls to end.
    watched: AtomicBool,
    progress: Progress,
    /// Whether the kernel holds replies that are charged to the account, as of the last look.
    is_behind: AtomicBool,
}

#[derive(Default)]
struct SendState {
    /// The socket, until the connection is given up: calls that go on after that must not keep it
    /// open, or peers could use up all descriptors by connections that they reset.
    stream: Option<Arc<TcpStream>>,
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first in the queue that are sent.
    sent: usize,
    /// The capacities of what is in the queue, which are charged to the account.
    charged: usize,
    kernel: Sent,
    /// Calls that must not run before there is room for their replies.
    parked: Vec<Box<dyn Parked>>,
}

impl SendState {
    /// Queues `replies`, of which the first bytes are `sent`, and leaves it empty; answers how many
    /// bytes more the queue holds.
    fn queue(
        &mut self,
        replies: &mut Vec<u8>,
        sent: usize,
        fresh: impl FnOnce() -> Vec<u8>,
    ) -> usize {
        let rest = replies.len() - sent;
        let is_first = self.queue.is_empty();
        let more = match self.queue.back_mut() {
            Some(last) if last.len() + rest <= TOGETHER => {
                let before = last.capacity();
                last.extend_from_slice(&replies[sent..]);
                last.capacity() - before
            }
            _ if rest <= TOGETHER => {
                self.queue.push_back(replies[sent..].to_vec());
                rest
            }
            _ => {
                let whole = std::mem::replace(replies, fresh());
                let capacity = whole.capacity();
                self.queue.push_back(whole);
                self.sent = if is_first { sent } else { self.sent };
                self.charged += capacity;
                return capacity;
            }
        };
        if is_first {
            self.sent = 0;
        }
        replies.clear();
        self.charged += more;
        more
    }
}

impl Outbox {
    /// Wraps a connected socket, whose memory is charged to `peer`.
    pub fn new(stream: TcpStream, buffers: Arc<Buffers>, peer: &Arc<Peer>) -> Self {
        let wake = Arc::<Notify>::default();
        let state = SendState { stream: Some(Arc::new(stream)), ..SendState::default() };
        Self {
            account: Account::new(peer, Arc::clone(&wake)),
            wake,
            buffers,
            state: Mutex::new(state),
            unsent: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            progress: Progress::new(Instant::now()),
            is_behind: AtomicBool::new(false),
        }
    }

    /// The socket; reading it is for the connection's task alone. `None`: the connection was given
    /// up.
    pub fn stream(&self) -> Option<Arc<TcpStream>> {
        self.lock().stream.clone()
    }

    /// Whether the connection moves.
    pub const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Notes that a call was complete `at` this time, or begins, or had waited for memory until
    /// then. While replies wait, a peer is judged by what it takes of them: calls are cheaper.
    pub fn called(&self, at: Instant) {
        if !self.is_owed() {
            self.progress.begin(at);
        }
    }

    /// Whether replies wait for the socket, or the kernel holds many.
    pub fn is_owed(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed) || self.has_unsent()
    }

    /// Looks at what the peer has taken by `now` of the replies that are owed to it. A system call.
    pub fn look(&self, now: Instant) {
        let mut state = self.lock();
        if let SendState { stream: Some(stream), kernel, .. } = &mut *state {
            let unsent = self.unsent.load(Ordering::SeqCst);
            kernel.look(unsent, stream, &self.account, (&self.progress, now));
            self.note_behind(kernel);
        }
    }

    /// Charges the account if the address may hold so many bytes more, as [`Account::admit`].
    pub fn admit(&self, bytes: usize) -> bool {
        if self.is_behind.load(Ordering::Relaxed) && !self.account.fits(bytes) {
            self.look_at_kernel(&mut self.lock()); // it may hold less by now
        }
        self.account.admit(bytes)
    }

    fn look_at_kernel(&self, state: &mut SendState) {
        if let SendState { stream: Some(stream), kernel, .. } = state {
            kernel.charge(stream, &self.account);
            self.note_behind(kernel);
        }
    }

    fn note_behind(&self, kernel: &Sent) {
        let is_behind = kernel.charged() > 0 || kernel.is_limited();
        self.is_behind.store(is_behind, Ordering::Relaxed);
    }

    /// Sends marked replies, and empties `replies`. Does not block: what the socket does not take
    /// is sent by [`Outbox::flush`].
    pub fn push(&self, replies: &mut Vec<u8>) {
        let mut state = self.lock();
        let mut sent = 0;
        if state.queue.is_empty() && !self.is_broken() {
            sent = self.write(&mut state, replies);
        }
        if self.is_broken() || sent == replies.len() {
            replies.clear();
            return;
        }
        self.queue(&mut state, replies, sent);
        drop(state);
        self.wake.notify_one();
    }

    fn queue(&self, state: &mut SendState, replies: &mut Vec<u8>, sent: usize) {
        self.unsent.fetch_add(replies.len() - sent, Ordering::SeqCst);
        self.account.take(state.queue(replies, sent, || self.buffers.take()));
    }

    /// Queues a marked reply for the connection's task, which sends together what came together;
    /// what comes alone is sent at once. Empties `reply`.
    pub fn post(&self, reply: &mut Vec<u8>) {
        if self.calls.load(Ordering::SeqCst) == 1 {
            return self.push(reply);
        }
        let mut state = self.lock();
        if self.is_broken() {
            return;
        }
        let is_first = state.queue.is_empty();
        self.queue(&mut state, reply, 0);
        drop(state);
        if is_first {
            self.wake.notify_one(); // otherwise the task knows already
        }
    }

    /// Sends what waits, as far as the socket takes it; returns whether it took anything.
    pub fn flush(&self) -> bool {
        let mut state = self.lock();
        let mut written = 0;
        while let Some(first) = state.queue.pop_front() {
            let at = state.sent;
            let n = self.write(&mut state, &first[at..]);
            if self.is_broken() {
                self.break_off(state);
                return false;
            }
            written += n;
            self.unsent.fetch_sub(n, Ordering::SeqCst);
            if at + n < first.len() {
                state.sent += n;
                state.queue.push_front(first);
                break;
            }
            state.sent = 0;
            state.charged -= first.capacity();
            self.account.give(first.capacity());
            self.buffers.give(first);
        }
        written > 0
    }

    /// Writes to the socket until it takes no more; returns how much it took.
    fn write(&self, state: &mut SendState, bytes: &[u8]) -> usize {
        let mut sent = 0;
        let Some(stream) = &state.stream else { return 0 };
        while sent < bytes.len() && !self.is_broken() {
            // Through try_io, because that notes when the socket is full: otherwise the task
            // would be told at once that it is writable, again and again.
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
                    self.broken.store(true, Ordering::SeqCst);
                }
            }
        }
        if state.kernel.wrote(sent) {
            self.look_at_kernel(state);
        }
        sent
    }

    /// How many bytes of replies the peer has acknowledged since the start. A system call.
    pub fn acknowledged(&self) -> u64 {
        let state = self.lock();
        state.stream.as_ref().map_or(0, |stream| state.kernel.acknowledged(stream))
    }

    /// Keeps a call that is about to run if the peer does not take the replies that it has: the
    /// pool could fill the memory with replies of one megabyte each. Gives the call back otherwise.
    pub fn park<T: Parked + 'static>(&self, call: Box<T>) -> Option<Box<T>> {
        let mut state = self.lock();
        if self.is_broken() || !self.is_full() {
            return Some(call);
        }
        state.parked.push(call);
        None
    }

    /// Resumes the calls that were parked, if there is room again.
    pub fn unpark(&self) {
        let mut state = self.lock();
        if self.is_full() {
            return;
        }
        let parked = std::mem::take(&mut state.parked);
        drop(state);
        parked.into_iter().for_each(Parked::resume);
    }

    /// Whether replies wait for the socket.
    pub fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::SeqCst) > 0
    }

    /// Whether so much waits that no further call may be started.
    fn is_full(&self) -> bool {
        let unsent = self.unsent.load(Ordering::SeqCst);
        unsent > UNSENT_MAX || unsent > TOGETHER && self.account.is_over()
    }

    /// Whether the peer is gone.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Whether another call may be started. If not, the task is woken when it may.
    pub fn has_room(&self) -> bool {
        if self.fits() {
            self.watched.store(false, Ordering::Relaxed);
            return true;
        }
        self.watched.store(true, Ordering::SeqCst);
        // Between the look and the note a call may have ended that did not see the note.
        self.fits()
    }

    fn fits(&self) -> bool {
        let bytes = self.bytes.load(Ordering::SeqCst);
        self.calls.load(Ordering::SeqCst) < CALLS_MAX
            && (bytes == 0 || bytes < BYTES_MAX && !self.account.is_over())
            && !self.is_full()
    }

    /// Whether every call that was handed to the pool is answered.
    pub fn is_settled(&self) -> bool {
        self.calls.load(Ordering::SeqCst) == 0
    }

    /// Notes that a call of `bytes`, with what its reply may have, was handed to the pool.
    pub fn started(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.account.take(bytes);
    }

    /// Gives the connection up: it ended, or a call of it cannot be answered, and the client must
    /// ask again.
    pub fn give_up(&self) {
        self.break_off(self.lock());
        self.wake.notify_one();
    }

    /// Leaves nothing to be sent, and lets go of the socket.
    fn break_off(&self, mut state: MutexGuard<'_, SendState>) {
        self.broken.store(true, Ordering::SeqCst);
        self.unsent.store(0, Ordering::SeqCst);
        self.is_behind.store(false, Ordering::Relaxed);
        let left = std::mem::take(&mut *state);
        drop(state);
        self.account.give(left.charged + left.kernel.charged());
        drop(left); // not under the lock: parked calls that are dropped come here, too
    }

    /// Notes that the task reads no more, and waits for the last call to end.
    pub fn finishing(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// Notes that a call which is not at its end needs so many bytes no more.
    pub fn shrank(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.account.give(bytes);
        if self.watched.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Notes that a call ended; its reply was pushed before.
    pub fn ended(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.account.give(bytes);
        self.calls.fetch_sub(1, Ordering::SeqCst);
        if self.watched.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, SendState> {
        self.state.lock()
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

    /// The client must ask again. The connection's task does the rest: parked calls that are
    /// dropped may have others who wait for them, and so on.
    fn mark_lost(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}
