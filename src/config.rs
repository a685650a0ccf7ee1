//! The command line: [`CommandLine`], the options as clap parses them, and [`Config`], the result
//! of the checks.
//!
//! The doc comments of the arguments are the help texts.

mod help;
mod useless;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::command::args::VolumeArgs;
use crate::command::health::HealthArgs;
use crate::command::manual::ManualArgs;
use crate::export::Ports;
use crate::fs::root::HandleKind;
use crate::label::{is_provisioner, is_subdomain};
use crate::provisioner;
use crate::provisioner::address::AddressSource;
use crate::quantity;
use crate::telemetry::log;
use crate::volume;

/// The port of the portmapper (RFC 1833).
const PORTMAP_PORT: u16 = 111;

/// Smallest value of `--memory`, in bytes: enough for a few of the largest calls.
const MEMORY_MIN: u64 = 16 * 1024 * 1024;

/// An NFSv3 server in user space, and a provisioner of volumes for Kubernetes.
///
/// It serves directories and volumes. A volume is a directory with an export and an enforced
/// capacity of its own. In Kubernetes, every claim of its StorageClasses gets a volume.
#[derive(Debug, Parser)]
#[command(name = "berth", version, max_term_width = 100, after_help = help::HELP)]
pub struct CommandLine {
    /// The command.
    #[command(subcommand)]
    pub command: BerthCommand,
}

impl CommandLine {
    /// Reads the command line of this process. Exits if it asks for help or is invalid.
    pub fn read() -> Self {
        let mut command = <Self as CommandFactory>::command();
        let matches = command.get_matches_mut();
        let checked = match matches.subcommand() {
            Some(("serve", serve)) => useless::check(&mut command, serve),
            _ => Ok(()),
        };
        checked.and_then(|()| Self::from_arg_matches(&matches)).unwrap_or_else(|error| error.exit())
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum BerthCommand {
    /// Serve a directory, the directories of an exports file, or volumes over NFSv3
    #[command(after_help = help::SERVE_HELP)]
    Serve(Box<ServeArgs>),
    /// Check exports files
    #[command(subcommand)]
    Exports(ExportsCommand),
    /// Manage the volumes of a running server
    Volume(VolumeArgs),
    /// Check whether a server replies: exits with 0 if it does, otherwise with 1 and the reason
    #[command(after_help = help::HEALTH_HELP)]
    Health(HealthArgs),
    /// Print a page of the manual, or list the pages
    Manual(ManualArgs),
}

/// The subcommands of `berth exports`.
#[derive(Debug, Subcommand)]
pub enum ExportsCommand {
    /// Read an exports(5) file, and show what it means, or what is wrong with it
    Check {
        /// The exports file
        file: PathBuf,
    },
}

/// The heading of the provisioner's options in the help.
const KUBERNETES: &str = "Kubernetes";

/// Options of `berth serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Directory to export as `/`, read-write, to every client that can connect; created if it does
    /// not exist
    #[arg(
        value_name = "DIR",
        required_unless_present_any = ["exports", "volumes"],
        conflicts_with = "exports"
    )]
    pub dir: Option<PathBuf>,
    /// Accept calls to DIR from all ports, including those that every user of a client may use. As
    /// root, only calls from ports below 1024 are accepted without it
    #[arg(long, env = "BERTH_INSECURE")]
    pub insecure: bool,
    /// Export the directories of this exports(5) file; SIGHUP reads it again
    #[arg(long, value_name = "FILE", env = "BERTH_EXPORTS")]
    pub exports: Option<PathBuf>,
    /// Keep volumes in this directory, each exported as `/NAME` with a capacity of its own (`berth
    /// volume --help`); created if it does not exist
    #[arg(long, value_name = "DIR", env = "BERTH_VOLUMES")]
    pub volumes: Option<PathBuf>,
    /// Remove at most this many files of deleted volumes per second
    #[arg(long, value_name = "N", env = "BERTH_PURGE_RATE", default_value_t = 2000)]
    pub purge_rate: u32,
    /// Count the usage of every volume again at this interval, because other programs may change
    /// files; 0: never
    #[arg(long, value_name = "HOURS", env = "BERTH_RECOUNT", default_value_t = 24)]
    pub recount: u32,
    /// Refuse volumes and expansions that raise the sum of all capacities above this share of the
    /// disk [default: no limit]
    #[arg(
        long,
        value_name = "PERCENT",
        env = "BERTH_OVERCOMMIT",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub overcommit: Option<u32>,
    /// Address and port for NFS and MOUNT; may be given several times
    ///
    /// NFS asks for no password: listen on a network only with an exports file that lists the
    /// clients, or if you trust the network.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "BERTH_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:2049"
    )]
    pub listen: Vec<SocketAddr>,
    /// State folder: directory of what must survive a restart, outside of all exports [default:
    /// .berth/state in the directory of the volumes; without volumes /var/lib/berth as root, else
    /// $XDG_STATE_HOME/berth]
    #[arg(long, value_name = "DIR", env = "BERTH_STATE")]
    pub state: Option<PathBuf>,
    /// Unix socket on which `berth volume` reaches this server; only with --volumes [default:
    /// /run/berth/admin.sock as root, else $XDG_RUNTIME_DIR/berth/admin.sock, else admin.sock in
    /// the state folder]
    #[arg(long, value_name = "PATH", env = "BERTH_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,
    /// Also serve as portmapper on this address, port 111, for clients that look up ports
    /// (`showmount -e`, `rpcinfo -p`, `mount` without port options)
    #[arg(long, value_name = "ADDR[:PORT]", env = "BERTH_PORTMAP", value_parser = portmap_address)]
    pub portmap: Option<SocketAddr>,
    /// Also serve HTTP on this address, read-only and without a password: `/livez`, `/readyz`,
    /// `/metrics` for Prometheus, and a status page on `/`
    #[arg(long, value_name = "ADDR:PORT", env = "BERTH_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// Host name or address under which the HTTP address is used, besides `localhost`, the name of
    /// the machine and the address at which a request arrives; may be given several times
    #[arg(long, value_name = "NAME", env = "BERTH_ADMIN_HOST", value_delimiter = ',')]
    pub admin_host: Vec<String>,
    /// Maximum number of connections; beyond that, a new connection replaces an idle one of the
    /// address with the most connections
    #[arg(long, value_name = "N", env = "BERTH_MAX_CONNECTIONS", default_value_t = 1024)]
    pub max_connections: usize,
    /// Memory that clients may make the server hold, like 256Mi: calls that are incomplete or wait,
    /// and replies that are not read. When it is used up, clients wait [default: a quarter of the
    /// memory limit of the container or control group, else 256Mi]
    #[arg(long, value_name = "SIZE", env = "BERTH_MEMORY", value_parser = size)]
    pub memory: Option<u64>,
    /// Close a connection without calls after this time
    #[arg(long, value_name = "SECONDS", env = "BERTH_IDLE_TIMEOUT", default_value_t = 600)]
    pub idle_timeout: u64,
    /// Close a connection that stops in the middle of a call, or reads no replies, after this time;
    /// every 8 KiB that it transfers adds a second
    #[arg(long, value_name = "SECONDS", env = "BERTH_STALL_TIMEOUT", default_value_t = 60)]
    pub stall_timeout: u64,
    /// Time that a stopping server waits for calls in progress; then it waits as long again, but at
    /// most 20 seconds, for flushes
    #[arg(long, value_name = "SECONDS", env = "BERTH_GRACE", default_value_t = 30)]
    pub grace: u64,
    /// Kind of file handles: those of the file system (`kernel`), by number and path (`path`), or
    /// `kernel` on file systems that are known never to reuse a handle, and `path` on all others
    #[arg(long, value_name = "KIND", env = "BERTH_HANDLES", default_value = "auto")]
    pub handles: Handles,
    /// Give every claim of the StorageClasses with this provisioner a volume; needs --volumes, and
    /// --nfs-server or --nfs-service
    #[arg(long, value_name = "NAME", env = "BERTH_PROVISIONER", help_heading = KUBERNETES)]
    pub provisioner: Option<String>,
    /// Name or address at which the nodes of the cluster reach this server; a PersistentVolume
    /// keeps it for life
    #[arg(long, value_name = "ADDR", env = "BERTH_NFS_SERVER", help_heading = KUBERNETES)]
    pub nfs_server: Option<String>,
    /// Service at whose cluster IP the nodes reach this server, on its port `nfs` or its only port;
    /// instead of --nfs-server
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        env = "BERTH_NFS_SERVICE",
        conflicts_with = "nfs_server",
        help_heading = KUBERNETES
    )]
    pub nfs_service: Option<String>,
    /// kubeconfig file: the cluster, and the identity of the server in it [default: the cluster in
    /// which the server runs]
    #[arg(long, value_name = "FILE", env = "BERTH_KUBECONFIG", help_heading = KUBERNETES)]
    pub kubeconfig: Option<PathBuf>,
    /// Serve claims of these namespaces only, with commas between them [default: all]
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "BERTH_NAMESPACES",
        value_delimiter = ',',
        help_heading = KUBERNETES
    )]
    pub namespaces: Vec<String>,
    /// Lease that decides which server provisions [default: the name of the provisioner]
    #[arg(long, value_name = "NAME", env = "BERTH_LEASE_NAME", help_heading = KUBERNETES)]
    pub lease_name: Option<String>,
    /// Namespace of the Lease [default: $POD_NAMESPACE, else that of the kubeconfig or the pod]
    #[arg(long, value_name = "NAMESPACE", env = "BERTH_LEASE_NAMESPACE", help_heading = KUBERNETES)]
    pub lease_namespace: Option<String>,
    /// Format of the log
    #[arg(long, value_name = "FORMAT", env = "BERTH_LOG_FORMAT", default_value = "text")]
    pub log_format: log::LogFormat,
}

/// The values of `--handles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Handles {
    /// Those of the file system if it never reuses one for another file, else by path.
    Auto,
    /// Those of the file system; the server warns if it may reuse one, and fails if it has none.
    Kernel,
    /// By number and path.
    Path,
}

/// The exports besides the volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportSource {
    /// None.
    None,
    /// This directory, as `/`, to all clients that call from these ports.
    Directory(PathBuf, Ports),
    /// The directories of this exports file.
    File(PathBuf),
}

/// The checked configuration of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The exports besides the volumes.
    pub source: ExportSource,
    /// Settings of the volumes, if there may be any.
    pub volumes: Option<volume::VolumeSettings>,
    /// Settings of the provisioner, if the server is one.
    pub provisioner: Option<provisioner::ProvisionerSettings>,
    /// Addresses of NFS and MOUNT.
    pub listen: Vec<SocketAddr>,
    /// The state folder.
    pub state: PathBuf,
    /// The socket of the admin API.
    pub admin_socket: PathBuf,
    /// Address of the portmapper.
    pub portmap: Option<SocketAddr>,
    /// Address of the read-only HTTP listener.
    pub admin: Option<SocketAddr>,
    /// Names and addresses that HTTP requests may use, besides the server's own.
    pub admin_hosts: Vec<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Bytes that clients may make the server hold; `None` for the default.
    pub memory: Option<usize>,
    /// Time after which an idle connection is closed.
    pub idle: Duration,
    /// Time after which a stalled connection is closed.
    pub stalled: Duration,
    /// Time limit of calls in progress when the server stops.
    pub grace: Duration,
    /// The kind of handles; `None` to choose it by file system.
    pub handles: Option<HandleKind>,
    /// How lines of the log look. Where programs read it, nothing is printed for people.
    pub log: log::LogFormat,
}

impl ServeArgs {
    /// Checks the options, also against each other, and fills in the defaults that depend on the
    /// environment.
    ///
    /// # Errors
    /// An option is invalid or missing; the message names it.
    pub fn check(self, is_root: bool) -> Result<Config> {
        let source = match (&self.dir, &self.exports) {
            (Some(dir), None) => ExportSource::Directory(dir.clone(), self.ports(is_root)),
            (None, Some(file)) => ExportSource::File(file.clone()),
            (None, None) if self.volumes.is_some() => ExportSource::None,
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
        let given = (self.admin_socket, self.state.clone());
        let state = match (self.state, &self.volumes) {
            (Some(state), _) => state,
            (None, Some(volumes)) => volumes.join(".berth/state"),
            (None, None) => default_state(is_root).context("name a folder with --state DIR")?,
        };
        Ok(Config {
            source,
            provisioner,
            listen: self.listen,
            admin_socket: admin_socket(given.0, given.1, is_root)
                .unwrap_or_else(|_| state.join("admin.sock")),
            state,
            volumes: self.volumes.map(|dir| volume::VolumeSettings {
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
            log: self.log_format,
            handles: match self.handles {
                Handles::Auto => None,
                Handles::Kernel => Some(HandleKind::Kernel),
                Handles::Path => Some(HandleKind::Path),
            },
        })
    }
}

impl ServeArgs {
    /// The ports from which DIR accepts calls. As root, a caller that claims to be root acts as
    /// root, so only root on the client may make calls. Otherwise every caller acts as the server's
    /// user, whose own programs have no privileged ports.
    const fn ports(&self, is_root: bool) -> Ports {
        if is_root && !self.insecure { Ports::Privileged } else { Ports::Any }
    }

    /// Checks the options of the provisioner; `None` without `--provisioner`.
    fn provisioning(&self) -> Result<Option<provisioner::ProvisionerSettings>> {
        let Some(name) = self.provisioner.clone().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        if self.volumes.is_none() {
            bail!("--provisioner needs a directory for the volumes of claims (--volumes DIR)");
        }
        // Kubernetes never hands claims of its own plugins (kubernetes.io/...) to a provisioner.
        if !is_provisioner(&name) {
            bail!(
                "--provisioner {name:?} cannot be the name of a provisioner; choose one like \
                 example.org/berth"
            );
        }
        let lease = self.lease_name.clone();
        let lease = lease.unwrap_or_else(|| name.replace(['/', '_'], "-").to_ascii_lowercase());
        if !is_subdomain(&lease) {
            bail!("{lease:?} cannot be the name of a Lease; choose another with --lease-name");
        }
        Ok(Some(provisioner::ProvisionerSettings {
            name,
            address: self.server()?,
            kubeconfig: self.kubeconfig.clone(),
            namespaces: self.namespaces.iter().filter(|n| !n.is_empty()).cloned().collect(),
            lease,
            lease_namespace: self.lease_namespace.clone().or_else(|| env_string("POD_NAMESPACE")),
        }))
    }

    /// Where the nodes reach the server.
    fn server(&self) -> Result<AddressSource> {
        match (&self.nfs_server, &self.nfs_service) {
            (Some(server), None) => {
                let bare = server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let server = bare.unwrap_or(server);
                let is_name = is_subdomain(&server.to_ascii_lowercase());
                if !is_name && server.parse::<IpAddr>().is_err() {
                    bail!(
                        "--nfs-server {server:?} is neither a name nor an address; write it \
                         without a port"
                    );
                }
                Ok(AddressSource::Fixed(server.to_owned()))
            }
            (None, Some(service)) => match service.split_once('/') {
                Some((namespace, name)) if is_subdomain(namespace) && is_subdomain(name) => {
                    let (namespace, name) = (namespace.to_owned(), name.to_owned());
                    Ok(AddressSource::Service { namespace, name })
                }
                _ => bail!(
                    "--nfs-service {service:?} is not NAMESPACE/NAME of a Service, like \
                     storage/berth"
                ),
            },
            _ => bail!(
                "--provisioner needs the address at which the nodes of the cluster reach this \
                 server: --nfs-server ADDR, or --nfs-service NAMESPACE/NAME"
            ),
        }
    }
}

/// Checks that hosts are names or addresses without ports.
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

/// The admin socket for `berth volume`.
///
/// # Errors
/// No default can be derived from the environment.
pub fn admin_socket_of(args: &VolumeArgs, is_root: bool) -> Result<PathBuf> {
    admin_socket(args.admin_socket.clone(), env_path("BERTH_STATE"), is_root)
        .context("cannot find the server's admin socket; name it with --admin-socket PATH")
}

/// The admin socket: the given one, or a default. The server and `berth volume` both use this, so
/// that they find each other with the same options and environment.
///
/// # Errors
/// No default can be derived from the environment.
fn admin_socket(given: Option<PathBuf>, state: Option<PathBuf>, is_root: bool) -> Result<PathBuf> {
    let state = || state.map_or_else(|| default_state(is_root), Ok);
    match (given, is_root, env_path("XDG_RUNTIME_DIR")) {
        (Some(path), ..) => Ok(path),
        (None, true, _) => Ok(PathBuf::from("/run/berth/admin.sock")),
        (None, false, Some(dir)) => Ok(dir.join("berth/admin.sock")),
        (None, false, None) => Ok(state()?.join("admin.sock")),
    }
}

/// The path in an environment variable, unless it is unset or empty.
fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The value of an environment variable, unless it is unset or empty.
fn env_string(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_state(is_root: bool) -> Result<PathBuf> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/berth"));
    }
    let base = env_path("XDG_STATE_HOME")
        .or_else(|| env_path("HOME").map(|home| home.join(".local/state")));
    match base {
        Some(base) => Ok(base.join("berth")),
        None => bail!("no folder for the state: neither XDG_STATE_HOME nor HOME is set"),
    }
}

/// Parses a size in bytes.
fn size(text: &str) -> Result<u64, String> {
    quantity::parse(text).map_err(|why| format!("the size {why}"))
}

/// Parses an address, with the portmapper's port unless it has another.
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
