//! Errors of the provisioner: why something cannot be done for a claim or a PV.
//!
//! The text goes into an event. A transient error ([`Error::is_transient`]) is retried; any other
//! one waits for a change of the claim, the class or the PV.

use std::time::Duration;

use kube::Error as ApiError;
use thiserror::Error;

use super::params::ParameterError;
use super::pattern::PatternError;
use super::reachability::is_server_failure;
use crate::mount_options::Unusable;
use crate::volume;

/// The result of an operation of the provisioner.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest text of an error in the log, in bytes.
const LOGGED_MAX: usize = 2048;

/// Why something cannot be done.
#[derive(Error, Debug)]
pub enum Error {
    /// The claim asks for something that is not supported.
    #[error(transparent)]
    Refused(#[from] ClaimRefusal),
    /// Something else has to happen first.
    #[error("{0}")]
    Waiting(String),
    /// What is known of the cluster is out of date: reconcile again.
    #[error("the cluster has changed meanwhile")]
    Stale,
    /// The object is not ours, or cannot be understood.
    #[error("{0}")]
    Foreign(String),
    /// Another volume has the directory.
    #[error(
        "pathPattern makes the directory {directory:?} of this claim, which collides with {by}; \
         give one of them another name, label or annotation, or remove it"
    )]
    Collision {
        /// The claim's directory.
        directory: String,
        /// What it collides with.
        by: String,
    },
    /// An operation on volumes failed.
    #[error("{}", crate::telemetry::log::Chain(.0))]
    Volume(#[from] volume::error::Error),
    /// A copy failed.
    #[error("cannot clone: {0}; it is retried")]
    Clone(String),
    /// The API server refused, or could not be asked.
    #[error("cannot {what}: {}", message_of(source))]
    Api {
        /// What could not be done to what.
        what: String,
        /// Why.
        source: Box<ApiError>,
    },
    /// The API server did not answer in time.
    #[error("cannot {what}: no answer within {} seconds", after.as_secs())]
    Timeout {
        /// What could not be done to what.
        what: String,
        /// How long it had.
        after: Duration,
    },
    /// A bug in this program.
    #[error("an operation on volumes ended in a panic; see the log")]
    Panic,
}

/// Why a claim is refused. It is not retried until the claim or the class changes.
#[derive(Error, Debug, PartialEq, Eq)]
pub enum ClaimRefusal {
    /// The claim asks for a block device.
    #[error("{0} does not support block volume provisioning; use volumeMode Filesystem")]
    Block(String),
    /// The claim has a selector.
    #[error(
        "claim.spec.selector is not supported with a class that provisions; remove it, or use a \
         class without a provisioner"
    )]
    Selector,
    /// The claim has an access mode that NFS volumes cannot have.
    #[error(
        "access mode {0} is not supported; use ReadWriteMany, ReadWriteOnce, ReadOnlyMany or \
         ReadWriteOncePod"
    )]
    AccessMode(String),
    /// The claim asks for attributes that a CSI driver would apply.
    #[error(
        "volumeAttributesClassName {0:?} is not supported: only CSI volumes have such attributes, \
         and the claim could never be bound; make it again without"
    )]
    AttributesClass(String),
    /// The claim has a data source that is not supported.
    #[error(
        "data source {0} is not supported; use a PersistentVolumeClaim of the same namespace and \
         class, or remove it"
    )]
    DataSource(String),
    /// The data source has another class.
    #[error(
        "data source {claim} has the class {theirs:?}, not {ours:?}; clones need the same class"
    )]
    OtherClass {
        /// The source.
        claim: String,
        /// Its class.
        theirs: String,
        /// The claim's.
        ours: String,
    },
    /// The size is invalid.
    #[error("requested storage {0:?} {1}")]
    Size(String, crate::quantity::BadQuantity),
    /// The claim has no size.
    #[error("the claim requests no storage; set spec.resources.requests.storage")]
    NoSize,
    /// The parameters of the class are invalid.
    #[error(transparent)]
    ClassParameters(#[from] ParameterError),
    /// The mount options of the class cannot work.
    #[error("mountOptions of the class: {0}")]
    MountOption(#[from] Unusable),
    /// The pattern makes no usable directory of the claim.
    #[error(transparent)]
    PathPattern(#[from] PatternError),
    /// The class has a reclaim policy that is not supported.
    #[error("reclaim policy {0:?} is not supported; use Delete or Retain, and onDelete")]
    Policy(String),
    /// The uid cannot be a volume's id.
    #[error("the claim's uid {id:?} {why}")]
    Id {
        /// The uid.
        id: String,
        /// What is wrong with it.
        why: volume::name::BadName,
    },
}

impl Error {
    /// Makes an error of an error of the API, for `map_err`. `what` completes "cannot ...".
    pub fn api(what: impl Into<String>) -> impl FnOnce(ApiError) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// Whether a retry may succeed without a change of the object.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Waiting(_)
            | Self::Stale
            | Self::Foreign(_)
            | Self::Collision { .. }
            | Self::Volume(_)
            | Self::Clone(_)
            | Self::Api { .. }
            | Self::Timeout { .. }
            | Self::Panic => true,
        }
    }

    /// Whether the object has changed meanwhile: reconcile again, without an event.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Stale => true,
            Self::Api { source, .. } => has_code(source, 409),
            _ => false,
        }
    }

    /// Whether the API server failed: an event would not reach it either.
    pub fn is_server_failure(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Api { source, .. } => is_server_failure(source),
            _ => false,
        }
    }

    /// The text for the author of a claim: without paths of the server.
    pub fn public(&self) -> String {
        match self {
            Self::Volume(error) => error.public(),
            Self::Clone(_) => "cannot clone: the server's log says why; it is retried".into(),
            Self::Refused(_)
            | Self::Waiting(_)
            | Self::Stale
            | Self::Foreign(_)
            | Self::Collision { .. }
            | Self::Api { .. }
            | Self::Timeout { .. }
            | Self::Panic => self.to_string(),
        }
    }

    /// The text for the log. It is cut, because it may contain long values of claims.
    pub fn logged(&self) -> String {
        let mut text = self.to_string();
        text.truncate(text.floor_char_boundary(LOGGED_MAX));
        text
    }

    /// The kind of an error of the volume layer.
    pub fn kind(&self) -> Option<volume::error::VolumeErrorKind> {
        match self {
            Self::Volume(error) => Some(error.kind()),
            _ => None,
        }
    }
}

/// Whether the API server answered with this status code.
pub fn has_code(error: &ApiError, code: u16) -> bool {
    matches!(error, ApiError::Api(status) if status.code == code)
}

/// The message of the API server alone, or the chain of another error.
fn message_of(error: &ApiError) -> String {
    match error {
        ApiError::Api(status) => status.message.clone(),
        other => crate::telemetry::log::Chain(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn api(code: u16) -> Error {
        let status = Status::failure("it is so", "Reason").with_code(code);
        Error::api("patch PersistentVolume a")(ApiError::Api(Box::new(status)))
    }

    #[test]
    fn the_message_of_the_server_is_shown() {
        assert_eq!(api(422).to_string(), "cannot patch PersistentVolume a: it is so");
    }

    #[test]
    fn conflicts_and_failures_of_the_server_are_recognized() {
        let check = |code, conflict, server| {
            let error = api(code);
            assert_eq!((error.is_conflict(), error.is_server_failure()), (conflict, server));
            assert!(error.is_transient());
        };
        check(409, true, false);
        check(403, false, false);
        check(429, false, true);
        check(500, false, true);
        assert!(!Error::from(ClaimRefusal::Selector).is_transient());
    }
}
