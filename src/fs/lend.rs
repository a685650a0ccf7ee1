//! What the owner of a file lacks for a moment, where all files are one user's.
//!
//! Without privileges, modes keep even the owner out, although a client that has a file open may go
//! on: a program that creates a file with mode 0444 and fills it, or one that works in a directory
//! which nobody may list. The owner can change the mode, so that it is lent the bits for the moment
//! of opening.
//!
//! One mode is lent at a time, and which one is written down before: a server that is killed in
//! that moment gives it back at its next start. As with [`super::aside`], the record survives the
//! end of the server, not of the machine.
//!
//! ```text
//!   STATE/lent    JSON: where the file is, which one it is, its mode and the one that is lent; or nothing
//! ```

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::attr::{Attr, Kind};
use super::change::set_mode;
use super::handle::Stamp;
use super::node::proc_path;
use crate::errno::{Errno, Result};
use crate::sys::durable;

/// Largest record that is read: a path has up to 4,096 bytes, of which each is a number.
const RECORD_MAX: u64 = 64 * 1024;

/// Lends bits of modes, one at a time.
pub(super) struct Lender {
    /// Whether all files are one user's.
    lends: bool,
    /// The record.
    path: PathBuf,
    /// The same, open once something was lent.
    modes: Mutex<Option<File>>,
}

/// A mode that is lent.
#[derive(Serialize, Deserialize)]
struct Lent {
    path: Vec<u8>,
    fileid: u64,
    generation: u32,
    mode: u32,
    lent: u32,
}

impl Lender {
    /// Keeps its record in the folder `state`, and gives back what an earlier server has left lent.
    pub(super) fn new(lends: bool, state: &Path) -> Self {
        let path = state.join("lent");
        if lends {
            give_back(&path);
        }
        Self { lends, path, modes: Mutex::new(None) }
    }

    /// Keeps others from setting or lending a mode.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.modes.lock()
    }

    /// Sets a mode by `set`, while nobody lends one: what is older than the client's mode could be
    /// put back otherwise.
    pub(super) fn keeping<T>(&self, set: impl FnOnce() -> T) -> T {
        let _modes = self.lends.then(|| self.lock());
        set()
    }

    /// Opens something; if that is refused, once more while the mode of `file` has the `bits`. All
    /// exports wait for each other here, so that nothing but opening is done meanwhile.
    ///
    /// # Errors
    /// Those of `open`; `EACCES` too if the mode cannot be set.
    pub(super) fn lend(
        &self,
        file: impl AsFd,
        bits: u32,
        open: impl Fn() -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        match open() {
            Err(Errno::ACCES) if self.lends => {
                let mut record = self.lock();
                let attr = Attr::of(&file)?;
                self.write_down(&mut record, &file, &attr, attr.mode | bits);
                set_mode(&file, attr.mode | bits).map_err(|_| Errno::ACCES)?;
                let result = open();
                set_mode(&file, attr.mode)?;
                // One that stays says what is true: the mode is compared before it is given back.
                let _ = record.as_ref().map(|record| record.set_len(0));
                result
            }
            result => result,
        }
    }

    /// Writes down what is about to be lent. Without room for that, it is lent all the same.
    fn write_down(&self, record: &mut Option<File>, file: impl AsFd, attr: &Attr, lent: u32) {
        let mut write = || -> std::io::Result<()> {
            let path = std::fs::read_link(proc_path(&file))?.as_os_str().as_bytes().to_vec();
            let Stamp { fileid, generation } = Stamp::of(attr);
            let json =
                serde_json::to_vec(&Lent { path, fileid, generation, mode: attr.mode, lent })?;
            let record = match record {
                Some(record) => record,
                None => record.insert(durable::create(&self.path)?),
            };
            record.write_all_at(&json, 0)?;
            record.set_len(json.len() as u64)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "cannot write down that a mode is lent");
        }
    }
}

impl Lent {
    /// Gives the mode back, if the file is there and still has the one that was lent. It is found
    /// by its path, on which clients may have put something else: nothing but the same file is
    /// changed.
    fn give_back(&self) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = Path::new(std::ffi::OsStr::from_bytes(&self.path));
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let attr = Attr::of(&file)?;
        let Stamp { fileid, generation } = Stamp::of(&attr);
        let is_it = (fileid, generation) == (self.fileid, self.generation);
        if is_it && attr.kind != Kind::Symlink && attr.mode == self.lent {
            set_mode(&file, self.mode)?;
            tracing::info!(path = %path.display(), "gave a mode back that an earlier run had lent");
        }
        Ok(())
    }
}

/// Gives back what the record at `path` says, and removes it.
fn give_back(path: &Path) {
    let lent = match durable::read(path, RECORD_MAX) {
        Ok(json) if json.is_empty() => Ok(()),
        Ok(json) => match serde_json::from_slice::<Lent>(&json) {
            Ok(lent) => lent.give_back().or_else(|error| match error {
                Errno::NOENT | Errno::NOTDIR => Ok(()),
                error => Err(error.into()),
            }),
            Err(error) => Err(error.into()), // cut off before anything was lent
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => Err(error),
    };
    if let Err(error) = lent {
        tracing::warn!(%error, record = %path.display(), "cannot give a mode back that was lent");
    }
    let _ = std::fs::remove_file(path); // it is replaced by the next one in any case
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn bits_are_lent_for_as_long_as_it_takes_and_only_if_they_lack() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = File::open(dir.path()).unwrap();
        set_mode(&file, 0o311).unwrap();
        let seen = Cell::new(Vec::new());
        let refused_at_first = || {
            seen.set([seen.take(), vec![mode(dir.path())]].concat());
            if mode(dir.path()) & 0o400 == 0 {
                return Err(Errno::ACCES);
            }
            Ok(file.try_clone()?.into())
        };
        let lend =
            |lends| Lender::new(lends, state.path()).lend(&file, 0o500, refused_at_first).map(drop);
        assert_eq!(lend(false), Err(Errno::ACCES));
        assert_eq!(lend(true), Ok(()));
        assert_eq!(seen.take(), [0o311, 0o311, 0o711]);
        assert_eq!(mode(dir.path()), 0o311);
        assert_eq!(state.path().join("lent").metadata().unwrap().len(), 0);
    }

    #[test]
    fn what_was_lent_when_the_server_was_killed_is_given_back() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        for path in [&path, &other] {
            std::fs::write(path, "content").unwrap();
            rustix::fs::chmod(path, 0o444.into()).unwrap();
        }
        let (file, record) = (File::open(&path).unwrap(), state.path().join("lent"));
        let left = Cell::new(Vec::new());
        let open = || {
            if mode(&path) & 0o200 == 0 {
                return Err(Errno::ACCES);
            }
            left.set(std::fs::read(&record).unwrap());
            Ok(file.try_clone()?.into())
        };
        Lender::new(true, state.path()).lend(&file, 0o200, open).unwrap();
        let left = left.take();
        // What a `kill -9` leaves, with what may have happened since.
        let restart = |set: u32, json: &[u8]| {
            set_mode(&file, set).unwrap();
            std::fs::write(&record, json).unwrap();
            drop(Lender::new(true, state.path()));
            assert!(!record.exists());
            mode(&path)
        };
        assert_eq!(restart(0o644, &left), 0o444);
        assert_eq!(restart(0o640, &left), 0o640, "somebody has set another one");
        assert_eq!(restart(0o644, &left[..left.len() / 2]), 0o644, "cut off: it was not lent yet");
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        rustix::fs::chmod(&other, 0o644.into()).unwrap();
        assert_eq!(restart(0o644, &left), 0o644, "another file, by a link of a client's");
    }
}
