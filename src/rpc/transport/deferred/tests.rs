//! How deferred calls end, and what they hold until then.

use super::*;
use crate::rpc::record::Flow;
use crate::rpc::service::ReplySink;
use crate::rpc::transport::datagram::OpenGate;
use crate::rpc::transport::fixture::scripted::{
    BLOCKS, Number, PANICS, PENDS, Rig, WAITS, call, until,
};
use std::sync::atomic::Ordering;

/// Has a copy of a call come over `rig`; returns what the server makes of it.
fn retransmit(rig: &Rig, record: &[u8]) -> Verdict {
    let waiter = || Arc::clone(&rig.line.outbox) as Arc<dyn ReplySink>;
    rig.service.answer(record, rig.origin(), &waiter, &mut OpenGate, &mut Vec::new())
}

fn owed(rig: &Rig) -> DeferredReply {
    rig.line.outbox.started(OVERHEAD);
    DeferredReply {
        service: Arc::clone(&rig.service),
        shared: Arc::clone(&rig.shared),
        outbox: Arc::clone(&rig.line.outbox),
        origin: rig.origin(),
        arrived: Instant::now(),
        bytes: OVERHEAD,
        key: None,
        answered: true,
    }
}

#[tokio::test]
async fn a_call_that_would_block_is_answered_by_the_pool_and_counted_once() {
    let mut rig = Rig::new().await;
    rig.receive(BLOCKS, 1);
    assert_eq!(rig.replies(1).await, [1]);
    until(|| rig.line.outbox.is_settled()).await;
    assert_eq!((rig.counted(), rig.line.budget.taken()), (1, 0));
}

#[tokio::test]
async fn a_call_that_panics_closes_its_connection_and_is_forgotten() {
    let rig = Rig::new().await;
    let other = rig.other().await;
    rig.receive(PANICS, 1);
    until(|| rig.line.outbox.is_settled()).await;
    assert!(rig.line.outbox.is_broken());
    let again = retransmit(&other, &call(PANICS, 1));
    assert!(matches!(again, Verdict::Later(Some(_))), "a copy is carried out: {again:?}");
}

#[tokio::test]
async fn a_call_waits_a_limited_number_of_times() {
    let mut rig = Rig::new().await;
    rig.receive(WAITS, 1);
    assert_eq!(rig.replies(1).await, [1]);
    assert_eq!(rig.program.waits.load(Ordering::Relaxed), WAITS_MAX as usize);
}

#[tokio::test]
async fn a_call_that_waits_holds_no_thread_and_runs_again() {
    let mut rig = Rig::new().await;
    rig.program.holds.store(true, Ordering::Relaxed);
    rig.receive(WAITS, 1);
    until(|| !rig.program.wakes.lock().is_empty()).await;
    rig.receive(BLOCKS, 2); // the pool has one thread
    assert_eq!(rig.replies(1).await, [2]);
    rig.program.holds.store(false, Ordering::Relaxed);
    rig.program.wakes.lock().drain(..).for_each(|wake| wake());
    assert_eq!(rig.replies(1).await, [1]);
}

#[tokio::test]
async fn a_call_that_is_never_woken_closes_its_connection_and_is_forgotten() {
    let rig = Rig::new().await;
    let other = rig.other().await;
    rig.program.holds.store(true, Ordering::Relaxed);
    rig.receive(WAITS, 1);
    until(|| !rig.program.wakes.lock().is_empty()).await;
    assert!(!rig.line.outbox.is_broken());
    rig.program.wakes.lock().clear();
    assert!(rig.line.outbox.is_broken() && rig.line.outbox.is_settled());
    assert!(matches!(retransmit(&other, &call(WAITS, 1)), Verdict::Later(Some(_))));
}

#[tokio::test]
async fn a_call_that_waits_for_its_results_holds_neither_thread_nor_record() {
    let mut rig = Rig::new().await;
    let mut record = call(PENDS, 1);
    record.resize(100 * 1024, 0);
    rig.batch(|batch| assert_eq!(batch.take(&record), Flow::Go));
    until(|| !rig.program.pending.lock().is_empty()).await;
    assert!(!rig.line.outbox.is_settled());
    until(|| rig.line.budget.taken() == 0).await; // the overhead is free of charge
    rig.receive(BLOCKS, 2);
    assert_eq!(rig.replies(1).await, [2]);
    let ready = rig.program.pending.lock().pop().unwrap();
    ready.write(0, &Number(1));
    assert_eq!(rig.replies(1).await, [1]);
    until(|| rig.line.outbox.is_settled()).await;
    assert_eq!(rig.counted(), 2);
}

#[tokio::test]
async fn results_that_never_come_close_the_connection() {
    let rig = Rig::new().await;
    let other = rig.other().await;
    rig.receive(PENDS, 1);
    until(|| !rig.program.pending.lock().is_empty()).await;
    rig.program.pending.lock().clear();
    assert!(rig.line.outbox.is_broken() && rig.line.outbox.is_settled());
    assert!(matches!(retransmit(&other, &call(PENDS, 1)), Verdict::Later(Some(_))));
}

#[tokio::test]
async fn a_call_of_a_broken_connection_is_carried_out_only_for_a_retransmission() {
    let rig = Rig::new().await;
    let mut other = rig.other().await;
    rig.batch(|batch| {
        for number in [1, 2] {
            batch.take(&call(BLOCKS, number));
        }
        assert!(matches!(retransmit(&other, &call(BLOCKS, 2)), Verdict::Silent));
        rig.line.outbox.mark_lost();
    });
    assert_eq!(other.replies(1).await, [2]);
    until(|| rig.line.outbox.is_settled()).await;
    assert_eq!(*rig.program.done.lock(), [2]);
    assert_eq!(rig.line.budget.taken(), 0);
}

#[tokio::test]
async fn a_call_is_parked_while_the_peer_takes_no_replies() {
    let mut rig = Rig::new().await;
    let unsent = 2 << 20;
    rig.batch(|batch| {
        batch.take(&call(BLOCKS, 1));
        rig.line.outbox.push(&mut vec![0; unsent]);
    });
    until(|| rig.shared.pool.waiting() == 0).await;
    rig.line.buffers.take(); // as any call does
    assert!(rig.program.done.lock().is_empty());
    rig.line.read(unsent).await;
    assert_eq!(rig.replies(1).await, [1]);
}

#[tokio::test]
async fn consecutive_replies_to_one_connection_are_sent_together() {
    let mut rig = Rig::new().await;
    let other = rig.other().await;
    let mut bundle = ReplyBundle::default();
    bundle.add(owed(&rig), b"one");
    bundle.add(owed(&rig), b"two");
    assert_eq!(rig.line.outbox.acknowledged(), 0, "nothing is sent");
    assert!(!rig.line.outbox.is_settled(), "a call ends when its reply is sent");
    bundle.add(owed(&other), b"three");
    assert_eq!(rig.line.read(6).await, b"onetwo");
    assert!(rig.line.outbox.is_settled() && !other.line.outbox.is_settled());
    drop(bundle);
    assert!(other.line.outbox.is_settled());
}
