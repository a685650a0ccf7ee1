//! The specification and the status of volumes: plain data, the same in the registry, in the admin
//! API and for the provisioner.
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

/// The default mode of a volume's directory: usable by every user of a client, because the owner is
/// not known by default.
pub const MODE: u32 = 0o777;

/// The prefix of labels by which the provisioner and others recognize their volumes. A copy of a
/// volume does not get them.
pub const OWN_LABELS: &str = "berth.io/";

/// The least capacity, in bytes. An empty directory takes up to 4 KiB (ext4), and a file with
/// content at least as much, or 16 KiB on file systems with larger blocks.
pub const CAPACITY_MIN: u64 = 64 * 1024;

/// Bytes of capacity for each inode, as in mkfs.ext4(8).
const BYTES_PER_INODE: u64 = 16 * 1024;

/// The least default limit of inodes.
const INODES_MIN: u64 = 4096;

/// Returns the default limit of inodes for a capacity: high enough that volumes seldom reach it
/// before their capacity, and low enough that no volume takes all inodes of the disk.
pub fn inodes_of(capacity: u64) -> u64 {
    (capacity / BYTES_PER_INODE).max(INODES_MIN)
}

/// The specification of a volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// Its name.
    pub name: VolumeName,
    /// Its id.
    pub id: VolumeId,
    /// Its directory relative to the directory with volumes. If absent, the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<VolumeDirectory>,
    /// The secret component of the path that clients mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<MountToken>,
    /// Its capacity, in bytes.
    pub capacity: u64,
    /// The limit of inodes. Of an existing volume: if absent, there is none. In a request: if
    /// absent, [`inodes_of`] the capacity; 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
    /// How the capacity is enforced.
    #[serde(default)]
    pub quota: QuotaMode,
    /// The owner of its directory. If absent, the server's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group of its directory. If absent, the server's group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The mode of its directory, as octal text.
    #[serde(default = "default_mode", with = "octal")]
    pub mode: u32,
    /// Which ids of clients are replaced by the anonymous ids.
    #[serde(default = "no_squash", with = "squash")]
    pub squash: Squash,
    /// The anonymous uid.
    #[serde(default = "nobody")]
    pub anon_uid: u32,
    /// The anonymous gid.
    #[serde(default = "nobody")]
    pub anon_gid: u32,
    /// The clients that may use it, as in exports(5): `*`, addresses and networks. Host names are
    /// not allowed, because their addresses can change.
    #[serde(default = "anyone", with = "clients")]
    pub clients: Vec<ClientPattern>,
    /// Whether only calls from ports below 1024 are accepted. Off by default: in a container any
    /// user may bind such ports, and address translation replaces them on the way to one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub secure: bool,
    /// Whether files cannot have set-id bits. If absent, this is so if local users can enter the
    /// directory with volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nosuid: Option<bool>,
    /// Whether devices cannot be made. If absent, as for `nosuid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodev: Option<bool>,
    /// Whether changes of names and attributes are on the disk before the reply.
    #[serde(default = "yes")]
    pub sync: bool,
    /// What to do when the volume is reclaimed.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Labels for the use of others.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// How the capacity of a volume is enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum QuotaMode {
    /// Changes beyond it fail. Clients see it as the size of the file system.
    #[default]
    Enforce,
    /// Clients see it, and may exceed it.
    Report,
    /// It has no effect. Clients see the size of the disk.
    Off,
}

/// What to do when a volume is reclaimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum OnDelete {
    /// Remove its content.
    #[default]
    Delete,
    /// Rename its directory to `archived-NAME-TIME`.
    Archive,
    /// Remove its content, and keep the empty volume for its next use.
    Recycle,
    /// Keep it as it is.
    Retain,
}

/// The status of a volume at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// The specification.
    pub spec: Spec,
    /// The path that clients mount.
    pub path: String,
    /// Its directory on the server.
    pub directory: String,
    /// When it was created.
    pub created: Timestamp,
    /// The volume of which it is a copy, in the state shortly before `created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<VolumeName>,
    /// The present owner and mode of its directory. Absent in lists, and if there is no directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<OwnerAndMode>,
    /// Its phase.
    pub phase: VolumePhase,
    /// Whether a clone failed because the disk is full.
    #[serde(default, skip_serializing_if = "is_false")]
    pub full: bool,
    /// Bytes that its content takes on the disk.
    pub used: u64,
    /// Bytes that are left of its capacity, at most the free space of the disk.
    pub free: u64,
    /// Inodes that it uses, including its root directory.
    pub inodes_used: u64,
    /// The clients that have mounted it since the server was started, as far as is known.
    #[serde(default)]
    pub mounted_by: Vec<IpAddr>,
    /// Its traffic since the server was started.
    #[serde(default)]
    pub traffic: TrafficTotals,
}

/// The owner and the mode of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerAndMode {
    /// The uid.
    pub uid: u32,
    /// The gid.
    pub gid: u32,
    /// The mode, as octal text.
    #[serde(with = "octal")]
    pub mode: u32,
}

/// The phase of a volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum VolumePhase {
    /// It is served, and its usage is exact.
    Ready,
    /// It is served. Its usage is an upper bound until it has been counted.
    Counting,
    /// It is being copied from another volume, and not served yet.
    Cloning {
        /// The other volume.
        from: VolumeName,
        /// The progress of the copy.
        progress: ProgressSnapshot,
    },
    /// Its copy has failed. It has no content.
    Failed {
        /// The reason.
        message: String,
    },
    /// Its directory is missing or cannot be opened, so it is not served.
    Lost {
        /// The reason.
        message: String,
    },
}

impl Spec {
    /// Creates a specification with the defaults of all other fields.
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
    /// Whether its limit of inodes is the default for its capacity.
    pub fn has_default_inodes(&self) -> bool {
        self.inodes == Some(inodes_of(self.capacity))
    }

    /// Its directory relative to the directory with volumes.
    pub fn relative_path(&self) -> &str {
        self.directory.as_ref().map_or(self.name.as_str(), VolumeDirectory::as_str)
    }

    /// The path that clients mount: `/NAME`, or `/NAME/TOKEN`. The name comes first, so people and
    /// programs recognize the volume by it.
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

/// Root in a container has no more rights than its user, who owns everything in the volume.
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

/// Modes as octal text: `"0775"`.
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

/// Parses a mode in octal.
///
/// # Errors
/// Returns what is wrong with it.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o7777);
    mode.ok_or_else(|| format!("mode {text:?} is not an octal number up to 7777, like 0775"))
}

/// The words of exports(5).
mod squash {
    use super::{Deserialize, Deserializer, Serializer, Squash, de};

    pub fn serialize<S: Serializer>(squash: &Squash, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(squash.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Squash, D::Error> {
        let text = String::deserialize(d)?;
        super::parse_squash(&text).map_err(de::Error::custom)
    }
}

/// Parses the word for a squash.
///
/// # Errors
/// It is not one of the three words.
pub fn parse_squash(text: &str) -> Result<Squash, String> {
    let found = Squash::ALL.into_iter().find(|squash| squash.name() == text);
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

/// Parses one client: `*`, an address, or a network.
///
/// # Errors
/// It is none of them. Host names are refused, because their addresses can change without notice.
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
