//! Hard links: the files of a tree that have several names, and where the first of them is in the
//! copy.
//!
//! Only such files are remembered, and only until the last of their names was copied. The location
//! of a name is a chain of directories that all names below them share, so depth takes no
//! additional memory.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use crate::errno::{Errno, Result};
use crate::volume::tree::file::{FileId, FileStat};

/// The longest path that is passed to the kernel at once, in bytes; its limit is 4096.
const PATH: usize = 4000;

/// A directory of the copy.
pub(super) struct TargetDir {
    above: Option<Rc<Self>>,
    name: CString,
}

/// The files that have further names.
#[derive(Default)]
pub(super) struct HardLinks {
    known: HashMap<FileId, LinkedFile>,
    /// The directory that was opened last, because the names of a file are often in one directory.
    last: Option<(Rc<TargetDir>, OwnedFd)>,
}

struct LinkedFile {
    dir: Rc<TargetDir>,
    name: CString,
    /// The number of names that were not copied yet.
    missing: u32,
}

impl TargetDir {
    /// Returns the root of the copy.
    pub(super) fn root() -> Rc<Self> {
        Rc::new(Self { above: None, name: CString::default() })
    }

    /// Returns the directory `name` in this one.
    pub(super) fn below(self: &Rc<Self>, name: CString) -> Rc<Self> {
        Rc::new(Self { above: Some(Rc::clone(self)), name })
    }

    /// Opens the directory by its path from the root of the copy, without access to its content.
    fn open(&self, root: BorrowedFd<'_>) -> Result<OwnedFd> {
        let mut names = Vec::new();
        let mut place = self;
        while let Some(above) = &place.above {
            names.push(place.name.as_bytes());
            place = above;
        }
        let (mut dir, mut path) = (step(root, c".")?, Vec::new());
        for name in names.into_iter().rev() {
            if path.len() + name.len() > PATH {
                dir = step(dir.as_fd(), &path_of(&mut path)?)?;
            }
            path.extend_from_slice(name);
            path.push(b'/');
        }
        if path.is_empty() { Ok(dir) } else { step(dir.as_fd(), &path_of(&mut path)?) }
    }
}

fn path_of(path: &mut Vec<u8>) -> Result<CString> {
    CString::new(std::mem::take(path)).map_err(|_| Errno::INVAL)
}

fn step(dir: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(dir, path, flags, Mode::empty(), within)?)
}

impl Drop for TargetDir {
    /// Drops the chain in a loop. Recursive drops of a deep one would overflow the stack.
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some(mut place) = above.and_then(Rc::into_inner) {
            above = place.above.take();
        }
    }
}

impl HardLinks {
    /// Adds `name` in `dir` as another name of the copy of the file `stat`. Returns `false` if
    /// there is no copy, or if the copy cannot have more names.
    pub(super) fn link(
        &mut self,
        root: BorrowedFd<'_>,
        stat: &FileStat,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<bool> {
        let Some(known) = self.known.get_mut(&stat.id) else { return Ok(false) };
        let there = match self.last.take() {
            Some((place, fd)) if Rc::ptr_eq(&place, &known.dir) => fd,
            _ => known.dir.open(root)?,
        };
        let linked = rustix::fs::linkat(&there, &known.name, dir, name, AtFlags::empty());
        self.last = Some((Rc::clone(&known.dir), there));
        match linked.map_err(Errno::from) {
            Ok(()) => {}
            Err(Errno::MLINK) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        known.missing -= 1;
        if known.missing == 0 {
            self.known.remove(&stat.id);
        }
        Ok(true)
    }

    /// Remembers `name` in `dir` as the copy of the file `stat`, if the file has further names.
    pub(super) fn remember(&mut self, stat: &FileStat, dir: &Rc<TargetDir>, name: CString) {
        let missing = self.known.get(&stat.id).map_or(stat.links, |known| known.missing);
        match missing.saturating_sub(1) {
            0 => drop(self.known.remove(&stat.id)),
            missing => {
                let known = LinkedFile { dir: Rc::clone(dir), name, missing };
                self.known.insert(stat.id, known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::tree::{Descent, file};
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_name_is_found_however_long_its_path_is() {
        let dir = tempfile::tempdir().unwrap();
        let long = CString::new("long name ".repeat(20)).unwrap();
        let mut path = Descent::new(file::root(dir.path()).unwrap()).unwrap();
        let mut place = TargetDir::root();
        for _ in 0..60 {
            rustix::fs::mkdirat(path.here(), &long, Mode::RWXU).unwrap();
            let below = file::directory(path.here(), &long).unwrap();
            path.down(long.clone(), below).unwrap();
            place = place.below(long.clone());
        }
        let found = FileStat::of(place.open(path.root()).unwrap()).unwrap();
        assert_eq!(found.id, FileStat::of(path.here()).unwrap().id);
    }

    #[test]
    fn files_are_forgotten_with_their_last_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("one"), "").unwrap();
        for name in ["two", "three"] {
            fs::hard_link(dir.path().join("one"), dir.path().join(name)).unwrap();
        }
        let top = file::root(dir.path()).unwrap();
        let stat = FileStat::of_entry(&top, c"one").unwrap();
        let mut links = HardLinks::default();
        let link = |links: &mut HardLinks, name| links.link(top.as_fd(), &stat, top.as_fd(), name);
        assert_eq!(link(&mut links, c"before"), Ok(false));
        links.remember(&stat, &TargetDir::root(), c"one".to_owned());
        assert_eq!(link(&mut links, c"four"), Ok(true));
        assert_eq!(link(&mut links, c"five"), Ok(true));
        assert_eq!(link(&mut links, c"six"), Ok(false));
        assert_eq!(fs::metadata(dir.path().join("one")).unwrap().nlink(), 5);
    }

    #[test]
    fn a_long_chain_is_dropped_without_deep_calls() {
        let chain = (0..300_000).fold(TargetDir::root(), |place, _| place.below(c"d".to_owned()));
        drop(chain);
    }
}
