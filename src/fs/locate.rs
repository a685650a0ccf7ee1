//! Finding files without the file system's own handles: by number and path.
//!
//! Where open_by_handle_at(2) is not to be had (no privilege, overlayfs, some FUSE file systems), a
//! handle holds the file's number, a generation made of its time of birth, and a [`Trail`]: one
//! byte for each directory on the way to it, a hash of that directory's number. Such a file is
//! found from the root down, looking only into directories whose byte fits; so it survives a
//! restart, and renaming within a directory, without any record.
//!
//! ```text
//!   /a/b/file  --handle-->  | number of file | generation | h(a) h(b) |
//! ```
//!
//! A file that comes into another directory through the server, by RENAME or LINK, keeps the
//! handle that it had: the move is recorded, before it is made, in an append-only file in the
//! state folder, and looked up first. A record of a move that was not made does no harm: the file
//! is then found where its trail leads. What is moved beside the server is not found again
//! (`ESTALE`), and neither are the oldest moves beyond [`MOVES_MAX`].

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, BufRead, BufReader, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::Fs;
use super::attr::{Attr, Kind};
use super::handle::{BODY_MAX, Body};
use super::node::Node;
use super::root::{HandleKind, Root};
use crate::errno::{Errno, Result};

/// Directories that a trail remembers; below that every directory is looked into.
const HINTS_MAX: usize = BODY_MAX - 12;

/// Moves that are remembered.
const MOVES_MAX: usize = 250_000;

/// Places of one file that are remembered: one for each of its names in another directory.
const PLACES_MAX: usize = 8;

/// Names that were seen lately and save a search.
const RECENT: usize = 200_000;

/// Bytes of records above which they are written anew, if most are outdated.
const LOG_MAX: u64 = 32 * 1024 * 1024;

/// What a handle of this kind says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trail {
    fileid: u64,
    generation: u32,
    len: u8,
    hints: [u8; HINTS_MAX],
}

impl Trail {
    /// The trail of an export's root.
    pub(super) fn root(attr: &Attr) -> Self {
        let generation = generation(attr);
        Self { fileid: attr.fileid, generation, len: 0, hints: [0; HINTS_MAX] }
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (fileid, rest) = body.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let mut hints = [0; HINTS_MAX];
        hints.get_mut(..rest.len())?.copy_from_slice(rest);
        Some(Self {
            fileid: u64::from_be_bytes(*fileid),
            generation: u32::from_be_bytes(*generation),
            len: u8::try_from(rest.len()).ok()?,
            hints,
        })
    }

    /// What goes into a handle.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut body = self.fileid.to_be_bytes().to_vec();
        body.extend(self.generation.to_be_bytes());
        body.extend(self.hints());
        body
    }

    fn hints(&self) -> &[u8] {
        &self.hints[..usize::from(self.len)]
    }

    /// The trail of a file of `root` that lies in the directory with this trail.
    fn below(&self, root: &Root, attr: &Attr) -> Self {
        let mut trail = Self { fileid: attr.fileid, generation: generation(attr), ..*self };
        if self.fileid != root.fileid && usize::from(self.len) < HINTS_MAX {
            trail.hints[usize::from(self.len)] = hint(self.fileid);
            trail.len += 1;
        }
        trail
    }

    fn is(&self, attr: &Attr) -> bool {
        attr.fileid == self.fileid && generation(attr) == self.generation
    }
}

/// Tells a file from an earlier one with the same number, if the file system knows when it was
/// made.
fn generation(attr: &Attr) -> u32 {
    let mut hasher = SipHasher13::new();
    attr.born.map(|born| (born.seconds, born.nanoseconds)).hash(&mut hasher);
    #[allow(clippy::cast_possible_truncation)] // a hash, of which half will do
    let half = hasher.finish() as u32;
    half
}

fn hint(fileid: u64) -> u8 {
    let mut hasher = SipHasher13::new();
    fileid.hash(&mut hasher);
    hasher.finish().to_be_bytes()[0]
}

/// A file: its export, number and generation.
type Id = (u64, u64, u32);

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The directory's trail.
    dir: Vec<u8>,
    name: Vec<u8>,
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

/// The files that were moved, and names that were seen lately.
pub(super) struct Moves {
    moved: Mutex<Table>,
    recent: Cache<Id, Arc<Place>>,
}

#[derive(Default)]
struct Table {
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
    id: Id,
    directory: bool,
    trail: Trail,
    from: Place,
    to: Place,
}

impl Moves {
    /// Reads the records in the folder `state`.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let mut table = Table { path: state.join("moves"), ..Table::default() };
        if let Ok(file) = File::open(&table.path) {
            for line in BufReader::new(file).split(b'\n') {
                // The last line may be cut short by a crash: then that move was not made.
                if let Ok(moved) = serde_json::from_slice::<Moved>(&line?) {
                    table.put(moved);
                }
            }
            table.rewrite()?;
        }
        Ok(Self { moved: Mutex::new(table), recent: Cache::new(RECENT) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trail of a file of `root` in the directory with the trail `dir`: the one that it always
    /// had, if it was moved there.
    fn trail_in(&self, root: &Root, dir: &Trail, attr: &Attr) -> Trail {
        if attr.fileid == root.fileid {
            return Trail::root(attr);
        }
        let id = (root.id.0, attr.fileid, generation(attr));
        let moved = self.table().files.get(&id).and_then(|moved| Trail::parse(&moved.trail));
        moved.unwrap_or_else(|| dir.below(root, attr))
    }

    /// Remembers where a file was seen.
    fn saw(&self, root: &Root, dir: &Trail, trail: &Trail, name: &[u8]) {
        let place = Place { dir: dir.to_bytes(), name: name.to_vec() };
        self.recent.insert((root.id.0, trail.fileid, trail.generation), Arc::new(place));
    }

    /// Opens the file of a handle.
    ///
    /// # Errors
    /// `ESTALE` if it is not to be found.
    pub(super) fn find(&self, root: &Root, body: &[u8]) -> Result<OwnedFd> {
        let trail = Trail::parse(body).ok_or(Errno::STALE)?;
        self.search(root, &trail, 0)
    }

    /// As [`Moves::find`]; `turns` bounds how often one moved directory leads to another, so that
    /// records which make no sense lead nowhere.
    fn search(&self, root: &Root, trail: &Trail, turns: usize) -> Result<OwnedFd> {
        if trail.fileid == root.fileid {
            return root.place();
        }
        if turns > 2 * HINTS_MAX {
            return Err(Errno::STALE);
        }
        let id = (root.id.0, trail.fileid, trail.generation);
        let recent = self.recent.get(&id).map(|place| vec![(*place).clone()]);
        let moved = self.table().files.get(&id).map(|moved| moved.places.clone());
        for place in recent.into_iter().chain(moved).flatten() {
            let dir = Trail::parse(&place.dir).ok_or(Errno::STALE)?;
            if let Ok(dir) = self.search(root, &dir, turns + 1)
                && let Ok(file) = open_as(&dir, &place.name, trail)
            {
                return Ok(file);
            }
        }
        self.descend(root, &root.place()?, trail, 0, turns)?.ok_or(Errno::STALE)
    }

    /// Looks for a file below `dir`, to which the first `depth` bytes of its trail have led.
    fn descend(
        &self,
        root: &Root,
        dir: &OwnedFd,
        trail: &Trail,
        depth: usize,
        turns: usize,
    ) -> Result<Option<OwnedFd>> {
        let hints = trail.hints();
        let here = depth >= hints.len();
        let wanted = hints.get(depth).copied();
        // At the end of a trail that is full, the file may lie deeper.
        let deeper = wanted.is_some() || hints.len() == HINTS_MAX;
        let mut directories = Vec::new();
        for (fileid, kind, name) in entries(dir)? {
            if here
                && fileid == trail.fileid
                && let Ok(found) = open_as(dir, name.as_bytes(), trail)
            {
                return Ok(Some(found));
            }
            let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
            if deeper && may_be_directory && wanted.is_none_or(|wanted| hint(fileid) == wanted) {
                directories.push(name);
            }
        }
        for name in directories {
            if let Ok(below) = open_in(dir, name.as_bytes(), OFlags::DIRECTORY)
                && let Some(found) = self.descend(root, &below, trail, depth + 1, turns)?
            {
                return Ok(Some(found));
            }
        }
        let prefix = (root.id.0, hints[..depth.min(hints.len())].to_vec());
        let moved = self.table().moved_directories(&prefix);
        for moved in moved.into_iter().filter(|moved| wanted == Some(hint(moved.fileid))) {
            if let Ok(below) = self.search(root, &moved, turns + 1)
                && let Some(found) = self.descend(root, &below, trail, depth + 1, turns + 1)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl Table {
    fn moved_directories(&self, prefix: &(u64, Vec<u8>)) -> Vec<Trail> {
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
        if let Some(log) = &mut self.log {
            log.write_all(&line)?;
        }
        Ok(())
    }

    /// Writes the records anew, without those that are outdated.
    fn rewrite(&mut self) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
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

impl Fs {
    /// The trail that goes into the handle of a file in `dir`.
    pub(super) fn trail_in(&self, dir: &Node, attr: &Attr, name: Option<&[u8]>) -> Result<Trail> {
        let above = trail_of(dir)?;
        let trail = self.moves.trail_in(&dir.root, &above, attr);
        if let Some(name) = name {
            self.moves.saw(&dir.root, &above, &trail, name);
        }
        Ok(trail)
    }

    /// Opens a file by what its handle says.
    pub(super) fn find_by_trail(&self, root: &Root, body: &[u8]) -> Result<OwnedFd> {
        self.moves.find(root, body)
    }

    /// The trail of the directory `place`, found by going up to the root and down again.
    pub(super) fn trail_from_root(&self, root: &Root, place: &OwnedFd) -> Result<Trail> {
        let mut way = vec![Attr::of(place)?];
        let mut here = super::name::up(place)?;
        while way.last().is_some_and(|attr| attr.fileid != root.fileid) {
            way.push(Attr::of(&here)?);
            here = super::name::up(&here)?;
        }
        let mut trail = way.last().map(Trail::root).ok_or(Errno::STALE)?;
        for attr in way.iter().rev().skip(1) {
            trail = self.moves.trail_in(root, &trail, attr);
        }
        Ok(trail)
    }

    /// To be called before a file gets a name in `to_dir`, if its export uses path handles; the
    /// result goes to [`Fs::moved`] afterwards.
    pub(super) fn moving(
        &self,
        (from_dir, from): (&Node, &[u8]),
        (to_dir, to): (&Node, &[u8]),
    ) -> Result<Option<Moving>> {
        if to_dir.root.handles == HandleKind::Kernel {
            return Ok(None);
        }
        let name = CString::new(from).map_err(|_| Errno::INVAL)?;
        let attr = Attr::of_entry(from_dir, &name)?;
        let trail = self.trail_in(from_dir, &attr, None)?;
        let place = |dir: &Node, name: &[u8]| -> Result<Place> {
            Ok(Place { dir: trail_of(dir)?.to_bytes(), name: name.to_vec() })
        };
        self.note(to_dir, &attr, trail, place(from_dir, from)?, place(to_dir, to)?).map(Some)
    }

    /// As [`Fs::moving`], for a file that gets a further name.
    pub(super) fn linking(&self, node: &Node, to_dir: &Node, to: &[u8]) -> Result<Option<Moving>> {
        if to_dir.root.handles == HandleKind::Kernel {
            return Ok(None);
        }
        let attr = node.attr()?;
        let to = Place { dir: trail_of(to_dir)?.to_bytes(), name: to.to_vec() };
        let nowhere = Place { dir: Vec::new(), name: Vec::new() };
        self.note(to_dir, &attr, trail_of(node)?, nowhere, to).map(Some)
    }

    fn note(
        &self,
        to_dir: &Node,
        attr: &Attr,
        trail: Trail,
        from: Place,
        to: Place,
    ) -> Result<Moving> {
        let root = &to_dir.root;
        let moving = Moving {
            id: (root.id.0, attr.fileid, generation(attr)),
            directory: attr.kind == Kind::Directory,
            trail,
            from,
            to,
        };
        let leads_there = trail_of(to_dir)?.below(root, attr) == trail;
        self.switch.as_server(|| {
            self.moves.table().change(&moving, |places| {
                // Where its trail leads anyway, nothing need be remembered.
                if !leads_there && !places.contains(&moving.to) {
                    places.push(moving.to.clone());
                    if places.len() > PLACES_MAX {
                        places.remove(0);
                    }
                }
            })
        })??;
        Ok(moving)
    }

    /// To be called after the file got the name, or did not.
    pub(super) fn moved(&self, moving: Option<Moving>, result: Result<()>) -> Result<()> {
        let Some(moving) = moving else { return result };
        let gone = if result.is_ok() { &moving.from } else { &moving.to };
        let noted = self.switch.as_server(|| {
            self.moves.table().change(&moving, |places| places.retain(|place| place != gone))
        })?;
        self.moves.recent.remove(&moving.id);
        if let Err(error) = noted {
            // The record has a place too many, which a search passes over.
            tracing::warn!(%error, "cannot record a move");
        }
        result
    }
}

fn trail_of(node: &Node) -> Result<Trail> {
    match node.handle.body() {
        Some(Body::Path(body)) => Trail::parse(body).ok_or(Errno::STALE),
        Some(Body::Kernel(_)) | None => Err(Errno::STALE),
    }
}

fn open_in(dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)?)
}

/// Opens what `name` is in `dir`, if it is the file of `trail`.
fn open_as(dir: &OwnedFd, name: &[u8], trail: &Trail) -> Result<OwnedFd> {
    let file = open_in(dir, name, OFlags::empty())?;
    if trail.is(&Attr::of(&file)?) { Ok(file) } else { Err(Errno::STALE) }
}

/// The number, kind and name of each entry of a directory; none if it may not be read.
fn entries(dir: &OwnedFd) -> Result<Vec<(u64, FileType, CString)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(list) = rustix::fs::openat(dir, c".", flags, Mode::empty()) else {
        return Ok(Vec::new());
    };
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let mut raw = RawDir::new(list, &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push((entry.ino(), entry.file_type(), name.to_owned()));
        }
    }
    Ok(found)
}
