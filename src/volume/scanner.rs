//! The thread that counts what volumes use: volumes whose usage is unknown, volumes for which a
//! count was requested, and periodically all volumes, because their content may have been changed
//! outside of the server.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::spec::{QuotaMode, Spec};
use super::{Volume, VolumeEntry, Volumes};
use crate::export::ExportId;

/// The interval at which it looks for work without a request.
const LOOK: Duration = Duration::from_secs(10);

/// The time before a failed count is repeated.
const RETRY: Duration = Duration::from_secs(60);

/// The handle of the thread.
pub(super) struct Scanner {
    asked: Arc<Mutex<HashSet<ExportId>>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct ScanWorker {
    volumes: Weak<Volumes>,
    asked: Arc<Mutex<HashSet<ExportId>>>,
    stop: Arc<AtomicBool>,
    recount: Duration,
    /// When each volume was last counted or its count failed, or when it was first seen.
    last: HashMap<ExportId, Instant>,
    failed: HashMap<ExportId, Instant>,
    /// When the disk was last flushed for a count.
    flushed: Option<Instant>,
}

impl Scanner {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(super) fn start(volumes: Arc<Volumes>, recount: Duration) -> io::Result<Self> {
        let (asked, stop) = (Arc::<Mutex<HashSet<_>>>::default(), Arc::<AtomicBool>::default());
        let mut worker = ScanWorker {
            volumes: Arc::downgrade(&volumes),
            asked: Arc::clone(&asked),
            stop: Arc::clone(&stop),
            recount,
            last: HashMap::new(),
            failed: HashMap::new(),
            flushed: None,
        };
        let thread =
            thread::Builder::new().name("berth-count".into()).spawn(move || worker.run())?;
        Ok(Self { asked, stop, thread: Mutex::new(Some(thread)) })
    }

    /// Requests a count of the volume with this export.
    pub(super) fn ask(&self, export: ExportId) {
        self.asked.lock().insert(export);
    }

    /// Stops the thread, and waits for it. `wake` must end its wait for requests.
    pub(super) fn stop(&self, wake: impl FnOnce()) {
        self.stop.store(true, Ordering::SeqCst);
        wake();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl ScanWorker {
    fn run(&mut self) {
        while !self.stop.load(Ordering::SeqCst)
            && let Some(volumes) = self.volumes.upgrade()
        {
            match self.due(&volumes) {
                Some(volume) => self.count(&volumes, &volume),
                None => {
                    volumes.layout.stock(); // there may be free space again
                    volumes.ledger.wait_for_count_request(LOOK);
                }
            }
        }
    }

    /// Returns the volume to be counted next. The order: a change waits for the count, a count was
    /// requested, the usage is unknown, the last count is old.
    fn due(&mut self, volumes: &Volumes) -> Option<Arc<Volume>> {
        let table = volumes.table.read();
        let (now, mut best) = (Instant::now(), None);
        for entry in table.entries.values() {
            let VolumeEntry::Volume(volume) = entry else { continue };
            let rank = if volume.lost().is_some() { None } else { self.rank(volume, now) };
            if let Some(rank) = rank
                && best.as_ref().is_none_or(|(least, _)| rank < *least)
            {
                best = Some((rank, Arc::clone(volume)));
            }
        }
        best.map(|(_, volume)| volume)
    }

    fn rank(&mut self, volume: &Volume, now: Instant) -> Option<u8> {
        let export = volume.export_id();
        if self.failed.get(&export).is_some_and(|failed| now - *failed < RETRY) {
            return None;
        }
        let asked = self.asked.lock().contains(&export);
        let last = *self.last.entry(export).or_insert(now);
        match () {
            () if volume.account.wants_count() => Some(0),
            () if asked => Some(1),
            () if !volume.account.is_exact() => Some(2),
            () if !self.recount.is_zero() && now - last > self.recount => Some(3),
            () => None,
        }
    }

    /// Flushes what was written before a crash or outside of the server, because some file systems
    /// allocate blocks only then. One flush serves many counts.
    fn flush(&mut self, volumes: &Volumes) {
        if self.flushed.is_some_and(|flushed| flushed.elapsed() < LOOK) {
            return;
        }
        let flush = || -> io::Result<()> {
            Ok(rustix::fs::syncfs(std::fs::File::open(volumes.layout.dir())?)?)
        };
        if let Err(error) = flush() {
            tracing::warn!(
                %error, "cannot flush the disk; the count misses blocks that are allocated later"
            );
        }
        self.flushed = Some(Instant::now());
    }

    fn count(&mut self, volumes: &Volumes, volume: &Volume) {
        let (export, name) = (volume.export_id(), volume.record().spec.name);
        self.asked.lock().remove(&export);
        self.last.insert(export, Instant::now());
        self.flush(volumes);
        let start = Instant::now();
        match volumes.serving.fs.count(export, &self.stop) {
            Ok(Some(counted)) => {
                self.failed.remove(&export);
                let (usage, took) = (counted.usage, start.elapsed());
                warn_beyond(&volume.record().spec, usage.bytes);
                tracing::debug!(volume = %name, bytes = usage.bytes, inodes = usage.inodes,
                    difference = counted.difference, ?took, "counted");
            }
            Ok(None) => {}
            Err(error) => {
                self.failed.insert(export, Instant::now());
                tracing::warn!(volume = %name, %error, "cannot count the usage of the volume");
            }
        }
    }
}

/// Logs a volume that exceeds its capacity, because of adopted content or changes outside of the
/// server.
fn warn_beyond(spec: &Spec, bytes: u64) {
    if bytes > spec.capacity && spec.quota == QuotaMode::Enforce {
        tracing::warn!(
            volume = %spec.name, bytes, capacity = spec.capacity,
            "the volume uses more than its capacity: nothing can be written until files are \
             removed or it is expanded"
        );
    }
}
