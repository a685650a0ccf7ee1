//! Each listing is that of the directory as it is, whatever is remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::Instant;

use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use super::listing_cache::OPEN_AFTER;
use super::*;
use crate::export::ExportId;
use crate::fs::IDLE_SWEEPS;
use crate::fs::handle::{KEY_LEN, Key};
use crate::fs::testing::Files;
use crate::sys::mounts::with_own;

const EXPORT: ExportId = ExportId(1);

/// A directory that is served.
struct Shared {
    fs: Fs,
    dir: TempDir,
    _state: TempDir,
}

type Seen = BTreeMap<String, (Attr, Handle)>;

/// A directory in which nothing changes any more.
fn shared(fill: impl FnOnce(&Path)) -> Shared {
    let (dir, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fill(dir.path());
    let fs = Fs::new(Key::new([1; KEY_LEN]), 64, state.path()).unwrap();
    fs.attach(EXPORT, dir.path(), None, None).unwrap();
    let shared = Shared { fs, dir, _state: state };
    shared.settle();
    shared
}

impl Shared {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Lists with attributes and handles, `page` entries at a time; does something after each page.
    fn pages(&self, page: usize, mut between: impl FnMut()) -> Seen {
        let (root, who) = (Files::of(&self.fs, EXPORT).root(), self.fs.switch.server());
        let (mut seen, mut cookie, mut ended) = (Seen::new(), 0, false);
        while !ended {
            let (mut room, from) = (page, cookie);
            let each = |listed: Listed<'_>| {
                if room == 0 {
                    return ControlFlow::Break(());
                }
                (room, cookie) = (room - 1, listed.entry.cookie);
                let name = listed.entry.name.to_str().unwrap();
                if let Some(found) = self.fs.look_up_listed(&root, &listed)
                    && ![".", ".."].contains(&name)
                {
                    let twice = seen.insert(name.to_owned(), found);
                    assert!(twice.is_none(), "{name} came twice");
                }
                ControlFlow::Continue(())
            };
            ended = self.fs.list(&root, who, (from, 4096), each).unwrap();
            between();
        }
        seen
    }

    fn list(&self) -> Seen {
        self.pages(usize::MAX, || ())
    }

    /// Lists so often that the files are kept open.
    fn list_often(&self) -> Seen {
        (0..OPEN_AFTER + 2).map(|_| self.list()).last().unwrap()
    }

    /// Whether a listing is that of the directory as the kernel has it, and so are the numbers.
    fn is_seen(&self) -> bool {
        let numbers = |name: &String| fs::symlink_metadata(self.path(name)).unwrap().ino();
        let seen = self.list();
        let found = seen.iter().map(|(name, (attr, _))| (name.clone(), attr.fileid));
        found.eq(self.names().iter().map(|name| (name.clone(), numbers(name))))
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Waits until the list may be remembered.
    fn settle(&self) {
        let root = Files::of(&self.fs, EXPORT).root();
        while !is_over(root.attr().unwrap().changed) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether lists are remembered here.
    fn remembers(&self) -> bool {
        let root = Files::of(&self.fs, EXPORT).root();
        root.root.handles == HandleKind::Kernel && root.is_written_to_memory()
    }

    /// Whether the list as it is now is remembered from its start on; true where lists never are.
    fn is_remembered(&self) -> bool {
        let version = self.fs.current_version(&Files::of(&self.fs, EXPORT).root()).unwrap();
        !self.remembers()
            || version.is_some_and(|version| self.fs.listings.chunks.get(&version, 0, 0).is_some())
    }
}

fn make(path: &Path) {
    fs::write(path, "").unwrap();
}

fn fill(dir: &Path, files: usize) {
    for number in 0..files {
        make(&dir.join(format!("file-with-a-long-name-{number:05}")));
    }
}

#[test]
fn a_change_beside_the_server_is_seen_by_the_next_listing() {
    let s = shared(|dir| fill(dir, 10));
    let changes: [&dyn Fn(); 4] = [
        &|| make(&s.path("made")),
        &|| fs::rename(s.path("made"), s.path("renamed")).unwrap(),
        &|| fs::remove_file(s.path("renamed")).unwrap(),
        &|| fs::create_dir(s.path("folder")).unwrap(),
    ];
    for change in changes {
        s.list_often();
        assert!(s.is_seen() && s.is_remembered());
        change();
        assert!(s.is_seen());
        s.settle();
    }
}

#[test]
fn changes_in_quick_succession_are_all_seen() {
    let s = shared(|dir| fill(dir, 10));
    for round in 0..1000 {
        let names = [s.path(&format!("a{round}")), s.path(&format!("b{round}"))];
        make(&names[0]);
        assert!(s.is_seen(), "round {round}");
        fs::rename(&names[0], &names[1]).unwrap();
        assert!(s.is_seen(), "round {round}");
        if round % 200 == 0 {
            s.settle(); // so that there is what could be false
            assert!(s.is_seen() && s.is_remembered(), "round {round}");
        }
        fs::remove_file(&names[1]).unwrap();
        assert!(s.is_seen(), "round {round}");
    }
}

#[test]
fn changes_by_several_at_a_time_are_seen_once_they_are_done() {
    let s = shared(|dir| fill(dir, 10));
    thread::scope(|scope| {
        for name in ["one", "other"] {
            let file = s.path(name);
            let s = &s;
            scope.spawn(move || {
                for round in 0..60 {
                    make(&file);
                    assert!(s.list().contains_key(name), "round {round}");
                    if round % 5 == 0 {
                        thread::sleep(2 * TICK); // the other, too, may have no change for now
                    }
                    assert!(s.list().contains_key(name), "round {round}");
                    fs::remove_file(&file).unwrap();
                    assert!(!s.list().contains_key(name), "round {round}");
                }
            });
        }
    });
}

#[test]
fn a_list_that_has_just_changed_is_not_remembered() {
    let s = shared(|dir| fill(dir, 10));
    assert!(s.is_seen() && s.is_remembered());
    let start = Instant::now();
    make(&s.path("made"));
    s.list();
    let lists = s.fs.listings.chunks.len();
    if start.elapsed() < TICK && s.remembers() {
        assert_eq!(lists, 2); // that before the change, and its end
    }
}

#[test]
fn a_file_that_takes_the_place_of_another_has_its_own_handle() {
    let s = shared(|dir| ["file", "new"].iter().for_each(|name| make(&dir.join(name))));
    let before = s.list_often();
    fs::rename(s.path("new"), s.path("file")).unwrap();
    let after = s.list();
    assert_eq!(after["file"].1, before["new"].1);
    assert_ne!(after["file"].1, before["file"].1);
    let files = Files::of(&s.fs, EXPORT);
    assert_eq!(files.find(&files.root(), "file").unwrap().handle(), &after["file"].1);
}

#[test]
fn attributes_are_those_of_the_moment() {
    let s = shared(|dir| fill(dir, 3));
    let name = "file-with-a-long-name-00001";
    let (before, after) = (s.list_often()[name].0, || s.list()[name].0);
    assert!(s.is_remembered());
    fs::set_permissions(s.path(name), PermissionsExt::from_mode(0o751)).unwrap();
    assert_ne!(before.mode, 0o751);
    assert_eq!(after().mode, 0o751);
    fs::OpenOptions::new().append(true).open(s.path(name)).unwrap().write_all(b"more").unwrap();
    assert_eq!((before.size, after().size), (0, 4));
    assert!(s.is_remembered());
}

#[test]
fn a_list_that_is_asked_for_again_remembers_handles() {
    let s = shared(|dir| fill(dir, 3));
    let (root, who) = (Files::of(&s.fs, EXPORT).root(), s.fs.switch.server());
    let known = || {
        let mut known = 0;
        let each = |listed: Listed<'_>| {
            let attr = Attr::of_entry(&*root, listed.entry.name).unwrap();
            known += usize::from(listed.handle(&attr).is_some());
            s.fs.look_up_listed(&root, &listed);
            ControlFlow::Continue(())
        };
        s.fs.list(&root, who, (0, 4096), each).unwrap();
        known
    };
    let all = if s.remembers() && root.attr().unwrap().born.is_some() { 3 } else { 0 };
    assert_eq!((known(), known()), (0, 0));
    assert!(known() >= all);
}

#[test]
fn files_that_are_listed_often_are_open_as_long_as_they_are_listed() {
    let s = shared(|dir| fill(dir, 3));
    let root = Files::of(&s.fs, EXPORT).root(); // open, too
    assert_eq!(s.list().len(), 3);
    assert_eq!(s.fs.stats().open, 1);
    s.list_often();
    if !s.remembers() {
        return;
    }
    assert_eq!(s.fs.stats().open, 4);
    // Attributes come from there: what is gone has none, whatever else is known of it.
    let name = "file-with-a-long-name-00001";
    let handle = s.list()[name].1;
    assert!(s.fs.nodes.get(&handle).is_some());
    fs::remove_file(s.path(name)).unwrap();
    assert!(!s.list().contains_key(name) && s.is_seen());
    // And its space comes back though the others are listed all the time.
    for _ in 0..2 * IDLE_SWEEPS {
        assert_eq!(s.list().len(), 2);
        s.fs.sweep();
    }
    assert!(s.fs.nodes.peek(&handle).is_none());
    drop(root);
}

#[test]
fn files_that_are_listed_now_and_then_are_not_opened() {
    let s = shared(|dir| fill(dir, 3));
    let _root = Files::of(&s.fs, EXPORT).root();
    for _ in 0..2 * OPEN_AFTER {
        assert_eq!(s.list().len(), 3);
        (0..IDLE_SWEEPS).for_each(|_| s.fs.sweep());
    }
    assert_eq!(s.fs.stats().open, 1);
}

#[test]
fn no_more_files_are_kept_open_than_three_quarters_of_what_may_be() {
    let s = shared(|dir| fill(dir, 200));
    assert_eq!(s.list_often().len(), 200);
    let open = s.fs.stats().open;
    assert!(open <= 48, "{open} files are open");
    assert_eq!(s.list_often().len(), 200);
}

#[test]
fn who_may_not_find_files_is_told_nothing_of_those_that_are_open() {
    let s = shared(|dir| fill(dir, 3));
    if !s.fs.switch.can_switch() {
        return sys::testing::not_tried("the server cannot act as another user");
    }
    fs::set_permissions(s.dir.path(), PermissionsExt::from_mode(0o744)).unwrap();
    s.settle();
    s.list_often();
    let root = Files::of(&s.fs, EXPORT).root();
    let found_by = |who: &Identity| {
        let mut found = 0;
        let each = |listed: Listed<'_>| {
            found += usize::from(s.fs.look_up_listed(&root, &listed).is_some());
            ControlFlow::Continue(())
        };
        s.fs.list(&root, who, (0, 4096), each).unwrap();
        found
    };
    assert_eq!(found_by(&Identity::new(1000, 1000, [])), 0);
    assert_eq!(found_by(s.fs.switch.server()), 5); // with . and ..
}

#[test]
fn a_file_of_a_snapshot_is_not_taken_for_the_original() {
    let shared = shared(|dir| fill(dir, 1));
    let root = Files::of(&shared.fs, EXPORT).root();
    let (_, (original, handle)) = shared.list().into_iter().next().unwrap();
    let known = (shared.remembers() && original.born.is_some()).then_some(handle);
    assert_eq!(shared.fs.listings.handle(&root.root, &original), known);
    let filesystem = (original.filesystem.0, original.filesystem.1 + 1);
    let copy = Attr { filesystem, ..original };
    assert_eq!(shared.fs.listings.handle(&root.root, &copy), None);
    assert!(!shared.fs.listings.remember_handle(&root.root, &copy, handle));
}

#[test]
fn pages_of_any_size_give_every_entry_once() {
    let s = shared(|dir| fill(dir, 3000)); // four chunks
    let names = s.names();
    for page in [1000, 7, 1, 641, 3002, 1] {
        assert!(s.pages(page, || ()).into_keys().eq(names.iter().cloned()), "{page} at a time");
        assert!(s.is_remembered());
    }
}

#[test]
fn what_stays_comes_once_whatever_comes_and_goes_between_the_pages() {
    let s = shared(|dir| fill(dir, 3000));
    for page in [100, 333] {
        let (mut step, all) = (0, s.names());
        let mut gone = BTreeSet::new();
        let seen = s.pages(page, || {
            step += 1;
            if step % 3 != 0 {
                make(&s.path(&format!("new-{page}-{step}")));
                let name = all.iter().nth(step * page * 7 % all.len()).unwrap();
                if gone.insert(name.clone()) {
                    fs::remove_file(s.path(name)).unwrap();
                }
            } else if step % 6 == 0 {
                s.settle(); // the next pages are remembered
            }
        });
        assert!(!gone.is_empty());
        for name in all.difference(&gone) {
            assert!(seen.contains_key(name), "{name} did not come");
        }
        assert!(s.is_seen());
    }
}

#[test]
fn what_is_mounted_over_a_name_is_not_shown() {
    with_own(|| {
        let s = shared(|dir| {
            ["folder", "other"].iter().for_each(|name| fs::create_dir(dir.join(name)).unwrap());
            ["file", "under"].iter().for_each(|name| make(&dir.join(name)));
        });
        let before = s.list_often();
        assert!(before.len() == 4 && s.is_remembered());
        for (above, below) in [("other", "folder"), ("file", "under")] {
            rustix::mount::mount_bind(s.path(above), s.path(below)).unwrap();
        }
        let during = s.list_often();
        for below in ["folder", "under"] {
            rustix::mount::unmount(s.path(below), UnmountFlags::DETACH).unwrap();
        }
        assert_eq!(during.into_keys().collect::<Vec<_>>(), ["file", "other"]);
        let handles = |seen: &Seen| seen.values().map(|(_, handle)| *handle).collect::<Vec<_>>();
        assert_eq!(handles(&s.list()), handles(&before));
    });
}

#[test]
fn a_moment_is_over_when_the_clock_of_files_has_gone_on() {
    let check = |nanoseconds, millis, expected| {
        let now = Duration::new(1000, nanoseconds) + Duration::from_millis(millis);
        let time = Time { seconds: 1000, nanoseconds };
        assert_eq!(is_over_at(time, now), expected, "{nanoseconds} ns, {millis} ms later");
    };
    check(5, 0, false);
    check(5, 100, false);
    check(5, 101, true);
    // Perhaps a clock of seconds, or of two.
    check(0, 101, false);
    check(0, 2000, false);
    check(0, 2101, true);
    // The clock was set back.
    assert!(!is_over_at(Time { seconds: 1000, nanoseconds: 5 }, Duration::from_secs(999)));
}
