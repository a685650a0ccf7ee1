//! The command line: [`Args`] as they are written, checked into a plain [`Config`].

mod help;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::command::args::VolumeArgs;
use crate::command::health::HealthArgs;
use crate::command::manual::ManualArgs;
use crate::export::Ports;
use crate::fs::root::HandleKind;
use crate::label::{is_provisioner, is_subdomain};
use crate::provisioner;
use crate::provisioner::server::Where;
use crate::quantity;
use crate::telemetry::log;
use crate::volume;

/// The port of the portmapper (RFC 1833).
const PORTMAP_PORT: u16 = 111;

/// The least that clients may make the server hold, in bytes: a few of the largest calls.
const MEMORY_MIN: u64 = 16 * 1024 * 1024;

/// Serves directories and volumes over NFSv3 from user space.
///
/// A volume is a directory with an export and an enforced capacity of its own. In Kubernetes, every
/// claim of its StorageClass gets one.
#[derive(Debug, Parser)]
#[command(name = "berth", version, max_term_width = 100, after_help = help::HELP)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a directory, those of an exports file, or volumes over NFSv3
    #[command(after_help = help::SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Work with exports files
    #[command(subcommand)]
    Exports(ExportsCommand),
    /// Work with the volumes of a running server
    Volume(VolumeArgs),
    /// Ask whether a server answers: exit code 0 if it does, 1 with a reason if not
    #[command(after_help = help::HEALTH_HELP)]
    Health(HealthArgs),
    /// Print a page of the manual, or list the pages
    Manual(ManualArgs),
}

/// Work with exports files.
#[derive(Debug, Subcommand)]
pub enum ExportsCommand {
    /// Read an exports(5) file, and say what is wrong with it or what it means
    Check {
        /// The exports file
        file: PathBuf,
    },
}

/// Where the options of the provisioner stand in the help.
const KUBERNETES: &str = "Kubernetes";

/// Options of `berth serve`.
#[derive(Debug, ClapArgs)]
pub struct ServeArgs {
    /// Directory to export as `/`, read-write, to whoever can connect; made if it is not there
    #[arg(
        value_name = "DIR",
        required_unless_present_any = ["exports", "volumes"],
        conflicts_with = "exports"
    )]
    pub dir: Option<PathBuf>,
    /// Answer calls to DIR from ports above 1023 too, which every user of a client may use; as root, only
    /// lower ones are answered otherwise
    #[arg(long, env = "BERTH_INSECURE")]
    pub insecure: bool,
    /// Export what this exports(5) file says instead; read again at SIGHUP
    #[arg(long, value_name = "FILE", env = "BERTH_EXPORTS")]
    pub exports: Option<PathBuf>,
    /// Keep volumes in this directory, each exported as `/NAME` with a capacity of its own (`berth
    /// volume --help`); made if it is not there
    #[arg(long, value_name = "DIR", env = "BERTH_VOLUMES")]
    pub volumes: Option<PathBuf>,
    /// Remove at most so many files a second of volumes that were deleted
    #[arg(long, value_name = "N", env = "BERTH_PURGE_RATE", default_value_t = 2000)]
    pub purge_rate: u32,
    /// Count what volumes use anew after so many hours, because something may have been changed
    /// beside the server; 0: never
    #[arg(long, value_name = "HOURS", env = "BERTH_RECOUNT", default_value_t = 24)]
    pub recount: u32,
    /// Refuse volumes and capacities with which all capacities together would be more than so many
    /// percent of the disk [default: no limit]
    #[arg(
        long,
        value_name = "PERCENT",
        env = "BERTH_OVERCOMMIT",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub overcommit: Option<u32>,
    /// Address and port for NFS and MOUNT; may be given several times
    ///
    /// NFS asks no password: listen to the network only with an exports file that says who may
    /// connect, or on a network that you trust.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "BERTH_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:2049"
    )]
    pub listen: Vec<SocketAddr>,
    /// Folder for what must survive a restart, in no export [default: .berth/state in the directory
    /// with the volumes; without volumes /var/lib/berth as root, else $XDG_STATE_HOME/berth]
    #[arg(long, value_name = "DIR", env = "BERTH_STATE")]
    pub state: Option<PathBuf>,
    /// Where `berth volume` talks to this server (only with volumes) [default:
    /// /run/berth/admin.sock as root, else $XDG_RUNTIME_DIR/berth/admin.sock, else admin.sock in the
    /// state folder]
    #[arg(long, value_name = "PATH", env = "BERTH_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Also answer as portmapper on this address, port 111, for clients that look ports up
    /// (`showmount -e`, `rpcinfo -p`, `mount` without port options)
    #[arg(long, value_name = "ADDR[:PORT]", env = "BERTH_PORTMAP", value_parser = portmap_address)]
    pub portmap: Option<SocketAddr>,
    /// Also answer HTTP on this address: `/livez`, `/readyz`, `/metrics` for Prometheus, and a
    /// status page on `/`; read-only, and for whoever can connect
    #[arg(long, value_name = "ADDR:PORT", env = "BERTH_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// A name or address by which others call the HTTP address, besides `localhost`, the machine's name
    /// and its own addresses; may be given several times
    #[arg(long, value_name = "NAME", env = "BERTH_ADMIN_HOST", value_delimiter = ',')]
    pub admin_host: Vec<String>,
    /// Connections at a time; beyond that, a new one takes the place of one that is not used, of the
    /// address that has most
    #[arg(long, value_name = "N", env = "BERTH_MAX_CONNECTIONS", default_value_t = 1024)]
    pub max_connections: usize,
    /// Memory that clients may make the server hold, like 256Mi: calls that are not complete or not
    /// carried out, and replies that are not taken. When it is used up, clients wait [default: a quarter
    /// of the memory limit of the container or control group, else 256Mi]
    #[arg(long, value_name = "SIZE", env = "BERTH_MEMORY", value_parser = size)]
    pub memory: Option<u64>,
    /// Close a connection that asked for nothing for so many seconds
    #[arg(long, value_name = "SECONDS", env = "BERTH_IDLE_TIMEOUT", default_value_t = 600)]
    pub idle_timeout: u64,
    /// Close a connection that stopped in the middle of a call, or takes no replies, after so many
    /// seconds, or later by a second for every 8 KiB that came through
    #[arg(long, value_name = "SECONDS", env = "BERTH_STALL_TIMEOUT", default_value_t = 60)]
    pub stall_timeout: u64,
    /// At the end, wait at most so many seconds for calls to be answered
    #[arg(long, value_name = "SECONDS", env = "BERTH_GRACE", default_value_t = 30)]
    pub grace: u64,
    /// How files are found again by their handles: by the file system's own handle (`kernel`), by
    /// number and path (`path`), or by its own if it is known never to give one to another file
    #[arg(long, value_name = "KIND", env = "BERTH_HANDLES", default_value = "auto")]
    pub handles: Handles,
    /// Give every claim of the StorageClasses with this provisioner a volume, in Kubernetes (needs
    /// --volumes, and --nfs-server or --nfs-service)
    #[arg(long, value_name = "NAME", env = "BERTH_PROVISIONER", help_heading = KUBERNETES)]
    pub provisioner: Option<String>,
    /// The name or address at which the nodes of the cluster find this server; every volume keeps
    /// it for life
    #[arg(long, value_name = "ADDR", env = "BERTH_NFS_SERVER", help_heading = KUBERNETES)]
    pub nfs_server: Option<String>,
    /// The Service at whose cluster IP the nodes find this server, instead of --nfs-server; its port
    /// `nfs`, or its only one
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        env = "BERTH_NFS_SERVICE",
        conflicts_with = "nfs_server",
        help_heading = KUBERNETES
    )]
    pub nfs_service: Option<String>,
    /// Which cluster, and who we are in it [default: the one that this runs in]
    #[arg(long, value_name = "FILE", env = "BERTH_KUBECONFIG", help_heading = KUBERNETES)]
    pub kubeconfig: Option<PathBuf>,
    /// See only the claims of these namespaces, with commas between them [default: all]
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "BERTH_NAMESPACES",
        value_delimiter = ',',
        help_heading = KUBERNETES
    )]
    pub namespaces: Vec<String>,
    /// The Lease that decides which server provisions [default: the provisioner's name]
    #[arg(long, value_name = "NAME", env = "BERTH_LEASE_NAME", help_heading = KUBERNETES)]
    pub lease_name: Option<String>,
    /// Its namespace [default: $POD_NAMESPACE, else that of the configuration]
    #[arg(long, value_name = "NAMESPACE", env = "BERTH_LEASE_NAMESPACE", help_heading = KUBERNETES)]
    pub lease_namespace: Option<String>,
    /// How lines of the log look
    #[arg(long, value_name = "FORMAT", env = "BERTH_LOG_FORMAT", default_value = "text")]
    pub log_format: log::Format,
}

/// Kinds of file handles to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Handles {
    /// The file system's if it never gives one to another file, else by path.
    Auto,
    /// The file system's, or fail; says what that risks where another file may get one.
    Kernel,
    /// By path.
    Path,
}

/// What is exported, besides volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing.
    None,
    /// This directory, as `/`, to everybody who calls from these ports.
    Directory(PathBuf, Ports),
    /// What this exports file says.
    File(PathBuf),
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is exported, besides volumes.
    pub source: Source,
    /// How volumes are kept, if they are.
    pub volumes: Option<volume::Settings>,
    /// How claims of Kubernetes get volumes, if they do.
    pub provisioner: Option<provisioner::Settings>,
    /// Where NFS and MOUNT listen.
    pub listen: Vec<SocketAddr>,
    /// The state folder.
    pub state: PathBuf,
    /// The socket of the admin API.
    pub admin_socket: PathBuf,
    /// Where the portmapper listens.
    pub portmap: Option<SocketAddr>,
    /// Where the admin listener listens.
    pub admin: Option<SocketAddr>,
    /// By which names and addresses others call it, besides its own.
    pub admin_hosts: Vec<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Bytes that clients may make the server hold; `None`: what suits the machine.
    pub memory: Option<usize>,
    /// When an idle connection is closed.
    pub idle: Duration,
    /// When a stalled one is.
    pub stalled: Duration,
    /// How long the end may take.
    pub grace: Duration,
    /// The kind of handles, if only one is wanted.
    pub handles: Option<HandleKind>,
}

impl ServeArgs {
    /// Checks the options against each other and the environment.
    ///
    /// # Errors
    /// An option that makes no sense, by its name.
    pub fn check(self, is_root: bool) -> Result<Config> {
        let source = match (&self.dir, &self.exports) {
            (Some(dir), None) => Source::Directory(dir.clone(), self.ports(is_root)),
            (None, Some(file)) => Source::File(file.clone()),
            (None, None) if self.volumes.is_some() => Source::None,
            _ => bail!(
                "name a directory to export, an exports file (--exports FILE), or a directory for \
                 volumes (--volumes DIR)"
            ),
        };
        if self.max_connections == 0 {
            bail!("--max-connections must be at least 1");
        }
        if self.memory.is_some_and(|memory| memory < MEMORY_MIN) {
            bail!("--memory must be at least {}", quantity::exact(MEMORY_MIN));
        }
        if self.purge_rate == 0 {
            bail!("--purge-rate must be at least 1");
        }
        if self.idle_timeout == 0 || self.stall_timeout == 0 {
            bail!("--idle-timeout and --stall-timeout must be at least 1 second");
        }
        let provisioner = self.provisioning()?;
        let told = (self.admin_socket, self.state.clone());
        let state = match (self.state, &self.volumes) {
            (Some(state), _) => state,
            (None, Some(volumes)) => volumes.join(".berth/state"),
            (None, None) => default_state(is_root)?,
        };
        Ok(Config {
            source,
            provisioner,
            listen: self.listen,
            admin_socket: admin_socket(told.0, told.1, is_root)
                .unwrap_or_else(|_| state.join("admin.sock")),
            state,
            volumes: self.volumes.map(|dir| volume::Settings {
                dir,
                purge_rate: self.purge_rate,
                recount: Duration::from_secs(u64::from(self.recount) * 3600),
                overcommit: self.overcommit,
            }),
            portmap: self.portmap,
            admin: self.admin,
            admin_hosts: admin_hosts(self.admin_host)?,
            max_connections: self.max_connections,
            memory: self.memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            idle: Duration::from_secs(self.idle_timeout),
            stalled: Duration::from_secs(self.stall_timeout),
            grace: Duration::from_secs(self.grace),
            handles: match self.handles {
                Handles::Auto => None,
                Handles::Kernel => Some(HandleKind::Kernel),
                Handles::Path => Some(HandleKind::Path),
            },
        })
    }
}

impl ServeArgs {
    /// From which ports DIR may be used. Who is root there acts as root here, if the server is root: so
    /// nobody else may claim to be. Without privileges, all act as the server's user in any case.
    const fn ports(&self, is_root: bool) -> Ports {
        if is_root && !self.insecure { Ports::Privileged } else { Ports::Any }
    }

    /// The options of the provisioner.
    fn provisioning(&self) -> Result<Option<provisioner::Settings>> {
        let Some(name) = self.provisioner.clone().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        if self.volumes.is_none() {
            bail!("--provisioner needs a directory for the volumes of claims (--volumes DIR)");
        }
        // For its own plugins the cluster would wait for ever.
        if !is_provisioner(&name) {
            bail!("--provisioner {name:?} is no name of a provisioner, like example.org/berth");
        }
        let lease = self.lease_name.clone();
        let lease = lease.unwrap_or_else(|| name.replace(['/', '_'], "-").to_ascii_lowercase());
        if !is_subdomain(&lease) {
            bail!("{lease:?} cannot be the name of a Lease; choose another with --lease-name");
        }
        Ok(Some(provisioner::Settings {
            name,
            at: self.server()?,
            kubeconfig: self.kubeconfig.clone(),
            namespaces: self.namespaces.iter().filter(|n| !n.is_empty()).cloned().collect(),
            lease,
            lease_namespace: self.lease_namespace.clone().or_else(|| env("POD_NAMESPACE")),
        }))
    }

    /// Where the nodes find the server.
    fn server(&self) -> Result<Where> {
        match (&self.nfs_server, &self.nfs_service) {
            (Some(server), None) => {
                let bare = server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let server = bare.unwrap_or(server);
                let is_name = is_subdomain(&server.to_ascii_lowercase());
                if !is_name && server.parse::<IpAddr>().is_err() {
                    bail!("--nfs-server {server:?} is neither a name nor an address");
                }
                Ok(Where::Fixed(server.to_owned()))
            }
            (None, Some(service)) => match service.split_once('/') {
                Some((namespace, name)) if is_subdomain(namespace) && is_subdomain(name) => {
                    let (namespace, name) = (namespace.to_owned(), name.to_owned());
                    Ok(Where::Service { namespace, name })
                }
                _ => bail!("--nfs-service {service:?} is no Service, like storage/berth"),
            },
            _ => bail!(
                "say where the nodes of the cluster find this server: --nfs-server ADDR, or \
                 --nfs-service NAMESPACE/NAME"
            ),
        }
    }
}

/// Names and addresses, without ports.
fn admin_hosts(hosts: Vec<String>) -> Result<Vec<String>> {
    for host in hosts.iter().filter(|host| !host.is_empty()) {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_name = is_subdomain(&host.trim_end_matches('.').to_ascii_lowercase());
        if !is_name && bare.unwrap_or(host).parse::<IpAddr>().is_err() {
            bail!(
                "--admin-host {host:?} is neither a name nor an address; write it without a port"
            );
        }
    }
    Ok(hosts)
}

/// The admin socket that `berth volume` talks to.
///
/// # Errors
/// There is no folder where it could be.
pub fn admin_socket_of(args: &VolumeArgs, is_root: bool) -> Result<PathBuf> {
    admin_socket(args.admin_socket.clone(), set("BERTH_STATE"), is_root)
}

/// The admin socket of the server that is meant: the same for the server and for those who look
/// for it, if they are told the same.
///
/// # Errors
/// There is no folder where it could be.
fn admin_socket(given: Option<PathBuf>, state: Option<PathBuf>, is_root: bool) -> Result<PathBuf> {
    let state = || state.map_or_else(|| default_state(is_root), Ok);
    match (given, is_root, set("XDG_RUNTIME_DIR")) {
        (Some(path), ..) => Ok(path),
        (None, true, _) => Ok(PathBuf::from("/run/berth/admin.sock")),
        (None, false, Some(dir)) => Ok(dir.join("berth/admin.sock")),
        (None, false, None) => Ok(state()?.join("admin.sock")),
    }
}

/// A folder that the environment names.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// A word that the environment has.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_state(is_root: bool) -> Result<PathBuf> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/berth"));
    }
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    match base {
        Some(base) => Ok(base.join("berth")),
        None => bail!("neither XDG_STATE_HOME nor HOME is set; name a folder with --state DIR"),
    }
}

/// An amount of bytes.
fn size(text: &str) -> Result<u64, String> {
    quantity::parse(text).map_err(|why| format!("it {why}"))
}

/// An address, with the portmapper's port unless it says another.
fn portmap_address(text: &str) -> Result<SocketAddr, String> {
    let text = if text.is_empty() { "unspecified" } else { text };
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, PORTMAP_PORT));
    }
    let example = Ipv4Addr::UNSPECIFIED;
    text.parse().map_err(|_| format!("not an address, like {example} or {example}:{PORTMAP_PORT}"))
}

#[cfg(test)]
mod tests;
