//! Temporary names of files that are created in several steps (see [`super::create`]).
//!
//! A temporary name is in the directory for which the file is created, so that the file inherits
//! what every file there does (group, ACL, project). It cannot be guessed. Its record in the state
//! folder is written first and removed last: after a crash, the names that are left are removed
//! when their export is attached. Records are not flushed: they survive the server, not the
//! machine. A crash of the machine may leave a temporary name in the directory.
//!
//! ```text
//!   STATE/making/HEX    the handle of the directory in which .berth-HEX is
//! ```

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::handle::{self, Handle};
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::sys::durable;
use crate::sys::making::step;

/// The prefix of temporary names.
const PREFIX: &str = ".berth-";

/// Records that are read at the start. There is one for each call that a crash cut off.
const RECORDS_MAX: usize = 10_000;

/// The temporary names, and their records.
pub(super) struct TempNames {
    folder: PathBuf,
    left: Mutex<Vec<Leftover>>,
}

/// A temporary name in use.
pub(super) struct TempName {
    name: String,
    record: Option<PathBuf>,
}

/// A temporary name that an earlier run left behind.
pub(super) struct Leftover {
    /// The directory.
    pub(super) dir: Handle,
    /// The name, with its record.
    pub(super) name: TempName,
}

impl TempNames {
    /// Reads the records in the folder `state`. Logs and ignores those that it cannot read.
    pub(super) fn open(state: &Path) -> Self {
        let folder = state.join("making");
        let left = match leftovers_in(&folder) {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot read; remove it");
                Vec::new()
            }
        };
        Self { folder, left: Mutex::new(left) }
    }

    /// Creates a temporary name in the directory `dir`. On a full disk it has no record, and the
    /// file can be created all the same.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn begin(&self, dir: &Handle) -> Result<TempName> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let id = format!("{:032x}", u128::from_ne_bytes(bytes));
        step();
        let record = self.folder.join(&id);
        let recorded = write(&self.folder, &record, dir.as_ref());
        if let Err(error) = &recorded {
            tracing::debug!(%error, "cannot record that a file is being created");
        }
        step();
        Ok(TempName { name: format!("{PREFIX}{id}"), record: recorded.is_ok().then_some(record) })
    }

    /// Takes the names that were left behind in these exports.
    pub(super) fn leftovers_in(&self, exports: &[ExportId]) -> Vec<Leftover> {
        let mut left = self.left.lock();
        left.extract_if(.., |left| exports.contains(&left.dir.export())).collect()
    }
}

impl TempName {
    /// The name.
    pub(super) const fn as_bytes(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Removes the record: no file has the name any more.
    pub(super) fn end(self) {
        step();
        if let Some(record) = self.record
            && let Err(error) = std::fs::remove_file(&record)
        {
            tracing::debug!(%error, "cannot remove the record of a file that was created");
        }
        step();
    }
}

fn write(folder: &Path, record: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = match options.open(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            options.open(record)?
        }
        file => file?,
    };
    file.write_all(content)
}

/// Returns the names that are recorded in a folder.
fn leftovers_in(folder: &Path) -> io::Result<Vec<Leftover>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut left = Vec::new();
    for entry in entries.take(RECORDS_MAX) {
        let record = entry?.path();
        match read(&record) {
            Ok(Some(found)) => left.push(found),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, record = %record.display(), "not a record; remove it");
            }
        }
    }
    Ok(left)
}

/// Reads a record. Removes one that is empty: a crash cut it off before the file was created.
fn read(record: &Path) -> Result<Option<Leftover>> {
    let id = record.file_name().and_then(|name| name.to_str()).ok_or(Errno::INVAL)?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if id.len() != 32 || !id.bytes().all(is_hex) {
        return Err(Errno::INVAL);
    }
    let content = durable::read(record, handle::MAX as u64)?;
    if content.is_empty() {
        std::fs::remove_file(record)?;
        return Ok(None);
    }
    let dir = Handle::parse(&content).map_err(|_| Errno::INVAL)?;
    let name = TempName { name: format!("{PREFIX}{id}"), record: Some(record.to_owned()) };
    Ok(Some(Leftover { dir, name }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::handle::{Body, KEY_LEN, Key};
    use std::os::unix::fs::symlink;

    fn handle(export: u64) -> Handle {
        Key::new([1; KEY_LEN]).seal(ExportId(export), Body::Path(b"directory"))
    }

    #[test]
    fn a_name_that_was_begun_and_not_ended_is_left() {
        let state = tempfile::tempdir().unwrap();
        let names = TempNames::open(state.path());
        let (ended, left) = (names.begin(&handle(1)).unwrap(), names.begin(&handle(1)).unwrap());
        let name = left.as_bytes().to_vec();
        ended.end();
        let names = TempNames::open(state.path());
        assert!(names.leftovers_in(&[ExportId(2)]).is_empty());
        let found = names.leftovers_in(&[ExportId(2), ExportId(1)]);
        assert_eq!(found.iter().map(|left| left.name.as_bytes()).collect::<Vec<_>>(), [name]);
        found.into_iter().for_each(|left| left.name.end());
        assert!(TempNames::open(state.path()).leftovers_in(&[ExportId(1)]).is_empty());
    }

    #[test]
    fn a_file_that_is_no_record_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let names = TempNames::open(state.path());
        drop(names.begin(&handle(1)).unwrap());
        let folder = state.path().join("making");
        let id = |digit: &str| folder.join(digit.repeat(32));
        std::fs::write(folder.join("name"), handle(1)).unwrap();
        std::fs::write(id("a"), [7; 4096]).unwrap();
        std::fs::write(id("b"), []).unwrap();
        std::fs::create_dir(id("c")).unwrap();
        symlink("/dev/zero", id("d")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, id("e"), 0o600.into()).unwrap();
        let names = TempNames::open(state.path());
        assert_eq!(names.leftovers_in(&[ExportId(1)]).len(), 1);
        assert!(!id("b").exists(), "it was cut off before anything was created");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 6);
    }

    #[test]
    fn names_do_not_need_room_for_records() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("making"), "in the way").unwrap();
        let names = TempNames::open(state.path());
        let (one, other) = (names.begin(&handle(1)).unwrap(), names.begin(&handle(1)).unwrap());
        assert_ne!(one.as_bytes(), other.as_bytes());
        one.end();
    }
}
