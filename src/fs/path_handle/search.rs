//! Finding the file of a path handle, from the root of its export down.

use std::ffi::CString;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::descent_budget::DescentBudget;
use super::moves::Moves;
use super::trail::{HINTS_MAX, Trail, hint};
use crate::errno::{Errno, Result};
use crate::fs::attr::Attr;
use crate::fs::error::Error;
use crate::fs::mode_loan::ModeLender;
use crate::fs::root::Root;
use crate::sys;

/// Directories one below the other that are searched.
const LEVELS_MAX: usize = 4096;

/// The permissions that an owner needs to find files in a directory.
const SEARCH: u32 = 0o500;

/// A search for the file of a handle in an export.
pub(in crate::fs) struct Search<'a> {
    pub(in crate::fs) moves: &'a Moves,
    pub(in crate::fs) root: &'a Root,
    pub(in crate::fs) lender: &'a ModeLender,
    pub(in crate::fs) budget: &'a DescentBudget,
}

/// A directory on the way down, and its subdirectories that are still to be searched.
struct Level {
    /// Its number and that of its file system, by which it is recognized on the way up.
    id: (u64, (u32, u32)),
    depth: usize,
    names: Vec<CString>,
}

impl Search<'_> {
    /// Opens the file of a handle with this body. Blocks.
    ///
    /// # Errors
    /// `ESTALE` if there is no such file; [`Error::Busy`] if it cannot be searched now; others if
    /// the search fails.
    pub(in crate::fs) fn find(&self, body: &[u8]) -> Result<OwnedFd, Error> {
        let trail = Trail::parse(body).ok_or(Errno::STALE)?;
        self.search(&trail, 0)?.ok_or(Errno::STALE.into())
    }

    /// As [`Search::find`]. `turns` bounds how often one moved directory leads to another: records
    /// may be inconsistent.
    fn search(&self, trail: &Trail, turns: usize) -> Result<Option<OwnedFd>, Error> {
        if trail.fileid == self.root.fileid {
            return Ok(Some(self.root.duplicate()?));
        }
        if turns > 2 * HINTS_MAX {
            return Ok(None);
        }
        let id = (self.root.id.0, trail.fileid, trail.generation);
        for entry in self.moves.entries(&id) {
            let Some(dir) = Trail::parse(&entry.dir) else { continue };
            if let Some(dir) = self.search(&dir, turns + 1)?
                && let Some(file) = self.open_as(&dir, &entry.name, trail)?
            {
                return Ok(Some(file));
            }
        }
        self.descend(self.root.duplicate()?, trail, 0, turns)
    }

    /// Searches below `dir`, to which the first `depth` bytes of the trail have led.
    ///
    /// Does not recurse, because clients decide how deep directories are. Only the current
    /// directory is open; the way back up leads over `..`, and is compared with the way down.
    fn descend(
        &self,
        dir: OwnedFd,
        trail: &Trail,
        depth: usize,
        turns: usize,
    ) -> Result<Option<OwnedFd>, Error> {
        let _permit = self.budget.take()?;
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
                // A directory that cannot be listed is not entered: there may be no way back.
                ControlFlow::Continue(names) if names.is_empty() || way.len() >= LEVELS_MAX => {}
                ControlFlow::Continue(names) => {
                    way.push(Level { id: id_of(&below)?, depth, names });
                    here = below;
                }
            }
        }
        Ok(None)
    }

    /// Searches `dir`, and what was moved from below it. Returns the file, or the names of
    /// subdirectories in which it may be.
    fn visit(
        &self,
        dir: &OwnedFd,
        trail: &Trail,
        depth: usize,
        turns: usize,
    ) -> Result<ControlFlow<OwnedFd, Vec<CString>>, Error> {
        let (found, names) = self.scan(dir, trail, depth)?;
        let found = match found {
            Some(found) => Some(found),
            None => self.search_moved(trail, depth, turns)?,
        };
        Ok(found.map_or(ControlFlow::Continue(names), ControlFlow::Break))
    }

    /// Opens the parent of `dir`, if that is still `above`.
    ///
    /// # Errors
    /// [`Error::Busy`] if `dir` was moved meanwhile: the search has to start over.
    fn up(&self, dir: &OwnedFd, above: &Level) -> Result<OwnedFd, Error> {
        match self.open_in(dir, b"..", OFlags::DIRECTORY)? {
            Some(up) if id_of(&up)? == above.id => Ok(up),
            _ => Err(Error::Busy),
        }
    }

    /// Returns the file, if it is in `dir`; otherwise the names of subdirectories in which it may
    /// be.
    fn scan(
        &self,
        dir: &OwnedFd,
        trail: &Trail,
        depth: usize,
    ) -> Result<(Option<OwnedFd>, Vec<CString>)> {
        let hints = trail.hints();
        let wanted = hints.get(depth).copied();
        // At the end of a full trail, the file may lie deeper.
        let deeper = wanted.is_some() || hints.len() == HINTS_MAX;
        let mut directories = Vec::new();
        let list = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(dir, c".", flags, Mode::empty())?)
        };
        let list = self.lender.open_with(dir, SEARCH, list);
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

    /// Searches the moved directories whose content has trails that continue this one at `depth`.
    fn search_moved(
        &self,
        trail: &Trail,
        depth: usize,
        turns: usize,
    ) -> Result<Option<OwnedFd>, Error> {
        let hints = trail.hints();
        let Some(wanted) = hints.get(depth).copied() else { return Ok(None) };
        let prefix = (self.root.id.0, hints[..depth].to_vec());
        let moved = self.moves.log().moved_directories(&prefix);
        for moved in moved.into_iter().filter(|moved| hint(moved.fileid) == wanted) {
            if let Some(below) = self.search(&moved, turns + 1)?
                && let Some(found) = self.descend(below, trail, depth + 1, turns + 1)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Opens the entry `name` of `dir`, if it is the file of `trail`.
    fn open_as(&self, dir: &OwnedFd, name: &[u8], trail: &Trail) -> Result<Option<OwnedFd>> {
        let Some(file) = self.open_in(dir, name, OFlags::empty())? else { return Ok(None) };
        Ok(trail.is(&Attr::of(&file)?).then_some(file))
    }

    fn open_in(&self, dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<Option<OwnedFd>> {
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_XDEV;
        let open = || Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?);
        absent(self.lender.open_with(dir, SEARCH, open))
    }
}

fn id_of(dir: &OwnedFd) -> Result<(u64, (u32, u32))> {
    let attr = Attr::of(dir)?;
    Ok((attr.fileid, attr.filesystem))
}

/// Turns errors that mean "not here" into `None`. Any other error does not mean that the file is
/// gone.
fn absent<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::STALE) => Ok(None),
        Err(Errno::ACCES | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Returns the number, kind and name of each entry of a directory that is open for reading.
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
