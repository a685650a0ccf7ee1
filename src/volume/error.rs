//! Why something cannot be done with a volume.

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

/// Why something cannot be done with a volume.
#[derive(Error, Debug)]
pub enum Error {
    /// A name that cannot be one.
    #[error("volume name {name:?} {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: BadName,
    },
    /// An id that cannot be one.
    #[error("volume id {id:?} {why}")]
    Id {
        /// The id.
        id: String,
        /// What is wrong with it.
        why: BadName,
    },
    /// The wish makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such volume.
    #[error("there is no volume {0}")]
    NotFound(String),
    /// The name belongs to another volume.
    #[error("volume {name} exists with the id {id}, not {wanted}")]
    OtherId {
        /// The name.
        name: VolumeName,
        /// The volume's id.
        id: VolumeId,
        /// The id that was asked for.
        wanted: VolumeId,
    },
    /// The id belongs to a volume of another name.
    #[error("volume id {id} belongs to the volume {name}")]
    OtherName {
        /// The id.
        id: VolumeId,
        /// Whose it is.
        name: VolumeName,
    },
    /// A copy was asked for, and the volume exists and is none.
    #[error(
        "volume {name} exists and is not a copy of {from}; nothing was copied. Choose another \
         name, or delete {name} first"
    )]
    NotCopied {
        /// The volume.
        name: VolumeName,
        /// What was to be copied.
        from: VolumeName,
    },
    /// Something is where the volume's directory is to be.
    #[error("{} is in the way; adopt it (--adopt), or choose another name", .0.display())]
    InTheWay(PathBuf),
    /// The volume's directory would be that of another one, or one would lie in the other.
    #[error(
        "directory {directory} would overlap {theirs}, that of the volume {name}; choose another"
    )]
    Overlaps {
        /// Where the volume was to be, below the root.
        directory: String,
        /// The other volume.
        name: VolumeName,
        /// Where that is.
        theirs: String,
    },
    /// Somebody has the volume, who would never hear of its end.
    #[error(
        "volume {name} belongs to {holder}; end that instead, or force it (--force, force=true in \
         the API), which takes the volume away from it"
    )]
    Held {
        /// The volume.
        name: VolumeName,
        /// Who has it.
        holder: String,
    },
    /// A record of the registry that cannot be used names the directory.
    #[error("{0}")]
    Faulty(String),
    /// The volume's record cannot be used.
    #[error(
        "the record of the volume cannot be used: {}: {}; restore that file and start the server \
         again, or move it away to give the volume up", .0.path, .0.why
    )]
    DamagedRecord(DamagedRecord),
    /// One of Berth's own folders is something else.
    #[error("{} is not a directory; restore it, or move it away", .0.display())]
    NoFolder(PathBuf),
    /// There is nothing to adopt.
    #[error("there is no directory {} to adopt", .0.display())]
    NothingToAdopt(PathBuf),
    /// The capacity is larger than the disk.
    #[error("capacity {wanted} is more than the {size} bytes of the disk")]
    TooLarge {
        /// What was asked for, in bytes.
        wanted: u64,
        /// What there is, in bytes.
        size: u64,
    },
    /// All capacities together would be more than the administrator allows.
    #[error(
        "with capacity {wanted}, all volumes would have {promised} bytes, more than the {allowed} \
         that are allowed ({percent} % of the disk); delete or shrink volumes, enlarge the disk, \
         or allow more (--overcommit)"
    )]
    Overcommitted {
        /// What was asked for, in bytes.
        wanted: u64,
        /// The sum of all capacities then, in bytes.
        promised: u64,
        /// What it may be, in bytes.
        allowed: u64,
        /// The same in percent of the disk.
        percent: u32,
    },
    /// A smaller capacity was asked for, but not to shrink.
    #[error(
        "capacity {wanted} is less than the present {now}; shrink it by explicit wish (--shrink)"
    )]
    WouldShrink {
        /// What was asked for, in bytes.
        wanted: u64,
        /// What it has, in bytes.
        now: u64,
    },
    /// The capacity is less than what is used.
    #[error("capacity {wanted} is less than the {used} bytes that are used")]
    InUse {
        /// What was asked for, in bytes.
        wanted: u64,
        /// What is used, in bytes.
        used: u64,
    },
    /// It is known only about what the volume uses.
    #[error("volume {0} is being counted; try again when that is done")]
    Counting(VolumeName),
    /// The volume is being made, and cannot be used for this yet.
    #[error("volume {0} is being cloned; try again when that is done")]
    Cloning(VolumeName),
    /// Another volume is being made from it.
    #[error("volume {name} is being cloned to {by}; try again when that is done")]
    Source {
        /// The volume.
        name: VolumeName,
        /// What is made from it.
        by: VolumeName,
    },
    /// Cloning it did not work; ask again to try again.
    #[error("cannot clone volume {from}")]
    Clone {
        /// What was to be cloned.
        from: VolumeName,
        /// Why it did not work.
        source: CopyError,
    },
    /// The volume's directory is not there.
    #[error("volume {name} is lost: {message}; nothing of it is touched")]
    Lost {
        /// The volume.
        name: VolumeName,
        /// Why.
        message: String,
    },
    /// The export has a path that another one has.
    #[error("cannot export volume {name}")]
    Export {
        /// The volume.
        name: VolumeName,
        /// Why.
        source: TableError,
    },
    /// The directory cannot be served.
    #[error("cannot serve volume {name}")]
    Serve {
        /// The volume.
        name: VolumeName,
        /// Why.
        source: Errno,
    },
    /// A file or directory could not be made, renamed, read or removed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What could not be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What kind of trouble it is, for those who decide by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeErrorKind {
    /// It can never be done as it was asked for.
    Invalid,
    /// There is no such thing.
    NotFound,
    /// Something else is there.
    Conflict,
    /// Not now; asked again, it may work.
    Busy,
    /// There is not enough room.
    NoSpace,
    /// The server has a problem.
    Internal,
}

impl Error {
    /// What kind of trouble it is.
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

    /// What may be told to the author of a claim: what is wrong, without paths of the server and
    /// without what lies in a volume. The whole of it belongs into the server's log.
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
                    "volume {name} is lost; the server's log says why, nothing of it is touched"
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

    /// For `map_err`: what could not be done to what.
    pub(super) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

/// Why a copy failed, without the paths of what was copied.
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

/// An error in the words of the system: others may have paths in their text.
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
