//! FSSTAT, FSINFO, PATHCONF (RFC 1813 §3.3.18 to §3.3.20).

use nfsserve::nfs;
use nfsserve::xdr::XDR;

use super::reply::Reply;
use super::types::{Fattr, PostOp};
use crate::fs::info::{Limits, Space};
use crate::nfs::context::{CallContext, Fh};
use crate::nfs::core::TRANSFER_MAX;
use crate::nfs::failure::Failure;
use crate::sched::Patience;
use crate::xdr::{Encode, Writer};

/// The multiple of which READ and WRITE sizes should be: a page.
const TRANSFER_UNIT: u32 = 4096;

/// The preferred READDIR size, in bytes.
const LIST_PREFERRED: u32 = 64 * 1024;

/// `FSSTAT3resok`
#[derive(Clone, Copy, Debug)]
pub struct FsStatOk {
    attr: PostOp,
    space: Space,
}

impl Encode for FsStatOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.attr.encode(w);
        let Space { bytes, inodes } = self.space;
        for amount in [bytes, inodes] {
            w.u64(amount.total);
            w.u64(amount.free);
            w.u64(amount.available);
        }
        w.u32(0); // invarsec: the values may change at any time
    }
}

/// FSSTAT: returns the total, free and available space.
pub fn fsstat(cx: &CallContext<'_>, fh: Fh<'_>) -> Reply<FsStatOk, PostOp> {
    let object = cx.object(fh)?;
    if cx.patience() == Patience::None {
        // A distributed file system has to query its servers.
        return Err(Failure::WouldBlock.into());
    }
    let space = cx.fs().space(&object.node);
    let attr = PostOp::of(&object);
    Ok(FsStatOk { attr, space: space.map_err(|errno| Failure::from(errno).with(attr))? })
}

/// `FSINFO3resok`
#[derive(Clone, Copy, Debug)]
pub struct FsInfoOk {
    attr: Fattr,
}

impl Encode for FsInfoOk {
    fn encode(&self, w: &mut Writer<'_>) {
        PostOp(Some(self.attr)).encode(w);
        let info = nfs::fsinfo3 {
            obj_attributes: nfs::post_op_attr::Void,
            rtmax: TRANSFER_MAX,
            rtpref: TRANSFER_MAX,
            rtmult: TRANSFER_UNIT,
            wtmax: TRANSFER_MAX,
            wtpref: TRANSFER_MAX,
            wtmult: TRANSFER_UNIT,
            dtpref: LIST_PREFERRED,
            maxfilesize: i64::MAX.unsigned_abs(),
            time_delta: nfs::nfstime3 { seconds: 0, nseconds: 1 },
            properties: nfs::FSF_LINK
                | nfs::FSF_SYMLINK
                | nfs::FSF_HOMOGENEOUS
                | nfs::FSF_CANSETTIME,
        };
        let mut encoded = Vec::new();
        info.serialize(&mut encoded).expect("a Vec takes everything");
        w.fixed(&encoded[4..]); // skip the empty attributes; ours are already encoded
    }
}

/// FSINFO: returns transfer sizes and capabilities.
pub fn fsinfo(cx: &CallContext<'_>, fh: Fh<'_>) -> Reply<FsInfoOk, PostOp> {
    let object = cx.object(fh)?;
    Ok(FsInfoOk { attr: Fattr::of(&object, object.node.attr()?) })
}

/// `PATHCONF3resok`
#[derive(Clone, Copy, Debug)]
pub struct PathConfOk {
    attr: PostOp,
    limits: Limits,
}

impl Encode for PathConfOk {
    fn encode(&self, w: &mut Writer<'_>) {
        self.attr.encode(w);
        w.u32(self.limits.links);
        w.u32(self.limits.name);
        w.bool(true); // no_trunc: a name that is too long is an error
        w.bool(true); // chown_restricted: only root changes a file's owner
        w.bool(false); // case_insensitive
        w.bool(true); // case_preserving
    }
}

/// PATHCONF: returns the limits of the file system.
pub fn pathconf(cx: &CallContext<'_>, fh: Fh<'_>) -> Reply<PathConfOk, PostOp> {
    let object = cx.object(fh)?;
    if cx.patience() == Patience::None {
        return Err(Failure::WouldBlock.into());
    }
    let limits = cx.fs().limits(&object.node);
    let attr = PostOp::of(&object);
    Ok(PathConfOk { attr, limits: limits.map_err(|errno| Failure::from(errno).with(attr))? })
}
