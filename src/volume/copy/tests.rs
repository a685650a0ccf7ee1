//! Copies of real trees, compared in all that clients can see.

mod trees;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::{AtFlags, XattrFlags};
use rustix::mount::{MountFlags, mount};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::volume::tree::support::{as_nobody, with_own_mounts};
use trees::{acl, build, check, plan, set_times, try_copy};

const MIB: u64 = 1024 * 1024;

/// Says so once, because it is called for every case of a test.
fn is_root() -> bool {
    static SAID: std::sync::Once = std::sync::Once::new();
    let root = rustix::process::geteuid().is_root();
    if !root {
        SAID.call_once(|| crate::sys::testing::not_tried("this needs root"));
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

/// Returns two directories, one with a small tree.
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
        return crate::sys::testing::not_tried("the file system has no ACLs");
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

/// Makes a path of `depth` directories, and at its end a file that also has a name at the top.
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
    let mark =
        attributes::target(file::open_path(bottom.here(), c"mark").unwrap().as_fd()).unwrap();
    let linked = FileStat::of_entry(bottom.here(), c"one").unwrap();
    let (depth, top) = (bottom.path().depth(), FileStat::of_entry(bottom.path().root(), c"one"));
    // The standard library cannot remove trees this deep.
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
    // A file that is too large is not begun.
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

/// Runs `test` while another thread changes the tree as fast as it can.
fn while_changing(change: impl Fn(usize) + Sync, test: impl FnOnce()) {
    let over = TreeProgress::new();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..).take_while(|_| !over.is_cancelled()).for_each(&change));
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        over.cancel(); // also after a failure, so that the thread ends
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
    // A directory becomes a symbolic link to the outside and back; a file vanishes and returns
    // longer.
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

/// Makes a program that runs as root, and a tree around it.
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
