//! Who is connected to the read-only listener, and who gives way.
//!
//! There are [`PLACES`]. When all are taken, a connection that is not being answered is closed for a
//! new one: the one that has rested longest, of the address that has most. So a health check always
//! gets in, whoever holds the others. If none rests, a health check that waits gives way, of an address
//! with more than [`CHECKS_EACH`] connections. A connection cannot be kept busy for long: pages, which may wait
//! for a disk, are answered [`PAGES`] at a time and [`PAGES_EACH`] for one address, and others are told
//! to come again; health checks wait for a second at most.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Connections at a time.
const PLACES: usize = 32;

/// Pages that are being made at a time.
const PAGES: usize = 8;

/// The same for one address.
const PAGES_EACH: usize = 4;

/// Connections that an address keeps although all places are taken, as long as health checks on them
/// are answered.
const CHECKS_EACH: usize = 4;

const RESTS: u8 = 0;
const CHECKS: u8 = 1;
const READS: u8 = 2;

/// The connections.
#[derive(Debug, Default)]
pub struct Places(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    taken: Vec<Arc<Taken>>,
    /// Counts what happens: the clock by which connections have rested.
    now: u64,
}

/// A place that a connection has.
#[derive(Debug)]
struct Taken {
    peer: IpAddr,
    doing: AtomicU8,
    since: AtomicU64,
    closed: CancellationToken,
}

/// The right to be connected, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    taken: Arc<Taken>,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
#[must_use = "the request is over when this is dropped"]
pub struct Busy<'p>(&'p Place);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Whether the server lives, or is ready.
    Health,
    /// A page, or the metrics.
    Page,
}

impl Places {
    /// Takes a place for a connection from `peer`; another one may have to give way for it. `None`: all
    /// are being answered.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut table = self.table();
        if table.taken.len() >= PLACES {
            let victim = table.victim()?;
            victim.closed.cancel();
            table.taken.retain(|taken| !Arc::ptr_eq(taken, &victim));
        }
        let now = table.tick();
        let taken = Arc::new(Taken {
            peer,
            doing: AtomicU8::new(RESTS),
            since: AtomicU64::new(now),
            closed: CancellationToken::new(),
        });
        table.taken.push(Arc::clone(&taken));
        Some(Place { places: Arc::clone(self), taken })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every step leaves the table whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn victim(&self) -> Option<Arc<Taken>> {
        let greed =
            |taken: &Taken| self.taken.iter().filter(|other| other.peer == taken.peer).count();
        let rested = |taken: &Taken| std::cmp::Reverse(taken.since.load(Ordering::Relaxed));
        let resting = self.taken.iter().filter(|taken| taken.is(RESTS));
        let checks = || self.taken.iter().filter(|t| t.is(CHECKS) && greed(t) > CHECKS_EACH);
        let order = |taken: &&Arc<Taken>| (greed(taken), rested(taken));
        resting.max_by_key(order).or_else(|| checks().max_by_key(order)).cloned()
    }

    /// Whether one more page may be made, for `peer`.
    fn has_room_for_page(&self, peer: IpAddr) -> bool {
        let reading = || self.taken.iter().filter(|taken| taken.is(READS));
        reading().count() < PAGES
            && reading().filter(|taken| taken.peer == peer).count() < PAGES_EACH
    }
}

impl Taken {
    fn is(&self, doing: u8) -> bool {
        self.doing.load(Ordering::Relaxed) == doing
    }
}

impl Place {
    /// Begins to answer a request. `None`: too many of the kind are being answered.
    pub fn begin(&self, wish: Wish) -> Option<Busy<'_>> {
        let mut table = self.places.table();
        if wish == Wish::Page && !table.has_room_for_page(self.taken.peer) {
            return None;
        }
        let doing = if wish == Wish::Page { READS } else { CHECKS };
        self.taken.doing.store(doing, Ordering::Relaxed);
        self.taken.since.store(table.tick(), Ordering::Relaxed);
        Some(Busy(self))
    }

    /// Waits until the connection has to give way.
    pub async fn lost(&self) {
        self.taken.closed.cancelled().await;
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut table = self.0.places.table();
        self.0.taken.doing.store(RESTS, Ordering::Relaxed);
        self.0.taken.since.store(table.tick(), Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().taken.retain(|taken| !Arc::ptr_eq(taken, &self.taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn all_of(places: &Arc<Places>, peer: IpAddr) -> Vec<Place> {
        (0..PLACES).map(|_| places.take(peer).unwrap()).collect()
    }

    fn lost(held: &[Place]) -> Vec<usize> {
        (0..held.len()).filter(|n| held[*n].taken.closed.is_cancelled()).collect()
    }

    #[test]
    fn the_longest_rested_of_the_greediest_gives_way() {
        let places = Arc::<Places>::default();
        let mut others = vec![places.take(ip(1)).unwrap()];
        let mut held: Vec<_> = (1..PLACES).map(|_| places.take(ip(2)).unwrap()).collect();
        drop(held[0].begin(Wish::Health));
        others.push(places.take(ip(3)).unwrap());
        assert_eq!(lost(&held), [1]);
        held.remove(1);
        others.push(places.take(ip(2)).unwrap());
        assert_eq!(lost(&held), [1], "of itself, too");
        assert_eq!(lost(&others), [0_usize; 0]);
    }

    #[test]
    fn who_is_being_answered_keeps_its_place() {
        let places = Arc::<Places>::default();
        let number = |n: usize| ip(u8::try_from(n / CHECKS_EACH).unwrap());
        let held: Vec<_> = (0..PLACES).map(|n| places.take(number(n)).unwrap()).collect();
        let mut busy: Vec<_> = held.iter().skip(1).map(|place| place.begin(Wish::Health)).collect();
        let new = places.take(ip(20)).unwrap();
        assert_eq!(lost(&held), [0]);
        let _busy = new.begin(Wish::Health);
        assert!(places.take(ip(30)).is_none());
        busy.pop();
        assert!(places.take(ip(30)).is_some());
        assert_eq!(lost(&held), [0, PLACES - 1]);
    }

    #[test]
    fn one_address_cannot_hold_all_places_by_health_checks_that_wait() {
        let places = Arc::<Places>::default();
        let held = all_of(&places, ip(1));
        let busy: Vec<_> = held.iter().map(|place| place.begin(Wish::Health)).collect();
        let new = places.take(ip(2)).unwrap();
        let _check = new.begin(Wish::Health);
        assert_eq!(lost(&held), [0], "the one that has waited longest");
        let _own = places.take(ip(1)).unwrap();
        assert_eq!(lost(&held), [0, 1], "of itself, too");
        assert!(!new.taken.closed.is_cancelled());
        drop(busy);
    }

    #[test]
    fn pages_leave_room_for_others_and_for_health() {
        let places = Arc::<Places>::default();
        let held: Vec<_> = (0..20).map(|n| places.take(ip(n / 10)).unwrap()).collect();
        let pages: Vec<_> = held.iter().filter_map(|place| place.begin(Wish::Page)).collect();
        assert_eq!(pages.len(), 2 * PAGES_EACH);
        let other = places.take(ip(9)).unwrap();
        assert!(other.begin(Wish::Page).is_none(), "all are at work");
        assert!(other.begin(Wish::Health).is_some());
        drop(pages);
        assert!(other.begin(Wish::Page).is_some());
    }

    #[test]
    fn a_place_is_given_back_once() {
        let places = Arc::<Places>::default();
        let held = all_of(&places, ip(1));
        let new = all_of(&places, ip(2));
        let still_held = PLACES - lost(&held).len();
        assert_eq!(places.table().taken.len(), PLACES);
        drop(held);
        assert_eq!(places.table().taken.len(), PLACES - still_held, "others had lost theirs");
        drop(new);
        assert!(places.table().taken.is_empty());
    }
}
