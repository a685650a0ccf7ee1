//! Directory listings, remembered as long as they are true.
//!
//! A chunk is what one getdents64(2) returned from a cookie on. It is found by that cookie, and by
//! the cookies at which pages ended within it:
//!
//! ```text
//!   directory version, cookie    0 --> Start ----> chunk of 1,000 entries
//!                              400 --> Within .....^  behind the 400th
//!                              800 --> Within .....^
//!                             1000 --> Start ----> the next chunk
//! ```
//!
//! Only the start keeps a chunk alive. Its bytes therefore count once against the budget, whatever
//! pages clients ask for. When a directory changes, its chunks are no longer found, and are evicted
//! when the room is needed. [`super`] decides what the version is, and whether to remember.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::fs::IDLE_SWEEPS;
use crate::fs::attr::{Attr, Time};
use crate::fs::handle::Handle;
use crate::sys::dir::{Entry, entries};

/// Bytes of memory that chunks may take: enough for directories of 250,000 entries in all.
const BUDGET: usize = 32 << 20;

/// Shards of the cache, each with a lock of its own. The number does not grow with the processors,
/// because a shard must have room for many of the largest chunks.
const SHARDS: usize = 8;

/// Bytes that the cache and the allocator may take for an item, in addition to its content.
const ITEM: usize = 512;

/// The part of the budget for chunks that were used again. The rest suffices for a hundred callers
/// that each read a huge directory once.
const HOT_SHARE: f64 = 0.5;

/// Uses of a chunk, while files stay open without use, from which it pays to open its files:
/// opening and closing a file costs what six listings save.
pub(super) const OPEN_AFTER: u32 = 6;

/// A directory between two changes of its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DirectoryVersion {
    /// The directory. No other directory has the same handle, in any export.
    pub(super) dir: Handle,
    /// The change time.
    pub(super) changed: Time,
    /// How often something was mounted or unmounted before, if that is known.
    pub(super) mounts: Option<u64>,
}

/// A part of a listing.
pub(super) struct Chunk {
    /// As the kernel wrote it.
    bytes: Box<[u8]>,
    /// The number of entries.
    entries: usize,
    /// Recent uses, after the first.
    uses: AtomicU32,
    /// The sweep at which `uses` began to be counted.
    counted_since: AtomicU32,
    /// The handles of the entries, from the second use on. A caller that lists a huge directory
    /// once is not to fill the processor's cache with them.
    handles: OnceLock<Box<[HandleSlot]>>,
}

/// The handle of an entry's file, with the birth time of the file, once it is known.
type HandleSlot = OnceLock<(Time, Handle)>;

/// A position in a listing: a cookie, and where in a chunk its entry begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) cookie: u64,
    byte: usize,
    number: usize,
}

/// An entry of a listing.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    /// The entry.
    pub entry: Entry<'a>,
    handle: Option<&'a HandleSlot>,
    /// Whether the listing is used so often that it pays to keep its files open.
    pub(super) is_hot: bool,
    /// Whether the name certainly has the file that was remembered, the caller may look it up, and
    /// the file is likely to be open.
    pub(super) likely_open: bool,
}

impl Position {
    /// The start of a chunk that was read from `cookie` on.
    pub(super) const fn start(cookie: u64) -> Self {
        Self { cookie, byte: 0, number: 0 }
    }
}

impl Chunk {
    /// Creates a chunk from what getdents64(2) returned.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let entries = entries(bytes).count();
        Self {
            bytes: bytes.into(),
            entries,
            uses: AtomicU32::new(0),
            counted_since: AtomicU32::new(0),
            handles: OnceLock::new(),
        }
    }

    /// Whether it has no entries: the listing is at its end.
    pub(super) const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Counts a use at the sweep `now`, and has handles remembered from now on.
    fn use_again(&self, now: u32) {
        // Concurrent callers may lose counts, which does no harm.
        if now.wrapping_sub(self.counted_since.load(Ordering::Relaxed)) > IDLE_SWEEPS {
            self.counted_since.store(now, Ordering::Relaxed);
            self.uses.store(0, Ordering::Relaxed);
        }
        self.uses.fetch_add(1, Ordering::Relaxed);
        self.handles.get_or_init(|| (0..self.entries).map(|_| HandleSlot::new()).collect());
    }

    /// Passes the entries from `start` on to `each`, until it breaks. Returns the position behind
    /// the last entry for which it did not.
    pub(super) fn for_each_from(
        &self,
        start: Position,
        each: &mut impl FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> (Position, ControlFlow<()>) {
        let mut position = start;
        let handles = self.handles.get();
        let is_hot = self.uses.load(Ordering::Relaxed) >= OPEN_AFTER;
        let mut rest = entries(&self.bytes[start.byte..]);
        while let Some(entry) = rest.next() {
            let handle = handles.and_then(|handles| handles.get(position.number));
            if each(Listed { entry, handle, is_hot, likely_open: false }).is_break() {
                return (position, ControlFlow::Break(()));
            }
            let byte = self.bytes.len() - rest.rest().len();
            position = Position { cookie: entry.cookie, byte, number: position.number + 1 };
        }
        (position, ControlFlow::Continue(()))
    }

    /// Returns the known handles of `entries` entries from `start` on.
    pub(super) fn known_handles(
        &self,
        start: Position,
        entries: usize,
    ) -> impl Iterator<Item = &Handle> {
        let handles = self.handles.get().and_then(|handles| handles.get(start.number..));
        let slots = handles.unwrap_or_default().iter().take(entries);
        slots.filter_map(|slot| slot.get().map(|(_, handle)| handle))
    }

    const fn size(&self) -> usize {
        self.bytes.len() + self.entries * size_of::<HandleSlot>()
    }
}

impl Listed<'_> {
    /// Returns the remembered handle, if its file is likely to be open.
    pub(super) fn handle_if_likely_open(&self) -> Option<&Handle> {
        let (_, handle) = self.handle?.get()?;
        self.likely_open.then_some(handle)
    }

    /// Returns the remembered handle, if it is that of the file that has `attr`.
    pub(super) fn handle(&self, attr: &Attr) -> Option<Handle> {
        let (born, handle) = self.handle?.get()?;
        (self.entry.fileid == attr.fileid && attr.born == Some(*born)).then_some(*handle)
    }

    /// Remembers the handle of the file that has `attr`, whose birth time is over.
    pub(super) fn remember(&self, attr: &Attr, handle: Handle) {
        if let (Some(slot), Some(born)) = (self.handle, attr.born)
            && self.entry.fileid == attr.fileid
        {
            let _ = slot.set((born, handle)); // unless another thread has set it
        }
    }
}

/// What begins at a cookie of a listing.
#[derive(Clone)]
enum Item {
    Start(Arc<Chunk>),
    Within(Weak<Chunk>, Position),
}

/// Weighs items by the bytes that they keep alive.
#[derive(Clone)]
struct ByBytes;

impl Weighter<(DirectoryVersion, u64), Item> for ByBytes {
    fn weight(&self, _: &(DirectoryVersion, u64), item: &Item) -> u64 {
        let size = match item {
            Item::Start(chunk) => chunk.size(),
            Item::Within(..) => 0,
        };
        (size + ITEM) as u64
    }
}

/// The chunks that are remembered.
pub(super) struct ListingCache(Cache<(DirectoryVersion, u64), Item, ByBytes>);

impl ListingCache {
    pub(super) fn new() -> Self {
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(BUDGET / (4 * ITEM))
            .weight_capacity(BUDGET as u64)
            .hot_allocation(HOT_SHARE)
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        Self(Cache::with_options(options, ByBytes, hasher, DefaultLifecycle::default()))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the chunk with what follows `cookie`, and the position in it. `now` is the current
    /// sweep.
    pub(super) fn get(
        &self,
        version: &DirectoryVersion,
        cookie: u64,
        now: u32,
    ) -> Option<(Arc<Chunk>, Position)> {
        match self.0.get(&(*version, cookie))? {
            Item::Start(chunk) => {
                chunk.use_again(now);
                Some((chunk, Position::start(cookie)))
            }
            Item::Within(chunk, position) => Some((chunk.upgrade()?, position)),
        }
    }

    /// Remembers a chunk that was read from `cookie` on.
    pub(super) fn insert(&self, version: &DirectoryVersion, cookie: u64, chunk: &Arc<Chunk>) {
        self.0.insert((*version, cookie), Item::Start(Arc::clone(chunk)));
    }

    /// Remembers a position in `chunk`, as long as the chunk is remembered.
    pub(super) fn mark(&self, version: &DirectoryVersion, chunk: &Arc<Chunk>, position: Position) {
        // The start must not be replaced: it keeps the chunk alive.
        if position.number > 0 {
            let within = Item::Within(Arc::downgrade(chunk), position);
            self.0.insert((*version, position.cookie), within);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ExportId;
    use crate::fs::handle::{Body, Key};
    use crate::sys::handle::KernelHandle;

    fn handle(number: u64) -> Handle {
        let kernel = KernelHandle::new(1, &number.to_ne_bytes()).unwrap();
        Key::new([1; 16]).seal(ExportId(1), Body::Kernel(kernel))
    }

    fn version(dir: u64) -> DirectoryVersion {
        DirectoryVersion {
            dir: handle(dir),
            changed: Time { seconds: 1, nanoseconds: 2 },
            mounts: None,
        }
    }

    /// A chunk with files of these numbers, whose names are as long as they may be.
    fn chunk(numbers: std::ops::Range<u64>, name: usize) -> Arc<Chunk> {
        let len = (19 + name + 1).next_multiple_of(8);
        let mut bytes = Vec::new();
        for number in numbers {
            let entry = bytes.len();
            bytes.extend(number.to_ne_bytes());
            bytes.extend((number + 1).to_ne_bytes());
            bytes.extend(u16::try_from(len).unwrap().to_ne_bytes());
            bytes.push(8);
            bytes.resize(entry + 19 + name, b'n');
            bytes.resize(entry + len, 0);
        }
        Arc::new(Chunk::new(&bytes))
    }

    fn numbers(
        (chunk, position): (Arc<Chunk>, Position),
        max: usize,
    ) -> (Vec<u64>, Position, ControlFlow<()>) {
        let mut numbers = Vec::new();
        let (end, flow) = chunk.for_each_from(position, &mut |listed| {
            if numbers.len() == max {
                return ControlFlow::Break(());
            }
            numbers.push(listed.entry.fileid);
            ControlFlow::Continue(())
        });
        (numbers, end, flow)
    }

    #[test]
    fn a_chunk_is_found_where_it_begins_and_where_pages_ended() {
        let cache = ListingCache::new();
        let whole = chunk(0..10, 5);
        cache.insert(&version(7), 0, &whole);
        let (first, end, flow) = numbers(cache.get(&version(7), 0, 0).unwrap(), 4);
        assert_eq!((first, flow), (vec![0, 1, 2, 3], ControlFlow::Break(())));
        cache.mark(&version(7), &whole, end);
        let (rest, end, flow) = numbers(cache.get(&version(7), 4, 0).unwrap(), 100);
        assert_eq!((rest, end.cookie, flow), ((4..10).collect(), 10, ControlFlow::Continue(())));
        assert!(cache.get(&version(7), 5, 0).is_none() && cache.get(&version(8), 0, 0).is_none());
    }

    #[test]
    fn the_start_of_a_chunk_keeps_it_though_a_page_ended_there() {
        let cache = ListingCache::new();
        let chunk = chunk(0..10, 5);
        cache.insert(&version(7), 0, &chunk);
        cache.mark(&version(7), &chunk, Position::start(0));
        drop(chunk);
        assert!(cache.get(&version(7), 0, 0).is_some());
    }

    #[test]
    fn a_handle_is_that_of_the_number_and_the_birth() {
        let attr = |fileid, born: Option<i64>| {
            let dir = tempfile::tempdir().unwrap();
            let attr = Attr::of(std::fs::File::open(dir.path()).unwrap()).unwrap();
            let born = born.map(|seconds| Time { seconds, nanoseconds: 0 });
            Attr { fileid, born, ..attr }
        };
        let check = |remembered: Attr, asked: Attr, expected| {
            let chunk = chunk(3..4, 5);
            chunk.use_again(0);
            let (_, flow) = chunk.for_each_from(Position::start(3), &mut |listed| {
                assert!(listed.handle(&asked).is_none());
                listed.remember(&remembered, handle(3));
                assert_eq!(listed.handle(&asked).is_some(), expected);
                ControlFlow::Continue(())
            });
            assert!(flow.is_continue());
        };
        check(attr(3, Some(1)), attr(3, Some(1)), true);
        check(attr(3, Some(1)), attr(3, Some(2)), false);
        check(attr(3, Some(1)), attr(3, None), false);
        check(attr(3, Some(1)), attr(4, Some(1)), false);
        check(attr(4, Some(1)), attr(4, Some(1)), false); // a mount point, by its name in the list
        check(attr(3, None), attr(3, None), false);
    }

    #[test]
    fn memory_stays_within_the_budget_whatever_is_listed() {
        let cache = ListingCache::new();
        let mut all = Vec::new();
        for (number, dir) in (0..2000).zip(0..) {
            // From one entry to as many as 32 KiB can hold, in pages of all sizes.
            let chunk = chunk(0..1 + dir % 7 * 200, 1 + number % 4);
            cache.insert(&version(dir), 0, &chunk);
            let mut position = Position::start(0);
            loop {
                let (_, end, flow) = numbers((Arc::clone(&chunk), position), 1 + number % 50);
                if flow == ControlFlow::Continue(()) {
                    break;
                }
                cache.mark(&version(dir), &chunk, end);
                position = end;
            }
            all.push(Arc::downgrade(&chunk));
            assert!(cache.0.weight() <= BUDGET as u64);
        }
        let living = all.iter().filter_map(Weak::upgrade).map(|chunk| chunk.size()).sum::<usize>();
        assert!(living <= BUDGET, "{living} bytes");
        assert!(living > BUDGET / 2, "{living} bytes"); // and it is used
    }
}
