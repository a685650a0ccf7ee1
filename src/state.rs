//! The state folder: what must survive a restart, apart from the volumes.
//!
//! ```text
//!   STATE/lock      locked by the server that uses the folder
//!   STATE/key       16 random bytes: a client that knows them can forge handles
//!   STATE/exports   JSON: the id of each directory that was ever exported, and what was mounted
//!                   there
//!   STATE/server    8 random bytes in hexadecimal: the identity of the server across restarts
//!   STATE/nfs4/     see crate::nfs::v4::session::store (clients that may reclaim after a restart)
//!   STATE/moves     see crate::fs (only with handles by path)
//!   STATE/making    see crate::fs (files that are being created)
//!   STATE/lent      see crate::fs (a mode that is lent, without privileges)
//! ```
//!
//! Files are replaced atomically ([`durable::replace`]): a crash leaves the old file or the new
//! one.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::export::ExportId;
use crate::fs::handle::{KEY_LEN, Key};
use crate::sys::durable;

/// Length of the server's id, in hexadecimal digits.
const SERVER_LEN: usize = 16;

/// Largest size of `exports`, in bytes.
const EXPORTS_MAX: u64 = 64 << 20;

/// The state folder, locked until this is dropped.
pub struct StateFolder {
    dir: PathBuf,
    lock: File,
}

/// An entry of `exports`: a directory and its id.
#[derive(Serialize, Deserialize)]
struct ExportRecord {
    dir: Vec<u8>,
    id: u64,
    /// What was mounted there, where directories of different mounts look alike
    /// ([`crate::fs::fingerprint::Fingerprint::source`]). Earlier versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl StateFolder {
    /// Opens and locks the folder, and creates it if it does not exist.
    ///
    /// # Errors
    /// It cannot be created or locked; another server uses it.
    pub fn open(dir: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot create the state folder {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("cannot find {}", dir.display()))?;
        let path = dir.join("lock");
        let lock = durable::open_lock(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { dir, lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => bail!(
                "the state folder {} is in use by another server; give each its own with --state",
                dir.display()
            ),
            Err(errno) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Releases the lock, for a process that stops but may not be gone for a while. The folder must
    /// not be used by it afterwards.
    pub fn unlock(&self) {
        let _ = flock(&self.lock, FlockOperation::Unlock); // it ends with the process in any case
    }

    /// Returns the path of the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the key that signs file handles, and generates it at the first call.
    ///
    /// # Errors
    /// It cannot be read or written, or has the wrong length. It is not replaced then, because a
    /// new key makes the handles of all clients stale.
    pub fn key(&self) -> Result<Key> {
        let path = self.dir.join("key");
        let bytes = match durable::read(&path, KEY_LEN as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let bytes = random::<KEY_LEN>()?;
                self.write("key", &bytes)?;
                bytes.to_vec()
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Vec::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let Ok(bytes) = bytes.try_into() else {
            bail!(
                "{} is damaged; restore it from a backup, or remove it and mount again on all \
                 clients",
                path.display()
            );
        };
        Ok(Key::new(bytes))
    }

    /// Returns the ids of exported directories, in the order of `dirs`. New ids are on the disk
    /// before this returns. A directory is named by its path and, where that is needed to tell it
    /// from others, by what is mounted there: a handle of one file system never leads to a file of
    /// another that is mounted in its place.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn ids<'a>(
        &self,
        dirs: impl IntoIterator<Item = (&'a Path, Option<String>)>,
    ) -> Result<Vec<ExportId>> {
        let mut known = self.read_exports()?;
        let mut is_new = false;
        let mut ids = Vec::new();
        for (dir, source) in dirs {
            let dir = dir.as_os_str().as_bytes();
            let found = match find(&mut known, dir, source.as_deref()) {
                Some(found) => found,
                None => {
                    let id = u64::from_ne_bytes(random()?);
                    is_new = true;
                    known.push(ExportRecord { dir: dir.to_vec(), id, source: source.clone() });
                    known.last_mut().context("it was just added")?
                }
            };
            if found.source != source {
                found.source = source;
                is_new = true;
            }
            ids.push(ExportId(found.id));
        }
        if is_new {
            self.write("exports", &serde_json::to_vec(&known)?)?;
        }
        Ok(ids)
    }

    /// Returns the identity of the server, which stays the same as long as the folder exists, and
    /// generates it at the first call.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn server(&self) -> Result<String> {
        let path = self.dir.join("server");
        match durable::read(&path, SERVER_LEN as u64).map(String::from_utf8) {
            Ok(Ok(id)) if id.len() == SERVER_LEN && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(id)
            }
            // With a new identity, the server would ignore the PersistentVolumes that it made.
            Ok(_) => bail!(
                "{} is damaged; restore it from a backup, or remove it if the server has made no \
                 PersistentVolumes",
                path.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = format!("{:016x}", u64::from_ne_bytes(random()?));
                self.write("server", id.as_bytes())?;
                Ok(id)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn read_exports(&self) -> Result<Vec<ExportRecord>> {
        let path = self.dir.join("exports");
        match durable::read(&path, EXPORTS_MAX) {
            Ok(json) => serde_json::from_slice(&json).with_context(|| {
                format!("{} is damaged; restore it from a backup", path.display())
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        durable::replace(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Finds the entry of a directory. One of an earlier version, which did not record what was
/// mounted, is returned if the directory has no other.
fn find<'a>(
    known: &'a mut [ExportRecord],
    dir: &[u8],
    source: Option<&str>,
) -> Option<&'a mut ExportRecord> {
    let is_it = |known: &ExportRecord| known.dir == dir && known.source.as_deref() == source;
    if let Some(n) = known.iter().position(is_it) {
        return known.get_mut(n);
    }
    let mut others = known.iter_mut().filter(|known| known.dir == dir);
    others.next().filter(|other| other.source.is_none() && others.next().is_none())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // A request of up to 256 bytes is never partial (getrandom(2)).
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("cannot get random numbers from the system")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::tempdir;

    #[test]
    fn ids_and_key_survive_a_restart() {
        let dir = tempdir().unwrap();
        let at = |path| (Path::new(path), None);
        let state = StateFolder::open(dir.path()).unwrap();
        let first = state.ids([at("/a"), at("/b")]).unwrap();
        let sealed = state.key().unwrap();
        drop(state);
        let state = StateFolder::open(dir.path()).unwrap();
        let again = state.ids([at("/b"), at("/c"), at("/a")]).unwrap();
        assert_eq!([again[0], again[2]], [first[1], first[0]]);
        assert!(!first.contains(&again[1]));
        let body = crate::fs::handle::Body::Path(b"x");
        let handle = sealed.seal(first[0], body);
        assert_eq!(state.key().unwrap().check(&handle), Ok(body));
    }

    #[test]
    fn what_is_mounted_in_place_of_another_has_an_id_of_its_own() {
        let dir = tempdir().unwrap();
        let id = |source: Option<&str>| {
            let state = StateFolder::open(dir.path()).unwrap();
            state.ids([(Path::new("/a"), source.map(str::to_owned))]).unwrap()[0]
        };
        let old = id(None); // as an earlier version has it
        let one = id(Some("fuse one"));
        assert_eq!(one, old, "handles stay valid");
        let (other, below) = (id(Some("fuse other")), id(None));
        assert!(other != one && below != one && below != other);
        assert_eq!([id(Some("fuse one")), id(Some("fuse other")), id(None)], [one, other, below]);
    }

    #[test]
    fn a_damaged_key_is_not_replaced() {
        let dir = tempdir().unwrap();
        let state = StateFolder::open(dir.path()).unwrap();
        fs::write(dir.path().join("key"), b"short").unwrap();
        assert!(state.key().is_err());
        assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"short");
    }

    #[test]
    fn files_that_are_not_regular_are_neither_read_nor_replaced() {
        for name in ["lock", "key", "server", "exports"] {
            let dir = tempdir().unwrap();
            let path = dir.path().join(name);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
            let used = StateFolder::open(dir.path()).and_then(|state| {
                state.key()?;
                state.server()?;
                state.ids([(Path::new("/a"), None)]).map(drop)
            });
            let error = format!("{:#}", used.unwrap_err());
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(!path.metadata().unwrap().is_file());
        }
    }

    #[test]
    fn only_one_server_can_use_the_folder() {
        let dir = tempdir().unwrap();
        let first = StateFolder::open(dir.path()).unwrap();
        let second = StateFolder::open(dir.path()).err().expect("the folder is in use");
        assert!(second.to_string().contains("--state"), "{second}");
        drop(first);
        assert!(StateFolder::open(dir.path()).is_ok());
    }
}
