//! What becomes of the records of a batch.

use super::*;
use crate::rpc::transport::fixture::scripted::{
    BLOCKS, LANE, LANE_BLOCKS, LARGE, PENDS, QUICK, REPLY, Rig, call, until,
};
use crate::rpc::transport::memory_budget::ConnectionMemory;

#[tokio::test]
async fn replies_are_sent_together_at_the_end_and_counted_before() {
    let mut rig = Rig::new().await;
    rig.batch(|batch| {
        for number in 1..=3 {
            assert_eq!(batch.take(&call(QUICK, number)), Flow::Go);
        }
        assert_eq!((batch.replies.len(), batch.answered.len()), (3 * REPLY, 3));
        assert_eq!(rig.counted(), 0);
    });
    assert_eq!(rig.counted(), 3);
    assert_eq!(rig.replies(3).await, [1, 2, 3]);
}

#[tokio::test]
async fn many_replies_are_sent_before_the_end() {
    let mut rig = Rig::new().await;
    let count = SCRATCH / REPLY;
    rig.batch(|batch| {
        for number in 0..count {
            batch.take(&call(QUICK, u32::try_from(number).unwrap()));
        }
        assert_eq!(batch.replies.len(), 0);
    });
    assert_eq!(rig.replies(count).await.len(), count);
}

#[tokio::test]
async fn a_record_without_a_call_needs_no_reply() {
    let rig = Rig::new().await;
    rig.batch(|batch| {
        assert_eq!(batch.take(b"no call"), Flow::Go);
        assert!(batch.replies.is_empty() && batch.jobs.is_empty());
    });
}

#[tokio::test]
async fn a_record_with_a_buffer_of_its_own_is_not_copied() {
    let mut rig = Rig::new().await;
    let whole = |procedure, number| {
        let mut own = Vec::with_capacity(1 << 20);
        own.extend_from_slice(&[0; 4]);
        own.extend_from_slice(&call(procedure, number));
        own
    };
    rig.batch(|batch| {
        batch.take_whole(whole(QUICK, 1));
        assert_eq!(rig.shared.buffers.take().capacity(), 1 << 20, "it is used again");
        let own = whole(BLOCKS, 2);
        let place = own.as_ptr();
        batch.take_whole(own);
        let PooledCall::Stream(call) = &batch.jobs[0].work else { panic!("a datagram") };
        assert_eq!((call.record.as_ptr(), call.start), (place, 4));
    });
    assert_eq!(rig.replies(2).await, [1, 2]);
}

#[tokio::test]
async fn a_call_without_memory_for_its_reply_is_held_back_and_not_tried() {
    let mut rig = Rig::new().await;
    let neighbour = ConnectionMemory::new(&rig.line.budget.address(), Arc::default());
    let all = rig.line.budget.total();
    neighbour.take(all);
    let mut record = call(LARGE, 1);
    record.resize(UNADMITTED_MAX + 1000, 0);
    let held_back = rig.batch(|batch| {
        assert_eq!(batch.take(&record), Flow::Pause);
        batch.unadmitted.take().unwrap()
    });
    assert_eq!(held_back, record[..UNADMITTED_MAX]);
    assert!(rig.program.done.lock().is_empty() && !rig.line.is_notified());
    neighbour.give(all);
    assert!(rig.line.is_notified());
    rig.batch(|batch| assert_eq!(batch.take(&held_back), Flow::Go));
    assert_eq!(rig.replies(1).await, [1]);
    assert_eq!(rig.line.budget.taken(), 0, "what was admitted is given back");
}

#[tokio::test]
async fn calls_of_a_lane_run_in_their_order() {
    let mut rig = Rig::new().await;
    rig.batch(|batch| {
        batch.take(&call(LANE, 1));
        batch.take(&call(LANE_BLOCKS, 2));
        batch.take(&call(LANE, 3));
        assert!(matches!(batch.jobs[0].admission, Admission::Granted(_)));
        assert!(matches!(batch.jobs[1].admission, Admission::Required(_)));
        assert_eq!(*rig.program.done.lock(), [1]);
    });
    let mut numbers = rig.replies(3).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(*rig.program.done.lock(), [1, 2, 3]);
}

#[tokio::test]
async fn a_call_owes_its_reply_from_the_moment_that_it_is_deferred() {
    let rig = Rig::new().await;
    let record = call(BLOCKS, 1);
    rig.batch(|batch| {
        batch.take(&record);
        assert!(!rig.line.outbox.is_settled());
        let PooledCall::Stream(call) = &batch.jobs[0].work else { panic!("a datagram") };
        assert_eq!(call.owed.bytes, OVERHEAD + record.len());
        batch.jobs.clear();
        assert!(rig.line.outbox.is_broken(), "a call that is dropped cannot be answered");
    });
    assert!(rig.line.outbox.is_settled());
}

#[tokio::test]
async fn nothing_more_is_taken_of_a_broken_or_a_full_connection() {
    let rig = Rig::new().await;
    rig.batch(|batch| {
        let mut number = 0;
        while batch.take(&call(PENDS, number)) == Flow::Go {
            number += 1;
        }
        assert_eq!(batch.jobs.len(), 256);
    });
    let other = rig.other().await;
    other.line.outbox.mark_lost();
    other.batch(|batch| assert_eq!(batch.take(&call(QUICK, 1)), Flow::Pause));
    until(|| rig.program.pending.lock().len() == 256).await;
    rig.program.pending.lock().clear();
    assert!(rig.line.outbox.is_broken());
}
