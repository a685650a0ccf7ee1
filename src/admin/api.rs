//! The types of the admin API, and the operations behind it.
//!
//! Server and client share these types ([`crate::volume::spec`] has the others), which serde turns
//! into the JSON of the API. Requests with unknown fields are refused: a request with a misspelt
//! field must not be carried out without it. [`VolumeApi`] is the interface to the volumes.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::telemetry::log::Chain;
use crate::volume::damaged::DamagedRecord;
use crate::volume::error::{self, Error, Result};
use crate::volume::name::VolumeName;
use crate::volume::overcommit::CommittedCapacity;
use crate::volume::spec::{OnDelete, Spec, VolumeStatus};
use crate::volume::{CapacityChange, DiskSpace, Reclaimed, VolumeOrigin, Volumes, trash};

/// Largest body of a request, in bytes.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Largest body of a response, in bytes: enough for a list of about 100,000 volumes.
pub const RESPONSE_MAX: usize = 128 * 1024 * 1024;

/// The body of `POST /v1/volumes`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateRequest {
    /// The volume to create.
    pub spec: Spec,
    /// Where its content comes from.
    #[serde(default)]
    pub origin: VolumeOrigin,
}

/// The query of `DELETE /v1/volumes/NAME`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReclaimRequest {
    /// What becomes of the volume; without it, the volume's own `onDelete` applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_delete: Option<OnDelete>,
    /// Whether to do it even if a claim uses the volume.
    #[serde(default)]
    pub force: bool,
}

/// The query of `POST /v1/volumes/NAME/archive` and `.../recycle`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ForceQuery {
    /// Whether to do it even if a claim uses the volume.
    #[serde(default)]
    pub force: bool,
}

/// The response to `GET /v1/volumes`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VolumeListing {
    /// All volumes, by name.
    pub volumes: Vec<VolumeStatus>,
    /// The sum of their capacities, compared with the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promise: Option<CommittedCapacity>,
    /// Records that cannot be used; their volumes are not served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedRecord>,
}

/// The response to requests that return no value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EmptyResponse {}

/// The properties of a server that do not change while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerProperties {
    /// Version of the program.
    pub version: String,
    /// Addresses of NFS and MOUNT.
    pub listen: Vec<SocketAddr>,
    /// Name of the provisioner, if the server is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioner: Option<String>,
    /// The identity of this server among those of the provisioner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
}

/// The response to `GET /v1/server`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its constant properties.
    #[serde(flatten)]
    pub about: ServerProperties,
    /// The disk of the volumes, if its statistics can be read.
    pub disk: Option<DiskSpace>,
    /// Descriptions of faults; empty if there are none.
    pub faults: Vec<String>,
}

/// The body of every response that is an error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// An error of the API.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// The kind, for programs.
    pub kind: ApiErrorKind,
    /// The error with its causes, for people.
    pub message: String,
}

/// Kinds of errors: [`error::VolumeErrorKind`] in the JSON of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApiErrorKind {
    /// The request can never succeed.
    Invalid,
    /// There is no such volume or directory.
    NotFound,
    /// Something else has this name, directory or id, or a claim uses the volume.
    Conflict,
    /// Not now; the same request may succeed later.
    Busy,
    /// There is not enough space.
    NoSpace,
    /// The server has a problem. Kinds that later versions add are read as this one.
    #[serde(other)]
    Internal,
}

/// The operations of the API. Each may block on the disk, and may be repeated.
pub trait VolumeApi: Send + Sync + 'static {
    /// Creates a volume. For a clone it returns at once, in the phase `Cloning`; repeated, it
    /// returns the progress.
    fn create(&self, spec: Spec, origin: VolumeOrigin) -> Result<VolumeStatus>;
    /// Returns all volumes, by name.
    fn list(&self) -> Vec<VolumeStatus>;
    /// Returns one volume.
    fn show(&self, name: &VolumeName) -> Result<VolumeStatus>;
    /// Changes the limits of a volume.
    fn expand(&self, name: &VolumeName, growth: CapacityChange) -> Result<VolumeStatus>;
    /// Reclaims a volume, unless a claim uses it and `request.force` is not set.
    fn reclaim(&self, name: &VolumeName, request: ReclaimRequest) -> Result<Reclaimed>;
    /// Starts to count the usage of a volume again.
    fn recount(&self, name: &VolumeName) -> Result<()>;
    /// Returns the state of the trash.
    fn trash(&self) -> trash::TrashStatus;
    /// Returns descriptions of the registry's faults.
    fn faults(&self) -> Vec<String>;
    /// Returns the records that cannot be used.
    fn damaged(&self) -> Vec<DamagedRecord> {
        Vec::new()
    }
    /// Returns the size of the disk of the volumes and its free space.
    fn disk(&self) -> Result<DiskSpace>;
    /// Returns the sum of all capacities, compared with the disk.
    fn committed_capacity(&self) -> Option<CommittedCapacity>;
}

impl VolumeApi for Arc<Volumes> {
    fn create(&self, spec: Spec, origin: VolumeOrigin) -> Result<VolumeStatus> {
        Volumes::create(self, spec, origin)
    }

    fn list(&self) -> Vec<VolumeStatus> {
        Volumes::list(self)
    }

    fn show(&self, name: &VolumeName) -> Result<VolumeStatus> {
        Volumes::show(self, name)
    }

    fn expand(&self, name: &VolumeName, growth: CapacityChange) -> Result<VolumeStatus> {
        Volumes::expand(self, name, growth)
    }

    fn reclaim(&self, name: &VolumeName, request: ReclaimRequest) -> Result<Reclaimed> {
        if !request.force {
            self.check_not_held(name, request.on_delete)?;
        }
        Volumes::reclaim(self, name, request.on_delete)
    }

    fn recount(&self, name: &VolumeName) -> Result<()> {
        Volumes::recount(self, name)
    }

    fn trash(&self) -> trash::TrashStatus {
        Volumes::trash(self)
    }

    fn faults(&self) -> Vec<String> {
        Volumes::faults(self)
    }

    fn damaged(&self) -> Vec<DamagedRecord> {
        Volumes::damaged(self)
    }

    fn disk(&self) -> Result<DiskSpace> {
        Volumes::disk(self)
    }

    fn committed_capacity(&self) -> Option<CommittedCapacity> {
        Some(Volumes::committed_capacity(self))
    }
}

impl From<&Error> for ApiError {
    fn from(error: &Error) -> Self {
        Self { kind: error.kind().into(), message: Chain(error).to_string() }
    }
}

impl From<error::VolumeErrorKind> for ApiErrorKind {
    fn from(kind: error::VolumeErrorKind) -> Self {
        match kind {
            error::VolumeErrorKind::Invalid => Self::Invalid,
            error::VolumeErrorKind::NotFound => Self::NotFound,
            error::VolumeErrorKind::Conflict => Self::Conflict,
            error::VolumeErrorKind::Busy => Self::Busy,
            error::VolumeErrorKind::NoSpace => Self::NoSpace,
            error::VolumeErrorKind::Internal => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_include_the_causes() {
        let name = VolumeName::new("a").unwrap();
        let error = Error::Serve { name, source: rustix::io::Errno::NOSPC.into() };
        let failure = ApiError::from(&error);
        assert_eq!(failure.kind, ApiErrorKind::Internal);
        assert!(failure.message.starts_with("cannot serve volume a: "), "{}", failure.message);
    }

    #[test]
    fn an_unknown_kind_is_internal() {
        let kind = |text: &str| serde_json::from_str::<ApiErrorKind>(text).unwrap();
        assert_eq!(kind("\"noSpace\""), ApiErrorKind::NoSpace);
        assert_eq!(kind("\"tooBlue\""), ApiErrorKind::Internal);
    }

    #[test]
    fn the_origin_is_optional_and_unknown_fields_are_refused() {
        let read = |rest: &str| {
            let text = format!(r#"{{"spec":{{"name":"a","id":"1","capacity":5}}{rest}}}"#);
            serde_json::from_str::<CreateRequest>(&text).map(|create| create.origin)
        };
        assert_eq!(read("").unwrap(), VolumeOrigin::Fresh);
        assert_eq!(read(r#","origin":"adopt""#).unwrap(), VolumeOrigin::Adopt);
        let from = VolumeOrigin::Clone(VolumeName::new("b").unwrap());
        assert_eq!(read(r#","origin":{"clone":"b"}"#).unwrap(), from);
        assert!(read(r#","origin":{"clone":"../b"}"#).is_err());
        assert!(read(r#","origin":"stolen""#).is_err());
        assert!(read(r#","orgin":"fresh""#).is_err());
    }
}
