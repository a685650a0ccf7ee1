//! Files appear complete or not at all, and are charged once.

use super::*;
use crate::fs::attr::Time;
use crate::fs::handle::{KEY_LEN, Key};
use crate::fs::testing::{Files, du, volume};
use std::path::Path;

const EXPORT: ExportId = ExportId(1);

fn served(dir: &Path, state: &Path) -> Fs {
    let fs = Fs::new(Key::new([1; KEY_LEN]), 64, state).unwrap();
    fs.attach(EXPORT, dir, None, None).unwrap();
    fs
}

fn records(state: &Path) -> usize {
    std::fs::read_dir(state.join("making")).map_or(0, Iterator::count)
}

#[test]
fn a_directory_that_others_use_before_it_is_complete_is_theirs() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fs = served(dir.path(), state.path());
    let files = Files::of(&fs, EXPORT);
    let new = NewFile::with(NewKind::Directory, &Changes::default(), 0o700);
    let root = files.root();
    let guard = fs.lock(&root, Patience::Blocking).unwrap();
    let refused_and = |name: &[u8], used: bool| {
        let name = dir.path().join(std::str::from_utf8(name).unwrap());
        if used {
            std::fs::write(name.join("file"), "content").unwrap();
        }
        assert_eq!(records(state.path()), 1);
        Err(Errno::PERM)
    };
    for used in [false, true] {
        let rename = |name: &[u8]| refused_and(name, used);
        let made = fs.make_under_temp_name(&root, &new, &files.who, &guard, rename);
        assert_eq!(made, Err(Errno::PERM));
        assert_eq!(records(state.path()), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(used));
    }
}

#[test]
fn a_file_that_is_written_before_its_creator_has_opened_it_is_charged_once() {
    let volume = volume(1 << 20, None);
    let (files, root) = (volume.files(), volume.files().root());
    let guard = volume.fs.lock(&root, Patience::Blocking).unwrap();
    let hold = volume.fs.hold_birth(&root, b"new", 0, &guard).unwrap();
    std::fs::write(volume.dir.path().join("new"), "").unwrap();
    files.write(&files.find(&root, "new").unwrap(), 0, 20_000).unwrap();
    let (node, _) = volume.fs.find_created(&root, b"new").unwrap();
    volume.fs.charge_birth(&node, hold);
    root.recharge();
    drop(guard);
    volume.fs.flush_all();
    assert_eq!(volume.account.usage(), du(volume.dir.path()));
}

#[test]
fn files_that_an_earlier_run_left_are_removed_unless_others_use_them() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let fs = served(dir.path(), state.path());
    let root = Files::of(&fs, EXPORT).root();
    let begin = || {
        let temp = fs.temp_names.begin(root.handle()).unwrap();
        let path = dir.path().join(std::str::from_utf8(temp.as_bytes()).unwrap());
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (used, left) = (begin(), begin());
    std::fs::write(used.join("file"), "content").unwrap();
    assert_eq!(records(state.path()), 2);
    drop((root, fs));
    let _fs = served(dir.path(), state.path());
    assert_eq!(records(state.path()), 0);
    assert!(used.exists() && !left.exists());
}

#[test]
fn files_are_created_in_an_append_only_directory() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let chattr = |change: &str| {
        let changed = std::process::Command::new("chattr").arg(change).arg(dir.path()).status();
        changed.is_ok_and(|status| status.success())
    };
    if !chattr("+a") {
        return crate::sys::testing::not_tried("chattr +a fails");
    }
    let fs = served(dir.path(), state.path());
    let files = Files::of(&fs, EXPORT);
    let changes = Changes { modified: SetTime::To(TIME), ..Changes::default() };
    let whats = [NewKind::Directory, NewKind::File, NewKind::Symlink(b"to"), NewKind::Fifo];
    let made: Vec<_> = (whats.iter().enumerate())
        .map(|(n, what)| {
            let new = NewFile::with(*what, &changes, 0o700);
            let made = files.make(&files.root(), &n.to_string(), &new);
            made.and_then(|node| Ok(node.attr()?.modified))
        })
        .collect();
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert!(chattr("-a"));
    assert_eq!(made, [Ok(TIME); 4]);
    assert_eq!((names, records(state.path())), (4, 0));
}

const TIME: Time = Time { seconds: 1_000_000_000, nanoseconds: 0 };
