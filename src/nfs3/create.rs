//! CREATE, MKDIR, SYMLINK, MKNOD (RFC 1813 §3.3.8 to §3.3.11).

use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::call::{Call, Object, Settles};
use super::promise::Promise;
use super::status::{Reply, Why};
use super::types::{Decode, DirOp, Fattr, Wcc, path};
use crate::errno::Errno;
use crate::export::Devices;
use crate::fs;
use crate::fs::attr::{Attr, Changes, Kind, SetTime, Time};
use crate::fs::handle::Handle;
use crate::fs::make::{New, What};
use crate::fs::name::Name;
use crate::fs::node::Node;
use crate::sys::Patience;
use crate::xdr::{Encode, Error, Reader, Writer};

/// The mode of a file for which the client asked for none.
const FILE_MODE: u32 = 0o644;

/// The same for a directory.
const DIRECTORY_MODE: u32 = 0o755;

/// The mode of a file that is made exclusively, until its maker sets another.
const EXCLUSIVE_MODE: u32 = 0o600;

/// Longest target of a symbolic link (PATH_MAX of Linux, less the zero).
const TARGET_MAX: usize = 4095;

/// `CREATE3resok`, `MKDIR3resok`, `SYMLINK3resok`, `MKNOD3resok`: the new file.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    handle: Handle,
    attr: Fattr,
    dir: Wcc,
}

impl Encode for Made {
    fn encode(&self, w: &mut Writer<'_>) {
        w.option(Some(&self.handle));
        w.option(Some(&self.attr));
        self.dir.encode(w);
    }
}

/// A file that was made or found, and how it gets onto the disk.
struct Found {
    node: Arc<Node>,
    attr: Attr,
    settles: Settles,
}

impl From<fs::make::Made> for Found {
    fn from(fs::make::Made { node, attr, at_once }: fs::make::Made) -> Self {
        let settles = if at_once { Settles::WithItsDirectory } else { Settles::Alone };
        Self { node, attr, settles }
    }
}

/// `createhow3`
#[derive(Clone, Copy, Debug)]
enum How {
    Unchecked(Changes),
    Guarded(Changes),
    Exclusive([u8; 8]),
}

impl How {
    /// What of it the export of `dir` allows.
    fn allowed(self, dir: &Object<'_>) -> Self {
        match self {
            Self::Unchecked(wanted) => Self::Unchecked(dir.allowed(Kind::Regular, wanted)),
            Self::Guarded(wanted) => Self::Guarded(dir.allowed(Kind::Regular, wanted)),
            Self::Exclusive(verifier) => Self::Exclusive(verifier),
        }
    }
}

/// `CREATE3args`
#[derive(Clone, Copy, Debug)]
pub struct CreateArgs<'a> {
    at: DirOp<'a>,
    how: How,
}

impl<'a> Decode<'a> for CreateArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let at = DirOp::decode(r)?;
        let how = match r.u32()? {
            0 => How::Unchecked(Changes::decode(r)?),
            1 => How::Guarded(Changes::decode(r)?),
            2 => How::Exclusive(r.fixed()?),
            _ => return Err(Error::Unknown),
        };
        Ok(Self { at, how })
    }
}

/// CREATE: makes a file, or finds the one that is there.
pub fn create(cx: &Call<'_>, args: &CreateArgs<'_>) -> Reply<Promise<Made, Wcc>, Wcc> {
    let dir = cx.object_to_change(args.at.dir)?;
    let ((Found { node, mut attr, settles }, size), wcc) = cx.change_directory(&dir, |guard| {
        let name = Name::new(args.at.name)?.entry(Errno::EXIST)?;
        let new = match args.how.allowed(&dir) {
            How::Unchecked(wanted) | How::Guarded(wanted) => {
                New::with(What::File, &wanted, FILE_MODE)
            }
            How::Exclusive(verifier) => New::with(What::File, &keep(verifier), EXCLUSIVE_MODE),
        };
        match cx.fs().make(&dir.node, name, &new, &dir.who, guard) {
            Ok(made) => Ok((made.into(), None)),
            Err(Errno::EXIST) => existing(cx, &dir, name, args.how),
            Err(errno) => Err(errno.into()),
        }
    })?;
    if let Some(size) = size {
        attr = resize(cx, &dir, &node, size).map_err(|why| why.with(wcc))?;
    }
    let due = dir.due_with(&node, settles);
    let result = Made { handle: *node.handle(), attr: dir.fattr(attr), dir: wcc };
    Ok(Promise { result, otherwise: wcc, due })
}

/// What CREATE finds under a name that is there, and the size that it is asked to give it.
fn existing(
    cx: &Call<'_>,
    dir: &Object<'_>,
    name: &[u8],
    how: How,
) -> Result<(Found, Option<u64>), Why> {
    let name = Name::Entry(name);
    let (node, attr) = cx.fs().find(&dir.node, name, &dir.who, Patience::Blocking)?;
    let size = match how {
        _ if node.kind != Kind::Regular => None,
        How::Unchecked(changes) => Some(changes.size),
        // The maker asks again, because it did not hear our answer, maybe from before a restart.
        How::Exclusive(verifier) if is_kept(&attr, verifier) => Some(None),
        How::Guarded(_) | How::Exclusive(_) => None,
    };
    match size {
        // Truncating takes a lock that may be held by somebody who waits for the disk.
        Some(Some(_)) if cx.patience() == Patience::None => Err(Why::Later),
        Some(size) => Ok((Found { node, attr, settles: Settles::Alone }, size)),
        None => Err(nfsstat3::NFS3ERR_EXIST.into()),
    }
}

/// Truncates a file that CREATE found; apart from the directory's lock, because two locks taken
/// one after the other could wait for each other.
fn resize(cx: &Call<'_>, dir: &Object<'_>, node: &Node, size: u64) -> Result<Attr, Why> {
    let guard = cx.fs().lock(node, Patience::Blocking)?;
    let changes = Changes { size: Some(size), ..Changes::default() };
    cx.fs().change(node, &node.attr()?, &dir.who, &changes, &guard)?;
    let attr = node.attr();
    drop(guard);
    Ok(attr?)
}

/// The verifier of an exclusive CREATE is kept in the file's times, where it survives a restart:
/// 31 bits of seconds in each, which every file system can hold.
fn keep(verifier: [u8; 8]) -> Changes {
    let (accessed, modified) = times(verifier);
    Changes {
        accessed: SetTime::To(accessed),
        modified: SetTime::To(modified),
        ..Changes::default()
    }
}

fn is_kept(attr: &Attr, verifier: [u8; 8]) -> bool {
    let (accessed, modified) = times(verifier);
    attr.accessed.seconds == accessed.seconds && attr.modified.seconds == modified.seconds
}

fn times(verifier: [u8; 8]) -> (Time, Time) {
    let verifier = u64::from_be_bytes(verifier);
    let time = |bits: u64| Time { seconds: (bits & 0x7fff_ffff).cast_signed(), nanoseconds: 0 };
    (time(verifier >> 32), time(verifier))
}

/// `MKDIR3args`
#[derive(Clone, Copy, Debug)]
pub struct MkdirArgs<'a> {
    at: DirOp<'a>,
    changes: Changes,
}

impl<'a> Decode<'a> for MkdirArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { at: DirOp::decode(r)?, changes: Changes::decode(r)? })
    }
}

/// MKDIR: makes a directory.
pub fn mkdir(cx: &Call<'_>, args: &MkdirArgs<'_>) -> Reply<Promise<Made, Wcc>, Wcc> {
    make(cx, args.at, |_| Ok(New::with(What::Directory, &args.changes, DIRECTORY_MODE)))
}

/// `SYMLINK3args`
#[derive(Clone, Copy, Debug)]
pub struct SymlinkArgs<'a> {
    at: DirOp<'a>,
    changes: Changes,
    target: &'a [u8],
}

impl<'a> Decode<'a> for SymlinkArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        Ok(Self { at: DirOp::decode(r)?, changes: Changes::decode(r)?, target: path(r)? })
    }
}

/// SYMLINK: makes a symbolic link. Its target is any bytes but zero, and never looked at.
pub fn symlink(cx: &Call<'_>, args: &SymlinkArgs<'_>) -> Reply<Promise<Made, Wcc>, Wcc> {
    make(cx, args.at, |_| {
        if args.target.len() > TARGET_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        if args.target.is_empty() || args.target.contains(&0) {
            return Err(Errno::INVAL.into());
        }
        // A symbolic link has no mode of its own on Linux.
        Ok(New::with(What::Symlink(args.target), &args.changes, 0o777))
    })
}

/// `mknoddata3`
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Special(What<'static>, Changes),
    /// A kind of file that has a procedure of its own.
    Other,
}

impl Wanted {
    /// What of it the export of `dir` allows.
    fn allowed(self, dir: &Object<'_>) -> Result<Self, Why> {
        match self {
            Self::Special(What::Block(..) | What::Character(..), _)
                if dir.options.devices == Devices::Refused =>
            {
                Err(nfsstat3::NFS3ERR_PERM.into())
            }
            Self::Special(special, wanted) => {
                Ok(Self::Special(special, dir.allowed(Kind::Fifo, wanted)))
            }
            Self::Other => Ok(Self::Other),
        }
    }
}

/// `MKNOD3args`
#[derive(Clone, Copy, Debug)]
pub struct MknodArgs<'a> {
    at: DirOp<'a>,
    what: Wanted,
}

impl<'a> Decode<'a> for MknodArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let at = DirOp::decode(r)?;
        let kind = r.u32()?;
        let device = |r: &mut Reader<'a>, special: fn(u32, u32) -> What<'static>| {
            let changes = Changes::decode(r)?;
            Ok(Wanted::Special(special(r.u32()?, r.u32()?), changes))
        };
        let what = match kind {
            1 | 2 | 5 => Wanted::Other, // NF3REG, NF3DIR, NF3LNK
            3 => device(r, What::Block)?,
            4 => device(r, What::Character)?,
            6 => Wanted::Special(What::Socket, Changes::decode(r)?),
            7 => Wanted::Special(What::Fifo, Changes::decode(r)?),
            _ => return Err(Error::Unknown),
        };
        Ok(Self { at, what })
    }
}

/// MKNOD: makes a device, a pipe or a socket.
pub fn mknod(cx: &Call<'_>, args: &MknodArgs<'_>) -> Reply<Promise<Made, Wcc>, Wcc> {
    make(cx, args.at, |dir| match &args.what.allowed(dir)? {
        Wanted::Special(what, changes) => Ok(New::with(*what, changes, FILE_MODE)),
        Wanted::Other => Err(nfsstat3::NFS3ERR_BADTYPE.into()),
    })
}

/// What the three have in common: makes what `new` says in the directory, under its lock.
fn make<'a>(
    cx: &Call<'_>,
    at: DirOp<'_>,
    new: impl FnOnce(&Object<'_>) -> Result<New<'a>, Why>,
) -> Reply<Promise<Made, Wcc>, Wcc> {
    let dir = cx.object_to_change(at.dir)?;
    let (Found { node, attr, settles }, wcc) = cx.change_directory(&dir, |guard| {
        let name = Name::new(at.name)?.entry(Errno::EXIST)?;
        Ok(cx.fs().make(&dir.node, name, &new(&dir)?, &dir.who, guard)?.into())
    })?;
    let due = dir.due_with(&node, settles);
    let result = Made { handle: *node.handle(), attr: dir.fattr(attr), dir: wcc };
    Ok(Promise { result, otherwise: wcc, due })
}
