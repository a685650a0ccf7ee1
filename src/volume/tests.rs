//! The operations on volumes, each with a crash after every step.

mod clones;
mod damaged;
mod labels;
mod model;
mod operations;
mod room;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::error::{Error, VolumeErrorKind};
use super::name::{MountToken, VolumeDirectory, VolumeId, VolumeName};
use super::spec::{OnDelete, QuotaMode, Spec, VolumePhase, VolumeStatus};
use super::{
    CapacityChange, DataPlane, Reclaimed, VolumeOrigin, VolumeSettings, Volumes, clone_note,
    registry,
};
use crate::errno::Errno;
use crate::export::table::Exports;
use crate::fs::Fs;
use crate::fs::handle::{KEY_LEN, Key};
use crate::fs::testing::{Files, du};
use crate::quota::Usage;

const MIB: u64 = 1 << 20;

/// A directory with volumes, which can be opened several times.
struct VolumesDirectory {
    dir: TempDir,
}

/// The volumes of one run of a server.
struct TestRun {
    volumes: Arc<Volumes>,
    fs: Arc<Fs>,
    exports: Arc<Exports>,
    _state: TempDir,
}

fn name(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn spec(of: &str) -> Spec {
    Spec::new(name(of), VolumeId::new(format!("id-{of}")).unwrap(), 16 * MIB)
}

impl VolumesDirectory {
    fn new() -> Self {
        Self { dir: TempDir::with_prefix("volumes-").unwrap() }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    fn open(&self) -> TestRun {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<TestRun, Error> {
        self.try_open_with(None)
    }

    fn try_open_with(&self, overcommit: Option<u32>) -> Result<TestRun, Error> {
        let state = TempDir::new().unwrap();
        let fs = Arc::new(Fs::new(Key::new([7; KEY_LEN]), 4096, state.path()).unwrap());
        let exports = Arc::<Exports>::default();
        let serving = DataPlane {
            fs: Arc::clone(&fs),
            exports: Arc::clone(&exports),
            handles: None,
            open_to_users: false,
        };
        let recount = Duration::ZERO;
        let dir = self.dir.path().into();
        let settings = VolumeSettings { dir, purge_rate: 1_000_000, recount, overcommit };
        let volumes = Volumes::open(&settings, serving)?;
        Ok(TestRun { volumes, fs, exports, _state: state })
    }

    /// Returns all files with their content, by path, without Berth's own.
    fn content(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let walk = walkdir::WalkDir::new(self.dir.path()).min_depth(1);
        let walk = walk.into_iter().filter_entry(|entry| entry.file_name() != ".berth");
        for entry in walk.map(Result::unwrap) {
            let path = entry.path().strip_prefix(self.dir.path()).unwrap();
            let content = fs::read_to_string(entry.path()).unwrap_or_default();
            found.insert(path.to_str().unwrap().to_owned(), content);
        }
        found
    }

    /// Lists one of Berth's own folders.
    fn own(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(".berth").join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl TestRun {
    fn create(&self, of: &str) -> Result<VolumeStatus, Error> {
        self.volumes.create(spec(of), VolumeOrigin::Fresh)
    }

    fn names(&self) -> Vec<String> {
        self.volumes.list().iter().map(|status| status.spec.name.to_string()).collect()
    }

    /// Waits until nothing is in progress for a volume, and returns its status.
    fn settled(&self, of: &str) -> VolumeStatus {
        let start = Instant::now();
        loop {
            let status = self.volumes.show(&name(of)).unwrap();
            if !matches!(status.phase, VolumePhase::Cloning { .. } | VolumePhase::Counting) {
                return status;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", status.phase);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns the usage of all exported volumes, by path.
    fn exported(&self) -> Vec<String> {
        let table = self.exports.load();
        let path = |export: &Arc<crate::export::Export>| {
            assert!(self.fs.serves(export.id, &export.dir), "{export} is not attached");
            String::from_utf8(export.path.clone()).unwrap()
        };
        let mut paths: Vec<_> = table.iter().map(path).collect();
        paths.sort();
        paths
    }

    fn trash_is_empty(&self) -> bool {
        let status = self.volumes.trash();
        status.idle && status.waiting == 0
    }

    fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{what}: {:?}",
                self.volumes.trash()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for TestRun {
    fn drop(&mut self) {
        // A crash ends these, too; nothing is written.
        self.volumes.stop_clones();
        self.volumes.scanner.get().unwrap().stop(|| self.volumes.ledger.wake());
    }
}

/// Runs `operation` on what `prepare` has made, with a crash after the first step, the second, and
/// so on until it completes. After each crash the volumes are opened again, `check` is called with
/// whether the operation completed, and the operation is repeated.
fn crash_everywhere(
    prepare: impl Fn(&TestRun, &VolumesDirectory),
    operation: impl Fn(&TestRun) -> Result<(), Error>,
    check: impl Fn(&TestRun, &VolumesDirectory, bool),
) {
    for step in 1.. {
        let place = VolumesDirectory::new();
        let run = place.open();
        prepare(&run, &place);
        run.volumes.layout.crash.after(step);
        let result = operation(&run);
        let reached = run.volumes.layout.crash.reached();
        assert_eq!(result.is_err(), reached, "step {step}: {result:?}");
        drop(run);
        let run = place.open();
        assert!(place.own("making").is_empty() && place.own("leaving").is_empty(), "step {step}");
        check(&run, &place, !reached);
        match operation(&run) {
            Ok(()) => {}
            Err(error) if error.kind() == VolumeErrorKind::NotFound => {}
            Err(error) => panic!("step {step}: {error}"),
        }
        check(&run, &place, true);
        run.eventually("the trash is emptied", || run.trash_is_empty());
        assert!(place.own("trash").is_empty(), "step {step}");
        if !reached {
            assert!(step > 1, "there was nothing to crash in");
            return;
        }
    }
}

fn with_a_file(run: &TestRun, place: &VolumesDirectory) {
    run.create("a").unwrap();
    run.create("other").unwrap();
    fs::write(place.path("a/file"), "content").unwrap();
    fs::write(place.path("other/file"), "of the other").unwrap();
}

/// Checks that the other volume is unchanged.
fn other_is_whole(run: &TestRun, place: &VolumesDirectory) {
    assert_eq!(fs::read_to_string(place.path("other/file")).unwrap(), "of the other");
    assert!(run.exported().contains(&"/other".to_owned()));
}

#[test]
fn a_crash_while_creating_leaves_a_volume_or_none() {
    crash_everywhere(
        |_, _| (),
        |run| run.create("a").map(drop),
        |run, place, done| {
            let names = run.names();
            assert!(names == ["a"] || names.is_empty() && !done, "{names:?}");
            assert_eq!(place.content().keys().cloned().collect::<Vec<_>>(), names);
            assert_eq!(run.exported().len(), names.len());
            if !names.is_empty() {
                let mode = fs::metadata(place.path("a")).unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, 0o777);
                assert_eq!(run.settled("a").phase, VolumePhase::Ready);
            }
        },
    );
}

#[test]
fn a_crash_while_deleting_leaves_the_volume_whole_or_nothing() {
    crash_everywhere(
        with_a_file,
        |run| run.volumes.reclaim(&name("a"), Some(OnDelete::Delete)).map(drop),
        |run, place, done| {
            other_is_whole(run, place);
            if run.names().contains(&"a".to_owned()) {
                assert!(!done);
                assert_eq!(place.content()["a/file"], "content");
                assert!(run.exported().contains(&"/a".to_owned()));
            } else {
                assert!(!place.content().contains_key("a"));
                assert_eq!(run.exported(), ["/other"]);
            }
        },
    );
}

#[test]
fn a_crash_while_archiving_loses_nothing() {
    crash_everywhere(
        with_a_file,
        |run| run.volumes.reclaim(&name("a"), Some(OnDelete::Archive)).map(drop),
        |run, place, done| {
            other_is_whole(run, place);
            let content = place.content();
            let archived: Vec<_> =
                content.iter().filter(|(path, _)| path.starts_with("archived-a-")).collect();
            if run.names().contains(&"a".to_owned()) {
                assert!(!done);
                assert_eq!((content["a/file"].as_str(), archived.len()), ("content", 0));
            } else {
                assert_eq!(archived.len(), 2, "{archived:?}");
                assert_eq!(archived[1].1, "content");
                assert!(!content.contains_key("a"));
            }
        },
    );
}

#[test]
fn a_crash_while_recycling_leaves_the_old_content_or_none() {
    crash_everywhere(
        with_a_file,
        |run| run.volumes.reclaim(&name("a"), Some(OnDelete::Recycle)).map(drop),
        |run, place, done| {
            other_is_whole(run, place);
            assert_eq!(run.exported(), ["/a", "/other"]);
            match place.content().get("a/file") {
                Some(content) => assert!(!done && content == "content"),
                None => assert!(place.content().contains_key("a")),
            }
            assert_eq!(run.settled("a").phase, VolumePhase::Ready);
        },
    );
}

#[test]
fn an_end_that_failed_is_asked_for_again_without_a_restart() {
    for how in [OnDelete::Recycle, OnDelete::Delete, OnDelete::Archive] {
        for step in 1.. {
            let place = VolumesDirectory::new();
            let run = place.open();
            with_a_file(&run, &place);
            let old = run.exports.load().locate(b"/a").unwrap().0.id;
            run.volumes.layout.crash.after(step);
            let first = run.volumes.reclaim(&name("a"), Some(how));
            let failed = run.volumes.layout.crash.reached();
            assert_eq!(first.is_err(), failed, "{how:?} {step}: {first:?}");
            run.volumes.layout.crash.heal();
            if !failed {
                assert!(step > 3, "there was nothing to fail in");
                break;
            }
            let again = run.volumes.reclaim(&name("a"), Some(how));
            assert!(again.is_ok(), "{how:?} {step}: {again:?}");
            assert_eq!(run.fs.locate(old, b"").err(), Some(Errno::STALE), "{how:?} {step}");
            assert!(!place.path("a/file").exists());
            let there =
                if how == OnDelete::Recycle { vec!["/a", "/other"] } else { vec!["/other"] };
            assert_eq!(run.exported(), there, "{how:?} {step}");
            other_is_whole(&run, &place);
            drop(run);
            assert_eq!(place.open().exported(), there, "{how:?} {step}");
        }
    }
}

#[test]
fn a_crash_while_expanding_leaves_one_of_the_two_capacities() {
    let wish = CapacityChange { capacity: Some(32 * MIB), ..CapacityChange::default() };
    crash_everywhere(
        with_a_file,
        |run| run.volumes.expand(&name("a"), wish).map(drop),
        |run, place, done| {
            let capacity = run.settled("a").spec.capacity;
            assert!(capacity == 32 * MIB || capacity == 16 * MIB && !done);
            assert_eq!(place.content()["a/file"], "content");
        },
    );
}

#[test]
fn a_crash_while_adopting_leaves_the_folder_as_it_is() {
    crash_everywhere(
        |_, place| {
            fs::create_dir(place.path("a")).unwrap();
            fs::write(place.path("a/file"), "content").unwrap();
        },
        |run| run.volumes.create(spec("a"), VolumeOrigin::Adopt).map(drop),
        |run, place, done| {
            assert_eq!(place.content()["a/file"], "content");
            if done {
                let status = run.settled("a");
                assert_eq!((status.phase, status.inodes_used), (VolumePhase::Ready, 2));
            }
        },
    );
}

#[test]
fn a_crash_while_ending_a_nested_volume_leaves_no_empty_directories() {
    let nested = |run: &TestRun, place: &VolumesDirectory| {
        with_a_file(run, place);
        let directory = Some(VolumeDirectory::new("x/y/n").unwrap());
        run.volumes.create(Spec { directory, ..spec("n") }, VolumeOrigin::Fresh).unwrap();
    };
    for how in [OnDelete::Delete, OnDelete::Archive] {
        let end = |run: &TestRun| run.volumes.reclaim(&name("n"), Some(how)).map(drop);
        crash_everywhere(nested, end, |run, place, _| {
            other_is_whole(run, place);
            let there = run.names().contains(&"n".to_owned());
            assert_eq!(place.path("x").exists(), there, "{how:?}");
        });
    }
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).into()
}
