//! What MOUNT has on the wire (RFC 1813 §5.1).

use crate::errno::Errno;
use crate::xdr::{Encode, Error, Reader, Writer};

/// A path may not be longer (`MNTPATHLEN`).
pub const PATH_MAX: usize = 1024;

/// The kinds of credentials by which an export is used.
///
/// AUTH_NONE is not among them although its calls are answered, as nobody's: clients take it for
/// the word that credentials are ignored, and that whichever they prefer will do.
const FLAVORS: [u32; 1] = [AUTH_SYS];
const AUTH_SYS: u32 = 1;

/// Why MNT gives no handle (`mountstat3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Not the owner.
    Perm = 1,
    /// No such export, or no such directory in it.
    NoEnt = 2,
    /// The disk failed.
    Io = 5,
    /// The export is not for this client.
    Acces = 13,
    /// Not a directory.
    NotDir = 20,
    /// The path makes no sense.
    Inval = 22,
    /// The path, or a name in it, is too long.
    NameTooLong = 63,
    /// The server cannot give handles of this directory.
    NotSupp = 10004,
    /// The server failed.
    ServerFault = 10006,
}

impl From<Errno> for Status {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PERM => Self::Perm,
            Errno::NOENT | Errno::STALE => Self::NoEnt,
            Errno::IO | Errno::NXIO => Self::Io,
            // A way out of the export leads to what is not exported.
            Errno::ACCES | Errno::XDEV => Self::Acces,
            // Links that lead to themselves lead to no directory.
            Errno::NOTDIR | Errno::LOOP => Self::NotDir,
            Errno::INVAL => Self::Inval,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::OPNOTSUPP | Errno::NOSYS => Self::NotSupp,
            _ => Self::ServerFault,
        }
    }
}

/// Takes the path of MNT, of any length that has arrived: for too long a path there is a status.
pub fn any_path<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    r.opaque(r.rest().len())
}

/// What MNT answers (`mountres3`).
pub struct Mounted<H>(pub Result<H, Status>);

impl<H: AsRef<[u8]>> Encode for Mounted<H> {
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
    fn errors_become_the_status_that_says_the_same() {
        let check = |errno: Errno, number: u32| {
            assert_eq!(Status::from(errno) as u32, number, "{errno:?}");
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
    fn answers_have_the_form_of_the_standard() {
        let check = |mounted: Result<&[u8], Status>, expected: &[u8]| {
            let mut out = Vec::new();
            Mounted(mounted).encode(&mut Writer::new(&mut out));
            assert_eq!(out, expected);
        };
        check(Ok(b"abcde"), b"\0\0\0\0\0\0\0\x05abcde\0\0\0\0\0\0\x01\0\0\0\x01");
        check(Err(Status::Acces), b"\0\0\0\x0d");
    }
}
