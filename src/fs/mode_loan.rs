//! Permissions that a file's owner lacks, granted for the moment of opening the file.
//!
//! Without privileges, the mode restricts even the owner, although a client that has the file open
//! may go on: a program that creates a file with mode 0444 and fills it, or one that works in a
//! directory that nobody may list. The owner can change the mode. The server therefore adds the
//! missing bits, opens the file, and restores the mode.
//!
//! One mode is changed ("lent") at a time, and recorded before: a server that is killed in that
//! moment restores it at its next start. As with [`super::temp_name`], the record survives the
//! server, not the machine.
//!
//! ```text
//!   STATE/lent    JSON: path, number and generation of the file, its mode, and the one that is
//!                 lent; or nothing
//! ```

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::attr::{Attr, FileKind};
use super::change::set_mode;
use super::handle::Stamp;
use super::node::proc_path;
use crate::errno::{Errno, Result};
use crate::sys::durable;

/// Bytes of a record that are read at most. A path has up to 4,096 bytes, each written as a number.
const RECORD_MAX: u64 = 64 * 1024;

/// Lends modes, one at a time.
pub(super) struct ModeLender {
    /// Whether the server has no privileges, and all files belong to its user.
    lends: bool,
    /// The path of the record.
    path: PathBuf,
    /// The record, open once a mode was lent.
    record: Mutex<Option<File>>,
}

/// A mode that is lent.
#[derive(Serialize, Deserialize)]
struct Loan {
    path: Vec<u8>,
    fileid: u64,
    generation: u32,
    mode: u32,
    lent: u32,
}

impl ModeLender {
    /// Keeps its record in the folder `state`. Restores the mode that an earlier run has left lent.
    pub(super) fn new(lends: bool, state: &Path) -> Self {
        let path = state.join("lent");
        if lends {
            restore(&path);
        }
        Self { lends, path, record: Mutex::new(None) }
    }

    /// Excludes other calls that set or lend a mode.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.record.lock()
    }

    /// Runs `set`, which sets a mode, while no mode is lent. Otherwise an older mode could be
    /// restored over it.
    pub(super) fn while_none_is_lent<T>(&self, set: impl FnOnce() -> T) -> T {
        let _excluded = self.lends.then(|| self.lock());
        set()
    }

    /// Runs `open`. If that is refused, runs it once more while the mode of `file` has the `bits`.
    /// One call at a time may do this, for all exports: `open` must do nothing but open. Blocks.
    ///
    /// # Errors
    /// Those of `open`; also `EACCES` if the mode cannot be set.
    pub(super) fn open_with(
        &self,
        file: impl AsFd,
        bits: u32,
        open: impl Fn() -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        match open() {
            Err(Errno::ACCES) if self.lends => {
                let mut record = self.lock();
                let attr = Attr::of(&file)?;
                self.write_record(&mut record, &file, &attr, attr.mode | bits);
                set_mode(&file, attr.mode | bits).map_err(|_| Errno::ACCES)?;
                let result = open();
                set_mode(&file, attr.mode)?;
                // A record that cannot be emptied does no harm: the mode is compared with it first.
                let _ = record.as_ref().map(|record| record.set_len(0));
                result
            }
            result => result,
        }
    }

    /// Records the mode that is about to be lent. On a full disk, the mode is lent all the same.
    fn write_record(&self, record: &mut Option<File>, file: impl AsFd, attr: &Attr, lent: u32) {
        let mut write = || -> std::io::Result<()> {
            let path = std::fs::read_link(proc_path(&file))?.as_os_str().as_bytes().to_vec();
            let Stamp { fileid, generation } = Stamp::of(attr);
            let json =
                serde_json::to_vec(&Loan { path, fileid, generation, mode: attr.mode, lent })?;
            let record = match record {
                Some(record) => record,
                None => record.insert(durable::create(&self.path)?),
            };
            record.write_all_at(&json, 0)?;
            record.set_len(json.len() as u64)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "cannot record that a mode is lent");
        }
    }
}

impl Loan {
    /// Restores the mode, if the file still has the one that was lent. The file is found by its
    /// path, where clients may have put another file; that one is not changed.
    fn restore(&self) -> Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = Path::new(std::ffi::OsStr::from_bytes(&self.path));
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        let attr = Attr::of(&file)?;
        let Stamp { fileid, generation } = Stamp::of(&attr);
        let is_it = (fileid, generation) == (self.fileid, self.generation);
        if is_it && attr.kind != FileKind::Symlink && attr.mode == self.lent {
            set_mode(&file, self.mode)?;
            tracing::info!(path = %path.display(), "restored a mode that an earlier run had lent");
        }
        Ok(())
    }
}

/// Restores the mode that is recorded at `path`, and removes the record.
fn restore(path: &Path) {
    let lent = match durable::read(path, RECORD_MAX) {
        Ok(json) if json.is_empty() => Ok(()),
        Ok(json) => match serde_json::from_slice::<Loan>(&json) {
            Ok(lent) => lent.restore().or_else(|error| match error {
                Errno::NOENT | Errno::NOTDIR => Ok(()),
                error => Err(error.into()),
            }),
            Err(error) => Err(error.into()), // a crash cut it off before the mode was lent
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => Err(error),
    };
    if let Err(error) = lent {
        tracing::warn!(%error, record = %path.display(), "cannot restore a mode that was lent");
    }
    let _ = std::fs::remove_file(path); // the next record replaces it in any case
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
    fn bits_are_lent_while_a_file_is_opened_and_only_if_it_lacks_them() {
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
        let open_with = |lends| {
            ModeLender::new(lends, state.path()).open_with(&file, 0o500, refused_at_first).map(drop)
        };
        assert_eq!(open_with(false), Err(Errno::ACCES));
        assert_eq!(open_with(true), Ok(()));
        assert_eq!(seen.take(), [0o311, 0o311, 0o711]);
        assert_eq!(mode(dir.path()), 0o311);
        assert_eq!(state.path().join("lent").metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_mode_that_was_lent_when_the_server_was_killed_is_restored() {
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
        ModeLender::new(true, state.path()).open_with(&file, 0o200, open).unwrap();
        let left = left.take();
        // What a `kill -9` leaves, and what may have happened since.
        let restart = |set: u32, json: &[u8]| {
            set_mode(&file, set).unwrap();
            std::fs::write(&record, json).unwrap();
            drop(ModeLender::new(true, state.path()));
            assert!(!record.exists());
            mode(&path)
        };
        assert_eq!(restart(0o644, &left), 0o444);
        assert_eq!(restart(0o640, &left), 0o640, "another mode was set");
        assert_eq!(restart(0o644, &left[..left.len() / 2]), 0o644, "cut off before it was lent");
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        rustix::fs::chmod(&other, 0o644.into()).unwrap();
        assert_eq!(restart(0o644, &left), 0o644, "another file, behind a symbolic link");
    }
}
