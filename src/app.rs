//! Builds the parts, starts them, and stops them: the only module that names all others.
//!
//! What may wait for a disk does so on threads of its own: the control plane's thread has signals
//! to hear and health checks to answer.

mod desk;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

use crate::config::{Config, Source};
use crate::export::file::{self, Entry};

use crate::export::{Export, ExportId, Table};
use crate::fs::Fs;
use crate::fs::root::HandleKind;
use crate::mount::{self, Mount};
use crate::nfs3::{self, Nfs};
use crate::portmap::registration::Transport;
use crate::portmap::{self, Portmap};
use crate::rpc::Program;
use crate::rpc::server::{Limits, Server, Settings};
use crate::rpc::service::Service;
use crate::state::State;
use crate::sys::process;
use crate::telemetry::log::Chain;
use crate::telemetry::metrics::Metrics;
use desk::{Desk, Parts};

/// Largest exports file that is read.
const EXPORTS_FILE_MAX: u64 = 1024 * 1024;

/// Threads for calls that may sleep. Most of the time they wait for the disk together.
const POOL: usize = 32;

/// Descriptors that files of exports may use, as a share of all: the rest is for connections.
const DESCRIPTORS_SHARE: usize = 2;

/// More are never kept open, however many there may be.
const DESCRIPTORS_MAX: usize = 200_000;

/// How often files that are not used are closed.
const SWEEP: Duration = Duration::from_secs(1);

/// Serves until the process is told to stop.
///
/// # Errors
/// Something that serving needs is not to be had.
pub fn serve(config: Config) -> Result<()> {
    let descriptors = process::prepare().context("cannot lower the privileges")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane")?;
    let result = runtime.block_on(run(config, descriptors));
    // Whatever still waits for a disk then has nobody to tell.
    runtime.shutdown_background();
    result
}

async fn run(config: Config, descriptors: usize) -> Result<()> {
    let desk = Desk::open(config.admin).await?;
    let metrics = Arc::clone(&desk.metrics);
    let start = spawn_blocking(move || App::start(config, descriptors, metrics));
    let app = start.await.context("cannot start")??;
    Arc::new(app).run(&desk).await?;
    desk.close().await;
    Ok(())
}

/// The running parts.
struct App {
    config: Config,
    state: State,
    fs: Arc<Fs>,
    exports: Arc<ArcSwap<Table>>,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    bound: Vec<SocketAddr>,
}

impl App {
    fn start(config: Config, descriptors: usize, metrics: Arc<Metrics>) -> Result<Self> {
        let state = State::open(&config.state)?;
        let files = (descriptors / DESCRIPTORS_SHARE).min(DESCRIPTORS_MAX);
        let fs =
            Fs::new(state.key()?, files, state.dir()).context("cannot use the state folder")?;
        if !fs.acts_as_callers() {
            tracing::warn!(
                "without the privilege to act as others: all clients act as the server's user"
            );
        }
        let settings = Settings {
            threads: thread::available_parallelism().map_or(2, usize::from).clamp(2, 16),
            pool: POOL,
            connections: config.max_connections,
            limits: Limits { record: nfs3::CALL_MAX, idle: config.idle, stalled: config.stalled },
        };
        let server = Server::start(settings, Arc::clone(&metrics));
        let server = server.context("cannot start the data plane")?;
        let (fs, exports) = (Arc::new(fs), Arc::<ArcSwap<Table>>::default());
        let mut app = Self { config, state, fs, exports, server, metrics, bound: Vec::new() };
        app.load()?;
        app.listen()?;
        app.server.open();
        Ok(app)
    }

    /// Reads what is to be exported, and exports it. If anything of it is faulty, nothing changes.
    fn load(&self) -> Result<()> {
        let old = self.exports.load_full();
        let new = self.wanted()?;
        let mut attached: Vec<ExportId> = Vec::new();
        let is_new = |export: &Export| !self.fs.serves(export.id, &export.dir);
        for export in new.iter().filter(|export| is_new(export)) {
            let kind = self.fs.attach(export.id, &export.dir, self.config.handles);
            let kind = kind.map_err(|errno| {
                attached.iter().for_each(|id| self.fs.detach(*id));
                let dir = export.dir.display();
                anyhow::Error::new(errno).context(format!("cannot export {dir}"))
            })?;
            attached.push(export.id);
            let handles = match kind {
                HandleKind::Kernel => "kernel",
                HandleKind::Path => "path",
            };
            tracing::info!(%export, dir = %export.dir.display(), handles, "exported");
        }
        for gone in old.iter().filter(|export| new.get(export.id).is_none()) {
            tracing::info!(export = %gone, "no longer exported");
        }
        let new = Arc::new(new);
        self.exports.store(Arc::clone(&new));
        for gone in old.iter().filter(|export| new.get(export.id).is_none()) {
            self.fs.detach(gone.id);
        }
        Ok(())
    }

    /// The table of what is to be exported.
    fn wanted(&self) -> Result<Table> {
        let exports = match &self.config.source {
            Source::Directory(dir) => {
                // With a mode of its own: the process has no umask.
                let mut folder = fs::DirBuilder::new();
                folder
                    .recursive(true)
                    .mode(0o755)
                    .create(dir)
                    .with_context(|| format!("cannot create {}", dir.display()))?;
                let dir = canonical(dir)?;
                let ids = self.state.ids([dir.as_path()])?;
                ids.into_iter().map(|id| Export::sole(id, dir.clone())).collect::<Vec<_>>()
            }
            Source::File(path) => {
                let entries = read_exports(path)?;
                let dirs = entries.iter().map(directory).collect::<Result<Vec<_>>>()?;
                let ids = self.state.ids(dirs.iter().map(PathBuf::as_path))?;
                let export = |((entry, dir), id): ((Entry, PathBuf), _)| Export {
                    dir,
                    ..entry.into_export(id)
                };
                entries.into_iter().zip(dirs).zip(ids).map(export).collect()
            }
        };
        for export in &exports {
            self.keeps_out_of_state(&export.dir)?;
        }
        Table::new(exports).context("two exports cannot be told apart")
    }

    /// Whoever reads the key can forge handles.
    fn keeps_out_of_state(&self, dir: &Path) -> Result<()> {
        let state = self.state.dir();
        if state.starts_with(dir) {
            bail!(
                "the state folder {} lies in the export {}; choose another with --state",
                state.display(),
                dir.display()
            );
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        let nfs = Arc::new(Nfs::new(Arc::clone(&self.fs), Arc::clone(&self.exports)));
        let mount = Arc::new(Mount::new(Arc::clone(&self.exports), Arc::clone(&self.fs)));
        let datagrams = self.service(vec![Arc::clone(&mount) as Arc<dyn Program>]);
        let service = self.service(vec![nfs, mount]);
        let mut portmap = Portmap::default();
        for &address in &self.config.listen {
            let bound = self.server.listen_tcp(address, &service).with_context(|| {
                format!("cannot listen on {address}; choose another address with --listen")
            })?;
            self.server
                .listen_udp(bound, &datagrams)
                .with_context(|| format!("cannot listen on {bound} for datagrams"))?;
            let nfs = (nfs3::VERSION, nfs3::VERSION);
            portmap.register(nfs3::PROGRAM, nfs, Transport::Tcp, bound);
            for transport in [Transport::Tcp, Transport::Udp] {
                portmap.register(mount::PROGRAM, mount::VERSIONS, transport, bound);
            }
            self.bound.push(bound);
        }
        if let Some(address) = self.config.portmap {
            for transport in [Transport::Tcp, Transport::Udp] {
                portmap.register(portmap::PROGRAM, portmap::VERSIONS, transport, address);
            }
            self.listen_portmap(address, portmap)?;
        }
        Ok(())
    }

    fn service(&self, programs: Vec<Arc<dyn Program>>) -> Arc<Service> {
        Arc::new(Service::new(programs, Arc::clone(&self.metrics)))
    }

    fn listen_portmap(&self, address: SocketAddr, portmap: Portmap) -> Result<()> {
        let service = self.service(vec![Arc::new(portmap)]);
        let hint = "port 111 needs root, and no other portmapper (rpcbind) on it";
        self.server
            .listen_tcp(address, &service)
            .and_then(|_| self.server.listen_udp(address, &service))
            .with_context(|| format!("cannot listen on {address} for --portmap; {hint}"))?;
        Ok(())
    }

    async fn run(self: Arc<Self>, desk: &Desk) -> Result<()> {
        let mut hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
        let sweeper = Sweeper::start(Arc::clone(&self.fs))?;
        self.greet(desk.address());
        desk.serving(self.parts(), &self.bound);
        while wait(&mut hangup, &mut terminate, &mut interrupt).await == Told::Reload {
            let app = Arc::clone(&self);
            let reload = spawn_blocking(move || app.reload());
            tokio::select! {
                _ = reload => {}
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        desk.draining();
        tracing::info!("stopping: answering what was asked");
        let cut_off = self.server.stop(self.config.grace).await;
        if cut_off > 0 {
            tracing::warn!(cut_off, "connections were cut off at the end of the grace period");
        }
        let fs = Arc::clone(&self.fs);
        let flush = move || {
            sweeper.stop();
            fs.flush_all();
        };
        spawn_blocking(flush).await.context("cannot flush what was written")?;
        tracing::info!("stopped");
        Ok(())
    }

    fn parts(&self) -> Parts {
        Parts {
            server: Arc::clone(&self.server),
            fs: Arc::clone(&self.fs),
            exports: Arc::clone(&self.exports),
            volumes: None,
        }
    }

    fn reload(&self) {
        if let Source::Directory(_) = self.config.source {
            tracing::info!("there is no exports file to read again");
            return;
        }
        match self.load() {
            Ok(()) => tracing::info!("exports read again"),
            Err(error) => {
                let error = Chain(error.as_ref()).to_string();
                tracing::error!(error, "cannot read the exports again; nothing has changed");
            }
        }
    }

    /// Says what is served, and how to mount it.
    fn greet(&self, admin: Option<SocketAddr>) {
        println!("berth {} serves NFSv3", env!("CARGO_PKG_VERSION"));
        for &address in &self.bound {
            println!("on {address}");
            for export in self.exports.load().iter() {
                println!("  {export}  [{}]", export.dir.display());
                println!("    {}", mount_command(address, export));
            }
        }
        if self.bound.iter().all(|address| address.ip().is_loopback()) {
            println!(
                "Only this machine can connect. For the network: --listen 0.0.0.0:2049, and with\n\
                 --exports FILE who may connect, because NFS asks no password."
            );
        }
        if let Some(admin) = admin {
            println!("Status page: http://{admin}/");
        }
        tracing::info!(listen = ?self.bound, portmap = ?self.config.portmap, ?admin, "serving");
    }
}

/// What the process was told.
#[derive(PartialEq, Eq)]
enum Told {
    Reload,
    Stop,
}

async fn wait(hangup: &mut Signal, terminate: &mut Signal, interrupt: &mut Signal) -> Told {
    tokio::select! {
        _ = hangup.recv() => Told::Reload,
        _ = terminate.recv() => Told::Stop,
        _ = interrupt.recv() => Told::Stop,
    }
}

/// The thread that closes what is not used.
struct Sweeper {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Sweeper {
    fn start(fs: Arc<Fs>) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let sweep = move || {
            while stopped.recv_timeout(SWEEP) == Err(mpsc::RecvTimeoutError::Timeout) {
                fs.sweep();
            }
        };
        let thread = thread::Builder::new().name("berth-sweep".into()).spawn(sweep);
        Ok(Self { stop, thread: thread.context("cannot start a thread")? })
    }

    fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// Reads an exports file and says what it means.
///
/// # Errors
/// What is wrong with it, in one line for each fault.
pub fn check_exports(path: &Path) -> Result<()> {
    for entry in read_exports(path)? {
        directory(&entry)?;
        println!("{entry}");
    }
    Ok(())
}

fn read_exports(path: &Path) -> Result<Vec<Entry>> {
    let name = path.display().to_string();
    let size = fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    if size > EXPORTS_FILE_MAX {
        bail!("{name} is larger than {EXPORTS_FILE_MAX} bytes");
    }
    let text = fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let mut resolve = |host: &str| -> io::Result<Vec<IpAddr>> {
        Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
    };
    file::parse(&text, &name, &mut resolve).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| Chain(error).to_string()).collect();
        anyhow::anyhow!(lines.join("\n"))
    })
}

/// The directory of an export, without links.
fn directory(entry: &Entry) -> Result<PathBuf> {
    let dir = entry.clone().into_export(ExportId(0)).dir;
    let dir = canonical(&dir).with_context(|| format!("line {}", entry.line))?;
    if !dir.is_dir() {
        bail!("line {}: {} is not a directory", entry.line, dir.display());
    }
    Ok(dir)
}

fn canonical(dir: &Path) -> Result<PathBuf> {
    dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))
}

/// The command with which a Linux client mounts an export.
fn mount_command(address: SocketAddr, export: &Export) -> String {
    let host = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => "HOST".into(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let proto = if address.is_ipv6() { "tcp6" } else { "tcp" };
    let (port, path) = (address.port(), String::from_utf8_lossy(&export.path));
    format!(
        "mount -t nfs -o vers=3,proto={proto},nolock,port={port},mountport={port},mountproto={proto} \
         '{host}:{path}' /mnt"
    )
}
