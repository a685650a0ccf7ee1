//! Calls over UDP: a datagram is a call, and so is a reply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;

use super::connection::Shared;
use super::pool::{Job, Stand};
use super::service::{Carried, Origin, Reply, Service, Verdict};
use crate::sys::Patience;
use crate::telemetry::metrics::{Answered, Metrics};

/// Larger calls and replies do not go over UDP (RFC 1813 programs ask for 8 KiB at least).
const DATAGRAM_MAX: usize = 8800;

/// Calls of the socket that wait for a thread; more are dropped, and asked again by their clients.
const CALLS_MAX: usize = 64;

/// Where a reply to a datagram goes.
struct Sender {
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
}

impl Sender {
    /// Counts a call that came at `arrived`, if it was answered, and sends its reply.
    fn settle(&self, verdict: Verdict, reply: &[u8], call: (usize, Instant), metrics: &Metrics) {
        let (received, arrived) = call;
        match verdict {
            Verdict::Answered(procedure, status) => {
                let answered = Answered { procedure, status, received, sent: reply.len() };
                metrics.count(arrived.elapsed(), answered);
                self.send(reply);
            }
            Verdict::Replayed => self.send(reply),
            Verdict::Silent | Verdict::Later(_) | Verdict::Pending(..) => {}
        }
    }
}

impl Reply for Sender {
    fn send(&self, reply: &[u8]) {
        // A lost datagram is the client's to ask for again, whoever lost it.
        if reply.len() <= DATAGRAM_MAX {
            let _ = self.socket.try_send_to(reply, self.peer);
        }
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
        let sender = Arc::new(Sender { socket: Arc::clone(&socket), peer });
        let waiter = || Arc::clone(&sender) as Arc<dyn Reply>;
        reply.clear();
        match service.answer(&call[..len], origin, &waiter, &mut |_| true, &mut reply) {
            Verdict::Later(key) if Arc::strong_count(&running) <= CALLS_MAX => {
                let (service, record) = (Arc::clone(&service), call[..len].to_vec());
                let (running, metrics) = (Arc::clone(&running), Arc::clone(&shared.metrics));
                let work = Box::new(move || {
                    let mut reply = Vec::new();
                    let verdict = service.answer_again(
                        &record,
                        (origin, Patience::Blocking),
                        key,
                        &mut reply,
                    );
                    sender.settle(verdict, &reply, (len, arrived), &metrics);
                    drop(running);
                });
                shared.pool.run(&mut vec![Job { stand: Stand::Nowhere, work }]);
            }
            // None of the programs that are served here has results that come later: those may be
            // lost, too.
            Verdict::Later(key) | Verdict::Pending(Carried { key, .. }, _) => {
                service.forget(key);
            }
            verdict => sender.settle(verdict, &reply, (len, arrived), &shared.metrics),
        }
    }
}
