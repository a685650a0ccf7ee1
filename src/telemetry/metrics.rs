//! Every metric: what is counted, and where.
//!
//! ```text
//!   data-plane thread --> Local: a shard that only it writes --+
//!   data-plane thread --> Local: another one ------------------+--> sums, when somebody asks
//!   pool, datagrams ----> the common shard --------------------+
//! ```
//!
//! A call costs a few additions to memory that no other thread writes: no lock, no allocation, no
//! search for labels ([`names`] are small numbers), and no clock of its own, because calls that
//! were read together are answered together. Whoever asks adds the shards up; it sees each number
//! as it was at some moment of its asking. [`scrape`] writes them as text.
//!
//! A call is counted before its reply is sent, so that whoever has the reply finds it counted.

pub mod names;
pub mod scrape;

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use names::{ProcedureLabel, ProcedureLabels, STATUSES, StatusLabel};
use parking_lot::{Mutex, MutexGuard};

/// The upper bounds of the latency histogram's buckets, in nanoseconds; above is one more.
const BOUNDS: [u64; 16] = [
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// A call that was carried out, as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// What was called.
    pub procedure: ProcedureLabel,
    /// How it ended.
    pub status: StatusLabel,
    /// The size of the call, in bytes, without its record mark.
    pub received: usize,
    /// The size of its reply.
    pub sent: usize,
}

/// What the process has counted since its start.
pub struct Metrics {
    started: SystemTime,
    /// Connections that were served.
    pub accepted: Counter,
    /// Connections that were closed because there were too many.
    pub refused: Counter,
    /// Connections that were closed because others took their places.
    pub displaced: Counter,
    /// Calls that got the answer of their first copy.
    pub replayed: Counter,
    labels: ProcedureLabels,
    common: Shard,
    shards: Mutex<Vec<Shard>>,
}

/// A number that grows, on a line of the cache of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Counter(AtomicU64);

/// Counts the calls that one thread answers. There is one for each thread, and it alone writes its
/// numbers, so that plain additions do.
pub struct Local(Shard);

/// The numbers of each procedure, as some threads counted them.
#[derive(Clone)]
struct Shard(Arc<[Counts]>);

/// What is counted of one procedure.
#[repr(align(64))]
struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    nanoseconds: AtomicU64,
    /// Calls by latency; their sum is the number of calls.
    buckets: [AtomicU64; BUCKETS],
    /// Calls by status.
    failed: [AtomicU64; STATUSES],
}

/// One procedure's numbers, of all threads together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The labels of the procedure: its program and its name.
    pub labels: (&'static str, &'static str),
    /// Calls that were carried out.
    pub calls: u64,
    /// Their bytes.
    pub received: u64,
    /// The bytes of their replies.
    pub sent: u64,
    nanoseconds: u64,
    buckets: [u64; BUCKETS],
    failed: [u64; STATUSES],
}

/// The label of NFS, and of its procedures that transfer the contents of files.
const NFS: &str = "nfs";
const READ: &str = "READ";
const WRITE: &str = "WRITE";

/// What came through NFS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Calls.
    pub calls: u64,
    /// Bytes of the replies to READ.
    pub read: u64,
    /// Bytes of the calls of WRITE.
    pub written: u64,
}

impl Metrics {
    /// Creates metrics with all counts at 0. `labels` are those of the procedures that will be
    /// served, see [`ProcedureLabels::new`].
    pub fn new(labels: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        let labels = ProcedureLabels::new(labels);
        let common = Shard::new(&labels);
        Self {
            started: SystemTime::now(),
            accepted: Counter::default(),
            refused: Counter::default(),
            displaced: Counter::default(),
            replayed: Counter::default(),
            shards: Mutex::new(vec![common.clone()]),
            common,
            labels,
        }
    }

    /// When the process was started.
    pub const fn started(&self) -> SystemTime {
        self.started
    }

    /// A place of its own for a thread that answers many calls; for the life of the process.
    pub fn local(&self) -> Local {
        let shard = Shard::new(&self.labels);
        self.shards().push(shard.clone());
        Local(shard)
    }

    /// Counts a call from any thread. Its reply is handed to the socket `took` after it was read.
    pub fn count(&self, took: Duration, call: Answered) {
        let add = |cell: &AtomicU64, n| {
            cell.fetch_add(n, Ordering::Relaxed);
        };
        self.common.count(Latency::of(took), call, add);
    }

    /// Returns the numbers of every procedure.
    pub fn sums(&self) -> Vec<Sum> {
        let shards = self.shards();
        self.labels.iter().map(|(procedure, labels)| Sum::of(procedure, labels, &shards)).collect()
    }

    /// Returns the labels of the procedures.
    pub const fn labels(&self) -> &ProcedureLabels {
        &self.labels
    }

    /// What came through NFS until now.
    pub fn throughput(&self) -> Throughput {
        let mut throughput = Throughput::default();
        for sum in self.sums().iter().filter(|sum| sum.labels.0 == NFS) {
            throughput.calls += sum.calls;
            match sum.labels.1 {
                READ => throughput.read += sum.sent,
                WRITE => throughput.written += sum.received,
                _ => {}
            }
        }
        throughput
    }

    fn shards(&self) -> MutexGuard<'_, Vec<Shard>> {
        self.shards.lock()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new([])
    }
}

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Local {
    /// Counts calls whose replies are handed to the socket together, `took` after they were read.
    pub fn count(&mut self, took: Duration, calls: &[Answered]) {
        let latency = Latency::of(took);
        // Nobody else writes here, as `&mut self` says: what was loaded is still there.
        let add = |cell: &AtomicU64, n| {
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        };
        for call in calls {
            self.0.count(latency, *call, add);
        }
    }
}

/// A latency, and its bucket.
#[derive(Clone, Copy)]
struct Latency {
    nanoseconds: u64,
    bucket: usize,
}

impl Latency {
    fn of(took: Duration) -> Self {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        Self { nanoseconds, bucket: BOUNDS.partition_point(|bound| *bound < nanoseconds) }
    }
}

impl Shard {
    fn new(labels: &ProcedureLabels) -> Self {
        Self((0..labels.count()).map(|_| Counts::new()).collect())
    }

    fn count(&self, latency: Latency, call: Answered, add: impl Fn(&AtomicU64, u64)) {
        let counts = &self.0[call.procedure.index()];
        add(&counts.received, call.received as u64);
        add(&counts.sent, call.sent as u64);
        add(&counts.nanoseconds, latency.nanoseconds);
        add(&counts.buckets[latency.bucket], 1);
        if call.status != StatusLabel::OK {
            add(&counts.failed[call.status.index()], 1);
        }
    }
}

impl Counts {
    fn new() -> Self {
        Self {
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
            buckets: array::from_fn(|_| AtomicU64::new(0)),
            failed: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Sum {
    fn of(
        procedure: ProcedureLabel,
        labels: (&'static str, &'static str),
        shards: &[Shard],
    ) -> Self {
        let sum = |cell: &dyn Fn(&Counts) -> &AtomicU64| -> u64 {
            let cells = shards.iter().map(|shard| cell(&shard.0[procedure.index()]));
            cells.map(|cell| cell.load(Ordering::Relaxed)).sum()
        };
        let buckets = array::from_fn(|n| sum(&|counts| &counts.buckets[n]));
        Self {
            labels,
            calls: buckets.iter().sum(),
            received: sum(&|counts| &counts.received),
            sent: sum(&|counts| &counts.sent),
            nanoseconds: sum(&|counts| &counts.nanoseconds),
            buckets,
            failed: array::from_fn(|n| sum(&|counts| &counts.failed[n])),
        }
    }

    /// How often it ended with each status that is no success, and was met.
    pub fn failures(&self) -> impl Iterator<Item = (StatusLabel, u64)> {
        let failures = StatusLabel::failures().map(|status| (status, self.failed[status.index()]));
        failures.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let nfs = ["NULL", "GETATTR", "LOOKUP", READ, WRITE].map(|name| (NFS, name));
        Metrics::new(nfs.into_iter().chain([("mount", "MNT")]))
    }

    fn call(metrics: &Metrics, procedure: &str, status: u32) -> Answered {
        let procedure = metrics.labels.find(NFS, procedure);
        Answered { procedure, status: StatusLabel::of(status), received: 100, sent: 20 }
    }

    fn sum(metrics: &Metrics, procedure: &str) -> Sum {
        metrics.sums().swap_remove(metrics.labels.find(NFS, procedure).index())
    }

    #[test]
    fn what_all_threads_counted_is_added_up() {
        let metrics = metrics();
        let (mut one, mut other) = (metrics.local(), metrics.local());
        let took = Duration::from_micros(7);
        let call = |procedure, status| call(&metrics, procedure, status);
        one.count(took, &[call("GETATTR", 0), call("LOOKUP", 2), call("GETATTR", 0)]);
        other.count(took, &[call("GETATTR", 70)]);
        metrics.count(took, call("GETATTR", 70));
        let getattr = sum(&metrics, "GETATTR");
        assert_eq!((getattr.calls, getattr.received, getattr.sent), (4, 400, 80));
        assert_eq!(getattr.nanoseconds, 4 * 7000);
        assert_eq!(getattr.failures().collect::<Vec<_>>(), [(StatusLabel::of(70), 2)]);
        assert_eq!(
            sum(&metrics, "LOOKUP").failures().collect::<Vec<_>>(),
            [(StatusLabel::of(2), 1)]
        );
        assert_eq!(sum(&metrics, "NULL").calls, 0);
    }

    #[test]
    fn a_latency_is_in_the_first_bucket_that_holds_it() {
        let bucket = |nanoseconds| Latency::of(Duration::from_nanos(nanoseconds)).bucket;
        assert_eq!([bucket(0), bucket(5_000), bucket(5_001)], [0, 0, 1]);
        assert_eq!([bucket(5_000_000_000), bucket(5_000_000_001)], [15, 16]);
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn threads_that_share_lose_nothing() {
        let metrics = metrics();
        let read = call(&metrics, READ, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| metrics.count(Duration::ZERO, read)));
            }
        });
        assert_eq!(sum(&metrics, READ).calls, 4000);
    }

    #[test]
    fn throughput_is_of_nfs_alone() {
        let metrics = metrics();
        let call = |procedure| call(&metrics, procedure, 0);
        let mount = Answered { procedure: metrics.labels.find("mount", "MNT"), ..call("NULL") };
        for call in [call("GETATTR"), call(READ), call(WRITE), mount] {
            metrics.count(Duration::ZERO, call);
        }
        let expected = Throughput { calls: 3, read: 20, written: 100 };
        assert_eq!(metrics.throughput(), expected);
    }
}
