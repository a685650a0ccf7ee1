//! The data plane: its threads, what listens, and its end.
//!
//! Each data-plane thread runs a single-threaded runtime of its own, so that a call is read,
//! answered and its reply sent without waking anybody. A connection stays on its thread; new ones
//! go round. Sockets are bound before anything is accepted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::buffers::Buffers;
use super::connection::{self, Scratch};
use super::connections::{Connections, Entry, Knows};
use super::datagram;
use super::deferred::Shared;
use super::memory_budget::MemoryBudget;
use super::outbox::Outbox;
use super::shared::Limits;
use crate::rpc::service::{Origin, Service};
use crate::sched::affinity::{Claims, Follower};
use crate::sched::pool::Pool;
use crate::sys::memory;
use crate::telemetry::bounded::OFTEN;
use crate::telemetry::metrics::Metrics;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// After this time without a word the kernel asks whether the peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long accepting rests when the system has no descriptor or no memory for a connection.
const RESPITE: Duration = Duration::from_millis(100);

/// How the data plane is built.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Threads that serve sockets.
    pub threads: usize,
    /// Threads on which calls may sleep.
    pub pool: usize,
    /// Connections at a time; beyond that, new ones take the places of others or are closed.
    pub connections: usize,
    /// Bytes that peers may make the server hold.
    pub memory: usize,
    /// What bounds each connection.
    pub limits: Limits,
}

/// A running data plane.
pub struct Server {
    workers: Vec<Worker>,
    next: AtomicUsize,
    connections: Arc<Connections>,
    shared: Arc<Shared>,
    upkeep: Mutex<Upkeep>,
    tasks: TaskTracker,
    /// Cancelled when everything is bound: only then is anybody answered.
    ready: CancellationToken,
    stop: CancellationToken,
}

/// A data-plane thread, seen from outside.
struct Worker {
    handle: Handle,
    scratch: Arc<Mutex<Scratch>>,
}

impl Server {
    /// Starts the threads, which count in `metrics`; nothing listens yet.
    ///
    /// # Errors
    /// The system refuses a thread, or what a runtime needs.
    pub fn start(settings: Settings, metrics: Arc<Metrics>) -> io::Result<Arc<Self>> {
        let budget = MemoryBudget::new(settings.memory);
        let shared = Shared {
            pool: Arc::new(Pool::start(settings.pool)?),
            buffers: Arc::new(Buffers::new(Arc::clone(&budget))),
            budget: Arc::clone(&budget),
            limits: settings.limits,
            drain: CancellationToken::new(),
            metrics,
        };
        let stop = CancellationToken::new();
        let claims = Claims::default();
        let worker = |n| {
            let follower = Follower::new(n, Arc::clone(&claims));
            Worker::start(n, stop.clone(), Scratch::new(shared.metrics.local(), follower))
        };
        Ok(Arc::new(Self {
            workers: (0..settings.threads).map(worker).collect::<io::Result<_>>()?,
            next: AtomicUsize::new(0),
            connections: Connections::new(settings.connections, budget),
            shared: Arc::new(shared),
            upkeep: Mutex::default(),
            tasks: TaskTracker::new(),
            ready: CancellationToken::new(),
            stop,
        }))
    }

    /// Binds a TCP address, on which `service` is served once the server is open; answers the
    /// address with the port that it got.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn listen_tcp(
        self: &Arc<Self>,
        address: SocketAddr,
        service: &Arc<Service>,
    ) -> io::Result<SocketAddr> {
        let socket = bind(address, Type::STREAM, Protocol::TCP)?;
        socket.listen(BACKLOG)?;
        let worker = self.worker();
        let _runtime = worker.handle.enter();
        let listener = TcpListener::from_std(socket.into())?;
        let bound = listener.local_addr()?;
        let accept = Arc::clone(self).accept(listener, Arc::clone(service));
        self.tasks.spawn_on(accept, &worker.handle);
        Ok(bound)
    }

    /// Binds a UDP address, on which `service` is served once the server is open; answers the
    /// address with the port that it got.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn listen_udp(
        &self,
        address: SocketAddr,
        service: &Arc<Service>,
    ) -> io::Result<SocketAddr> {
        let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
        let worker = self.worker();
        let _runtime = worker.handle.enter();
        let socket = UdpSocket::from_std(socket.into())?;
        let bound = socket.local_addr()?;
        let (service, shared) = (Arc::clone(service), Arc::clone(&self.shared));
        let ready = self.ready.clone();
        let serve = async move {
            ready.cancelled().await;
            datagram::run(Arc::new(socket), service, shared).await;
        };
        self.tasks.spawn_on(serve, &worker.handle);
        Ok(bound)
    }

    /// Begins to answer on all addresses that were bound.
    pub fn open(&self) {
        self.ready.cancel();
    }

    /// Stops: accepts and reads no more, answers what was read, closes. Waits for at most
    /// `grace`; answers how many connections were cut off then.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.shared.drain.cancel();
        self.tasks.close();
        let drained = tokio::time::timeout(grace, self.tasks.wait()).await;
        let cut_off = if drained.is_ok() { 0 } else { self.tasks.len() };
        self.stop.cancel();
        cut_off
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Says which clients are known: they have precedence when there are too many connections. For
    /// once, before the server is open.
    pub fn set_knows(&self, knows: Knows) {
        self.connections.set_knows(knows);
    }

    /// The memory that peers make the server hold, and its bound.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.shared.budget
    }

    /// Gives memory back that is not needed any more. To be called every second; blocks for some
    /// milliseconds at the end of a load.
    pub fn sweep(&self) {
        self.shared.budget.sweep();
        self.connections.sweep();
        self.upkeep().sweep(&self.shared);
    }

    fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock()
    }

    /// How many calls wait for a thread on which they may sleep.
    pub fn waiting(&self) -> usize {
        self.shared.pool.waiting()
    }

    fn worker(&self) -> &Worker {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        &self.workers[n % self.workers.len()]
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, service: Arc<Service>) {
        self.ready.cancelled().await;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shared.drain.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &service),
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    tracing::warn!(name: OFTEN, %error, "cannot accept a connection; trying again");
                    tokio::time::sleep(RESPITE).await;
                }
            }
        }
    }

    /// Gives a connection to a thread, unless there are too many.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, service: &Arc<Service>) {
        let worker = self.worker();
        let (stream, local) = match prepare(stream, &worker.handle) {
            Ok(prepared) => prepared,
            Err(error) => return tracing::debug!(%peer, %error, "connection lost"),
        };
        let (origin, shared) = (Origin { peer, local }, Arc::clone(&self.shared));
        let outbox = |peer: &_| Outbox::new(stream, Arc::clone(&shared.buffers), peer);
        let seat = match self.connections.enter(origin, outbox) {
            Entry::Free(seat) => seat,
            Entry::Displaced(seat) => {
                self.shared.metrics.displaced.add(1);
                tracing::warn!(%peer, "a connection gave way: as many as --max-connections are open");
                seat
            }
            Entry::Refused => {
                self.shared.metrics.refused.add(1);
                tracing::warn!(%peer, "connection refused: as many as --max-connections are in use");
                return;
            }
        };
        self.shared.metrics.accepted.add(1);
        tracing::debug!(%peer, "connection accepted");
        let (service, scratch) = (Arc::clone(service), Arc::clone(&worker.scratch));
        self.tasks
            .spawn_on(connection::run(seat, origin, service, shared, scratch), &worker.handle);
    }
}

/// Sweeps after which buffers that were not needed are given back.
const BUFFERS_REST: u32 = 4;

/// A load that made the server hold so much leaves gaps in its memory that are worth closing.
const WORTH_CLOSING: usize = 8 * 1024 * 1024;

/// What is to be given back when a load ends.
#[derive(Default)]
struct Upkeep {
    sweeps: u32,
    /// The most that was held since memory was last given back to the kernel.
    most: usize,
}

impl Upkeep {
    fn sweep(&mut self, shared: &Shared) {
        self.sweeps = self.sweeps.wrapping_add(1);
        let held = shared.budget.taken();
        self.most = self.most.max(held);
        if self.sweeps.is_multiple_of(BUFFERS_REST) {
            self.most = self.most.max(held + shared.buffers.trim());
        }
        if self.most >= WORTH_CLOSING && held < self.most / 4 {
            memory::give_back();
            self.most = held;
        }
    }
}

impl Worker {
    fn start(n: usize, stop: CancellationToken, scratch: Scratch) -> io::Result<Self> {
        // What another thread wakes, or a new connection is, takes turns with what is ready here.
        // As tokio has it by default, it is looked for only once in 31 turns as long as something
        // is.
        let runtime =
            Builder::new_current_thread().enable_all().global_queue_interval(2).build()?;
        let handle = runtime.handle().clone();
        let scratch = Arc::new(Mutex::new(scratch));
        let own = Arc::clone(&scratch);
        thread::Builder::new().name(format!("berth-data-{n}")).spawn(move || {
            own.lock().begin();
            runtime.block_on(stop.cancelled());
        })?;
        Ok(Self { handle, scratch })
    }
}

fn bind(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        // So that [::] and 0.0.0.0 can be listened on side by side, and mean what they say.
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A restart must not wait for the old connections to be forgotten.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets a connection up and moves it to another thread's runtime.
fn prepare(stream: TcpStream, to: &Handle) -> io::Result<(TcpStream, SocketAddr)> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    let local = stream.local_addr()?;
    let stream = stream.into_std()?;
    let _runtime = to.enter();
    Ok((TcpStream::from_std(stream)?, local))
}

/// Whether accepting failed because of that one connection.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
