//! What is asked and answered over the admin socket, and who answers it.
//!
//! Here are the types whose JSON is the API ([`crate::volume::spec`] has the others), the same for
//! the server and for the client, so that the two cannot drift apart, and [`Admin`], behind which
//! the volumes are. What is asked is read strictly: a field that is not known is refused, because
//! a misspelt wish must not be half done.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::telemetry::log::Chain;
use crate::volume::error::{self, Error, Result};
use crate::volume::name::Name;
use crate::volume::promise::Promise;
use crate::volume::spec::{OnDelete, Spec, Status};
use crate::volume::{Disk, Ended, Growth, Origin, Volumes, trash};

/// Largest body of a request, in bytes. A wish is small, labels and all.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Largest body of an answer, in bytes: a list of about 100,000 volumes.
pub const ANSWER_MAX: usize = 128 * 1024 * 1024;

/// `POST /v1/volumes`: a volume that is to be there.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Create {
    /// What it is to be.
    pub spec: Spec,
    /// Where its content comes from.
    #[serde(default)]
    pub origin: Origin,
}

/// The query of `DELETE /v1/volumes/NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct End {
    /// What is done with it; without it, what the volume says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// Whether it is done even if a claim has the volume.
    #[serde(default)]
    pub force: bool,
}

/// The query of `POST /v1/volumes/NAME/archive` and `.../recycle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Force {
    /// Whether it is done even if a claim has the volume.
    #[serde(default)]
    pub force: bool,
}

/// The answer to `GET /v1/volumes`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// All volumes, by name.
    pub volumes: Vec<Status>,
    /// Their capacities together, compared with the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<Promise>,
}

/// The answer to what has no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Accepted {}

/// What a server knows of itself from its start on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct About {
    /// Its version.
    pub version: String,
    /// Where NFS and MOUNT listen.
    pub listen: Vec<SocketAddr>,
    /// The provisioner that it is in a cluster, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<String>,
    /// Which server of that provisioner it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// The answer to `GET /v1/server`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Server {
    /// What it is.
    #[serde(flatten)]
    pub about: About,
    /// The disk of the volumes, if it can be asked.
    pub disk: Option<Disk>,
    /// What is wrong, in words; empty in the best case.
    pub faults: Vec<String>,
}

/// The answer when something cannot be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// Why not.
    pub error: Failure,
}

/// Why something cannot be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// For those who decide by it.
    pub kind: Kind,
    /// For people: what could not be done to what, and everything that led to it.
    pub message: String,
}

/// What kind of trouble it is: [`error::Kind`] as it is written in JSON.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// It can never be done as it was asked for.
    Invalid,
    /// There is no such volume, or no such directory.
    NotFound,
    /// Something else is there.
    Conflict,
    /// Not now; asked again, it may work.
    Busy,
    /// There is not enough room.
    NoSpace,
    /// The server has a problem. Kinds of later versions are read as this one.
    #[serde(other)]
    Internal,
}

/// Those who can do what the API offers. Everything may block on the disk, and everything may be
/// asked again.
pub trait Admin: Send + Sync + 'static {
    /// Makes a volume. A clone is answered at once, and asked again it says how far it is.
    fn create(&self, spec: Spec, origin: Origin) -> Result<Status>;
    /// All volumes, by name.
    fn list(&self) -> Vec<Status>;
    /// One volume.
    fn show(&self, name: &Name) -> Result<Status>;
    /// Changes what a volume may hold.
    fn expand(&self, name: &Name, growth: Growth) -> Result<Status>;
    /// Ends a volume, unless somebody has it and it is not forced.
    fn end(&self, name: &Name, end: End) -> Result<Ended>;
    /// Starts to count again what a volume uses.
    fn recount(&self, name: &Name) -> Result<()>;
    /// What is still to be removed.
    fn trash(&self) -> trash::Status;
    /// What is wrong, in words.
    fn faults(&self) -> Vec<String>;
    /// The disk of the volumes.
    fn disk(&self) -> Result<Disk>;
    /// The capacities of all volumes together, compared with the disk.
    fn promise(&self) -> Option<Promise>;
}

impl Admin for Arc<Volumes> {
    fn create(&self, spec: Spec, origin: Origin) -> Result<Status> {
        Volumes::create(self, spec, origin)
    }

    fn list(&self) -> Vec<Status> {
        Volumes::list(self)
    }

    fn show(&self, name: &Name) -> Result<Status> {
        Volumes::show(self, name)
    }

    fn expand(&self, name: &Name, growth: Growth) -> Result<Status> {
        Volumes::expand(self, name, growth)
    }

    fn end(&self, name: &Name, end: End) -> Result<Ended> {
        if !end.force {
            self.may_be_taken(name, end.on_delete)?;
        }
        Volumes::end(self, name, end.on_delete)
    }

    fn recount(&self, name: &Name) -> Result<()> {
        Volumes::recount(self, name)
    }

    fn trash(&self) -> trash::Status {
        Volumes::trash(self)
    }

    fn faults(&self) -> Vec<String> {
        Volumes::faults(self)
    }

    fn disk(&self) -> Result<Disk> {
        Volumes::disk(self)
    }

    fn promise(&self) -> Option<Promise> {
        Some(Volumes::promise(self))
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind().into(), message: Chain(error).to_string() }
    }
}

impl From<error::Kind> for Kind {
    fn from(kind: error::Kind) -> Self {
        match kind {
            error::Kind::Invalid => Self::Invalid,
            error::Kind::NotFound => Self::NotFound,
            error::Kind::Conflict => Self::Conflict,
            error::Kind::Busy => Self::Busy,
            error::Kind::NoSpace => Self::NoSpace,
            error::Kind::Internal => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_told() {
        let name = Name::new("a").unwrap();
        let error = Error::Serve { name, source: rustix::io::Errno::NOSPC.into() };
        let failure = Failure::from(&error);
        assert_eq!(failure.kind, Kind::Internal);
        assert!(failure.message.starts_with("cannot serve volume a: "), "{}", failure.message);
    }

    #[test]
    fn a_kind_that_is_not_known_is_internal() {
        let kind = |text: &str| serde_json::from_str::<Kind>(text).unwrap();
        assert_eq!(kind("\"noSpace\""), Kind::NoSpace);
        assert_eq!(kind("\"tooBlue\""), Kind::Internal);
    }

    #[test]
    fn an_origin_need_not_be_said() {
        let read = |rest: &str| {
            let text = format!(r#"{{"spec":{{"name":"a","id":"1","capacity":5}}{rest}}}"#);
            serde_json::from_str::<Create>(&text).map(|create| create.origin)
        };
        assert_eq!(read("").unwrap(), Origin::Fresh);
        assert_eq!(read(r#","origin":"adopt""#).unwrap(), Origin::Adopt);
        let from = Origin::Clone(Name::new("b").unwrap());
        assert_eq!(read(r#","origin":{"clone":"b"}"#).unwrap(), from);
        assert!(read(r#","origin":{"clone":"../b"}"#).is_err());
        assert!(read(r#","origin":"stolen""#).is_err());
        assert!(read(r#","orgin":"fresh""#).is_err());
    }
}
