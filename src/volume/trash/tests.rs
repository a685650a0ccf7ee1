//! The trash, on real directories.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::Mode;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use tempfile::{TempDir, tempdir};

use super::removal::{CHARGED, PAUSE, STEP, lengths};
use super::*;
use crate::volume::tree::Descent;
use crate::volume::tree::file::FileStat;
use crate::volume::tree::support::{as_nobody, with_own_mounts};

const FAST: NonZeroU32 = NonZeroU32::MAX;
const MIB: u64 = 1024 * 1024;

fn start(dir: &TempDir, rate: NonZeroU32) -> Trash {
    Trash::start(dir.path().to_owned(), rate).unwrap()
}

/// Waits until the status is as `wanted`.
fn until(trash: &Trash, wanted: impl Fn(&TrashStatus) -> bool) -> TrashStatus {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let status = trash.status();
        if wanted(&status) {
            return status;
        }
        let mut state = trash.shared.lock();
        assert!(Instant::now() < end, "nothing goes on: {status:?}");
        trash.shared.changed.wait_for(&mut state, Duration::from_millis(2));
    }
}

/// Empties the folder.
fn empty(dir: &TempDir) -> TrashStatus {
    let trash = start(dir, FAST);
    until(&trash, |status| status.idle)
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// Makes a tree with `files` files in directories.
fn fill(dir: &Path, files: usize) {
    for n in 0..files {
        let below = dir.join((n % 7).to_string());
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("file {n}")), [1; 4096]).unwrap();
    }
}

#[test]
fn everything_goes_and_is_counted() {
    let dir = tempdir().unwrap();
    fill(&dir.path().join("tree"), 700);
    fs::write(dir.path().join("file"), [1; 8192]).unwrap();
    let status = empty(&dir);
    assert!(is_empty(dir.path()));
    assert_eq!((status.removed, status.waiting, status.set_aside), (1 + 7 + 700 + 1, 0, 0));
    assert!(status.freed >= 700 * 4096 + 8192, "{status:?}");
    assert_eq!(status.current, None);
}

#[test]
fn a_nudge_wakes() {
    let (dir, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
    let trash = start(&dir, FAST);
    until(&trash, |status| status.idle);
    for round in 1..4 {
        fs::write(elsewhere.path().join("late"), "").unwrap();
        fs::rename(elsewhere.path().join("late"), dir.path().join("late")).unwrap();
        trash.nudge();
        until(&trash, |status| status.idle);
        assert!(is_empty(dir.path()));
        assert_eq!(trash.status().removed, round);
    }
}

#[test]
fn links_lead_nowhere() {
    let (dir, outside) = (tempdir().unwrap(), tempdir().unwrap());
    fill(outside.path(), 20);
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    symlink("/", tree.join("root")).unwrap();
    symlink(outside.path(), tree.join("sibling")).unwrap();
    symlink(outside.path(), dir.path().join("top")).unwrap();
    symlink("../..", tree.join("up")).unwrap();
    fs::write(outside.path().join("shared"), [9; 4096]).unwrap();
    fs::hard_link(outside.path().join("shared"), tree.join("shared")).unwrap();
    let status = empty(&dir);
    assert!(is_empty(dir.path()));
    assert_eq!(fs::read(outside.path().join("shared")).unwrap(), [9; 4096]);
    assert_eq!(walkdir::WalkDir::new(outside.path()).into_iter().count(), 1 + 7 + 20 + 1);
    assert_eq!(status.removed, 6);
}

#[test]
fn a_tree_that_is_deeper_than_a_path_goes() {
    let dir = tempdir().unwrap();
    let mut path = Descent::new(file::root(dir.path()).unwrap()).unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(path.here(), c"d", Mode::RWXU).unwrap();
        let below = file::directory(path.here(), c"d").unwrap();
        path.down(c"d".to_owned(), below).unwrap();
    }
    assert_eq!(empty(&dir).removed, 5000);
    assert!(is_empty(dir.path()));
}

#[test]
fn stopping_is_quick_and_the_next_start_goes_on() {
    let dir = tempdir().unwrap();
    fill(&dir.path().join("tree"), 300);
    let slow = start(&dir, NonZeroU32::new(50).unwrap());
    let status = until(&slow, |status| status.removed > 3);
    assert_eq!(status.current.as_deref(), Some("tree"));
    assert!(!status.idle);
    let before = Instant::now();
    slow.stop();
    assert!(before.elapsed() < Duration::from_secs(1));
    assert!(dir.path().join("tree").exists());
    assert!(empty(&dir).removed > 250);
    assert!(is_empty(dir.path()));
}

#[test]
fn the_rate_bounds_entries_and_bytes() {
    let now = Instant::now();
    let mut pace = RemovalPace::new(NonZeroU32::new(100).unwrap(), now);
    assert_eq!(pace.charge(0, now), Some(now + Duration::from_millis(10)));
    assert_eq!(pace.charge(10 * CHARGED, now), Some(now + Duration::from_millis(120)));
    let late = now + Duration::from_secs(5);
    // The time that a slow call took is not made up for by a burst.
    assert_eq!(pace.charge(0, late), Some(late + Duration::from_millis(10) - PAUSE));
    let mut fast = RemovalPace::new(NonZeroU32::new(1000).unwrap(), now);
    let waits: Vec<_> = (0..15).filter(|_| fast.charge(0, now).is_some()).collect();
    assert_eq!(waits, (4..15).collect::<Vec<_>>()); // short waits add up
}

#[test]
fn removing_takes_as_long_as_the_rate_says() {
    let dir = tempdir().unwrap();
    for n in 0..100 {
        fs::write(dir.path().join(n.to_string()), "").unwrap();
    }
    let before = Instant::now();
    let trash = start(&dir, NonZeroU32::new(200).unwrap());
    until(&trash, |status| status.idle);
    assert!(before.elapsed() >= Duration::from_millis(450), "{:?}", before.elapsed());
}

#[test]
fn a_large_file_is_cut_in_steps() {
    let dir = tempdir().unwrap();
    let file = File::create_new(dir.path().join("large")).unwrap();
    let check = |file: &File, expected: &[u64]| {
        assert_eq!(lengths(file, &FileStat::of(file).unwrap()).unwrap(), expected);
    };
    // Allocated, but not written.
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 4 * STEP).unwrap();
    check(&file, &[3 * STEP, 2 * STEP, STEP]);
    file.set_len(0).unwrap();
    // Little data with large holes.
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.write_all_at(&[1; 4096], 1 << 40).unwrap();
    let stat = FileStat::of(&file).unwrap();
    let as_if = FileStat { used: STEP + 1, ..stat };
    assert_eq!(lengths(&file, &as_if).unwrap(), [0; 0]);
}

#[test]
fn a_large_file_is_freed_bit_by_bit() {
    let dir = tempdir().unwrap();
    let file = File::create_new(dir.path().join("large")).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 4 * STEP).unwrap();
    drop(file);
    // Each step of 256 MiB is charged like 17 entries, and takes 68 ms.
    let trash = start(&dir, NonZeroU32::new(250).unwrap());
    let status = until(&trash, |status| status.freed > 0);
    assert!(status.freed < 4 * STEP, "{status:?}");
    let size = fs::metadata(dir.path().join("large")).unwrap().len();
    assert!([STEP, 2 * STEP, 3 * STEP].contains(&size), "{size}");
    let status = until(&trash, |status| status.idle);
    assert_eq!(status.removed, 1);
    assert!(status.freed.abs_diff(4 * STEP) < MIB, "{status:?}");
}

#[test]
fn a_large_file_with_another_name_keeps_its_content() {
    let (dir, outside) = (tempdir().unwrap(), tempdir().unwrap());
    let kept = outside.path().join("kept");
    let file = File::create_new(&kept).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 2 * STEP).unwrap();
    fs::hard_link(&kept, dir.path().join("name")).unwrap();
    assert_eq!(empty(&dir).freed, 0);
    assert!(is_empty(dir.path()));
    assert_eq!(fs::metadata(&kept).unwrap().len(), 2 * STEP);
}

fn directories_without_permissions() {
    let dir = tempdir().unwrap();
    let tree = dir.path().join("tree");
    fill(&tree, 7);
    for (name, mode) in [("0", 0), ("1", 0o555), ("2", 0o300), ("", 0)] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    assert_eq!(empty(&dir).removed, 1 + 7 + 7);
    assert!(is_empty(dir.path()));
}

#[test]
fn directories_without_permissions_go() {
    directories_without_permissions();
    let name = "volume::trash::tests::directories_without_permissions_go";
    as_nobody(name, |_| {}, |_| {});
}

/// Makes a file that cannot be removed. Returns whether the file system can do that.
fn pin(path: &Path, change: &str) -> bool {
    Command::new("chattr").arg(change).arg(path).status().is_ok_and(|status| status.success())
}

#[test]
fn what_cannot_be_removed_is_set_aside_until_the_next_start() {
    let dir = tempdir().unwrap();
    let pinned = dir.path().join("tree/3/pinned");
    fill(&dir.path().join("tree"), 70);
    fill(&dir.path().join("other"), 70);
    fs::write(&pinned, "stays").unwrap();
    if !pin(&pinned, "+i") {
        return crate::sys::testing::not_tried("chattr +i fails");
    }
    let trash = start(&dir, FAST);
    let status = until(&trash, |status| status.idle);
    assert_eq!((status.set_aside, status.waiting), (1, 0));
    assert_eq!(status.removed, 78 + 6 + 70); // the directories above it stay
    assert!(pinned.exists() && !dir.path().join("other").exists());
    // It is left alone now, and new entries are removed.
    fs::write(dir.path().join("late"), "").unwrap();
    fs::write(dir.path().join("tree/late"), "").unwrap();
    trash.nudge();
    let status = until(&trash, |status| status.idle);
    assert!(!dir.path().join("late").exists() && dir.path().join("tree/late").exists());
    assert_eq!(status.set_aside, 1);
    trash.stop();
    assert!(pin(&pinned, "-i"));
    assert_eq!(empty(&dir).set_aside, 0);
    assert!(is_empty(dir.path()));
}

#[test]
fn mount_points_stay_and_the_others_go() {
    with_own_mounts(|top| {
        let within = |name| tempfile::Builder::new().prefix(name).tempdir_in(top).unwrap();
        let (dir, outside) = (within("trash"), within("outside"));
        fill(outside.path(), 20);
        fill(&dir.path().join("other"), 20);
        fs::create_dir_all(dir.path().join("tree/tmpfs")).unwrap();
        fs::create_dir_all(dir.path().join("bound")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let mounted = dir.path().join("tree/tmpfs");
        mount("none", &mounted, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(mounted.join("inside"), "stays").unwrap();
        // In the same file system, so only the mount distinguishes them.
        mount_bind(outside.path(), dir.path().join("bound")).unwrap();
        mount_bind(outside.path().join("0/file 0"), dir.path().join("file")).unwrap();
        let status = empty(&dir);
        assert_eq!((status.set_aside, status.removed), (3, 20 + 7 + 1));
        assert_eq!(fs::read(mounted.join("inside")).unwrap(), b"stays");
        assert_eq!(walkdir::WalkDir::new(outside.path()).into_iter().count(), 1 + 7 + 20);
        for path in ["tree/tmpfs", "bound", "file"] {
            unmount(dir.path().join(path), UnmountFlags::empty()).unwrap();
        }
        empty(&dir);
        assert!(is_empty(dir.path()));
    });
}
