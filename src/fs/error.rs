//! Why an operation was not done.

use std::fmt;

use crate::errno::Errno;
use crate::quota::HoldError;

/// Why an operation was not done. Nothing was changed then, unless the operation says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It would block, and the caller has no patience. It is to be called again on a thread that
    /// may block.
    WouldBlock,
    /// The usage of the volume must be counted first. The client retries.
    NotCounted,
    /// A shared resource is in use, or a directory was moved meanwhile. The client retries.
    Busy,
    /// A system call failed.
    Errno(Errno),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<HoldError> for Error {
    fn from(refusal: HoldError) -> Self {
        match refusal {
            HoldError::Full => Self::Errno(Errno::NOSPC),
            HoldError::NotCounted => Self::NotCounted,
            HoldError::WouldBlock => Self::WouldBlock,
            HoldError::Closed => Self::Busy,
            HoldError::Errno(errno) => Self::Errno(errno),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the operation would block"),
            Self::NotCounted => f.write_str("the usage of the volume is not counted yet"),
            Self::Busy => f.write_str("a resource is in use; retry"),
            Self::Errno(errno) => errno.fmt(f),
        }
    }
}

impl std::error::Error for Error {}
