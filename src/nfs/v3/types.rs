//! Wire types that several procedures use (RFC 1813 §2.5, §2.6).

use nfsserve::nfs::ftype3;

use crate::fs::attr::{Attr, Changes, FileKind, SetTime, Time};
use crate::fs::handle::{self, Handle};
use crate::nfs::context::{Fh, Object, Transition, View};
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// Longest name that is decoded, in bytes. A longer name than the file system allows gets a status,
/// which tells the client more than GARBAGE_ARGS.
const NAME_READ_MAX: usize = 4096;

/// Longest target of a symbolic link that is decoded, in bytes.
const PATH_READ_MAX: usize = 65536;

/// Size of `fattr3`, in bytes.
const FATTR_LEN: usize = 84;

impl<'a> Decode<'a> for Fh<'a> {
    /// Decodes an `nfs_fh3`.
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        r.opaque(handle::MAX).map(Self)
    }
}

/// `diropargs3`: a name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirOp<'a> {
    /// The directory.
    pub dir: Fh<'a>,
    /// The name, unchecked.
    pub name: &'a [u8],
}

impl<'a> Decode<'a> for DirOp<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { dir: Fh::decode(r)?, name: r.opaque(NAME_READ_MAX)? })
    }
}

/// Decodes an `nfspath3`, unchecked.
pub fn path<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    r.opaque(PATH_READ_MAX)
}

impl Encode for Handle {
    fn encode(&self, w: &mut Writer<'_>) {
        w.opaque(self.as_ref());
    }
}

/// Returns the seconds of an `nfstime3`, an unsigned 32-bit number. Times outside its range wrap;
/// other servers do the same, and clients undo it.
pub fn wire_seconds(time: Time) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // the format has no more
    let seconds = time.seconds as u32;
    seconds
}

/// Decodes an `nfstime3`. The upper half of the range is ambiguous: some clients send times before
/// 1970 there, others times after 2038. They are taken for the latter, as the RFC says.
pub fn time(r: &mut Reader<'_>) -> Result<Time, Error> {
    let (seconds, nanoseconds) = (r.u32()?, r.u32()?);
    if nanoseconds < 1_000_000_000 {
        Ok(Time { seconds: seconds.into(), nanoseconds })
    } else {
        Err(Error::Unknown)
    }
}

impl<'a> Decode<'a> for Changes {
    /// Decodes a `sattr3`.
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self {
            mode: r.option(Reader::u32)?,
            uid: r.option(Reader::u32)?,
            gid: r.option(Reader::u32)?,
            size: r.option(Reader::u64)?,
            accessed: set_time(r)?,
            modified: set_time(r)?,
        })
    }
}

fn set_time(r: &mut Reader<'_>) -> Result<SetTime, Error> {
    match r.u32()? {
        0 => Ok(SetTime::Keep),
        1 => Ok(SetTime::Now),
        2 => time(r).map(SetTime::To),
        _ => Err(Error::Unknown),
    }
}

/// `fattr3`: the attributes of a file. Its fsid is the export's id.
#[derive(Clone, Copy, Debug)]
pub struct Fattr {
    /// The attributes.
    pub attr: Attr,
    /// The export's id.
    pub fsid: u64,
}

impl Fattr {
    /// Returns the attributes of a file, as the export of `object` presents them.
    pub const fn of(object: &Object<'_>, attr: Attr) -> Self {
        Self::new(object.view(), attr)
    }

    /// Returns the attributes of a file, as an export presents them.
    pub const fn new(view: View, attr: Attr) -> Self {
        Self { attr: view.of(attr), fsid: view.fsid }
    }
}

impl Encode for Fattr {
    fn encode(&self, w: &mut Writer<'_>) {
        // Encode into an array first: one copy into the reply instead of twenty.
        let attr = &self.attr;
        let mut words = [0; FATTR_LEN / 4];
        let two = |value: u64| [(value >> 32) as u32, (value & 0xffff_ffff) as u32];
        let time = |time: Time| [wire_seconds(time), time.nanoseconds];
        words[..5].copy_from_slice(&[
            ftype(attr.kind) as u32,
            attr.mode,
            attr.links,
            attr.uid,
            attr.gid,
        ]);
        words[5..7].copy_from_slice(&two(attr.size));
        words[7..9].copy_from_slice(&two(attr.used));
        words[9..11].copy_from_slice(&[attr.device.0, attr.device.1]);
        words[11..13].copy_from_slice(&two(self.fsid));
        words[13..15].copy_from_slice(&two(attr.fileid));
        words[15..17].copy_from_slice(&time(attr.accessed));
        words[17..19].copy_from_slice(&time(attr.modified));
        words[19..21].copy_from_slice(&time(attr.changed));
        let mut bytes = [0; FATTR_LEN];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        w.fixed(&bytes);
    }
}

const fn ftype(kind: FileKind) -> ftype3 {
    match kind {
        FileKind::Regular => ftype3::NF3REG,
        FileKind::Directory => ftype3::NF3DIR,
        FileKind::Block => ftype3::NF3BLK,
        FileKind::Character => ftype3::NF3CHR,
        FileKind::Symlink => ftype3::NF3LNK,
        FileKind::Socket => ftype3::NF3SOCK,
        FileKind::Fifo => ftype3::NF3FIFO,
    }
}

/// `post_op_attr`: attributes, if they could be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostOp(pub Option<Fattr>);

impl PostOp {
    /// Returns the current attributes of a file, if they can be read.
    pub fn of(object: &Object<'_>) -> Self {
        Self(object.node.attr().ok().map(|attr| Fattr::of(object, attr)))
    }
}

impl Encode for PostOp {
    fn encode(&self, w: &mut Writer<'_>) {
        w.option(self.0.as_ref());
    }
}

/// `wcc_data`, weak cache consistency data: attributes before and after a change. They show a
/// client whether another client changed the file, too.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wcc {
    /// Attributes before the change, read under the same lock.
    pub before: Option<Attr>,
    /// Attributes after the change.
    pub after: PostOp,
}

impl Wcc {
    /// Returns the attributes of a file before and after a change, as its export presents them.
    pub fn of(object: &Object<'_>, Transition { before, after }: Transition) -> Self {
        let after = PostOp(after.map(|attr| Fattr::of(object, attr)));
        Self { before: Some(before), after }
    }
}

impl Encode for Wcc {
    fn encode(&self, w: &mut Writer<'_>) {
        w.bool(self.before.is_some());
        if let Some(before) = &self.before {
            w.u64(before.size);
            for time in [before.modified, before.changed] {
                w.u32(wire_seconds(time));
                w.u32(time.nanoseconds);
            }
        }
        self.after.encode(w);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nfsserve::nfs;
    use nfsserve::xdr::XDR;

    fn attr() -> Attr {
        let time = |seconds| Time { seconds, nanoseconds: 999_999_999 };
        Attr {
            kind: FileKind::Character,
            mode: 0o4755,
            links: 3,
            uid: 1000,
            gid: 100,
            size: 0x0102_0304_0506_0708,
            used: 4096,
            device: (8, 1),
            fileid: u64::MAX - 1,
            filesystem: (8, 1),
            born: None,
            accessed: time(1),
            modified: time(i64::from(u32::MAX)),
            changed: time(3),
        }
    }

    fn encoded(value: &impl Encode) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut Writer::new(&mut out));
        out
    }

    fn theirs(value: &impl XDR) -> Vec<u8> {
        let mut out = Vec::new();
        value.serialize(&mut out).unwrap();
        out
    }

    fn their_time(time: Time) -> nfs::nfstime3 {
        nfs::nfstime3 { seconds: wire_seconds(time), nseconds: time.nanoseconds }
    }

    fn their_attr() -> nfs::fattr3 {
        let attr = attr();
        nfs::fattr3 {
            ftype: ftype3::NF3CHR,
            mode: attr.mode,
            nlink: attr.links,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            used: attr.used,
            rdev: nfs::specdata3 { specdata1: 8, specdata2: 1 },
            fsid: 77,
            fileid: attr.fileid,
            atime: their_time(attr.accessed),
            mtime: their_time(attr.modified),
            ctime: their_time(attr.changed),
        }
    }

    #[test]
    fn attributes_encode_as_in_nfsserve() {
        let ours = Fattr { attr: attr(), fsid: 77 };
        assert_eq!(encoded(&ours), theirs(&their_attr()));
        let post_op = theirs(&nfs::post_op_attr::attributes(their_attr()));
        assert_eq!(encoded(&PostOp(Some(ours))), post_op);
        assert_eq!(encoded(&PostOp(None)), theirs(&nfs::post_op_attr::Void));
    }

    #[test]
    fn weak_cache_consistency_data_encodes_as_in_nfsserve() {
        let ours =
            Wcc { before: Some(attr()), after: PostOp(Some(Fattr { attr: attr(), fsid: 77 })) };
        let before = nfs::wcc_attr {
            size: attr().size,
            mtime: their_time(attr().modified),
            ctime: their_time(attr().changed),
        };
        let theirs = theirs(&nfs::wcc_data {
            before: nfs::pre_op_attr::attributes(before),
            after: nfs::post_op_attr::attributes(their_attr()),
        });
        assert_eq!(encoded(&ours), theirs);
    }

    #[test]
    fn sattr3_decodes_as_nfsserve_encodes_it() {
        let bytes = theirs(&nfs::sattr3 {
            mode: nfs::set_mode3::mode(0o600),
            uid: nfs::set_uid3::Void,
            gid: nfs::set_gid3::gid(5),
            size: nfs::set_size3::size(1 << 40),
            atime: nfs::set_atime::SET_TO_SERVER_TIME,
            mtime: nfs::set_mtime::SET_TO_CLIENT_TIME(nfs::nfstime3 { seconds: 7, nseconds: 8 }),
        });
        let expected = Changes {
            mode: Some(0o600),
            uid: None,
            gid: Some(5),
            size: Some(1 << 40),
            accessed: SetTime::Now,
            modified: SetTime::To(Time { seconds: 7, nanoseconds: 8 }),
        };
        assert_eq!(Changes::decode(&mut Reader::new(&bytes)), Ok(expected));
        for len in 0..bytes.len() {
            let cut = Changes::decode(&mut Reader::new(&bytes[..len]));
            assert_eq!(cut, Err(Error::Short), "{len} bytes");
        }
    }
}
