//! Our file handles: what they hold, and how a forged one is told from ours.
//!
//! ```text
//!   0        1      2            10                                  len-8        len <= 64
//!   | version | kind | export id  | what finds the file               | checksum  |
//!                                  kind 1: type (2) and bytes of the file system's own handle
//!                                  kind 2: see super::locate
//! ```
//!
//! The checksum is keyed (SipHash-2-4) and covers all that comes before it. The key is made once
//! and kept, so that handles stay good over a restart; the export's id is in it, so that a handle
//! cannot be carried from one export into another on the same file system.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher24;

use crate::export::ExportId;
use crate::sys::handle::KernelHandle;

/// Longest handle of NFS version 3 (RFC 1813 §2.4, NFS3_FHSIZE).
pub const MAX: usize = 64;

/// Bytes of the key.
pub const KEY_LEN: usize = 16;

const VERSION: u8 = 1;
const KERNEL: u8 = 1;
const PATH: u8 = 2;
const HEADER: usize = 10;
const CHECKSUM: usize = 8;

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
    /// What [`super::locate`] finds the file by.
    Path(&'a [u8]),
}

/// The bytes are no handle of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHandle;

/// The secret with which handles are made and checked.
#[derive(Clone)]
pub struct Key([u8; KEY_LEN]);

impl Handle {
    /// Takes the bytes that a client sent.
    ///
    /// # Errors
    /// They do not have the form of our handles. Whether we made them, [`Key::check`] says.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadHandle> {
        let form = (HEADER + CHECKSUM..=MAX).contains(&bytes.len())
            && bytes[0] == VERSION
            && matches!(bytes[1], KERNEL | PATH);
        if form { Ok(Self::from(bytes)) } else { Err(BadHandle) }
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
        let body = &covered[HEADER..];
        if covered[1] == PATH {
            return Some(Body::Path(body));
        }
        let (kind, bytes) = body.split_first_chunk()?;
        KernelHandle::new(u16::from_be_bytes(*kind), bytes).ok().map(Body::Kernel)
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

    /// Makes the handle of a file in `export`.
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

    /// What finds the file of a handle, if we made that.
    ///
    /// # Errors
    /// We did not: it is forged, or of another server, or of a key that is lost.
    pub fn check<'a>(&self, handle: &'a Handle) -> Result<Body<'a>, BadHandle> {
        let (covered, checksum) = handle.split();
        if self.checksum(covered) != checksum {
            return Err(BadHandle);
        }
        handle.body().ok_or(BadHandle)
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
            assert!(matches!(body, Err(BadHandle) | Ok(false)), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_extension_is_seen() {
        let good = sealed();
        for len in (0..good.as_ref().len()).chain(good.as_ref().len() + 1..70) {
            let mut bytes = good.as_ref().to_vec();
            bytes.resize(len, 0);
            let body = Handle::parse(&bytes).map(|handle| key().check(&handle).is_ok());
            assert!(matches!(body, Err(BadHandle) | Ok(false)), "{len} bytes");
        }
    }

    #[test]
    fn another_key_does_not_know_it() {
        assert_eq!(Key::new([0; KEY_LEN]).check(&sealed()), Err(BadHandle));
    }
}
