//! Names that files have while they are made in several steps (see [`super::make`]).
//!
//! Such a name lies in the directory that the file is made for, so that it inherits what every file
//! there does (group, ACL, project), and cannot be guessed. A record of it is written to the state
//! folder first and removed last: after a crash, the names that are left are removed when their
//! export is attached. Records are not flushed: they survive the end of the server, not of the
//! machine, after which a name may be left in the directory.
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

/// What the names begin with.
const PREFIX: &str = ".berth-";

/// Records that are read at the start; there is one for each call that a crash cut off.
const RECORDS_MAX: usize = 10_000;

/// The records.
pub(super) struct Asides {
    folder: PathBuf,
    left: Mutex<Vec<Left>>,
}

/// A name in use.
pub(super) struct Aside {
    name: String,
    record: Option<PathBuf>,
}

/// A name that an earlier server left behind.
pub(super) struct Left {
    /// The directory.
    pub(super) dir: Handle,
    /// The name, with its record.
    pub(super) aside: Aside,
}

impl Asides {
    /// Reads what is in the folder `state`. A record that cannot be read is reported and left
    /// alone.
    pub(super) fn open(state: &Path) -> Self {
        let folder = state.join("making");
        let left = match left_in(&folder) {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot read; remove it");
                Vec::new()
            }
        };
        Self { folder, left: Mutex::new(left) }
    }

    /// A name for a file in the directory `dir`. Without room for a record it has none: a file can
    /// be made all the same.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn begin(&self, dir: &Handle) -> Result<Aside> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let id = format!("{:032x}", u128::from_ne_bytes(bytes));
        step();
        let record = self.folder.join(&id);
        let recorded = write(&self.folder, &record, dir.as_ref());
        if let Err(error) = &recorded {
            tracing::debug!(%error, "cannot record that a file is being made");
        }
        step();
        Ok(Aside { name: format!("{PREFIX}{id}"), record: recorded.is_ok().then_some(record) })
    }

    /// What was left behind in these exports; each is told once.
    pub(super) fn left_in(&self, exports: &[ExportId]) -> Vec<Left> {
        let mut left = self.left.lock();
        left.extract_if(.., |left| exports.contains(&left.dir.export())).collect()
    }
}

impl Aside {
    /// The name.
    pub(super) const fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Removes the record: nothing has the name any more.
    pub(super) fn end(self) {
        step();
        if let Some(record) = self.record
            && let Err(error) = std::fs::remove_file(&record)
        {
            tracing::debug!(%error, "cannot remove the record of a file that was made");
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

/// The names that are recorded in a folder.
fn left_in(folder: &Path) -> io::Result<Vec<Left>> {
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

/// Reads a record. One that is empty was cut off before its file was begun, and goes.
fn read(record: &Path) -> Result<Option<Left>> {
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
    let aside = Aside { name: format!("{PREFIX}{id}"), record: Some(record.to_owned()) };
    Ok(Some(Left { dir, aside }))
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
    fn what_was_begun_and_not_ended_is_left() {
        let state = tempfile::tempdir().unwrap();
        let asides = Asides::open(state.path());
        let (ended, left) = (asides.begin(&handle(1)).unwrap(), asides.begin(&handle(1)).unwrap());
        let name = left.name().to_vec();
        ended.end();
        let asides = Asides::open(state.path());
        assert!(asides.left_in(&[ExportId(2)]).is_empty());
        let found = asides.left_in(&[ExportId(2), ExportId(1)]);
        assert_eq!(found.iter().map(|left| left.aside.name()).collect::<Vec<_>>(), [name]);
        found.into_iter().for_each(|left| left.aside.end());
        assert!(Asides::open(state.path()).left_in(&[ExportId(1)]).is_empty());
    }

    #[test]
    fn what_is_no_record_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let asides = Asides::open(state.path());
        drop(asides.begin(&handle(1)).unwrap());
        let folder = state.path().join("making");
        let id = |digit: &str| folder.join(digit.repeat(32));
        std::fs::write(folder.join("name"), handle(1)).unwrap();
        std::fs::write(id("a"), [7; 4096]).unwrap();
        std::fs::write(id("b"), []).unwrap();
        std::fs::create_dir(id("c")).unwrap();
        symlink("/dev/zero", id("d")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, id("e"), 0o600.into()).unwrap();
        let asides = Asides::open(state.path());
        assert_eq!(asides.left_in(&[ExportId(1)]).len(), 1);
        assert!(!id("b").exists(), "it was cut off before anything was made");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 6);
    }

    #[test]
    fn without_room_for_records_there_are_names() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("making"), "in the way").unwrap();
        let asides = Asides::open(state.path());
        let (one, other) = (asides.begin(&handle(1)).unwrap(), asides.begin(&handle(1)).unwrap());
        assert_ne!(one.name(), other.name());
        one.end();
    }
}
