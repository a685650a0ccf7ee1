//! The wire format of MOUNT (RFC 1813 §5.1).

use crate::errno::Errno;
use crate::rpc::program::Outcome;
use crate::xdr::{Encode, Error, Reader, Writer};

/// Longest path, in bytes (`MNTPATHLEN`).
pub const PATH_MAX: usize = 1024;

/// The authentication flavors that MNT announces.
///
/// AUTH_NONE is served, as the anonymous user, but not announced: clients take it to mean that
/// credentials are ignored and any flavor works.
const FLAVORS: [u32; 1] = [AUTH_SYS];
const AUTH_SYS: u32 = 1;

/// The status of a failed MNT (`mountstat3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MountStatus {
    /// The operation is not permitted.
    Perm = 1,
    /// No such export, or no such directory in it.
    NoEnt = 2,
    /// An I/O error.
    Io = 5,
    /// The client has no access to the export.
    Acces = 13,
    /// Not a directory.
    NotDir = 20,
    /// The path is invalid.
    Inval = 22,
    /// The path, or a component, is too long.
    NameTooLong = 63,
    /// The server cannot make handles of this directory.
    NotSupp = 10004,
    /// The server failed for another reason.
    ServerFault = 10006,
}

impl From<Errno> for MountStatus {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PERM => Self::Perm,
            Errno::NOENT | Errno::STALE => Self::NoEnt,
            Errno::IO | Errno::NXIO => Self::Io,
            // A mount point inside the export leads to another file system, which is not exported.
            Errno::ACCES | Errno::XDEV => Self::Acces,
            // A symbolic link loop leads to no directory.
            Errno::NOTDIR | Errno::LOOP => Self::NotDir,
            Errno::INVAL => Self::Inval,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::OPNOTSUPP | Errno::NOSYS => Self::NotSupp,
            _ => Self::ServerFault,
        }
    }
}

/// Decodes the path of MNT without a bound other than the record's: a path that is too long gets a
/// status, not GARBAGE_ARGS.
pub fn any_path<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    r.opaque(r.rest().len())
}

/// The results of MNT (`mountres3`).
pub struct MountReply<H>(pub Result<H, MountStatus>);

impl<H: AsRef<[u8]>> MountReply<H> {
    /// Writes the results.
    pub fn write(&self, out: &mut Writer<'_>) -> Outcome {
        self.encode(out);
        Outcome::Done { status: self.0.as_ref().err().map_or(0, |status| *status as u32) }
    }
}

impl<H: AsRef<[u8]>> Encode for MountReply<H> {
    fn encode(&self, w: &mut Writer<'_>) {
        match &self.0 {
            Ok(handle) => {
                w.u32(0);
                w.opaque(handle.as_ref());
                w.length(FLAVORS.len());
                FLAVORS.into_iter().for_each(|flavor| w.u32(flavor));
            }
            Err(status) => w.u32(*status as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_status() {
        let check = |errno: Errno, number: u32| {
            assert_eq!(MountStatus::from(errno) as u32, number, "{errno:?}");
        };
        check(Errno::PERM, 1);
        check(Errno::NOENT, 2);
        check(Errno::STALE, 2);
        check(Errno::IO, 5);
        check(Errno::ACCES, 13);
        check(Errno::XDEV, 13);
        check(Errno::NOTDIR, 20);
        check(Errno::LOOP, 20);
        check(Errno::INVAL, 22);
        check(Errno::NAMETOOLONG, 63);
        check(Errno::OPNOTSUPP, 10004);
        check(Errno::MFILE, 10006);
        check(Errno::NOMEM, 10006);
    }

    #[test]
    fn results_are_encoded_as_in_the_rfc() {
        let check = |mounted: Result<&[u8], MountStatus>, expected: &[u8]| {
            let mut out = Vec::new();
            MountReply(mounted).encode(&mut Writer::new(&mut out));
            assert_eq!(out, expected);
        };
        check(Ok(b"abcde"), b"\0\0\0\0\0\0\0\x05abcde\0\0\0\0\0\0\x01\0\0\0\x01");
        check(Err(MountStatus::Acces), b"\0\0\0\x0d");
    }
}
