//! What searches find, and what they hold meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::descent_budget::{MIN, PER_DESCENT};
use super::*;
use crate::export::ExportId;
use crate::fs::Fs;
use crate::fs::handle::{Body, Handle, KEY_LEN, Key};
use crate::fs::root::HandleKind;
use crate::fs::testing::Files;
use crate::sched::Patience;

const EXPORT: ExportId = ExportId(1);

/// Serves two deep chains of directories with a file at the end of each; returns the handle of one
/// file.
fn served(dir: &Path, state: &Path, depth: usize) -> (Fs, Handle) {
    let fs = Fs::new(Key::new([1; KEY_LEN]), 64, state).unwrap();
    fs.attach(EXPORT, dir, Some(HandleKind::Path), None).unwrap();
    let files = Files::of(&fs, EXPORT);
    let down = |name: &str| {
        (0..depth).fold(files.root(), |dir, level| {
            let name = if level == 0 { name } else { "d" };
            files.mkdir(&dir, name).unwrap()
        })
    };
    let (one, other) = (down("one"), down("other"));
    files.create(&other, "leaf").unwrap();
    let handle = *files.create(&one, "file").unwrap().handle();
    fs.nodes.sweep(0);
    (fs, handle)
}

fn reopened(state: &Path, dir: &Path) -> Fs {
    let fs = Fs::new(Key::new([1; KEY_LEN]), 64, state).unwrap();
    fs.attach(EXPORT, dir, Some(HandleKind::Path), None).unwrap();
    fs
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_search_takes_few_descriptors_however_deep_it_is() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, handle) = served(dir.path(), state.path(), 300);
    let fs = reopened(state.path(), dir.path()); // without recent entries
    let most = AtomicUsize::new(0);
    let (root, trail) = (fs.root(EXPORT).unwrap(), Trail::parse(body(&handle)).unwrap());
    let (moves, lender, budget) = (&fs.moves, &fs.lender, &fs.descents);
    let search = Search { moves, root: &root, lender, budget };
    let before = descriptors();
    std::thread::scope(|scope| {
        let found = scope.spawn(|| search.find(body(&handle)).map(|file| Attr::of(&file)));
        while !found.is_finished() {
            most.fetch_max(descriptors(), Ordering::Relaxed);
        }
        assert!(trail.is(&found.join().unwrap().unwrap().unwrap()));
    });
    // Other tests open files too, but fewer.
    assert!(most.into_inner() < before + 200);
    fs.node(&handle, Patience::Blocking).unwrap();
}

fn body(handle: &Handle) -> &[u8] {
    let Some(Body::Path(body)) = handle.body() else { panic!("no handle by path") };
    body
}

#[test]
fn a_search_without_descriptors_is_retried() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, handle) = served(dir.path(), state.path(), 3);
    let fs = reopened(state.path(), dir.path());
    let taken: Vec<_> = std::iter::from_fn(|| fs.descents.take().ok()).collect();
    assert_eq!(taken.len() * PER_DESCENT, MIN);
    assert_eq!(fs.node(&handle, Patience::Blocking).err(), Some(Error::Busy));
    drop(taken);
    fs.node(&handle, Patience::Blocking).unwrap();
}
