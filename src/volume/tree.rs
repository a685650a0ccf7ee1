//! Walks a tree of files by descriptors, however long and deep its paths are.
//!
//! ```text
//!   root   a   b   c  ...  x   y   z        a tree deeper than PATH_MAX permits
//!    fd    -   -   -  ...  fd  fd  fd       the root and the deepest directories are open
//! ```
//!
//! Each step is one name in an open directory. It never follows a symbolic link, and never enters
//! another file system. A directory that was closed on the way down is opened again as `..` of the
//! one below it, and must be the same file. The position in it is the directory's own offset, so a
//! level takes the memory of its name and a few numbers, whatever it contains.
//!
//! All functions block on the disk, and act with the identity of the calling thread.

pub mod file;
#[cfg(test)]
pub(super) mod support;

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, ResolveFlags, SeekFrom};

use self::file::{FileId, FileStat, directory_flags, quietly};
use crate::errno::{Errno, Result};
use crate::sys::dir;

/// Directories that are kept open, apart from the root.
const OPEN_MAX: usize = 32;

/// Bytes of a directory that are read at once.
const READ: usize = 32 * 1024;

/// The names that are shown at the beginning and at the end of a long path.
const SHOWN: usize = 8;

/// A path from a root to a directory, of which the deepest directories are open.
#[derive(Debug)]
pub struct Descent {
    levels: Vec<DescentLevel>,
}

#[derive(Debug)]
struct DescentLevel {
    /// Its name in the level above; empty for the root.
    name: CString,
    id: FileId,
    open: Option<OwnedFd>,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its name.
    pub name: CString,
    /// Its kind when the directory was read; unknown if the file system does not tell.
    pub kind: FileType,
    /// The position after this entry.
    cookie: u64,
}

/// A walk over a tree, directory by directory. It is always in one directory, whose entries
/// [`TreeWalk::next_entry`] returns; the caller decides which of them to enter.
#[derive(Debug)]
pub struct TreeWalk {
    path: Descent,
    /// One for each level of the path.
    positions: Vec<ReadPosition>,
    buffer: Vec<u8>,
}

/// The position in a directory.
#[derive(Debug, Default)]
struct ReadPosition {
    cookie: u64,
    /// Entries that were read but not returned yet.
    ahead: VecDeque<TreeEntry>,
}

impl Descent {
    /// Creates a path that begins at the directory `root`.
    ///
    /// # Errors
    /// As statx(2).
    pub fn new(root: OwnedFd) -> Result<Self> {
        let id = FileStat::of(&root)?.id;
        Ok(Self { levels: vec![DescentLevel { name: CString::default(), id, open: Some(root) }] })
    }

    /// Returns the deepest directory.
    pub fn here(&self) -> BorrowedFd<'_> {
        let level = self.levels.last().and_then(|level| level.open.as_ref());
        level.expect("the deepest directory is open").as_fd()
    }

    /// Returns the root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.levels[0].open.as_ref().expect("the root is open").as_fd()
    }

    /// Returns the number of directories below the root; 0 is the root itself.
    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Enters `fd`, which is the directory `name` in the current one. Returns the level that was
    /// closed for it, if any.
    ///
    /// # Errors
    /// As statx(2); then nothing has changed.
    pub fn down(&mut self, name: CString, fd: OwnedFd) -> Result<Option<usize>> {
        let id = FileStat::of(&fd)?.id;
        self.levels.push(DescentLevel { name, id, open: Some(fd) });
        let closed = self.depth().checked_sub(OPEN_MAX).filter(|level| *level > 0);
        if let Some(level) = closed {
            self.levels[level].open = None;
        }
        Ok(closed)
    }

    /// Returns to the level above: the name of the directory that was left, and whether the one
    /// above had to be opened again. Must not be called at the root.
    ///
    /// # Errors
    /// `ESTALE` if the current directory was moved elsewhere meanwhile. After an error, nothing has
    /// changed.
    pub fn up(&mut self) -> Result<(CString, bool)> {
        let above = self.levels.len() - 2;
        let closed = self.levels[above].open.is_none();
        if closed {
            let fd = self.parent()?;
            if FileStat::of(&fd)?.id != self.levels[above].id {
                return Err(Errno::STALE);
            }
            self.levels[above].open = Some(fd);
        }
        let left = self.levels.pop().map(|level| level.name).unwrap_or_default();
        Ok((left, closed))
    }

    /// Opens `..`, the only step that is not downwards. It stays in the file system.
    fn parent(&self) -> Result<OwnedFd> {
        let open = |quiet| {
            let flags = directory_flags() | quiet;
            let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(self.here(), c"..", flags, Mode::empty(), resolve)
        };
        quietly(open)
    }

    /// Returns the path of `name` in the current directory, relative to the root, for display: the
    /// middle of a long path is left out.
    pub fn show(&self, name: &CStr) -> PathBuf {
        let mut names: Vec<&CStr> = self.levels[1..].iter().map(|level| &*level.name).collect();
        names.push(name);
        if names.len() > 2 * SHOWN {
            names.splice(SHOWN..names.len() - SHOWN, [c"..."]);
        }
        names.iter().map(|name| OsStr::from_bytes(name.to_bytes())).collect()
    }
}

impl TreeWalk {
    /// Creates a walk that begins in the directory `root`, which must be open for reading.
    ///
    /// # Errors
    /// As statx(2).
    pub fn new(root: OwnedFd) -> Result<Self> {
        let path = Descent::new(root)?;
        Ok(Self { path, positions: vec![ReadPosition::default()], buffer: vec![0; READ] })
    }

    /// Returns the path to the current directory.
    pub fn path(&self) -> &Descent {
        &self.path
    }

    /// Returns the current directory.
    pub fn here(&self) -> BorrowedFd<'_> {
        self.path.here()
    }

    /// Returns the next entry of the current directory, or `None` at its end. Entries that are
    /// added or removed meanwhile may be returned or not; all others are returned once.
    ///
    /// # Errors
    /// As getdents64(2).
    pub fn next_entry(&mut self) -> Result<Option<TreeEntry>> {
        let position = self.positions.last_mut().expect("there is a position for every level");
        loop {
            if let Some(entry) = position.ahead.pop_front() {
                position.cookie = entry.cookie;
                return Ok(Some(entry));
            }
            let read = match dir::read(self.path.here(), &mut self.buffer) {
                Ok(0) | Err(Errno::NOENT) => return Ok(None), // ENOENT: it was removed meanwhile
                Ok(read) => read,
                Err(errno) => return Err(errno),
            };
            position.ahead.extend(dir::entries(&self.buffer[..read]).filter_map(entry));
        }
    }

    /// Enters `fd`, which is the directory `name` in the current one; see [`file::directory`].
    ///
    /// # Errors
    /// As statx(2); then nothing has changed.
    pub fn enter(&mut self, name: CString, fd: OwnedFd) -> Result<()> {
        if let Some(closed) = self.path.down(name, fd)? {
            self.positions[closed].ahead = VecDeque::new();
        }
        self.positions.push(ReadPosition::default());
        Ok(())
    }

    /// Returns to the directory above, where the walk continues after the directory that is left.
    /// Returns the name of that directory. Must not be called in the root.
    ///
    /// # Errors
    /// As [`Descent::up`]; the walk cannot continue then.
    pub fn leave(&mut self) -> Result<CString> {
        let (name, again) = self.path.up()?;
        self.positions.pop();
        if again && let Some(position) = self.positions.last() {
            rustix::fs::seek(self.path.here(), SeekFrom::Start(position.cookie))?;
        }
        Ok(name)
    }
}

/// Converts an entry, unless it is `.` or `..`.
fn entry(found: dir::Entry<'_>) -> Option<TreeEntry> {
    let kind = match found.kind {
        libc::DT_DIR => FileType::Directory,
        libc::DT_REG => FileType::RegularFile,
        libc::DT_LNK => FileType::Symlink,
        libc::DT_FIFO => FileType::Fifo,
        libc::DT_SOCK => FileType::Socket,
        libc::DT_CHR => FileType::CharacterDevice,
        libc::DT_BLK => FileType::BlockDevice,
        _ => FileType::Unknown,
    };
    let of_others = found.name != c"." && found.name != c"..";
    of_others.then(|| TreeEntry { name: found.name.to_owned(), kind, cookie: found.cookie })
}

#[cfg(test)]
mod tests {
    use super::file::{directory, root};
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;
    use tempfile::{TempDir, tempdir};

    /// Returns all paths below `dir`, by a walk that enters every directory.
    fn all(dir: &Path) -> BTreeSet<PathBuf> {
        let mut walk = TreeWalk::new(root(dir).unwrap()).unwrap();
        let mut found = BTreeSet::new();
        loop {
            match walk.next_entry().unwrap() {
                Some(entry) => {
                    assert!(found.insert(walk.path().show(&entry.name)), "{entry:?} came twice");
                    if entry.kind == FileType::Directory {
                        let below = directory(walk.here(), &entry.name).unwrap();
                        walk.enter(entry.name, below).unwrap();
                    }
                }
                None if walk.path().depth() == 0 => return found,
                None => drop(walk.leave().unwrap()),
            }
        }
    }

    /// Counts the descriptors of files below a directory; other tests have descriptors, too.
    fn descriptors_in(dir: &Path) -> usize {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        links
            .filter_map(|link| fs::read_link(link.path()).ok())
            .filter(|to| to.starts_with(dir))
            .count()
    }

    /// Returns a walk at the end of a path of `depth` directories named `d`.
    fn deep(dir: &TempDir, depth: usize) -> TreeWalk {
        let mut walk = TreeWalk::new(root(dir.path()).unwrap()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(walk.here(), c"d", Mode::RWXU).unwrap();
            let below = directory(walk.here(), c"d").unwrap();
            walk.enter(c"d".to_owned(), below).unwrap();
        }
        walk
    }

    #[test]
    fn a_walk_finds_everything_once() {
        let dir = tempdir().unwrap();
        let mut made = BTreeSet::new();
        for branch in 0..3 {
            let mut path = PathBuf::from(branch.to_string());
            for level in 0..100 {
                fs::create_dir(dir.path().join(&path)).unwrap();
                made.insert(path.clone());
                fs::write(dir.path().join(path.join("file")), "").unwrap();
                made.insert(path.join("file"));
                path.push(level.to_string());
            }
        }
        for name in 0..3000 {
            let name = format!("a rather long name, so that one reading is not enough {name}");
            fs::write(dir.path().join(&name), "").unwrap();
            made.insert(name.into());
        }
        let shown = |path: &PathBuf| match path.iter().collect::<Vec<_>>() {
            long if long.len() > 2 * SHOWN => {
                let (start, end) = (&long[..SHOWN], &long[long.len() - SHOWN..]);
                start.iter().chain([&OsStr::new("...")]).chain(end).collect()
            }
            short => short.into_iter().collect::<PathBuf>(),
        };
        assert_eq!(all(dir.path()), made.iter().map(shown).collect());
    }

    #[test]
    fn a_deep_tree_takes_few_descriptors() {
        let dir = tempdir().unwrap();
        let mut walk = deep(&dir, 300);
        let open = descriptors_in(dir.path());
        assert!((1..100).contains(&open), "{open} are open");
        for depth in (0..300).rev() {
            assert_eq!(walk.leave().unwrap(), c"d".to_owned());
            assert_eq!(walk.path().depth(), depth);
        }
        assert_eq!(
            FileStat::of(walk.here()).unwrap().id,
            FileStat::of(walk.path().root()).unwrap().id
        );
    }

    #[test]
    fn a_directory_that_was_moved_is_no_way_back() {
        let dir = tempdir().unwrap();
        let mut walk = deep(&dir, 60);
        let up: PathBuf = std::iter::repeat_n("d", 20).collect();
        fs::rename(dir.path().join(up), dir.path().join("elsewhere")).unwrap();
        let left = (0..60).map_while(|_| walk.leave().ok()).count();
        assert_eq!((left, walk.leave()), (40, Err(Errno::STALE)));
        assert_eq!(walk.path().depth(), 20);
    }

    #[test]
    fn a_directory_that_was_removed_is_at_its_end() {
        let dir = tempdir().unwrap();
        let mut walk = deep(&dir, 1);
        fs::remove_dir(dir.path().join("d")).unwrap();
        assert_eq!(walk.next_entry(), Ok(None));
    }
}
