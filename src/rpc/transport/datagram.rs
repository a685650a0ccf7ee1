//! Calls over UDP: each call is one datagram, and so is each reply.
//!
//! The source address of a datagram may be forged, which turns a server with large replies into an
//! amplifier. A reply that is much larger than its call is therefore replaced by the short
//! SYSTEM_ERR; the client can use TCP instead. Without a reply it would wait.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;

use super::deferred::{PooledCall, SharedResources};
use crate::rpc::message::Rejection;
use crate::rpc::service::{Gate, Origin, PendingReply, ReplySink, RunContext, Service, Verdict};
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::sched::pool::{Admission, PoolJob};
use crate::telemetry::metrics::{Answered, Metrics};
use crate::xdr::{Reader, Writer};

/// The maximum size of calls and replies, in bytes. Programs of RFC 1813 need at least 8 KiB.
const DATAGRAM_MAX: usize = 8800;

/// The maximum ratio of the sizes of a reply and its call. The reply to MNT with the shortest path
/// has 2.2 times the size of its call, and the reply to the shortest valid call 3 times.
const AMPLIFICATION_MAX: usize = 4;

/// The maximum number of deferred calls of a socket. Others are dropped, and clients retransmit
/// them.
const CALLS_MAX: usize = 64;

/// Sends the reply to a datagram.
struct DatagramSender {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    /// The length of the call.
    received: usize,
}

impl DatagramSender {
    /// Sends the reply of a call that came at `arrived`, and counts the call, if it was answered.
    fn settle(&self, verdict: Verdict, reply: &[u8], arrived: Instant, metrics: &Metrics) {
        match verdict {
            Verdict::Answered(procedure, mut status) => {
                let sent = fitting(reply, self.received);
                if matches!(sent, Cow::Owned(_)) {
                    status = Rejection::SystemError.status();
                }
                let received = self.received;
                let answered = Answered { procedure, status, received, sent: sent.len() };
                metrics.count(arrived.elapsed(), answered);
                self.send(&sent);
            }
            Verdict::Replayed => self.send(reply),
            Verdict::Silent
            | Verdict::Unadmitted
            | Verdict::Later(_)
            | Verdict::Wait(_)
            | Verdict::Pending(..) => {}
        }
    }
}

impl ReplySink for DatagramSender {
    fn send(&self, reply: &[u8]) {
        // A failure is as a lost datagram: the client retransmits.
        let _ = self.socket.try_send_to(&fitting(reply, self.received), self.peer);
    }

    /// Does nothing: the client retransmits.
    fn mark_lost(&self) {}

    /// Always true, because UDP does not tell.
    fn is_reachable(&self) -> bool {
        true
    }
}

/// Returns `reply` if it may be sent to a call of `received` bytes, and otherwise a SYSTEM_ERR.
fn fitting(reply: &[u8], received: usize) -> Cow<'_, [u8]> {
    if reply.len() <= received.saturating_mul(AMPLIFICATION_MAX).min(DATAGRAM_MAX) {
        return Cow::Borrowed(reply);
    }
    let mut refusal = Vec::new();
    if let Ok(xid) = Reader::new(reply).u32() {
        Rejection::SystemError.encode(xid, &mut Writer::new(&mut refusal));
    }
    Cow::Owned(refusal)
}

/// Admits every call: their number and size are limited already.
pub struct OpenGate;

impl Gate for OpenGate {
    fn admit(&mut self, _bytes: usize) -> bool {
        true
    }

    fn enter(&mut self, _lane: Lane) -> bool {
        true
    }
}

/// Answers the datagrams of `socket` until the server stops.
pub async fn run(socket: Arc<UdpSocket>, service: Arc<Service>, shared: Arc<SharedResources>) {
    let Ok(local) = socket.local_addr() else { return };
    let mut call = vec![0; DATAGRAM_MAX];
    let mut reply = Vec::new();
    let running = Arc::new(());
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut call) => received,
            () = shared.drain.cancelled() => return,
        };
        // An error concerns an earlier reply that could not be delivered.
        let Ok((len, peer)) = received else { continue };
        let arrived = Instant::now();
        let origin = Origin { peer, local };
        let sender = Arc::new(DatagramSender { socket: Arc::clone(&socket), peer, received: len });
        let waiter = || Arc::clone(&sender) as Arc<dyn ReplySink>;
        reply.clear();
        match service.answer(&call[..len], origin, &waiter, &mut OpenGate, &mut reply) {
            Verdict::Later(key) if Arc::strong_count(&running) <= CALLS_MAX => {
                // None of the programs that are served here has calls that wait (`Outcome::Wait`).
                let context = RunContext { origin, patience: Patience::Blocking, may_wait: false };
                let (service, record) = (Arc::clone(&service), call[..len].to_vec());
                let (running, metrics) = (Arc::clone(&running), Arc::clone(&shared.metrics));
                let work = PooledCall::Datagram(Box::new(move || {
                    let mut reply = Vec::new();
                    let verdict = service.answer_again(&record, context, key, &mut reply);
                    sender.settle(verdict, &reply, arrived, &metrics);
                    drop(running);
                }));
                shared.pool.run(PoolJob { admission: Admission::Unrestricted, work });
            }
            // Too many calls are deferred, or the call has its results later, which no program that
            // is served here does. Either way the client retransmits.
            Verdict::Later(key) | Verdict::Pending(PendingReply { key, .. }, _) => {
                service.forget(key);
            }
            verdict => sender.settle(verdict, &reply, arrived, &shared.metrics),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_at_most_four_times_as_long_as_its_call() {
        let check = |reply: usize, received: usize, expected: usize| {
            let reply: Vec<u8> = [0, 0, 0, 7].into_iter().cycle().take(reply).collect();
            let sent = fitting(&reply, received);
            assert_eq!(sent.len(), expected, "{} to {received}", reply.len());
            assert_eq!(sent[..4], [0, 0, 0, 7], "the transaction");
        };
        check(160, 40, 160);
        check(164, 40, 24);
        check(24, 8, 24);
        check(8800, 8800, 8800);
        check(8804, 8800, 24);
    }
}
