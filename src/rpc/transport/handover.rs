//! The hand-over of replies from the threads that answer calls to the task of their connection.
//!
//! ```text
//!               push: the socket takes all           close, fail, a failed send
//!                      +----+                    +--------------------------------+
//!                      v    |                    |                                v
//!                    +--------+  push: it takes a part; post  +--------+     +--------+
//!                    | empty  | ----------------------------> | unsent | --> | broken |
//!                    |        | <---------------------------- |        |     |        |
//!                    +--------+   flush: the queue is sent    +--------+     +--------+
//! ```
//!
//! `broken` is final: the queue is dropped, and later replies are discarded.
//!
//! The task sleeps on [`Handover::wake`]. No wake-up is lost:
//! - Every change that the task may wait for is made before the notification: `unsent` grows, or
//!   `broken` is set, before [`Notify::notify_one`], which keeps a notification until the task
//!   waits.
//! - Only the reply that makes the queue non-empty notifies if it is posted. Replies behind it find
//!   the queue non-empty under the lock, so the task has not taken the first one yet, and takes
//!   both.
//! - `calls` and `bytes` notify only while the task watches them. A thread changes them and then
//!   reads `watched`; the task sets `watched` and then reads them. Both are sequentially
//!   consistent, so at least one of the two sees the other's change.
//!
//! This file has no I/O, and takes its primitives from [`super::sync`]: `tests/loom` runs it under
//! a model checker, in all orders that the memory model allows.

use std::sync::Arc;

use super::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Notify, Ordering};

/// The connection cannot send any more.
#[derive(Debug)]
pub struct SendFailed;

/// A socket with a queue `Q` of unsent replies. All methods are called under the lock of the
/// hand-over.
pub trait Transmit<Q> {
    /// Whether no reply is queued.
    fn is_empty(&self, queue: &Q) -> bool;

    /// Sends a part of `replies`, as much as the socket takes without blocking; returns how many
    /// bytes that was.
    ///
    /// # Errors
    /// The connection is broken.
    fn write(&self, queue: &mut Q, replies: &[u8]) -> Result<usize, SendFailed>;

    /// Queues `replies`, of which the first bytes are `sent`. May take the buffer.
    fn queue(&self, queue: &mut Q, replies: &mut Vec<u8>, sent: usize);

    /// Sends the queue as far as the socket takes it without blocking; returns how many bytes that
    /// was.
    ///
    /// # Errors
    /// The connection is broken.
    fn flush(&self, queue: &mut Q) -> Result<usize, SendFailed>;
}

/// The unsent replies and the unanswered calls of a connection.
pub struct Handover<Q> {
    /// Wakes the connection's task.
    pub wake: Arc<Notify>,
    queue: Mutex<Q>,
    /// Bytes in the queue. Changed under its lock, and read without: a sender keeps the lock for as
    /// long as the kernel takes.
    unsent: AtomicUsize,
    broken: AtomicBool,
    /// Calls that were started and have not ended.
    calls: AtomicUsize,
    /// Bytes of these calls.
    bytes: AtomicUsize,
    /// Whether the task waits for calls to end.
    watched: AtomicBool,
}

impl<Q> Handover<Q> {
    /// Creates a hand-over without calls and with an empty `queue`.
    pub fn new(queue: Q, wake: Arc<Notify>) -> Self {
        Self {
            wake,
            queue: Mutex::new(queue),
            unsent: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
        }
    }

    /// Locks the queue. Must not be held while a call is dropped, which may lock it, too.
    pub fn lock(&self) -> MutexGuard<'_, Q> {
        self.queue.lock()
    }

    /// Sends `replies`, behind those that are queued, and empties the buffer. Does not block. What
    /// the socket does not take is queued, and the task is notified.
    pub fn push(&self, socket: &impl Transmit<Q>, replies: &mut Vec<u8>) {
        let mut queue = self.lock();
        let mut sent = 0;
        if socket.is_empty(&queue) && !self.is_broken() {
            match socket.write(&mut queue, replies) {
                Ok(written) => sent = written,
                Err(SendFailed) => self.fail(),
            }
        }
        if self.is_broken() || sent == replies.len() {
            return replies.clear();
        }
        self.queue(socket, &mut queue, replies, sent);
        drop(queue);
        self.wake.notify_one();
    }

    /// Queues `reply` for the task, which sends together what came together, and empties the
    /// buffer. The reply of the only call is sent at once. Does not block.
    pub fn post(&self, socket: &impl Transmit<Q>, reply: &mut Vec<u8>) {
        if self.calls.load(Ordering::SeqCst) == 1 {
            return self.push(socket, reply);
        }
        let mut queue = self.lock();
        if self.is_broken() {
            return reply.clear();
        }
        let is_first = socket.is_empty(&queue);
        self.queue(socket, &mut queue, reply, 0);
        drop(queue);
        if is_first {
            self.wake.notify_one();
        }
    }

    fn queue(&self, socket: &impl Transmit<Q>, queue: &mut Q, replies: &mut Vec<u8>, sent: usize) {
        self.unsent.fetch_add(replies.len() - sent, Ordering::SeqCst);
        socket.queue(queue, replies, sent);
        replies.clear();
    }

    /// Sends what is queued, as far as the socket takes it; returns whether it took anything. Does
    /// not block.
    ///
    /// # Errors
    /// The connection is broken. The caller must [`Handover::close`] it.
    pub fn flush(&self, socket: &impl Transmit<Q>) -> Result<bool, SendFailed> {
        let mut queue = self.lock();
        let written = socket.flush(&mut queue).inspect_err(|_| {
            // Under the lock: a push must not send behind a reply that was cut off.
            self.broken.store(true, Ordering::SeqCst);
        })?;
        self.unsent.fetch_sub(written, Ordering::SeqCst);
        Ok(written > 0)
    }

    /// How many bytes are queued.
    pub fn unsent(&self) -> usize {
        self.unsent.load(Ordering::SeqCst)
    }

    /// Whether no reply can be sent any more.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// Marks the connection broken, and notifies the task, which closes it. Takes no lock.
    pub fn fail(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// Marks the connection broken, notifies the task, and returns what was queued, without the
    /// lock.
    pub fn close(&self) -> Q
    where
        Q: Default,
    {
        let mut queue = self.lock();
        self.broken.store(true, Ordering::SeqCst);
        self.unsent.store(0, Ordering::SeqCst);
        let rest = std::mem::take(&mut *queue);
        drop(queue);
        self.wake.notify_one();
        rest
    }

    /// How many calls have not ended.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// How many bytes these calls have.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Notes that a call of so many bytes was started.
    pub fn started(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Notes that a call which has not ended needs so many bytes less.
    pub fn shrank(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.notify_watcher();
    }

    /// Notes that a call ended, which had so many bytes left. Its reply must have been pushed or
    /// posted before.
    pub fn ended(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.calls.fetch_sub(1, Ordering::SeqCst);
        self.notify_watcher();
    }

    fn notify_watcher(&self) {
        if self.watched.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Returns whether another call `fits`, which looks at [`Handover::calls`] and
    /// [`Handover::bytes`]. If not, the task is notified of every change of these. For the task.
    pub fn has_room(&self, fits: impl Fn() -> bool) -> bool {
        if fits() {
            self.watched.store(false, Ordering::Relaxed);
            return true;
        }
        self.watch();
        // A call may have ended after the first look and before it could see that it is watched.
        fits()
    }

    /// Has every call that ends notify the task, which must look at [`Handover::calls`] afterwards.
    pub fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }
}
