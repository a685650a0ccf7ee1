//! Which records are believed that contradict each other.
//!
//! No two volumes have one name, one export or one directory, and no directory lies in another
//! one's. Records that say otherwise were not written so: one was edited, copied, restored or
//! damaged. To serve both would let the clients of one volume read the other, and deleting one
//! would destroy both. The most credible record is believed, and the others are faults: nothing
//! that they name is served, changed or removed.
//!
//! A record is credible if its directory bears the mark that it was made for this very export
//! ([`VolumeLayout::mark`]); among others, if its directory has the volume's own name; then the older
//! one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::layout::VolumeLayout;
use super::name::{VolumeId, VolumeName};
use super::registry::{RecordFault, VolumeRecord};
use crate::export::ExportId;

/// What the records that are believed have.
#[derive(Default)]
struct BelievedRecords {
    names: HashMap<VolumeName, VolumeId>,
    exports: HashMap<ExportId, String>,
    directories: BTreeMap<PathBuf, VolumeId>,
}

/// Sorts records into those that are believed, by their ids, and those that are not. `others` are
/// the ids of exports that are no volumes.
pub(super) fn settle(
    layout: &VolumeLayout,
    mut records: Vec<VolumeRecord>,
    others: Vec<ExportId>,
) -> (Vec<VolumeRecord>, Vec<RecordFault>) {
    records.sort_by_cached_key(|record| {
        let spec = &record.spec;
        let is_natural = spec.relative_path() == spec.name.as_str();
        (!layout.is_marked(record), !is_natural, record.created, spec.id.clone())
    });
    let mut taken = BelievedRecords::default();
    taken.exports.extend(others.into_iter().map(|id| (id, "no volume".to_owned())));
    let (mut believed, mut faults) = (Vec::new(), Vec::new());
    for record in records {
        match taken.contradiction(&record) {
            Some(why) => faults.push(RecordFault::of(layout, &record.spec, why)),
            None => {
                taken.add(&record);
                believed.push(record);
            }
        }
    }
    believed.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
    (believed, faults)
}

impl BelievedRecords {
    fn add(&mut self, record: &VolumeRecord) {
        let spec = &record.spec;
        self.names.insert(spec.name.clone(), spec.id.clone());
        self.exports.insert(record.export, format!("the volume with the id {}", spec.id));
        self.directories.insert(spec.relative_path().into(), spec.id.clone());
    }

    /// Why a record cannot be true when those that were added are.
    fn contradiction(&self, record: &VolumeRecord) -> Option<String> {
        let spec = &record.spec;
        if let Some(other) = self.names.get(&spec.name) {
            return Some(format!("the volume {} has the id {other}", spec.name));
        }
        if let Some(other) = self.exports.get(&record.export) {
            return Some(format!("its export {:016x} is that of {other}", record.export.0));
        }
        let place = Path::new(spec.relative_path());
        let other = self.overlapping(place)?;
        Some(format!(
            "its directory {} overlaps that of the volume with the id {other}",
            place.display()
        ))
    }

    /// The volume whose directory is, contains or lies in `place`.
    fn overlapping(&self, place: &Path) -> Option<&VolumeId> {
        let above = place.ancestors().find_map(|above| self.directories.get(above));
        // Paths are ordered by their components: what lies in a directory follows it at once.
        let below = self.directories.range(place.to_owned()..).next();
        above.or_else(|| below.filter(|(path, _)| path.starts_with(place)).map(|(_, id)| id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_overlap_when_one_is_in_the_other() {
        let mut taken = BelievedRecords::default();
        let id = |id: &str| VolumeId::new(id).unwrap();
        for place in ["a/b", "a-b", "c"] {
            taken.directories.insert(place.into(), id(&place.replace('/', ".")));
        }
        let check = |place: &str, expected: Option<&str>| {
            let found = taken.overlapping(Path::new(place)).map(VolumeId::as_str);
            assert_eq!(found, expected, "{place}");
        };
        check("a", Some("a.b"));
        check("a/b", Some("a.b"));
        check("a/b/c/d", Some("a.b"));
        check("a/bc", None);
        check("a-b/x", Some("a-b"));
        check("b", None);
        check("c-", None);
    }
}
