//! Where a claim's content comes from: nowhere, another claim, or something that Berth leaves to
//! others. Pure.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::error::Refusal;

/// The API group of snapshots.
const SNAPSHOTS: &str = "snapshot.storage.k8s.io";

/// How much of a source is shown, in bytes: the cluster bounds neither kinds nor names here.
const SHOWN_MAX: usize = 300;

/// Where a claim's content comes from.
#[derive(PartialEq, Eq, Debug)]
pub enum Source {
    /// From nowhere: it begins empty.
    None,
    /// From a claim of the same namespace.
    Claim(String),
    /// From an object that somebody else knows how to fill a volume from.
    Foreign(String),
}

impl Source {
    /// Where a claim's content comes from. What nobody could fill is refused: an empty volume where
    /// somebody expects content would be worse than none.
    ///
    /// An object of another API group is a populator's (VolSync and its like): it has a volume of
    /// its own made, fills it, and binds the claim to it. Snapshots are no such objects. Only the
    /// driver that took one can make a volume of it, and Berth takes none.
    ///
    /// # Errors
    /// [`Refusal::DataSource`]
    pub fn of(claim: &PersistentVolumeClaim) -> Result<Self, Refusal> {
        let Some(asked) = &claim.spec else { return Ok(Self::None) };
        let old = asked.data_source.as_ref();
        let new = asked.data_source_ref.as_ref();
        let (group, kind, name, namespace) = match (new, old) {
            (None, None) => return Ok(Self::None),
            (Some(new), _) => (&new.api_group, &new.kind, &new.name, new.namespace.as_ref()),
            (None, Some(old)) => (&old.api_group, &old.kind, &old.name, None),
        };
        let elsewhere =
            namespace.filter(|n| !n.is_empty() && Some(*n) != claim.metadata.namespace.as_ref());
        let place = elsewhere.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let mut shown = format!("{kind} {place}{name}");
        shown.truncate(shown.floor_char_boundary(SHOWN_MAX));
        match (group.as_deref().unwrap_or_default(), kind.as_str()) {
            ("", "PersistentVolumeClaim") if elsewhere.is_none() => Ok(Self::Claim(name.clone())),
            ("" | SNAPSHOTS, _) => Err(Refusal::DataSource(shown)),
            _ => Ok(Self::Foreign(shown)),
        }
    }
}
