//! What is booked to a volume's account is what du(1) finds, whatever was done.

use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use tempfile::TempDir;

use crate::errno::{Errno, Result};
use crate::fs::attr::{Attr, Changes, SetTime, Time};
use crate::fs::create::{NewFile, NewKind};
use crate::fs::flush::{Due, Extent};
use crate::fs::node::Node;
use crate::fs::testing::{VOLUME, Volume, du, volume};
use crate::sched::Patience;

impl Volume {
    /// Applies `op` to its directory and name. The file system refuses some operations, which does
    /// not matter here.
    fn apply(&self, dirs: &[Arc<Node>], op: Op) -> Result<()> {
        let dir = |n: u8| &dirs[usize::from(n) % dirs.len()];
        let name = |n: u8| format!("n{}", n % 6);
        match op {
            Op::Create(d, n) => self.files().create(dir(d), &name(n)).map(drop),
            Op::Mkdir(d, n) => self.files().mkdir(dir(d), &name(n)).map(drop),
            Op::Symlink(d, n, len) => self
                .files()
                .symlink(dir(d), &name(n), &vec![b'x'; 1 + usize::from(len) * 4])
                .map(drop),
            Op::Make(d, n, directory, uid) => {
                let what = if directory { NewKind::Directory } else { NewKind::File };
                let modified = SetTime::To(Time { seconds: 1, nanoseconds: 0 });
                let changes = Changes { uid, modified, ..Changes::default() };
                let new = NewFile::with(what, &changes, 0o700);
                self.files().make(dir(d), &name(n), &new).map(drop)
            }
            Op::Write(d, n, at, len) => {
                let file = self.files().find(dir(d), &name(n))?;
                self.files().write(&file, u64::from(at) * 511, usize::from(len) * 97).map(drop)
            }
            Op::Truncate(d, n, size) => self
                .files()
                .truncate(&*self.files().find(dir(d), &name(n))?, u64::from(size) * 1001),
            Op::Flush(d, n) => self.fs.flush(&self.files().find(dir(d), &name(n))?, Extent::All),
            Op::Remove(d, n) => self.files().remove(dir(d), &name(n)),
            Op::Rmdir(d, n) => self.files().rmdir(dir(d), &name(n)),
            Op::Rename(d, n, e, m) => self.files().rename((dir(d), &name(n)), (dir(e), &name(m))),
            Op::Link(d, n, e, m) => {
                self.files().link(&*self.files().find(dir(d), &name(n))?, dir(e), &name(m))
            }
        }
    }

    /// The directories that the operations work in.
    fn dirs(&self) -> Vec<Arc<Node>> {
        let root = self.files().root();
        let made = ["a", "b"].map(|name| self.files().mkdir(&root, name).unwrap());
        [vec![root], made.to_vec()].concat()
    }

    fn flush(&self) {
        self.fs.flush_all();
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Create(u8, u8),
    Mkdir(u8, u8),
    Symlink(u8, u8, u8),
    /// A file or a directory with attributes, which may be refused.
    Make(u8, u8, bool, Option<u32>),
    Write(u8, u8, u16, u16),
    Truncate(u8, u8, u16),
    Flush(u8, u8),
    Remove(u8, u8),
    Rmdir(u8, u8),
    Rename(u8, u8, u8, u8),
    Link(u8, u8, u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Create(d, n)),
        1 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Mkdir(d, n)),
        1 => any::<(u8, u8, u8)>().prop_map(|(d, n, len)| Op::Symlink(d, n, len)),
        3 => any::<(u8, u8, bool, bool)>().prop_map(|(d, n, directory, refused)| {
            Op::Make(d, n, directory, refused.then_some(u32::MAX))
        }),
        6 => any::<(u8, u8, u16, u16)>().prop_map(|(d, n, at, len)| Op::Write(d, n, at, len % 2000)),
        2 => any::<(u8, u8, u16)>().prop_map(|(d, n, size)| Op::Truncate(d, n, size)),
        1 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Flush(d, n)),
        2 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Remove(d, n)),
        1 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Rmdir(d, n)),
        3 => any::<(u8, u8, u8, u8)>().prop_map(|(d, n, e, m)| Op::Rename(d, n, e, m)),
        2 => any::<(u8, u8, u8, u8)>().prop_map(|(d, n, e, m)| Op::Link(d, n, e, m)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_account_is_what_du_finds(ops in prop::collection::vec(op(), 1..120), mib in 1_u64..40) {
        let volume = volume(mib << 20, Some(20));
        let dirs = volume.dirs();
        for (n, op) in ops.iter().enumerate() {
            let _ = volume.apply(&dirs, *op);
            if n % 40 == 39 {
                volume.flush();
                prop_assert_eq!(volume.account.usage(), du(volume.dir.path()), "after {:?}", op);
            }
        }
        volume.flush();
        let used = volume.account.usage();
        prop_assert_eq!(used, du(volume.dir.path()));
        prop_assert_eq!(volume.account.taken(), used, "something is still held");
        prop_assert_eq!(volume.account.late(), 0);
        // Names are not refused for the room that their directory takes when it grows by them.
        prop_assert!(used.bytes <= (mib << 20) + 8192 && used.inodes <= 20, "{used:?}");
    }
}

/// Stops the others at the end, also by a failure.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_is_counted_while_it_changes_is_what_du_finds() {
    let volume = volume(1 << 30, None);
    let dirs = volume.dirs();
    for n in 0..300 {
        let file = volume.files().create(&dirs[n % 3], &format!("f{n}")).unwrap();
        volume.files().write(&file, 0, n * 50).unwrap();
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let ops: Vec<Op> = (0..3000).map(|_| op().new_tree(&mut runner).unwrap().current()).collect();
    count_beside(10, &volume, &dirs, &ops.chunks(1000).collect::<Vec<_>>());
}

/// Counts `times` while other threads apply the operations, and compares with du(1).
fn count_beside(times: usize, volume: &Volume, dirs: &[Arc<Node>], ops: &[&[Op]]) {
    let (stop, never) = (AtomicBool::new(false), AtomicBool::new(false));
    let counts: Vec<_> = thread::scope(|scope| {
        let _stop = Stop(&stop);
        for ops in ops {
            let stop = &stop;
            scope.spawn(move || {
                for op in ops.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let _ = volume.apply(dirs, *op);
                }
            });
        }
        (0..times).map(|_| volume.fs.count(VOLUME, &never).unwrap().unwrap()).collect()
    });
    volume.flush();
    assert_eq!(volume.account.usage(), du(volume.dir.path()), "{counts:?}");
}

#[test]
fn a_directory_that_is_taken_back_during_a_count_does_not_count() {
    let volume = volume(1 << 30, None);
    let dirs = volume.dirs();
    let refused = |n| [Op::Make(n, n, true, Some(u32::MAX))];
    for _ in 0..10 {
        count_beside(10, &volume, &dirs, &[&refused(0), &refused(1), &refused(2)]);
    }
}

#[test]
fn a_count_finds_what_was_changed_beside_the_server() {
    let volume = volume(1 << 30, None);
    let file = volume.files().create(&volume.files().root(), "file").unwrap();
    volume.files().write(&file, 0, 100_000).unwrap();
    volume.flush();
    fs::create_dir(volume.dir.path().join("beside")).unwrap();
    fs::write(volume.dir.path().join("beside/file"), vec![1; 300_000]).unwrap();
    fs::hard_link(volume.dir.path().join("beside/file"), volume.dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink("/usr", volume.dir.path().join("usr")).unwrap();
    let counted = volume.fs.count(VOLUME, &AtomicBool::new(false)).unwrap().unwrap();
    assert_eq!(counted.usage, du(volume.dir.path()));
    assert!(counted.difference >= 300_000);
}

#[test]
fn sixteen_writers_fill_a_volume_and_no_more() {
    const CAPACITY: u64 = 8 << 20;
    let volume = volume(CAPACITY, None);
    let root = volume.files().root();
    let files: Vec<_> =
        (0..16).map(|n| volume.files().create(&root, &format!("f{n}")).unwrap()).collect();
    thread::scope(|scope| {
        for (n, file) in files.iter().enumerate() {
            let volume = &volume;
            scope.spawn(move || {
                let mut at = 0;
                loop {
                    match volume.files().write(file, at, 60_000 + n) {
                        Ok(count) => at += count as u64,
                        Err(errno) => break assert_eq!(errno, Errno::NOSPC),
                    }
                }
            });
        }
    });
    volume.flush();
    let used = volume.account.usage();
    assert_eq!(used, du(volume.dir.path()));
    assert!(used.bytes <= CAPACITY, "{used:?}");
    assert!(used.bytes > CAPACITY - 16 * 4096, "what would have fitted was refused: {used:?}");
}

#[test]
fn a_full_volume_can_be_overwritten_and_emptied() {
    const CAPACITY: u64 = 1 << 20;
    let volume = volume(CAPACITY, None);
    let (root, mut at) = (volume.files().root(), 0);
    let file = volume.files().create(&root, "file").unwrap();
    while let Ok(count) = volume.files().write(&file, at, 100_000) {
        at += count as u64;
    }
    assert!(at > CAPACITY - 16384, "only {at} bytes fit");
    let all = usize::try_from(at).unwrap();
    assert_eq!(volume.files().write(&file, 0, all), Ok(all));
    assert_eq!(volume.files().write(&file, at - 10, 10), Ok(10));
    assert_eq!(volume.files().create(&root, "other").err(), Some(Errno::NOSPC));
    assert_eq!(volume.files().create(&root, "file").err(), Some(Errno::EXIST));
    assert_eq!(volume.files().mkdir(&root, "other").err(), Some(Errno::NOSPC));
    volume.files().rename((&root, "file"), (&root, "renamed")).unwrap();
    volume.files().truncate(&file, 4096).unwrap();
    volume.files().write(&file, 4096, 50_000).unwrap();
    volume.files().remove(&root, "renamed").unwrap();
    assert_eq!(volume.account.usage().inodes, 1);
    volume.files().create(&root, "other").unwrap();
}

#[test]
fn scattered_blocks_do_not_go_beyond_the_capacity_when_they_are_written_back() {
    const CAPACITY: u64 = 1 << 20;
    for flushed_each in [false, true] {
        let volume = volume(CAPACITY, None);
        let root = volume.files().root();
        let files = ["one", "other"].map(|name| volume.files().create(&root, name).unwrap());
        // Backwards with holes in between, so that each block is an extent of its own.
        let mut at = 1 << 30;
        let written = (0..).take_while(|n| {
            at -= 3 * 4096;
            let file = &files[n % 2];
            let written = volume.files().write(file, at, 4096);
            if flushed_each {
                volume.fs.flush(file, Extent::Data).unwrap();
            }
            written == Ok(4096)
        });
        let written = written.count() as u64 * 4096;
        volume.flush();
        rustix::fs::syncfs(File::open(volume.dir.path()).unwrap()).unwrap();
        let used = du(volume.dir.path());
        assert_eq!((volume.account.usage(), volume.account.taken()), (used, used));
        assert!(used.bytes <= CAPACITY, "{used:?}");
        assert!(written > CAPACITY / 10 * 9, "only {written} bytes fit");
    }
}

#[test]
fn what_is_only_held_keeps_nothing_from_being_made() {
    let volume = volume(72 * 1024, None);
    let root = volume.files().root();
    let file = volume.files().create(&root, "file").unwrap();
    for n in 1..7 {
        volume.files().write(&file, n << 20, 4096).unwrap();
    }
    assert!(volume.account.left() < 5 * 4096 && volume.account.late() > 0);
    let made = (0..4).map(|n| volume.files().mkdir(&root, &n.to_string()).map(drop));
    made.collect::<Result<()>>().unwrap();
    assert!(volume.account.taken().bytes <= 72 * 1024);
}

#[test]
fn what_is_held_for_a_file_that_goes_is_given_back() {
    let volume = volume(1 << 20, None);
    let root = volume.files().root();
    let file = volume.files().create(&root, "file").unwrap();
    volume.files().write(&file, 1 << 20, 4096).unwrap();
    assert!(volume.account.late() > 0);
    let attr = file.attr().unwrap();
    volume.files().remove(&root, "file").unwrap();
    assert!(volume.account.late() == 0);
    // As a call that found it before.
    let guard = volume.fs.lock(&file, Patience::Blocking).unwrap();
    let (who, data) = (volume.files().who, (2 << 20, &[1; 4096][..]));
    volume.fs.write(&file, &attr, &who, data, Patience::Blocking, &guard).unwrap();
    drop((guard, file));
    assert!(volume.account.late() == 0);
}

#[test]
fn births_are_counted_once_however_the_count_ends() {
    let (volume, never) = (volume(1 << 30, None), AtomicBool::new(false));
    let dirs = volume.dirs();
    for round in 0..200 {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for dir in &dirs {
                let (files, done) = (volume.files(), &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        files.create(dir, "file").unwrap();
                        files.remove(dir, "file").unwrap();
                    }
                });
            }
            volume.fs.count(VOLUME, &never).unwrap().unwrap();
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(volume.account.usage(), du(volume.dir.path()), "round {round}");
    }
}

#[test]
fn holes_cost_nothing_until_they_are_filled() {
    let volume = volume(1 << 20, None);
    let file = volume.files().create(&volume.files().root(), "file").unwrap();
    volume.files().truncate(&file, 1 << 40).unwrap();
    volume.files().write(&file, 1 << 39, 4096).unwrap();
    assert!(volume.account.usage().bytes < 32 * 1024);
    // Half of it fits, and half of the answer says so.
    let mut at = 0;
    while let Ok(count) = volume.files().write(&file, at, 300_000) {
        at += count as u64;
    }
    assert!(at > (1 << 20) - 65536 && at < 1 << 20, "{at}");
    // What is there can be written over, up to the hole behind it.
    assert_eq!(volume.files().write(&file, 1 << 39, 4096), Ok(4096));
    assert_eq!(volume.files().write(&file, (1 << 39) + 4096, 1).err(), Some(Errno::NOSPC));
}

#[test]
fn a_file_that_is_written_while_it_is_removed_costs_nothing() {
    let volume = volume(1 << 30, None);
    let root = volume.files().root();
    for round in 0..50 {
        let file = volume.files().create(&root, "file").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| (0..20).for_each(|n| _ = volume.files().write(&file, n * 8192, 8192)));
            scope.spawn(|| volume.files().remove(&root, "file").unwrap());
        });
        drop(file);
        assert_eq!(volume.account.usage(), du(volume.dir.path()), "round {round}");
    }
}

#[test]
fn two_who_remove_the_names_of_a_file_give_it_back_once() {
    let volume = volume(1 << 30, None);
    let dirs = volume.dirs();
    for round in 0..200 {
        let file = volume.files().create(&dirs[1], "one").unwrap();
        volume.files().write(&file, 0, 5000).unwrap();
        volume.files().link(&file, &dirs[2], "two").unwrap();
        drop(file);
        thread::scope(|scope| {
            scope.spawn(|| volume.files().remove(&dirs[1], "one").unwrap());
            scope.spawn(|| volume.files().remove(&dirs[2], "two").unwrap());
        });
        assert_eq!(volume.account.usage(), du(volume.dir.path()), "round {round}");
    }
}

#[test]
fn what_xfs_keeps_ready_is_not_charged() {
    let dir = TempDir::new().unwrap();
    let file = File::create(dir.path().join("file")).unwrap();
    let flags = rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 0, 64 << 20).unwrap();
    file.set_len(8192).unwrap();
    let attr = Attr::of(&file).unwrap();
    assert!(attr.used >= 64 << 20);
    assert!(attr.cost() < 1 << 20, "{}", attr.cost());
}

#[test]
fn what_is_removed_while_it_is_read_is_not_used_and_gives_way_to_who_needs_the_room() {
    let volume = volume(1 << 20, None);
    let files = volume.files();
    let root = files.root();
    let file = files.create(&root, "file").unwrap();
    let written = files.write(&file, 0, 1 << 20).unwrap();
    volume.fs.flush(&file, Extent::All).unwrap();
    assert_eq!(files.read(&file), Ok(written));
    files.remove(&root, "file").unwrap();
    assert_eq!(files.read(&file), Ok(written), "it is still there");
    assert_eq!(volume.account.usage(), du(volume.dir.path()));
    let taken = volume.account.taken();
    assert!(taken.bytes >= written as u64, "{taken:?}: the disk has less room than it seems");
    let other = files.create(&root, "other").unwrap();
    assert!(files.write(&other, 0, written).unwrap() > written - 8192);
    assert_eq!(files.read(&file), Err(Errno::STALE));
    volume.fs.flush(&other, Extent::All).unwrap();
    assert_eq!(volume.account.usage(), du(volume.dir.path()));
}

#[test]
fn what_lingers_is_booked_once_whether_files_are_counted_or_not() {
    let volume = volume(1 << 20, None);
    let files = volume.files();
    let root = files.root();
    for name in ["before", "after"] {
        let file = files.create(&root, name).unwrap();
        files.write(&file, 0, 10_000).unwrap();
        volume.fs.flush(&file, Extent::All).unwrap();
        files.read(&file).unwrap();
        files.remove(&root, name).unwrap();
        if name == "before" {
            volume.fs.count(VOLUME, &AtomicBool::new(false)).unwrap().unwrap();
            assert_eq!(files.read(&file), Err(Errno::STALE), "a count would miss it");
        }
        volume.fs.flush_all();
        assert_eq!(volume.account.usage(), du(volume.dir.path()), "{name}");
        assert_eq!(volume.account.taken(), volume.account.usage(), "{name}");
    }
}

#[test]
fn the_next_flush_begins_when_what_was_held_for_the_one_before_is_given_back() {
    let v = volume(1 << 20, None);
    let file = v.files().create(&v.files().root(), "file").unwrap();
    v.files().write(&file, 0, 1 << 16).unwrap();
    assert!(file.charge.delayed() > 0);
    let before = v.fs.flushes();
    let (told, flushed) = mpsc::channel();
    let due = Due::Content(Arc::clone(&file), Extent::All, file.failures());
    // The flush can book nothing until this ends.
    v.account.book_found(file.fileid, || {
        v.fs.make_durable(due, Box::new(move |flushed| told.send(flushed).unwrap()));
        while v.fs.flushes() == before {
            thread::yield_now();
        }
        for _ in 0..1000 {
            assert!(file.flushing.try_lock().is_none(), "another could begin");
            thread::yield_now();
        }
        0
    });
    flushed.recv().unwrap().unwrap();
    assert_eq!(file.charge.delayed(), 0);
}
