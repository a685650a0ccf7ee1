//! Flushing: threads of their own, which tell those who wait.
//!
//! Whoever waits for a flush holds no thread meanwhile, and those who wait for the same share one
//! ([`super::group`]): for the content of a file, or for the names and attributes of an export.
//!
//! ```text
//!   WRITE, COMMIT --> group of the file ---+                                +--> reply
//!                                          +--> queue --> threads: fsync ---+--> reply
//!   CREATE, ... ----> group of the export -+                                +--> reply
//! ```
//!
//! Of names, the few files and directories that changed are flushed one by one. If there are many,
//! the whole file system is, where that is known to work ([`Discipline`]): of 64 new files, a flush
//! for each took 3.3 ms and 560 us of CPU time (ext4 without a journal), one of the whole 0.2 ms
//! and 60 us, as much as one of the directory alone. It writes what others have not flushed, too,
//! which is why one or a few are not flushed that way.
//!
//! A durable write of 4 KiB that comes alone costs 156-170 us of CPU time, nearly all of it for the
//! flush. To flush on the thread that received it saved 5 to 15 % of that, and every other call of
//! the thread would wait for the disk.
//!
//! The kernel tells each open file once that data could not be written, and forgets the data. So a
//! file is flushed by one thread at a time, a failure changes the verifier before anybody hears of
//! it, and whoever waits for a flush says how many had failed before the change was made: one that
//! failed in between may have been about that change, although the next one succeeds.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, MutexGuard};

use super::Fs;
use super::attr::Kind;
use super::group::{Next, Waiter};
use super::node::{Node, Nodes};
use super::root::Root;
use super::settling::Settling;
use super::stripes::Stripes;
use super::writing::Content;
use crate::errno::{Errno, Result};
use crate::sched::Patience;
use crate::sched::idle::{self, Idle};
use crate::sys::disk::{self, Discipline};
use crate::telemetry::bounded::OFTEN;

/// Threads that flush. More than disks have: flushes of different files share what the file system
/// writes for them only if they are asked for at the same time.
const THREADS: usize = 8;

/// Stack of such a thread, which also writes the replies that waited.
const STACK: usize = 256 * 1024;

/// Files and directories with changed names or attributes that are flushed one by one.
const FEW: usize = 4;

/// How much of a file must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The content, and what is needed to read it again (fdatasync(2)).
    Data,
    /// All of it (fsync(2)).
    All,
}

/// How many flushes of a file have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures(u64);

/// What has to be on the disk before a change may be answered.
pub enum Due {
    /// The content of a file, which was changed after so many flushes of it had failed.
    Content(Arc<Node>, Extent, Failures),
    /// Names and attributes of these files and directories of one export.
    Names(Vec<Arc<Node>>),
}

/// The descriptor for writing that was open when somebody began to wait for a flush. The flush
/// before may close it, or a sweep, and then nothing else of the file need be open.
pub(super) type Kept = Option<Arc<OwnedFd>>;

/// What the next flush of a file's content has to cover.
#[derive(Default)]
pub(super) struct Wanted {
    extent: Option<Extent>,
    kept: Kept,
}

/// A file or directory whose names and attributes are to be flushed.
pub(super) struct Named {
    node: Arc<Node>,
    kept: Kept,
}

/// What is in the queue of the threads.
enum Job {
    Content(Arc<Node>),
    Names(Arc<Root>),
}

/// The threads that flush. Dropping it flushes what is queued, and waits for that.
pub(super) struct Flusher {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    verifier: AtomicU64,
    /// Files with content that no flush covers.
    unflushed: Arc<AtomicUsize>,
    /// The locks of the files.
    locks: Arc<Stripes>,
    /// The open files, by the descriptors that they have.
    pub(super) nodes: Arc<Nodes>,
    /// Full volumes whose files are flushed.
    pub(super) settling: Settling,
    /// Flushes until now.
    count: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: std::collections::VecDeque<Job>,
    idle: Idle,
    closed: bool,
}

impl Node {
    /// How many flushes have failed until now; to be asked before a change that is to be flushed.
    pub fn failures(&self) -> Failures {
        Failures(self.failures.load(Ordering::SeqCst))
    }

    /// Whether flushes of the content are one caller's at a time, and none is running.
    pub fn is_seldom_flushed(&self) -> bool {
        self.flush.is_quiet()
    }

    /// Whether new names in this directory are on the disk with their files when the directory is.
    pub fn settles_new_names(&self) -> bool {
        self.root.discipline == Discipline::Journal
    }

    /// Whether what is written goes into the kernel's memory first, and to no program or server.
    pub fn is_written_to_memory(&self) -> bool {
        self.root.discipline != Discipline::Each
    }

    const fn has_content(&self) -> bool {
        matches!(self.kind, Kind::Regular | Kind::Directory)
    }
}

impl Fs {
    /// Tells `then` when all that is due is on the disk. Blocks only as long as opening a file may
    /// take that is not open.
    pub fn settle(&self, due: Due, then: Waiter) {
        match due {
            Due::Content(node, extent, since) => {
                let kept = match self.readable(&node, Patience::Blocking) {
                    Ok(content) => content.keep(),
                    Err(errno) => return then(Err(errno)),
                };
                let file = Arc::clone(&node);
                let then = Box::new(move |flushed: Result<()>| {
                    let lost = flushed.is_ok() && file.failures() != since;
                    then(if lost { Err(Errno::IO) } else { flushed });
                });
                let next = node.flush.join(|wanted| wanted.add(extent, kept), then);
                self.flusher.see_to(next, || Job::Content(node));
            }
            Due::Names(nodes) => {
                let Some(root) = nodes.first().map(|node| Arc::clone(&node.root)) else {
                    return then(Ok(()));
                };
                let named = nodes.into_iter().map(|node| self.named(node));
                let named = match named.collect::<Result<Vec<_>>>() {
                    Ok(named) => named,
                    Err(errno) => return then(Err(errno)),
                };
                let next = root.names.join(|wanted| add(wanted, named), then);
                self.flusher.see_to(next, || Job::Names(Arc::clone(&root)));
            }
        }
    }

    /// `node`, open as far as it can be. Blocks.
    fn named(&self, node: Arc<Node>) -> Result<Named> {
        let kept = match node.has_content() {
            true => self.readable(&node, Patience::Blocking)?.keep(),
            false => None,
        };
        Ok(Named { node, kept })
    }

    /// Has the content of `node` on the disk, as far as `extent` says. Blocks.
    ///
    /// # Errors
    /// It may not be, and what was written without a flush before may be lost: the verifier is
    /// another one now.
    pub fn flush(&self, node: &Arc<Node>, extent: Extent) -> Result<()> {
        let (told, flushed) = mpsc::channel();
        let due = Due::Content(Arc::clone(node), extent, node.failures());
        self.settle(
            due,
            Box::new(move |flushed| {
                let _ = told.send(flushed); // it is waited for below
            }),
        );
        flushed.recv().unwrap_or(Err(Errno::IO))
    }

    /// Whether [`Fs::settle`] for the content of `node` would not block.
    pub fn is_open(&self, node: &Node) -> bool {
        node.opened().is_some()
    }

    /// What changes whenever data that was acknowledged without a flush may be lost: at every
    /// start, and after every flush that failed. Clients compare it and send again (RFC 1813
    /// §3.3.7). To be asked before a WRITE is made, and after the flush of a COMMIT.
    pub fn verifier(&self) -> u64 {
        self.flusher.shared.verifier.load(Ordering::SeqCst)
    }

    /// Notes that `node` has content which no flush covers.
    pub(super) fn mark_dirty(&self, node: &Node) {
        if !node.dirty.swap(true, Ordering::SeqCst) {
            node.root.unflushed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the descriptors for writing of files that nobody writes and that are flushed.
    pub(super) fn close_written(&self, nodes: &[Arc<Node>]) {
        for node in nodes {
            self.flusher.shared.close_written(node);
        }
    }
}

impl Wanted {
    fn add(&mut self, extent: Extent, kept: Kept) {
        self.extent = self.extent.max(Some(extent));
        self.kept = self.kept.take().or(kept);
    }
}

/// Adds what is not there. Nearly always a directory, or a few of them.
fn add(wanted: &mut Vec<Named>, named: Vec<Named>) {
    for new in named {
        match wanted.iter_mut().find(|other| Arc::ptr_eq(&other.node, &new.node)) {
            Some(other) => other.kept = other.kept.take().or(new.kept),
            None => wanted.push(new),
        }
    }
}

impl Flusher {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no random numbers, or refuses a thread.
    pub(super) fn start(locks: Arc<Stripes>, nodes: Arc<Nodes>) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            verifier: AtomicU64::new(random()?),
            unflushed: Arc::default(),
            locks,
            nodes,
            settling: Settling::default(),
            count: AtomicU64::new(0),
        });
        let start = |n| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(format!("berth-flush-{n}")).stack_size(STACK);
            thread.spawn(move || shared.work())
        };
        let threads = (0..THREADS).map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { shared, threads })
    }

    /// Flushes a file on the calling thread, whatever the others wait for. Blocks.
    pub(super) fn flush_here(&self, node: &Node, kept: Kept) -> Result<()> {
        self.shared.flush_one(node, Extent::All, kept)
    }

    /// Files with content that no flush covers.
    pub(super) fn unflushed(&self) -> &Arc<AtomicUsize> {
        &self.shared.unflushed
    }

    /// How often something was flushed.
    pub(super) fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// What was acknowledged without a flush may be lost: has clients send it again.
    pub(super) fn forget_unflushed(&self) {
        self.shared.verifier.fetch_add(1, Ordering::SeqCst);
    }

    fn see_to(&self, next: Next, job: impl FnOnce() -> Job) {
        if next == Next::Due {
            self.shared.push(job());
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        idle::wake(queue, |queue| &mut queue.idle, usize::MAX);
        for thread in self.threads.drain(..) {
            // The last who waited may have kept the server, and now drops it here.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // it catches what panics
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    fn push(&self, job: Job) {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        idle::wake(queue, |queue| &mut queue.idle, 1);
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            self.run(job);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = idle::wait(&self.queue, queue, |queue| &mut queue.idle);
        }
    }

    fn run(&self, job: Job) {
        let (flushed, waiting, next) = match &job {
            Job::Content(node) => {
                let (wanted, waiting) = node.flush.begin();
                let extent = wanted.extent.unwrap_or(Extent::All);
                let flushed = self.flush_one(node, extent, wanted.kept);
                (flushed, waiting, node.flush.end())
            }
            Job::Names(root) => {
                let (named, waiting) = root.names.begin();
                let flushed = self.flush_names(root, named);
                (flushed, waiting, root.names.end())
            }
        };
        // First, so that another thread begins the next flush while the answers are given.
        if next == Next::Due {
            self.push(job);
        }
        tell(waiting, flushed);
    }

    /// Has the content of `node` flushed, if it is open, and tells `then`. Does not block.
    pub(super) fn flush_open(&self, node: Arc<Node>, then: Waiter) {
        let kept = node.opened().and_then(Content::keep);
        if node.flush.join(|wanted| wanted.add(Extent::All, kept), then) == Next::Due {
            self.push(Job::Content(node));
        }
    }

    fn flush_names(&self, root: &Root, named: Vec<Named>) -> Result<()> {
        let all = named.len();
        let mut single: Vec<_> = named.into_iter().filter(|one| one.node.has_content()).collect();
        let many = single.len() > FEW && root.discipline != Discipline::Each;
        // What cannot be opened has no flush of its own.
        if many || single.len() < all {
            self.flushed(disk::flush_whole(root))?;
            if many {
                // One all the same: old kernels do not tell of everything that went wrong.
                single.truncate(1);
            }
        }
        single.into_iter().try_for_each(|one| self.flush_one(&one.node, Extent::All, one.kept))
    }

    fn flush_one(&self, node: &Node, extent: Extent, kept: Kept) -> Result<()> {
        // If nothing was kept, it is open for reading, and stays so.
        let content = kept.map(Content::kept).or_else(|| node.opened()).ok_or(Errno::BADF)?;
        let one_at_a_time = node.flushing.lock();
        // Before the flush: what is written while it runs is not covered.
        if node.dirty.swap(false, Ordering::SeqCst) {
            node.root.unflushed.fetch_sub(1, Ordering::Relaxed);
        }
        let late = node.charge.late();
        let flushed = match extent {
            Extent::Data => disk::flush_data(&content),
            Extent::All => disk::flush(&content),
        };
        drop(content);
        if let Err(errno) = flushed {
            node.root.note(errno);
            node.failures.fetch_add(1, Ordering::SeqCst);
        }
        let flushed = self.flushed(flushed);
        // Blocks may have been allocated only now. Before the next flush looks at what is held: it
        // would give back this part once more, out of what a WRITE holds that it does not cover.
        node.charge_flushed(late);
        drop(one_at_a_time);
        if flushed.is_ok() && node.write.is_seldom_opened() {
            self.close_written(node);
        }
        flushed
    }

    /// Closes the descriptor for writing of `node`, unless somebody is writing, or has, without a
    /// flush.
    fn close_written(&self, node: &Node) {
        if !node.write.is_open() {
            return;
        }
        let locked = self.locks.lock(self.locks.index(node.fileid), Patience::None);
        let is_written = locked.is_err() || node.dirty.load(Ordering::SeqCst);
        if !is_written && node.close_written().unwrap_or(false) {
            self.nodes.recount(&node.handle);
        }
    }

    /// Counts a flush. After one that failed, no later answer may carry the old verifier.
    fn flushed(&self, flushed: Result<()>) -> Result<()> {
        self.count.fetch_add(1, Ordering::Relaxed);
        if flushed.is_err() {
            self.verifier.fetch_add(1, Ordering::SeqCst);
        }
        flushed
    }
}

/// Tells those who waited how their flush ended.
pub(super) fn tell(waiting: Vec<Waiter>, flushed: Result<()>) {
    for waiter in waiting {
        // A bug in one call must not take the answers of the others.
        if catch_unwind(AssertUnwindSafe(|| waiter(flushed))).is_err() {
            tracing::error!(name: OFTEN, "an answer panicked; its connection is closed");
        }
    }
}

/// Says that a flush failed for which no client waits.
pub(super) fn note_failure(node: &Node, error: Errno) {
    tracing::error!(
        name: OFTEN, %error, fileid = node.fileid, "cannot flush a file; clients send again"
    );
}

/// Eight random bytes.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests;
