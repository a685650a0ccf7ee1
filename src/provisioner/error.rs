//! Why something cannot be done for a claim or a PV, and who decides what by it.
//!
//! What is said goes into an event, for people; [`Error::is_transient`] decides whether it is tried
//! again by itself. Everything else waits for a change of the claim, the class or the PV.

use std::time::Duration;

use kube::Error as ApiError;
use thiserror::Error;

use super::params::ParamError;
use super::pattern::PatternError;
use super::reach::is_of_the_server;
use crate::mount_options::Unusable;
use crate::volume;

/// The result of what is done in the cluster.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest text of an error in a line of the log, in bytes.
const LOGGED_MAX: usize = 2048;

/// Why something cannot be done.
#[derive(Error, Debug)]
pub enum Error {
    /// The claim asks for what there is not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not now: something else has to happen first.
    #[error("{0}")]
    Waiting(String),
    /// What is kept of the cluster is older than what it is: look again.
    #[error("the cluster has changed meanwhile")]
    Stale,
    /// The object belongs to somebody else.
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
        /// What is there.
        by: String,
    },
    /// The volume layer.
    #[error("{}", crate::telemetry::log::Chain(.0))]
    Volume(#[from] volume::error::Error),
    /// A copy did not come to its end.
    #[error("cannot clone: {0}; it is tried again")]
    Clone(String),
    /// The API server refused, or could not be asked.
    #[error("cannot {what}: {}", said(source))]
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
    /// A fault in this program.
    #[error("an operation on volumes ended in a panic; see the log")]
    Panic,
}

/// What a claim asks for that there is not: said in an event, and not tried again by itself.
#[derive(Error, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A block device.
    #[error("{0} does not support block volume provisioning; use volumeMode Filesystem")]
    Block(String),
    /// A selector.
    #[error(
        "claim.spec.selector is not supported with a class that provisions; remove it, or use a \
         class without a provisioner"
    )]
    Selector,
    /// An access mode that NFS volumes cannot have.
    #[error(
        "access mode {0} is not supported; use ReadWriteMany, ReadWriteOnce, ReadOnlyMany or \
         ReadWriteOncePod"
    )]
    AccessMode(String),
    /// Attributes that a CSI driver would apply.
    #[error(
        "volumeAttributesClassName {0:?} is not supported: only CSI volumes have such attributes, \
         and the claim could never be bound; make it again without"
    )]
    AttributesClass(String),
    /// Content that cannot be had.
    #[error(
        "data source {0} is not supported; use a PersistentVolumeClaim of the same namespace and \
         class, or remove it"
    )]
    DataSource(String),
    /// A source of another class.
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
    /// A size that is none.
    #[error("requested storage {0:?} {1}")]
    Size(String, crate::quantity::BadQuantity),
    /// No size.
    #[error("the claim requests no storage; set spec.resources.requests.storage")]
    NoSize,
    /// The class.
    #[error(transparent)]
    Parameters(#[from] ParamError),
    /// The class's mount options.
    #[error("mountOptions of the class: {0}")]
    MountOption(#[from] Unusable),
    /// The directory.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A reclaim policy that no class can have.
    #[error("reclaim policy {0:?} is not supported; use Delete or Retain, and onDelete")]
    Policy(String),
    /// A name that no volume can have.
    #[error("the claim's uid {id:?} {why}")]
    Id {
        /// The uid.
        id: String,
        /// What is wrong with it.
        why: volume::name::BadName,
    },
}

impl Error {
    /// For `map_err`: what could not be done.
    pub fn api(what: impl Into<String>) -> impl FnOnce(ApiError) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// Whether trying again may help, with nothing changed.
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

    /// Whether the object was changed by somebody else meanwhile: look again, and say nothing.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Stale => true,
            Self::Api { source, .. } => has_code(source, 409),
            _ => false,
        }
    }

    /// Whether the API server is the trouble: an event would not reach it either.
    pub fn is_of_the_server(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Api { source, .. } => is_of_the_server(source),
            _ => false,
        }
    }

    /// What may be told to the author of a claim: without paths of the server.
    pub fn public(&self) -> String {
        match self {
            Self::Volume(error) => error.public(),
            Self::Clone(_) => "cannot clone: the server's log says why; it is tried again".into(),
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

    /// The whole of it in a line of the log. What claims say may be long: it is cut.
    pub fn logged(&self) -> String {
        let mut text = self.to_string();
        text.truncate(text.floor_char_boundary(LOGGED_MAX));
        text
    }

    /// How the volume layer sees it.
    pub fn kind(&self) -> Option<volume::error::VolumeErrorKind> {
        match self {
            Self::Volume(error) => Some(error.kind()),
            _ => None,
        }
    }
}

/// Whether an API server answered with this status.
pub fn has_code(error: &ApiError, code: u16) -> bool {
    matches!(error, ApiError::Api(status) if status.code == code)
}

/// What an API server said, without the debris around it.
fn said(error: &ApiError) -> String {
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
    fn an_answer_is_said_in_the_words_of_the_server() {
        assert_eq!(api(422).to_string(), "cannot patch PersistentVolume a: it is so");
    }

    #[test]
    fn who_is_to_blame_is_known() {
        let check = |code, conflict, server| {
            let error = api(code);
            assert_eq!((error.is_conflict(), error.is_of_the_server()), (conflict, server));
            assert!(error.is_transient());
        };
        check(409, true, false);
        check(403, false, false);
        check(429, false, true);
        check(500, false, true);
        assert!(!Error::from(Refusal::Selector).is_transient());
    }
}
