//! Creates and adopts volumes, and exports them.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Error, Result};
use super::mark::exists;
use super::registry::{ReclaimStep, VolumeRecord};
use super::spec::{CAPACITY_MIN, QuotaMode, Spec, VolumeStatus, inodes_of};
use super::{Volume, VolumeEntry, VolumeOrigin, Volumes};
use crate::export::table::TableError;
use crate::export::traffic::Traffic;
use crate::export::{
    Anonymous, ClientEntry, Devices, Durability, Export, ExportId, ExportMode, ExportOptions,
    Ports, SetId,
};
use crate::fs::root::Root;
use crate::quota::{Account, Usage};

impl Volumes {
    /// Creates a volume. Succeeds if a volume with this name and id exists, whatever else is
    /// requested, except that a copy must be a copy of the same volume. A clone continues in the
    /// background ([`super::spec::VolumePhase::Cloning`]).
    ///
    /// # Errors
    /// The name or the id belongs to another volume; the directory's path is taken; the request is
    /// invalid; the disk fails.
    pub fn create(self: &Arc<Self>, spec: Spec, origin: VolumeOrigin) -> Result<VolumeStatus> {
        let change = self.lock();
        let name = spec.name.clone();
        if let Some(there) = self.existing(&spec)? {
            if let VolumeOrigin::Clone(from) = &origin {
                Self::check_is_copy(&there, from)?;
            }
            self.revive(&there)?;
        } else {
            let spec = Spec { inodes: self.inodes(&spec, &origin), ..spec };
            self.check_spec(&spec)?;
            self.check_overcommit(&spec, 0)?;
            let (failed, id) = (self.failed_clone(&name), spec.id.clone());
            let clones = matches!(origin, VolumeOrigin::Clone(_));
            match origin {
                VolumeOrigin::Fresh => self.make(spec)?,
                VolumeOrigin::Adopt => self.adopt(spec)?,
                VolumeOrigin::Clone(from) => self.begin_clone(spec, &from)?,
            }
            // A new clone has replaced the note of a failed one with the same id.
            if let Some(failed) = failed.filter(|failed| !clones || failed.spec().id != id) {
                self.replaced(&failed, &id)?;
            }
        }
        drop(change);
        self.show(&name)
    }

    /// Returns the limit of inodes for a new volume. By default it follows from the capacity, a
    /// clone has at least the limit of its source, and an adopted directory has none, because
    /// nothing in it has been counted yet.
    fn inodes(&self, spec: &Spec, origin: &VolumeOrigin) -> Option<u64> {
        let usual = inodes_of(spec.capacity);
        match (spec.inodes, origin) {
            (Some(0), _) => None,
            (Some(limit), _) => Some(limit),
            (None, _) if spec.quota == QuotaMode::Off => None,
            (None, VolumeOrigin::Fresh) => Some(usual),
            (None, VolumeOrigin::Adopt) => None,
            (None, VolumeOrigin::Clone(from)) => {
                let source = self.volume(from).map(|source| source.record().spec.inodes);
                source.unwrap_or(Some(usual)).map(|limit| limit.max(usual))
            }
        }
    }

    /// Checks that the capacity and the clients make sense on this disk.
    pub(super) fn check_spec(&self, spec: &Spec) -> Result<()> {
        if spec.capacity < CAPACITY_MIN {
            return Err(Error::Invalid(format!(
                "a capacity of {} bytes can hold nothing; the least is {CAPACITY_MIN} bytes (64Ki)",
                spec.capacity
            )));
        }
        if spec.clients.is_empty() {
            return Err(Error::Invalid("nobody may use the volume; name a client, or *".into()));
        }
        let size = self.disk()?.size_bytes;
        let wanted = spec.capacity;
        if wanted > size { Err(Error::TooLarge { wanted, size }) } else { Ok(()) }
    }

    /// Returns the volume if it exists already.
    ///
    /// # Errors
    /// Another volume has its name or its id.
    fn existing(&self, spec: &Spec) -> Result<Option<VolumeEntry>> {
        let (name, id) = (&spec.name, &spec.id);
        let table = self.table.read();
        if let Some(other) = table.names.get(id).filter(|other| *other != name) {
            return Err(Error::OtherName { id: id.clone(), name: other.clone() });
        }
        let Some(entry) = table.entries.get(name) else { return Ok(None) };
        let found = match entry {
            // A failed clone has no content left, so its name may be used again.
            VolumeEntry::Clone(job) if job.failed().is_some() => return Ok(None),
            VolumeEntry::Clone(job) => job.spec().id.clone(),
            VolumeEntry::Volume(volume) => volume.record().spec.id,
        };
        if found == *id {
            return Ok(Some(entry.share()));
        }
        Err(Error::OtherId { name: name.clone(), id: found, wanted: id.clone() })
    }

    /// Serves a volume that could not be served until now.
    ///
    /// # Errors
    /// It still cannot be served, or its reclaim has begun.
    fn revive(&self, entry: &VolumeEntry) -> Result<()> {
        let VolumeEntry::Volume(volume) = entry else { return Ok(()) };
        let Some(message) = volume.lost() else { return Ok(()) };
        let record = volume.record();
        if record.step != ReclaimStep::Ready {
            return Err(Error::Lost { name: record.spec.name, message });
        }
        self.serving.fs.attach_all([self.open_root(volume)?]);
        self.publish(volume, &[record.export])?;
        volume.set_lost(None);
        tracing::info!(volume = %record.spec.name, "volume is served again");
        Ok(())
    }

    fn make(&self, spec: Spec) -> Result<()> {
        self.check_place(&spec)?;
        let record = VolumeRecord::new(spec)?;
        let making = self.layout.making(&record.spec.id);
        self.layout.create_directory(&record, &making)?;
        self.layout.write(&record).inspect_err(|_| {
            // On a full disk, the directory would keep an inode that other volumes need.
            if !self.layout.is_registered(&record.spec.id) {
                let _ = self.layout.discard(&making);
            }
        })?;
        self.install(&record)?;
        let account = self.fresh_account(&record)?;
        self.serve(record, account)
    }

    /// Opens the account of a volume whose directory is in its place and empty.
    pub(super) fn fresh_account(&self, record: &VolumeRecord) -> Result<Arc<Account>> {
        let own = self.layout.directory(&self.layout.volume(&record.spec))?.unwrap_or(0);
        let usage = Usage { bytes: own, inodes: 1 };
        Ok(self.ledger.fresh(&record.account(), record.spec.limits(), usage))
    }

    fn adopt(&self, spec: Spec) -> Result<()> {
        let path = self.layout.volume(&spec);
        if self.layout.directory(&path)?.is_none() {
            return Err(Error::NothingToAdopt(path));
        }
        self.layout.check_unmounted(&spec)?;
        self.check_no_conflict(&spec)?;
        let record = VolumeRecord::new(spec)?;
        self.layout.mark(&record, &path);
        self.layout.write(&record)?;
        // The usage is unknown, so it is counted as soon as a change needs to know.
        let account = self.ledger.account(&record.account(), record.spec.limits());
        self.serve(record, account)?;
        self.ledger.wake();
        Ok(())
    }

    /// Checks that nothing exists at the place of the volume's directory and record.
    pub(super) fn check_place(&self, spec: &Spec) -> Result<()> {
        // The other volumes first: what exists is most often one of them, and the error then names
        // it.
        self.check_no_conflict(spec)?;
        let path = self.layout.volume(spec);
        if exists(&path) { Err(Error::InTheWay(path)) } else { Ok(()) }
    }

    fn check_no_conflict(&self, spec: &Spec) -> Result<()> {
        self.layout.check_parents(spec)?;
        self.check_no_overlap(spec)?;
        self.layout.check_not_inside_another(spec)?;
        self.layout.check_holds_no_volumes(spec)?;
        let path = spec.export_path().into_bytes();
        if self.serving.exports.load().has_path(&path) {
            let source = TableError::SamePath(path);
            return Err(Error::Export { name: spec.name.clone(), source });
        }
        if self.layout.is_registered(&spec.id) {
            return Err(self.unusable(&spec.id));
        }
        Ok(())
    }

    /// Checks that the volume's directory neither contains nor lies inside that of another volume,
    /// nor a directory that a faulty record names.
    fn check_no_overlap(&self, spec: &Spec) -> Result<()> {
        let place = Path::new(spec.relative_path());
        let overlaps = |there: &Path| place.starts_with(there) || there.starts_with(place);
        if let Some(fault) =
            self.faults.iter().find(|fault| fault.place.as_deref().is_some_and(overlaps))
        {
            return Err(Error::Faulty(fault.to_string()));
        }
        let table = self.table.read();
        for entry in table.entries.values() {
            let other = entry.spec();
            if other.name != spec.name && overlaps(Path::new(other.relative_path())) {
                let (directory, theirs) =
                    (spec.relative_path().to_owned(), other.relative_path().to_owned());
                return Err(Error::Overlaps { directory, name: other.name, theirs });
            }
        }
        Ok(())
    }

    /// Moves the new directory of a record to its place. Removes the record if that place is taken.
    pub(super) fn install(&self, record: &VolumeRecord) -> Result<()> {
        let (id, name) = (&record.spec.id, &record.spec.name);
        self.layout.install(&self.layout.making(id), &record.spec).inspect_err(|error| {
            if let Error::InTheWay(_) = error
                && let Err(error) = self.layout.strike(id)
            {
                tracing::error!(
                    %error, volume = %name,
                    "cannot remove the record of a volume that was not created"
                );
            }
        })
    }

    /// Exports a volume whose directory is in its place, and enters it into the table.
    pub(super) fn serve(&self, record: VolumeRecord, account: Arc<Account>) -> Result<()> {
        let (name, id) = (record.spec.name.clone(), record.spec.id.clone());
        let volume = Volume::new(record, account);
        let served = self.open_root(&volume).and_then(|root| {
            self.serving.fs.attach_all([root]);
            self.publish(&volume, &[])
        });
        let volume = Arc::new(volume);
        if let Err(error) = &served {
            volume.set_lost(Some(error.to_string()));
        } else {
            tracing::info!(volume = %name, id = %id, "volume is served");
        }
        self.enter(&name, &id, VolumeEntry::Volume(volume));
        served
    }

    /// Opens a volume's directory.
    pub(super) fn open_root(&self, volume: &Volume) -> Result<Root> {
        let record = volume.record();
        let dir = self.layout.volume(&record.spec);
        self.layout.check_parents(&record.spec)?;
        // Never through a symbolic link, which could lead anywhere.
        if self.layout.directory(&dir)?.is_none() {
            let message = format!("{} is missing", dir.display());
            return Err(Error::Lost { name: record.spec.name, message });
        }
        let account = Some(Arc::clone(&volume.account));
        Root::open(record.export, &dir, self.serving.handles, account)
            .map_err(|source| Error::Serve { name: record.spec.name, source })
    }

    /// Exports a volume, and withdraws the exports `instead_of` in the same step.
    pub(super) fn publish(&self, volume: &Volume, instead_of: &[ExportId]) -> Result<()> {
        let export = Arc::new(self.export(volume));
        self.serving.exports.change(instead_of, [export]).map_err(|source| {
            let record = volume.record();
            self.serving.fs.detach(record.export);
            Error::Export { name: record.spec.name, source }
        })
    }

    /// Returns whether clients may make set-id files and devices. By default they may not if local
    /// users can enter the volume's directory: a client that is root in the volume could make them
    /// root here.
    fn powers(&self, spec: &Spec) -> ExportOptions {
        let refused = |said: Option<bool>| said.unwrap_or(self.serving.open_to_users);
        ExportOptions {
            set_id: if refused(spec.nosuid) { SetId::Refused } else { SetId::Kept },
            devices: if refused(spec.nodev) { Devices::Refused } else { Devices::Made },
            ..ExportOptions::default()
        }
    }

    /// Returns the export of a volume.
    pub(super) fn export(&self, volume: &Volume) -> Export {
        let VolumeRecord { spec, export, .. } = volume.record();
        let options = ExportOptions {
            mode: ExportMode::ReadWrite,
            squash: spec.squash,
            anonymous: Anonymous { uid: spec.anon_uid, gid: spec.anon_gid },
            ports: if spec.secure { Ports::Privileged } else { Ports::Any },
            durability: if spec.sync { Durability::Sync } else { Durability::Async },
            ..self.powers(&spec)
        };
        let client = |pattern| ClientEntry { pattern, options };
        Export {
            id: export,
            path: spec.export_path().into_bytes(),
            hidden: spec.token.is_some(),
            dir: self.layout.volume(&spec),
            clients: spec.clients.into_iter().map(client).collect(),
            traffic: volume.traffic.clone(),
        }
    }
}

impl Volume {
    pub(super) fn new(record: VolumeRecord, account: Arc<Account>) -> Self {
        let (record, before, lost) = (Mutex::new(record), Mutex::default(), Mutex::default());
        Self { record, before, account, traffic: Traffic::default(), lost }
    }
}
