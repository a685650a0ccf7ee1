//! The start and the stop of the volumes. At the start, every operation that was begun is
//! completed, and all volumes are served.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::conflict;
use super::copy_queue::CopyQueue;
use super::error::{Error, Result};
use super::layout::VolumeLayout;
use super::mark::exists;
use super::name::VolumeId;
use super::registry::VolumeRecord;
use super::scanner::Scanner;
use super::trash::Trash;
use super::{DataPlane, Volume, VolumeEntry, VolumeSettings, VolumeTable, Volumes};
use crate::export::table::TableError;
use crate::fs::root::Root;
use crate::quota::ledger::Ledger;
use crate::telemetry::log::Chain;

impl Volumes {
    /// Opens a directory with volumes, completes what a crash has interrupted, and exports all
    /// volumes. Blocks; ten thousand volumes take less than two seconds.
    ///
    /// # Errors
    /// The directory cannot be used, or another server uses it. A problem with one volume is not an
    /// error: it is logged and shown, and the volume is left alone.
    pub fn open(settings: &VolumeSettings, serving: DataPlane) -> Result<Arc<Self>> {
        let layout = VolumeLayout::open(&settings.dir)?;
        let (records, faults) = layout.records()?;
        let lock = Arc::clone(&layout.lock);
        let ledger = Ledger::open(layout.ledger(), move || lock.check());
        let mut volumes = Self {
            layout,
            serving,
            ledger,
            trash: Mutex::default(),
            change: Mutex::default(),
            table: RwLock::default(),
            faults,
            overcommit: settings.overcommit,
            scanner: OnceLock::new(),
            copies: CopyQueue::default(),
            mounts: OnceLock::new(),
            holders: RwLock::default(),
        };
        volumes.layout.stock(); // before other writes use the free space
        volumes.enter_all(records)?;
        volumes.enter_cut_off();
        volumes.clear_leftovers();
        for fault in &volumes.faults {
            tracing::error!(%fault, "a file of the registry cannot be used");
        }
        let begun = volumes.ledger.begin();
        begun.map_err(Error::io("write", volumes.layout.ledger()))?;
        volumes.start_threads(settings)
    }

    /// Completes, enters and serves the registered volumes.
    fn enter_all(&mut self, records: Vec<VolumeRecord>) -> Result<()> {
        let (mut opened, mut exports) = (Vec::new(), Vec::new());
        let mut table = VolumeTable::default();
        let others: Vec<_> = self.serving.exports.load().iter().map(|export| export.id).collect();
        let (records, contested) = conflict::settle(&self.layout, records, others);
        self.faults.extend(contested);
        for record in records {
            let (id, name) = (record.spec.id.clone(), record.spec.name.clone());
            let Some(volume) = self.restore(record) else { continue };
            match self.reopen(&volume) {
                Ok(root) => {
                    opened.push(root);
                    exports.push(Arc::new(self.export(&volume)));
                }
                Err(error) => {
                    let why = Chain(&error).to_string();
                    tracing::error!(volume = %name, error = why, "the volume is not served");
                    volume.set_lost(Some(why));
                }
            }
            table.names.insert(id, name.clone());
            table.entries.insert(name, VolumeEntry::Volume(Arc::new(volume)));
        }
        *self.table.get_mut() = table;
        self.serving.fs.attach_all(opened);
        let exported = exports.len();
        self.serving
            .exports
            .change(&[], exports)
            .map_err(|error| Error::Invalid(format!("cannot export the volumes: {error}")))?;
        tracing::info!(
            volumes = exported, dir = %self.layout.dir().display(), "volumes are served"
        );
        Ok(())
    }

    /// Opens the directory of a volume, if it can be served.
    fn reopen(&self, volume: &Volume) -> Result<Root> {
        let spec = volume.record().spec;
        let (name, path) = (spec.name.clone(), spec.export_path().into_bytes());
        if let Some(message) = volume.lost() {
            return Err(Error::Lost { name, message });
        }
        if self.serving.exports.load().has_path(&path) {
            return Err(Error::Export { name, source: TableError::SamePath(path) });
        }
        self.open_root(volume)
    }

    /// Returns the volume of a record after completing its step, or `None` if the volume is gone
    /// then.
    fn restore(&self, record: VolumeRecord) -> Option<Volume> {
        let (step, name) = (record.step.clone(), record.spec.name.clone());
        let account =
            |record: &VolumeRecord| self.ledger.account(&record.account(), record.spec.limits());
        match self.finish(record.clone()) {
            Ok(Some(record)) => {
                let account = account(&record);
                Some(Volume::new(record, account))
            }
            Ok(None) => {
                tracing::info!(volume = %name, ?step, "completed an operation of an earlier run");
                None
            }
            Err(error) => {
                let account = account(&record);
                let volume = Volume::new(record, account);
                volume.set_lost(Some(Chain(&error).to_string()));
                Some(volume)
            }
        }
    }

    /// Discards the content of `making` and `leaving` that no volume needs.
    fn clear_leftovers(&self) {
        let paths = self.layout.leftovers().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the remains of an earlier run");
            Vec::new()
        });
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if VolumeId::new(name).is_ok_and(|id| self.may_need(&id)) || !exists(&path) {
                continue;
            }
            tracing::info!(path = %path.display(), "discarding the remains of an earlier run");
            if let Err(error) = self.layout.discard(&path) {
                tracing::warn!(%error, "cannot discard the remains of an earlier run");
            }
        }
    }

    /// Whether the remains of an earlier run may be the only content of a volume: its record cannot
    /// be read, or its step could not be completed.
    fn may_need(&self, id: &VolumeId) -> bool {
        let table = self.table.read();
        match table.names.get(id).and_then(|name| table.entries.get(name)) {
            Some(VolumeEntry::Volume(volume)) => volume.lost().is_some(),
            Some(VolumeEntry::Clone(job)) => job.failed().is_none(),
            None => self.layout.is_registered(id),
        }
    }

    fn start_threads(self, settings: &VolumeSettings) -> Result<Arc<Self>> {
        let path = self.layout.trash();
        let rate = NonZeroU32::new(settings.purge_rate).unwrap_or(NonZeroU32::MIN);
        let trash = Trash::start(path.clone(), rate).map_err(Error::io("empty", path))?;
        let volumes = Arc::new(Self { trash: Mutex::new(Some(trash)), ..self });
        let scanner = Scanner::start(Arc::clone(&volumes), settings.recount);
        let scanner = scanner.map_err(Error::io("count the volumes in", &settings.dir))?;
        let _ = volumes.scanner.set(scanner);
        Ok(volumes)
    }

    /// Whether `dir` is outside of the directory with volumes, or this server still has that to
    /// itself. Blocks.
    pub fn has(&self, dir: &Path) -> bool {
        !dir.starts_with(self.layout.dir()) || self.layout.lock.check().is_ok()
    }

    /// Releases the lock, so another server may use the directory. For a process that is about to
    /// end but may hang. No operation may follow.
    pub fn unlock(&self) {
        self.layout.lock.release();
    }

    /// Stops the background work, and saves the usage. To be called when clients make no more
    /// changes.
    pub fn stop(&self) {
        self.stop_clones();
        // Waits for operations in progress. Later ones get no reply.
        let _change = self.lock();
        if let Some(scanner) = self.scanner.get() {
            scanner.stop(|| self.ledger.wake());
        }
        self.trash.lock().take();
        if let Err(error) = self.ledger.close() {
            tracing::error!(
                %error, "cannot write the ledger; the volumes are counted at the next start"
            );
        }
    }
}
