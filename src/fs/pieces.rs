//! Pieces of the lists of directories, remembered as long as they are true.
//!
//! A piece is what one getdents64(2) read from a cookie on. It is found by that cookie, and by
//! those at which pages ended within it:
//!
//! ```text
//!   directory, time of change, cookie   0 --> Start ----> piece of 1,000 entries
//!                                     400 --> Within .....^  behind the 400th
//!                                     800 --> Within .....^
//!                                    1000 --> Start ----> the next piece
//! ```
//!
//! Only the start keeps a piece alive, so that its bytes count once against the budget, whatever
//! pages clients ask for. When a directory changes, its pieces are not found any more, and go when
//! there is need for room. Which list is true, and whether it may be remembered, [`super::dir`]
//! says.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::IDLE_SWEEPS;
use super::attr::{Attr, Time};
use super::dir::Step;
use super::handle::Handle;
use crate::sys::dir::{Entry, entries};

/// Bytes of memory that pieces may take: enough for directories of 250,000 entries in all.
const BUDGET: usize = 32 << 20;

/// Parts of the cache, each with a lock of its own. No more, however many processors there are: a
/// part has to have room for many of the largest pieces.
const PARTS: usize = 8;

/// Bytes that the cache and the allocator may take for an item, however little is in it.
const ITEM: usize = 512;

/// The part of the budget for what was asked for again. The rest is as much as a hundred listings
/// need that each read a huge directory once.
const ASKED_AGAIN: f64 = 0.5;

/// How often a piece is asked for, while files stay open without use, before it is worth while to
/// open what is in it: by then, opening and closing cost what they would have saved.
pub(super) const OFTEN: u32 = 6;

/// The list of a directory between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct List {
    /// The directory: its handle is never another's, in whatever export.
    pub(super) dir: Handle,
    /// When it was last changed.
    pub(super) changed: Time,
    /// How often something was mounted or unmounted before, if that is known.
    pub(super) mounts: Option<u64>,
}

/// A piece of a list.
pub(super) struct Piece {
    /// As the kernel wrote it.
    bytes: Box<[u8]>,
    /// How many entries that is.
    entries: usize,
    /// How often it was asked for again, of late.
    asked: AtomicU32,
    /// The sweep since when that is counted.
    since: AtomicU32,
    /// Their handles, once the piece was asked for again. Whoever lists a huge directory once has
    /// better use for the processor's cache.
    handles: OnceLock<Box<[Slot]>>,
}

/// The handle of an entry's file, with the time of its birth, once it is known.
type Slot = OnceLock<(Time, Handle)>;

/// Where in a list: behind a cookie, and where in a piece that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) cookie: u64,
    byte: usize,
    number: usize,
}

/// An entry of a list.
#[derive(Clone, Copy)]
pub struct Listed<'a> {
    /// The entry.
    pub entry: Entry<'a>,
    handle: Option<&'a Slot>,
    /// Whether the list is asked for so often that it pays to keep its files open.
    pub(super) often: bool,
    /// Whether the name has the file that was remembered, for sure, the caller may find it, and it
    /// is likely to be open.
    pub(super) quick: bool,
}

impl Place {
    /// Where a piece begins that was read from `cookie` on.
    pub(super) const fn start(cookie: u64) -> Self {
        Self { cookie, byte: 0, number: 0 }
    }
}

impl Piece {
    /// The piece that was read as `bytes`.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let entries = entries(bytes).count();
        Self {
            bytes: bytes.into(),
            entries,
            asked: AtomicU32::new(0),
            since: AtomicU32::new(0),
            handles: OnceLock::new(),
        }
    }

    /// Whether there is nothing in it, because the list is at its end.
    pub(super) const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// It is asked for again, after so many sweeps of nodes: has handles remembered from now on.
    fn ask_again(&self, now: u32) {
        // Who asks at the same time may lose count, which matters to nobody.
        if now.wrapping_sub(self.since.load(Ordering::Relaxed)) > IDLE_SWEEPS {
            self.since.store(now, Ordering::Relaxed);
            self.asked.store(0, Ordering::Relaxed);
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.handles.get_or_init(|| (0..self.entries).map(|_| Slot::new()).collect());
    }

    /// Gives `each` the entries from `start` on; answers the place behind the last that it took,
    /// and whether it takes more.
    pub(super) fn give(
        &self,
        start: Place,
        each: &mut impl FnMut(Listed<'_>) -> Step,
    ) -> (Place, Step) {
        let mut place = start;
        let handles = self.handles.get();
        let often = self.asked.load(Ordering::Relaxed) >= OFTEN;
        let mut rest = entries(&self.bytes[start.byte..]);
        while let Some(entry) = rest.next() {
            let handle = handles.and_then(|handles| handles.get(place.number));
            if each(Listed { entry, handle, often, quick: false }) == Step::Full {
                return (place, Step::Full);
            }
            let byte = self.bytes.len() - rest.rest().len();
            place = Place { cookie: entry.cookie, byte, number: place.number + 1 };
        }
        (place, Step::More)
    }

    /// The handles that are known of so many entries from `start` on.
    pub(super) fn known(&self, start: Place, entries: usize) -> impl Iterator<Item = &Handle> {
        let handles = self.handles.get().and_then(|handles| handles.get(start.number..));
        let slots = handles.unwrap_or_default().iter().take(entries);
        slots.filter_map(|slot| slot.get().map(|(_, handle)| handle))
    }

    const fn size(&self) -> usize {
        self.bytes.len() + self.entries * size_of::<Slot>()
    }
}

impl Listed<'_> {
    /// The handle that was remembered, of a file that is likely to be open.
    pub(super) fn quick(&self) -> Option<&Handle> {
        let (_, handle) = self.handle?.get()?;
        self.quick.then_some(handle)
    }

    /// The handle of the file that has `attr`, if that is what was remembered.
    pub(super) fn handle(&self, attr: &Attr) -> Option<Handle> {
        let (born, handle) = self.handle?.get()?;
        (self.entry.fileid == attr.fileid && attr.born == Some(*born)).then_some(*handle)
    }

    /// Remembers the handle of the file that has `attr` and was born in the past for sure.
    pub(super) fn remember(&self, attr: &Attr, handle: Handle) {
        if let (Some(slot), Some(born)) = (self.handle, attr.born)
            && self.entry.fileid == attr.fileid
        {
            let _ = slot.set((born, handle)); // another thread may have been as quick
        }
    }
}

/// What begins at a cookie of a list.
#[derive(Clone)]
enum Found {
    Start(Arc<Piece>),
    Within(Weak<Piece>, Place),
}

#[derive(Clone)]
struct Bytes;

impl Weighter<(List, u64), Found> for Bytes {
    fn weight(&self, _: &(List, u64), found: &Found) -> u64 {
        let size = match found {
            Found::Start(piece) => piece.size(),
            Found::Within(..) => 0,
        };
        (size + ITEM) as u64
    }
}

/// The pieces that are remembered.
pub(super) struct Pieces(Cache<(List, u64), Found, Bytes>);

impl Pieces {
    pub(super) fn new() -> Self {
        let options = OptionsBuilder::new()
            .shards(PARTS)
            .estimated_items_capacity(BUDGET / (4 * ITEM))
            .weight_capacity(BUDGET as u64)
            .hot_allocation(ASKED_AGAIN)
            .build()
            .expect("both capacities are given");
        let hasher = DefaultHashBuilder::default();
        Self(Cache::with_options(options, Bytes, hasher, DefaultLifecycle::default()))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The piece with what follows `cookie` in a list, and where that is in it; `now` counts the
    /// sweeps of nodes.
    pub(super) fn get(&self, list: &List, cookie: u64, now: u32) -> Option<(Arc<Piece>, Place)> {
        match self.0.get(&(*list, cookie))? {
            Found::Start(piece) => {
                piece.ask_again(now);
                Some((piece, Place::start(cookie)))
            }
            Found::Within(piece, place) => Some((piece.upgrade()?, place)),
        }
    }

    /// Remembers what was read from `cookie` on.
    pub(super) fn keep(&self, list: &List, cookie: u64, piece: &Arc<Piece>) {
        self.0.insert((*list, cookie), Found::Start(Arc::clone(piece)));
    }

    /// Remembers a place in `piece` as long as that is remembered.
    pub(super) fn mark(&self, list: &List, piece: &Arc<Piece>, place: Place) {
        // Where a piece begins is what keeps it.
        if place.number > 0 {
            let within = Found::Within(Arc::downgrade(piece), place);
            self.0.insert((*list, place.cookie), within);
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

    fn list(dir: u64) -> List {
        List { dir: handle(dir), changed: Time { seconds: 1, nanoseconds: 2 }, mounts: None }
    }

    /// A piece with files of these numbers, whose names are as long as they may be.
    fn piece(numbers: std::ops::Range<u64>, name: usize) -> Arc<Piece> {
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
        Arc::new(Piece::new(&bytes))
    }

    fn numbers((piece, place): (Arc<Piece>, Place), max: usize) -> (Vec<u64>, Place, Step) {
        let mut numbers = Vec::new();
        let (end, step) = piece.give(place, &mut |listed| {
            if numbers.len() == max {
                return Step::Full;
            }
            numbers.push(listed.entry.fileid);
            Step::More
        });
        (numbers, end, step)
    }

    #[test]
    fn a_piece_is_found_where_it_begins_and_where_pages_ended() {
        let pieces = Pieces::new();
        let whole = piece(0..10, 5);
        pieces.keep(&list(7), 0, &whole);
        let (first, end, step) = numbers(pieces.get(&list(7), 0, 0).unwrap(), 4);
        assert_eq!((first, step), (vec![0, 1, 2, 3], Step::Full));
        pieces.mark(&list(7), &whole, end);
        let (rest, end, step) = numbers(pieces.get(&list(7), 4, 0).unwrap(), 100);
        assert_eq!((rest, end.cookie, step), ((4..10).collect(), 10, Step::More));
        assert!(pieces.get(&list(7), 5, 0).is_none() && pieces.get(&list(8), 0, 0).is_none());
    }

    #[test]
    fn where_a_piece_begins_keeps_it_though_a_page_ended_there() {
        let pieces = Pieces::new();
        let piece = piece(0..10, 5);
        pieces.keep(&list(7), 0, &piece);
        pieces.mark(&list(7), &piece, Place::start(0));
        drop(piece);
        assert!(pieces.get(&list(7), 0, 0).is_some());
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
            let piece = piece(3..4, 5);
            piece.ask_again(0);
            piece.give(Place::start(3), &mut |listed| {
                assert!(listed.handle(&asked).is_none());
                listed.remember(&remembered, handle(3));
                assert_eq!(listed.handle(&asked).is_some(), expected);
                Step::More
            });
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
        let pieces = Pieces::new();
        let mut all = Vec::new();
        for (number, dir) in (0..2000).zip(0..) {
            // From one entry to as many as 32 KiB can hold, in pages of all sizes.
            let piece = piece(0..1 + dir % 7 * 200, 1 + number % 4);
            pieces.keep(&list(dir), 0, &piece);
            let mut place = Place::start(0);
            loop {
                let (_, end, step) = numbers((Arc::clone(&piece), place), 1 + number % 50);
                if step == Step::More {
                    break;
                }
                pieces.mark(&list(dir), &piece, end);
                place = end;
            }
            all.push(Arc::downgrade(&piece));
            assert!(pieces.0.weight() <= BUDGET as u64);
        }
        let living = all.iter().filter_map(Weak::upgrade).map(|piece| piece.size()).sum::<usize>();
        assert!(living <= BUDGET, "{living} bytes");
        assert!(living > BUDGET / 2, "{living} bytes"); // and it is used
    }
}
