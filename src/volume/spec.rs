//! What is asked for when a volume is made, and what is told of it: plain data, the same in the
//! registry, in the admin API and for the provisioner.
//!
//! The words are those of the StorageClass parameters.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::name::{MountToken, VolumeDirectory, VolumeId, VolumeName};
use super::progress::ProgressSnapshot;
use crate::export::traffic::TrafficTotals;
use crate::export::{Anonymous, ClientPattern, Squash};

/// The mode of a volume's directory if none is asked for: usable by every user of a client, as
/// long as nobody says who its owner is.
pub const MODE: u32 = 0o777;

/// With this begin the labels by which those who give a volume out know whose it is: no copy of the
/// volume has them.
pub const OWN_LABELS: &str = "berth.io/";

/// The least capacity, in bytes. An empty directory takes up to 4 KiB (ext4), and a file with
/// anything in it at least as much, or 16 KiB with the blocks of some file systems.
pub const CAPACITY_MIN: u64 = 64 * 1024;

/// Bytes of capacity for each inode, as mkfs.ext4(8) has it.
const BYTES_PER_INODE: u64 = 16 * 1024;

/// Inodes that small volumes have, too.
const INODES_MIN: u64 = 4096;

/// How many inodes a volume with this capacity has if nobody says otherwise: so many that none runs
/// out of them first, and so few that no volume takes all that the disk has.
pub fn inodes_of(capacity: u64) -> u64 {
    (capacity / BYTES_PER_INODE).max(INODES_MIN)
}

/// What a volume is to be.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// What it is called.
    pub name: VolumeName,
    /// What it is known by.
    pub id: VolumeId,
    /// Where it is below the root; without it, its directory is called as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<VolumeDirectory>,
    /// A part of the path that clients mount, for those who are to know it only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<MountToken>,
    /// How much it may hold, in bytes.
    pub capacity: u64,
    /// How many files, directories and so on it may hold. Of a volume that is there: without it, as
    /// many as the disk. Of one that is asked for: without it [`inodes_of`] its capacity, and 0 for
    /// no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// What becomes of the capacity.
    #[serde(default)]
    pub quota: QuotaMode,
    /// The owner of its directory; the server's user if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group of its directory; the server's if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The mode of its directory, in octal as text.
    #[serde(default = "default_mode", with = "octal")]
    pub mode: u32,
    /// Which identities of clients are replaced.
    #[serde(default = "no_squash", with = "squash")]
    pub squash: Squash,
    /// Whom replaced identities act as.
    #[serde(default = "nobody")]
    pub anon_uid: u32,
    /// The group that they act as.
    #[serde(default = "nobody")]
    pub anon_gid: u32,
    /// Who may use it, as in exports(5): `*`, addresses, networks; no names, which could change.
    #[serde(default = "anyone", with = "clients")]
    pub clients: Vec<ClientPattern>,
    /// Whether only calls from ports below 1024 are answered. Not unless it is asked for: who has a
    /// container of its own may use any port, and addresses are translated on the way to one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub secure: bool,
    /// Whether its files can have no set-id bits; without it, that is so where users of the
    /// server's machine can enter the directory of the volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nosuid: Option<bool>,
    /// Whether no devices can be made in it; without it, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodev: Option<bool>,
    /// Whether changes of names and attributes are on the disk before they are answered.
    #[serde(default = "yes")]
    pub sync: bool,
    /// What is done with it in the end.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Words that others have for it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// What becomes of a volume's capacity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum QuotaMode {
    /// Nothing goes beyond it, and clients see it as the size of their file system.
    #[default]
    Enforce,
    /// Clients see it, and may go beyond it.
    Report,
    /// Clients see the disk.
    Off,
}

/// What is done with a volume that is no longer wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnDelete {
    /// Its content is destroyed.
    #[default]
    Delete,
    /// Its directory is put aside as `archived-NAME-TIME`.
    Archive,
    /// Its content is destroyed, and it is there for the next user, empty.
    Recycle,
    /// Nothing.
    Retain,
}

/// A volume at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// What it was asked to be.
    pub spec: Spec,
    /// The path that clients mount.
    pub path: String,
    /// Its directory on the server.
    pub directory: String,
    /// When it was made.
    pub created: Timestamp,
    /// The volume of which it is a copy, as that was shortly before `created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<VolumeName>,
    /// Whose its directory is at the moment. Of a list, and of what has no directory, it is not
    /// told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<OwnerAndMode>,
    /// What it is doing.
    pub phase: VolumePhase,
    /// Whether it could not be filled from another one because the disk is full.
    #[serde(default, skip_serializing_if = "is_false")]
    pub full: bool,
    /// What its content takes on the disk, in bytes.
    pub used: u64,
    /// What is left of its capacity, in bytes; not more than the disk has.
    pub free: u64,
    /// Files, directories and so on in it, itself included.
    pub inodes_used: u64,
    /// Who has mounted it since the server was started, as far as is known.
    #[serde(default)]
    pub mounted_by: Vec<IpAddr>,
    /// What came through it since the server was started.
    #[serde(default)]
    pub traffic: TrafficTotals,
}

/// Whose a directory is, and who may enter it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerAndMode {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode, in octal as text.
    #[serde(with = "octal")]
    pub mode: u32,
}

/// What a volume is doing.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum VolumePhase {
    /// It is served, and what it uses is known exactly.
    Ready,
    /// It is served; what it uses is a safe estimate until it has been counted.
    Counting,
    /// It is being filled from another one, and not served yet.
    Cloning {
        /// The other one.
        from: VolumeName,
        /// How far it is.
        progress: ProgressSnapshot,
    },
    /// It could not be filled from another one; nothing is left of it.
    Failed {
        /// Why.
        message: String,
    },
    /// Its directory is not there or cannot be opened, so that it is not served.
    Lost {
        /// Why.
        message: String,
    },
}

impl Spec {
    /// A volume with the defaults of everything else.
    pub fn new(name: VolumeName, id: VolumeId, capacity: u64) -> Self {
        Self {
            name,
            id,
            directory: None,
            token: None,
            capacity,
            inodes: None,
            quota: QuotaMode::default(),
            uid: None,
            gid: None,
            mode: MODE,
            squash: no_squash(),
            anon_uid: nobody(),
            anon_gid: nobody(),
            clients: anyone(),
            secure: false,
            nosuid: None,
            nodev: None,
            sync: yes(),
            on_delete: OnDelete::default(),
            labels: BTreeMap::new(),
        }
    }
}

impl Spec {
    /// Whether its limit of inodes is the one that its capacity gives.
    pub fn has_default_inodes(&self) -> bool {
        self.inodes == Some(inodes_of(self.capacity))
    }

    /// Where its directory is below the root.
    pub fn relative_path(&self) -> &str {
        self.directory.as_ref().map_or(self.name.as_str(), VolumeDirectory::as_str)
    }

    /// The path that clients mount: `/NAME`, or `/NAME/TOKEN`. The name comes first, so that people
    /// and programs see from it which volume it is.
    pub fn export_path(&self) -> String {
        match &self.token {
            Some(token) => format!("/{}/{}", self.name, token.as_str()),
            None => format!("/{}", self.name),
        }
    }
}

fn default_mode() -> u32 {
    MODE
}

/// Root of a container is no more than its user: whoever may use the volume owns it all.
fn no_squash() -> Squash {
    Squash::None
}

fn nobody() -> u32 {
    Anonymous::default().uid
}

fn anyone() -> Vec<ClientPattern> {
    vec![ClientPattern::Anyone]
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants it so
fn is_false(value: &bool) -> bool {
    !value
}

/// Permissions as people write them: `"0775"`.
mod octal {
    use super::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(mode: &u32, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{mode:04o}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
        let text = String::deserialize(d)?;
        super::parse_mode(&text).map_err(de::Error::custom)
    }
}

/// Reads a mode in octal.
///
/// # Errors
/// What is wrong with it.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| format!("mode {text:?} is not an octal number up to 7777, like 0775"))
}

/// The words of exports(5).
mod squash {
    use super::{Deserialize, Deserializer, Serializer, Squash, de};

    pub fn serialize<S: Serializer>(squash: &Squash, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(super::squash_name(*squash))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Squash, D::Error> {
        let text = String::deserialize(d)?;
        super::parse_squash(&text).map_err(de::Error::custom)
    }
}

/// The word for a squash in exports(5).
pub const fn squash_name(squash: Squash) -> &'static str {
    match squash {
        Squash::None => "no_root_squash",
        Squash::Root => "root_squash",
        Squash::All => "all_squash",
    }
}

/// Reads the word for a squash.
///
/// # Errors
/// It is none.
pub fn parse_squash(text: &str) -> Result<Squash, String> {
    let all = [Squash::None, Squash::Root, Squash::All];
    let found = all.into_iter().find(|squash| squash_name(*squash) == text);
    found.ok_or_else(|| {
        format!("squash {text:?} is not one of no_root_squash, root_squash, all_squash")
    })
}

mod clients {
    use super::{ClientPattern, Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(clients: &[ClientPattern], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(clients.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<ClientPattern>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|text| super::parse_client(text).map_err(de::Error::custom)).collect()
    }
}

/// Reads one client: `*`, an address, or a network.
///
/// # Errors
/// It is none of them; names are refused, because what they mean could change without notice.
pub fn parse_client(text: &str) -> Result<ClientPattern, String> {
    let no_names = |_: &str| Err(io::Error::other("write an address, or a network"));
    ClientPattern::parse(text, &mut { no_names }).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_need_be_said() {
        let spec: Spec = serde_json::from_str(r#"{"name":"a","id":"1","capacity":5}"#).unwrap();
        let expected = Spec::new(VolumeName::new("a").unwrap(), VolumeId::new("1").unwrap(), 5);
        assert_eq!(spec, expected);
        assert_eq!((spec.mode, spec.anon_uid, spec.sync), (0o777, 65534, true));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut spec = Spec::new(VolumeName::new("a").unwrap(), VolumeId::new("1").unwrap(), 5);
        spec.mode = 0o2770;
        spec.squash = Squash::All;
        spec.clients = ["*", "10.0.0.1", "fd00::/8"].map(|c| parse_client(c).unwrap()).to_vec();
        spec.on_delete = OnDelete::Archive;
        (spec.secure, spec.nosuid, spec.nodev) = (true, Some(true), Some(false));
        spec.labels.insert("team".into(), "blue".into());
        let text = serde_json::to_string(&spec).unwrap();
        assert!(text.contains(r#""mode":"2770""#) && text.contains("all_squash"), "{text}");
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |field: &str| {
            let text = format!(r#"{{"name":"a","id":"1","capacity":5,{field}}}"#);
            assert!(serde_json::from_str::<Spec>(&text).is_err(), "{field}");
        };
        check(r#""mode":"888""#);
        check(r#""mode":"17777""#);
        check(r#""mode":"+777""#);
        check(r#""squash":"some""#);
        check(r#""clients":["example.org"]"#);
        check(r#""clients":["10.0.0.0/33"]"#);
        check(r#""onDelete":"burn""#);
        check(r#""uid":-1"#);
        check(r#""colour":"blue""#);
        assert!(serde_json::from_str::<Spec>(r#"{"name":"a","id":"1","capacity":-5}"#).is_err());
    }
}
