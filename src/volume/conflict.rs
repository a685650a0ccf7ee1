//! Decides between records that contradict each other.
//!
//! No two volumes share a name, an export or a directory, and no volume's directory lies inside
//! that of another. Records that violate this were edited, copied, restored or damaged. If both
//! were served, the clients of one volume could read the other, and deleting one would destroy
//! both. The most credible record is accepted. The others are faults: nothing that they name is
//! served, changed or removed.
//!
//! The order of credibility: first a record whose directory is marked with exactly its export
//! ([`VolumeLayout::mark`]), then one whose directory has the volume's own name, then the older
//! one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::layout::VolumeLayout;
use super::name::{VolumeId, VolumeName};
use super::registry::{RecordFault, VolumeRecord};
use crate::export::ExportId;

/// The names, exports and directories of the accepted records.
#[derive(Default)]
struct BelievedRecords {
    names: HashMap<VolumeName, VolumeId>,
    exports: HashMap<ExportId, String>,
    directories: BTreeMap<PathBuf, VolumeId>,
}

/// Splits records into those that are accepted, sorted by id, and the faults. `others` are the ids
/// of exports that do not belong to volumes.
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

    /// Returns why the record contradicts the accepted ones, if it does.
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

    /// Returns the volume whose directory is `place`, contains it or lies inside it.
    fn overlapping(&self, place: &Path) -> Option<&VolumeId> {
        let above = place.ancestors().find_map(|above| self.directories.get(above));
        // Paths sort by component, so whatever lies inside a directory follows it immediately.
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
