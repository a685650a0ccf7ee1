//! Mounts: changes of the mount table, locations of directories independent of mounts, and sources.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};

use crate::errno::Result;

/// The mount table of the calling thread.
const LIST: &str = "/proc/thread-self/mountinfo";

/// Counts changes of the mount table, by polling it (proc_pid_mounts(5)).
pub struct Mounts(Mutex<Seen>);

struct Seen {
    list: OwnedFd,
    changes: u64,
}

impl Mounts {
    /// Watches the mount table of the calling thread.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn watch() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let list = rustix::fs::open(LIST, flags, Mode::empty())?;
        Ok(Self(Mutex::new(Seen { list, changes: 0 })))
    }

    /// Returns the number of changes seen. Includes every mount(2) that has returned. Several
    /// changes may count as one.
    pub fn changes(&self) -> u64 {
        // The kernel reports each change once. No other thread may poll before it is counted.
        let mut seen = self.0.lock();
        let mut list = [PollFd::new(&seen.list, PollFlags::PRI)];
        // If polling fails, the table may have changed.
        let changed = poll(&mut list, Some(&Timespec::default())) != Ok(0);
        seen.changes += u64::from(changed);
        seen.changes
    }
}

/// The location of a directory in its file system, independent of the mount through which it was
/// reached: bind mounts show parts of a file system elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The device of the file system, as in the mount table.
    device: Vec<u8>,
    /// The path from the root of the file system.
    path: PathBuf,
}

impl Location {
    /// Returns the location of the directory at `path`, which must be absolute and without symbolic
    /// links. `None` without /proc, or before Linux 5.8. Blocks.
    pub fn of(path: &Path) -> Option<Self> {
        let mount = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
        if mount.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return None;
        }
        let list = std::fs::read(LIST).ok()?;
        list.split(|byte| *byte == b'\n').find_map(|line| on(line, mount.stx_mnt_id, path))
    }

    /// Whether it is `other`, or below it.
    pub fn is_in(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}

/// Returns the mount point of the file system of `path`, which must be absolute and without
/// symbolic links. The file system need not work. `None` without /proc. Blocks.
pub fn point_of(path: &Path) -> Option<PathBuf> {
    let list = std::fs::read(LIST).ok()?;
    let point = |line: &[u8]| Some(unescaped(line.split(|byte| *byte == b' ').nth(4)?));
    let points = list.split(|byte| *byte == b'\n').filter_map(point);
    points.filter(|point| path.starts_with(point)).max_by_key(|point| point.as_os_str().len())
}

/// The type and the source of a file system, independent of where it is mounted. The source is
/// `server:/volume` for GlusterFS and CephFS, or the device of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The type, with the subtype of a FUSE file system (`fuse.glusterfs`).
    filesystem: Vec<u8>,
    /// The source, as it was named when it was mounted.
    name: Vec<u8>,
}

impl Source {
    /// Returns the source of the file system of `fd`. `None` if it is no longer mounted here,
    /// without /proc, or before Linux 5.8. Blocks.
    pub fn of(fd: impl AsFd) -> Option<Self> {
        let mount = statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        if mount.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return None;
        }
        let list = std::fs::read(LIST).ok()?;
        list.split(|byte| *byte == b'\n').find_map(|line| source_of(line, mount.stx_mnt_id))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [filesystem, name] = [&self.filesystem, &self.name].map(|s| String::from_utf8_lossy(s));
        write!(f, "{filesystem} {name}")
    }
}

/// Returns the source, if `line` is that of the mount with this number. The number of fields before
/// the hyphen varies.
fn source_of(line: &[u8], mount: u64) -> Option<Source> {
    let mut words = line.split(|byte| *byte == b' ');
    let number: u64 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    if number != mount {
        return None;
    }
    // The first six fields always exist, and a path may be a hyphen.
    let mut words = words.skip(5).skip_while(|word| *word != b"-").skip(1);
    let (filesystem, name) = (words.next()?.to_vec(), words.next()?.to_vec());
    Some(Source { filesystem, name })
}

/// Returns the location of `path`, if `line` is that of the mount with this number
/// (proc_pid_mountinfo(5)).
fn on(line: &[u8], mount: u64, path: &Path) -> Option<Location> {
    let mut words = line.split(|byte| *byte == b' ');
    let number: u64 = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let (_parent, device) = (words.next()?, words.next()?);
    let (root, point) = (unescaped(words.next()?), unescaped(words.next()?));
    if number != mount {
        return None;
    }
    let below = path.strip_prefix(point).ok()?;
    Some(Location { device: device.to_vec(), path: root.join(below) })
}

/// Replaces the octal escapes of the mount table.
fn unescaped(word: &[u8]) -> PathBuf {
    let (mut path, mut rest) = (Vec::new(), word);
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after)
            }
            _ => (*first, after),
        };
        path.push(byte);
        rest = after;
    }
    OsString::from_vec(path).into()
}

/// Runs a test on a thread with a mount namespace of its own, which is removed with the thread.
/// Skips it where there can be none.
#[cfg(test)]
pub fn with_own(test: impl FnOnce() + Send) {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::UnshareFlags;

    let run = || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        // What makes it deprecated are threads with descriptors of their own, which this is not.
        #[allow(deprecated)]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNS);
        match unshared.and_then(|()| mount_change("/", private)) {
            Ok(()) => test(),
            Err(errno) => return Some(errno),
        }
        None
    };
    let refused = std::thread::scope(|scope| scope.spawn(run).join().expect("the test passes"));
    if let Some(errno) = refused {
        super::testing::not_tried(&format!("no mount namespace of its own: {errno}"));
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::mount_bind;

    use super::*;

    #[test]
    fn a_directory_is_where_it_is_by_whichever_mount() {
        with_own(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["a/b/c", "other", "bound here"] {
                std::fs::create_dir_all(at(name)).unwrap();
            }
            let is_in = |a: &str, b: &str| {
                Location::of(&at(a)).unwrap().is_in(&Location::of(&at(b)).unwrap())
            };
            mount_bind(at("a/b"), at("bound here")).unwrap();
            assert!(is_in("bound here/c", "a") && is_in("a/b/c", "bound here"));
            assert!(is_in("bound here", "a/b") && is_in("a/b", "bound here"));
            assert!(!is_in("a", "bound here") && !is_in("other", "bound here"));
            mount_bind(at("other"), at("a")).unwrap();
            assert!(is_in("a", "other"), "what is mounted last counts");
            rustix::mount::mount(
                "tmpfs",
                at("other"),
                "tmpfs",
                rustix::mount::MountFlags::empty(),
                None,
            )
            .unwrap();
            assert!(!is_in("other", "a") && !is_in("a", "other"), "another file system");
        });
    }

    #[test]
    fn a_file_system_is_known_by_what_was_mounted() {
        with_own(|| {
            let (dir, flags) = (tempfile::tempdir().unwrap(), rustix::mount::MountFlags::empty());
            let source = || Source::of(std::fs::File::open(dir.path()).unwrap()).unwrap();
            let mut seen = vec![source()];
            for name in ["one", "other", "one"] {
                rustix::mount::mount(name, dir.path(), "tmpfs", flags, None).unwrap();
                seen.push(source());
            }
            assert_eq!(seen[1].to_string(), "tmpfs one");
            assert_eq!(seen[1], seen[3]);
            assert_eq!(point_of(&dir.path().join("a/b")), Some(dir.path().to_owned()));
            assert_ne!(point_of(dir.path().parent().unwrap()), Some(dir.path().to_owned()));
            assert!(seen[0] != seen[1] && seen[1] != seen[2]);
        });
    }

    #[test]
    fn a_line_is_read_whatever_stands_in_it() {
        let line = b"7 1 0:26 / - rw,nosuid shared:1 master:2 - fuse.x srv:/a\\040b rw";
        let expected = Source { filesystem: b"fuse.x".to_vec(), name: b"srv:/a\\040b".to_vec() };
        assert_eq!(source_of(line, 7), Some(expected));
        assert_eq!(source_of(line, 8), None);
        for len in 0..line.len() {
            let _ = source_of(&line[..len], 7);
        }
    }

    #[test]
    fn names_with_blanks_are_read() {
        let check = |word: &str, expected: &str| {
            assert_eq!(unescaped(word.as_bytes()), Path::new(expected), "{word}");
        };
        check("/a", "/a");
        check("/a\\040b\\134c\\011", "/a b\\c\t");
        check("/a\\04", "/a\\04");
        check("", "");
    }

    #[test]
    fn a_mount_is_seen_once_it_is_made() {
        with_own(|| {
            let (dir, mounts) = (tempfile::tempdir().unwrap(), Mounts::watch().unwrap());
            let before = mounts.changes();
            assert_eq!(mounts.changes(), before);
            mount_bind(dir.path(), dir.path()).unwrap();
            let after = mounts.changes();
            assert!(after > before);
            assert_eq!(mounts.changes(), after);
        });
    }
}
