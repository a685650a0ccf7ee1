//! The cache of open files, by handle.
//!
//! It is bounded by descriptors, a share of those that the process may have. A file that is not
//! used is closed after some sweeps, which come once a second, so that the space of a file that is
//! deleted beside the server is freed. A file that was written without a flush is never evicted:
//! the kernel reports a failed write-back once to each open file description.

use std::cell::RefCell;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use quick_cache::sync::{Cache, EntryAction};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use super::handle::Handle;
use super::node::Node;
use super::root::Root;

/// The shards of the counter of hits.
const HIT_SHARDS: usize = 16;

/// The number of the first sweep. No file was read or written shortly before it.
const FIRST_SWEEP: u32 = 1000;

/// The open files.
pub(super) struct NodeCache {
    cache: Cache<Handle, Cached, ByDescriptors, DefaultHashBuilder, PinUnflushed>,
    /// The number of sweeps: the clock by which files are idle.
    now: AtomicU32,
    /// By file, so that threads with different files seldom write the same cache line.
    hits: [HitCounter; HIT_SHARDS],
    misses: AtomicU64,
}

/// A shard of the counter of hits, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct HitCounter(AtomicU64);

/// The work that a sweep leaves.
#[derive(Default)]
pub(super) struct Swept {
    /// Files that would be closed, or lose their write descriptors, if they were flushed.
    pub(super) unflushed: Vec<Arc<Node>>,
    /// Files with write descriptors that nothing needs.
    pub(super) written: Vec<Arc<Node>>,
}

/// The size of the cache, and how well it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Files that are open.
    pub open: usize,
    /// Look-ups that found their file open.
    pub hits: u64,
    /// Files that had to be opened.
    pub misses: u64,
}

/// A file, and the descriptors that the cache counts for it.
#[derive(Clone)]
struct Cached {
    node: Arc<Node>,
    descriptors: u64,
}

impl Cached {
    fn new(node: Arc<Node>) -> Self {
        Self { descriptors: node.descriptors(), node }
    }
}

/// Weighs files by their descriptors, of which one that is written has three.
#[derive(Clone)]
struct ByDescriptors;

impl Weighter<Handle, Cached> for ByDescriptors {
    fn weight(&self, _: &Handle, cached: &Cached) -> u64 {
        cached.descriptors
    }
}

/// Keeps unflushed files from being evicted, and closes evicted files outside of the cache's lock.
#[derive(Clone, Debug, Default)]
struct PinUnflushed;

impl Lifecycle<Handle, Cached> for PinUnflushed {
    type RequestState = Vec<Cached>;

    fn is_pinned(&self, _: &Handle, cached: &Cached) -> bool {
        cached.node.is_pinned()
    }

    fn on_evict(&self, evicted: &mut Vec<Cached>, _: Handle, cached: Cached) {
        evicted.push(cached);
    }
}

impl NodeCache {
    /// Creates a cache for files with `max` descriptors.
    pub(super) fn new(max: usize) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(max)
            .weight_capacity(max as u64)
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        let cache = Cache::with_options(options, ByDescriptors, hasher, PinUnflushed);
        let (hits, misses) = (Default::default(), AtomicU64::new(0));
        Self { cache, now: AtomicU32::new(FIRST_SWEEP), hits, misses }
    }

    /// Returns the file of `handle`, if it is open, and notes the use.
    pub(super) fn get(&self, handle: &Handle) -> Option<Arc<Node>> {
        let node = self.cache.get(handle)?.node;
        #[allow(clippy::cast_possible_truncation)] // below HIT_SHARDS
        let shard = (node.fileid % HIT_SHARDS as u64) as usize;
        self.hits[shard].0.fetch_add(1, Ordering::Relaxed);
        node.note_use(self.now());
        Some(node)
    }

    /// As [`Self::get`], without noting a use.
    pub(super) fn peek(&self, handle: &Handle) -> Option<Arc<Node>> {
        self.cache.peek(handle).map(|cached| cached.node)
    }

    /// Adds a file. If it is open already, returns that and drops `node`.
    pub(super) fn add(&self, node: Arc<Node>) -> Arc<Node> {
        // Counted here and not in `get`: a call that must not block looks twice.
        self.misses.fetch_add(1, Ordering::Relaxed);
        node.note_use(self.now());
        let handle = node.handle;
        let cached = || Ok(Cached::new(node));
        let Ok(cached) = self.cache.get_or_insert_with::<_, Infallible>(&handle, cached);
        cached.node
    }

    /// Returns the number of sweeps until now.
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether there is room for files that no call has requested: a quarter is kept free of them.
    pub(super) fn has_room(&self) -> bool {
        self.cache.weight() < self.cache.capacity() / 4 * 3
    }

    /// Counts the descriptors of a file again, after its content was opened or closed.
    pub(super) fn recount(&self, handle: &Handle) {
        // A file that is no longer cached is not counted.
        let _ = self.cache.entry(handle, None, |_, cached| {
            cached.descriptors = cached.node.descriptors();
            EntryAction::Retain(())
        });
    }

    pub(super) fn stats(&self) -> Stats {
        let hits = self.hits.iter().map(|hits| hits.0.load(Ordering::Relaxed)).sum();
        Stats { open: self.cache.len(), hits, misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Forgets a file: it has lost its last name.
    pub(super) fn remove(&self, handle: &Handle) {
        self.cache.remove(handle);
    }

    /// Forgets all files of an export.
    pub(super) fn forget(&self, root: &Arc<Root>) {
        self.cache.retain(|_, cached| !Arc::ptr_eq(&cached.node.root, root));
    }

    /// Advances the clock. To be called once a second.
    pub(super) fn tick(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes files that were not used for `idle` sweeps, and files without a name. Returns what is
    /// left to be done.
    pub(super) fn sweep(&self, idle: u32) -> Swept {
        let now = self.now();
        let swept = RefCell::new(Swept::default());
        self.cache.retain(|_, Cached { node, .. }| stays(node, now, idle, &mut swept.borrow_mut()));
        swept.into_inner()
    }

    /// Returns the files that are `wanted`. Examines all, and counts no reference to any other.
    pub(super) fn select(&self, wanted: impl Fn(&Node) -> bool) -> Vec<Arc<Node>> {
        let selected = RefCell::new(Vec::new());
        self.cache.retain(|_, Cached { node, .. }| {
            if wanted(node) {
                selected.borrow_mut().push(Arc::clone(node));
            }
            true
        });
        selected.into_inner()
    }
}

/// Whether a sweep leaves a file open. Notes in `swept` what is to be done about it.
fn stays(node: &Arc<Node>, now: u32, idle: u32, swept: &mut Swept) -> bool {
    if node.is_gone() {
        return false;
    }
    if node.dirty.load(Ordering::Relaxed) {
        // Idle writers count, not readers: a file may be read for ever.
        if node.write.idle(now) >= idle {
            swept.unflushed.push(Arc::clone(node));
        }
        return true;
    }
    if node.charge.delayed() > 0 {
        return true; // it is being flushed
    }
    if node.write.is_left(now) {
        swept.written.push(Arc::clone(node));
    }
    node.idle(now) < idle
}

#[cfg(test)]
mod tests {
    use crate::export::ExportId;
    use crate::fs::Fs;
    use crate::fs::flush::Extent;
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::fs::testing::Files;

    const DESCRIPTORS: usize = 600;
    const EXPORT: ExportId = ExportId(1);

    /// The descriptors of all nodes, and how many nodes there are.
    fn open(fs: &Fs) -> (u64, usize) {
        let counted = fs.nodes.cache.iter().map(|(_, cached)| cached.node.descriptors()).sum();
        assert_eq!(fs.nodes.cache.weight(), counted, "what is counted is what there is");
        (counted, fs.stats().open)
    }

    #[test]
    fn as_many_files_are_open_as_there_are_descriptors_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<_> = (0..DESCRIPTORS * 2).map(|number| number.to_string()).collect();
        for name in &names {
            std::fs::write(dir.path().join(name), "content").unwrap();
        }
        let fs = Fs::new(Key::new([1; KEY_LEN]), DESCRIPTORS, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let root = files.root();

        // In each part of the cache the last one may have been opened after it came.
        let cache = &fs.nodes.cache;
        let most = cache.capacity() + 2 * cache.num_shards() as u64;
        let each_has = |descriptors: usize| {
            let (counted, nodes) = open(&fs);
            assert!(counted <= most, "{counted} descriptors");
            let full = DESCRIPTORS / descriptors;
            assert!((full * 2 / 3..=full * 4 / 3).contains(&nodes), "{nodes} nodes");
        };
        names.iter().for_each(|name| drop(files.find(&root, name).unwrap()));
        each_has(1);
        for name in &names {
            let node = files.find(&root, name).unwrap();
            fs.readable(&node).unwrap();
        }
        each_has(2);
        for name in &names {
            let node = files.find(&root, name).unwrap();
            fs.readable(&node).unwrap();
            fs.writable(&node).unwrap();
        }
        each_has(3);
    }

    #[test]
    fn a_descriptor_that_a_flush_closes_is_not_counted_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), DESCRIPTORS, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let root = files.root();
        let file = files.create(&root, "file").unwrap();
        files.write(&file, 0, 1).unwrap();
        let (before, _) = open(&fs);
        fs.flush(&file, Extent::All).unwrap();
        assert!(!file.write.is_open());
        assert_eq!(open(&fs).0, before - 1);
    }
}
