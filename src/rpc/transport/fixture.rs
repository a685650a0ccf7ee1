//! A connection over the loopback device, for tests.

pub mod scripted;

use std::net::Shutdown;
use std::pin::pin;
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::buffers::Buffers;
use super::memory_budget::MemoryBudget;
use super::outbox::Outbox;

/// A connection, and its peer's end.
pub struct Line {
    pub outbox: Arc<Outbox>,
    pub peer: TcpStream,
    pub budget: Arc<MemoryBudget>,
    pub buffers: Arc<Buffers>,
}

impl Line {
    /// Connects. The kernel keeps only some kilobytes that the peer has not read.
    pub async fn new() -> Self {
        let budget = MemoryBudget::new(64 << 20);
        let buffers = Arc::new(Buffers::new(Arc::clone(&budget)));
        Self::of(&budget, &buffers).await
    }

    /// A connection from another address, which shares the budget and the buffers.
    pub async fn of(budget: &Arc<MemoryBudget>, buffers: &Arc<Buffers>) -> Self {
        let (budget, buffers) = (Arc::clone(budget), Arc::clone(buffers));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap(); // the first attempt to send must find that out
        let outbox = Arc::new(Outbox::new(stream, Arc::clone(&buffers), &budget.address()));
        Self { outbox, peer, budget, buffers }
    }

    /// Makes every attempt to send fail.
    pub fn shut(&self) {
        SockRef::from(&*self.outbox.stream().unwrap()).shutdown(Shutdown::Write).unwrap();
    }

    /// Whether the task was notified since this was last called.
    pub fn is_notified(&self) -> bool {
        pin!(self.outbox.wake().notified()).as_mut().enable()
    }

    /// Reads so many bytes, and sends meanwhile what is queued, as the task does.
    pub async fn read(&mut self, len: usize) -> Vec<u8> {
        let outbox = Arc::clone(&self.outbox);
        let task = async {
            while outbox.has_unsent() {
                outbox.stream().unwrap().writable().await.unwrap();
                outbox.flush();
                outbox.unpark();
            }
        };
        let mut bytes = vec![0; len];
        let (read, ()) = tokio::join!(self.peer.read_exact(&mut bytes), task);
        read.unwrap();
        bytes
    }
}
