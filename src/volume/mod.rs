//! Volumes: a directory, an export and an enforced capacity, as one unit.

pub mod copy;
pub mod error;
pub mod name;
pub mod progress;
pub mod spec;
pub mod trash;

use serde::{Deserialize, Serialize};

use error::Result;
use name::Name;
use spec::{OnDelete, Spec, Status};

/// The volumes of a server.
pub struct Volumes;

/// Where a new volume's content comes from.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// It is empty.
    #[default]
    Fresh,
    /// It is the directory that is there.
    Adopt,
    /// It is a copy of another volume.
    Clone(Name),
}

/// A wish for more, or less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Growth {
    /// The new capacity, in bytes.
    #[serde(default)]
    pub capacity: Option<u64>,
    /// The new limit of inodes.
    #[serde(default)]
    pub inodes: Option<u64>,
    /// Whether it may be less than before.
    #[serde(default)]
    pub shrink: bool,
}

/// What became of a volume that is no longer wanted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome", content = "volume")]
pub enum Ended {
    /// It is gone; its content is being removed.
    Deleted,
    /// It is gone; its content is in this directory.
    Archived(String),
    /// It is there for the next user, empty.
    Recycled(Box<Status>),
    /// It is there as it was.
    Retained(Box<Status>),
}

/// The disk that the volumes share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Its size, in bytes.
    pub size: u64,
    /// What is left of it, in bytes.
    pub free: u64,
}

#[allow(missing_docs)]
impl Volumes {
    pub fn create(&self, _spec: Spec, _origin: Origin) -> Result<Status> {
        unimplemented!()
    }
    pub fn list(&self) -> Vec<Status> {
        unimplemented!()
    }
    pub fn show(&self, _name: &Name) -> Result<Status> {
        unimplemented!()
    }
    pub fn expand(&self, _name: &Name, _growth: Growth) -> Result<Status> {
        unimplemented!()
    }
    pub fn end(&self, _name: &Name, _how: Option<OnDelete>) -> Result<Ended> {
        unimplemented!()
    }
    pub fn recount(&self, _name: &Name) -> Result<()> {
        unimplemented!()
    }
    pub fn trash(&self) -> trash::Status {
        unimplemented!()
    }
    pub fn faults(&self) -> Vec<String> {
        unimplemented!()
    }
    pub fn disk(&self) -> Result<Disk> {
        unimplemented!()
    }
}
