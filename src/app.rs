//! Builds the parts, starts them, and stops them: the only module that names all others.
//!
//! Work that may block on a disk runs on threads of its own, because the thread of the control
//! plane must respond to signals and health checks.
//!
//! This file and `shutdown.rs` import each other: stopping uses most fields of an `App`, and a
//! structure that only passed them on would have to be kept equal to it.

mod absent;
mod admin_http;
mod admin_socket;
mod ancestry;
pub mod exports;
mod exposure;
mod greeting;
mod periodic_thread;
mod shutdown;
mod signals;

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io, thread};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tracing::field::display;

use crate::admin::api::ServerProperties;
use crate::config::{Config, ExportSource};
use crate::export::file::ExportLine;
use crate::export::table::Exports;
use crate::export::{Export, ExportId};
use crate::fs::Fs;
use crate::fs::fingerprint::Fingerprint;
use crate::fs::root::HandleKind;
use crate::mount::{self, Datagrams, Mount};
use crate::nfs::core::CALL_MAX;
use crate::nfs::{self, Nfs};
use crate::portmap::registration::Transport;
use crate::portmap::{self, Portmap};
use crate::provisioner::{self, Provisioner};
use crate::rpc::program::Program;
use crate::rpc::service::Service;
use crate::rpc::transport::connections::IsKnown;
use crate::rpc::transport::server::{Server, ServerSettings};
use crate::rpc::transport::shared::ConnectionLimits;
use crate::state::StateFolder;
use crate::sys::{memory, process};
use crate::telemetry::bounded::LogLimiter;
use crate::telemetry::log::{Chain, LogFormat};
use crate::telemetry::metrics::Metrics;
use crate::volume::{self, Volumes, nested};
use admin_http::{AdminHttp, ServerParts};
use admin_socket::AdminSocket;
use ancestry::Ancestry;
use exports::canonical;
use exposure::Audience;
use periodic_thread::PeriodicThread;
use signals::{ControlSignal, Signals};

/// Threads for calls that may block.
const POOL: usize = 32;

/// Divisor of the limit of open descriptors: the share that open files may use. The rest is for
/// connections.
const DESCRIPTORS_SHARE: usize = 2;

/// Largest number of files that are kept open.
const DESCRIPTORS_MAX: usize = 200_000;

/// Divisor of the memory limit of the process: the default of `--memory`.
const MEMORY_SHARE: u64 = 4;

/// Default of `--memory` without such a limit, in bytes.
const MEMORY: usize = 256 * 1024 * 1024;

/// Serves until a signal stops the process. `limiter` bounds the log.
///
/// # Errors
/// The server cannot start, or could not flush everything before it stopped.
pub fn serve(config: Config, limiter: Arc<LogLimiter>) -> Result<()> {
    memory::free_at_once();
    let descriptors = process::prepare().context("cannot lower the privileges")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane")?;
    let result = runtime.block_on(run(config, descriptors, limiter));
    // Does not wait for threads that still block on a disk.
    runtime.shutdown_background();
    result
}

async fn run(config: Config, descriptors: usize, limiter: Arc<LogLimiter>) -> Result<()> {
    let reporter = Arc::clone(&limiter);
    let log = PeriodicThread::start("berth-log", move || reporter.report())?;
    // Before the first response: a client that has a response may stop the process with a signal.
    let mut signals = Signals::new().context("cannot wait for signals")?;
    let admin_http = AdminHttp::open(config.admin, &config.admin_hosts).await?;
    let metrics = Arc::clone(&admin_http.metrics);
    let start = spawn_blocking(move || App::start(config, descriptors, metrics));
    let app = tokio::select! {
        started = start => started.context("cannot start")??,
        // The start may block on a file system. Abandoning it is the same as a crash, after which
        // every step of the start can be repeated.
        () = signals.stop() => {
            tracing::info!("stopped by a signal before anything was served");
            return Ok(());
        }
    };
    Arc::new(app).run(&admin_http, signals).await?;
    admin_http.close().await;
    log.stop();
    limiter.report_all();
    Ok(())
}

/// The running parts.
struct App {
    config: Config,
    state: StateFolder,
    fs: Arc<Fs>,
    exports: Arc<Exports>,
    /// The exports of the configuration, without the volumes.
    statics: Mutex<Vec<Arc<Export>>>,
    volumes: Option<Arc<Volumes>>,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    bound: Vec<SocketAddr>,
    admin_socket: AdminSocket,
}

impl App {
    fn start(config: Config, descriptors: usize, metrics: Arc<Metrics>) -> Result<Self> {
        absent::wait_for(&config);
        if let Some(volumes) = &config.volumes {
            volume::prepare(&volumes.dir).context("cannot use the directory for volumes")?;
        }
        let state = StateFolder::open(&config.state)?;
        let files = (descriptors / DESCRIPTORS_SHARE).min(DESCRIPTORS_MAX);
        let fs =
            Fs::new(state.key()?, files, state.dir()).context("cannot use the state folder")?;
        exposure::log_identity(fs.acts_as_callers());
        let settings = ServerSettings {
            threads: thread::available_parallelism().map_or(2, usize::from).clamp(2, 16),
            pool: POOL,
            connections: config.max_connections,
            memory: config.memory.unwrap_or_else(memory_for_clients),
            limits: ConnectionLimits {
                record: CALL_MAX,
                idle: config.idle,
                stalled: config.stalled,
            },
        };
        let server = Server::start(settings, Arc::clone(&metrics));
        let server = server.context("cannot start the data plane")?;
        let (fs, exports) = (Arc::new(fs), Arc::<Exports>::default());
        let mut app = Self {
            config,
            state,
            fs,
            exports,
            statics: Mutex::default(),
            volumes: None,
            server,
            metrics,
            bound: Vec::new(),
            admin_socket: AdminSocket::default(),
        };
        app.load()?;
        app.open_volumes()?;
        app.listen()?;
        let socket = &app.config.admin_socket;
        app.admin_socket = AdminSocket::open(socket, app.volumes.as_ref(), app.about()?)?;
        app.server.open();
        Ok(app)
    }

    /// Reads the configured exports, and replaces the previous ones by them. On an error, nothing
    /// has changed.
    fn load(&self) -> Result<()> {
        let mut statics = self.statics.lock();
        let new = self.configured_exports()?;
        let mut attached: Vec<ExportId> = Vec::new();
        let is_new = |export: &Export| !self.fs.serves(export.id, &export.dir);
        for export in new.iter().filter(|export| is_new(export)) {
            let kind = self.fs.attach(export.id, &export.dir, self.config.handles, None);
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
        let old: Vec<_> = statics.iter().map(|export| export.id).collect();
        self.exports
            .change(&old, new.iter().cloned())
            .inspect_err(|_| attached.iter().for_each(|id| self.fs.detach(*id)))
            .context("two exports cannot be told apart")?;
        for gone in statics.iter().filter(|export| new.iter().all(|new| new.id != export.id)) {
            tracing::info!(export = %gone, "no longer exported");
            self.fs.detach(gone.id);
        }
        *statics = new;
        Ok(())
    }

    /// Reads and checks the configured exports.
    fn configured_exports(&self) -> Result<Vec<Arc<Export>>> {
        let exports = match &self.config.source {
            ExportSource::Directory(dir, ports) => {
                create_exported(dir).with_context(|| format!("cannot create {}", dir.display()))?;
                let dir = canonical(dir)?;
                let ids = self.ids(std::slice::from_ref(&dir))?;
                ids.into_iter().map(|id| Export::sole(id, dir.clone(), *ports)).collect::<Vec<_>>()
            }
            ExportSource::None => Vec::new(),
            ExportSource::File(path) => {
                let entries = exports::read(path)?;
                let dirs = entries.iter().map(exports::directory).collect::<Result<Vec<_>>>()?;
                let ids = self.ids(&dirs)?;
                let export = |((entry, dir), id): ((ExportLine, PathBuf), _)| Export {
                    dir,
                    ..entry.into_export(id)
                };
                entries.into_iter().zip(dirs).zip(ids).map(export).collect()
            }
        };
        if let (ExportSource::Directory(dir, _), false) = (&self.config.source, self.is_local()) {
            exposure::warn_of_network(dir);
        }
        for export in &exports {
            self.check_overlap(&export.dir)?;
            self.audience().warn_of(export);
        }
        Ok(exports.into_iter().map(Arc::new).collect())
    }

    fn ids(&self, dirs: &[PathBuf]) -> Result<Vec<ExportId>> {
        let fingerprint = |dir: &PathBuf| {
            let opened = fs::File::open(dir).map_err(anyhow::Error::new);
            let fingerprint = opened.and_then(|dir| Ok(Fingerprint::of(dir)?));
            fingerprint.with_context(|| format!("cannot examine {}", dir.display()))
        };
        let fingerprints = dirs.iter().map(fingerprint).collect::<Result<Vec<_>>>()?;
        let sources = fingerprints.iter().map(Fingerprint::source);
        self.state.ids(dirs.iter().map(PathBuf::as_path).zip(sources))
    }

    /// Whether only this machine can connect.
    fn is_local(&self) -> bool {
        self.config.listen.iter().all(|address| address.ip().is_loopback())
    }

    fn audience(&self) -> Audience {
        Audience { is_local: self.is_local(), acts_as_callers: self.fs.acts_as_callers() }
    }

    fn open_volumes(&mut self) -> Result<()> {
        let Some(settings) = &self.config.volumes else { return Ok(()) };
        let open_to_users = exposure::is_open(&canonical(&settings.dir)?);
        if open_to_users {
            tracing::warn!(
                dir = %settings.dir.display(),
                "users of this machine can enter the directory of the volumes; volumes therefore \
                 have no set-id bits and no devices unless their settings allow them; let only \
                 root enter it (chmod 700)"
            );
        }
        self.audience().warn_of_volumes(&settings.dir);
        let serving = volume::DataPlane {
            fs: Arc::clone(&self.fs),
            exports: Arc::clone(&self.exports),
            handles: self.config.handles,
            open_to_users,
        };
        let opened = Volumes::open(settings, serving);
        self.volumes = Some(opened.context("cannot open the volumes")?);
        Ok(())
    }

    /// The properties that the server reports over its admin socket.
    fn about(&self) -> Result<ServerProperties> {
        let provisioner = self.config.provisioner.as_ref().map(|settings| settings.name.clone());
        let server = provisioner.is_some().then(|| self.state.server()).transpose()?;
        let (version, listen) = (env!("CARGO_PKG_VERSION").into(), self.bound.clone());
        Ok(ServerProperties { version, listen, provisioner, server })
    }

    /// Checks that an export overlaps neither the state folder nor the volumes: clients that can
    /// read the key can forge handles, and clients that can write the registry control all volumes.
    fn check_overlap(&self, dir: &Path) -> Result<()> {
        let export = Ancestry::of(dir)?;
        if let Some(volumes) = &self.config.volumes {
            let volumes = Ancestry::of(&canonical(&volumes.dir)?)?;
            if volumes.is_in(&export) {
                bail!("the volumes in {volumes} lie in the export {export}");
            }
            if export.is_in(&volumes) {
                bail!(
                    "the export {export} lies among the volumes in {volumes}; \
                     serve it as one of them (berth volume adopt)"
                );
            }
        }
        if let Some(holder) = nested::holder_of(dir) {
            let holder = holder.display();
            bail!(
                "the export {export} lies in {holder}, a directory of volumes ({holder}/.berth \
                 holds their keys and capacities); serve them with --volumes {holder}"
            );
        }
        let state = Ancestry::of(self.state.dir())?;
        if state.is_in(&export) {
            bail!(
                "the state folder {state} lies in the export {export}; choose another with --state"
            );
        }
        Ok(())
    }

    fn listen(&mut self) -> Result<()> {
        let nfs = Arc::new(Nfs::new(Arc::clone(&self.fs), Arc::clone(&self.exports)));
        let mount = Arc::new(Mount::new(Arc::clone(&self.exports), Arc::clone(&self.fs)));
        let datagrams = self.service(vec![Arc::new(Datagrams(Arc::clone(&mount)))]);
        if let Some(volumes) = &self.volumes {
            let mount = Arc::clone(&mount);
            volumes.set_mounts(Box::new(move || mount.list()));
            volumes.set_holders(Box::new(provisioner::holder::by_labels));
        }
        self.server.set_is_known(knows(&self.exports, &mount));
        let service = self.service(vec![nfs, mount]);
        let mut portmap = Portmap::default();
        for &address in &self.config.listen {
            let bound = self.server.listen_tcp(address, &service).with_context(|| {
                format!("cannot listen on {address}; choose another address with --listen")
            })?;
            self.server
                .listen_udp(bound, &datagrams)
                .with_context(|| format!("cannot listen on {bound} for datagrams"))?;
            portmap.register(nfs::PROGRAM, nfs::VERSIONS, Transport::Tcp, bound);
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
        let replies = self.server.budget().for_replies();
        Arc::new(Service::new(programs, Arc::clone(&self.metrics), replies))
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

    async fn run(self: Arc<Self>, admin_http: &AdminHttp, mut signals: Signals) -> Result<()> {
        let (fs, server) = (Arc::clone(&self.fs), Arc::clone(&self.server));
        // One thread for each: a file system that hangs delays only the work on files.
        let upkeep = PeriodicThread::start("berth-upkeep", move || server.sweep())?;
        let sweeper = PeriodicThread::start("berth-sweep", move || fs.sweep())?;
        let (fs, volumes) = (Arc::clone(&self.fs), self.volumes.clone());
        let exists = move |dir: &Path| volumes.as_ref().is_none_or(|volumes| volumes.has(dir));
        let renewer = PeriodicThread::start("berth-renew", move || fs.reopen_exports(&exists))?;
        let provisioner = self.provisioner().await?;
        if self.config.log == LogFormat::Text {
            greeting::print(&self.bound, &self.exports.load(), admin_http.address());
        }
        let (portmap, admin) =
            (self.config.portmap.map(display), admin_http.address().map(display));
        tracing::info!(listen = ?self.bound, portmap, admin, "serving");
        let metrics = provisioner.as_ref().map(|provisioner| Arc::clone(provisioner.metrics()));
        admin_http.serving(self.parts(metrics), &self.bound);
        while signals.next().await == ControlSignal::Reload {
            let app = Arc::clone(&self);
            let reload = spawn_blocking(move || app.reload());
            tokio::select! {
                _ = reload => {}
                () = signals.stop() => break,
            }
        }
        admin_http.draining();
        tracing::info!("stopping: finishing the calls in progress");
        shutdown::exit_at_next_signal(signals);
        shutdown::drain(&self, provisioner.as_ref()).await;
        drop(renewer); // not joined: it may hang, and has nothing to finish
        shutdown::finish(self, vec![upkeep, sweeper]).await?;
        tracing::info!("stopped");
        Ok(())
    }

    /// Starts the provisioner, if one is configured. Clients are served already.
    async fn provisioner(&self) -> Result<Option<Provisioner>> {
        let (Some(settings), Some(volumes)) = (&self.config.provisioner, &self.volumes) else {
            return Ok(None);
        };
        // Nodes cannot reach a loopback address.
        let outside = self.bound.iter().find(|bound| !bound.ip().is_loopback());
        let Some(bound) = outside.or(self.bound.first()) else {
            bail!("a provisioner needs an NFS server; name an address with --listen");
        };
        let (settings, volumes) = (settings.clone(), Arc::clone(volumes));
        let server = self.state.server()?;
        let started = Provisioner::start(settings, volumes, bound.port(), &server).await;
        Ok(Some(started.context("cannot start the provisioner")?))
    }

    /// Releases the locks of the state folder and of the volumes.
    fn unlock(&self) {
        self.state.unlock();
        if let Some(volumes) = &self.volumes {
            volumes.unlock();
        }
    }

    fn parts(
        &self,
        provisioner: Option<Arc<provisioner::metrics::ProvisionerMetrics>>,
    ) -> ServerParts {
        ServerParts {
            server: Arc::clone(&self.server),
            fs: Arc::clone(&self.fs),
            exports: Arc::clone(&self.exports),
            volumes: self.volumes.clone(),
            provisioner,
        }
    }

    fn reload(&self) {
        if !matches!(self.config.source, ExportSource::File(_)) {
            tracing::info!("SIGHUP has no effect: there is no exports file (--exports)");
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
}

/// Returns the test for known clients: those that an export lists by more than `*`, and those that
/// have mounted something.
fn knows(exports: &Arc<Exports>, mount: &Arc<Mount>) -> IsKnown {
    let (exports, mount) = (Arc::clone(exports), Arc::clone(mount));
    Box::new(move |ip| exports.load().lists(ip) || mount.has_mounted(ip))
}

/// The default of `--memory`, in bytes.
fn memory_for_clients() -> usize {
    memory::limit().map_or(MEMORY, |limit| usize::try_from(limit / MEMORY_SHARE).unwrap_or(MEMORY))
}

/// Creates a directory to export, if it does not exist.
///
/// The modes are explicit, because the process has no umask. Parents that are created have the
/// mode 0700, which keeps other users of this machine out; the directory itself has the mode that
/// clients see.
fn create_exported(dir: &Path) -> io::Result<()> {
    let mut folder = fs::DirBuilder::new();
    folder.recursive(true);
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        folder.mode(0o700).create(above)?;
    }
    folder.mode(0o755).create(dir)
}
