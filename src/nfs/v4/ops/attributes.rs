//! Attributes: GETATTR, ACCESS, VERIFY, NVERIFY (RFC 8881 sections 18.7, 18.1, 18.31, 18.15).

use super::super::attr::{
    self, Bitmap, FileAttrs, NEEDS_LIMITS, NEEDS_SPACE, WRITE_ONLY, number, supported,
};
use super::super::compound::{Compound, OpResult, Stop};
use super::super::file::Target;
use super::super::pseudo::PseudoId;
use super::super::server::{LEASE, PseudoView};
use super::super::status::Status;
use crate::fs::attr::{Attr, FileKind, Time};
use crate::nfs::access::{self, grant};
use crate::nfs::context::{CallContext, Object};
use crate::sched::Patience;
use crate::xdr::{Decode, Reader, Writer};

/// The rights that ACCESS knows.
const RIGHTS: u32 = access::READ
    | access::LOOKUP
    | access::MODIFY
    | access::EXTEND
    | access::DELETE
    | access::EXECUTE;

/// Bytes of the values that VERIFY compares.
const VALUES_MAX: usize = 64 * 1024;

/// The lease time, in seconds.
#[allow(clippy::cast_possible_truncation)] // a constant
const LEASE_SECONDS: u32 = LEASE.as_secs() as u32;

/// GETATTR: returns attributes of the current file.
pub fn getattr<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    let wanted = Bitmap::decode(r)?;
    //= RFC 8881 18.7.3: an attribute that can only be set gets INVAL
    if wanted.intersects(WRITE_ONLY) {
        return Err(Status::INVAL.into());
    }
    encode_current(c, wanted, w)
}

/// ACCESS: returns what the caller may do with the current file.
pub fn access<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    let wanted = r.u32()?;
    //= RFC 8881 18.1.3: a right that is not defined gets INVAL
    if wanted & !RIGHTS != 0 {
        return Err(Status::INVAL.into());
    }
    let granted = match c.current.target(&c.cx)? {
        Target::Pseudo(_) => wanted & (access::READ | access::LOOKUP),
        Target::Object(object) => grant(&c.cx, object, wanted)?,
    };
    w.u32(wanted); // all of them can be checked
    w.u32(granted);
    Ok(())
}

/// VERIFY: fails unless the attributes of the current file have these values.
pub fn verify<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    if has_values(c, r)? { Ok(()) } else { Err(Status::NOT_SAME.into()) }
}

/// NVERIFY: fails if the attributes of the current file have these values.
pub fn nverify<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    if has_values(c, r)? { Err(Status::SAME.into()) } else { Ok(()) }
}

fn has_values<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>) -> Result<bool, Stop> {
    let named = Bitmap::decode(r)?;
    let values = r.opaque(VALUES_MAX)?;
    //= RFC 8881 18.31.3: what can only be set, and rdattr_error, cannot be compared: INVAL
    if named.intersects(WRITE_ONLY) || named.has(number::RDATTR_ERROR) {
        return Err(Status::INVAL.into());
    }
    //= RFC 8881 18.31.3: attributes that are not supported get ATTRNOTSUPP
    if !named.is_within(supported(c.minor)) {
        return Err(Status::ATTRNOTSUPP.into());
    }
    let mut encoded = Vec::new();
    encode_current(c, named, &mut Writer::new(&mut encoded))?;
    let mut found = Reader::new(&encoded);
    Bitmap::decode(&mut found)?;
    Ok(found.opaque(usize::MAX)? == values)
}

/// Appends attributes of the current file.
fn encode_current(c: &mut Compound<'_>, wanted: Bitmap, w: &mut Writer<'_>) -> OpResult {
    let minor = c.minor;
    match c.current.target(&c.cx)? {
        Target::Pseudo(id) => {
            let handle = c.cx.fs().key().seal_pseudo(id.to_u64());
            attr::encode(&pseudo_attrs(c.pseudo, id, handle.as_ref()), wanted, minor, w);
        }
        Target::Object(object) => {
            let attr = object.node.attr_to_read()?;
            let mut file = file_attrs(object, c.pseudo, attr, object.node.handle().as_ref());
            query(&c.cx, object, wanted, &mut file)?;
            attr::encode(&file, wanted, minor, w);
        }
    }
    Ok(())
}

/// Queries what the file system says of itself, as far as it is wanted.
fn query(
    cx: &CallContext<'_>,
    object: &Object<'_>,
    wanted: Bitmap,
    file: &mut FileAttrs<'_>,
) -> OpResult {
    let (space, limits) = (wanted.intersects(NEEDS_SPACE), wanted.intersects(NEEDS_LIMITS));
    // A distributed file system has to query its servers.
    if (space || limits) && cx.patience() == Patience::None {
        return Err(Stop::WouldBlock);
    }
    if space {
        file.space = Some(cx.fs().space(&object.node)?);
    }
    if limits {
        file.limits = Some(cx.fs().limits(&object.node)?);
    }
    Ok(())
}

/// The attributes of a file in the export of `object`, which has `attr` and `handle`.
pub fn file_attrs<'h>(
    object: &Object<'_>,
    pseudo: &PseudoView,
    attr: Attr,
    handle: &'h [u8],
) -> FileAttrs<'h> {
    let view = object.view();
    let covered = || pseudo.tree.of_export(object.export()).map(|node| node.id.to_u64());
    let is_root = object.node.is_root() && attr.fileid == object.node.fileid;
    let mounted_on = if is_root { covered() } else { None }.unwrap_or(attr.fileid);
    FileAttrs {
        attr: view.of(attr),
        handle,
        fsid: view.fsid,
        change: nanoseconds(attr.changed),
        mounted_on,
        lease: LEASE_SECONDS,
        space: None,
        limits: None,
    }
}

/// The attributes of a directory of the pseudo file system.
pub fn pseudo_attrs<'h>(pseudo: &PseudoView, id: PseudoId, handle: &'h [u8]) -> FileAttrs<'h> {
    let seconds = pseudo.change / 1_000_000_000;
    let nanoseconds = u32::try_from(pseudo.change % 1_000_000_000).unwrap_or(0);
    let time = Time { seconds: seconds.cast_signed(), nanoseconds };
    let attr = Attr {
        kind: FileKind::Directory,
        mode: 0o555,
        links: 2,
        uid: 0,
        gid: 0,
        size: 0,
        used: 0,
        device: (0, 0),
        fileid: id.to_u64(),
        filesystem: (0, 0),
        born: None,
        accessed: time,
        modified: time,
        changed: time,
    };
    FileAttrs {
        attr,
        handle,
        fsid: 0,
        change: pseudo.change,
        mounted_on: id.to_u64(),
        lease: LEASE_SECONDS,
        space: None,
        limits: None,
    }
}

/// A time as a change attribute.
const fn nanoseconds(time: Time) -> u64 {
    let seconds = time.seconds.cast_unsigned();
    seconds.wrapping_mul(1_000_000_000).wrapping_add(time.nanoseconds as u64)
}
