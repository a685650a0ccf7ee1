//! What is sent, queued, parked and discarded.

use super::*;
use crate::rpc::transport::fixture::Line;
use std::sync::atomic::AtomicUsize;
use tokio::io::AsyncReadExt;

/// Bytes that are easily told from one another.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

fn push(line: &Line, replies: &[u8]) {
    let mut replies = replies.to_vec();
    line.outbox.push(&mut replies);
    assert!(replies.is_empty());
}

fn post(line: &Line, reply: &[u8]) {
    let mut reply = reply.to_vec();
    line.outbox.post(&mut reply);
    assert!(reply.is_empty());
}

fn start(line: &Line, calls: usize, bytes: usize) {
    (0..calls).for_each(|_| line.outbox.started(bytes));
}

fn queued(line: &Line) -> usize {
    line.outbox.handover.lock().replies.len()
}

/// Counts how often it is resumed or dropped.
struct Counted(Arc<AtomicUsize>, Option<Arc<Outbox>>);

impl ParkedCall for Counted {
    fn resume(self: Box<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(100, Ordering::Relaxed);
        self.1.iter().for_each(|outbox| outbox.give_up());
    }
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_queued_and_sent_in_order() {
    let mut line = Line::new().await;
    push(&line, b"short");
    assert!(!line.outbox.has_unsent() && !line.is_notified());
    let large = bytes(1 << 20);
    push(&line, &large);
    assert!(line.outbox.has_unsent() && line.is_notified());
    push(&line, b"behind it");
    assert!(line.is_notified());
    assert_eq!(line.read(5 + large.len() + 9).await, [b"short", &*large, b"behind it"].concat());
    assert!(!line.outbox.has_unsent());
    let queue = line.outbox.handover.lock();
    assert_eq!((queue.charged, queue.replies.len()), (0, 0));
}

#[tokio::test]
async fn small_replies_are_joined_and_large_ones_are_not_copied() {
    let mut line = Line::new().await;
    let large = bytes(1 << 20);
    let mut buffer = large.clone();
    let place = buffer.as_ptr();
    line.outbox.push(&mut buffer);
    assert_eq!(line.outbox.handover.lock().replies[0].as_ptr(), place);
    let small = bytes(TOGETHER / 4);
    (0..8).for_each(|_| push(&line, &small));
    assert_eq!(queued(&line), 3);
    {
        let queue = line.outbox.handover.lock();
        let held = queue.replies.iter().map(Vec::capacity).sum::<usize>();
        assert_eq!(queue.charged, held, "what is held is charged");
    }
    let sent = [large, small.repeat(8)].concat();
    assert_eq!(line.read(sent.len()).await, sent);
}

#[tokio::test]
async fn a_reply_that_comes_alone_is_sent_and_others_are_left_to_the_task() {
    let mut line = Line::new().await;
    start(&line, 1, 0);
    post(&line, b"alone");
    assert!(!line.outbox.has_unsent() && !line.is_notified());
    start(&line, 1, 0);
    post(&line, b" one");
    assert!(line.outbox.has_unsent() && line.is_notified());
    post(&line, b" two");
    assert!(!line.is_notified(), "the task knows already");
    push(&line, b" three");
    assert_eq!(line.read(5 + 4 + 4 + 6).await, b"alone one two three");
}

#[tokio::test]
async fn a_failed_send_notifies_the_task_and_empties_the_buffer() {
    let line = Line::new().await;
    line.shut();
    push(&line, b"reply");
    assert!(line.outbox.is_broken() && line.is_notified());
}

#[tokio::test]
async fn a_failed_send_from_the_queue_closes_the_connection() {
    let line = Line::new().await;
    start(&line, 2, 0);
    post(&line, b"reply");
    line.shut();
    assert!(!line.outbox.flush());
    assert!(line.outbox.is_broken() && line.outbox.stream().is_none());
    assert!(!line.outbox.has_unsent());
}

#[tokio::test]
async fn replies_to_a_broken_connection_are_discarded() {
    let line = Line::new().await;
    start(&line, 2, 0);
    line.outbox.mark_lost();
    assert!(line.is_notified());
    post(&line, b"reply");
    push(&line, b"reply");
    line.outbox.give_up();
    post(&line, b"reply");
    push(&line, b"reply");
    assert!(!line.outbox.has_unsent());
    assert_eq!(queued(&line), 0);
}

#[tokio::test]
async fn calls_and_their_bytes_are_bounded_until_some_end() {
    for (calls, bytes) in [(CALLS_MAX, 0), (1, BYTES_MAX)] {
        let line = Line::new().await;
        start(&line, calls - 1, bytes);
        assert!(line.outbox.has_room());
        start(&line, 1, bytes);
        assert!(!line.outbox.has_room() && !line.outbox.is_settled());
        line.outbox.ended(bytes);
        assert!(line.is_notified());
        assert!(line.outbox.has_room());
        start(&line, 1, bytes);
        line.outbox.ended(bytes);
        assert!(!line.is_notified(), "the task found room, and waits for no call");
    }
}

#[tokio::test]
async fn a_call_that_shrinks_makes_room() {
    let line = Line::new().await;
    start(&line, 1, BYTES_MAX);
    assert!(!line.outbox.has_room());
    line.outbox.shrank(1);
    assert!(line.is_notified());
    assert!(line.outbox.has_room());
    line.outbox.ended(BYTES_MAX - 1);
    assert_eq!(line.budget.taken(), 0);
}

#[tokio::test]
async fn the_end_of_the_last_call_is_notified_once_nothing_is_read() {
    let line = Line::new().await;
    start(&line, 1, 0);
    line.outbox.finishing();
    line.outbox.ended(0);
    assert!(line.is_notified() && line.outbox.is_settled());
}

#[tokio::test]
async fn calls_are_parked_while_much_is_unsent_and_then_resumed() {
    let mut line = Line::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let call = || Box::new(Counted(Arc::clone(&count), None));
    drop(line.outbox.park(call()).expect("the queue is empty"));
    assert_eq!(count.swap(0, Ordering::Relaxed), 100);
    push(&line, &bytes(2 * UNSENT_MAX));
    assert!(line.outbox.park(call()).is_none());
    assert!(!line.outbox.has_room());
    line.outbox.unpark();
    assert_eq!(count.load(Ordering::Relaxed), 0, "the queue is as long as before");
    line.read(2 * UNSENT_MAX).await;
    assert_eq!(count.load(Ordering::Relaxed), 101, "resumed, and dropped");
    assert!(line.outbox.has_room());
}

#[tokio::test]
async fn a_connection_that_is_given_up_drops_what_it_holds() {
    let mut line = Line::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    // Dropping the call gives the connection up once more, which must find the lock free.
    let call = || Box::new(Counted(Arc::clone(&count), Some(Arc::clone(&line.outbox))));
    push(&line, &bytes(2 * UNSENT_MAX));
    assert!(line.outbox.park(call()).is_none());
    assert!(line.budget.taken() > UNSENT_MAX);
    line.outbox.give_up();
    assert_eq!(count.load(Ordering::Relaxed), 100);
    assert_eq!(line.budget.taken(), 0);
    assert!(line.is_notified() && line.outbox.is_broken() && line.outbox.stream().is_none());
    assert!(line.outbox.park(call()).is_some(), "nothing is parked any more");
    let mut rest = Vec::new();
    let closed = line.peer.read_to_end(&mut rest).await;
    assert!(closed.is_err() || rest.len() < 2 * UNSENT_MAX, "the socket is closed");
}
