//! Reclaims volumes: deletes, archives, recycles or retains them.
//!
//! **Flow.** The record states first what is going to happen. [`Volumes::finish`] then completes
//! the step of the record, whether in the first request, in a repeated one, or at a start.
//!
//! **Guarantees.** Clients get ESTALE before anything is removed, and never see part of a tree.
//! Content moves into the trash in one step. Nothing is touched that is not the directory of a
//! registered volume.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::{Error, Result};
use super::mark::exists;
use super::name::VolumeName;
use super::registry::{self, ReclaimStep, VolumeRecord};
use super::spec::{OnDelete, Spec};
use super::{Reclaimed, Volume, VolumeEntry, Volumes};

impl Volumes {
    /// Reclaims a volume as `how` says, or by default as its own `on_delete` says. Its clients get
    /// ESTALE, unless it is retained. May be repeated.
    ///
    /// # Errors
    /// [`Error::NotFound`]; the volume is being cloned; the disk fails, and then a repeated request
    /// continues.
    pub fn reclaim(&self, name: &VolumeName, how: Option<OnDelete>) -> Result<Reclaimed> {
        let _change = self.lock();
        if let VolumeEntry::Clone(job) = self.entry(name)? {
            return self.reclaim_clone(name, &job);
        }
        let volume = self.volume(name)?;
        let mut record = volume.record();
        self.check_not_cloned(name)?;
        if record.step == ReclaimStep::Ready {
            let how = how.unwrap_or(record.spec.on_delete);
            self.check_reclaimable(&volume, how)?;
            if how == OnDelete::Retain {
                return Ok(Reclaimed::Retained(Box::new(self.show(name)?)));
            }
            // Once the record is written, the content of `leaving` counts as the volume's former
            // directory.
            self.throw_away(&self.layout.leaving(&record.spec.id))?;
            match how {
                OnDelete::Retain => {}
                OnDelete::Delete => record.step = ReclaimStep::Deleting,
                OnDelete::Archive => {
                    record.step = ReclaimStep::Archiving(self.archive_name(&record.spec));
                }
                OnDelete::Recycle => {
                    record.step = ReclaimStep::Recycling;
                    record.copy_of = None; // the recycled volume is empty
                    record.export = registry::fresh_id()?;
                    self.layout.renew(&record)?;
                }
            }
        }
        // Also when recycling is repeated: if the new directory could not be served, the record was
        // already ready.
        if matches!(volume.record().step, ReclaimStep::Ready | ReclaimStep::Recycling) {
            self.layout.write_giving_back(&record)?;
        }
        let ended = self.reclaim_as_recorded(&volume, record);
        self.layout.stock();
        ended
    }

    /// Checks that the directory exists if it is needed: a volume without one can only be deleted.
    fn check_reclaimable(&self, volume: &Volume, how: OnDelete) -> Result<()> {
        let spec = volume.record().spec;
        match how {
            OnDelete::Archive | OnDelete::Recycle if !self.layout.is_there(&spec) => {
                let message = "its directory is missing".into();
                Err(Error::Lost { name: spec.name, message })
            }
            _ => Ok(()),
        }
    }

    /// Completes the reclaim that the record states.
    fn reclaim_as_recorded(&self, volume: &Arc<Volume>, record: VolumeRecord) -> Result<Reclaimed> {
        let name = record.spec.name.clone();
        let old = volume.served();
        if record.step != ReclaimStep::Recycling {
            // The export is withdrawn first: from then on no client changes the directory that is
            // moved.
            let gone = self.serving.exports.change(&[old.export], []);
            gone.map_err(|source| Error::Export { name: name.clone(), source })?;
            self.serving.fs.detach(old.export);
        }
        volume.set_lost(Some("its reclaim is not complete; repeat the request to continue".into()));
        volume.set_reclaiming(&record);
        let step = record.step.clone();
        let record = self.finish(record)?;
        self.ledger.forget(&old.account());
        match (step, record) {
            (_, Some(record)) => self.renew(&old, record),
            (step, None) => {
                self.forget(&name, &old.spec.id);
                self.nudge_trash();
                tracing::info!(volume = %name, ?step, "volume is gone");
                Ok(match step {
                    ReclaimStep::Archiving(to) => Reclaimed::Archived(to),
                    ReclaimStep::Ready | ReclaimStep::Deleting | ReclaimStep::Recycling => {
                        Reclaimed::Deleted
                    }
                })
            }
        }
    }

    /// Serves a recycled volume with its new directory.
    fn renew(&self, old: &VolumeRecord, record: VolumeRecord) -> Result<Reclaimed> {
        let name = record.spec.name.clone();
        self.layout.step()?;
        let account = self.fresh_account(&record)?;
        // The old export stays until the new one replaces it, so that no mount fails in between.
        let fresh = Volume::new(record.clone(), account);
        self.serving.fs.attach_all([self.open_root(&fresh)?]);
        self.publish(&fresh, &[old.export])?;
        self.serving.fs.detach(old.export);
        self.enter(&name, &record.spec.id, VolumeEntry::Volume(Arc::new(fresh)));
        self.nudge_trash();
        tracing::info!(volume = %name, "volume is recycled");
        Ok(Reclaimed::Recycled(Box::new(self.show(&name)?)))
    }

    /// Completes the step of a record, whatever state a crash has left. Returns the record if the
    /// volume still exists then. May be repeated.
    pub(super) fn finish(&self, mut record: VolumeRecord) -> Result<Option<VolumeRecord>> {
        let spec = record.spec.clone();
        let (place, leaving) = (self.layout.volume(&spec), self.layout.leaving(&spec.id));
        match record.step.clone() {
            ReclaimStep::Ready => {
                let made = self.layout.making(&spec.id);
                if exists(&made) {
                    self.layout.install(&made, &spec)?;
                }
                return Ok(Some(record));
            }
            ReclaimStep::Deleting => {
                if !exists(&leaving) || self.layout.is_marked(&record) {
                    self.withdraw(&spec)?;
                }
            }
            ReclaimStep::Archiving(to) => {
                if !exists(&self.layout.dir().join(&to)) && self.layout.is_there(&spec) {
                    self.layout.archive(&spec, &to)?;
                }
            }
            ReclaimStep::Recycling => {
                if self.is_old(&record) {
                    self.withdraw(&spec)?;
                }
                if !exists(&place) {
                    let fresh = self.layout.renewing(&spec.id);
                    if !exists(&fresh) {
                        self.layout.renew(&record)?;
                    }
                    self.layout.install(&fresh, &spec)?;
                }
                record.step = ReclaimStep::Ready;
                self.layout.write_giving_back(&record)?;
                self.throw_away(&leaving)?;
                return Ok(Some(record));
            }
        }
        // Before the record is removed: after a crash, they would not be found without it.
        self.layout.prune_parents(&spec);
        self.layout.strike(&spec.id)?;
        self.throw_away(&leaving)?;
        Ok(None)
    }

    /// Whether the directory in the place of a volume that is being recycled is still the old one.
    /// The mark tells it. Without a mark, it is the old one if nothing has been moved to `leaving`.
    fn is_old(&self, record: &VolumeRecord) -> bool {
        match self.layout.marked_export(&record.spec) {
            Some(export) => export != record.export,
            None => !exists(&self.layout.leaving(&record.spec.id)),
        }
    }

    /// Moves the directory of a volume to `leaving`, if it is in its place. What an earlier reclaim
    /// has left there goes into the trash first.
    fn withdraw(&self, spec: &Spec) -> Result<()> {
        if !self.layout.is_there(spec) {
            return Ok(());
        }
        self.throw_away(&self.layout.leaving(&spec.id))?;
        self.layout.withdraw(spec)
    }

    fn throw_away(&self, path: &std::path::Path) -> Result<()> {
        if exists(path) { self.layout.discard(path) } else { Ok(()) }
    }

    /// Returns a name for an archived directory that is not taken.
    fn archive_name(&self, spec: &Spec) -> String {
        let time = time_name(registry::now());
        let is_free = |to: &String| !exists(&self.layout.dir().join(to));
        let names = (1_u32..).map(|n| archived(spec, &time, n));
        names.into_iter().find(is_free).expect("there are more numbers than directories")
    }
}

impl Volume {
    /// Returns the record that clients are served by: the one before its reclaim began, if it has
    /// begun.
    fn served(&self) -> VolumeRecord {
        let before = self.before.lock().clone();
        before.unwrap_or_else(|| self.record())
    }

    /// Stores the record of the reclaim, and keeps the one before until the reclaim is complete.
    fn set_reclaiming(&self, record: &VolumeRecord) {
        let was = self.served();
        *self.before.lock() = Some(was);
        *self.record.lock() = record.clone();
    }
}

/// Returns `archived-NAME-TIME`, truncated to the longest name. The components of a deeper
/// directory precede the volume's name, which may be an id that says nothing to people.
fn archived(spec: &Spec, time: &str, n: u32) -> String {
    const NAME_MAX: usize = 255;
    let end = if n == 1 { format!("-{time}") } else { format!("-{time}-{n}") };
    let room = NAME_MAX - registry::ARCHIVED.len() - end.len();
    let name = cut(spec.name.as_str(), room);
    let way = spec.directory.as_ref().map(|way| way.as_str().replace('/', "-"));
    let way = way.as_deref().map_or("", |way| cut(way, room.saturating_sub(name.len() + 1)));
    let between = if way.is_empty() { "" } else { "-" };
    format!("{}{way}{between}{name}{end}", registry::ARCHIVED)
}

/// Truncates a text to `room` bytes, at a character boundary.
fn cut(text: &str, room: usize) -> &str {
    &text[..text.floor_char_boundary(room.min(text.len()))]
}

/// Formats a time in UTC for use in a name.
fn time_name(time: Timestamp) -> String {
    time.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::name::{VolumeDirectory, VolumeId};

    #[test]
    fn archives_have_names_that_fit() {
        let time = time_name(Timestamp::from_second(1_700_000_000).unwrap());
        let archived = |name: &str, way: Option<&str>, n| {
            let (name, id) = (VolumeName::new(name).unwrap(), VolumeId::new("id").unwrap());
            let directory = way.map(|way| VolumeDirectory::new(way).unwrap());
            archived(&Spec { directory, ..Spec::new(name, id, 1) }, &time, n)
        };
        assert_eq!(archived("a", None, 1), "archived-a-20231114T221320Z");
        assert_eq!(archived("a", None, 2), "archived-a-20231114T221320Z-2");
        let deep = archived("pvc-1", Some("ns/data"), 1);
        assert_eq!(deep, "archived-ns-data-pvc-1-20231114T221320Z");
        let long = archived(&"ü".repeat(127), None, 12345);
        assert!(long.len() <= 255 && long.ends_with("Z-12345"), "{long}");
        let way = format!("{}/{}", "n".repeat(63), "ü".repeat(126));
        let long = archived("pvc-1", Some(&way), 1);
        assert!(long.starts_with(&format!("archived-{}-üü", "n".repeat(63))), "{long}");
        assert!(long.len() <= 255 && long.ends_with("ü-pvc-1-20231114T221320Z"), "{long}");
        let full = archived(&"x".repeat(255), Some("a/b"), 1);
        assert!(full.len() == 255 && full.starts_with("archived-xx"), "{full}");
    }
}
