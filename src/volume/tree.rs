//! Walking a tree of files by descriptors, as long and as deep as clients can make one.
//!
//! ```text
//!   root   a   b   c  ...  x   y   z        a tree deeper than any path can be long
//!    fd    -   -   -  ...  fd  fd  fd       the root and the deepest directories are open
//! ```
//!
//! Every step is one name below an open directory. It never follows a symbolic link, and never
//! enters another file system. A directory that was closed on the way down is found again as `..`
//! of the one below it, and has to be the same file. Where its reading goes on is kept as the
//! directory's own offset, so that a level costs its name and some numbers, whatever it contains.
//!
//! All of it blocks for as long as the disk takes, and acts as the thread that calls.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, SeekFrom, StatxFlags};

use crate::errno::{Errno, Result};
use crate::sys::dir;

/// Directories that are kept open, apart from the root.
const OPEN_MAX: usize = 32;

/// Bytes of a directory that are read at once.
const READ: usize = 32 * 1024;

/// Names of a path that are shown, at its beginning and at its end.
const SHOWN: usize = 8;

/// What tells a file from all others, also from one that got its number after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    device: (u32, u32),
    number: u64,
    born: Option<(i64, u32)>,
}

/// The attributes of a file at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which file it is.
    pub id: FileId,
    /// Its kind.
    pub kind: FileType,
    /// Permissions, set-id and sticky bits.
    pub mode: Mode,
    /// Names of the file.
    pub links: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The length of its content, in bytes.
    pub size: u64,
    /// What it takes on the disk, in bytes.
    pub used: u64,
    /// The number of a device.
    pub device: u64,
    /// Last access: seconds since 1970, and nanoseconds of the second.
    pub accessed: (i64, u32),
    /// Last change of the content, in the same way.
    pub modified: (i64, u32),
}

/// A way down from a root, of which the deepest directories are open.
#[derive(Debug)]
pub struct Descent {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// Its name in the level above; empty for the root.
    name: CString,
    id: FileId,
    open: Option<OwnedFd>,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: CString,
    /// What it was when the directory was read; unknown if the file system does not say.
    pub kind: FileType,
    /// Where the entry behind it is.
    cookie: u64,
}

/// A reading of a tree, directory by directory. It is always in one directory, whose entries
/// [`Walk::next_entry`] gives; whether to enter one is up to the caller.
#[derive(Debug)]
pub struct Walk {
    path: Descent,
    /// One for each level of the path.
    positions: Vec<Position>,
    buffer: Vec<u8>,
}

/// How far a directory was read.
#[derive(Debug, Default)]
struct Position {
    cookie: u64,
    /// Entries that were read, and not given yet.
    ahead: VecDeque<Entry>,
}

impl Stat {
    /// The attributes of the file that `fd` refers to; an O_PATH descriptor will do.
    ///
    /// # Errors
    /// As statx(2) has them.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        Self::read(fd, c"", AtFlags::EMPTY_PATH)
    }

    /// The attributes of what `name` is in `dir`; a symbolic link is not followed.
    ///
    /// # Errors
    /// As statx(2) has them.
    pub fn of_entry(dir: impl AsFd, name: &CStr) -> Result<Self> {
        Self::read(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    fn read(dir: impl AsFd, name: &CStr, flags: AtFlags) -> Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = rustix::fs::statx(dir, name, flags, wanted)?;
        let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
        let has_born = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Self {
            id: FileId {
                device: (stat.stx_dev_major, stat.stx_dev_minor),
                number: stat.stx_ino,
                born: has_born.then(|| time(stat.stx_btime)),
            },
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            mode: Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777),
            links: stat.stx_nlink,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: stat.stx_size,
            used: stat.stx_blocks.saturating_mul(512),
            device: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            accessed: time(stat.stx_atime),
            modified: time(stat.stx_mtime),
        })
    }
}

/// Opens the directory `path` for reading, as the root of a tree. Symbolic links on the way to it
/// are followed, but it must not be one.
///
/// # Errors
/// As open(2) has them; `ENOTDIR` if it is no directory.
pub fn root(path: &Path) -> Result<OwnedFd> {
    quietly(|flags| rustix::fs::openat(CWD, path, flags | directory_flags(), Mode::empty()))
}

/// Opens what `name` is in `dir` without access to its content (O_PATH), whatever its kind: what
/// comes to have the name later makes no difference to the descriptor.
///
/// # Errors
/// `EXDEV` if it is a mount point; as openat2(2) has them.
pub fn place(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), within())?)
}

/// Opens the content of a regular file of which there is a descriptor, as from [`place`]. The
/// caller has seen that it is one: a device or a pipe would be opened, too.
///
/// # Errors
/// As open(2) has them.
pub fn content(place: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = proc_path(place);
    quietly(|quiet| rustix::fs::open(&path, flags | quiet, Mode::empty()))
}

/// Opens the directory `name` in `dir` for reading; the name may be `.`.
///
/// # Errors
/// `EXDEV` if it is a mount point, `ENOTDIR` or `ELOOP` if it is no directory; as openat2(2) has
/// them.
pub fn directory(dir: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let dir = dir.as_fd();
    let open =
        |flags| rustix::fs::openat2(dir, name, flags | directory_flags(), Mode::empty(), within());
    quietly(open)
}

/// A path to the file that `fd` refers to, for system calls that take no descriptor. It works in
/// this process alone, while the descriptor is open, and leads to a symbolic link itself.
pub fn proc_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// The next part of a file's content that is not empty, between `from` and `end`: where it begins
/// and ends. All of it, where the file system cannot tell. Moves the file's position.
///
/// # Errors
/// As lseek(2) has them.
pub fn data(fd: impl AsFd, from: u64, end: u64) -> Result<Option<(u64, u64)>> {
    let (fd, all) = (fd.as_fd(), (from < end).then_some((from, end)));
    let start = match rustix::fs::seek(fd, SeekFrom::Data(from)).map_err(Errno::from) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(all),
        Err(errno) => return Err(errno),
    };
    // Between the two calls, the file may have become shorter.
    let stop = match rustix::fs::seek(fd, SeekFrom::Hole(start)).map_err(Errno::from) {
        Ok(stop) => stop.min(end),
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    Ok((start < stop).then_some((start, stop)))
}

/// What every step in a tree keeps to.
fn within() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens so that reading does not change the time of the last access, where that is allowed: to
/// the owner and the privileged.
fn quietly(open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>) -> Result<OwnedFd> {
    match open(OFlags::NOATIME) {
        Err(rustix::io::Errno::PERM) => Ok(open(OFlags::empty())?),
        opened => Ok(opened?),
    }
}

impl Descent {
    /// A way that begins at the directory `root`.
    ///
    /// # Errors
    /// As statx(2) has them.
    pub fn new(root: OwnedFd) -> Result<Self> {
        let id = Stat::of(&root)?.id;
        Ok(Self { levels: vec![Level { name: CString::default(), id, open: Some(root) }] })
    }

    /// The deepest directory.
    pub fn here(&self) -> BorrowedFd<'_> {
        let level = self.levels.last().and_then(|level| level.open.as_ref());
        level.expect("the deepest directory is open").as_fd()
    }

    /// The directory at which the way begins.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.levels[0].open.as_ref().expect("the root is open").as_fd()
    }

    /// How many directories deep this is; 0 is the root.
    pub fn depth(&self) -> usize {
        self.levels.len() - 1
    }

    /// Goes down to `fd`, which is the directory `name` in this one. Answers which level was
    /// closed for it, if any.
    ///
    /// # Errors
    /// As statx(2) has them; then nothing has changed.
    pub fn down(&mut self, name: CString, fd: OwnedFd) -> Result<Option<usize>> {
        let id = Stat::of(&fd)?.id;
        self.levels.push(Level { name, id, open: Some(fd) });
        let closed = self.depth().checked_sub(OPEN_MAX).filter(|level| *level > 0);
        if let Some(level) = closed {
            self.levels[level].open = None;
        }
        Ok(closed)
    }

    /// Goes up to the level above. Answers the name of the one that was left, and whether the one
    /// above had to be opened again. Not to be called at the root.
    ///
    /// # Errors
    /// `ESTALE` if this directory was moved to another meanwhile; then, and after all other
    /// errors, nothing has changed.
    pub fn up(&mut self) -> Result<(CString, bool)> {
        let above = self.levels.len() - 2;
        let closed = self.levels[above].open.is_none();
        if closed {
            let fd = self.parent()?;
            if Stat::of(&fd)?.id != self.levels[above].id {
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

    /// The path of `name` in this directory, from the root on, for people: the middle of a long
    /// one is left out.
    pub fn show(&self, name: &CStr) -> PathBuf {
        let mut names: Vec<&CStr> = self.levels[1..].iter().map(|level| &*level.name).collect();
        names.push(name);
        if names.len() > 2 * SHOWN {
            names.splice(SHOWN..names.len() - SHOWN, [c"..."]);
        }
        names.iter().map(|name| OsStr::from_bytes(name.to_bytes())).collect()
    }
}

impl Walk {
    /// A walk that begins in the directory `root`, which has to be open for reading.
    ///
    /// # Errors
    /// As statx(2) has them.
    pub fn new(root: OwnedFd) -> Result<Self> {
        let path = Descent::new(root)?;
        Ok(Self { path, positions: vec![Position::default()], buffer: vec![0; READ] })
    }

    /// The way to the directory that is being read.
    pub fn path(&self) -> &Descent {
        &self.path
    }

    /// The directory that is being read.
    pub fn here(&self) -> BorrowedFd<'_> {
        self.path.here()
    }

    /// The next entry of this directory; none at its end. What is added or removed meanwhile may
    /// be given or not, all others are given once.
    ///
    /// # Errors
    /// As getdents64(2) has them.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
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

    /// Goes down to `fd`, which is the directory `name` in this one; see [`directory`].
    ///
    /// # Errors
    /// As statx(2) has them; then nothing has changed.
    pub fn enter(&mut self, name: CString, fd: OwnedFd) -> Result<()> {
        if let Some(closed) = self.path.down(name, fd)? {
            self.positions[closed].ahead = VecDeque::new();
        }
        self.positions.push(Position::default());
        Ok(())
    }

    /// Goes back to the directory above, and on with it behind the one that is left, whose name it
    /// answers. Not to be called in the root.
    ///
    /// # Errors
    /// As [`Descent::up`] has them: the walk cannot go on then.
    pub fn leave(&mut self) -> Result<CString> {
        let (name, again) = self.path.up()?;
        self.positions.pop();
        if again && let Some(position) = self.positions.last() {
            rustix::fs::seek(self.path.here(), SeekFrom::Start(position.cookie))?;
        }
        Ok(name)
    }
}

/// An entry, unless it is the directory itself or the one above.
fn entry(found: dir::Entry<'_>) -> Option<Entry> {
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
    of_others.then(|| Entry { name: found.name.to_owned(), kind, cookie: found.cookie })
}

/// Runs a test in which mounts are its own: on a thread whose mounts go with it, whatever happens.
#[cfg(test)]
pub(super) fn with_own_mounts(test: impl FnOnce() + Send) {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::UnshareFlags;
    let unshared = || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        // What makes it deprecated are threads with descriptors of their own, which this is not.
        #[allow(deprecated)]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNS);
        match unshared.and_then(|()| mount_change("/", private)) {
            Ok(()) => test(),
            Err(errno) => eprintln!("skipped: no mounts of our own: {errno}"),
        }
    };
    std::thread::scope(|scope| scope.spawn(unshared).join().expect("the test passes"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::{TempDir, tempdir};

    /// All paths below `dir`, found by a walk that enters every directory.
    fn all(dir: &Path) -> BTreeSet<PathBuf> {
        let mut walk = Walk::new(root(dir).unwrap()).unwrap();
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

    fn descriptors() -> usize {
        fs::read_dir("/proc/self/fd").unwrap().count()
    }

    /// A walk at the end of `depth` directories that are called `d`.
    fn deep(dir: &TempDir, depth: usize) -> Walk {
        let mut walk = Walk::new(root(dir.path()).unwrap()).unwrap();
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
        // Other tests have some open, too, but not as many.
        assert!(descriptors() < 250, "{} are open", descriptors());
        for depth in (0..300).rev() {
            assert_eq!(walk.leave().unwrap(), c"d".to_owned());
            assert_eq!(walk.path().depth(), depth);
        }
        assert_eq!(Stat::of(walk.here()).unwrap().id, Stat::of(walk.path().root()).unwrap().id);
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
    fn a_symbolic_link_is_not_followed() {
        let dir = tempdir().unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        let top = root(dir.path()).unwrap();
        let refused = directory(&top, c"link").unwrap_err();
        assert!([Errno::LOOP, Errno::NOTDIR].contains(&refused), "{refused:?}");
        let link = place(&top, c"link").unwrap();
        assert_eq!(Stat::of(&link).unwrap().kind, FileType::Symlink);
        assert!(root(&dir.path().join("link")).is_err());
    }

    #[test]
    fn another_file_system_is_not_entered() {
        let top = root(Path::new("/")).unwrap(); // everywhere, /proc is mounted
        assert_eq!(directory(&top, c"proc").unwrap_err(), Errno::XDEV);
        assert_eq!(place(&top, c"proc").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn nothing_above_is_reached() {
        let dir = tempdir().unwrap();
        let top = root(dir.path()).unwrap();
        assert_eq!(directory(&top, c"..").unwrap_err(), Errno::XDEV);
    }

    #[test]
    fn a_directory_that_was_removed_is_at_its_end() {
        let dir = tempdir().unwrap();
        let mut walk = deep(&dir, 1);
        fs::remove_dir(dir.path().join("d")).unwrap();
        assert_eq!(walk.next_entry(), Ok(None));
    }
}
