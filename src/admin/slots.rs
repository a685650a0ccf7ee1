//! The connection slots of the read-only listener, and which connection is closed for a new one.
//!
//! There are [`SLOTS`]. When all are taken, a new connection replaces an idle one: of the address
//! with the most connections, the one that has been idle longest. If none is idle, it replaces one
//! with a health check in progress, of an address with more than [`CHECKS_EACH`] connections; if
//! there is none either, it is refused. So no single address can lock out the health checks of
//! others.
//!
//! No connection stays busy for long. Pages may wait for a disk, so only [`PAGES`] are in progress
//! at a time, [`PAGES_EACH`] for one address, and further requests are refused with "try again
//! later". A health check takes at most about a second.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// Connections at a time.
const SLOTS: usize = 32;

/// Pages in progress at a time.
const PAGES: usize = 8;

/// Pages in progress at a time for one address.
const PAGES_EACH: usize = 4;

/// Connections with health checks in progress that an address keeps when all slots are taken.
const CHECKS_EACH: usize = 4;

/// Activities of a connection.
const IDLE: u8 = 0;
const CHECK: u8 = 1;
const PAGE: u8 = 2;

/// The slots.
#[derive(Debug, Default)]
pub struct ConnectionSlots(Mutex<SlotTable>);

#[derive(Debug, Default)]
struct SlotTable {
    taken: Vec<Arc<TakenSlot>>,
    /// A logical clock, which counts the changes of the connections' activities.
    now: u64,
}

/// A slot in use.
#[derive(Debug)]
struct TakenSlot {
    peer: IpAddr,
    activity: AtomicU8,
    /// The time of the last change of the activity.
    since: AtomicU64,
    closed: CancellationToken,
}

/// The slot of a connection, released when this is dropped.
#[derive(Debug)]
pub struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    taken: Arc<TakenSlot>,
}

/// A request in progress, until this is dropped.
#[derive(Debug)]
#[must_use = "the request is over when this is dropped"]
pub struct ActiveRequest<'s>(&'s ConnectionSlot);

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A health check: `/livez` or `/readyz`.
    Health,
    /// Any other page, or the metrics.
    Page,
}

impl ConnectionSlots {
    /// Takes a slot for a connection from `peer`, if need be from another connection. `None` if no
    /// other connection may be closed for it.
    pub fn take(self: &Arc<Self>, peer: IpAddr) -> Option<ConnectionSlot> {
        let mut table = self.table();
        if table.taken.len() >= SLOTS {
            let evicted = table.to_evict()?;
            evicted.closed.cancel();
            table.taken.retain(|taken| !Arc::ptr_eq(taken, &evicted));
        }
        let now = table.tick();
        let taken = Arc::new(TakenSlot {
            peer,
            activity: AtomicU8::new(IDLE),
            since: AtomicU64::new(now),
            closed: CancellationToken::new(),
        });
        table.taken.push(Arc::clone(&taken));
        Some(ConnectionSlot { slots: Arc::clone(self), taken })
    }

    fn table(&self) -> MutexGuard<'_, SlotTable> {
        self.0.lock()
    }
}

impl SlotTable {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// The connection to close for a new one, if any may be closed.
    fn to_evict(&self) -> Option<Arc<TakenSlot>> {
        let share =
            |taken: &TakenSlot| self.taken.iter().filter(|other| other.peer == taken.peer).count();
        let age = |taken: &TakenSlot| std::cmp::Reverse(taken.since.load(Ordering::Relaxed));
        let idle = self.taken.iter().filter(|taken| taken.is(IDLE));
        let checks = || self.taken.iter().filter(|t| t.is(CHECK) && share(t) > CHECKS_EACH);
        let order = |taken: &&Arc<TakenSlot>| (share(taken), age(taken));
        idle.max_by_key(order).or_else(|| checks().max_by_key(order)).cloned()
    }

    /// Whether the limits allow one more page for `peer`.
    fn allows_page(&self, peer: IpAddr) -> bool {
        let reading = || self.taken.iter().filter(|taken| taken.is(PAGE));
        reading().count() < PAGES
            && reading().filter(|taken| taken.peer == peer).count() < PAGES_EACH
    }
}

impl TakenSlot {
    fn is(&self, activity: u8) -> bool {
        self.activity.load(Ordering::Relaxed) == activity
    }
}

impl ConnectionSlot {
    /// Notes that a request is in progress. `None` if too many of its kind are.
    pub fn begin(&self, kind: RequestKind) -> Option<ActiveRequest<'_>> {
        let mut table = self.slots.table();
        if kind == RequestKind::Page && !table.allows_page(self.taken.peer) {
            return None;
        }
        let activity = if kind == RequestKind::Page { PAGE } else { CHECK };
        self.taken.activity.store(activity, Ordering::Relaxed);
        self.taken.since.store(table.tick(), Ordering::Relaxed);
        Some(ActiveRequest(self))
    }

    /// Completes when the slot is given to another connection. This one must then be closed.
    pub async fn lost(&self) {
        self.taken.closed.cancelled().await;
    }
}

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        let mut table = self.0.slots.table();
        self.0.taken.activity.store(IDLE, Ordering::Relaxed);
        self.0.taken.since.store(table.tick(), Ordering::Relaxed);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.slots.table().taken.retain(|taken| !Arc::ptr_eq(taken, &self.taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn all_of(slots: &Arc<ConnectionSlots>, peer: IpAddr) -> Vec<ConnectionSlot> {
        (0..SLOTS).map(|_| slots.take(peer).unwrap()).collect()
    }

    fn lost(held: &[ConnectionSlot]) -> Vec<usize> {
        (0..held.len()).filter(|n| held[*n].taken.closed.is_cancelled()).collect()
    }

    #[test]
    fn the_longest_idle_connection_of_the_largest_holder_is_replaced() {
        let slots = Arc::<ConnectionSlots>::default();
        let mut others = vec![slots.take(ip(1)).unwrap()];
        let mut held: Vec<_> = (1..SLOTS).map(|_| slots.take(ip(2)).unwrap()).collect();
        drop(held[0].begin(RequestKind::Health));
        others.push(slots.take(ip(3)).unwrap());
        assert_eq!(lost(&held), [1]);
        held.remove(1);
        others.push(slots.take(ip(2)).unwrap());
        assert_eq!(lost(&held), [1], "also for a connection of the same address");
        assert_eq!(lost(&others), [0_usize; 0]);
    }

    #[test]
    fn connections_with_a_request_in_progress_keep_their_slots() {
        let slots = Arc::<ConnectionSlots>::default();
        let number = |n: usize| ip(u8::try_from(n / CHECKS_EACH).unwrap());
        let held: Vec<_> = (0..SLOTS).map(|n| slots.take(number(n)).unwrap()).collect();
        let mut busy: Vec<_> =
            held.iter().skip(1).map(|slot| slot.begin(RequestKind::Health)).collect();
        let new = slots.take(ip(20)).unwrap();
        assert_eq!(lost(&held), [0]);
        let _busy = new.begin(RequestKind::Health);
        assert!(slots.take(ip(30)).is_none());
        busy.pop();
        assert!(slots.take(ip(30)).is_some());
        assert_eq!(lost(&held), [0, SLOTS - 1]);
    }

    #[test]
    fn one_address_cannot_hold_all_slots_with_health_checks() {
        let slots = Arc::<ConnectionSlots>::default();
        let held = all_of(&slots, ip(1));
        let busy: Vec<_> = held.iter().map(|slot| slot.begin(RequestKind::Health)).collect();
        let new = slots.take(ip(2)).unwrap();
        let _check = new.begin(RequestKind::Health);
        assert_eq!(lost(&held), [0], "the oldest check");
        let _own = slots.take(ip(1)).unwrap();
        assert_eq!(lost(&held), [0, 1], "also for a connection of the same address");
        assert!(!new.taken.closed.is_cancelled());
        drop(busy);
    }

    #[test]
    fn the_limit_of_pages_does_not_affect_health_checks() {
        let slots = Arc::<ConnectionSlots>::default();
        let held: Vec<_> = (0..20).map(|n| slots.take(ip(n / 10)).unwrap()).collect();
        let pages: Vec<_> = held.iter().filter_map(|slot| slot.begin(RequestKind::Page)).collect();
        assert_eq!(pages.len(), 2 * PAGES_EACH);
        let other = slots.take(ip(9)).unwrap();
        assert!(other.begin(RequestKind::Page).is_none(), "the limit is reached");
        assert!(other.begin(RequestKind::Health).is_some());
        drop(pages);
        assert!(other.begin(RequestKind::Page).is_some());
    }

    #[test]
    fn a_slot_is_released_once() {
        let slots = Arc::<ConnectionSlots>::default();
        let held = all_of(&slots, ip(1));
        let new = all_of(&slots, ip(2));
        let still_held = SLOTS - lost(&held).len();
        assert_eq!(slots.table().taken.len(), SLOTS);
        drop(held);
        assert_eq!(slots.table().taken.len(), SLOTS - still_held, "the others had lost theirs");
        drop(new);
        assert!(slots.table().taken.is_empty());
    }
}
