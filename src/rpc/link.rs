//! What the threads that answer a connection's calls share: its socket, and replies to be sent.
//!
//! Whoever has a reply sends it itself if nobody else's waits; only what the socket does not take
//! is queued, and the connection's own task sends that when the socket is writable again.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::buffers::Buffers;
use super::pool::Job;
use super::record;
use super::room::Room;
use super::service::Reply;

/// Unsent bytes above which no further call is started. One reply more may come on top.
const UNSENT_MAX: usize = 1024 * 1024;

/// Small replies are joined up to this size.
const TOGETHER: usize = 64 * 1024;

/// Calls of one connection that wait for a thread, run on one, or wait for their results.
const CALLS_MAX: usize = 256;

/// Bytes of such calls.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// A connection, as its task and the pool's threads share it.
pub struct Link {
    /// The socket; reading it is for the connection's task alone.
    pub stream: TcpStream,
    /// Wakes the task: bytes wait for the socket, or there is room for calls again.
    pub wake: Notify,
    buffers: Arc<Buffers>,
    room: Arc<Room>,
    outbox: Mutex<Outbox>,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    /// Whether the task waits for calls to end.
    watched: AtomicBool,
}

#[derive(Default)]
struct Outbox {
    queue: VecDeque<Vec<u8>>,
    /// Bytes of the first in the queue that are sent.
    sent: usize,
    unsent: usize,
    broken: bool,
    /// Calls that must not run before there is room for their replies.
    parked: Vec<Job>,
}

impl Outbox {
    /// Leaves nothing to be sent; gives back what was, to be dropped without the lock.
    fn break_off(&mut self) -> Self {
        std::mem::replace(self, Self { broken: true, ..Self::default() })
    }
}

impl Link {
    /// Wraps a connected socket.
    pub fn new(stream: TcpStream, buffers: Arc<Buffers>, room: Arc<Room>) -> Self {
        Self {
            stream,
            wake: Notify::new(),
            buffers,
            room,
            outbox: Mutex::default(),
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
        }
    }

    /// Sends marked replies, and empties `replies`. Does not block: what the socket does not take
    /// is sent by [`Link::flush`].
    pub fn push(&self, replies: &mut Vec<u8>) {
        let mut outbox = self.outbox();
        let mut sent = 0;
        if outbox.queue.is_empty() && !outbox.broken {
            sent = self.write(replies, &mut outbox.broken);
        }
        if outbox.broken || sent == replies.len() {
            replies.clear();
            return;
        }
        if outbox.queue.is_empty() {
            outbox.sent = sent;
        }
        outbox.unsent += replies.len() - sent;
        outbox.queue.push_back(std::mem::replace(replies, self.buffers.take()));
        drop(outbox);
        self.wake.notify_one();
    }

    /// Queues a marked reply for the connection's task, which sends together what came together;
    /// what comes alone is sent at once. Empties `reply`.
    pub fn post(&self, reply: &mut Vec<u8>) {
        if self.calls.load(Ordering::SeqCst) == 1 {
            return self.push(reply);
        }
        let mut outbox = self.outbox();
        if outbox.broken {
            return;
        }
        let (is_first, len) = (outbox.queue.is_empty(), reply.len());
        match outbox.queue.back_mut() {
            Some(last) if last.len() + len <= TOGETHER => last.extend_from_slice(reply),
            _ => outbox.queue.push_back(std::mem::take(reply)),
        }
        if is_first {
            outbox.sent = 0;
        }
        outbox.unsent += len;
        reply.clear();
        drop(outbox);
        if is_first {
            self.wake.notify_one(); // otherwise the task knows already
        }
    }

    /// Sends what waits, as far as the socket takes it; answers how many bytes that was.
    pub fn flush(&self) -> usize {
        let mut outbox = self.outbox();
        let before = outbox.unsent;
        while let Some(first) = outbox.queue.pop_front() {
            let at = outbox.sent;
            let n = self.write(&first[at..], &mut outbox.broken);
            if outbox.broken {
                let left = outbox.break_off();
                drop(outbox);
                drop(left);
                return 0;
            }
            outbox.unsent -= n;
            if at + n < first.len() {
                outbox.sent += n;
                outbox.queue.push_front(first);
                break;
            }
            outbox.sent = 0;
            self.buffers.give(first);
        }
        before - outbox.unsent
    }

    /// Writes to the socket until it takes no more; answers how much it took.
    fn write(&self, bytes: &[u8], broken: &mut bool) -> usize {
        let mut sent = 0;
        while sent < bytes.len() && !*broken {
            // Through try_io, because that notes when the socket is full: otherwise the task
            // would be told at once that it is writable, again and again.
            let written = self.stream.try_io(Interest::WRITABLE, || {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                send(&self.stream, &bytes[sent..], flags).map_err(io::Error::from)
            });
            match written {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot send");
                    *broken = true;
                }
            }
        }
        sent
    }

    /// Keeps a call that is about to run, if the peer does not take the replies that it has: the
    /// pool could fill the memory with replies of one megabyte each. Gives it back otherwise.
    pub fn park(&self, job: Job) -> Option<Job> {
        let mut outbox = self.outbox();
        if outbox.broken || outbox.unsent <= UNSENT_MAX {
            return Some(job);
        }
        outbox.parked.push(job);
        None
    }

    /// The calls that were parked, if there is room again.
    pub fn unpark(&self) -> Vec<Job> {
        let mut outbox = self.outbox();
        if outbox.unsent <= UNSENT_MAX { std::mem::take(&mut outbox.parked) } else { Vec::new() }
    }

    /// Whether replies wait for the socket.
    pub fn has_unsent(&self) -> bool {
        self.outbox().unsent > 0
    }

    /// Whether the peer is gone.
    pub fn is_broken(&self) -> bool {
        self.outbox().broken
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
            && (bytes == 0 || bytes < BYTES_MAX && self.room.is_left())
            && self.outbox().unsent <= UNSENT_MAX
    }

    /// Whether every call that was handed to the pool is answered.
    pub fn is_settled(&self) -> bool {
        self.calls.load(Ordering::SeqCst) == 0
    }

    /// Notes that a call of `bytes` was handed to the pool.
    pub fn started(&self, bytes: usize) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        self.room.take(bytes);
    }

    /// Gives the connection up: it ended, or a call of it cannot be answered, and the client must
    /// ask again.
    pub fn give_up(&self) {
        let outbox = self.outbox().break_off();
        self.wake.notify_one();
        drop(outbox); // not under the lock: parked calls that are dropped come here, too
    }

    /// Notes that the task reads no more, and waits for the last call to end.
    pub fn finishing(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// Notes that a call which is not at its end needs so many bytes no more.
    pub fn shrank(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.room.give(bytes);
        if self.watched.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Notes that a call ended; its reply was pushed before.
    pub fn ended(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.room.give(bytes);
        self.calls.fetch_sub(1, Ordering::SeqCst);
        if self.watched.load(Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reply for Link {
    fn send(&self, reply: &[u8]) {
        let mut marked = self.buffers.take();
        marked.extend_from_slice(&record::Header::whole(reply.len()).to_be_bytes());
        marked.extend_from_slice(reply);
        self.push(&mut marked);
        self.buffers.give(marked);
    }
}
