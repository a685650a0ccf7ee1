//! Random trees of files, and the comparison of a tree with its copy.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags};

use super::*;

/// Everything that can be seen of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SeenFile {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// The times of access and of modification.
    pub(super) times: [(i64, i64); 2],
    pub(super) device: u64,
    /// The first path of the same file.
    pub(super) same: PathBuf,
    pub(super) links: u64,
    pub(super) content: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Returns the content of a tree, including its root, and what it takes on the disk. Does not
/// change it.
pub(super) fn look(root: &Path) -> (BTreeMap<PathBuf, SeenFile>, BTreeMap<PathBuf, u64>) {
    let (mut seen, mut used, mut firsts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = if path == Path::new("") { root.to_owned() } else { root.join(&path) };
        let meta = fs::symlink_metadata(&full).unwrap();
        let mut content = Vec::new();
        if meta.is_dir() {
            let mut walk = TreeWalk::new(file::root(&full).unwrap()).unwrap();
            while let Some(entry) = walk.next_entry().unwrap() {
                waiting.push(path.join(std::ffi::OsStr::from_bytes(entry.name.as_bytes())));
            }
            waiting.sort_by(|a, b| b.cmp(a));
        } else if meta.is_symlink() {
            content = fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes();
        } else if meta.is_file() {
            let fd = rustix::fs::open(&full, OFlags::RDONLY | OFlags::NOATIME, Mode::empty());
            std::io::Read::read_to_end(&mut File::from(fd.unwrap()), &mut content).unwrap();
        }
        let same = firsts.entry(meta.ino()).or_insert_with(|| path.clone()).clone();
        let mut times = [(meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec())];
        if meta.is_symlink() {
            times[0] = (0, 0); // looking at it changes it
        }
        used.insert(path.clone(), meta.blocks() * 512);
        seen.insert(
            path,
            SeenFile {
                mode: meta.mode(),
                owner: (meta.uid(), meta.gid()),
                times,
                device: meta.rdev(),
                same,
                links: if meta.is_dir() { 0 } else { meta.nlink() },
                content,
                xattrs: xattrs(&full),
            },
        );
    }
    (seen, used)
}

pub(super) fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut list, mut value) = (vec![0; 65536], vec![0; 65536]);
    let len = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        (name.to_vec(), value[..len].to_vec())
    };
    names.map(value).collect()
}

/// Returns an ACL with an entry for one more user, in the format of Linux: version, then tag,
/// rights and id.
pub(super) fn acl(uid: u32, mask: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, !0), (2, 6, uid), (4, 5, !0), (16, mask, !0), (32, 1, !0)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.into_iter().flat_map(entry).collect()].concat()
}

pub(super) fn set_times(path: &Path, accessed: i64, modified: i64) {
    let time = |tv_sec| Timespec { tv_sec, tv_nsec: (tv_sec * 7919).rem_euclid(1_000_000_000) };
    let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The kind of a file in a random tree.
#[derive(Debug, Clone)]
pub(super) enum FileKind {
    Directory,
    /// Parts of the content: offset and length; and the size.
    File(Vec<(u64, usize)>, u64),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Device(u32),
    /// Another name of an earlier file.
    Link(Index),
}

#[derive(Debug, Clone)]
pub(super) struct FilePlan {
    pub(super) parent: Index,
    pub(super) what: FileKind,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) times: (i64, i64),
    pub(super) xattr: Option<Vec<u8>>,
    pub(super) acls: (Option<u32>, Option<u32>),
}

pub(super) fn what() -> impl Strategy<Value = FileKind> {
    let part = (0..3 * MIB, 1..100_000_usize);
    prop_oneof![
        4 => Just(FileKind::Directory),
        4 => (vec(part, 0..4), 0..4 * MIB).prop_map(|(parts, len)| FileKind::File(parts, len)),
        2 => vec(1..=255_u8, 1..100).prop_map(FileKind::Symlink),
        1 => Just(FileKind::Fifo),
        1 => Just(FileKind::Socket),
        1 => (0..500_u32).prop_map(FileKind::Device),
        3 => any::<Index>().prop_map(FileKind::Link),
    ]
}

pub(super) fn plan() -> impl Strategy<Value = FilePlan> {
    let owner = (0..70_000_u32, 0..70_000_u32);
    let times = (0..4_000_000_000_i64, -1000..4_000_000_000_i64);
    let xattr = proptest::option::of(vec(any::<u8>(), 0..500));
    let acl = || proptest::option::weighted(0.2, 0..70_000_u32);
    let rest = (0..0o10000_u32, owner, times, xattr, (acl(), acl()));
    (any::<Index>(), what(), rest).prop_map(|(parent, what, (mode, owner, times, xattr, acls))| {
        FilePlan { parent, what, mode, owner, times, xattr, acls }
    })
}

/// Makes a tree; the first plan is for its root.
pub(super) fn build(root: &Path, plans: &[FilePlan]) {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::new());
    let mut made = vec![(root.to_owned(), &plans[0])];
    for (n, plan) in plans.iter().enumerate().skip(1) {
        let path = plan.parent.get(&dirs).join(format!("{n}"));
        if let FileKind::Link(earlier) = &plan.what {
            if !files.is_empty() {
                fs::hard_link(earlier.get(&files), path).unwrap();
            }
            continue;
        }
        make(&path, &plan.what);
        if let FileKind::Directory = plan.what { &mut dirs } else { &mut files }.push(path.clone());
        made.push((path, plan));
    }
    for (path, plan) in made.iter().rev() {
        set_attributes(path, plan);
    }
}

pub(super) fn make(path: &Path, what: &FileKind) {
    let special = |kind, device| {
        rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, device).unwrap();
    };
    match what {
        FileKind::Directory => fs::create_dir(path).unwrap(),
        FileKind::File(parts, len) => {
            let file = File::create_new(path).unwrap();
            for (n, (at, len)) in parts.iter().enumerate() {
                file.write_all_at(&vec![b"abcd"[n]; *len], *at).unwrap();
            }
            file.set_len(file.metadata().unwrap().len().max(*len)).unwrap();
        }
        FileKind::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(target), path).unwrap(),
        FileKind::Fifo => special(FileType::Fifo, 0),
        FileKind::Socket => special(FileType::Socket, 0),
        FileKind::Device(number) => {
            special(FileType::CharacterDevice, rustix::fs::makedev(*number, *number));
        }
        FileKind::Link(_) => {}
    }
}

/// Sets the attributes of a file, the times last.
pub(super) fn set_attributes(path: &Path, plan: &FilePlan) {
    let meta = fs::symlink_metadata(path).unwrap();
    let (uid, gid) = (Uid::from_raw(plan.owner.0), Gid::from_raw(plan.owner.1));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    };
    if let Some(value) = &plan.xattr {
        let of_user = meta.is_dir() || meta.is_file();
        set(if of_user { "user.note" } else { "trusted.note" }, value);
    }
    if !meta.is_symlink() {
        if let Some(uid) = plan.acls.0 {
            set("system.posix_acl_access", &acl(uid, 7));
        }
        if let (Some(uid), true) = (plan.acls.1, meta.is_dir()) {
            set("system.posix_acl_default", &acl(uid, 5));
        }
        fs::set_permissions(path, fs::Permissions::from_mode(plan.mode)).unwrap();
    }
    set_times(path, plan.times.0, plan.times.1);
}

pub(super) fn try_copy(from: &Path, to: &Path) -> Result<CopyTotals, CopyError> {
    copy_tree(from, to, &TreeProgress::new(), u64::MAX)
}

/// Copies a tree and compares the two.
pub(super) fn check(from: &Path, to: &Path) -> CopyTotals {
    let (before, used_before) = look(from);
    let copied = try_copy(from, to).unwrap();
    let (after, used_after) = look(to);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, seen) in &before {
        assert_eq!(seen, &after[path], "{}", path.display());
        let (was, is) = (used_before[path], used_after[path]);
        assert!(is <= was + 16 * 4096, "{} takes {is} instead of {was}", path.display());
    }
    assert_eq!(before, look(from).0, "the source has changed");
    assert_eq!(copied.entries, before.len() as u64 - 1);
    let alone: u64 = after.iter().filter(|(p, s)| **p == s.same).map(|(p, _)| used_after[p]).sum();
    // Blocks that were written back since may have taken another block of metadata, or freed one.
    assert!(copied.bytes.abs_diff(alone) <= 4096 * copied.entries, "{copied:?}, not {alone}");
    copied
}
