//! The threads that flush, and their queue.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, MutexGuard};

use super::chain::Chain;
use super::content_request::{Extent, KeptOpen};
use super::metadata_request::MetadataRequest;
use super::round_robin::RoundRobin;
use crate::errno::{Errno, Result};
use crate::fs::group_commit::{Next, Waiter};
use crate::fs::node::Node;
use crate::fs::node_cache::NodeCache;
use crate::fs::root::Root;
use crate::fs::stripes::Stripes;
use crate::fs::write_descriptor::Content;
use crate::sched::Patience;
use crate::sched::idle::{self, Idle};
use crate::sys::disk::{self, Discipline};
use crate::telemetry::bounded::OFTEN;

/// Threads that flush. More than disks have queues: flushes of different files share what the file
/// system writes for them only if they are requested at the same time.
const THREADS: usize = 8;

/// The stack of such a thread, which also writes the replies that waited.
const STACK: usize = 256 * 1024;

/// Files and directories with changed metadata that are flushed one by one.
const FEW: usize = 4;

/// Volumes whose files are flushed at the same time, because they are full: at most half of the
/// threads, so that the others remain for callers that wait for a flush of their own.
pub(super) const FULL_VOLUMES: usize = THREADS / 2;

/// An element of the queue.
pub(super) enum Job {
    /// Flush the content of a file.
    Content(Arc<Node>),
    /// Flush the metadata of an export.
    Metadata(Arc<Root>),
}

/// The threads that flush. Dropping it flushes what is queued, and waits for that.
pub(in crate::fs) struct Flusher {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    verifier: AtomicU64,
    /// The number of files with content that no flush covers.
    unflushed: Arc<AtomicUsize>,
    /// The locks of the files.
    locks: Arc<Stripes>,
    /// The open files.
    pub(super) nodes: Arc<NodeCache>,
    /// The full volumes whose files are flushed.
    pub(super) full_volumes: RoundRobin<Chain>,
    /// The number of flushes until now.
    count: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: Idle,
    closed: bool,
}

impl Flusher {
    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no random numbers, or refuses a thread.
    pub(in crate::fs) fn start(locks: Arc<Stripes>, nodes: Arc<NodeCache>) -> Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            verifier: AtomicU64::new(random()?),
            unflushed: Arc::default(),
            locks,
            nodes,
            full_volumes: RoundRobin::new(FULL_VOLUMES),
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

    /// Flushes a file on the calling thread, independently of other callers. Blocks.
    pub(in crate::fs) fn flush_here(&self, node: &Node, kept: KeptOpen) -> Result<()> {
        self.shared.flush_one(node, Extent::All, kept)
    }

    /// The number of files with content that no flush covers.
    pub(in crate::fs) fn unflushed(&self) -> &Arc<AtomicUsize> {
        &self.shared.unflushed
    }

    /// Returns the number of flushes until now.
    pub(in crate::fs) fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Returns the write verifier.
    pub(super) fn verifier(&self) -> u64 {
        self.shared.verifier.load(Ordering::SeqCst)
    }

    /// Changes the write verifier: data that was acknowledged without a flush may be lost, and
    /// clients are to send it again.
    pub(in crate::fs) fn change_verifier(&self) {
        self.shared.verifier.fetch_add(1, Ordering::SeqCst);
    }

    /// Queues `job`, if the caller's request made a flush due.
    pub(super) fn begin_if_due(&self, next: Next, job: impl FnOnce() -> Job) {
        if next == Next::Begin {
            self.shared.push(job());
        }
    }

    /// As [`Shared::close_written`].
    pub(super) fn close_written(&self, node: &Node) {
        self.shared.close_written(node);
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        idle::wake(queue, |queue| &mut queue.idle, usize::MAX);
        for thread in self.threads.drain(..) {
            // The last waiter may own the server, and then drops it on one of these threads.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join(); // it catches panics
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    pub(super) fn push(&self, job: Job) {
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
                let (request, waiting) = node.flush.begin();
                let extent = request.extent.unwrap_or(Extent::All);
                let flushed = self.flush_one(node, extent, request.kept);
                (flushed, waiting, node.flush.end())
            }
            Job::Metadata(root) => {
                let (requests, waiting) = root.metadata.begin();
                let flushed = self.flush_metadata(root, requests);
                (flushed, waiting, root.metadata.end())
            }
        };
        // First, so that another thread begins the next flush while the replies are sent.
        if next == Next::Begin {
            self.push(job);
        }
        notify(waiting, flushed);
    }

    /// Requests a flush of the content of `node`, if it is open, and calls `then`. Does not block.
    pub(super) fn flush_open(&self, node: Arc<Node>, then: Waiter) {
        let kept = node.opened().and_then(Content::keep);
        if node.flush.join(|request| request.add(Extent::All, kept), then) == Next::Begin {
            self.push(Job::Content(node));
        }
    }

    fn flush_metadata(&self, root: &Root, requests: Vec<MetadataRequest>) -> Result<()> {
        let all = requests.len();
        let mut single: Vec<_> =
            requests.into_iter().filter(|request| request.node.has_content()).collect();
        let many = single.len() > FEW && root.discipline != Discipline::Each;
        // A file that cannot be opened cannot be flushed alone.
        if many || single.len() < all {
            self.count_flush(disk::flush_whole(root))?;
            if many {
                // One all the same: old kernels do not report every failure of syncfs(2).
                single.truncate(1);
            }
        }
        single.into_iter().try_for_each(|one| self.flush_one(&one.node, Extent::All, one.kept))
    }

    /// Flushes a file. Blocks.
    pub(super) fn flush_one(&self, node: &Node, extent: Extent, kept: KeptOpen) -> Result<()> {
        // If no descriptor was kept, the file is open for reading, and stays so.
        let content = kept.map(Content::kept).or_else(|| node.opened()).ok_or(Errno::BADF)?;
        let one_at_a_time = node.flushing.lock();
        // Before the flush: what is written while it runs is not covered.
        if node.dirty.swap(false, Ordering::SeqCst) {
            node.root.unflushed.fetch_sub(1, Ordering::Relaxed);
        }
        let delayed = node.charge.delayed();
        let flushed = match extent {
            Extent::Data => disk::flush_data(&content),
            Extent::All => disk::flush(&content),
        };
        drop(content);
        if let Err(errno) = flushed {
            node.root.note(errno);
            node.failures.fetch_add(1, Ordering::SeqCst);
        }
        let flushed = self.count_flush(flushed);
        // Blocks may have been allocated only now. This must precede the next flush, which would
        // otherwise give `delayed` back once more, out of what a later WRITE holds.
        node.charge_flushed(delayed);
        drop(one_at_a_time);
        if flushed.is_ok() && node.write.is_seldom_opened() {
            self.close_written(node);
        }
        flushed
    }

    /// Closes the write descriptor of `node`, unless a call is writing or the content is unflushed.
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

    /// Counts a flush. After one that failed, no later reply may carry the old verifier.
    fn count_flush(&self, flushed: Result<()>) -> Result<()> {
        self.count.fetch_add(1, Ordering::Relaxed);
        if flushed.is_err() {
            self.verifier.fetch_add(1, Ordering::SeqCst);
        }
        flushed
    }
}

/// Tells the waiting callers how their flush ended.
pub(super) fn notify(waiting: Vec<Waiter>, flushed: Result<()>) {
    for waiter in waiting {
        // A bug in one call must not cost the others their replies.
        if catch_unwind(AssertUnwindSafe(|| waiter(flushed))).is_err() {
            tracing::error!(name: OFTEN, "an answer panicked; its connection is closed");
        }
    }
}

/// Returns eight random bytes.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
