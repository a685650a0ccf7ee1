//! Searches: what they find, and what they hold meanwhile.

use super::*;
use crate::export::ExportId;
use crate::fs::handle::{Handle, KEY_LEN, Key};
use crate::fs::testing::Files;
use crate::sched::Patience;

const EXPORT: ExportId = ExportId(1);

/// Two deep ways, at the end of one of which is a file; and what lies beside them.
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

fn anew(state: &Path, dir: &Path) -> Fs {
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
    let fs = anew(state.path(), dir.path()); // which has seen no names
    let most = AtomicUsize::new(0);
    let (root, trail) = (fs.root(EXPORT).unwrap(), Trail::parse(body(&handle)).unwrap());
    let (moves, lender, searches) = (&fs.moves, &fs.lender, &fs.searches);
    let search = Search { moves, root: &root, lender, searches };
    let before = descriptors();
    std::thread::scope(|scope| {
        let found = scope.spawn(|| search.find(body(&handle)).map(|file| Attr::of(&file)));
        while !found.is_finished() {
            most.fetch_max(descriptors(), Ordering::Relaxed);
        }
        assert!(trail.is(&found.join().unwrap().unwrap().unwrap()));
    });
    // Other tests open files, too, but not so many.
    assert!(most.into_inner() < before + 200);
    fs.node(&handle, Patience::Blocking).unwrap();
}

fn body(handle: &Handle) -> &[u8] {
    let Some(Body::Path(body)) = handle.body() else { panic!("no handle by path") };
    body
}

#[test]
fn searches_that_find_no_descriptors_are_made_later() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, handle) = served(dir.path(), state.path(), 3);
    let fs = anew(state.path(), dir.path());
    let taken: Vec<_> = std::iter::from_fn(|| fs.searches.share().ok()).collect();
    assert_eq!(taken.len() * SHARE, SEARCHES_MIN);
    assert_eq!(fs.node(&handle, Patience::Blocking).err(), Some(Errno::AGAIN));
    drop(taken);
    fs.node(&handle, Patience::Blocking).unwrap();
}
