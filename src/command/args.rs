//! Arguments of `berth volume`, as clap parses them. The doc comments are the help texts.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};

use crate::export::{ClientPattern, Squash};
use crate::label::is_provisioner;
use crate::quantity;
use crate::volume::name::{VolumeDirectory, VolumeId, VolumeName};
use crate::volume::spec::{
    CAPACITY_MIN, OnDelete, QuotaMode, parse_client, parse_mode, parse_squash,
};

const HELP: &str = "\
The server must run with --volumes; the commands use its admin socket.

Exit codes:
  0  done                           4  conflict: something else has this name, directory
  1  the server has a problem          or id, or a claim uses the volume
  2  wrong usage, or not confirmed  5  not enough space
  3  no such volume                 6  busy: try again later
                                    7  the server cannot be reached

Every command may be repeated. Deleting a volume that no longer exists exits with 3.";

/// Options of `berth volume`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct VolumeArgs {
    /// The server's admin socket [default: /run/berth/admin.sock as root, else
    /// $XDG_RUNTIME_DIR/berth/admin.sock, else admin.sock in the state folder]
    #[arg(long, value_name = "PATH", env = "BERTH_ADMIN_SOCKET", global = true)]
    pub admin_socket: Option<PathBuf>,
    /// The subcommand.
    #[command(subcommand)]
    pub command: VolumeCommand,
}

/// The subcommands of `berth volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Create a volume: a directory with an export and an enforced capacity of its own
    #[command(after_help = CREATE_HELP)]
    Create(Box<CreateVolumeArgs>),
    /// List all volumes
    #[command(visible_alias = "ls", after_help = LIST_HELP)]
    List(ListArgs),
    /// Show one volume in detail
    #[command(after_help = "Example:\n  berth volume show data -o json | jq .used")]
    Show(OneArgs),
    /// Change the capacity of a volume, also while clients use it
    #[command(visible_alias = "resize", after_help = EXPAND_HELP)]
    Expand(ExpandArgs),
    /// Copy a volume into a new one, and wait until the copy is complete
    #[command(after_help = CLONE_HELP)]
    Clone(Box<CloneArgs>),
    /// Destroy the content of a volume, and keep the volume, empty
    #[command(after_help = RECYCLE_HELP)]
    Recycle(ConsentArgs),
    /// Remove a volume, keep its directory under another name, and print that name
    #[command(after_help = "Example:\n  berth volume archive old --yes")]
    Archive(ConsentArgs),
    /// Reclaim a volume as its --on-delete says, unless another one is given here
    #[command(visible_alias = "rm", after_help = DELETE_HELP)]
    Delete(DeleteArgs),
    /// Make a volume of an existing directory in the directory of the volumes
    #[command(after_help = ADOPT_HELP)]
    Adopt(Box<AdoptArgs>),
    /// Count the usage of a volume again, in the background
    ///
    /// Needed only after other programs have changed files in its directory.
    #[command(after_help = "Example:\n  berth volume recount data")]
    Recount(OneArgs),
    /// Show the content of deleted volumes that is still to be removed
    #[command(after_help = "Example:\n  berth volume trash --wait")]
    Trash(TrashArgs),
    /// Print a Kubernetes PersistentVolume for a volume, as YAML
    #[command(after_help = PV_HELP)]
    Pv(PvArgs),
}

const CREATE_HELP: &str = "\
Examples:
  berth volume create data --capacity 10Gi
  berth volume create scratch --capacity 500M --uid 1000 --gid 1000 --mode 0770 \\
      --client 10.0.0.0/8 --on-delete delete --label team=blue

Repeated with the same id, the command finds the volume that exists. Without --id, the id is made
from the name.";

const LIST_HELP: &str = "\
Examples:
  berth volume list
  berth volume list -o name | xargs -n1 berth volume recount";

const EXPAND_HELP: &str = "\
Examples:
  berth volume expand data --capacity 20Gi
  berth volume expand data --capacity 5Gi --shrink";

const CLONE_HELP: &str = "\
Example:
  berth volume clone data copy-of-data --capacity 20Gi

Settings that are not given are those of the source. When the command is interrupted, the server
goes on copying; the same command then waits for the rest.";

const RECYCLE_HELP: &str = "\
Example:
  berth volume recycle scratch --yes

Clients that still have it mounted get \"Stale file handle\" for all their files.";

const DELETE_HELP: &str = "\
Examples:
  berth volume delete data
  berth volume delete data --on-delete archive --yes

With archive, the command prints the name of the directory that is kept. A volume that a claim of
Kubernetes uses is reclaimed with its claim; this command needs --force for it.";

const ADOPT_HELP: &str = "\
Example:
  mv /srv/old-data /srv/volumes/data && berth volume adopt data --capacity 50Gi

The directory keeps its content, owner and mode. --uid, --gid and --mode are used when the volume is
recycled.";

const PV_HELP: &str = "\
Example:
  berth volume pv data --server 10.0.0.5 | kubectl apply -f -";

/// `berth volume create`
#[derive(Debug, Args)]
pub struct CreateVolumeArgs {
    /// Name of the volume: its directory, and with a `/` before it the path that clients mount
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// Capacity: 10Gi, 500M, 1.5Ti, 1e9 or plain bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub capacity: u64,
    /// Fill it with a copy of this volume
    #[arg(long, value_name = "VOLUME", conflicts_with = "adopt", value_parser = name)]
    pub from: Option<VolumeName>,
    /// Take the existing directory of this name, with its content
    #[arg(long)]
    pub adopt: bool,
    /// Settings of the volume.
    #[command(flatten)]
    pub settings: SettingArgs,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume adopt`
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Name of the volume, and of its directory unless --directory is given
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// Capacity: 10Gi, 500M, 1.5Ti, 1e9 or plain bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub capacity: u64,
    /// Settings of the volume.
    #[command(flatten)]
    pub settings: SettingArgs,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume clone`
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The volume to copy
    #[arg(value_parser = name)]
    pub source: VolumeName,
    /// Name of the copy
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// Capacity of the copy [default: that of the source]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub capacity: Option<u64>,
    /// Settings of the volume.
    #[command(flatten)]
    pub settings: SettingArgs,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// Settings of a new volume besides its name and capacity.
#[derive(Debug, Args, Default)]
pub struct SettingArgs {
    /// Path of the volume in the directory of the volumes; may have several levels (a/b) [default:
    /// NAME]
    #[arg(long, value_name = "PATH", value_parser = directory)]
    pub directory: Option<VolumeDirectory>,
    /// Number of files and directories it may hold; 0: no limit [default: one for each 16 KiB of
    /// capacity, at least 4096; no limit if it is adopted]
    #[arg(long, value_name = "N")]
    pub inodes: Option<u64>,
    /// Owner of the directory [default: the user of the server]
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group of the directory [default: the group of the server]
    #[arg(long)]
    pub gid: Option<u32>,
    /// Mode of the directory, in octal [default: 0777]
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// Which callers act as the anonymous user: none, root, or all [default: no_root_squash]
    #[arg(long, value_parser = squash_values())]
    pub squash: Option<Squash>,
    /// Uid of the anonymous user [default: 65534]
    #[arg(long, value_name = "UID")]
    pub anon_uid: Option<u32>,
    /// Gid of the anonymous user [default: 65534]
    #[arg(long, value_name = "GID")]
    pub anon_gid: Option<u32>,
    /// Client that may mount it: an address, a network (10.0.0.0/8) or * for all; may be given
    /// several times [default: *]
    #[arg(long, value_name = "CLIENT", value_delimiter = ',', value_parser = parse_client)]
    pub client: Vec<ClientPattern>,
    /// Accept only calls from ports below 1024, which only root on the client can use; not for
    /// clients in containers or behind NAT
    #[arg(long, conflicts_with = "insecure")]
    pub secure: bool,
    /// Accept calls from all ports (the default, unless the source of a clone has --secure)
    #[arg(long)]
    pub insecure: bool,
    /// Neither set nor show set-id bits of files [default: on if users of the server's machine can
    /// enter the directory of the volumes]
    #[arg(long, conflicts_with = "suid")]
    pub nosuid: bool,
    /// Allow set-id bits of files
    #[arg(long)]
    pub suid: bool,
    /// Make no devices, and show none with their numbers [default: as for --nosuid]
    #[arg(long, conflicts_with = "dev")]
    pub nodev: bool,
    /// Allow devices
    #[arg(long)]
    pub dev: bool,
    /// Reply to changes of names and attributes before they are on the disk: much faster; they
    /// survive a crash of the server, but not of its machine
    #[arg(long = "async", conflicts_with = "sync")]
    pub asynchronous: bool,
    /// Reply when they are on the disk (the default, unless the source of a clone has --async)
    #[arg(long)]
    pub sync: bool,
    /// Enforce the capacity, only report it to clients, or report the disk [default: enforce]
    #[arg(long, value_parser = quota_values())]
    pub quota: Option<QuotaMode>,
    /// What becomes of it when it is deleted [default: delete]
    #[arg(long, value_name = "HOW", value_parser = on_delete_values())]
    pub on_delete: Option<OnDelete>,
    /// Label for the PersistentVolume; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// Id of the volume, by which a repeated request finds it [default: made from the name]
    #[arg(long, value_parser = id)]
    pub id: Option<VolumeId>,
}

/// A command on one volume, with no other options.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// A table, JSON as the server sends it, or one name per line
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: ListOutput,
}

/// `berth volume expand`
#[derive(Debug, Args)]
pub struct ExpandArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// New capacity
    #[arg(long, value_name = "SIZE", value_parser = bytes, required_unless_present = "inodes")]
    pub capacity: Option<u64>,
    /// New number of files and directories it may hold; 0: no limit
    #[arg(long, value_name = "N")]
    pub inodes: Option<u64>,
    /// Allow less than before, but not less than is used
    #[arg(long)]
    pub shrink: bool,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// A command that destroys content or takes it from its clients, and asks for confirmation.
#[derive(Debug, Args)]
pub struct ConsentArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
    /// Do it even if a claim of Kubernetes uses the volume; the claim then has no volume
    #[arg(long)]
    pub force: bool,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// What becomes of it [default: the --on-delete of the volume]
    #[arg(long, value_name = "HOW", value_parser = on_delete_values())]
    pub on_delete: Option<OnDelete>,
    /// The volume and the confirmation.
    #[command(flatten)]
    pub consent: ConsentArgs,
}

/// `berth volume trash`
#[derive(Debug, Args)]
pub struct TrashArgs {
    /// Wait until nothing is left
    #[arg(long)]
    pub wait: bool,
    /// Output format.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume pv`
#[derive(Debug, Args)]
pub struct PvArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: VolumeName,
    /// Name or address at which the nodes of the cluster reach the server
    #[arg(long, value_name = "ADDR")]
    pub server: String,
    /// Port at which they reach it [default: the first that the server listens on]
    #[arg(long)]
    pub port: Option<u16>,
    /// Name of the PersistentVolume [default: that of the volume]
    #[arg(long = "name", value_name = "NAME")]
    pub called: Option<String>,
    /// Access mode; may be given several times
    #[arg(long, value_name = "MODE", default_value = "RWX", value_delimiter = ',')]
    pub access_mode: Vec<AccessMode>,
    /// StorageClass; without one, only claims without a class (storageClassName: "") can bind to it
    #[arg(long, value_name = "NAME", default_value = "")]
    pub storage_class: String,
    /// Provisioner of the PersistentVolume: it expands the claim, and reclaims the volume if the
    /// policy of the PersistentVolume is changed to Delete [default: that of the server, if it has
    /// one]
    #[arg(long, value_name = "NAME", value_parser = provisioner)]
    pub provisioner: Option<String>,
    /// Mount option, like suid or soft; may be given several times. Defaults are added for what is
    /// not given, among them nosuid and nodev
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    pub mount_option: Vec<String>,
    /// Label besides those of the volume; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
}

/// The output option of commands on one volume.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArg {
    /// Text, or JSON as the server sends it
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// Output formats of commands on one volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Output formats of `berth volume list`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ListOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// Names only.
    Name,
}

/// Access modes of a PersistentVolume, by Kubernetes' short and long names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AccessMode {
    /// Many nodes, read-write.
    #[value(name = "RWX", alias = "ReadWriteMany")]
    ReadWriteMany,
    /// Many nodes, read-only.
    #[value(name = "ROX", alias = "ReadOnlyMany")]
    ReadOnlyMany,
    /// One node, read-write.
    #[value(name = "RWO", alias = "ReadWriteOnce")]
    ReadWriteOnce,
    /// One pod, read-write.
    #[value(name = "RWOP", alias = "ReadWriteOncePod")]
    ReadWriteOncePod,
}

fn directory(text: &str) -> Result<VolumeDirectory, String> {
    VolumeDirectory::new(text).map_err(|why| format!("a name in the path {why}"))
}

fn name(text: &str) -> Result<VolumeName, String> {
    VolumeName::new(text).map_err(|why| format!("the name {why}"))
}

fn id(text: &str) -> Result<VolumeId, String> {
    VolumeId::new(text).map_err(|why| format!("the id {why}"))
}

fn provisioner(text: &str) -> Result<String, String> {
    match is_provisioner(text) {
        true => Ok(text.to_owned()),
        false => Err("the name of a provisioner looks like example.org/berth".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let bytes = quantity::parse(text).map_err(|why| format!("the size {why}"))?;
    if bytes >= CAPACITY_MIN {
        return Ok(bytes);
    }
    let meant = match text.bytes().all(|b| b.is_ascii_digit()) {
        true => format!("; did you mean {text}Gi?"),
        false => String::new(),
    };
    Err(format!("{bytes} bytes can hold nothing, at least 64Ki are needed{meant}"))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

fn quota_values() -> impl TypedValueParser<Value = QuotaMode> {
    let words = PossibleValuesParser::new(QuotaMode::ALL.map(QuotaMode::name));
    words.try_map(|word| word.parse())
}

fn on_delete_values() -> impl TypedValueParser<Value = OnDelete> {
    let words = PossibleValuesParser::new(OnDelete::ALL.map(OnDelete::name));
    words.try_map(|word| word.parse())
}

fn squash_values() -> impl TypedValueParser<Value = Squash> {
    let words = PossibleValuesParser::new(Squash::ALL.map(Squash::name));
    words.try_map(|word| parse_squash(&word))
}
