//! The lock that limits a directory with volumes to one server.
//!
//! It is held on a file and is lost with the file system: after a FUSE daemon was mounted anew, no
//! server holds it. It is therefore checked before anything is written or served again, and taken
//! again if necessary. The modification time of the file tells whether another server has held the
//! lock in between. Then what this server knows about the volumes may be wrong, and it stops using
//! them for good.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use super::error::{Error, Result};
use crate::fs::fingerprint::Fingerprint;
use crate::sys::durable;

/// The name of the file.
const NAME: &str = "lock";

/// The lock of a directory with volumes.
pub(super) struct DirectoryLock {
    /// Berth's own folder in the directory.
    own: PathBuf,
    which: Fingerprint,
    state: Mutex<LockState>,
}

enum LockState {
    /// The file, and the modification time that was set when the lock was taken.
    Held(File, LockTime),
    /// Another server has held the lock.
    Lost,
}

/// Seconds and nanoseconds.
type LockTime = (i64, i64);

impl DirectoryLock {
    /// Takes the lock of the directory whose own folder is `own`.
    ///
    /// # Errors
    /// Another server holds the lock; it cannot be taken.
    pub(super) fn take(own: &Path) -> Result<Self> {
        let which = which(own).map_err(Error::io("examine", own))?;
        let path = own.join(NAME);
        let file = durable::open_lock(&path).map_err(Error::io("open", &path))?;
        if !try_lock(&file).map_err(Error::io("lock", &path))? {
            let folder = own.parent().unwrap_or(own).display();
            return Err(Error::Invalid(format!(
                "{folder} is in use by another server; a directory with volumes has one server"
            )));
        }
        let time = stamp(&file).map_err(Error::io("examine", &path))?;
        Ok(Self { own: own.to_owned(), which, state: Mutex::new(LockState::Held(file, time)) })
    }

    /// Checks that this server has the directory to itself, and takes the lock again if it was lost
    /// with the file system. Blocks.
    ///
    /// # Errors
    /// The file system is not mounted, or another one is mounted there; another server holds the
    /// lock or has held it.
    pub(super) fn check(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let LockState::Held(file, time) = &*state else { return Err(lost()) };
        let fresh = match self.is_in_place(file) {
            // Locked again each time: a network file system may have granted the lock to another
            // client meanwhile.
            true if try_lock(file)? => return Ok(()),
            true => None,
            false => self.take_again(*time)?,
        };
        if let Some(file) = fresh {
            let time = stamp(&file)?;
            *state = LockState::Held(file, time);
            tracing::info!(dir = %self.dir().display(), "took the lock of the volumes again");
            return Ok(());
        }
        *state = LockState::Lost;
        tracing::error!(
            dir = %self.dir().display(),
            "another server has used the volumes while their file system was not mounted here; \
             this server no longer serves them: stop one of the two servers, and restart the other"
        );
        Err(lost())
    }

    /// Releases the lock.
    pub(super) fn release(&self) {
        let state = self.state.lock();
        if let LockState::Held(file, _) = &*state {
            let _ = flock(file, FlockOperation::Unlock); // at the latest, the process ends it
        }
    }

    fn dir(&self) -> &Path {
        self.own.parent().unwrap_or(&self.own)
    }

    /// Whether `file` is still the file under the lock's name.
    fn is_in_place(&self, file: &File) -> bool {
        let number = |of: Metadata| (of.dev(), of.ino());
        let ours = file.metadata().map(number);
        let named = self.own.join(NAME).symlink_metadata().map(number);
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }

    /// Takes the lock again. Returns `None` if another server holds it, or has held it since
    /// `time`.
    fn take_again(&self, time: LockTime) -> io::Result<Option<File>> {
        if !which(&self.own)?.is_still(&self.which) {
            return Err(io::Error::other("another file system is mounted there"));
        }
        let path = self.own.join(NAME);
        let is_there = path.symlink_metadata().is_ok();
        let file = durable::open_lock(&path)?;
        if !try_lock(&file)? {
            return Ok(None);
        }
        let is_as_before = !is_there || time_of(&file.metadata()?) == time;
        Ok(is_as_before.then_some(file))
    }
}

fn which(own: &Path) -> io::Result<Fingerprint> {
    Ok(Fingerprint::of(File::open(own)?)?)
}

/// Locks a file. Returns `false` if another process holds the lock.
fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the modification time to the present, and returns it.
fn stamp(file: &File) -> io::Result<LockTime> {
    // Needs no space on a full disk. If it is refused, the old time serves as well, because no
    // other process sets one there.
    let _ = file.set_modified(SystemTime::now());
    Ok(time_of(&file.metadata()?))
}

fn time_of(of: &Metadata) -> LockTime {
    (of.mtime(), of.mtime_nsec())
}

fn lost() -> io::Error {
    io::Error::other("another server has used the volumes; restart this one")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Simulates a new mount: the same name and time, but another file.
    fn renew(own: &Path) -> File {
        let (path, fresh) = (own.join(NAME), own.join("fresh"));
        let time = path.metadata().unwrap().modified().unwrap();
        let file = durable::create(&fresh).unwrap();
        file.set_modified(time).unwrap();
        fs::rename(&fresh, &path).unwrap();
        file
    }

    #[test]
    fn it_is_taken_again_when_it_was_lost_with_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(dir.path()).unwrap();
        lock.check().unwrap();
        renew(dir.path());
        assert!(DirectoryLock::take(dir.path()).is_ok(), "nobody has it");
        renew(dir.path());
        let lock = DirectoryLock::take(dir.path()).unwrap();
        renew(dir.path());
        lock.check().unwrap();
        assert!(DirectoryLock::take(dir.path()).is_err());
        lock.release();
        assert!(DirectoryLock::take(dir.path()).is_ok());
    }

    #[test]
    fn a_directory_that_another_server_has_or_had_is_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        for has_ended in [false, true] {
            let lock = DirectoryLock::take(dir.path()).unwrap();
            renew(dir.path());
            let other = DirectoryLock::take(dir.path()).unwrap();
            let other = (!has_ended).then_some(other);
            assert!(lock.check().is_err(), "{has_ended}");
            drop(other);
            assert!(lock.check().is_err(), "what it knows may be wrong");
        }
    }

    #[test]
    fn a_lock_that_was_given_to_another_client_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(dir.path()).unwrap();
        lock.release(); // simulates a network server that revokes the lock
        let other = DirectoryLock::take(dir.path()).unwrap();
        assert!(lock.check().is_err());
        drop(other);
        assert!(lock.check().is_err());
    }

    #[test]
    fn what_is_not_there_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (own, elsewhere) = (dir.path().join("own"), dir.path().join("elsewhere"));
        fs::create_dir(&own).unwrap();
        let lock = DirectoryLock::take(&own).unwrap();
        fs::rename(&own, &elsewhere).unwrap();
        assert!(lock.check().is_err());
        fs::create_dir(&own).unwrap();
        assert!(lock.check().is_err(), "what lies below the mount");
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        fs::remove_dir(&own).unwrap();
        fs::rename(&elsewhere, &own).unwrap();
        lock.check().unwrap();
    }

    #[test]
    fn a_file_that_was_removed_by_hand_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirectoryLock::take(dir.path()).unwrap();
        fs::remove_file(dir.path().join(NAME)).unwrap();
        lock.check().unwrap();
        assert!(DirectoryLock::take(dir.path()).is_err());
    }
}
