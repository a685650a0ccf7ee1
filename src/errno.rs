//! The error numbers of system calls, errno(3).
//!
//! Every module may use this one: errors of the backing file system pass unchanged from
//! [`crate::sys`] to the one place that maps them to a status of the protocol.

use std::fmt;
use std::io;

/// The error number of a failed system call.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// The result of a system call, or of an operation of several.
pub type Result<T, E = Errno> = std::result::Result<T, E>;

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
    /// The operation needs ownership or a privilege that the caller lacks.
    PERM = EPERM;
    /// No such name.
    NOENT = ENOENT;
    /// The device failed.
    IO = EIO;
    /// No such device.
    NXIO = ENXIO;
    /// Not a descriptor, or not one for this use.
    BADF = EBADF;
    /// The call would block.
    AGAIN = EAGAIN;
    /// The mode or an ACL denies access.
    ACCES = EACCES;
    /// The name exists.
    EXIST = EEXIST;
    /// The operation would cross file systems.
    XDEV = EXDEV;
    /// The device does not support the operation.
    NODEV = ENODEV;
    /// Not a directory.
    NOTDIR = ENOTDIR;
    /// A directory.
    ISDIR = EISDIR;
    /// An argument is invalid.
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
    /// Too many symbolic links, or one where none is allowed.
    LOOP = ELOOP;
    /// The file behind a handle is gone.
    STALE = ESTALE;
    /// The disk quota is exceeded.
    DQUOT = EDQUOT;
    /// Not supported.
    OPNOTSUPP = EOPNOTSUPP;
    /// No such system call.
    NOSYS = ENOSYS;
    /// Interrupted by a signal.
    INTR = EINTR;
    /// Out of memory.
    NOMEM = ENOMEM;
    /// In use.
    BUSY = EBUSY;
    /// A running program cannot be written.
    TXTBSY = ETXTBSY;
    /// A value does not fit.
    OVERFLOW = EOVERFLOW;
    /// Arguments are too long.
    TOOBIG = E2BIG;
    /// An argument is out of the domain of the function.
    DOM = EDOM;
    /// A result is out of range.
    RANGE = ERANGE;
    /// A name is not in the encoding of the file system.
    ILSEQ = EILSEQ;
    /// There is no medium in the device.
    NOMEDIUM = ENOMEDIUM;
    /// The key of an encrypted directory is not available.
    NOKEY = ENOKEY;
    /// The key has expired.
    KEYEXPIRED = EKEYEXPIRED;
    /// The key was revoked.
    KEYREVOKED = EKEYREVOKED;
    /// The key was rejected.
    KEYREJECTED = EKEYREJECTED;
    /// The structure on the disk is damaged.
    UCLEAN = EUCLEAN;
    /// A checksum on the disk is wrong.
    BADMSG = EBADMSG;
    /// A device has no data.
    NODATA = ENODATA;
    /// A device does not respond in time.
    TIME = ETIME;
    /// The link to a device is cut.
    NOLINK = ENOLINK;
    /// A device refuses the exchange.
    BADE = EBADE;
    /// An I/O error on another machine.
    REMOTEIO = EREMOTEIO;
    /// Another machine violates the protocol.
    PROTO = EPROTO;
    /// The reader of a pipe or socket has closed it.
    PIPE = EPIPE;
    /// The operation was canceled.
    CANCELED = ECANCELED;
    /// The page of memory with the data has a hardware error.
    HWPOISON = EHWPOISON;
    /// A deadlock.
    DEADLK = EDEADLK;
    /// No buffer space.
    NOBUFS = ENOBUFS;
    /// The call should be restarted.
    RESTART = ERESTART;
    /// The daemon or server behind the file system is not connected.
    NOTCONN = ENOTCONN;
    /// The connection to it was shut down.
    SHUTDOWN = ESHUTDOWN;
    /// It no longer knows a descriptor.
    BADFD = EBADFD;
    /// It does not respond.
    TIMEDOUT = ETIMEDOUT;
    /// It refuses the connection.
    CONNREFUSED = ECONNREFUSED;
    /// It reset the connection.
    CONNRESET = ECONNRESET;
    /// The connection was aborted on this side.
    CONNABORTED = ECONNABORTED;
    /// Its machine is down.
    HOSTDOWN = EHOSTDOWN;
    /// There is no route to its machine.
    HOSTUNREACH = EHOSTUNREACH;
    /// The network is down.
    NETDOWN = ENETDOWN;
    /// There is no route to its network.
    NETUNREACH = ENETUNREACH;
    /// The network dropped the connection.
    NETRESET = ENETRESET;
}

impl Errno {
    /// Creates the error of a number, as a system call returned it.
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Returns the number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Whether this error means that the daemon or network server behind a file system cannot be
    /// reached. Descriptors that are open then may stay unusable afterwards.
    pub const fn is_away(self) -> bool {
        matches!(
            self,
            Self::NOTCONN
                | Self::SHUTDOWN
                | Self::BADFD
                | Self::TIMEDOUT
                | Self::CONNREFUSED
                | Self::CONNRESET
                | Self::CONNABORTED
                | Self::HOSTDOWN
                | Self::HOSTUNREACH
                | Self::NETDOWN
                | Self::NETUNREACH
                | Self::NETRESET
        )
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
    /// The error number of `error`; [`Errno::IO`] for an error that is not from a system call.
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::IO, Self)
    }
}
