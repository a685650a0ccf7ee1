//! Attributes that clients read: GETATTR, READDIR, VERIFY and NVERIFY.

use std::fmt::Write as _;

use super::bitmap::Bitmap;
use super::number as n;
use crate::fs::attr::{Attr, FileKind, Time};
use crate::fs::info::{Limits, Space};
use crate::nfs::core::TRANSFER_MAX;
use crate::xdr::{Encode, Writer};

/// The attributes of minor version 1.
const MINOR_1: Bitmap = Bitmap::of(&[
    n::SUPPORTED_ATTRS,
    n::TYPE,
    n::FH_EXPIRE_TYPE,
    n::CHANGE,
    n::SIZE,
    n::LINK_SUPPORT,
    n::SYMLINK_SUPPORT,
    n::NAMED_ATTR,
    n::FSID,
    n::UNIQUE_HANDLES,
    n::LEASE_TIME,
    n::RDATTR_ERROR,
    n::ACLSUPPORT,
    n::CANSETTIME,
    n::CASE_INSENSITIVE,
    n::CASE_PRESERVING,
    n::CHOWN_RESTRICTED,
    n::FILEHANDLE,
    n::FILEID,
    n::FILES_AVAIL,
    n::FILES_FREE,
    n::FILES_TOTAL,
    n::HOMOGENEOUS,
    n::MAXFILESIZE,
    n::MAXLINK,
    n::MAXNAME,
    n::MAXREAD,
    n::MAXWRITE,
    n::MODE,
    n::NO_TRUNC,
    n::NUMLINKS,
    n::OWNER,
    n::OWNER_GROUP,
    n::RAWDEV,
    n::SPACE_AVAIL,
    n::SPACE_FREE,
    n::SPACE_TOTAL,
    n::SPACE_USED,
    n::TIME_ACCESS,
    n::TIME_ACCESS_SET,
    n::TIME_CREATE,
    n::TIME_DELTA,
    n::TIME_METADATA,
    n::TIME_MODIFY,
    n::TIME_MODIFY_SET,
    n::MOUNTED_ON_FILEID,
    n::SUPPATTR_EXCLCREAT,
]);

/// The attributes that minor version 2 adds.
const ADDED_BY_MINOR_2: [u32; 4] =
    [n::CLONE_BLKSIZE, n::CHANGE_ATTR_TYPE, n::MODE_UMASK, n::XATTR_SUPPORT];

/// The attributes that can only be set.
pub const WRITE_ONLY: Bitmap = Bitmap::of(&[n::TIME_ACCESS_SET, n::TIME_MODIFY_SET, n::MODE_UMASK]);

/// The attributes that need [`FileAttrs::space`].
pub const NEEDS_SPACE: Bitmap = Bitmap::of(&[
    n::FILES_AVAIL,
    n::FILES_FREE,
    n::FILES_TOTAL,
    n::SPACE_AVAIL,
    n::SPACE_FREE,
    n::SPACE_TOTAL,
]);

/// The attributes that need [`FileAttrs::limits`].
pub const NEEDS_LIMITS: Bitmap = Bitmap::of(&[n::MAXLINK, n::MAXNAME]);

/// The attributes that an exclusive OPEN can set: its verifier is kept in the times.
const EXCLUSIVE_CREATE: Bitmap =
    Bitmap::of(&[n::SIZE, n::MODE, n::OWNER, n::OWNER_GROUP, n::MODE_UMASK]);

/// A handle never expires (FH4_PERSISTENT).
const PERSISTENT: u32 = 0;

/// `NFS4_CHANGE_TYPE_IS_TIME_METADATA`: the change attribute comes from the time of the last
/// change.
const CHANGE_IS_TIME_METADATA: u32 = 3;

/// What FICLONE copies in one piece, in bytes: a block of nearly every file system.
const CLONE_BLOCK: u32 = 4096;

/// The attributes of a file, from which any of the supported ones are encoded.
#[derive(Clone, Copy, Debug)]
pub struct FileAttrs<'a> {
    /// The file's own attributes, as the export shows them.
    pub attr: Attr,
    /// Its handle.
    pub handle: &'a [u8],
    /// The file system: the id of the export, or 0 for the pseudo file system.
    pub fsid: u64,
    /// The change attribute.
    pub change: u64,
    /// The inode number of the directory that the root of an export covers in the pseudo file
    /// system; for every other file its own.
    pub mounted_on: u64,
    /// The lease time, in seconds.
    pub lease: u32,
    /// The room of the file system, if it is asked for and known.
    pub space: Option<Space>,
    /// The limits of the file system, if they are asked for and known.
    pub limits: Option<Limits>,
}

/// Returns the attributes that a minor version supports.
pub const fn supported(minor: u32) -> Bitmap {
    let mut all = MINOR_1;
    if minor >= 2 {
        let mut index = 0;
        while index < ADDED_BY_MINOR_2.len() {
            all.add(ADDED_BY_MINOR_2[index]);
            index += 1;
        }
    }
    all
}

/// Encodes an `fattr4` with the attributes of `wanted` that are supported and known.
pub fn encode(file: &FileAttrs<'_>, wanted: Bitmap, minor: u32, w: &mut Writer<'_>) {
    //= RFC 8881 18.7.3: attributes that are not supported are left out
    let mut found = Bitmap::default();
    for attribute in wanted.and(supported(minor)).iter() {
        if !WRITE_ONLY.has(attribute) && file.knows(attribute) {
            found.add(attribute);
        }
    }
    found.encode(w);
    let length = w.hole();
    let values = w.mark();
    for attribute in found.iter() {
        file.encode_value(attribute, minor, w);
    }
    w.fill(length, u32::try_from(w.since(values)).unwrap_or(u32::MAX));
}

impl FileAttrs<'_> {
    fn knows(&self, attribute: u32) -> bool {
        match attribute {
            n::TIME_CREATE => self.attr.born.is_some(),
            attribute if NEEDS_SPACE.has(attribute) => self.space.is_some(),
            attribute if NEEDS_LIMITS.has(attribute) => self.limits.is_some(),
            _ => true,
        }
    }

    fn encode_value(&self, attribute: u32, minor: u32, w: &mut Writer<'_>) {
        let attr = &self.attr;
        match attribute {
            n::SUPPORTED_ATTRS => supported(minor).encode(w),
            n::TYPE => w.u32(kind(attr.kind)),
            n::FH_EXPIRE_TYPE => w.u32(PERSISTENT),
            n::CHANGE => w.u64(self.change),
            n::SIZE => w.u64(attr.size),
            n::LINK_SUPPORT
            | n::SYMLINK_SUPPORT
            | n::UNIQUE_HANDLES
            | n::CANSETTIME
            | n::CASE_PRESERVING
            | n::CHOWN_RESTRICTED
            | n::HOMOGENEOUS
            | n::NO_TRUNC
            | n::XATTR_SUPPORT => w.bool(true),
            n::NAMED_ATTR | n::CASE_INSENSITIVE => w.bool(false),
            n::FSID => {
                w.u64(self.fsid);
                w.u64(0);
            }
            n::LEASE_TIME => w.u32(self.lease),
            n::RDATTR_ERROR | n::ACLSUPPORT => w.u32(0),
            n::FILEHANDLE => w.opaque(self.handle),
            n::FILEID => w.u64(attr.fileid),
            n::MAXFILESIZE => w.u64(i64::MAX.unsigned_abs()),
            n::MAXREAD | n::MAXWRITE => w.u64(TRANSFER_MAX.into()),
            n::MODE => w.u32(attr.mode),
            n::NUMLINKS => w.u32(attr.links),
            n::OWNER => owner(attr.uid, w),
            n::OWNER_GROUP => owner(attr.gid, w),
            n::RAWDEV => {
                w.u32(attr.device.0);
                w.u32(attr.device.1);
            }
            n::SPACE_USED => w.u64(attr.used),
            n::TIME_ACCESS => time(attr.accessed, w),
            n::TIME_CREATE => time(attr.born.unwrap_or(attr.changed), w),
            n::TIME_DELTA => time(Time { seconds: 0, nanoseconds: 1 }, w),
            n::TIME_METADATA => time(attr.changed, w),
            n::TIME_MODIFY => time(attr.modified, w),
            n::MOUNTED_ON_FILEID => w.u64(self.mounted_on),
            n::SUPPATTR_EXCLCREAT => EXCLUSIVE_CREATE.and(supported(minor)).encode(w),
            n::CLONE_BLKSIZE => w.u32(CLONE_BLOCK),
            n::CHANGE_ATTR_TYPE => w.u32(CHANGE_IS_TIME_METADATA),
            _ => self.encode_amount(attribute, w),
        }
    }

    /// Encodes what the file system says of itself.
    fn encode_amount(&self, attribute: u32, w: &mut Writer<'_>) {
        if let Some(limits) = &self.limits {
            match attribute {
                n::MAXLINK => return w.u32(limits.links),
                n::MAXNAME => return w.u32(limits.name),
                _ => {}
            }
        }
        let Some(Space { bytes, inodes }) = &self.space else { return };
        match attribute {
            n::FILES_AVAIL => w.u64(inodes.available),
            n::FILES_FREE => w.u64(inodes.free),
            n::FILES_TOTAL => w.u64(inodes.total),
            n::SPACE_AVAIL => w.u64(bytes.available),
            n::SPACE_FREE => w.u64(bytes.free),
            n::SPACE_TOTAL => w.u64(bytes.total),
            _ => {}
        }
    }
}

/// `nfs_ftype4`
pub const fn kind(kind: FileKind) -> u32 {
    match kind {
        FileKind::Regular => 1,
        FileKind::Directory => 2,
        FileKind::Block => 3,
        FileKind::Character => 4,
        FileKind::Symlink => 5,
        FileKind::Socket => 6,
        FileKind::Fifo => 7,
    }
}

fn owner(id: u32, w: &mut Writer<'_>) {
    // At most ten digits: no allocation for each file of a directory.
    let mut text = Digits::default();
    let _ = write!(text, "{id}");
    w.opaque(&text.bytes[..text.len]);
}

/// The digits of a number.
#[derive(Default)]
struct Digits {
    bytes: [u8; 10],
    len: usize,
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// `nfstime4`
fn time(time: Time, w: &mut Writer<'_>) {
    w.u64(time.seconds.cast_unsigned());
    w.u32(time.nanoseconds);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::info::Amount;
    use crate::xdr::{Decode, Reader};

    fn attr() -> Attr {
        let time = |seconds| Time { seconds, nanoseconds: 5 };
        Attr {
            kind: FileKind::Regular,
            mode: 0o640,
            links: 2,
            uid: 1000,
            gid: u32::MAX - 1,
            size: 7,
            used: 4096,
            device: (0, 0),
            fileid: 42,
            filesystem: (8, 1),
            born: None,
            accessed: time(-1),
            modified: time(2),
            changed: time(3),
        }
    }

    fn file() -> FileAttrs<'static> {
        let (space, limits) = (None, None);
        let (fsid, change, mounted_on, lease) = (9, 77, 42, 90);
        FileAttrs { attr: attr(), handle: b"hd", fsid, change, mounted_on, lease, space, limits }
    }

    /// The attributes in the results, and their values.
    fn encoded(file: &FileAttrs<'_>, wanted: &[u32], minor: u32) -> (Vec<u32>, Vec<u8>) {
        let mut bytes = Vec::new();
        encode(file, Bitmap::of(wanted), minor, &mut Writer::new(&mut bytes));
        let mut r = Reader::new(&bytes);
        let found = Bitmap::decode(&mut r).unwrap();
        let values = r.opaque(usize::MAX).unwrap().to_vec();
        assert!(r.rest().is_empty());
        (found.iter().collect(), values)
    }

    #[test]
    fn values_stand_in_the_order_of_the_numbers() {
        let (found, values) = encoded(&file(), &[n::OWNER, n::SIZE, n::TYPE, n::TIME_ACCESS], 1);
        assert_eq!(found, [n::TYPE, n::SIZE, n::OWNER, n::TIME_ACCESS]);
        let mut r = Reader::new(&values);
        assert_eq!((r.u32(), r.u64(), r.opaque(10)), (Ok(1), Ok(7), Ok(&b"1000"[..])));
        assert_eq!((r.u64().map(u64::cast_signed), r.u32()), (Ok(-1), Ok(5)));
        assert!(r.rest().is_empty());
    }

    #[test]
    fn what_is_not_supported_or_not_known_is_left_out() {
        let unknown = [n::TIME_CREATE, n::SPACE_FREE, n::MAXNAME, 12, n::TIME_MODIFY_SET];
        assert_eq!(encoded(&file(), &unknown, 2).0, Vec::<u32>::new());
        let all = |total| Amount { total, free: total - 1, available: total - 2 };
        let known = FileAttrs {
            space: Some(Space { bytes: all(100), inodes: all(10) }),
            limits: Some(Limits { links: 8, name: 255 }),
            ..file()
        };
        let (found, values) = encoded(&known, &[n::SPACE_FREE, n::FILES_AVAIL, n::MAXNAME], 2);
        assert_eq!(found, [n::FILES_AVAIL, n::MAXNAME, n::SPACE_FREE]);
        let mut r = Reader::new(&values);
        assert_eq!((r.u64(), r.u32(), r.u64()), (Ok(8), Ok(255), Ok(99)));
    }

    #[test]
    fn a_minor_version_has_its_own_attributes() {
        for (minor, has) in [(1, false), (2, true)] {
            assert_eq!(encoded(&file(), &[n::XATTR_SUPPORT], minor).0.len(), usize::from(has));
            let (_, values) = encoded(&file(), &[n::SUPPORTED_ATTRS], minor);
            let supported = Bitmap::decode(&mut Reader::new(&values)).unwrap();
            assert_eq!(supported.has(n::MODE_UMASK), has);
            assert!(!supported.has(12), "there are no ACLs");
        }
    }

    #[test]
    fn every_supported_attribute_has_a_value() {
        let all = |total| Amount { total, free: total, available: total };
        let known = FileAttrs {
            attr: Attr { born: Some(attr().changed), ..attr() },
            space: Some(Space { bytes: all(1), inodes: all(1) }),
            limits: Some(Limits { links: 8, name: 255 }),
            ..file()
        };
        for attribute in supported(2).iter().filter(|attribute| !WRITE_ONLY.has(*attribute)) {
            let (found, values) = encoded(&known, &[attribute], 2);
            assert_eq!(found, [attribute]);
            assert!(!values.is_empty(), "attribute {attribute}");
        }
    }
}
