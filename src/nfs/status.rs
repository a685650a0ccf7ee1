//! The status of each errno. Versions 3 and 4 number the statuses for them alike (RFC 1813 section
//! 2.6, RFC 8881 section 15.1), except that version 4 has none for `ENODEV`.
//!
//! The reaction of clients decides the mapping. On `NFS3ERR_JUKEBOX` (`NFS4ERR_DELAY`) a client
//! retries without limit, regardless of its mount options. Therefore only conditions that end by
//! themselves have that status. The client returns every other status to the application.

use nfsserve::nfs::nfsstat3;

use crate::errno::Errno;
use crate::telemetry::bounded::OFTEN;

/// ENOTSUPP: internal to the kernel, but some file systems return it to user space.
const NOTSUPP: Errno = Errno::new(524);

/// Returns the status for an errno.
pub fn status(errno: Errno) -> nfsstat3 {
    use nfsstat3 as s;
    match errno {
        // The protocol has a status of the same name.
        Errno::PERM => s::NFS3ERR_PERM,
        Errno::NOENT => s::NFS3ERR_NOENT,
        Errno::IO => s::NFS3ERR_IO,
        Errno::NXIO => s::NFS3ERR_NXIO,
        Errno::ACCES => s::NFS3ERR_ACCES,
        Errno::EXIST => s::NFS3ERR_EXIST,
        Errno::XDEV => s::NFS3ERR_XDEV,
        Errno::NODEV => s::NFS3ERR_NODEV,
        Errno::NOTDIR => s::NFS3ERR_NOTDIR,
        Errno::ISDIR => s::NFS3ERR_ISDIR,
        Errno::INVAL => s::NFS3ERR_INVAL,
        Errno::FBIG => s::NFS3ERR_FBIG,
        Errno::NOSPC => s::NFS3ERR_NOSPC,
        Errno::ROFS => s::NFS3ERR_ROFS,
        Errno::MLINK => s::NFS3ERR_MLINK,
        Errno::NAMETOOLONG => s::NFS3ERR_NAMETOOLONG,
        Errno::NOTEMPTY => s::NFS3ERR_NOTEMPTY,
        Errno::DQUOT => s::NFS3ERR_DQUOT,
        Errno::STALE => s::NFS3ERR_STALE,
        Errno::OPNOTSUPP | Errno::NOSYS | NOTSUPP => s::NFS3ERR_NOTSUPP,
        // In use: a mount point, a running program, a swap file. This ends only by someone's
        // action, so the application has to see an error. Linux' server returns the same for a
        // mount point.
        Errno::BUSY | Errno::TXTBSY => s::NFS3ERR_ACCES,
        // An encrypted directory without its key.
        Errno::NOKEY | Errno::KEYEXPIRED | Errno::KEYREVOKED | Errno::KEYREJECTED => {
            s::NFS3ERR_PERM
        }
        // A name or a number that the file system rejects.
        Errno::LOOP | Errno::ILSEQ | Errno::TOOBIG | Errno::DOM | Errno::RANGE => s::NFS3ERR_INVAL,
        Errno::OVERFLOW => s::NFS3ERR_FBIG,
        Errno::NOMEDIUM => s::NFS3ERR_NXIO,
        // Damage of the disk, of its contents, or of the path to it.
        Errno::UCLEAN
        | Errno::BADMSG
        | Errno::NODATA
        | Errno::TIME
        | Errno::NOLINK
        | Errno::BADE
        | Errno::REMOTEIO
        | Errno::PROTO
        | Errno::PIPE
        | Errno::CANCELED
        | Errno::HWPOISON => s::NFS3ERR_IO,
        // The server temporarily lacks memory or descriptors, or was interrupted.
        Errno::AGAIN
        | Errno::INTR
        | Errno::RESTART
        | Errno::DEADLK
        | Errno::NOMEM
        | Errno::NOBUFS
        | Errno::MFILE
        | Errno::NFILE => s::NFS3ERR_JUKEBOX,
        // The file system is temporarily unreachable. Clients retry, as if the server itself were.
        errno if errno.is_away() => s::NFS3ERR_JUKEBOX,
        // No file system call should return these: a bug of this server, or a gap in this table.
        errno => {
            tracing::warn!(name: OFTEN, error = %errno, "errno without an NFS status");
            s::NFS3ERR_SERVERFAULT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfsstat3 as s;

    /// The errnos of each status, by their numbers on this platform.
    const EXPECTED: &[(nfsstat3, &[i32])] = &[
        (s::NFS3ERR_PERM, &[libc::EPERM, libc::ENOKEY, libc::EKEYEXPIRED, libc::EKEYREVOKED]),
        (s::NFS3ERR_PERM, &[libc::EKEYREJECTED]),
        (s::NFS3ERR_NOENT, &[libc::ENOENT]),
        (s::NFS3ERR_IO, &[libc::EIO, libc::EUCLEAN, libc::EBADMSG, libc::ENODATA, libc::ETIME]),
        (s::NFS3ERR_IO, &[libc::ENOLINK, libc::EBADE, libc::EREMOTEIO, libc::EPROTO, libc::EPIPE]),
        (s::NFS3ERR_IO, &[libc::ECANCELED, libc::EHWPOISON]),
        (s::NFS3ERR_NXIO, &[libc::ENXIO, libc::ENOMEDIUM]),
        (s::NFS3ERR_ACCES, &[libc::EACCES, libc::EBUSY, libc::ETXTBSY]),
        (s::NFS3ERR_EXIST, &[libc::EEXIST]),
        (s::NFS3ERR_XDEV, &[libc::EXDEV]),
        (s::NFS3ERR_NODEV, &[libc::ENODEV]),
        (s::NFS3ERR_NOTDIR, &[libc::ENOTDIR]),
        (s::NFS3ERR_ISDIR, &[libc::EISDIR]),
        (s::NFS3ERR_INVAL, &[libc::EINVAL, libc::ELOOP, libc::EILSEQ, libc::E2BIG, libc::EDOM]),
        (s::NFS3ERR_INVAL, &[libc::ERANGE]),
        (s::NFS3ERR_FBIG, &[libc::EFBIG, libc::EOVERFLOW]),
        (s::NFS3ERR_NOSPC, &[libc::ENOSPC]),
        (s::NFS3ERR_ROFS, &[libc::EROFS]),
        (s::NFS3ERR_MLINK, &[libc::EMLINK]),
        (s::NFS3ERR_NAMETOOLONG, &[libc::ENAMETOOLONG]),
        (s::NFS3ERR_NOTEMPTY, &[libc::ENOTEMPTY]),
        (s::NFS3ERR_DQUOT, &[libc::EDQUOT]),
        (s::NFS3ERR_STALE, &[libc::ESTALE]),
        (s::NFS3ERR_NOTSUPP, &[libc::EOPNOTSUPP, libc::ENOSYS, 524]),
        // These conditions end by themselves.
        (s::NFS3ERR_JUKEBOX, &[libc::EAGAIN, libc::EINTR, libc::ERESTART, libc::EDEADLK]),
        (s::NFS3ERR_JUKEBOX, &[libc::ENOMEM, libc::ENOBUFS, libc::EMFILE, libc::ENFILE]),
        // These end when the file system is reachable again.
        (s::NFS3ERR_JUKEBOX, &[libc::ENOTCONN, libc::ESHUTDOWN, libc::EBADFD, libc::ETIMEDOUT]),
        (s::NFS3ERR_JUKEBOX, &[libc::ECONNREFUSED, libc::ECONNRESET, libc::ECONNABORTED]),
        (s::NFS3ERR_JUKEBOX, &[libc::EHOSTDOWN, libc::EHOSTUNREACH, libc::ENETDOWN]),
        (s::NFS3ERR_JUKEBOX, &[libc::ENETUNREACH, libc::ENETRESET]),
    ];

    #[test]
    fn every_errno_has_the_status_in_the_table() {
        for number in 1..1024 {
            let named = EXPECTED.iter().find(|(_, numbers)| numbers.contains(&number));
            let expected = named.map_or(s::NFS3ERR_SERVERFAULT, |(status, _)| *status);
            let got = status(Errno::new(number));
            assert_eq!(got as u32, expected as u32, "{}", Errno::new(number));
        }
    }

    #[test]
    fn no_errno_is_listed_twice() {
        let mut all: Vec<_> = EXPECTED.iter().flat_map(|(_, numbers)| *numbers).collect();
        let named = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), named);
    }
}
