//! The primitives of a hand-over, as the model checker has them.
//!
//! loom treats a sequentially consistent access as an acquiring and releasing one. So a fence is
//! added, as compilers do: behind each store, or before each load. Either one is enough if all
//! accesses are sequentially consistent. Each [`Mapping`] finds the weak accesses of one kind.

use std::cell::Cell;

use loom::sync::atomic::{self, fence};
use loom::sync::{self, Condvar};

pub use loom::sync::MutexGuard;
pub use std::sync::atomic::Ordering;

/// Where a sequentially consistent access has its fence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mapping {
    /// Behind the store. Finds stores that are too weak.
    AfterStores,
    /// Before the load. Finds loads that are too weak.
    BeforeLoads,
}

thread_local! {
    /// The mapping of the scenario that runs. loom runs all its threads on one thread.
    pub static MAPPING: Cell<Mapping> = const { Cell::new(Mapping::AfterStores) };
}

fn fence_if(order: Ordering, mapping: Mapping) {
    if order == Ordering::SeqCst && MAPPING.get() == mapping {
        fence(Ordering::SeqCst);
    }
}

fn loaded<T>(order: Ordering, load: impl FnOnce() -> T) -> T {
    fence_if(order, Mapping::BeforeLoads);
    load()
}

fn stored<T>(order: Ordering, store: impl FnOnce() -> T) -> T {
    let result = store();
    fence_if(order, Mapping::AfterStores);
    result
}

pub struct AtomicBool(atomic::AtomicBool);

impl AtomicBool {
    pub fn new(value: bool) -> Self {
        Self(atomic::AtomicBool::new(value))
    }

    pub fn load(&self, order: Ordering) -> bool {
        loaded(order, || self.0.load(order))
    }

    pub fn store(&self, value: bool, order: Ordering) {
        stored(order, || self.0.store(value, order));
    }
}

pub struct AtomicUsize(atomic::AtomicUsize);

impl AtomicUsize {
    pub fn new(value: usize) -> Self {
        Self(atomic::AtomicUsize::new(value))
    }

    pub fn load(&self, order: Ordering) -> usize {
        loaded(order, || self.0.load(order))
    }

    pub fn store(&self, value: usize, order: Ordering) {
        stored(order, || self.0.store(value, order));
    }

    pub fn fetch_add(&self, value: usize, order: Ordering) -> usize {
        loaded(order, || stored(order, || self.0.fetch_add(value, order)))
    }

    pub fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
        loaded(order, || stored(order, || self.0.fetch_sub(value, order)))
    }
}

#[derive(Default)]
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

/// As tokio's: keeps one notification until the task waits.
#[derive(Default)]
pub struct Notify {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl Notify {
    pub fn notify_one(&self) {
        *self.notified.lock() = true;
        self.changed.notify_one();
    }

    /// Blocks until there is a notification, and takes it.
    pub fn wait(&self) {
        let mut notified = self.notified.lock();
        while !*notified {
            notified = self.changed.wait(notified).unwrap();
        }
        *notified = false;
    }
}
