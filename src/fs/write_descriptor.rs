//! The descriptor with which a file is written: open as long as something needs it.
//!
//! While it is, nobody can execute the file on the server's host (`ETXTBSY`), which is what a
//! program that was copied over NFS is for. So it is closed
//!
//! - by the flush after which nothing is left to be flushed (COMMIT, a durable WRITE), before that
//!   is answered;
//! - at the second sweep after the last WRITE, where nothing waits for a flush; otherwise that is
//!   flushed after some more ([`super::node::Nodes::sweep`]), whoever looks at the file meanwhile.
//!
//! To open it anew for each WRITE would cost a database, which flushes after each, a turn in the
//! pool. So a file that was opened often since the last sweep keeps the descriptor until the sweeps
//! find it idle.
//!
//! It is opened, used for writing and closed under the file's lock. A READ may use it without that,
//! and then keeps it open until it has read. Whoever waits for a flush keeps what was open when it
//! began to wait until that flush has ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwapOption, Guard};

/// How often a file may be opened between two sweeps and still be closed with each flush.
const OFTEN: u32 = 8;

/// Sweeps without a WRITE after which a descriptor is closed that nothing needs.
const IDLE: u32 = 2;

/// The descriptor, if it is open.
#[derive(Default)]
pub(super) struct WriteDescriptor {
    content: ArcSwapOption<OwnedFd>,
    /// The sweep at which it was last used.
    used: AtomicU32,
    /// The sweep at which it was last opened, and how often since.
    opened: AtomicU32,
    times: AtomicU32,
}

/// The content of a file, open.
pub(super) enum Content<'n> {
    /// For reading, as long as the node is.
    Reading(&'n OwnedFd),
    /// For reading and writing, as long as this is.
    Writing(Guard<Option<Arc<OwnedFd>>>),
}

impl AsFd for Content<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Reading(content) => content.as_fd(),
            Self::Writing(content) => content.as_ref().expect("made of what is open").as_fd(),
        }
    }
}

impl Content<'_> {
    /// What has to be kept for the content to stay open: nothing, if it does as long as the node
    /// is.
    pub(super) fn keep(self) -> Option<Arc<OwnedFd>> {
        match self {
            Self::Reading(_) => None,
            Self::Writing(content) => Guard::into_inner(content),
        }
    }

    /// The content, open as what was kept.
    pub(super) fn kept(content: Arc<OwnedFd>) -> Self {
        Self::Writing(Guard::from_inner(Some(content)))
    }
}

impl WriteDescriptor {
    /// The descriptor, if it is open.
    pub(super) fn get(&self) -> Option<Content<'static>> {
        let content = self.content.load();
        content.is_some().then_some(Content::Writing(content))
    }

    pub(super) fn is_open(&self) -> bool {
        self.content.load().is_some()
    }

    /// Keeps what was just opened, at the sweep `now`, unless something is kept already.
    pub(super) fn set(&self, opened: OwnedFd, now: u32) {
        let none = None::<Arc<OwnedFd>>;
        self.content.compare_and_swap(&none, Some(Arc::new(opened)));
        if self.opened.swap(now, Ordering::Relaxed) != now {
            self.times.store(0, Ordering::Relaxed);
        }
        self.times.fetch_add(1, Ordering::Relaxed);
        self.touch(now);
    }

    /// It is used at the sweep `now`.
    pub(super) fn touch(&self, now: u32) {
        // A line of memory that others read is written once a second at most.
        if self.used.load(Ordering::Relaxed) != now {
            self.used.store(now, Ordering::Relaxed);
        }
    }

    /// Sweeps since it was used.
    pub(super) fn idle(&self, now: u32) -> u32 {
        now.wrapping_sub(self.used.load(Ordering::Relaxed))
    }

    /// Whether it is open and nobody has written for so long that it need not be.
    pub(super) fn is_left(&self, now: u32) -> bool {
        self.is_open() && self.idle(now) >= IDLE
    }

    /// Whether to close it with the flush that leaves nothing unflushed.
    pub(super) fn is_seldom_opened(&self) -> bool {
        self.times.load(Ordering::Relaxed) <= OFTEN
    }

    /// Closes it; answers whether it was open. The file's lock is held.
    pub(super) fn close(&self) -> bool {
        self.content.swap(None).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(writing: &WriteDescriptor, now: u32) {
        writing.set(tempfile::tempfile().unwrap().into(), now);
    }

    #[test]
    fn what_is_opened_often_between_two_sweeps_stays_open_until_it_is_idle() {
        let writing = WriteDescriptor::default();
        for _ in 0..OFTEN {
            open(&writing, 1000);
            assert!(writing.is_seldom_opened());
            assert!(writing.close());
        }
        open(&writing, 1000);
        assert!(!writing.is_seldom_opened());
        assert!(!writing.is_left(1001));
        assert!(writing.is_left(1002));
        assert!(writing.close() && !writing.close());
        open(&writing, 1003);
        assert!(writing.is_seldom_opened(), "that was long ago");
    }

    #[test]
    fn the_first_that_was_opened_is_kept_and_outlives_its_end_for_who_uses_it() {
        let writing = WriteDescriptor::default();
        assert!(writing.get().is_none());
        open(&writing, 7);
        let first = writing.get().unwrap();
        let number = |content: &Content<'_>| rustix::fs::fstat(content.as_fd()).unwrap().st_ino;
        let before = number(&first);
        open(&writing, 7);
        assert_eq!(number(&writing.get().unwrap()), before);
        assert!(writing.close());
        assert_eq!(number(&first), before);
    }
}
