//! Calls over UDP: a datagram is a call, and so is a reply.
//!
//! The sender's address is whatever the datagram says, so that a reply may go to somebody who never
//! asked. A reply that is much larger than its call is therefore refused with SYSTEM_ERR, which is
//! small, and whoever wants it asks over TCP. Silence would leave the caller waiting.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;

use super::deferred::{PooledCall, Shared};
use crate::rpc::message::Rejection;
use crate::rpc::service::{Gate, Origin, PendingReply, ReplySink, RunContext, Service, Verdict};
use crate::sched::Patience;
use crate::sched::lanes::Lane;
use crate::sched::pool::{Admission, Job};
use crate::telemetry::metrics::{Answered, Metrics};
use crate::xdr::{Reader, Writer};

/// Larger calls and replies do not go over UDP (RFC 1813 programs ask for 8 KiB at least).
const DATAGRAM_MAX: usize = 8800;

/// How many times as long as its call a reply may be. The reply to MNT with the shortest path is
/// 2.2 times as long, that to the shortest call that is answered at all 3 times.
const AMPLIFICATION_MAX: usize = 4;

/// Calls of the socket that wait for a thread; more are dropped, and asked again by their clients.
const CALLS_MAX: usize = 64;

/// Where a reply to a datagram goes.
struct Sender {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    /// The length of the call.
    received: usize,
}

impl Sender {
    /// Counts a call that came at `arrived`, if it was answered, and sends its reply.
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
            | Verdict::Deferred
            | Verdict::Later(_)
            | Verdict::Wait(_)
            | Verdict::Pending(..) => {}
        }
    }
}

impl ReplySink for Sender {
    fn send(&self, reply: &[u8]) {
        // A lost datagram is the client's to ask for again, whoever lost it.
        let _ = self.socket.try_send_to(&fitting(reply, self.received), self.peer);
    }

    /// The client asks again when it hears nothing.
    fn mark_lost(&self) {}

    /// Nobody knows; a call that came as a datagram is short.
    fn is_reachable(&self) -> bool {
        true
    }
}

/// What is sent instead of `reply` to a call of `received` bytes: itself, or that it is refused.
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

/// Every call may begin: what they hold is bounded by their number and their size.
struct Open;

impl Gate for Open {
    fn admit(&mut self, _bytes: usize) -> bool {
        true
    }

    fn enter(&mut self, _lane: Lane) -> bool {
        true
    }
}

/// Answers the datagrams of `socket` until the server stops.
pub async fn run(socket: Arc<UdpSocket>, service: Arc<Service>, shared: Arc<Shared>) {
    let Ok(local) = socket.local_addr() else { return };
    let mut call = vec![0; DATAGRAM_MAX];
    let mut reply = Vec::new();
    let running = Arc::new(());
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut call) => received,
            () = shared.drain.cancelled() => return,
        };
        // An error is of an earlier reply that could not be delivered.
        let Ok((len, peer)) = received else { continue };
        let arrived = Instant::now();
        let origin = Origin { peer, local };
        let sender = Arc::new(Sender { socket: Arc::clone(&socket), peer, received: len });
        let waiter = || Arc::clone(&sender) as Arc<dyn ReplySink>;
        reply.clear();
        match service.answer(&call[..len], origin, &waiter, &mut Open, &mut reply) {
            Verdict::Later(key) if Arc::strong_count(&running) <= CALLS_MAX => {
                // Nor does any wait for something else than a thread.
                let context = RunContext { origin, patience: Patience::Blocking, may_wait: false };
                let (service, record) = (Arc::clone(&service), call[..len].to_vec());
                let (running, metrics) = (Arc::clone(&running), Arc::clone(&shared.metrics));
                let work = PooledCall::Datagram(Box::new(move || {
                    let mut reply = Vec::new();
                    let verdict = service.answer_again(&record, context, key, &mut reply);
                    sender.settle(verdict, &reply, arrived, &metrics);
                    drop(running);
                }));
                shared.pool.run(Job { admission: Admission::Unrestricted, work });
            }
            // None of the programs that are served here has results that come later: those may be
            // lost, too.
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
