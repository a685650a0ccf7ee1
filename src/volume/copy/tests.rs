//! Copies of real trees, compared with all that can be seen of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{AtFlags, CWD, Gid, Timespec, Timestamps, Uid, XattrFlags};
use rustix::mount::{MountFlags, mount};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::volume::tree::support::{as_nobody, with_own_mounts};

const MIB: u64 = 1024 * 1024;

/// All that is to be seen of a file.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    /// Times of access and of change.
    times: [(i64, i64); 2],
    device: u64,
    /// The first path of the same file.
    same: PathBuf,
    links: u64,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What is in a tree, its root included, and what it takes on the disk. Does not change it.
fn look(root: &Path) -> (BTreeMap<PathBuf, Seen>, BTreeMap<PathBuf, u64>) {
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
            Seen {
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

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut list, mut value) = (vec![0; 65536], vec![0; 65536]);
    let len = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        (name.to_vec(), value[..len].to_vec())
    };
    names.map(value).collect()
}

/// An ACL with an entry for one more user, as Linux keeps it: version, then tag, rights and id.
fn acl(uid: u32, mask: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, !0), (2, 6, uid), (4, 5, !0), (16, mask, !0), (32, 1, !0)];
    let entry = |(tag, rights, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [2_u32.to_le_bytes().to_vec(), entries.into_iter().flat_map(entry).collect()].concat()
}

fn set_times(path: &Path, accessed: i64, modified: i64) {
    let time = |tv_sec| Timespec { tv_sec, tv_nsec: (tv_sec * 7919).rem_euclid(1_000_000_000) };
    let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What a file of a random tree is.
#[derive(Debug, Clone)]
enum What {
    Directory,
    /// Parts of content: where, and how long.
    File(Vec<(u64, usize)>, u64),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Device(u32),
    /// A further name of an earlier file.
    Link(Index),
}

#[derive(Debug, Clone)]
struct Plan {
    parent: Index,
    what: What,
    mode: u32,
    owner: (u32, u32),
    times: (i64, i64),
    xattr: Option<Vec<u8>>,
    acls: (Option<u32>, Option<u32>),
}

fn what() -> impl Strategy<Value = What> {
    let part = (0..3 * MIB, 1..100_000_usize);
    prop_oneof![
        4 => Just(What::Directory),
        4 => (vec(part, 0..4), 0..4 * MIB).prop_map(|(parts, len)| What::File(parts, len)),
        2 => vec(1..=255_u8, 1..100).prop_map(What::Symlink),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        1 => (0..500_u32).prop_map(What::Device),
        3 => any::<Index>().prop_map(What::Link),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let owner = (0..70_000_u32, 0..70_000_u32);
    let times = (0..4_000_000_000_i64, -1000..4_000_000_000_i64);
    let xattr = proptest::option::of(vec(any::<u8>(), 0..500));
    let acl = || proptest::option::weighted(0.2, 0..70_000_u32);
    let rest = (0..0o10000_u32, owner, times, xattr, (acl(), acl()));
    (any::<Index>(), what(), rest).prop_map(|(parent, what, (mode, owner, times, xattr, acls))| {
        Plan { parent, what, mode, owner, times, xattr, acls }
    })
}

/// Makes a tree; the first plan is of its root.
fn build(root: &Path, plans: &[Plan]) {
    let (mut dirs, mut files) = (vec![root.to_owned()], Vec::new());
    let mut made = vec![(root.to_owned(), &plans[0])];
    for (n, plan) in plans.iter().enumerate().skip(1) {
        let path = plan.parent.get(&dirs).join(format!("{n}"));
        if let What::Link(earlier) = &plan.what {
            if !files.is_empty() {
                fs::hard_link(earlier.get(&files), path).unwrap();
            }
            continue;
        }
        make(&path, &plan.what);
        if let What::Directory = plan.what { &mut dirs } else { &mut files }.push(path.clone());
        made.push((path, plan));
    }
    for (path, plan) in made.iter().rev() {
        set_up_directory(path, plan);
    }
}

fn make(path: &Path, what: &What) {
    let special = |kind, device| {
        rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, device).unwrap();
    };
    match what {
        What::Directory => fs::create_dir(path).unwrap(),
        What::File(parts, len) => {
            let file = File::create_new(path).unwrap();
            for (n, (at, len)) in parts.iter().enumerate() {
                file.write_all_at(&vec![b"abcd"[n]; *len], *at).unwrap();
            }
            file.set_len(file.metadata().unwrap().len().max(*len)).unwrap();
        }
        What::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(target), path).unwrap(),
        What::Fifo => special(FileType::Fifo, 0),
        What::Socket => special(FileType::Socket, 0),
        What::Device(number) => {
            special(FileType::CharacterDevice, rustix::fs::makedev(*number, *number));
        }
        What::Link(_) => {}
    }
}

/// Gives a file its attributes, the times last.
fn set_up_directory(path: &Path, plan: &Plan) {
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

fn try_copy(from: &Path, to: &Path) -> Result<CopyTotals, CopyError> {
    copy_tree(from, to, &TreeProgress::new(), u64::MAX)
}

/// Copies a tree and compares.
fn check(from: &Path, to: &Path) -> CopyTotals {
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
    // What was written back since may have taken a block more, or less, for finding its blocks.
    assert!(copied.bytes.abs_diff(alone) <= 4096 * copied.entries, "{copied:?}, not {alone}");
    copied
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs to be root");
    }
    root
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_copy_is_equal(plans in vec(plan(), 1..40)) {
        if is_root() {
            let dir = tempdir().unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            [&from, &to].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
            build(&from, &plans);
            check(&from, &to);
            prop_assert!(fs::read_dir(dir.path()).unwrap().count() == 2);
        }
    }
}

/// Two directories, one with a small tree.
fn sample() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempdir().unwrap();
    let (from, to) = sample_in(dir.path());
    (dir, from, to)
}

fn sample_in(dir: &Path) -> (PathBuf, PathBuf) {
    let (from, to) = (dir.join("from"), dir.join("to"));
    fs::create_dir_all(from.join("below")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("one"), vec![1; 100_000]).unwrap();
    fs::write(from.join("below/two"), vec![2; 100_000]).unwrap();
    (from, to)
}

#[test]
fn symbolic_links_have_times_of_their_own() {
    let (_dir, from, to) = sample();
    symlink("nowhere", from.join("link")).unwrap();
    set_times(&from.join("link"), 3_000_000_000, 1_234_567);
    try_copy(&from, &to).unwrap();
    let meta = fs::symlink_metadata(to.join("link")).unwrap();
    assert_eq!((meta.atime(), meta.mtime()), (3_000_000_000, 1_234_567));
    assert_ne!((meta.atime_nsec(), meta.mtime_nsec()), (0, 0));
}

#[test]
fn an_acl_of_the_target_is_not_passed_on() {
    let (_dir, from, to) = sample();
    let set = |name| rustix::fs::setxattr(&to, name, &acl(5, 7), XattrFlags::empty());
    if set("system.posix_acl_default").and(set("system.posix_acl_access")).is_err() {
        eprintln!("skipped: no ACLs in this file system");
        return;
    }
    fs::set_permissions(&to, fs::Permissions::from_mode(0o2777)).unwrap();
    check(&from, &to);
}

#[test]
fn thousands_of_names_stay_one_file() {
    let (_dir, from, to) = sample();
    fs::create_dir(from.join("far")).unwrap();
    for n in 0..3000 {
        let place = if n % 3 == 0 { "far" } else { "below" };
        fs::hard_link(from.join("one"), from.join(format!("{place}/{n}"))).unwrap();
    }
    let copied = check(&from, &to);
    assert_eq!(fs::metadata(to.join("one")).unwrap().nlink(), 3001);
    assert_eq!(copied.entries, 3000 + 4);
}

/// Makes `depth` directories in one another, with a file at the end that has a name at the top.
fn deep(root: &Path, depth: usize) {
    let mut path = Descent::new(file::root(root).unwrap()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(path.here(), c"d", Mode::RWXU).unwrap();
        let below = file::directory(path.here(), c"d").unwrap();
        path.down(c"d".to_owned(), below).unwrap();
    }
    rustix::fs::linkat(path.root(), c"one", path.here(), c"one", AtFlags::empty()).unwrap();
    rustix::fs::symlinkat(c"end", path.here(), c"mark").unwrap();
}

#[test]
fn a_tree_that_is_deeper_than_a_path_is_copied() {
    let (dir, from, to) = sample();
    deep(&from, 5000);
    let copied = try_copy(&from, &to);
    let mut bottom = TreeWalk::new(file::root(&to).unwrap()).unwrap();
    while let Ok(below) = file::directory(bottom.here(), c"d") {
        bottom.enter(c"d".to_owned(), below).unwrap();
    }
    let mark = attributes::target(file::place(bottom.here(), c"mark").unwrap().as_fd()).unwrap();
    let linked = FileStat::of_entry(bottom.here(), c"one").unwrap();
    let (depth, top) = (bottom.path().depth(), FileStat::of_entry(bottom.path().root(), c"one"));
    // Removing such trees takes more than the standard library has.
    Command::new("rm").arg("-rf").arg(dir.path()).status().unwrap();
    assert_eq!(copied.unwrap().entries, 5000 + 2 + 3);
    assert_eq!((depth, mark.as_c_str()), (5000, c"end"));
    assert_eq!((linked.id, linked.links, linked.size), (top.unwrap().id, 2, 100_000));
}

#[test]
fn a_limit_is_kept() {
    let (_dir, from, to) = sample();
    let large = File::create(from.join("sparse")).unwrap();
    large.set_len(50 * MIB).unwrap();
    let enough = check(&from, &to).bytes;
    let again = |limit| {
        fs::remove_dir_all(&to).unwrap();
        fs::create_dir(&to).unwrap();
        copy_tree(&from, &to, &TreeProgress::new(), limit)
    };
    assert_eq!(again(enough).unwrap().bytes, enough);
    assert!(matches!(again(enough - 1), Err(CopyError::Limit { limit }) if limit == enough - 1));
    // A file that is too large is not even begun.
    assert!(matches!(again(50_000), Err(CopyError::Limit { .. })));
    assert!(!to.join("one").exists() && !to.join("below/two").exists());
}

#[test]
fn a_copy_can_be_cancelled() {
    let (_dir, from, to) = sample();
    let progress = TreeProgress::new();
    progress.cancel();
    assert!(matches!(copy_tree(&from, &to, &progress, u64::MAX), Err(CopyError::Cancelled)));
    assert!(fs::read_dir(to).unwrap().next().is_none());
}

#[test]
fn the_progress_is_told() {
    let (_dir, from, to) = sample();
    let progress = TreeProgress::new();
    progress.estimate(&from);
    copy_tree(&from, &to, &progress, u64::MAX).unwrap();
    let done = progress.snapshot();
    assert_eq!((done.entries_done, done.entries_total), (3, 3));
    assert_eq!((done.bytes_done, done.bytes_total), (200_000, 200_000));
    assert_eq!(fs_extra::dir::get_size(&from).unwrap(), fs_extra::dir::get_size(&to).unwrap());
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let (_dir, from, to) = sample();
    fs::write(to.join("mine"), "stays").unwrap();
    assert!(matches!(try_copy(&from, &to), Err(CopyError::NotEmpty { .. })));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    assert!(matches!(try_copy(&from, &from), Err(CopyError::NotEmpty { .. })));
}

#[test]
fn a_tree_is_not_copied_into_itself() {
    let (_dir, from, _) = sample();
    let inside = from.join("below/inside");
    fs::create_dir(&inside).unwrap();
    let error = try_copy(&from, &inside).unwrap_err();
    assert!(matches!(&error, CopyError::Inside { path } if path == Path::new("below/inside")));
}

#[test]
fn a_directory_that_is_none_is_refused() {
    let (dir, from, to) = sample();
    symlink(&from, dir.path().join("link")).unwrap();
    for (from, to) in [(&from, dir.path().join("none")), (&dir.path().join("link"), to)] {
        assert!(matches!(try_copy(from, &to), Err(CopyError::Open { .. })));
    }
}

#[test]
fn a_full_disk_is_said_and_other_file_systems_are_left_out() {
    with_own_mounts(|dir| {
        let (from, to) = sample_in(dir);
        let mounted = dir.join("small");
        fs::create_dir(&mounted).unwrap();
        let small = Some(c"size=160k");
        mount("none", &mounted, "tmpfs", MountFlags::empty(), small).unwrap();
        let error = try_copy(&from, &mounted).unwrap_err();
        assert!(matches!(error, CopyError::NoSpace { .. }), "{error}");
        let inside = from.join("below/mounted");
        fs::create_dir(&inside).unwrap();
        mount("none", &inside, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(inside.join("other"), "").unwrap();
        let copied = try_copy(&from, &to).unwrap();
        assert_eq!((copied.entries, copied.left_out), (3, 1));
        assert!(!to.join("below/mounted").exists());
    });
}

#[test]
fn a_copy_goes_from_one_file_system_to_another() {
    with_own_mounts(|dir| {
        let (from, to) = sample_in(dir);
        mount("none", &to, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::hard_link(from.join("one"), from.join("below/one")).unwrap();
        File::create(from.join("hole")).unwrap().set_len(10 * MIB).unwrap();
        check(&from, &to);
    });
}

/// A thread that changes the tree as quickly as it can while `test` runs.
fn while_changing(change: impl Fn(usize) + Sync, test: impl FnOnce()) {
    let over = TreeProgress::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..).take_while(|_| !over.is_cancelled()).for_each(&change));
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        over.cancel(); // also after a failure, or it would be waited for forever
        tested.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    });
}

#[test]
fn what_changes_meanwhile_does_no_harm() {
    let (dir, from, _) = sample();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    for n in 0..50 {
        fs::create_dir(from.join(format!("d{n}"))).unwrap();
        fs::write(from.join(format!("d{n}/file")), vec![3; 20_000]).unwrap();
    }
    // A directory becomes a link to the outside and back; a file vanishes and comes back, longer.
    let change = |n: usize| {
        let (victim, aside) = (from.join(format!("d{}", n % 50)), from.join("below/aside"));
        fs::rename(&victim, &aside).unwrap();
        symlink(&outside, &victim).unwrap();
        fs::remove_file(&victim).unwrap();
        fs::rename(&aside, &victim).unwrap();
        fs::remove_file(victim.join("file")).unwrap();
        fs::write(victim.join("file"), vec![3; 20_000 + n]).unwrap();
    };
    while_changing(change, || {
        let end = SystemTime::now() + Duration::from_secs(1);
        for n in 0.. {
            let to = dir.path().join(format!("to{n}"));
            fs::create_dir(&to).unwrap();
            try_copy(&from, &to).unwrap();
            let found = walkdir::WalkDir::new(&to).into_iter().flatten();
            assert!(found.into_iter().all(|entry| entry.file_name() != "secret"));
            assert_eq!(fs::read(to.join("one")).unwrap(), vec![1; 100_000]);
            if SystemTime::now() > end {
                return;
            }
        }
    });
}

/// A program that runs as root, and a tree around it.
fn prepare_of_root(dir: &Path) {
    fs::create_dir_all(dir.join("from/below")).unwrap();
    fs::create_dir(dir.join("to")).unwrap();
    std::os::unix::fs::chown(dir.join("to"), Some(65534), Some(65534)).unwrap();
    for (path, mode) in [("from/below/program", 0o6755), ("from/plain", 0o444)] {
        fs::write(dir.join(path), "content").unwrap();
        fs::set_permissions(dir.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(dir.join("from/below"), fs::Permissions::from_mode(0o555)).unwrap();
    set_times(&dir.join("from/below"), 5, 6);
}

#[test]
fn without_privilege_a_copy_is_ours_and_runs_as_nobody_else() {
    let name = "volume::copy::tests::without_privilege_a_copy_is_ours_and_runs_as_nobody_else";
    as_nobody(name, prepare_of_root, |dir| {
        try_copy(&dir.join("from"), &dir.join("to")).unwrap();
        let check = |path: &str, mode| {
            let meta = fs::symlink_metadata(dir.join("to").join(path)).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (meta.uid().max(1), mode), "{path}");
        };
        check("below/program", 0o755);
        check("plain", 0o444);
        check("below", 0o555);
        assert_eq!(fs::metadata(dir.join("to/below")).unwrap().mtime(), 6);
    });
}
