//! The record of files that came into another directory (see [`super::locate`]).
//!
//! An append-only file of JSON lines in the state folder, and its content in memory. A later line
//! about a file replaces the earlier ones. It is not flushed: it has to survive the end of the
//! server, not of the machine, after which clients whose handles are lost look their files up
//! again.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::trail::Trail;
use crate::errno::Result;
use crate::sys::durable;

/// Moves that are remembered.
const MOVES_MAX: usize = 250_000;

/// Places of one file that are remembered: one for each of its names in another directory.
const PLACES_MAX: usize = 8;

/// Bytes of records above which they are written anew, if most are outdated.
const LOG_MAX: u64 = 32 * 1024 * 1024;

/// Bytes of the file that are read at most, and of one of its lines. Neither is reached by what is
/// written here: a line has up to [`PLACES_MAX`] names.
const FILE_MAX: u64 = 1 << 30;
const LINE_MAX: u64 = 64 * 1024;

/// A file: its export, number and generation.
pub(super) type Id = (u64, u64, u32);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The directory's trail.
    pub(super) dir: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// A file that has a name in another directory than its trail says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    id: Id,
    /// Counts the records; the oldest go first.
    serial: u64,
    directory: bool,
    trail: Vec<u8>,
    /// Where it was put; none: it is where its trail leads, again.
    places: Vec<Place>,
}

/// The records.
#[derive(Default)]
pub(super) struct Table {
    files: HashMap<Id, Moved>,
    by_age: BTreeMap<u64, Id>,
    /// Moved directories by the trail that their content has.
    directories: HashMap<(u64, Vec<u8>), Vec<Id>>,
    serial: u64,
    path: PathBuf,
    log: Option<File>,
    logged: u64,
}

/// A move that is about to be made.
pub(super) struct Moving {
    pub(super) id: Id,
    pub(super) directory: bool,
    pub(super) trail: Trail,
    pub(super) from: Place,
    pub(super) to: Place,
}

impl Table {
    /// Reads the records in the folder `state`.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let mut table = Self { path: state.join("moves"), ..Self::default() };
        match durable::open(&table.path) {
            Ok(file) => {
                table.read(file)?;
                table.rewrite()?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let aside = durable::set_aside(&table.path)?;
                tracing::error!(path = %table.path.display(), aside = %aside.display(), %error,
                    "the record of moved files cannot be used; handles of these files are stale");
            }
        }
        Ok(table)
    }

    fn read(&mut self, file: File) -> Result<()> {
        let mut file = BufReader::new(file.take(FILE_MAX));
        let mut line = Vec::new();
        loop {
            line.clear();
            if (&mut file).take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            // The last line may be cut short by a crash: then that move was not made.
            if let Ok(moved) = serde_json::from_slice::<Moved>(&line) {
                self.put(moved);
            }
        }
    }

    /// The trail that a file has, if it was moved.
    pub(super) fn trail(&self, id: &Id) -> Option<Trail> {
        Trail::parse(&self.files.get(id)?.trail)
    }

    /// Where a file was put, if it was moved.
    pub(super) fn places(&self, id: &Id) -> Option<Vec<Place>> {
        Some(self.files.get(id)?.places.clone())
    }

    /// Adds a place that a file is about to have.
    pub(super) fn add(&mut self, moving: &Moving, place: &Place) -> Result<()> {
        self.change(moving, |places| {
            if !places.contains(place) {
                places.push(place.clone());
                if places.len() > PLACES_MAX {
                    places.remove(0);
                }
            }
        })
    }

    /// Takes a place away that a file no longer has.
    pub(super) fn drop_place(&mut self, moving: &Moving, place: &Place) -> Result<()> {
        self.change(moving, |places| places.retain(|other| other != place))
    }

    /// The moved directories whose own trail has these hints.
    pub(super) fn moved_directories(&self, prefix: &(u64, Vec<u8>)) -> Vec<Trail> {
        let ids = self.directories.get(prefix).into_iter().flatten();
        ids.filter_map(|id| Trail::parse(&self.files.get(id)?.trail)).collect()
    }

    /// Takes a record over.
    fn put(&mut self, moved: Moved) {
        self.take(moved.id);
        self.serial = self.serial.max(moved.serial) + 1;
        if moved.places.is_empty() {
            return;
        }
        self.by_age.insert(moved.serial, moved.id);
        if moved.directory
            && let Some(trail) = Trail::parse(&moved.trail)
        {
            let prefix = (moved.id.0, trail.hints().to_vec());
            self.directories.entry(prefix).or_default().push(moved.id);
        }
        self.files.insert(moved.id, moved);
        if self.files.len() > MOVES_MAX
            && let Some((_, oldest)) = self.by_age.first_key_value()
        {
            self.take(*oldest);
        }
    }

    fn take(&mut self, id: Id) {
        let Some(moved) = self.files.remove(&id) else { return };
        self.by_age.remove(&moved.serial);
        if let Some(trail) = Trail::parse(&moved.trail) {
            let prefix = (id.0, trail.hints().to_vec());
            if let Some(ids) = self.directories.get_mut(&prefix) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    self.directories.remove(&prefix);
                }
            }
        }
    }

    /// Changes the places of a file, on the disk first.
    fn change(&mut self, moving: &Moving, change: impl FnOnce(&mut Vec<Place>)) -> Result<()> {
        let known = self.files.get(&moving.id);
        let mut places = known.map(|moved| moved.places.clone()).unwrap_or_default();
        let before = places.clone();
        change(&mut places);
        if places == before {
            return Ok(());
        }
        let moved = Moved {
            id: moving.id,
            serial: self.serial,
            directory: moving.directory,
            trail: moving.trail.to_bytes(),
            places,
        };
        self.log(&moved)?;
        self.put(moved);
        Ok(())
    }

    fn log(&mut self, moved: &Moved) -> Result<()> {
        if self.log.is_none() || self.logged > LOG_MAX.max(1024 * self.files.len() as u64) {
            self.rewrite()?;
        }
        let mut line = serde_json::to_vec(moved).map_err(io::Error::from)?;
        line.push(b'\n');
        self.logged += line.len() as u64;
        let written = self.log.as_mut().map_or(Ok(()), |log| log.write_all(&line));
        if written.is_err() {
            // Its end may be half a line, and its file system may have been mounted anew.
            self.log = None;
        }
        Ok(written?)
    }

    /// Writes the records anew, without those that are outdated.
    fn rewrite(&mut self) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = durable::create(&fresh)?;
        let mut lines = Vec::new();
        for moved in self.by_age.values().filter_map(|id| self.files.get(id)) {
            serde_json::to_writer(&mut lines, moved).map_err(io::Error::from)?;
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

    fn place(name: &str) -> Place {
        Place { dir: vec![1; 14], name: name.into() }
    }

    fn moving(number: u64) -> Moving {
        let trail = [&number.to_be_bytes()[..], &[0, 0, 0, 7, 9]].concat();
        Moving {
            id: (1, number, 7),
            directory: false,
            trail: Trail::parse(&trail).unwrap(),
            from: place("from"),
            to: place("to"),
        }
    }

    #[test]
    fn records_survive_a_restart_and_a_cut_last_line() {
        let dir = tempdir().unwrap();
        let mut table = Table::open(dir.path()).unwrap();
        table.add(&moving(1), &place("a")).unwrap();
        table.add(&moving(2), &place("b")).unwrap();
        table.add(&moving(1), &place("c")).unwrap();
        table.drop_place(&moving(1), &place("a")).unwrap();
        drop(table);
        let path = dir.path().join("moves");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(br#"{"id":[1,2,7],"serial":99,"dir"#);
        std::fs::write(&path, text).unwrap();
        let table = Table::open(dir.path()).unwrap();
        assert_eq!(table.places(&moving(1).id), Some(vec![place("c")]));
        assert_eq!(table.places(&moving(2).id), Some(vec![place("b")]));
        assert_eq!(table.trail(&moving(2).id), Some(moving(2).trail));
    }

    #[test]
    fn what_is_no_file_is_set_aside_and_a_long_line_is_skipped() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("moves");
        let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, mode, 0).unwrap();
        let mut table = Table::open(dir.path()).unwrap();
        assert!(!path.exists() && dir.path().join("moves.damaged").exists());
        table.add(&moving(1), &place("a")).unwrap();
        drop(table);
        let long = [b"[".repeat(1 << 20), b"\n".to_vec(), std::fs::read(&path).unwrap()].concat();
        std::fs::write(&path, long).unwrap();
        let table = Table::open(dir.path()).unwrap();
        assert_eq!(table.places(&moving(1).id), Some(vec![place("a")]));
    }

    #[test]
    fn a_file_without_places_is_forgotten() {
        let dir = tempdir().unwrap();
        let mut table = Table::open(dir.path()).unwrap();
        table.add(&moving(1), &place("a")).unwrap();
        table.drop_place(&moving(1), &place("a")).unwrap();
        assert_eq!(table.places(&moving(1).id), None);
        assert!(table.by_age.is_empty());
        drop(table);
        assert!(Table::open(dir.path()).unwrap().files.is_empty());
    }

    #[test]
    fn places_are_bounded_and_the_oldest_goes() {
        let dir = tempdir().unwrap();
        let mut table = Table::open(dir.path()).unwrap();
        for n in 0..=PLACES_MAX {
            table.add(&moving(1), &place(&n.to_string())).unwrap();
        }
        let places = table.places(&moving(1).id).unwrap();
        assert_eq!(places.len(), PLACES_MAX);
        assert_eq!(places[0], place("1"));
    }
}
