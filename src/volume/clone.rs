//! Clones: volumes that are created as a copy of another volume.
//!
//! The copy is made in `making` and has no record until it is complete. A clone that is interrupted
//! is therefore discarded at the next start and never looks like a volume; its note
//! ([`super::clone_note`]) makes it appear as failed then. A copy is not a snapshot: a change of
//! the source during the copy may be in the copy or not, file by file. The source cannot be
//! reclaimed while it is copied.
//!
//! A few copies run at a time ([`super::copy_queue`]). The others are shown as cloning, without
//! progress.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::clone_note::CloneNote;
use super::copy::{CopyError, copy_tree};
use super::error::{Error, Result, VolumeErrorKind};
use super::layout::VolumeLayout;
use super::mark::exists;
use super::name::{VolumeId, VolumeName};
use super::progress::TreeProgress;
use super::registry::{self, VolumeRecord};
use super::spec::{QuotaMode, Spec, VolumePhase, VolumeStatus};
use super::{Reclaimed, VolumeEntry, Volumes};
use crate::telemetry::log::Chain;

/// The reason that is shown for a clone whose failure left no other reason.
const CUT_OFF: &str =
    "the server ended before the copy was complete; create it again, or delete it";

/// A volume that is being copied from another volume, or whose copy has failed.
pub(super) struct CloneJob {
    spec: Spec,
    from: VolumeName,
    /// The directory to copy.
    source: PathBuf,
    began: Timestamp,
    progress: TreeProgress,
    /// The reason, if the clone has failed.
    failed: Mutex<Option<String>>,
    /// Whether it failed because the disk is full.
    full: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopped: AtomicBool,
}

impl CloneJob {
    fn new(note: &CloneNote, source: PathBuf) -> Self {
        Self {
            spec: note.spec.clone(),
            from: note.from.clone(),
            source,
            began: note.began,
            progress: TreeProgress::new(),
            failed: Mutex::new(note.failed.clone()),
            full: AtomicBool::new(false),
            thread: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Creates the job of a clone that an earlier run of the server did not complete.
    pub(super) fn cut_off(note: CloneNote) -> Self {
        let failed = Some(note.failed.unwrap_or_else(|| CUT_OFF.into()));
        Self::new(&CloneNote { failed, ..note }, PathBuf::new())
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(super) fn failed(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    pub(super) fn status(&self, layout: &VolumeLayout, free: u64) -> VolumeStatus {
        let progress = self.progress.snapshot();
        let phase = match self.failed() {
            Some(message) => VolumePhase::Failed { message },
            None => VolumePhase::Cloning { from: self.from.clone(), progress },
        };
        let used = progress.bytes_done;
        let free = free.min(self.spec.capacity.saturating_sub(used));
        let full = self.full.load(Ordering::SeqCst);
        VolumeStatus {
            phase,
            full,
            used,
            free,
            ..VolumeStatus::of(self.spec.clone(), layout, self.began)
        }
    }

    /// Starts the thread, unless the job was stopped before.
    fn start(self: &Arc<Self>, volumes: &Arc<Volumes>) -> std::io::Result<()> {
        // Held while the thread starts, so that `stop` finds the thread and waits for it.
        let mut place = self.thread.lock();
        if !self.stopped.load(Ordering::SeqCst) {
            let (volumes, job) = (Arc::clone(volumes), Arc::clone(self));
            let thread = thread::Builder::new().name("berth-clone".into());
            *place = Some(thread.spawn(move || volumes.run_clones(job))?);
        }
        Ok(())
    }

    /// Stops the copy, and waits until its thread has ended.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.progress.cancel();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Volumes {
    /// Begins to clone a volume.
    ///
    /// The clone of a volume whose path has a token gets a token too: its content must not become
    /// reachable at a path that can be guessed.
    pub(super) fn begin_clone(self: &Arc<Self>, mut spec: Spec, from: &VolumeName) -> Result<()> {
        let volume = self.volume(from)?;
        if spec.token.is_none() && volume.record().spec.token.is_some() {
            spec.token = Some(registry::fresh_token()?);
        }
        let used = volume.account.usage().bytes;
        let wanted = spec.capacity;
        if wanted < used && spec.quota == QuotaMode::Enforce {
            return Err(Error::InUse { wanted, used });
        }
        self.check_place(&spec)?;
        let (began, failed) = (registry::now(), None);
        let note = CloneNote { spec: spec.clone(), from: from.clone(), began, failed };
        self.layout.note(&note)?;
        let job = Arc::new(CloneJob::new(&note, self.layout.volume(&volume.record().spec)));
        self.start_clone(&job).inspect_err(|_| {
            // The clone was not acknowledged, so it must not appear as failed.
            if let Err(error) = self.layout.strike_note(&spec.id) {
                tracing::warn!(
                    %error,
                    "cannot remove the note of a clone that did not begin; it may appear as failed"
                );
            }
        })
    }

    fn start_clone(self: &Arc<Self>, job: &Arc<CloneJob>) -> Result<()> {
        let spec = &job.spec;
        self.layout.create_empty(&self.layout.making(&spec.id))?;
        self.enter(&spec.name, &spec.id, VolumeEntry::Clone(Arc::clone(job)));
        self.copies.add(Arc::clone(job));
        self.begin_copies();
        Ok(())
    }

    /// Starts the copies that may run now.
    pub(super) fn begin_copies(self: &Arc<Self>) {
        while let Some(job) = self.copies.next() {
            if let Err(error) = job.start(self) {
                let _turn = self.copies.turn(&job);
                self.fail(&job, &Error::io("start a thread to clone", job.source.clone())(error));
            }
        }
    }

    /// Makes a copy, then starts the next ones.
    fn run_clones(self: &Arc<Self>, job: Arc<CloneJob>) {
        let turn = self.copies.turn(&job);
        tracing::info!(volume = %job.spec.name, from = %job.from, "cloning");
        let done = self.copy(&job).and_then(|()| self.finish_clone(&job));
        if let Err(error) = done {
            self.fail(&job, &error);
        }
        drop(turn);
        self.begin_copies();
    }

    /// Cancels a clone that is no longer wanted: it fails soon, and can then be reclaimed. A clone
    /// whose copy has not started fails at once. May be repeated.
    pub fn give_up(&self, name: &VolumeName, id: &VolumeId) {
        let Ok(VolumeEntry::Clone(job)) = self.entry(name) else { return };
        if job.spec.id != *id || job.failed().is_some() {
            return;
        }
        job.progress.cancel();
        if self.copies.remove(&job) {
            let source = CopyError::Cancelled;
            self.fail(&job, &Error::Clone { from: job.from.clone(), source });
        }
    }

    /// Starts no further copies.
    #[cfg(test)]
    pub fn hold_copies(&self) {
        self.copies.set_limit(0);
    }

    /// Marks a clone as failed, and discards what was copied.
    fn fail(&self, job: &Arc<CloneJob>, error: &Error) {
        let (name, from) = (&job.spec.name, &job.from);
        let message = Chain(error).to_string();
        if !job.stopped.load(Ordering::SeqCst) {
            match job.progress.is_cancelled() {
                true => tracing::info!(volume = %name, %from, "cloning is cancelled"),
                false => tracing::error!(volume = %name, %from, error = %message, "cannot clone"),
            }
            self.note_failure(job, &message);
        }
        job.full.store(error.kind() == VolumeErrorKind::NoSpace, Ordering::SeqCst);
        *job.failed.lock() = Some(message);
        let making = self.layout.making(&job.spec.id);
        if exists(&making)
            && let Err(error) = self.layout.discard(&making)
        {
            tracing::warn!(
                %error, "cannot discard an incomplete clone; it stays until the next start"
            );
        }
        self.nudge_trash();
    }

    /// Stores the reason of a failure for the next start.
    fn note_failure(&self, job: &CloneJob, message: &str) {
        let failed = Some(message.to_owned());
        let (spec, from, began) = (job.spec.clone(), job.from.clone(), job.began);
        if let Err(error) = self.layout.note(&CloneNote { spec, from, began, failed }) {
            tracing::warn!(
                %error, "cannot store why a clone failed; the reason is lost at the next start"
            );
        }
    }

    fn copy(&self, job: &CloneJob) -> Result<()> {
        let (source, target) = (&job.source, self.layout.making(&job.spec.id));
        job.progress.estimate(source);
        let limit = match job.spec.quota {
            QuotaMode::Enforce => job.spec.capacity,
            QuotaMode::Report | QuotaMode::Off => u64::MAX,
        };
        let copied = copy_tree(source, &target, &job.progress, limit)
            .map_err(|source| Error::Clone { from: job.from.clone(), source })?;
        if copied.bytes > limit {
            let source = CopyError::Limit { limit };
            return Err(Error::Clone { from: job.from.clone(), source });
        }
        Ok(())
    }

    /// Turns a complete copy into a volume.
    fn finish_clone(&self, job: &CloneJob) -> Result<()> {
        let _change = self.lock();
        let mut record = VolumeRecord::new(job.spec.clone())?;
        record.copy_of = Some(job.from.clone());
        // The copy has the mark of its source.
        self.layout.mark(&record, &self.layout.making(&job.spec.id));
        self.layout.write(&record)?;
        self.install(&record)?;
        // Its usage counts as the whole capacity until it has been counted.
        let account = self.ledger.account(&record.account(), record.spec.limits());
        let served = self.serve(record, account);
        // From here on it is a volume, whether it can be served or not.
        if let Err(error) = self.layout.strike_note(&job.spec.id) {
            tracing::warn!(
                %error, "cannot remove the note of a complete clone; it stays until the next start"
            );
        }
        self.ledger.wake();
        served
    }

    /// Checks that the existing volume is a copy of `from`, complete or in progress. Otherwise a
    /// request for a copy must fail, because nothing would be copied.
    ///
    /// # Errors
    /// [`Error::NotCopied`]
    pub(super) fn check_is_copy(entry: &VolumeEntry, from: &VolumeName) -> Result<()> {
        let (name, copy_of) = match entry {
            VolumeEntry::Clone(job) => (job.spec.name.clone(), Some(job.from.clone())),
            VolumeEntry::Volume(volume) => {
                let record = volume.record();
                (record.spec.name, record.copy_of)
            }
        };
        if copy_of.as_ref() == Some(from) {
            return Ok(());
        }
        Err(Error::NotCopied { name, from: from.clone() })
    }

    /// Checks that no clone of the volume is in progress.
    ///
    /// # Errors
    /// [`Error::Source`]: the volume is being copied and must stay.
    pub(super) fn check_not_cloned(&self, name: &VolumeName) -> Result<()> {
        let table = self.table.read();
        let uses = |entry: &VolumeEntry| match entry {
            VolumeEntry::Clone(job) => job.from == *name && job.failed().is_none(),
            VolumeEntry::Volume(_) => false,
        };
        match table.entries.iter().find(|(_, entry)| uses(entry)) {
            Some((by, _)) => Err(Error::Source { name: name.clone(), by: by.clone() }),
            None => Ok(()),
        }
    }

    /// Reclaims a failed clone.
    pub(super) fn reclaim_clone(&self, name: &VolumeName, job: &CloneJob) -> Result<Reclaimed> {
        if job.failed().is_none() {
            return Err(Error::Cloning(name.clone()));
        }
        self.layout.strike_note(&job.spec.id)?;
        self.forget(name, &job.spec.id);
        Ok(Reclaimed::Deleted)
    }

    /// Returns the failed clone of this name, if there is one.
    pub(super) fn failed_clone(&self, name: &VolumeName) -> Option<Arc<CloneJob>> {
        match self.entry(name) {
            Ok(VolumeEntry::Clone(job)) if job.failed().is_some() => Some(job),
            _ => None,
        }
    }

    /// Removes a failed clone whose name now belongs to the volume `id`.
    pub(super) fn replaced(&self, failed: &CloneJob, id: &VolumeId) -> Result<()> {
        let old = &failed.spec.id;
        if old != id {
            let mut table = self.table.write();
            table.names.remove(old);
        }
        self.layout.strike_note(old)
    }

    /// Enters the failed clones of earlier runs, and strikes out the notes of those that are
    /// volumes.
    pub(super) fn enter_cut_off(&self) {
        let mut table = self.table.write();
        for note in self.layout.notes() {
            let (id, name) = (note.spec.id.clone(), note.spec.name.clone());
            if table.entries.contains_key(&name) || table.names.contains_key(&id) {
                if let Err(error) = self.layout.strike_note(&id) {
                    tracing::warn!(%error, "cannot remove the note of a clone");
                }
                continue;
            }
            if self.layout.is_registered(&id) {
                continue; // the record cannot be used, and may be that of this clone
            }
            let job = Arc::new(CloneJob::cut_off(note));
            let why = job.failed().unwrap_or_default();
            tracing::warn!(
                volume = %name, from = %job.from, why,
                "the volume was not cloned; delete it, or create it again"
            );
            table.names.insert(id, name.clone());
            table.entries.insert(name, VolumeEntry::Clone(job));
        }
    }

    /// Stops all copies, and waits for their threads.
    pub(super) fn stop_clones(&self) {
        self.copies.close();
        let table = self.table.read();
        let jobs: Vec<_> = table
            .entries
            .values()
            .filter_map(|entry| match entry {
                VolumeEntry::Clone(job) => Some(Arc::clone(job)),
                VolumeEntry::Volume(_) => None,
            })
            .collect();
        drop(table);
        jobs.iter().for_each(|job| job.stop());
    }
}
