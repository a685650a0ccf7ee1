//! The errors of operations on volumes.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::copy::CopyError;
use super::damaged::DamagedRecord;
use super::name::{BadName, VolumeId, VolumeName};
use crate::errno::Errno;
use crate::export::table::TableError;

/// The result of an operation on volumes.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a volume failed.
#[derive(Error, Debug)]
pub enum Error {
    /// A name is invalid.
    #[error("volume name {name:?} {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: BadName,
    },
    /// An id is invalid.
    #[error("volume id {id:?} {why}")]
    Id {
        /// The id.
        id: String,
        /// What is wrong with it.
        why: BadName,
    },
    /// The request is invalid.
    #[error("{0}")]
    Invalid(String),
    /// The volume does not exist.
    #[error("there is no volume {0}")]
    NotFound(String),
    /// The name belongs to a volume with another id.
    #[error("volume {name} exists with the id {id}, not {wanted}")]
    OtherId {
        /// The name.
        name: VolumeName,
        /// The id of the existing volume.
        id: VolumeId,
        /// The requested id.
        wanted: VolumeId,
    },
    /// The id belongs to a volume with another name.
    #[error("volume id {id} belongs to the volume {name}")]
    OtherName {
        /// The id.
        id: VolumeId,
        /// The name of that volume.
        name: VolumeName,
    },
    /// A copy was requested, but the volume exists and is not a copy.
    #[error(
        "volume {name} exists and is not a copy of {from}; nothing was copied. Choose another \
         name, or delete {name} first"
    )]
    NotCopied {
        /// The volume.
        name: VolumeName,
        /// The volume to be copied.
        from: VolumeName,
    },
    /// The path of the volume's directory is taken.
    #[error("{} is in the way; adopt it (--adopt), or choose another name", .0.display())]
    InTheWay(PathBuf),
    /// The volume's directory would be that of another volume, contain it or lie inside it.
    #[error(
        "directory {directory} would overlap {theirs}, that of the volume {name}; choose another"
    )]
    Overlaps {
        /// The requested directory, relative to the directory with volumes.
        directory: String,
        /// The other volume.
        name: VolumeName,
        /// The directory of the other volume.
        theirs: String,
    },
    /// The volume is held by an object that would not learn of its end.
    #[error(
        "volume {name} belongs to {holder}; end that instead, or force it (--force, force=true in \
         the API), which takes the volume away from it"
    )]
    Held {
        /// The volume.
        name: VolumeName,
        /// The holder.
        holder: String,
    },
    /// A record that cannot be used names the directory.
    #[error("{0}")]
    Faulty(String),
    /// The volume's record cannot be used.
    #[error(
        "the record of the volume cannot be used: {}: {}; restore that file and start the server \
         again, or move it away to give the volume up", .0.path, .0.why
    )]
    DamagedRecord(DamagedRecord),
    /// One of Berth's own folders is not a directory.
    #[error("{} is not a directory; restore it, or move it away", .0.display())]
    NoFolder(PathBuf),
    /// The directory to adopt does not exist.
    #[error("there is no directory {} to adopt", .0.display())]
    NothingToAdopt(PathBuf),
    /// The capacity is larger than the disk.
    #[error("capacity {wanted} is more than the {size} bytes of the disk")]
    TooLarge {
        /// The requested capacity, in bytes.
        wanted: u64,
        /// The size of the disk, in bytes.
        size: u64,
    },
    /// The sum of all capacities would exceed what the administrator allows.
    #[error(
        "with capacity {wanted}, all volumes would have {promised} bytes, more than the {allowed} \
         that are allowed ({percent} % of the disk); delete or shrink volumes, enlarge the disk, \
         or allow more (--overcommit)"
    )]
    Overcommitted {
        /// The requested capacity, in bytes.
        wanted: u64,
        /// The sum that would result, in bytes.
        promised: u64,
        /// The largest sum allowed, in bytes.
        allowed: u64,
        /// The same as a percentage of the disk.
        percent: u32,
    },
    /// The request would reduce a limit without `shrink`.
    #[error("capacity {wanted} is less than the present {now}; request it explicitly (--shrink)")]
    WouldShrink {
        /// The requested capacity, in bytes.
        wanted: u64,
        /// The present capacity, in bytes.
        now: u64,
    },
    /// The requested capacity is less than the usage.
    #[error("capacity {wanted} is less than the {used} bytes used")]
    InUse {
        /// The requested capacity, in bytes.
        wanted: u64,
        /// The usage, in bytes.
        used: u64,
    },
    /// The usage of the volume is not known exactly yet.
    #[error("volume {0} is being counted; try again when that is done")]
    Counting(VolumeName),
    /// The volume is being cloned and cannot be used yet.
    #[error("volume {0} is being cloned; try again when that is done")]
    Cloning(VolumeName),
    /// The volume is being copied to another one.
    #[error("volume {name} is being cloned to {by}; try again when that is done")]
    Source {
        /// The volume.
        name: VolumeName,
        /// The volume that is being created from it.
        by: VolumeName,
    },
    /// The volume could not be copied. The request may be repeated.
    #[error("cannot clone volume {from}")]
    Clone {
        /// The volume to be copied.
        from: VolumeName,
        /// The reason.
        source: CopyError,
    },
    /// The volume's directory is missing or cannot be opened.
    #[error("volume {name} is lost: {message}; its content is left alone")]
    Lost {
        /// The volume.
        name: VolumeName,
        /// The reason.
        message: String,
    },
    /// The volume's path is already exported.
    #[error("cannot export volume {name}")]
    Export {
        /// The volume.
        name: VolumeName,
        /// The reason.
        source: TableError,
    },
    /// The directory cannot be served.
    #[error("cannot serve volume {name}")]
    Serve {
        /// The volume.
        name: VolumeName,
        /// The reason.
        source: Errno,
    },
    /// A system call on a file or directory failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The operation that failed.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// The class of an error, by which callers decide how to react.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeErrorKind {
    /// The request can never succeed as it is.
    Invalid,
    /// There is no such volume or directory.
    NotFound,
    /// The request conflicts with something that exists.
    Conflict,
    /// The request may succeed later.
    Busy,
    /// There is not enough space.
    NoSpace,
    /// The server has a problem.
    Internal,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> VolumeErrorKind {
        match self {
            Self::Name { .. } | Self::Id { .. } | Self::Invalid(_) | Self::WouldShrink { .. } => {
                VolumeErrorKind::Invalid
            }
            Self::NotFound(_) | Self::NothingToAdopt(_) => VolumeErrorKind::NotFound,
            Self::OtherId { .. }
            | Self::OtherName { .. }
            | Self::NotCopied { .. }
            | Self::InTheWay(_)
            | Self::Overlaps { .. }
            | Self::Held { .. }
            | Self::Faulty(_)
            | Self::InUse { .. }
            | Self::Lost { .. }
            | Self::Export { .. } => VolumeErrorKind::Conflict,
            Self::Counting(_) | Self::Cloning(_) | Self::Source { .. } => VolumeErrorKind::Busy,
            Self::TooLarge { .. } | Self::Overcommitted { .. } => VolumeErrorKind::NoSpace,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                VolumeErrorKind::NoSpace
            }
            Self::Clone { source: CopyError::NoSpace { .. }, .. } => VolumeErrorKind::NoSpace,
            Self::Clone { .. }
            | Self::Serve { .. }
            | Self::Io { .. }
            | Self::NoFolder(_)
            | Self::DamagedRecord(_) => VolumeErrorKind::Internal,
        }
    }

    /// Returns the message for the author of a claim: without paths of the server, and without
    /// names from inside a volume. The full error belongs in the server's log.
    pub fn public(&self) -> String {
        match self {
            Self::Name { .. }
            | Self::Id { .. }
            | Self::Invalid(_)
            | Self::NotFound(_)
            | Self::OtherId { .. }
            | Self::OtherName { .. }
            | Self::NotCopied { .. }
            | Self::Overlaps { .. }
            | Self::Held { .. }
            | Self::TooLarge { .. }
            | Self::Overcommitted { .. }
            | Self::WouldShrink { .. }
            | Self::InUse { .. }
            | Self::Counting(_)
            | Self::Cloning(_)
            | Self::Source { .. } => self.to_string(),
            Self::InTheWay(_) => "something else is on the server where the volume's directory is \
                                  to be; choose another name, or have it moved away"
                .into(),
            Self::NothingToAdopt(_) => "there is no directory to adopt".into(),
            Self::NoFolder(_) => "the server's directory is damaged; its log says how".into(),
            Self::DamagedRecord(_) => {
                "the server's record of the volume is damaged; its log says how".into()
            }
            Self::Faulty(_) => {
                "the server has a damaged record that names the volume's directory; \
                                its log says which"
                    .into()
            }
            Self::Lost { name, .. } => {
                format!(
                    "volume {name} is lost; the server's log says why, its content is left alone"
                )
            }
            Self::Clone { from, source } => {
                format!("cannot clone volume {from}: {}", short(source))
            }
            Self::Export { name, .. } => {
                format!("cannot export volume {name}; the server's log says why")
            }
            Self::Serve { name, source } => format!("cannot serve volume {name}: {source}"),
            Self::Io { what, source, .. } => {
                format!("the server cannot {what} what belongs to the volume: {}", plain(source))
            }
        }
    }

    /// Returns a function for `map_err` that says which operation failed on which path.
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// Describes why a copy failed, without paths.
fn short(error: &CopyError) -> String {
    match error {
        CopyError::Limit { .. } | CopyError::Cancelled => error.to_string(),
        CopyError::NoSpace { .. } => "the server's disk is full".into(),
        CopyError::Open { .. }
        | CopyError::NotEmpty { .. }
        | CopyError::Inside { .. }
        | CopyError::Moved { .. }
        | CopyError::Entry { .. }
        | CopyError::Flush { .. } => "the copy failed; the server's log says why".into(),
    }
}

/// Formats an error of the system. Other errors may have paths in their text.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.to_string(),
        None => error.kind().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_has_no_path_of_the_server() {
        let secret = || PathBuf::from("/srv/secret");
        let name = || VolumeName::new("v").unwrap();
        let io = |error| Error::io("create", secret())(error);
        let copied = |source| Error::Clone { from: name(), source };
        let errno = Errno::from(rustix::io::Errno::IO);
        for error in [
            Error::InTheWay(secret()),
            Error::NothingToAdopt(secret()),
            Error::Lost { name: name(), message: "/srv/secret is not there".into() },
            copied(CopyError::Entry { path: secret(), source: errno }),
            copied(CopyError::NoSpace { path: secret(), source: errno }),
            copied(CopyError::Open { path: secret(), source: errno }),
            Error::Export { name: name(), source: TableError::SamePath(b"/srv/secret".to_vec()) },
            io(io::Error::from_raw_os_error(28)),
            io(io::Error::other("/srv/secret is odd")),
        ] {
            let (told, logged) = (error.public(), crate::telemetry::log::Chain(&error).to_string());
            assert!(!told.contains("/srv") && !told.is_empty(), "{told}");
            assert!(logged.contains("/srv/secret"), "{logged}");
        }
        assert!(io(io::Error::from_raw_os_error(28)).public().contains("No space left"));
    }
}
