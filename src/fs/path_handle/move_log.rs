//! The record of files that were moved into another directory.
//!
//! An append-only file of JSON lines in the state folder, and its content in memory. A later line
//! about a file replaces the earlier ones. The log is not flushed: it has to survive the server,
//! not the machine. After a crash of the machine, clients whose handles are lost look their files
//! up again.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::trail::Trail;
use crate::errno::Result;
use crate::sys::durable;

/// Moved files that are remembered.
const MOVES_MAX: usize = 250_000;

/// Entries of one file that are remembered: one for each of its names in another directory.
const ENTRIES_MAX: usize = 8;

/// Bytes of the log above which it is written anew, if most of its records are outdated.
const LOG_MAX: u64 = 32 * 1024 * 1024;

/// Bytes of the log, and of one of its lines, that are read at most. The server writes less: a line
/// has up to [`ENTRIES_MAX`] names.
const FILE_MAX: u64 = 1 << 30;
const LINE_MAX: u64 = 64 * 1024;

/// A file: its export, number and generation.
pub(super) type FileKey = (u64, u64, u32);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DirEntry {
    /// The directory's trail.
    pub(super) dir: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// A line of the log: a file that has a name in another directory than its trail says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    id: FileKey,
    /// Numbers the records; the oldest are forgotten first.
    serial: u64,
    directory: bool,
    trail: Vec<u8>,
    /// Its names in other directories. None: it is where its trail leads, again.
    #[serde(rename = "places")]
    entries: Vec<DirEntry>,
}

/// The log, and its content.
#[derive(Default)]
pub(super) struct MoveLog {
    files: HashMap<FileKey, Record>,
    by_age: BTreeMap<u64, FileKey>,
    /// Moved directories by the trail that their content has.
    directories: HashMap<(u64, Vec<u8>), Vec<FileKey>>,
    serial: u64,
    path: PathBuf,
    log: Option<File>,
    logged: u64,
}

/// A move that is about to be made.
pub(in crate::fs) struct Move {
    pub(super) id: FileKey,
    pub(super) is_directory: bool,
    pub(super) trail: Trail,
    pub(super) from: DirEntry,
    pub(super) to: DirEntry,
}

impl MoveLog {
    /// Reads the log in the folder `state`. Blocks.
    ///
    /// # Errors
    /// It cannot be read, or not be written anew.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let mut log = Self { path: state.join("moves"), ..Self::default() };
        match durable::open(&log.path) {
            Ok(file) => {
                log.read(file)?;
                log.rewrite()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let aside = durable::set_aside(&log.path)?;
                tracing::error!(path = %log.path.display(), aside = %aside.display(), %error,
                    "the record of moved files cannot be used; handles of these files are stale");
            }
        }
        Ok(log)
    }

    fn read(&mut self, file: File) -> Result<()> {
        let mut file = BufReader::new(file.take(FILE_MAX));
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut file).take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            // A crash may have cut the last line short; then that move was not made.
            if let Ok(record) = serde_json::from_slice::<Record>(&line) {
                self.insert(record);
            }
        }
    }

    /// Returns the trail of a file, if it was moved.
    pub(super) fn trail(&self, id: &FileKey) -> Option<Trail> {
        Trail::parse(&self.files.get(id)?.trail)
    }

    /// Returns the entries of a file, if it was moved.
    pub(super) fn entries(&self, id: &FileKey) -> Option<Vec<DirEntry>> {
        Some(self.files.get(id)?.entries.clone())
    }

    /// Records an entry that a file is about to get.
    pub(super) fn add(&mut self, pending: &Move, entry: &DirEntry) -> Result<()> {
        self.update(pending, |entries| {
            if !entries.contains(entry) {
                entries.push(entry.clone());
                if entries.len() > ENTRIES_MAX {
                    entries.remove(0);
                }
            }
        })
    }

    /// Records that a file no longer has an entry.
    pub(super) fn remove(&mut self, pending: &Move, entry: &DirEntry) -> Result<()> {
        self.update(pending, |entries| entries.retain(|other| other != entry))
    }

    /// Returns the moved directories whose own trail has these hints.
    pub(super) fn moved_directories(&self, prefix: &(u64, Vec<u8>)) -> Vec<Trail> {
        let ids = self.directories.get(prefix).into_iter().flatten();
        ids.filter_map(|id| Trail::parse(&self.files.get(id)?.trail)).collect()
    }

    fn insert(&mut self, record: Record) {
        self.forget(record.id);
        self.serial = self.serial.max(record.serial) + 1;
        if record.entries.is_empty() {
            return;
        }
        self.by_age.insert(record.serial, record.id);
        if record.directory
            && let Some(trail) = Trail::parse(&record.trail)
        {
            let prefix = (record.id.0, trail.hints().to_vec());
            self.directories.entry(prefix).or_default().push(record.id);
        }
        self.files.insert(record.id, record);
        if self.files.len() > MOVES_MAX
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            self.forget(*oldest);
        }
    }

    fn forget(&mut self, id: FileKey) {
        let Some(record) = self.files.remove(&id) else { return };
        self.by_age.remove(&record.serial);
        if let Some(trail) = Trail::parse(&record.trail) {
            let prefix = (id.0, trail.hints().to_vec());
            if let Some(ids) = self.directories.get_mut(&prefix) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.directories.remove(&prefix);
                }
            }
        }
    }

    /// Changes the entries of a file, in the log first.
    fn update(&mut self, pending: &Move, change: impl FnOnce(&mut Vec<DirEntry>)) -> Result<()> {
        let known = self.files.get(&pending.id);
        let mut entries = known.map(|record| record.entries.clone()).unwrap_or_default();
        let before = entries.clone();
        change(&mut entries);
        if entries == before {
            return Ok(());
        }
        let record = Record {
            id: pending.id,
            serial: self.serial,
            directory: pending.is_directory,
            trail: pending.trail.to_bytes(),
            entries,
        };
        self.append(&record)?;
        self.insert(record);
        Ok(())
    }

    fn append(&mut self, record: &Record) -> Result<()> {
        if self.log.is_none() || self.logged > LOG_MAX.max(1024 * self.files.len() as u64) {
            self.rewrite()?;
        }
        let mut line = serde_json::to_vec(record).map_err(io::Error::from)?;
        line.push(b'\n');
        self.logged += line.len() as u64;
        let written = self.log.as_mut().map_or(Ok(()), |log| log.write_all(&line));
        if written.is_err() {
            // The log may end with half a line, or its file system may have been remounted.
            self.log = None;
        }
        Ok(written?)
    }

    /// Writes the log anew, without outdated records.
    fn rewrite(&mut self) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = durable::create(&fresh)?;
        let mut lines = Vec::new();
        for record in self.by_age.values().filter_map(|id| self.files.get(id)) {
            serde_json::to_writer(&mut lines, record).map_err(io::Error::from)?;
            lines.push(b'\n');
        }
        file.write_all(&lines)?;
        file.sync_all()?;
        std::fs::rename(&fresh, &self.path)?;
        self.logged = lines.len() as u64;
        self.log = Some(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    fn entry(name: &str) -> DirEntry {
        DirEntry { dir: vec![1; 14], name: name.into() }
    }

    fn pending(number: u64) -> Move {
        let trail = [&number.to_be_bytes()[..], &[0, 0, 0, 7, 9]].concat();
        Move {
            id: (1, number, 7),
            is_directory: false,
            trail: Trail::parse(&trail).unwrap(),
            from: entry("from"),
            to: entry("to"),
        }
    }

    #[test]
    fn records_survive_a_restart_and_a_cut_last_line() {
        let dir = tempdir().unwrap();
        let mut log = MoveLog::open(dir.path()).unwrap();
        log.add(&pending(1), &entry("a")).unwrap();
        log.add(&pending(2), &entry("b")).unwrap();
        log.add(&pending(1), &entry("c")).unwrap();
        log.remove(&pending(1), &entry("a")).unwrap();
        drop(log);
        let path = dir.path().join("moves");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(br#"{"id":[1,2,7],"serial":99,"dir"#);
        std::fs::write(&path, text).unwrap();
        let log = MoveLog::open(dir.path()).unwrap();
        assert_eq!(log.entries(&pending(1).id), Some(vec![entry("c")]));
        assert_eq!(log.entries(&pending(2).id), Some(vec![entry("b")]));
        assert_eq!(log.trail(&pending(2).id), Some(pending(2).trail));
    }

    #[test]
    fn what_is_no_file_is_set_aside_and_a_long_line_is_skipped() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("moves");
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        let mut log = MoveLog::open(dir.path()).unwrap();
        assert!(!path.exists() && dir.path().join("moves.damaged").exists());
        log.add(&pending(1), &entry("a")).unwrap();
        drop(log);
        let long = [b"[".repeat(1 << 20), b"\n".to_vec(), std::fs::read(&path).unwrap()].concat();
        std::fs::write(&path, long).unwrap();
        let log = MoveLog::open(dir.path()).unwrap();
        assert_eq!(log.entries(&pending(1).id), Some(vec![entry("a")]));
    }

    #[test]
    fn a_file_without_entries_is_forgotten() {
        let dir = tempdir().unwrap();
        let mut log = MoveLog::open(dir.path()).unwrap();
        log.add(&pending(1), &entry("a")).unwrap();
        log.remove(&pending(1), &entry("a")).unwrap();
        assert_eq!(log.entries(&pending(1).id), None);
        assert!(log.by_age.is_empty());
        drop(log);
        assert!(MoveLog::open(dir.path()).unwrap().files.is_empty());
    }

    #[test]
    fn entries_are_bounded_and_the_oldest_goes() {
        let dir = tempdir().unwrap();
        let mut log = MoveLog::open(dir.path()).unwrap();
        for n in 0..=ENTRIES_MAX {
            log.add(&pending(1), &entry(&n.to_string())).unwrap();
        }
        let entries = log.entries(&pending(1).id).unwrap();
        assert_eq!(entries.len(), ENTRIES_MAX);
        assert_eq!(entries[0], entry("1"));
    }
}
