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
//! A file that comes into another directory through the server, by RENAME or LINK, keeps the handle
//! that it had: the move is recorded, before it is made, in an append-only file in the state
//! folder, and looked up first. A record of a move that was not made does no harm: the file is then
//! found where its trail leads. What is moved beside the server is not found again (`ESTALE`), and
//! neither are the oldest moves beyond [`super::moves`]' bound, and files more than 4,096
//! directories deep that have not been looked up since the start. Directories that their owner may
//! not list are searched all the same ([`super::lend`]).

use std::ffi::CString;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};
use quick_cache::sync::Cache;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::Fs;
use super::attr::{Attr, Kind};
use super::handle::Body;
use super::identity::Identity;
use super::lend::Lender;
use super::moves::{Id, Moving, Place, Table};
use super::node::Node;
use super::root::{HandleKind, Root};
use super::trail::{HINTS_MAX, Trail, generation, hint};
use crate::errno::{Errno, Result};
use crate::sys;
use crate::telemetry::bounded::OFTEN;

/// Directories one below the other that are searched.
const LEVELS_MAX: usize = 4096;

/// Descriptors that a descent has open at most: of the directory where it is, of its list, of what
/// is being opened, and of the directory in which it began.
const SHARE: usize = 4;

/// The part of the descriptors for files that all searches have together: an eighth.
const SEARCHES_SHARE: usize = 8;

/// The least that they have: a search that leads through moved directories takes several descents.
const SEARCHES_MIN: usize = 16 * SHARE;

/// What an owner needs to find files in a directory.
const SEARCH: u32 = 0o500;

/// Names that were seen lately and save a search.
const RECENT: usize = 200_000;

/// The files that were moved, and names that were seen lately.
pub(super) struct Moves {
    moved: Mutex<Table>,
    recent: Cache<Id, Arc<Place>>,
}

impl Moves {
    /// Reads the records in the folder `state`.
    pub(super) fn open(state: &Path) -> Result<Self> {
        let table = Table::open(state)?;
        Ok(Self { moved: Mutex::new(table), recent: Cache::new(RECENT) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.moved.lock()
    }

    /// The trail of a file of `root` in the directory with the trail `dir`: the one that it always
    /// had, if it was moved there.
    fn trail_in(&self, root: &Root, dir: &Trail, attr: &Attr) -> Trail {
        if attr.fileid == root.fileid {
            return Trail::root(attr);
        }
        let id = (root.id.0, attr.fileid, generation(attr));
        let moved = self.table().trail(&id);
        moved.unwrap_or_else(|| dir.below(root, attr))
    }

    /// Remembers where a file was seen.
    fn saw(&self, root: &Root, dir: &Trail, trail: &Trail, name: &[u8]) {
        let place = Place { dir: dir.to_bytes(), name: name.to_vec() };
        self.recent.insert((root.id.0, trail.fileid, trail.generation), Arc::new(place));
    }
}

/// A search for the file of a handle in an export.
pub(super) struct Search<'a> {
    pub(super) moves: &'a Moves,
    pub(super) root: &'a Root,
    pub(super) lender: &'a Lender,
    pub(super) searches: &'a Searches,
}

/// A directory on the way down, and those below it that are still to be looked into.
struct Level {
    /// Its number and that of its file system, by which it is known again on the way up.
    id: (u64, (u32, u32)),
    depth: usize,
    names: Vec<CString>,
}

/// Descriptors that all searches may have open together, so that they cannot take those of
/// everybody.
pub(super) struct Searches {
    free: AtomicUsize,
}

/// The right of one search to some descriptors.
struct Share<'a>(&'a Searches);

impl Searches {
    /// Room for searches where files may have `max` descriptors.
    pub(super) fn new(max: usize) -> Self {
        Self { free: AtomicUsize::new((max / SEARCHES_SHARE).max(SEARCHES_MIN)) }
    }

    /// The descriptors for one more descent.
    ///
    /// # Errors
    /// `EAGAIN` if others have them: clients ask again.
    fn share(&self) -> Result<Share<'_>> {
        let take = |free: usize| free.checked_sub(SHARE);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.map(|_| Share(self)).map_err(|_| Errno::AGAIN)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.0.free.fetch_add(SHARE, Ordering::Relaxed);
    }
}

impl Search<'_> {
    /// Opens the file of a handle.
    ///
    /// # Errors
    /// `ESTALE` if it is not to be found; others if it cannot be looked for.
    pub(super) fn find(&self, body: &[u8]) -> Result<OwnedFd> {
        let trail = Trail::parse(body).ok_or(Errno::STALE)?;
        self.search(&trail, 0)?.ok_or(Errno::STALE)
    }

    /// As [`Search::find`]; `turns` bounds how often one moved directory leads to another, so that
    /// records which make no sense lead nowhere.
    fn search(&self, trail: &Trail, turns: usize) -> Result<Option<OwnedFd>> {
        if trail.fileid == self.root.fileid {
            return self.root.place().map(Some);
        }
        if turns > 2 * HINTS_MAX {
            return Ok(None);
        }
        let id = (self.root.id.0, trail.fileid, trail.generation);
        let recent = self.moves.recent.get(&id).map(|place| vec![(*place).clone()]);
        let moved = self.moves.table().places(&id);
        for place in recent.into_iter().chain(moved).flatten() {
            let Some(dir) = Trail::parse(&place.dir) else { continue };
            if let Some(dir) = self.search(&dir, turns + 1)?
                && let Some(file) = self.open_as(&dir, &place.name, trail)?
            {
                return Ok(Some(file));
            }
        }
        self.descend(self.root.place()?, trail, 0, turns)
    }

    /// Looks for a file below `dir`, to which the first `depth` bytes of its trail have led.
    /// Without recursion: clients decide how deep directories are. Of the directories on the way
    /// only the last is open; the way back leads over `..`, and is compared with the way there.
    fn descend(
        &self,
        dir: OwnedFd,
        trail: &Trail,
        depth: usize,
        turns: usize,
    ) -> Result<Option<OwnedFd>> {
        let _share = self.searches.share()?;
        let names = match self.visit(&dir, trail, depth, turns)? {
            ControlFlow::Break(found) => return Ok(Some(found)),
            ControlFlow::Continue(names) => names,
        };
        let mut way = vec![Level { id: id_of(&dir)?, depth, names }];
        let mut here = dir;
        while let Some(level) = way.last_mut() {
            let Some(name) = level.names.pop() else {
                way.pop();
                if let Some(above) = way.last() {
                    here = self.up(&here, above)?;
                }
                continue;
            };
            let depth = level.depth + 1;
            let below = self.open_in(&here, name.as_bytes(), OFlags::DIRECTORY)?;
            let Some(below) = below else { continue };
            match self.visit(&below, trail, depth, turns)? {
                ControlFlow::Break(found) => return Ok(Some(found)),
                // One that cannot be listed is not entered: there may be no way back.
                ControlFlow::Continue(names) if names.is_empty() || way.len() >= LEVELS_MAX => {}
                ControlFlow::Continue(names) => {
                    way.push(Level { id: id_of(&below)?, depth, names });
                    here = below;
                }
            }
        }
        Ok(None)
    }

    /// Looks for a file in `dir` and in what was moved and belongs below it; otherwise the names of
    /// directories in which it may be.
    fn visit(
        &self,
        dir: &OwnedFd,
        trail: &Trail,
        depth: usize,
        turns: usize,
    ) -> Result<ControlFlow<OwnedFd, Vec<CString>>> {
        let (found, names) = self.look(dir, trail, depth)?;
        let found = match found {
            Some(found) => Some(found),
            None => self.look_in_moved(trail, depth, turns)?,
        };
        Ok(found.map_or(ControlFlow::Continue(names), ControlFlow::Break))
    }

    /// Opens the directory above `dir`, if that is still `above`.
    ///
    /// # Errors
    /// `EAGAIN` if `dir` was moved meanwhile: the search has to begin anew.
    fn up(&self, dir: &OwnedFd, above: &Level) -> Result<OwnedFd> {
        match self.open_in(dir, b"..", OFlags::DIRECTORY)? {
            Some(up) if id_of(&up)? == above.id => Ok(up),
            _ => Err(Errno::AGAIN),
        }
    }

    /// The file, if it is in `dir`, and otherwise the names of directories in which it may be.
    fn look(
        &self,
        dir: &OwnedFd,
        trail: &Trail,
        depth: usize,
    ) -> Result<(Option<OwnedFd>, Vec<CString>)> {
        let hints = trail.hints();
        let wanted = hints.get(depth).copied();
        // At the end of a trail that is full, the file may lie deeper.
        let deeper = wanted.is_some() || hints.len() == HINTS_MAX;
        let mut directories = Vec::new();
        let list = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(dir, c".", flags, Mode::empty())?)
        };
        let list = self.lender.lend(dir, SEARCH, list);
        let listed = absent(list.and_then(|list| entries(&list)))?;
        for (fileid, kind, name) in listed.unwrap_or_default() {
            if depth >= hints.len()
                && fileid == trail.fileid
                && let Some(found) = self.open_as(dir, name.as_bytes(), trail)?
            {
                return Ok((Some(found), Vec::new()));
            }
            let may_be_directory = matches!(kind, libc::DT_DIR | libc::DT_UNKNOWN);
            if deeper && may_be_directory && wanted.is_none_or(|wanted| hint(fileid) == wanted) {
                directories.push(name);
            }
        }
        Ok((None, directories))
    }

    /// Looks for a file below the directories that were moved and whose content has trails that go
    /// on at this depth of its own.
    fn look_in_moved(&self, trail: &Trail, depth: usize, turns: usize) -> Result<Option<OwnedFd>> {
        let hints = trail.hints();
        let Some(wanted) = hints.get(depth).copied() else { return Ok(None) };
        let prefix = (self.root.id.0, hints[..depth].to_vec());
        let moved = self.moves.table().moved_directories(&prefix);
        for moved in moved.into_iter().filter(|moved| hint(moved.fileid) == wanted) {
            if let Some(below) = self.search(&moved, turns + 1)?
                && let Some(found) = self.descend(below, trail, depth + 1, turns + 1)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Opens what `name` is in `dir`, if it is the file of `trail`.
    fn open_as(&self, dir: &OwnedFd, name: &[u8], trail: &Trail) -> Result<Option<OwnedFd>> {
        let Some(file) = self.open_in(dir, name, OFlags::empty())? else { return Ok(None) };
        Ok(trail.is(&Attr::of(&file)?).then_some(file))
    }

    fn open_in(&self, dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV;
        let open = || Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?);
        absent(self.lender.lend(dir, SEARCH, open))
    }
}

fn id_of(dir: &OwnedFd) -> Result<(u64, (u32, u32))> {
    let attr = Attr::of(dir)?;
    Ok((attr.fileid, attr.filesystem))
}

/// `None` where there is nothing that a file could be found in. Whatever else goes wrong is no
/// reason to take the file for gone.
fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::STALE) => Ok(None),
        Err(Errno::ACCES | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
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

    /// The trail of the directory `place`, found by going up to the root and down again.
    pub(super) fn trail_from_root(&self, root: &Root, place: &OwnedFd) -> Result<Trail> {
        let (mut way, mut attr) = (Vec::new(), Attr::of(place)?);
        let mut above = None;
        while attr.fileid != root.fileid {
            way.push(attr);
            // Not above the root: that may be where its file system is mounted.
            let here = super::name::up(above.as_ref().unwrap_or(place))?;
            let next = Attr::of(&here)?;
            if (next.fileid, next.filesystem) == (attr.fileid, attr.filesystem) {
                return Err(Errno::STALE); // moved out of the export meanwhile: this is the root of all
            }
            (attr, above) = (next, Some(here));
        }
        let mut trail = Trail::root(&attr);
        for attr in way.iter().rev() {
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
        caller: &Identity,
    ) -> Result<Option<Moving>> {
        if to_dir.root.handles == HandleKind::Kernel {
            return Ok(None);
        }
        let name = CString::new(from).map_err(|_| Errno::INVAL)?;
        let attr = self.switch.acting_as(caller, || Attr::of_entry(from_dir, &name))??;
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
        // Where its trail leads anyway, nothing need be remembered.
        if !leads_there {
            self.switch.as_server(|| self.moves.table().add(&moving, &moving.to))??;
        }
        Ok(moving)
    }

    /// To be called after the file got the name, or did not.
    pub(super) fn moved(&self, moving: Option<Moving>, result: Result<()>) -> Result<()> {
        let Some(moving) = moving else { return result };
        let gone = if result.is_ok() { &moving.from } else { &moving.to };
        let noted = self.switch.as_server(|| self.moves.table().drop_place(&moving, gone))?;
        self.moves.recent.remove(&moving.id);
        if let Err(error) = noted {
            // The record has a place too many, which a search passes over.
            tracing::warn!(name: OFTEN, %error, "cannot record a move");
        }
        result
    }
}

fn trail_of(node: &Node) -> Result<Trail> {
    match node.handle.body() {
        Some(Body::Path(body)) => Trail::parse(body).ok_or(Errno::STALE),
        Some(Body::Kernel(_) | Body::Stamped(..)) | None => Err(Errno::STALE),
    }
}

/// The number, kind and name of each entry of a directory that is open for reading.
fn entries(list: &OwnedFd) -> Result<Vec<(u64, u8, CString)>> {
    let mut buffer = vec![0; 32 * 1024];
    let mut found = Vec::new();
    loop {
        let read = sys::dir::read(list, &mut buffer)?;
        if read == 0 {
            return Ok(found);
        }
        let named = sys::dir::entries(&buffer[..read])
            .filter(|entry| entry.name != c"." && entry.name != c"..");
        found.extend(named.map(|entry| (entry.fileid, entry.kind, entry.name.to_owned())));
    }
}

#[cfg(test)]
mod tests;
