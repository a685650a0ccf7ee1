//! The data source of a claim: none, another claim, or an object that a populator reads. Pure.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::error::ClaimRefusal;

/// The API group of snapshots.
const SNAPSHOTS: &str = "snapshot.storage.k8s.io";

/// API group and kind of claims.
const CLAIM: (&str, &str) = ("", "PersistentVolumeClaim");

/// How much of a source is shown, in bytes: the cluster does not limit kinds and names here.
const SHOWN_MAX: usize = 300;

/// Where a claim's content comes from.
#[derive(PartialEq, Eq, Debug)]
pub enum DataSource {
    /// Nowhere: the volume begins empty.
    None,
    /// A claim of the same namespace.
    Claim(String),
    /// An object that a populator fills volumes from.
    Foreign(String),
}

/// What a claim names as its source: API group, kind, name, and namespace if it is given.
type SourceFields<'a> = (&'a str, &'a str, &'a String, Option<&'a String>);

/// Reads the source of a claim; `dataSourceRef` counts before `dataSource`.
fn fields(claim: &PersistentVolumeClaim) -> Option<SourceFields<'_>> {
    let spec = claim.spec.as_ref()?;
    match (&spec.data_source_ref, &spec.data_source) {
        (Some(new), _) => {
            Some((group_of(&new.api_group), &new.kind, &new.name, new.namespace.as_ref()))
        }
        (None, Some(old)) => Some((group_of(&old.api_group), &old.kind, &old.name, None)),
        (None, None) => None,
    }
}

/// The name of an API group; the core group has none.
fn group_of(group: &Option<String>) -> &str {
    group.as_deref().unwrap_or_default()
}

/// Whether a claim is to be a copy of another claim, whether or not that is possible.
pub fn is_clone(claim: &PersistentVolumeClaim) -> bool {
    fields(claim).is_some_and(|(group, kind, ..)| (group, kind) == CLAIM)
}

impl DataSource {
    /// Returns where a claim's content comes from. A source that cannot be read is refused: an
    /// empty volume in place of the expected content would be worse than none.
    ///
    /// An object of another API group is left to a populator (VolSync, for example), which has a
    /// volume of its own provisioned, fills it, and binds the claim to it. Snapshots are an
    /// exception: only the driver that took one can make a volume of it, and Berth takes none.
    ///
    /// # Errors
    /// [`ClaimRefusal::DataSource`]
    pub fn of(claim: &PersistentVolumeClaim) -> Result<Self, ClaimRefusal> {
        let Some((group, kind, name, namespace)) = fields(claim) else { return Ok(Self::None) };
        let elsewhere =
            namespace.filter(|n| !n.is_empty() && Some(*n) != claim.metadata.namespace.as_ref());
        let prefix = elsewhere.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let mut shown = format!("{kind} {prefix}{name}");
        shown.truncate(shown.floor_char_boundary(SHOWN_MAX));
        match (group, kind) {
            CLAIM if elsewhere.is_none() => Ok(Self::Claim(name.clone())),
            ("" | SNAPSHOTS, _) => Err(ClaimRefusal::DataSource(shown)),
            _ => Ok(Self::Foreign(shown)),
        }
    }
}
