//! Our file handles: what they hold, and how a forged one is told from ours.
//!
//! ```text
//!   0        1      2            10                                  len-8        len <= 64
//!   | version | kind | export id  | what finds the file               | checksum  |
//!                                  kind 1: type (2) and bytes of the file system's own handle
//!                                  kind 2: see super::locate
//!                                  kind 3: number (8) and generation (4) of the file, then as kind 1
//! ```
//!
//! Kind 1 is for file systems that never give a handle to another file
//! ([`crate::sys::filesystem`]). On any other the administrator can ask for kind 3: the file that
//! is opened must have the number and the time of birth that the handle says. Clients keep handles
//! over an upgrade, so no form may change.
//!
//! The checksum is keyed (SipHash-2-4) and covers all that comes before it. The key is made once
//! and kept, so that handles stay good over a restart; the export's id is in it, so that a handle
//! cannot be carried from one export into another on the same file system.

use std::hash::{Hash, Hasher};

use siphasher::sip::{SipHasher13, SipHasher24};

use super::attr::Attr;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::sys::handle::KernelHandle;

/// Longest handle of NFS version 3 (RFC 1813 §2.4, NFS3_FHSIZE).
pub const MAX: usize = 64;

/// Bytes of the key.
pub const KEY_LEN: usize = 16;

/// The id in handles of directories that lie in no export (the pseudo file system of NFSv4). No
/// export has it.
const PSEUDO: ExportId = ExportId(u64::MAX);

const VERSION: u8 = 1;
const KERNEL: u8 = 1;
const PATH: u8 = 2;
const STAMPED: u8 = 3;
const HEADER: usize = 10;
const CHECKSUM: usize = 8;

/// Bytes of a [`Stamp`].
const STAMP: usize = 12;

/// Longest handle of a file system that fits beside a [`Stamp`].
pub(super) const STAMPED_MAX: usize = BODY_MAX - STAMP - size_of::<u16>();

/// Bytes that are left for what finds the file.
pub const BODY_MAX: usize = MAX - HEADER - CHECKSUM;

/// A handle as it goes over the wire. Having one says nothing of whether we made it.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    bytes: [u8; MAX],
    len: u8,
}

/// What a handle that we made says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// The file system's own handle.
    Kernel(KernelHandle),
    /// The same, of a file system that may give it to another file.
    Stamped(Stamp, KernelHandle),
    /// What [`super::locate`] finds the file by.
    Path(&'a [u8]),
}

/// What tells a file from all others of its file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// The file's number.
    pub fileid: u64,
    /// A hash of its time of birth, which tells it from an earlier file with the same number; the
    /// same for all where the file system does not record that time.
    pub generation: u32,
}

/// The bytes cannot be a handle of any Berth: they are too few or too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHandle;

/// The secret with which handles are made and checked.
#[derive(Clone)]
pub struct Key([u8; KEY_LEN]);

impl Stamp {
    /// The stamp of the file that has `attr`.
    pub fn of(attr: &Attr) -> Self {
        let mut hasher = SipHasher13::new();
        attr.born.map(|born| (born.seconds, born.nanoseconds)).hash(&mut hasher);
        #[allow(clippy::cast_possible_truncation)] // a hash, of which half will do
        let generation = hasher.finish() as u32;
        Self { fileid: attr.fileid, generation }
    }

    fn to_bytes(self) -> [u8; STAMP] {
        let mut bytes = [0; STAMP];
        bytes[..8].copy_from_slice(&self.fileid.to_be_bytes());
        bytes[8..].copy_from_slice(&self.generation.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; STAMP]) -> Self {
        let [a, b, c, d, e, f, g, h, generation @ ..] = bytes;
        let fileid = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Self { fileid, generation: u32::from_be_bytes(generation) }
    }
}

/// The file system's type and bytes of a handle.
fn kernel(body: &[u8]) -> Option<KernelHandle> {
    let (kind, bytes) = body.split_first_chunk()?;
    KernelHandle::new(u16::from_be_bytes(*kind), bytes).ok()
}

impl Handle {
    /// Takes the bytes that a client sent.
    ///
    /// # Errors
    /// They do not have the length of a handle. Whether this server made them, [`Key::check`] says.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Self, BadHandle> {
        let fits = (HEADER + CHECKSUM..=MAX).contains(&bytes.len());
        if fits { Ok(Self::from(bytes)) } else { Err(BadHandle) }
    }

    fn from(bytes: &[u8]) -> Self {
        let mut all = [0; MAX];
        all[..bytes.len()].copy_from_slice(bytes);
        let len = u8::try_from(bytes.len()).expect("a handle has at most 64 bytes");
        Self { bytes: all, len }
    }

    /// The export that the handle claims to belong to.
    pub fn export(&self) -> ExportId {
        let (_, rest) = self.bytes.split_at(2);
        ExportId(u64::from_be_bytes(*rest.first_chunk().expect("a handle has a header")))
    }

    /// What finds the file, whoever made the handle.
    pub(super) fn body(&self) -> Option<Body<'_>> {
        let (covered, _) = self.split();
        let (header, body) = covered.split_at(HEADER);
        match (header[0], header[1]) {
            (VERSION, KERNEL) => kernel(body).map(Body::Kernel),
            (VERSION, PATH) => Some(Body::Path(body)),
            (VERSION, STAMPED) => {
                let (stamp, body) = body.split_first_chunk()?;
                Some(Body::Stamped(Stamp::from_bytes(*stamp), kernel(body)?))
            }
            _ => None,
        }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        self.as_ref().split_at(usize::from(self.len) - CHECKSUM)
    }
}

impl AsRef<[u8]> for Handle {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    /// The checksum alone, which is as good as a hash of everything.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.split().1);
    }
}

impl Key {
    /// The key of these random bytes.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Makes the handle of a file in `export`. A kernel handle beside a stamp has at most
    /// [`STAMPED_MAX`] bytes.
    pub fn seal(&self, export: ExportId, body: Body<'_>) -> Handle {
        let mut bytes = [0; MAX];
        bytes[0] = VERSION;
        bytes[2..HEADER].copy_from_slice(&export.0.to_be_bytes());
        let mut len = HEADER;
        let mut append = |part: &[u8]| {
            bytes[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        };
        let kind = match body {
            Body::Kernel(handle) => {
                append(&handle.kind().to_be_bytes());
                append(handle.bytes());
                KERNEL
            }
            Body::Stamped(stamp, handle) => {
                append(&stamp.to_bytes());
                append(&handle.kind().to_be_bytes());
                append(handle.bytes());
                STAMPED
            }
            Body::Path(path) => {
                append(path);
                PATH
            }
        };
        bytes[1] = kind;
        let checksum = self.checksum(&bytes[..len]);
        bytes[len..len + CHECKSUM].copy_from_slice(&checksum);
        Handle::from(&bytes[..len + CHECKSUM])
    }

    /// What finds the file of a handle that was made with this key.
    ///
    /// # Errors
    /// `ESTALE` for any other. A handle of another server, or of a key that is lost, cannot be told
    /// from a forged one, and clients recover from `NFS3ERR_STALE`: they look the file up again,
    /// and a kubelet mounts anew. Linux turns `NFS3ERR_BADHANDLE` into "Unknown error 521".
    pub fn check<'a>(&self, handle: &'a Handle) -> Result<Body<'a>> {
        let (covered, checksum) = handle.split();
        if self.checksum(covered) != checksum {
            return Err(Errno::STALE);
        }
        handle.body().ok_or(Errno::STALE)
    }

    /// Makes the handle of a directory that lies in no export, from its number.
    pub fn seal_pseudo(&self, number: u64) -> Handle {
        self.seal(PSEUDO, Body::Path(&number.to_be_bytes()))
    }

    /// Returns the number in a handle of [`Self::seal_pseudo`]; `None` for any other handle.
    ///
    /// # Errors
    /// `ESTALE` if it was not made with this key.
    pub fn check_pseudo(&self, handle: &Handle) -> Result<Option<u64>> {
        if handle.export() != PSEUDO {
            return Ok(None);
        }
        match self.check(handle)? {
            Body::Path(number) => {
                let number = <[u8; 8]>::try_from(number).map_err(|_| Errno::STALE)?;
                Ok(Some(u64::from_be_bytes(number)))
            }
            Body::Kernel(_) | Body::Stamped(..) => Err(Errno::STALE),
        }
    }

    fn checksum(&self, covered: &[u8]) -> [u8; CHECKSUM] {
        SipHasher24::new_with_key(&self.0).hash(covered).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORT: ExportId = ExportId(0x0102_0304_0506_0708);

    fn key() -> Key {
        Key::new(*b"sixteen bytes!!!")
    }

    fn sealed() -> Handle {
        let kernel = KernelHandle::new(1, b"ino+gen!").unwrap();
        key().seal(EXPORT, Body::Kernel(kernel))
    }

    #[test]
    fn a_directory_in_no_export_has_a_handle_with_its_number() {
        let handle = key().seal_pseudo(7);
        assert_eq!(key().check_pseudo(&handle), Ok(Some(7)));
        assert_eq!(key().check_pseudo(&sealed()), Ok(None));
        let other = Key::new(*b"another sixteen!").seal_pseudo(7);
        assert_eq!(key().check_pseudo(&other), Err(Errno::STALE));
        let body = Body::Path(b"seven b");
        assert_eq!(key().check_pseudo(&key().seal(PSEUDO, body)), Err(Errno::STALE));
    }

    #[test]
    fn a_handle_gives_back_what_it_was_made_of() {
        let kernel = KernelHandle::new(1, b"ino+gen!").unwrap();
        let handle = Handle::parse(sealed().as_ref()).unwrap();
        assert_eq!(handle.as_ref().len(), 28);
        assert_eq!(handle.export(), EXPORT);
        assert_eq!(key().check(&handle), Ok(Body::Kernel(kernel)));
        let path = key().seal(EXPORT, Body::Path(&[7; BODY_MAX]));
        assert_eq!(path.as_ref().len(), MAX);
        assert_eq!(key().check(&path), Ok(Body::Path(&[7; BODY_MAX])));
    }

    #[test]
    fn the_longest_handle_of_a_file_system_fits() {
        let kernel = KernelHandle::new(u16::MAX, &[9; crate::sys::handle::MAX]).unwrap();
        let handle = key().seal(EXPORT, Body::Kernel(kernel));
        assert_eq!(key().check(&handle), Ok(Body::Kernel(kernel)));
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let good = sealed();
        for bit in 0..good.as_ref().len() * 8 {
            let mut bytes = good.as_ref().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let body = Handle::parse(&bytes).map(|handle| key().check(&handle).is_ok());
            assert_eq!(body, Ok(false), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_extension_is_seen() {
        let good = sealed();
        for len in (0..good.as_ref().len()).chain(good.as_ref().len() + 1..70) {
            let mut bytes = good.as_ref().to_vec();
            bytes.resize(len, 0);
            let body = Handle::parse(&bytes).map(|handle| key().check(&handle).is_ok());
            let has_the_length = (HEADER + CHECKSUM..=MAX).contains(&len);
            assert_eq!(
                body,
                if has_the_length { Ok(false) } else { Err(BadHandle) },
                "{len} bytes"
            );
        }
    }

    #[test]
    fn another_key_does_not_know_it() {
        assert_eq!(Key::new([0; KEY_LEN]).check(&sealed()), Err(Errno::STALE));
    }

    #[test]
    fn what_has_the_length_of_a_handle_is_stale_whatever_it_says() {
        for bytes in [vec![0; HEADER + CHECKSUM], vec![0xff; MAX], vec![1; 28]] {
            assert_eq!(key().check(&Handle::parse(&bytes).unwrap()), Err(Errno::STALE));
        }
    }

    #[test]
    fn the_handles_of_earlier_versions_are_known() {
        let kernel = KernelHandle::new(1, b"ino+gen!").unwrap();
        let body = [&[0, 1][..], b"ino+gen!"].concat();
        let covered = [&[1, 1][..], &EXPORT.0.to_be_bytes(), &body].concat();
        let bytes = [&covered[..], &key().checksum(&covered)].concat();
        assert_eq!(bytes, sealed().as_ref());
        assert_eq!(key().check(&Handle::parse(&bytes).unwrap()), Ok(Body::Kernel(kernel)));
    }

    #[test]
    fn a_stamp_goes_with_the_handle_of_its_file() {
        let kernel = KernelHandle::new(0x81, &[9; STAMPED_MAX]).unwrap();
        let stamp = Stamp { fileid: 0x0102_0304_0506_0708, generation: 0x0a0b_0c0d };
        let handle = key().seal(EXPORT, Body::Stamped(stamp, kernel));
        assert_eq!(handle.as_ref().len(), MAX);
        assert_eq!(key().check(&handle), Ok(Body::Stamped(stamp, kernel)));
    }
}
