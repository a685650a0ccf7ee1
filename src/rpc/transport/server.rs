//! The data plane: starts its threads, listens, accepts connections, and stops.
//!
//! Each data-plane thread has a single-threaded runtime of its own, so reading a call, answering it
//! and sending its reply wakes no other thread. A connection stays on its thread; new ones are
//! distributed round-robin. All sockets are bound before any connection is accepted.

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
use super::connections::{ConnectionAdmission, Connections, IsKnown};
use super::datagram;
use super::deferred::SharedResources;
use super::memory_budget::MemoryBudget;
use super::outbox::Outbox;
use super::shared::ConnectionLimits;
use crate::rpc::service::{Origin, Service};
use crate::sched::affinity::{Affinity, ProcessorClaims};
use crate::sched::pool::Pool;
use crate::sys::memory;
use crate::telemetry::bounded::OFTEN;
use crate::telemetry::metrics::Metrics;

/// The maximum number of connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// The idle time after which the kernel sends keep-alive probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The delay before the next attempt when there is no descriptor or memory for a connection.
const RESPITE: Duration = Duration::from_millis(100);

/// The settings of the data plane.
#[derive(Clone, Copy, Debug)]
pub struct ServerSettings {
    /// The number of data-plane threads.
    pub threads: usize,
    /// The number of threads in the pool, on which calls may block.
    pub pool: usize,
    /// The limit on connections. Above it, new ones displace others or are refused.
    pub connections: usize,
    /// The memory that peers may make the server hold, in bytes.
    pub memory: usize,
    /// The limits of each connection.
    pub limits: ConnectionLimits,
}

/// A running data plane.
pub struct Server {
    threads: Vec<DataPlaneThread>,
    next: AtomicUsize,
    connections: Arc<Connections>,
    shared: Arc<SharedResources>,
    upkeep: Mutex<Upkeep>,
    tasks: TaskTracker,
    /// Cancelled when all sockets are bound. No call is answered before.
    ready: CancellationToken,
    stop: CancellationToken,
}

/// A handle to a data-plane thread.
struct DataPlaneThread {
    handle: Handle,
    scratch: Arc<Mutex<Scratch>>,
}

impl Server {
    /// Starts the threads, which count calls in `metrics`. Does not listen yet.
    ///
    /// # Errors
    /// A thread or its runtime cannot be created.
    pub fn start(settings: ServerSettings, metrics: Arc<Metrics>) -> io::Result<Arc<Self>> {
        let budget = MemoryBudget::new(settings.memory);
        let shared = SharedResources {
            pool: Arc::new(Pool::start(settings.pool)?),
            buffers: Arc::new(Buffers::new(Arc::clone(&budget))),
            budget: Arc::clone(&budget),
            limits: settings.limits,
            drain: CancellationToken::new(),
            metrics,
        };
        let stop = CancellationToken::new();
        let claims = ProcessorClaims::default();
        let thread = |n| {
            let affinity = Affinity::new(n, Arc::clone(&claims));
            DataPlaneThread::start(n, stop.clone(), Scratch::new(shared.metrics.local(), affinity))
        };
        Ok(Arc::new(Self {
            threads: (0..settings.threads).map(thread).collect::<io::Result<_>>()?,
            next: AtomicUsize::new(0),
            connections: Connections::new(settings.connections, budget),
            shared: Arc::new(shared),
            upkeep: Mutex::default(),
            tasks: TaskTracker::new(),
            ready: CancellationToken::new(),
            stop,
        }))
    }

    /// Binds a TCP address, on which `service` is served once the server is open. Returns the
    /// address with its actual port.
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
        let thread = self.thread();
        let _runtime = thread.handle.enter();
        let listener = TcpListener::from_std(socket.into())?;
        let bound = listener.local_addr()?;
        let accept = Arc::clone(self).accept(listener, Arc::clone(service));
        self.tasks.spawn_on(accept, &thread.handle);
        Ok(bound)
    }

    /// Binds a UDP address, on which `service` is served once the server is open. Returns the
    /// address with its actual port.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn listen_udp(
        &self,
        address: SocketAddr,
        service: &Arc<Service>,
    ) -> io::Result<SocketAddr> {
        let socket = bind(address, Type::DGRAM, Protocol::UDP)?;
        let thread = self.thread();
        let _runtime = thread.handle.enter();
        let socket = UdpSocket::from_std(socket.into())?;
        let bound = socket.local_addr()?;
        let (service, shared) = (Arc::clone(service), Arc::clone(&self.shared));
        let ready = self.ready.clone();
        let serve = async move {
            ready.cancelled().await;
            datagram::run(Arc::new(socket), service, shared).await;
        };
        self.tasks.spawn_on(serve, &thread.handle);
        Ok(bound)
    }

    /// Begins to serve all addresses that were bound.
    pub fn open(&self) {
        self.ready.cancel();
    }

    /// Stops accepting and reading, answers the calls that were read, and closes. Waits for at most
    /// `grace`; returns how many connections were cut off then.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.shared.drain.cancel();
        self.tasks.close();
        let drained = tokio::time::timeout(grace, self.tasks.wait()).await;
        let cut_off = if drained.is_ok() { 0 } else { self.tasks.len() };
        self.stop.cancel();
        cut_off
    }

    /// Returns how many connections are open.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Sets which clients are known; their connections have precedence when there are too many. To
    /// be called once, before the server is open.
    pub fn set_is_known(&self, is_known: IsKnown) {
        self.connections.set_is_known(is_known);
    }

    /// Returns the budget for the memory that peers make the server hold.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.shared.budget
    }

    /// Frees memory that is not needed any more. To be called every second. Blocks for some
    /// milliseconds at the end of a load.
    pub fn sweep(&self) {
        self.shared.budget.sweep();
        self.connections.sweep();
        self.upkeep().sweep(&self.shared);
    }

    fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock()
    }

    /// Returns how many calls wait for a thread of the pool.
    pub fn waiting(&self) -> usize {
        self.shared.pool.waiting()
    }

    fn thread(&self) -> &DataPlaneThread {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        &self.threads[n % self.threads.len()]
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

    /// Passes a connection to a thread, if it is admitted.
    fn admit(&self, stream: TcpStream, peer: SocketAddr, service: &Arc<Service>) {
        let thread = self.thread();
        let (stream, local) = match prepare(stream, &thread.handle) {
            Ok(prepared) => prepared,
            Err(error) => return tracing::debug!(%peer, %error, "connection lost"),
        };
        let (origin, shared) = (Origin { peer, local }, Arc::clone(&self.shared));
        let outbox = |peer: &_| Outbox::new(stream, Arc::clone(&shared.buffers), peer);
        let permit = match self.connections.enter(origin, outbox) {
            ConnectionAdmission::Free(permit) => permit,
            ConnectionAdmission::Displaced(permit) => {
                self.shared.metrics.displaced.add(1);
                tracing::warn!(%peer, "a connection gave way: as many as --max-connections are open");
                permit
            }
            ConnectionAdmission::Refused => {
                self.shared.metrics.refused.add(1);
                tracing::warn!(%peer, "connection refused: as many as --max-connections are in use");
                return;
            }
        };
        self.shared.metrics.accepted.add(1);
        tracing::debug!(%peer, "connection accepted");
        let (service, scratch) = (Arc::clone(service), Arc::clone(&thread.scratch));
        self.tasks
            .spawn_on(connection::run(permit, origin, service, shared, scratch), &thread.handle);
    }
}

/// The number of sweeps after which unused buffers are freed.
const BUFFERS_REST: u32 = 4;

/// A load that made the server hold so many bytes leaves fragmented memory worth returning.
const WORTH_CLOSING: usize = 8 * 1024 * 1024;

/// Frees memory when a load ends.
#[derive(Default)]
struct Upkeep {
    sweeps: u32,
    /// The maximum that was held since memory was last returned to the kernel, in bytes.
    most: usize,
}

impl Upkeep {
    fn sweep(&mut self, shared: &SharedResources) {
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

impl DataPlaneThread {
    fn start(n: usize, stop: CancellationToken, scratch: Scratch) -> io::Result<Self> {
        // Tasks woken by other threads, and new connections, take turns with those that are ready
        // here. By default, tokio polls them only every 31st time while any is ready here.
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
        // [::] and 0.0.0.0 can then be bound side by side, each for its own protocol.
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A restart must not wait until old connections have left TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options of a connection, and moves it to another thread's runtime.
fn prepare(stream: TcpStream, to: &Handle) -> io::Result<(TcpStream, SocketAddr)> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    let local = stream.local_addr()?;
    let stream = stream.into_std()?;
    let _runtime = to.enter();
    Ok((TcpStream::from_std(stream)?, local))
}

/// Whether accepting failed because of one connection, so that the next attempt may succeed.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
