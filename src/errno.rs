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
    /// Arguments are too long.
    TOOBIG = E2BIG;
    /// An argument is out of the domain.
    DOM = EDOM;
    /// A result is out of the range.
    RANGE = ERANGE;
    /// A name is not in the encoding that the file system wants.
    ILSEQ = EILSEQ;
    /// There is no medium in the device.
    NOMEDIUM = ENOMEDIUM;
    /// The key of an encrypted directory is not there.
    NOKEY = ENOKEY;
    /// The key has expired.
    KEYEXPIRED = EKEYEXPIRED;
    /// The key was revoked.
    KEYREVOKED = EKEYREVOKED;
    /// The key was refused.
    KEYREJECTED = EKEYREJECTED;
    /// The structure on the disk is damaged.
    UCLEAN = EUCLEAN;
    /// A checksum on the disk is wrong.
    BADMSG = EBADMSG;
    /// A device cannot give the data.
    NODATA = ENODATA;
    /// A device does not answer in time.
    TIME = ETIME;
    /// The link to a device is cut.
    NOLINK = ENOLINK;
    /// A device refuses who asks.
    BADE = EBADE;
    /// The error of another machine.
    REMOTEIO = EREMOTEIO;
    /// Another machine does not keep to the protocol.
    PROTO = EPROTO;
    /// Nobody reads any more.
    PIPE = EPIPE;
    /// What was begun was given up.
    CANCELED = ECANCELED;
    /// The memory with the data is damaged.
    HWPOISON = EHWPOISON;
    /// Two wait for each other.
    DEADLK = EDEADLK;
    /// No buffers.
    NOBUFS = ENOBUFS;
    /// To be tried again.
    RESTART = ERESTART;
    /// The daemon or server behind the file system is not connected.
    NOTCONN = ENOTCONN;
    /// It has shut this client out, or ended.
    SHUTDOWN = ESHUTDOWN;
    /// A descriptor that it does not know any more.
    BADFD = EBADFD;
    /// It does not answer.
    TIMEDOUT = ETIMEDOUT;
    /// It refuses the connection.
    CONNREFUSED = ECONNREFUSED;
    /// It has cut the connection.
    CONNRESET = ECONNRESET;
    /// The connection was cut here.
    CONNABORTED = ECONNABORTED;
    /// Its machine is down.
    HOSTDOWN = EHOSTDOWN;
    /// No way to its machine.
    HOSTUNREACH = EHOSTUNREACH;
    /// The network is down.
    NETDOWN = ENETDOWN;
    /// No way to its network.
    NETUNREACH = ENETUNREACH;
    /// The network has dropped the connection.
    NETRESET = ENETRESET;
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

    /// Whether a file system says so while the daemon, or the server on the network, that it gets its
    /// files from cannot be reached. Descriptors that were opened before may not work afterwards.
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
    /// The errno behind `error`; [`Errno::IO`] for an error that no system call gave.
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or(Self::IO, Self)
    }
}
