//! The files of the store: their names, and their content as JSON.

use std::fs::{self, DirBuilder};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip128::{Hasher128, SipHasher24};
use tracing::warn;

use super::{ServerOwner, StoreError, random_secret, set_aside};
use crate::nfs::v4::session::{ClientRecord, Principal};
use crate::sys::durable;

/// The format of all files.
const FORMAT: u32 = 1;

/// Largest file that is read: an owner of 1024 bytes in hexadecimal, and the rest.
const FILE_MAX: u64 = 8 * 1024;

/// Largest owner of a client.
const OWNER_MAX: usize = 1024;

/// Epochs count starts, or go on from a number of seconds. Larger ones are damage, and would soon
/// leave no next one.
const EPOCH_MAX: u32 = 0xf000_0000;

/// Behind the hash in a file's name.
const EXTENSION: &str = "json";

/// Faulty records that are reported one by one.
const REPORTED: usize = 10;

/// The folder, and the key of the names in it.
#[derive(Debug)]
pub(super) struct StoreFiles {
    folder: PathBuf,
    clients: PathBuf,
    /// Whether the folder was there before.
    was_used: bool,
}

/// The last start of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochFile {
    /// Its number.
    pub(super) epoch: u32,
    /// The earliest epoch whose records count at the next start.
    pub(super) reclaim_from: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdentityJson {
    format: u32,
    id: Hex,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EpochJson {
    format: u32,
    epoch: u32,
    reclaim_from: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RecordJson {
    format: u32,
    owner: Hex,
    principal: Principal,
    verifier: Hex,
    epoch: u32,
}

/// Bytes, in hexadecimal on the disk.
struct Hex(Vec<u8>);

impl StoreFiles {
    /// Creates the folders, if they do not exist.
    pub(super) fn create(state: &Path) -> Result<Self, StoreError> {
        let folder = state.join("nfs4");
        let clients = folder.join("clients");
        let was_used = folder.exists();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&clients)
            .and_then(|()| durable::flush_folder(&folder))
            .and_then(|()| durable::flush_folder(state))
            .map_err(writing(&clients))?;
        Ok(Self { folder, clients, was_used })
    }

    /// Returns whether an earlier start has used the folder.
    pub(super) const fn was_used(&self) -> bool {
        self.was_used
    }

    /// Returns the identity, `None` if there is none yet or if it is damaged.
    pub(super) fn read_identity(&self) -> Result<Option<ServerOwner>, StoreError> {
        let path = self.folder.join("identity");
        let consequence = "clients cannot reclaim what they held";
        let Some(json) = read_or_set_aside::<IdentityJson>(&path, consequence)? else {
            return Ok(None);
        };
        let Ok(id) = <[u8; 16]>::try_from(json.id.0) else {
            set_aside(&path, "the identity has another length", consequence)?;
            return Ok(None);
        };
        Ok(Some(ServerOwner(id)))
    }

    /// Makes an identity.
    pub(super) fn write_identity(&self) -> Result<ServerOwner, StoreError> {
        let id = random_secret()?;
        let json = IdentityJson { format: FORMAT, id: Hex(id.to_vec()) };
        write(&self.folder.join("identity"), &json)?;
        Ok(ServerOwner(id))
    }

    /// Returns the last epoch, `None` if there is none yet or if it is damaged.
    pub(super) fn read_epoch(&self) -> Result<Option<EpochFile>, StoreError> {
        let consequence = "clients cannot reclaim what they held";
        let path = self.folder.join("epoch");
        let Some(json) = read_or_set_aside::<EpochJson>(&path, consequence)? else {
            return Ok(None);
        };
        if json.epoch > EPOCH_MAX {
            set_aside(&path, "the epoch is too large", consequence)?;
            return Ok(None);
        }
        Ok(Some(EpochFile { epoch: json.epoch, reclaim_from: json.reclaim_from }))
    }

    pub(super) fn write_epoch(&self, epoch: EpochFile) -> Result<(), StoreError> {
        let EpochFile { epoch, reclaim_from } = epoch;
        write(&self.folder.join("epoch"), &EpochJson { format: FORMAT, epoch, reclaim_from })
    }

    /// Returns up to `max` records with their epochs. Faulty ones are reported, and left alone.
    pub(super) fn read_records(&self, max: usize) -> Result<Vec<(ClientRecord, u32)>, StoreError> {
        let (mut records, mut faults) = (Vec::new(), 0_usize);
        for entry in fs::read_dir(&self.clients).map_err(reading(&self.clients))? {
            let path = entry.map_err(reading(&self.clients))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                // What a crash has left of a record. It does not count, so it may stay.
                let _ = fs::remove_file(&path);
            }
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            if records.len() >= max {
                warn!(
                    path = %self.clients.display(), max,
                    "there are more records of NFSv4 clients than can be used; the clients of the \
                     others cannot reclaim what they held"
                );
                break;
            }
            match self.read_record(&path) {
                Ok(record) => records.push(record),
                Err(why) => {
                    faults += 1;
                    if faults <= REPORTED {
                        warn!(
                            path = %path.display(), why,
                            "the record of an NFSv4 client is damaged and is left alone; the \
                             client cannot reclaim what it held"
                        );
                    }
                }
            }
        }
        if faults > REPORTED {
            warn!(path = %self.clients.display(), faults, "more records of clients are damaged");
        }
        Ok(records)
    }

    fn read_record(&self, path: &Path) -> Result<(ClientRecord, u32), String> {
        let text = durable::read(path, FILE_MAX).map_err(|error| error.to_string())?;
        let json: RecordJson = parse(&text)?;
        if json.owner.0.len() > OWNER_MAX {
            return Err("the owner is too long".into());
        }
        if json.epoch > EPOCH_MAX {
            return Err("the epoch is too large".into());
        }
        if self.path(&json.owner.0) != path {
            return Err("it is about a client whose record has another name".into());
        }
        let verifier = json.verifier.0.try_into();
        let verifier = verifier.map_err(|_| "the verifier has another length".to_owned())?;
        let record =
            ClientRecord { owner: json.owner.0.into(), principal: json.principal, verifier };
        Ok((record, json.epoch))
    }

    /// Writes a record. One that is not known may have a damaged file in its place, which is
    /// renamed, or the file of another client.
    pub(super) fn write_record(
        &self,
        record: &ClientRecord,
        epoch: u32,
        is_known: bool,
    ) -> Result<(), StoreError> {
        let path = self.path(&record.owner);
        if !is_known && path.symlink_metadata().is_ok() {
            match self.read_record_of_other(&path, &record.owner) {
                Ok(()) => {}
                Err(Other::SessionClient) => return Err(StoreError::Full),
                Err(Other::Fault(why)) => {
                    set_aside(&path, &why, "the client in question was recorded anew")?;
                }
            }
        }
        let json = RecordJson {
            format: FORMAT,
            owner: Hex(record.owner.to_vec()),
            principal: record.principal,
            verifier: Hex(record.verifier.to_vec()),
            epoch,
        };
        write(&path, &json)
    }

    fn read_record_of_other(&self, path: &Path, owner: &[u8]) -> Result<(), Other> {
        let (found, _) = self.read_record(path).map_err(Other::Fault)?;
        if *found.owner == *owner { Ok(()) } else { Err(Other::SessionClient) }
    }

    /// Removes a record for good.
    pub(super) fn remove_record(&self, owner: &[u8]) -> Result<(), StoreError> {
        let path = self.path(owner);
        durable::remove(&path).map_err(writing(&path))
    }

    /// Removes records that are void. It does no harm if they are back after a crash.
    pub(super) fn remove_void<'a>(&self, owners: impl Iterator<Item = &'a [u8]>) {
        for owner in owners {
            let _ = fs::remove_file(self.path(owner));
        }
    }

    fn path(&self, owner: &[u8]) -> PathBuf {
        self.clients.join(format!("{:032x}.{EXTENSION}", hash(owner)))
    }
}

/// What is in the place of a record.
enum Other {
    /// The record of another client.
    SessionClient,
    /// Something that cannot be used.
    Fault(String),
}

/// Returns the hash of an owner, which names its file. Two owners with the same hash cannot both be
/// recorded.
pub(super) fn hash(owner: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new();
    hasher.write(owner);
    hasher.finish128().as_u128()
}

/// Reads a file. One that cannot be used is renamed and reported.
fn read_or_set_aside<T: DeserializeOwned>(
    path: &Path,
    consequence: &str,
) -> Result<Option<T>, StoreError> {
    let found = match durable::read(path, FILE_MAX) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
        Err(source) => return Err(reading(path)(source)),
    };
    match found {
        Ok(json) => Ok(Some(json)),
        Err(why) => set_aside(path, &why, consequence).map(|()| None),
    }
}

/// What all formats have in common.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let format: Format = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if format.format != FORMAT {
        return Err(format!("its format is {}, and only {FORMAT} is known", format.format));
    }
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

fn write(path: &Path, json: &impl Serialize) -> Result<(), StoreError> {
    let text = serde_json::to_vec(json).map_err(io::Error::from);
    text.and_then(|text| durable::replace(path, &text)).map_err(writing(path))
}

fn reading(path: &Path) -> impl Fn(io::Error) -> StoreError {
    |source| StoreError::Read { path: path.to_owned(), source }
}

fn writing(path: &Path) -> impl Fn(io::Error) -> StoreError {
    |source| StoreError::Write { path: path.to_owned(), source }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let digits = digits.as_bytes();
        let is_hex = digits.iter().all(u8::is_ascii_hexdigit) && digits.len().is_multiple_of(2);
        let byte = |pair: &[u8]| {
            std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok())
        };
        let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        let bytes = bytes.filter(|_| is_hex);
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("no hexadecimal digits"))
    }
}
