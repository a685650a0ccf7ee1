//! What a system call answered when it failed.
//!
//! A leaf that every module may name, so that errors of the backing file system travel unchanged
//! from [`crate::sys`] to the one place that turns them into the protocol's status.

use std::fmt;
use std::io;

/// The number that a failed system call left, as in errno(3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// The result of a system call, or of an operation made of some.
pub type Result<T> = std::result::Result<T, Errno>;

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $number:ident;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self(libc::$number);)*
        }

        impl fmt::Debug for Errno {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(stringify!($number)),)*
                    Self(number) => write!(f, "errno {number}"),
                }
            }
        }
    };
}

names! {
    /// The operation needs an ownership or privilege that the caller lacks.
    PERM = EPERM;
    /// No such name.
    NOENT = ENOENT;
    /// The device failed.
    IO = EIO;
    /// No such device.
    NXIO = ENXIO;
    /// Not a descriptor, or not one for this use.
    BADF = EBADF;
    /// The call would have to wait.
    AGAIN = EAGAIN;
    /// Mode, groups and ACL say no.
    ACCES = EACCES;
    /// The name exists.
    EXIST = EEXIST;
    /// Across two file systems.
    XDEV = EXDEV;
    /// The device cannot do that.
    NODEV = ENODEV;
    /// Not a directory.
    NOTDIR = ENOTDIR;
    /// A directory.
    ISDIR = EISDIR;
    /// An argument makes no sense.
    INVAL = EINVAL;
    /// The system's table of open files is full.
    NFILE = ENFILE;
    /// The process' table of open files is full.
    MFILE = EMFILE;
    /// Larger than a file can be.
    FBIG = EFBIG;
    /// No space left.
    NOSPC = ENOSPC;
    /// A read-only file system or export.
    ROFS = EROFS;
    /// Too many links.
    MLINK = EMLINK;
    /// A name is too long.
    NAMETOOLONG = ENAMETOOLONG;
    /// A directory has entries.
    NOTEMPTY = ENOTEMPTY;
    /// A symbolic link where none may be.
    LOOP = ELOOP;
    /// The file behind a handle is gone.
    STALE = ESTALE;
    /// The disk quota is used up.
    DQUOT = EDQUOT;
    /// Not supported here.
    OPNOTSUPP = EOPNOTSUPP;
    /// No such system call.
    NOSYS = ENOSYS;
    /// Interrupted by a signal.
    INTR = EINTR;
    /// Out of memory.
    NOMEM = ENOMEM;
    /// In use.
    BUSY = EBUSY;
    /// A program that runs cannot be written.
    TXTBSY = ETXTBSY;
    /// A value does not fit.
    OVERFLOW = EOVERFLOW;
}

impl Errno {
    /// The errno of `number`, as a system call gave it.
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        io::Error::from_raw_os_error(errno.0)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    /// The errno behind `error`; [`Errno::IO`] for an error that no system call gave.
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::IO, Self)
    }
}
