//! The words of `berth volume`, as they are written.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;

use crate::export::{Squash, Who};
use crate::label::is_provisioner;
use crate::quantity;
use crate::volume::name::{Directory, Name, VolumeId};
use crate::volume::spec::{OnDelete, Quota, parse_client, parse_mode, parse_squash};

const HELP: &str = "\
The server must run with --volumes; it is asked over its admin socket.

Exit codes, for scripts:
  0  done                       4  conflict: something else is there
  1  the server has a problem   5  not enough space
  2  wrong usage, or no consent 6  busy: try again later
  3  no such volume             7  the server cannot be reached

Every command may be repeated. What is gone already cannot be deleted again: that is 3.";

/// Options of `berth volume`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct VolumeArgs {
    /// The server's admin socket [default: /run/berth/admin.sock as root, else
    /// $XDG_RUNTIME_DIR/berth/admin.sock, else admin.sock in the state folder]
    #[arg(long, value_name = "PATH", env = "BERTH_ADMIN_SOCKET", global = true)]
    pub admin_socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: VolumeCommand,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume: a directory, an export, an enforced capacity
    #[command(after_help = CREATE_HELP)]
    Create(Box<CreateArgs>),
    /// Show all volumes
    #[command(visible_alias = "ls", after_help = LIST_HELP)]
    List(ListArgs),
    /// Show all of one volume
    #[command(after_help = "Example:\n  berth volume show data -o json | jq .used")]
    Show(OneArgs),
    /// Give a volume more room, while it is used
    #[command(visible_alias = "resize", after_help = EXPAND_HELP)]
    Expand(ExpandArgs),
    /// Copy a volume into a new one
    #[command(after_help = CLONE_HELP)]
    Clone(Box<CloneArgs>),
    /// Destroy a volume's content, and keep the volume, empty, for its next user
    #[command(after_help = RECYCLE_HELP)]
    Recycle(ConsentArgs),
    /// End a volume, and put its directory aside; prints which directory that is
    #[command(after_help = "Example:\n  berth volume archive old --yes")]
    Archive(ConsentArgs),
    /// End a volume, as it is set to be ended (--on-delete) or as said here
    #[command(visible_alias = "rm", after_help = DELETE_HELP)]
    Delete(DeleteArgs),
    /// Make a volume of a directory that is there already, in the folder of the volumes
    #[command(after_help = ADOPT_HELP)]
    Adopt(Box<AdoptArgs>),
    /// Count again what a volume uses, in the background
    ///
    /// Only needed after files were changed in its directory beside the server.
    #[command(after_help = "Example:\n  berth volume recount data")]
    Recount(OneArgs),
    /// Show what of ended volumes is still to be removed
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

Asked again with the same id, it is the same volume; without --id, the id is made from the name.";

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

Everything that is not said is as at the source. It returns when the copy is complete; when it is
interrupted, the server goes on, and the same command waits for the rest.";

const RECYCLE_HELP: &str = "\
Example:
  berth volume recycle scratch --yes

Clients that still have it mounted get \"stale file handle\" for all their files.";

const DELETE_HELP: &str = "\
Examples:
  berth volume delete data
  berth volume delete data --on-delete archive --yes

For an archived volume, it prints the directory that was put aside. A volume that a claim of
Kubernetes has ends with its claim: here, it is refused without --force.";

const ADOPT_HELP: &str = "\
Example:
  mv /srv/old-data /srv/volumes/data && berth volume adopt data --capacity 50Gi

The directory keeps its content, its owner and its mode; --uid, --gid and --mode are those of the
empty one that recycling makes.";

const PV_HELP: &str = "\
Example:
  berth volume pv data --server 10.0.0.5 | kubectl apply -f -";

/// `berth volume create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it is called: its directory, and with a `/` before it the path that clients mount
    #[arg(value_parser = name)]
    pub name: Name,
    /// How much it may hold: 10Gi, 500M, 1.5Ti, 1e9 or plain bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub capacity: u64,
    /// Fill it with a copy of this volume
    #[arg(long, value_name = "VOLUME", conflicts_with = "adopt", value_parser = name)]
    pub from: Option<Name>,
    /// Take the directory that is there already, with its content
    #[arg(long)]
    pub adopt: bool,
    /// The rest.
    #[command(flatten)]
    pub wishes: Wishes,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume adopt`
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The directory, in the folder of the volumes
    #[arg(value_parser = name)]
    pub name: Name,
    /// How much it may hold: 10Gi, 500M, 1.5Ti, 1e9 or plain bytes
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub capacity: u64,
    /// The rest.
    #[command(flatten)]
    pub wishes: Wishes,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume clone`
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// What is copied
    #[arg(value_parser = name)]
    pub source: Name,
    /// What the copy is called
    #[arg(value_parser = name)]
    pub name: Name,
    /// How much it may hold
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub capacity: Option<u64>,
    /// The rest.
    #[command(flatten)]
    pub wishes: Wishes,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// What can be said about a new volume besides its name and its capacity.
#[derive(Debug, Args, Default)]
pub struct Wishes {
    /// Where it is in the folder of the volumes: one directory or several [default: NAME]
    #[arg(long, value_name = "PATH", value_parser = directory)]
    pub directory: Option<Directory>,
    /// How many files and directories it may hold; 0: as many as the disk [default: one for each 16
    /// KiB of its capacity, at least 4096; as many as the disk if it is adopted]
    #[arg(long, value_name = "N")]
    pub inodes: Option<u64>,
    /// Owner of its directory [default: the user of the server]
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group of its directory [default: that of the server]
    #[arg(long)]
    pub gid: Option<u32>,
    /// Permissions of its directory, in octal [default: 0777]
    #[arg(long, value_parser = parse_mode)]
    pub mode: Option<u32>,
    /// Which identities of clients are replaced by the anonymous one [default: no_root_squash]
    #[arg(long, value_parser = squashes())]
    pub squash: Option<Squash>,
    /// Uid of the anonymous identity [default: 65534]
    #[arg(long, value_name = "UID")]
    pub anon_uid: Option<u32>,
    /// Gid of the anonymous identity [default: 65534]
    #[arg(long, value_name = "GID")]
    pub anon_gid: Option<u32>,
    /// Who may use it: an address, a network (10.0.0.0/8) or * for everybody; may be given several
    /// times [default: *]
    #[arg(long, value_name = "CLIENT", value_delimiter = ',', value_parser = parse_client)]
    pub client: Vec<Who>,
    /// Answer only calls from ports below 1024, which take root on the client; not for clients in
    /// containers or behind a translation of addresses
    #[arg(long, conflicts_with = "insecure")]
    pub secure: bool,
    /// Answer calls from all ports; the default, unless a clone's source has --secure
    #[arg(long)]
    pub insecure: bool,
    /// Neither set nor show the set-id bits of its files [default: so if users of this machine can enter
    /// the directory of the volumes]
    #[arg(long, conflicts_with = "suid")]
    pub nosuid: bool,
    /// Let its files have set-id bits
    #[arg(long)]
    pub suid: bool,
    /// Make no devices in it [default: as for --nosuid]
    #[arg(long, conflicts_with = "dev")]
    pub nodev: bool,
    /// Let devices be made in it
    #[arg(long)]
    pub dev: bool,
    /// Answer changes of names and attributes before they are on the disk: quicker, and safe from a
    /// crash of the server, but not of the machine
    #[arg(long = "async", conflicts_with = "sync")]
    pub asynchronous: bool,
    /// Answer them when they are on the disk; the default, unless a clone's source has --async
    #[arg(long)]
    pub sync: bool,
    /// What becomes of the capacity: nothing goes beyond it, clients only see it, or they see the
    /// disk [default: enforce]
    #[arg(long, value_parser = words::<Quota>(&["enforce", "report", "off"]))]
    pub quota: Option<Quota>,
    /// What is done with it in the end, if nothing else is said then [default: delete]
    #[arg(long, value_name = "HOW", value_parser = ends())]
    pub on_delete: Option<OnDelete>,
    /// A word that others have for it; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// What it is known by, to ask for it again [default: made from the name]
    #[arg(long, value_parser = id)]
    pub id: Option<VolumeId>,
}

/// One volume, and how it is shown.
#[derive(Debug, Args)]
pub struct OneArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: Name,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// A table for people, JSON as the server sends it, or names, one on each line
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    pub output: ListOutput,
}

/// `berth volume expand`
#[derive(Debug, Args)]
pub struct ExpandArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: Name,
    /// How much it may hold from now on
    #[arg(long, value_name = "SIZE", value_parser = bytes, required_unless_present = "inodes")]
    pub capacity: Option<u64>,
    /// How many files and directories it may hold from now on; 0: as many as the disk
    #[arg(long, value_name = "N")]
    pub inodes: Option<u64>,
    /// It may be less than before, but not less than is used
    #[arg(long)]
    pub shrink: bool,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// Something that takes content away from its users.
#[derive(Debug, Args)]
pub struct ConsentArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: Name,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Do it even if a claim of Kubernetes has the volume, which would be left without it
    #[arg(long)]
    pub force: bool,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// What is done with it [default: as the volume is set]
    #[arg(long, value_name = "HOW", value_parser = ends())]
    pub on_delete: Option<OnDelete>,
    /// The rest.
    #[command(flatten)]
    pub consent: ConsentArgs,
}

/// `berth volume trash`
#[derive(Debug, Args)]
pub struct TrashArgs {
    /// Wait until nothing is left
    #[arg(long)]
    pub wait: bool,
    /// How the answer looks.
    #[command(flatten)]
    pub output: OutputArg,
}

/// `berth volume pv`
#[derive(Debug, Args)]
pub struct PvArgs {
    /// The volume
    #[arg(value_parser = name)]
    pub name: Name,
    /// Name or address under which the nodes of the cluster reach the server
    #[arg(long, value_name = "ADDR")]
    pub server: String,
    /// Port under which they reach it [default: the first that the server listens on]
    #[arg(long)]
    pub port: Option<u16>,
    /// What the PersistentVolume is called [default: like the volume]
    #[arg(long = "name", value_name = "NAME")]
    pub called: Option<String>,
    /// Who may use it at a time; may be given several times
    #[arg(long, value_name = "MODE", default_value = "RWX", value_delimiter = ',')]
    pub access_mode: Vec<AccessMode>,
    /// Its StorageClass; without one, only claims that name none (storageClassName: "") get it
    #[arg(long, value_name = "NAME", default_value = "")]
    pub storage_class: String,
    /// The provisioner that it belongs to, which lets its claim grow, and ends the volume if the
    /// PersistentVolume's policy is changed to Delete [default: that of the server, if it is one]
    #[arg(long, value_name = "NAME", value_parser = provisioner)]
    pub provisioner: Option<String>,
    /// An option of the nodes' mounts, like suid or soft; may be given several times. What is not said
    /// is added, nosuid and nodev among it
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    pub mount_option: Vec<String>,
    /// A label besides those of the volume; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
}

/// How an answer looks.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputArg {
    /// Text for people, or JSON as the server sends it
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// How the answer about one volume looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How the answer about all volumes looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ListOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// Names only.
    Name,
}

/// Who may use a PersistentVolume at a time, in Kubernetes' short and long words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum AccessMode {
    /// Many nodes, reading and writing.
    #[value(name = "RWX", alias = "ReadWriteMany")]
    ReadWriteMany,
    /// Many nodes, reading.
    #[value(name = "ROX", alias = "ReadOnlyMany")]
    ReadOnlyMany,
    /// One node.
    #[value(name = "RWO", alias = "ReadWriteOnce")]
    ReadWriteOnce,
    /// One pod.
    #[value(name = "RWOP", alias = "ReadWriteOncePod")]
    ReadWriteOncePod,
}

fn directory(text: &str) -> Result<Directory, String> {
    Directory::new(text).map_err(|why| format!("a name in it {why}"))
}

fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|why| format!("a name that {why}"))
}

fn id(text: &str) -> Result<VolumeId, String> {
    VolumeId::new(text).map_err(|why| format!("an id that {why}"))
}

fn provisioner(text: &str) -> Result<String, String> {
    match is_provisioner(text) {
        true => Ok(text.to_owned()),
        false => Err("a provisioner's name is like example.org/berth".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    quantity::parse(text).map_err(|why| format!("it {why}"))
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is KEY=VALUE".to_owned()),
    }
}

/// Reads one of the words of the API.
fn words<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    all: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    let read = |word: String| serde_json::from_value(serde_json::Value::String(word));
    PossibleValuesParser::new(all).try_map(read)
}

fn ends() -> impl TypedValueParser<Value = OnDelete> {
    words(&["delete", "archive", "recycle", "retain"])
}

fn squashes() -> impl TypedValueParser<Value = Squash> {
    let words = PossibleValuesParser::new(["no_root_squash", "root_squash", "all_squash"]);
    words.try_map(|word| parse_squash(&word))
}
