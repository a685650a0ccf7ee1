//! Open files: what stands behind a handle while it is in use.
//!
//! A [`Node`] holds a descriptor that need not have access to the content (O_PATH): enough for
//! attributes and for the names in a directory. The content is opened when it is first read or
//! written. Nodes are cached by handle, with at most a share of the descriptors that the process
//! may have, and closed after seconds without use, so that the space of files that are deleted
//! beside the server comes back. The descriptor for writing goes earlier ([`super::writing`]). One
//! that was written without a flush stays until that is made up: the kernel reports a failed
//! write-back once to each open description.

use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::sync::EntryAction;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};
use rustix::fs::{Mode, OFlags};

use super::attr::{Attr, Kind};
use super::charge::Charge;
use super::flush::Wanted;
use super::group::Group;
use super::handle::Handle;
use super::root::Root;
use super::writing::{Content, Writing};
use crate::errno::{Errno, Result};
use crate::sys;

/// An open file of an export.
pub struct Node {
    /// The export that it was reached through.
    pub(super) root: Arc<Root>,
    /// Its handle.
    pub(super) handle: Handle,
    /// Its kind, which never changes.
    pub kind: Kind,
    /// Its number, which never changes.
    pub fileid: u64,
    place: OwnedFd,
    /// The content, for reading; of a directory, its list.
    pub(super) read: OnceLock<OwnedFd>,
    /// The content, for reading and writing.
    pub(super) write: Writing,
    /// Held while the list of a directory is read through `read`, which has one position.
    pub(super) listing: Mutex<()>,
    /// Whether content was written that no flush covers.
    pub(super) dirty: AtomicBool,
    /// Who waits for the content to be flushed.
    pub(super) flush: Group<Wanted>,
    /// Held while it is flushed.
    pub(super) flushing: Mutex<()>,
    /// Flushes that failed.
    pub(super) failures: AtomicU64,
    pub(super) charge: Charge,
    used: AtomicU32,
    /// The sweep at which its content was last read.
    read_at: AtomicU32,
    /// Whether it was found to have no name any more.
    nameless: AtomicBool,
    /// Whether it can be read although it has no name ([`super::linger`]).
    lingers: AtomicBool,
}

impl Node {
    /// The file that `place` refers to, which has `attr`.
    pub(super) fn new(root: &Arc<Root>, handle: Handle, place: OwnedFd, attr: &Attr) -> Arc<Self> {
        Arc::new(Self {
            root: Arc::clone(root),
            handle,
            kind: attr.kind,
            fileid: attr.fileid,
            place,
            read: OnceLock::new(),
            write: Writing::default(),
            listing: Mutex::new(()),
            dirty: AtomicBool::new(false),
            flush: Group::default(),
            flushing: Mutex::new(()),
            failures: AtomicU64::new(0),
            charge: Charge::new(attr),
            used: AtomicU32::new(0),
            read_at: AtomicU32::new(0),
            nameless: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
        })
    }

    /// The handle to give to clients.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The attributes at this moment. Needs no privilege.
    ///
    /// # Errors
    /// `ESTALE` if the file has no name any more: to the clients it is gone.
    pub fn attr(&self) -> Result<Attr> {
        let attr = self.look()?;
        if attr.links == 0 { Err(self.gone()) } else { Ok(attr) }
    }

    /// As [`Node::attr`], for what a client needs to go on reading: for some seconds also of a file
    /// that just lost its last name.
    ///
    /// # Errors
    /// As [`Node::attr`].
    pub fn attr_to_read(&self) -> Result<Attr> {
        let attr = self.look()?;
        let is_gone = attr.links == 0 && !self.lingers.load(Ordering::Relaxed);
        if is_gone { Err(self.gone()) } else { Ok(attr) }
    }

    fn look(&self) -> Result<Attr> {
        Attr::of(self).inspect_err(|errno| self.root.note(*errno))
    }

    /// Has the next sweep close it, whoever asks for it: its space comes back only then.
    fn gone(&self) -> Errno {
        self.nameless.store(true, Ordering::Relaxed);
        Errno::STALE
    }

    pub(super) fn set_lingers(&self, lingers: bool) {
        self.lingers.store(lingers, Ordering::Relaxed);
    }

    /// Notes that its content is read at the sweep `now`.
    pub(super) fn note_read(&self, now: u32) {
        if self.read_at.load(Ordering::Relaxed) != now {
            self.read_at.store(now, Ordering::Relaxed);
        }
    }

    /// Whether its content was read at most so many sweeps ago.
    pub(super) fn was_read(&self, now: u32, sweeps: u32) -> bool {
        now.wrapping_sub(self.read_at.load(Ordering::Relaxed)) <= sweeps
    }

    /// Whether a sweep leaves it open.
    fn stays(self: &Arc<Self>, now: u32, idle: u32, swept: &mut Swept) -> bool {
        if self.nameless.load(Ordering::Relaxed) && !self.lingers.load(Ordering::Relaxed) {
            return false;
        }
        if self.dirty.load(Ordering::Relaxed) {
            // Not written, that is: others may look at it for ever.
            if self.write.idle(now) >= idle {
                swept.unflushed.push(Arc::clone(self));
            }
            return true;
        }
        if self.charge.late() > 0 {
            return true; // it is being flushed
        }
        if self.write.is_left(now) {
            swept.written.push(Arc::clone(self));
        }
        now.wrapping_sub(self.used.load(Ordering::Relaxed)) < idle
    }

    /// A path to the file that works only in this process, and follows no link.
    pub(super) fn proc_path(&self) -> PathBuf {
        proc_path(self)
    }

    /// Opens the content once more; never of what is neither a file nor a directory.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd> {
        match self.kind {
            Kind::Regular | Kind::Directory => {}
            _ => return Err(Errno::INVAL),
        }
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(rustix::fs::open(self.proc_path(), flags, Mode::empty())?)
    }

    /// Closes the descriptor for writing, and answers whether there was one. The file's lock is
    /// held.
    ///
    /// # Errors
    /// There are no descriptors left; the file can still be written.
    pub(super) fn close_written(&self) -> Result<bool> {
        if !self.write.is_open() {
            return Ok(false);
        }
        // A file that was created here has the same descriptor twice (`Fs::create`).
        if !rustix::fs::fcntl_getfl(&self.place)?.contains(OFlags::PATH) {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let place = rustix::fs::open(self.proc_path(), flags, Mode::empty())?;
            sys::file::replace(&self.place, &place)?;
        }
        Ok(self.write.close())
    }

    /// Whether its content was written and not flushed, or is being flushed.
    pub(super) fn is_unflushed(&self) -> bool {
        self.dirty.load(Ordering::Relaxed) || self.flush.is_busy()
    }

    /// How many descriptors it has: one to three.
    fn descriptors(&self) -> u64 {
        1 + u64::from(self.read.get().is_some()) + u64::from(self.write.is_open())
    }

    /// The content, as far as it is open for reading.
    pub(super) fn opened(&self) -> Option<Content<'_>> {
        self.write.get().or_else(|| self.read.get().map(Content::Reading))
    }
}

impl Drop for Node {
    /// What is closed unflushed (its file is gone) waits for no flush any more.
    fn drop(&mut self) {
        if *self.dirty.get_mut() {
            self.root.unflushed.fetch_sub(1, Ordering::Relaxed);
        }
        self.give_back_late(i64::MAX);
    }
}

/// A path to what is open as `file`; it works only in this process, and follows no link.
pub(super) fn proc_path(file: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.place.as_fd()
    }
}

/// The nodes in use.
pub(super) struct Nodes {
    cache: Cache<Handle, Kept, Descriptors, DefaultHashBuilder, KeepDirty>,
    /// Goes on with each sweep: the clock by which nodes are idle.
    now: AtomicU32,
    /// By file, so that threads with different files seldom write the same line of the cache.
    hits: [Hits; HITS],
    misses: AtomicU64,
}

/// Parts of the counter of hits.
const HITS: usize = 16;

/// How often a node was asked for and there.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Hits(AtomicU64);

/// What a sweep leaves to be done.
#[derive(Default)]
pub(super) struct Swept {
    /// Would be closed, or lose their descriptors for writing, if they were flushed.
    pub(super) unflushed: Vec<Arc<Node>>,
    /// Have descriptors for writing that nothing needs.
    pub(super) written: Vec<Arc<Node>>,
}

/// The first sweep: no file was read or written shortly before it.
const FIRST_SWEEP: u32 = 1000;

/// What there is of nodes, and how well they are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Files that are open.
    pub open: usize,
    /// Look-ups that found their file open.
    pub hits: u64,
    /// Files that had to be opened.
    pub misses: u64,
}

/// A node, and the descriptors that the cache counts for it.
#[derive(Clone)]
struct Kept {
    node: Arc<Node>,
    descriptors: u64,
}

impl Kept {
    fn new(node: Arc<Node>) -> Self {
        Self { descriptors: node.descriptors(), node }
    }
}

/// Counts descriptors, so that three files that are looked at take the place of one that is
/// written.
#[derive(Clone)]
struct Descriptors;

impl Weighter<Handle, Kept> for Descriptors {
    fn weight(&self, _: &Handle, kept: &Kept) -> u64 {
        kept.descriptors
    }
}

/// Keeps what was written and not flushed from being evicted, and closes what is evicted outside
/// of the cache's lock.
#[derive(Clone, Debug, Default)]
struct KeepDirty;

impl Lifecycle<Handle, Kept> for KeepDirty {
    type RequestState = Vec<Kept>;

    fn is_pinned(&self, _: &Handle, kept: &Kept) -> bool {
        // What room is held for is found here by whoever needs it ([`super::settling`]).
        kept.node.dirty.load(Ordering::Relaxed) || kept.node.charge.late() > 0
    }

    fn on_evict(&self, evicted: &mut Vec<Kept>, _: Handle, kept: Kept) {
        evicted.push(kept);
    }
}

impl Nodes {
    /// Room for nodes with `max` descriptors.
    pub(super) fn new(max: usize) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(max)
            .weight_capacity(max as u64)
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        let cache = Cache::with_options(options, Descriptors, hasher, KeepDirty);
        let (hits, misses) = (Default::default(), AtomicU64::new(0));
        Self { cache, now: AtomicU32::new(FIRST_SWEEP), hits, misses }
    }

    /// The node of `handle`, if it is open.
    pub(super) fn get(&self, handle: &Handle) -> Option<Arc<Node>> {
        let node = self.cache.get(handle)?.node;
        #[allow(clippy::cast_possible_truncation)] // below HITS
        let part = (node.fileid % HITS as u64) as usize;
        self.hits[part].0.fetch_add(1, Ordering::Relaxed);
        node.used.store(self.now(), Ordering::Relaxed);
        Some(node)
    }

    /// The same without taking it for used.
    pub(super) fn peek(&self, handle: &Handle) -> Option<Arc<Node>> {
        self.cache.peek(handle).map(|kept| kept.node)
    }

    /// Adds a node; if there is one already, that is answered and stays.
    pub(super) fn add(&self, node: Arc<Node>) -> Arc<Node> {
        // Here and not where nothing is found: a call that must not wait asks twice.
        self.misses.fetch_add(1, Ordering::Relaxed);
        node.used.store(self.now(), Ordering::Relaxed);
        let handle = node.handle;
        let kept = || Ok(Kept::new(node));
        let Ok(kept) = self.cache.get_or_insert_with::<_, Infallible>(&handle, kept);
        kept.node
    }

    /// How often there was a sweep.
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// Whether there is room for files that nobody asked for: three quarters of all.
    pub(super) fn has_room(&self) -> bool {
        self.cache.weight() < self.cache.capacity() / 4 * 3
    }

    /// Counts the descriptors of a node anew: its content was opened.
    pub(super) fn recount(&self, handle: &Handle) {
        // Where it is not kept any more, there is nothing to count.
        let _ = self.cache.entry(handle, None, |_, kept| {
            kept.descriptors = kept.node.descriptors();
            EntryAction::Retain(())
        });
    }

    /// What there is, and how well it was found.
    pub(super) fn stats(&self) -> Stats {
        let hits = self.hits.iter().map(|hits| hits.0.load(Ordering::Relaxed)).sum();
        Stats { open: self.cache.len(), hits, misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Forgets a node: its file lost its last name.
    pub(super) fn remove(&self, handle: &Handle) {
        self.cache.remove(handle);
    }

    /// Forgets all of an export.
    pub(super) fn forget(&self, root: &Arc<Root>) {
        self.cache.retain(|_, kept| !Arc::ptr_eq(&kept.node.root, root));
    }

    /// Has the clock go on. To be called once a second.
    pub(super) fn tick(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes what was not used since the clock went on `idle` times, and files without a name;
    /// answers what is left to be done.
    pub(super) fn sweep(&self, idle: u32) -> Swept {
        let now = self.now();
        let swept = RefCell::new(Swept::default());
        self.cache.retain(|_, Kept { node, .. }| node.stays(now, idle, &mut swept.borrow_mut()));
        swept.into_inner()
    }

    /// The nodes that are `wanted`. Looks at all, and counts no reference to any other.
    pub(super) fn select(&self, wanted: impl Fn(&Node) -> bool) -> Vec<Arc<Node>> {
        let selected = RefCell::new(Vec::new());
        self.cache.retain(|_, Kept { node, .. }| {
            if wanted(node) {
                selected.borrow_mut().push(Arc::clone(node));
            }
            true
        });
        selected.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use crate::export::ExportId;
    use crate::fs::Fs;
    use crate::fs::flush::Extent;
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::fs::testing::Files;
    use crate::sched::Patience;

    const DESCRIPTORS: usize = 600;
    const EXPORT: ExportId = ExportId(1);

    /// The descriptors of all nodes, and how many nodes there are.
    fn open(fs: &Fs) -> (u64, usize) {
        let counted = fs.nodes.cache.iter().map(|(_, kept)| kept.node.descriptors()).sum();
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
            fs.readable(&node, Patience::Blocking).unwrap();
        }
        each_has(2);
        for name in &names {
            let node = files.find(&root, name).unwrap();
            fs.readable(&node, Patience::Blocking).unwrap();
            fs.writable(&node, Patience::Blocking).unwrap();
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
