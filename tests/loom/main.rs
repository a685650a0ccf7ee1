//! Runs the hand-over of replies under a model checker: every scenario in all orders of the steps
//! of its threads, and with all values that the memory model allows a thread to see. A wake-up that
//! is lost is reported as a deadlock.

#![allow(clippy::unwrap_used)] // a test

#[path = "../../src/rpc/transport/handover.rs"]
#[allow(dead_code, missing_docs)]
mod handover;
mod sync;

use std::sync::{Arc, Mutex};

use handover::{Handover, SendFailed, Transmit};
use loom::model::Builder;
use loom::thread;
use sync::{MAPPING, Mapping};

/// Replies that are not sent.
type Queue = Vec<u8>;

/// A socket that is writable whenever the task looks.
#[derive(Default)]
struct Socket {
    /// How many bytes it takes at a time.
    takes: usize,
    /// Whether it takes that many bytes and then fails.
    fails: bool,
    sent: Mutex<Vec<u8>>,
}

impl Transmit<Queue> for Socket {
    fn is_empty(&self, queue: &Queue) -> bool {
        queue.is_empty()
    }

    fn write(&self, _queue: &mut Queue, replies: &[u8]) -> Result<usize, SendFailed> {
        let taken = replies.len().min(self.takes);
        self.sent.lock().unwrap().extend(&replies[..taken]);
        if self.fails { Err(SendFailed) } else { Ok(taken) }
    }

    fn queue(&self, queue: &mut Queue, replies: &mut Vec<u8>, sent: usize) {
        queue.extend(&replies[sent..]);
    }

    fn flush(&self, queue: &mut Queue) -> Result<usize, SendFailed> {
        let first = std::mem::take(queue);
        let taken = self.write(queue, &first)?;
        queue.extend(&first[taken..]);
        Ok(taken)
    }
}

struct Connection {
    handover: Handover<Queue>,
    socket: Socket,
}

impl Connection {
    /// A connection with so many calls of one byte each.
    fn new(calls: usize, socket: Socket) -> Arc<Self> {
        let handover = Handover::new(Queue::new(), Arc::default());
        (0..calls).for_each(|_| handover.started(1));
        Arc::new(Self { handover, socket })
    }

    /// Runs `work` on another thread.
    fn spawn(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let connection = Arc::clone(self);
        thread::spawn(move || work(&connection))
    }

    fn push(&self, replies: &[u8]) {
        let mut replies = replies.to_vec();
        self.handover.push(&self.socket, &mut replies);
        assert!(replies.is_empty());
    }

    fn post(&self, reply: &[u8]) {
        let mut reply = reply.to_vec();
        self.handover.post(&self.socket, &mut reply);
        assert!(reply.is_empty());
    }

    /// The task, when nothing more is read: sends what is queued until the last call has ended.
    fn drain(&self) {
        let Self { handover, socket } = self;
        loop {
            if handover.is_broken() {
                drop(handover.close());
                return;
            }
            handover.watch();
            if handover.calls() == 0 && handover.unsent() == 0 {
                return;
            }
            if handover.unsent() == 0 {
                handover.wake.wait();
            } else {
                let _ = handover.flush(socket);
            }
        }
    }

    /// The task, while it reads and watches no calls: sends what is queued, until so many bytes are
    /// sent.
    fn send(&self, len: usize) {
        self.handover.has_room(|| true);
        while self.sent().len() < len {
            if self.handover.unsent() == 0 {
                self.handover.wake.wait();
            } else {
                self.handover.flush(&self.socket).unwrap();
            }
        }
    }

    /// The task, when no more is read because the `load` is too high.
    fn wait_for_room(&self, load: fn(&Handover<Queue>) -> usize) {
        while !self.handover.has_room(|| load(&self.handover) == 0) {
            self.handover.wake.wait();
        }
    }

    fn sent(&self) -> Vec<u8> {
        self.socket.sent.lock().unwrap().clone()
    }
}

fn check(scenario: fn()) {
    for mapping in [Mapping::AfterStores, Mapping::BeforeLoads] {
        MAPPING.set(mapping);
        let mut model = Builder::new();
        model.preemption_bound = Some(2);
        model.check(scenario);
    }
}

#[test]
fn what_the_socket_does_not_take_is_sent_by_the_task() {
    check(|| {
        let connection = Connection::new(1, Socket { takes: 1, ..Socket::default() });
        let call = connection.spawn(|connection| connection.push(&[1, 2]));
        connection.send(2);
        call.join().unwrap();
        assert_eq!(connection.sent(), [1, 2]);
    });
}

#[test]
fn replies_that_are_posted_together_are_all_sent() {
    check(|| {
        let connection = Connection::new(2, Socket { takes: 9, ..Socket::default() });
        let calls = [1, 2].map(|call| connection.spawn(move |connection| connection.post(&[call])));
        connection.send(2);
        calls.into_iter().for_each(|call| call.join().unwrap());
        let mut sent = connection.sent();
        sent.sort_unstable();
        assert_eq!(sent, [1, 2]);
    });
}

#[test]
fn a_reply_is_sent_before_the_end_of_its_call_is_seen() {
    check(|| {
        let connection = Connection::new(1, Socket { takes: 1, ..Socket::default() });
        let call = connection.spawn(|connection| {
            connection.push(&[1, 2]);
            connection.handover.ended(1);
        });
        connection.drain();
        call.join().unwrap();
        assert_eq!(connection.sent(), [1, 2]);
    });
}

#[test]
fn a_reply_is_not_sent_into_another_one() {
    check(|| {
        let connection = Connection::new(2, Socket { takes: 1, ..Socket::default() });
        let posted = connection.spawn(|connection| {
            connection.post(&[3, 4]);
            connection.handover.ended(1);
        });
        let pushed = connection.spawn(|connection| {
            connection.push(&[1, 2]);
            connection.handover.ended(1);
        });
        connection.drain();
        [posted, pushed].into_iter().for_each(|call| call.join().unwrap());
        assert!([[1, 2, 3, 4], [3, 4, 1, 2]].contains(&connection.sent().try_into().unwrap()));
    });
}

#[test]
fn a_call_that_ends_makes_room_for_the_next() {
    check(|| {
        let connection = Connection::new(1, Socket::default());
        let call = connection.spawn(|connection| connection.handover.ended(1));
        connection.wait_for_room(Handover::calls);
        call.join().unwrap();
    });
}

#[test]
fn a_call_that_shrinks_makes_room_for_the_next() {
    check(|| {
        let connection = Connection::new(1, Socket::default());
        let call = connection.spawn(|connection| connection.handover.shrank(1));
        connection.wait_for_room(Handover::bytes);
        call.join().unwrap();
    });
}

#[test]
fn a_task_that_found_room_watches_again_when_there_is_none() {
    check(|| {
        let connection = Connection::new(1, Socket::default());
        connection.handover.watch();
        let call = connection.spawn(|connection| connection.handover.ended(1));
        connection.handover.has_room(|| true);
        connection.wait_for_room(Handover::calls);
        call.join().unwrap();
    });
}

#[test]
fn a_failed_send_wakes_the_task() {
    check(|| {
        let connection = Connection::new(1, Socket { fails: true, ..Socket::default() });
        // Another call of the connection goes on, so that none ends and wakes the task.
        let call = connection.spawn(|connection| connection.push(&[1]));
        connection.drain();
        call.join().unwrap();
        assert!(connection.handover.is_broken());
    });
}

#[test]
fn nothing_is_kept_of_a_reply_to_a_connection_that_was_closed() {
    check(|| {
        let connection = Connection::new(2, Socket::default());
        let pushed = connection.spawn(|connection| connection.push(&[1]));
        let posted = connection.spawn(|connection| connection.post(&[2]));
        connection.handover.fail();
        connection.drain();
        [pushed, posted].into_iter().for_each(|call| call.join().unwrap());
        assert_eq!((connection.handover.unsent(), connection.handover.lock().len()), (0, 0));
    });
}

#[test]
fn a_connection_may_be_closed_while_the_task_sends() {
    check(|| {
        let connection = Connection::new(2, Socket { takes: 9, ..Socket::default() });
        connection.post(&[1]);
        let closed = connection.spawn(|connection| drop(connection.handover.close()));
        let _ = connection.handover.flush(&connection.socket);
        closed.join().unwrap();
        assert_eq!((connection.handover.unsent(), connection.handover.lock().len()), (0, 0));
    });
}

#[test]
fn nothing_is_sent_behind_a_reply_that_was_cut_off() {
    check(|| {
        let connection = Connection::new(2, Socket { takes: 1, fails: true, ..Socket::default() });
        connection.handover.wake.notify_one();
        connection.post(&[1, 2]);
        let call = connection.spawn(|connection| connection.push(&[3]));
        connection.drain();
        call.join().unwrap();
        assert_eq!(connection.sent(), [1]);
    });
}
