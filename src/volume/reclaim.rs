//! The end of volumes: deleted, archived, recycled or retained.
//!
//! **Flow.** The record says first what is going to happen, and from then on it happens:
//! [`Volumes::finish`] takes up whatever step a record is in and brings it to its end, when the
//! operation is asked for, asked for again, or at a start.
//!
//! **Guarantees.** Clients get ESTALE before anything is removed, and never see half of a tree.
//! What is removed goes through the trash, in one step each. Nothing is touched that is not the
//! directory of a registered volume.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::{Error, Result};
use super::mark::exists;
use super::name::VolumeName;
use super::registry::{self, ReclaimStep, VolumeRecord};
use super::spec::{OnDelete, Spec};
use super::{Reclaimed, Volume, VolumeEntry, Volumes};

impl Volumes {
    /// Ends the use of a volume: as `how` says, or as the volume's own wish is. Its clients get
    /// ESTALE, unless it is retained.
    ///
    /// # Errors
    /// [`Error::NotFound`]; it is being cloned; the disk fails: asked again, it goes on.
    pub fn reclaim(&self, name: &VolumeName, how: Option<OnDelete>) -> Result<Reclaimed> {
        let _change = self.lock();
        if let VolumeEntry::Clone(job) = self.slot(name)? {
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
            // From the record on, what is there counts as the directory that has left its place.
            self.throw_away(&self.layout.leaving(&record.spec.id))?;
            match how {
                OnDelete::Retain => {}
                OnDelete::Delete => record.step = ReclaimStep::Deleting,
                OnDelete::Archive => {
                    record.step = ReclaimStep::Archiving(self.archive_name(&record.spec));
                }
                OnDelete::Recycle => {
                    record.step = ReclaimStep::Recycling;
                    record.copy_of = None; // it will be empty
                    record.export = registry::fresh_id()?;
                    self.layout.renew(&record)?;
                }
            }
        }
        // Again, too, for one that is recycled: if that could not be served, it was done by the
        // record.
        if matches!(volume.record().step, ReclaimStep::Ready | ReclaimStep::Recycling) {
            self.layout.write_giving_back(&record)?;
        }
        let ended = self.reclaim_as_recorded(&volume, record);
        self.layout.stock();
        ended
    }

    /// Whether there is what it takes: a volume whose directory is gone can only be deleted.
    fn check_reclaimable(&self, volume: &Volume, how: OnDelete) -> Result<()> {
        let spec = volume.record().spec;
        match how {
            OnDelete::Archive | OnDelete::Recycle if !self.layout.is_there(&spec) => {
                let message = "its directory is not there".into();
                Err(Error::Lost { name: spec.name, message })
            }
            _ => Ok(()),
        }
    }

    /// The volume's record says how it ends.
    fn reclaim_as_recorded(&self, volume: &Arc<Volume>, record: VolumeRecord) -> Result<Reclaimed> {
        let name = record.spec.name.clone();
        let old = volume.served();
        if record.step != ReclaimStep::Recycling {
            // First the clients: from now on nobody changes what is moved away.
            let gone = self.serving.exports.change(&[old.export], []);
            gone.map_err(|source| Error::Export { name: name.clone(), source })?;
            self.serving.fs.detach(old.export);
        }
        volume.set_lost(Some("it is being put away; ask for that again to go on".into()));
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

    /// Serves a volume whose directory is a new one.
    fn renew(&self, old: &VolumeRecord, record: VolumeRecord) -> Result<Reclaimed> {
        let name = record.spec.name.clone();
        self.layout.step()?;
        let account = self.fresh_account(&record)?;
        // Until the new one takes its place, the old export answers: nobody's mount is refused.
        let fresh = Volume::new(record.clone(), account);
        self.serving.fs.attach_all([self.open_root(&fresh)?]);
        self.publish(&fresh, &[old.export])?;
        self.serving.fs.detach(old.export);
        self.enter(&name, &record.spec.id, VolumeEntry::Volume(Arc::new(fresh)));
        self.nudge_trash();
        tracing::info!(volume = %name, "volume is recycled");
        Ok(Reclaimed::Recycled(Box::new(self.show(&name)?)))
    }

    /// Brings to its end what a record says is being done. Answers the record if there is still a
    /// volume then. May be repeated, whatever a crash has left of it.
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
        // While there is a record, a crash does not leave them behind.
        self.layout.prune_parents(&spec);
        self.layout.strike(&spec.id)?;
        self.throw_away(&leaving)?;
        Ok(None)
    }

    /// Whether what is in the place of a volume that is being recycled is not the new directory
    /// yet. The mark says so; without one, that nothing has left the place.
    fn is_old(&self, record: &VolumeRecord) -> bool {
        match self.layout.marked_export(&record.spec) {
            Some(export) => export != record.export,
            None => !exists(&self.layout.leaving(&record.spec.id)),
        }
    }

    /// Takes the directory of a volume out of its place, if it is there, whatever an earlier end
    /// has left where it goes to.
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

    /// A name for an archived directory that nothing has.
    fn archive_name(&self, spec: &Spec) -> String {
        let time = time_name(registry::now());
        let is_free = |to: &String| !exists(&self.layout.dir().join(to));
        let names = (1_u32..).map(|n| archived(spec, &time, n));
        names.into_iter().find(is_free).expect("there are more numbers than directories")
    }
}

impl Volume {
    /// What its clients have: its record, or the one before its end began.
    fn served(&self) -> VolumeRecord {
        let before = self.before.lock().clone();
        before.unwrap_or_else(|| self.record())
    }

    /// Notes how it ends, and what it was before, which counts until that is done.
    fn set_reclaiming(&self, record: &VolumeRecord) {
        let was = self.served();
        *self.before.lock() = Some(was);
        *self.record.lock() = record.clone();
    }
}

/// `archived-NAME-TIME`, cut so that it is a name. Of a volume that lies deeper, the names of the
/// directories on the way stand before its own, which says nothing to people if it is an id's.
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

/// As much of a text as fits.
fn cut(text: &str, room: usize) -> &str {
    &text[..text.floor_char_boundary(room.min(text.len()))]
}

/// A moment as a part of a name, in UTC.
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
