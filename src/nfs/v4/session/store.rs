//! What the disk keeps of clients, so that they can reclaim after a restart (RFC 8881 section 8.4).
//!
//! ```text
//!   STATE/nfs4/identity          16 random bytes: the server, as so_major_id and scope name it
//!   STATE/nfs4/epoch             number of the last start, and from which epoch on records count
//!   STATE/nfs4/clients/HASH.json a client that may hold opens or locks, with the epoch in which it
//!                                was recorded
//! ```
//!
//! Each start has an epoch of its own, which is on the disk before it is used. A client is recorded
//! before its first OPEN or LOCK of an epoch is answered, also when it reclaims. After a restart,
//! the clients recorded in the epoch before may reclaim. At the end of the grace period, records of
//! earlier epochs become void, all by one write ([`ClientStore::end_grace`]):
//!
//! ```text
//!   epoch 7   A and B are recorded
//!   epoch 8   A reclaims, and is recorded in 8; the grace period ends: B is void from now on
//!   epoch 9   A may reclaim; B may not, because others may have got its locks in 8
//! ```
//!
//! If the server stops within the grace period, the records of both epochs count at the next start.
//!
//! Files are written atomically. A file that cannot be used is reported; it is left alone, or
//! renamed if another one must have its name.

mod files;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tracing::warn;

use super::{ClientRecord, Principal};
use crate::sys::durable;
use files::{EpochFile, StoreFiles};

/// Largest number of recorded clients, some more than the lock table has.
const RECORDS_MAX: usize = 24 << 10;

/// Clients whose files can be written at the same time.
const STRIPES: usize = 16;

/// Why the disk does not have what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are too many recorded clients, or one whose file has the same name.
    #[error("no room for the record of another client; {RECORDS_MAX} clients may be recorded")]
    Full,
    /// The system has no random numbers.
    #[error("cannot get random numbers from the system")]
    Random(#[source] io::Error),
}

/// The identity of the server: other servers have other ones. It moves with the state folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOwner(pub [u8; 16]);

/// The records on the disk.
#[derive(Debug)]
pub struct ClientStore {
    files: StoreFiles,
    identity: ServerOwner,
    epoch: u32,
    known: Mutex<HashMap<Arc<[u8]>, Known>>,
    /// Held while the file of a client is written or removed, by the hash of its owner.
    writing: [Mutex<()>; STRIPES],
    /// Whether records of earlier epochs count; held while that is changed.
    in_grace: Mutex<bool>,
}

/// A record that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    principal: Principal,
    verifier: [u8; 8],
    epoch: u32,
}

/// A store, and the clients that may reclaim.
#[derive(Debug)]
pub struct OpenedStore {
    /// The store.
    pub store: ClientStore,
    /// Clients that may reclaim. If there are none, there is no grace period.
    pub may_reclaim: Vec<ClientRecord>,
}

impl ClientStore {
    /// Opens the records in a state folder, which no other server uses, and begins an epoch.
    /// Blocks.
    ///
    /// # Errors
    /// The folder or one of its files cannot be read or written. A damaged file is no error.
    pub fn open(state: &Path) -> Result<OpenedStore, StoreError> {
        let files = StoreFiles::create(state)?;
        let identity = match files.read_identity()? {
            Some(identity) => identity,
            None => files.write_identity()?,
        };
        let records = files.read_records(RECORDS_MAX)?;
        let last = files.read_epoch()?;
        let newest = records.iter().map(|(_, epoch)| *epoch).max().unwrap_or(0);
        let (before, reclaim_from) = match last {
            Some(last) => (last.epoch, last.reclaim_from),
            // Nothing is known of the last epoch, so nothing may be reclaimed. An epoch that counts
            // seconds is above all that were counted by starts.
            None if files.was_used() || newest > 0 => (seconds(), u32::MAX),
            None => (0, u32::MAX),
        };
        // A folder that was restored from a backup may have records that are newer than its epoch.
        let epoch = before.max(newest).saturating_add(1);
        let counts = |(_, at): &(ClientRecord, u32)| *at >= reclaim_from;
        let (current, void): (Vec<_>, Vec<_>) = records.into_iter().partition(counts);
        let in_grace = !current.is_empty();
        let reclaim_from = if in_grace { reclaim_from } else { epoch };
        files.write_epoch(EpochFile { epoch, reclaim_from })?;
        let store = Self {
            files,
            identity,
            epoch,
            known: Mutex::new(current.iter().map(known).collect()),
            writing: Default::default(),
            in_grace: Mutex::new(in_grace),
        };
        store.files.remove_void(void.iter().map(|(record, _)| &*record.owner));
        let may_reclaim = current.into_iter().map(|(record, _)| record).collect();
        Ok(OpenedStore { store, may_reclaim })
    }

    /// Returns the identity of the server.
    pub const fn identity(&self) -> ServerOwner {
        self.identity
    }

    /// Returns the epoch, which no earlier start had.
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Returns whether a client is recorded in this epoch. Does not block.
    pub fn is_recorded(&self, record: &ClientRecord) -> bool {
        self.known.lock().get(&record.owner) == Some(&self.entry(record))
    }

    /// Records a client. On the disk when this returns. May be repeated. Blocks.
    ///
    /// # Errors
    /// `Write`, `Full`. Nothing that the client could reclaim may be granted then.
    pub fn record(&self, record: &ClientRecord) -> Result<(), StoreError> {
        let _writing = self.stripe(&record.owner).lock();
        if self.is_recorded(record) {
            return Ok(());
        }
        let is_known = {
            let known = self.known.lock();
            let is_known = known.contains_key(&record.owner);
            if !is_known && known.len() >= RECORDS_MAX {
                return Err(StoreError::Full);
            }
            is_known
        };
        //= RFC 8881 8.4.2.1: a client is on stable storage before it is granted what it can reclaim
        self.files.write_record(record, self.epoch, is_known)?;
        self.known.lock().insert(record.owner.clone(), self.entry(record));
        Ok(())
    }

    /// Removes the record of a client: it was destroyed, has lost its state, or was replaced by a
    /// new instance. Gone from the disk when this returns. Leaves that of another instance with the
    /// same owner. May be repeated. Blocks.
    ///
    /// # Errors
    /// `Write`. Nothing that the client held may be granted to others then.
    pub fn forget(&self, record: &ClientRecord) -> Result<(), StoreError> {
        let ClientRecord { owner, principal, verifier } = record;
        let _writing = self.stripe(owner).lock();
        let is_it = |known: &Known| (known.principal, known.verifier) == (*principal, *verifier);
        if !self.known.lock().get(owner).is_some_and(is_it) {
            return Ok(());
        }
        //= RFC 8881 8.4.2.1: a client whose state was given to others does not reclaim it later
        self.files.remove_record(owner)?;
        self.known.lock().remove(owner);
        Ok(())
    }

    /// Makes the records of earlier epochs void, because the grace period has ended. On the disk
    /// when this returns. May be repeated. Blocks.
    ///
    /// # Errors
    /// `Write`. Nothing but reclaims may be granted then.
    pub fn end_grace(&self) -> Result<(), StoreError> {
        let mut in_grace = self.in_grace.lock();
        if !*in_grace {
            return Ok(());
        }
        //= RFC 8881 8.4.2.1: a client that did not reclaim in one grace period does not in the next
        self.files.write_epoch(EpochFile { epoch: self.epoch, reclaim_from: self.epoch })?;
        *in_grace = false;
        drop(in_grace);
        self.remove_void();
        Ok(())
    }

    /// Removes the records of earlier epochs, which do not count any more.
    fn remove_void(&self) {
        let is_void = |known: &Known| known.epoch < self.epoch;
        let known = self.known.lock();
        let void = known.iter().filter(|(_, known)| is_void(known));
        let void: Vec<_> = void.map(|(owner, _)| owner.clone()).collect();
        drop(known);
        for owner in void {
            let _writing = self.stripe(&owner).lock();
            // The client may have been recorded since.
            if self.known.lock().get(&owner).is_some_and(is_void) {
                self.files.remove_void(std::iter::once(&*owner));
                self.known.lock().remove(&owner);
            }
        }
    }

    /// Returns how many clients are recorded.
    pub fn len(&self) -> usize {
        self.known.lock().len()
    }

    /// Returns whether no client is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn entry(&self, record: &ClientRecord) -> Known {
        Known { principal: record.principal, verifier: record.verifier, epoch: self.epoch }
    }

    /// Clients whose files have the same name share a stripe.
    fn stripe(&self, owner: &[u8]) -> &Mutex<()> {
        let index = usize::try_from(files::hash(owner) % STRIPES as u128);
        &self.writing[index.unwrap_or(0)]
    }
}

fn known((record, epoch): &(ClientRecord, u32)) -> (Arc<[u8]>, Known) {
    let ClientRecord { owner, principal, verifier } = record.clone();
    (owner, Known { principal, verifier, epoch: *epoch })
}

/// Returns the seconds since 1970, 0 if the clock is wrong.
fn seconds() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(0)
}

/// Returns random bytes for [`super::SessionSettings::secret`].
///
/// # Errors
/// The system has no random numbers.
pub fn random_secret() -> Result<[u8; 16], StoreError> {
    let mut bytes = [0; 16];
    // A request of up to 256 bytes is never partial (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| StoreError::Random(errno.into()))?;
    Ok(bytes)
}

/// Renames a file that cannot be used, and reports it.
fn set_aside(path: &Path, why: &str, consequence: &str) -> Result<(), StoreError> {
    let write = |source| StoreError::Write { path: path.to_owned(), source };
    let aside = durable::set_aside(path).map_err(write)?;
    warn!(
        path = %path.display(), aside = %aside.display(), why,
        "a file about NFSv4 clients is damaged and was renamed; {consequence}"
    );
    Ok(())
}
