//! CREATE, MKDIR, SYMLINK, MKNOD (RFC 1813 §3.3.8 to §3.3.11).

use std::sync::Arc;

use super::reply::{Reply, change_directory};
use super::types::{DirOp, Fattr, Wcc, path};
use crate::errno::Errno;
use crate::export::Devices;
use crate::fs;
use crate::fs::attr::{Attr, Changes, FileKind, SetTime, Time};
use crate::fs::create::{NewFile, NewKind};
use crate::fs::handle::Handle;
use crate::fs::name::Name;
use crate::fs::node::Node;
use crate::nfs::context::{CallContext, Object};
use crate::nfs::durability::{Durable, FlushScope};
use crate::nfs::failure::Failure;
use crate::sched::Patience;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// The mode of a new file, if the client specifies none.
const FILE_MODE: u32 = 0o644;

/// The mode of a new directory, if the client specifies none.
const DIRECTORY_MODE: u32 = 0o755;

/// The mode of a file from an exclusive CREATE, until the client sets another.
const EXCLUSIVE_MODE: u32 = 0o600;

/// Longest target of a symbolic link, in bytes (Linux `PATH_MAX` without the terminating NUL).
const TARGET_MAX: usize = 4095;

/// `CREATE3resok`, `MKDIR3resok`, `SYMLINK3resok`, `MKNOD3resok`.
#[derive(Clone, Copy, Debug)]
pub struct CreateOk {
    handle: Handle,
    attr: Fattr,
    dir: Wcc,
}

impl Encode for CreateOk {
    fn encode(&self, w: &mut Writer<'_>) {
        w.option(Some(&self.handle));
        w.option(Some(&self.attr));
        self.dir.encode(w);
    }
}

/// A file that was made, or that CREATE found, and how to flush it.
struct CreatedOrFound {
    node: Arc<Node>,
    attr: Attr,
    scope: FlushScope,
}

impl From<fs::create::Created> for CreatedOrFound {
    fn from(fs::create::Created { node, attr, at_once }: fs::create::Created) -> Self {
        let scope = if at_once { FlushScope::WithDirectory } else { FlushScope::Separate };
        Self { node, attr, scope }
    }
}

/// `createhow3`
#[derive(Clone, Copy, Debug)]
enum CreateHow {
    Unchecked(Changes),
    Guarded(Changes),
    Exclusive([u8; 8]),
}

impl CreateHow {
    /// Removes the attributes that the export of `dir` does not allow.
    fn allowed(self, dir: &Object<'_>) -> Self {
        match self {
            Self::Unchecked(wanted) => Self::Unchecked(dir.allowed(FileKind::Regular, wanted)),
            Self::Guarded(wanted) => Self::Guarded(dir.allowed(FileKind::Regular, wanted)),
            Self::Exclusive(verifier) => Self::Exclusive(verifier),
        }
    }
}

/// `CREATE3args`
#[derive(Clone, Copy, Debug)]
pub struct CreateArgs<'a> {
    at: DirOp<'a>,
    how: CreateHow,
}

impl<'a> Decode<'a> for CreateArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let at = DirOp::decode(r)?;
        let how = match r.u32()? {
            0 => CreateHow::Unchecked(Changes::decode(r)?),
            1 => CreateHow::Guarded(Changes::decode(r)?),
            2 => CreateHow::Exclusive(r.fixed()?),
            _ => return Err(Error::Unknown),
        };
        Ok(Self { at, how })
    }
}

/// CREATE: makes a file, or opens the existing one, depending on `createhow3`.
pub fn create(cx: &CallContext<'_>, args: CreateArgs<'_>) -> Reply<Durable<CreateOk, Wcc>, Wcc> {
    let dir = cx.object_to_change(args.at.dir)?;
    let ((CreatedOrFound { node, mut attr, scope }, size), wcc) =
        change_directory(cx, &dir, |guard| {
            let name = Name::new(args.at.name)?.entry(Errno::EXIST)?;
            let new = match args.how.allowed(&dir) {
                CreateHow::Unchecked(wanted) | CreateHow::Guarded(wanted) => {
                    NewFile::with(NewKind::File, &wanted, FILE_MODE)
                }
                CreateHow::Exclusive(verifier) => {
                    NewFile::with(NewKind::File, &verifier_as_times(verifier), EXCLUSIVE_MODE)
                }
            };
            match cx.fs().create(&dir.node, name, &new, &dir.caller, guard) {
                Ok(made) => Ok((made.into(), None)),
                Err(fs::error::Error::Errno(Errno::EXIST)) => existing(cx, &dir, name, args.how),
                Err(errno) => Err(errno.into()),
            }
        })?;
    if let Some(size) = size {
        attr = resize(cx, &dir, &node, size).map_err(|failure| failure.with(wcc))?;
    }
    let due = dir.due_with(&node, scope);
    let result = CreateOk { handle: *node.handle(), attr: Fattr::of(&dir, attr), dir: wcc };
    Ok(Durable { result, failure_body: wcc, due })
}

/// Returns the existing file of a CREATE, and the size to set, if any.
///
/// # Errors
/// `EEXIST` unless the CREATE is unchecked, or exclusive with the same verifier, and the
/// file is a regular file.
fn existing(
    cx: &CallContext<'_>,
    dir: &Object<'_>,
    name: &[u8],
    how: CreateHow,
) -> Result<(CreatedOrFound, Option<u64>), Failure> {
    let name = Name::Entry(name);
    let (node, attr) = cx.fs().find(&dir.node, name, &dir.caller, Patience::Blocking)?;
    let size = match how {
        _ if node.kind != FileKind::Regular => None,
        CreateHow::Unchecked(changes) => Some(changes.size),
        // A retransmission: the client did not receive the reply, perhaps before a restart.
        CreateHow::Exclusive(verifier) if holds_verifier(&attr, verifier) => Some(None),
        CreateHow::Guarded(_) | CreateHow::Exclusive(_) => None,
    };
    match size {
        // Setting the size takes the file's lock, which may be held by a call that waits for the
        // disk.
        Some(Some(_)) if cx.patience() == Patience::None => Err(Failure::WouldBlock),
        Some(size) => Ok((CreatedOrFound { node, attr, scope: FlushScope::Separate }, size)),
        None => Err(Errno::EXIST.into()),
    }
}

/// Sets the size of an existing file. Runs after the directory's lock is released: two calls that
/// take these locks one after the other could deadlock.
fn resize(cx: &CallContext<'_>, dir: &Object<'_>, node: &Node, size: u64) -> Result<Attr, Failure> {
    let guard = cx.fs().lock(node, Patience::Blocking)?;
    let changes = Changes { size: Some(size), ..Changes::default() };
    cx.fs().change(node, &node.attr()?, &dir.caller, &changes, &guard)?;
    let attr = node.attr();
    drop(guard);
    Ok(attr?)
}

/// The verifier of an exclusive CREATE is stored in the file's atime and mtime, where it survives a
/// restart. Each holds 31 bits, as seconds, which every file system can store.
fn verifier_as_times(verifier: [u8; 8]) -> Changes {
    let (accessed, modified) = times(verifier);
    Changes {
        accessed: SetTime::To(accessed),
        modified: SetTime::To(modified),
        ..Changes::default()
    }
}

fn holds_verifier(attr: &Attr, verifier: [u8; 8]) -> bool {
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
pub fn mkdir(cx: &CallContext<'_>, args: MkdirArgs<'_>) -> Reply<Durable<CreateOk, Wcc>, Wcc> {
    make(cx, args.at, |_| Ok(NewFile::with(NewKind::Directory, &args.changes, DIRECTORY_MODE)))
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

/// SYMLINK: makes a symbolic link. The target may be any bytes but NUL, and is not interpreted.
pub fn symlink(cx: &CallContext<'_>, args: SymlinkArgs<'_>) -> Reply<Durable<CreateOk, Wcc>, Wcc> {
    make(cx, args.at, |_| {
        if args.target.len() > TARGET_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        if args.target.is_empty() || args.target.contains(&0) {
            return Err(Errno::INVAL.into());
        }
        // On Linux a symbolic link has no mode of its own.
        Ok(NewFile::with(NewKind::Symlink(args.target), &args.changes, 0o777))
    })
}

/// `mknoddata3`
#[derive(Clone, Copy, Debug)]
enum NodeSpec {
    Special(NewKind<'static>, Changes),
    /// A type of file that has its own procedure.
    Other,
}

impl NodeSpec {
    /// Removes the attributes that the export of `dir` does not allow.
    ///
    /// # Errors
    /// `EPERM` for a device, if the export refuses devices.
    fn allowed(self, dir: &Object<'_>) -> Result<Self, Failure> {
        match self {
            Self::Special(NewKind::Block(..) | NewKind::Character(..), _)
                if dir.options.devices == Devices::Refused =>
            {
                Err(Errno::PERM.into())
            }
            Self::Special(special, wanted) => {
                Ok(Self::Special(special, dir.allowed(FileKind::Fifo, wanted)))
            }
            Self::Other => Ok(Self::Other),
        }
    }
}

/// `MKNOD3args`
#[derive(Clone, Copy, Debug)]
pub struct MknodArgs<'a> {
    at: DirOp<'a>,
    what: NodeSpec,
}

impl<'a> Decode<'a> for MknodArgs<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let at = DirOp::decode(r)?;
        let kind = r.u32()?;
        let device = |r: &mut Reader<'a>, special: fn(u32, u32) -> NewKind<'static>| {
            let changes = Changes::decode(r)?;
            Ok(NodeSpec::Special(special(r.u32()?, r.u32()?), changes))
        };
        let what = match kind {
            1 | 2 | 5 => NodeSpec::Other, // NF3REG, NF3DIR, NF3LNK
            3 => device(r, NewKind::Block)?,
            4 => device(r, NewKind::Character)?,
            6 => NodeSpec::Special(NewKind::Socket, Changes::decode(r)?),
            7 => NodeSpec::Special(NewKind::Fifo, Changes::decode(r)?),
            _ => return Err(Error::Unknown),
        };
        Ok(Self { at, what })
    }
}

/// MKNOD: makes a device, a FIFO or a socket.
pub fn mknod(cx: &CallContext<'_>, args: MknodArgs<'_>) -> Reply<Durable<CreateOk, Wcc>, Wcc> {
    make(cx, args.at, |dir| match &args.what.allowed(dir)? {
        NodeSpec::Special(what, changes) => Ok(NewFile::with(*what, changes, FILE_MODE)),
        NodeSpec::Other => Err(Failure::BadType),
    })
}

/// Makes the file that `new` describes, under the directory's lock: MKDIR, SYMLINK and MKNOD.
fn make<'a>(
    cx: &CallContext<'_>,
    at: DirOp<'_>,
    new: impl FnOnce(&Object<'_>) -> Result<NewFile<'a>, Failure>,
) -> Reply<Durable<CreateOk, Wcc>, Wcc> {
    let dir = cx.object_to_change(at.dir)?;
    let (CreatedOrFound { node, attr, scope }, wcc) = change_directory(cx, &dir, |guard| {
        let name = Name::new(at.name)?.entry(Errno::EXIST)?;
        Ok(cx.fs().create(&dir.node, name, &new(&dir)?, &dir.caller, guard)?.into())
    })?;
    let due = dir.due_with(&node, scope);
    let result = CreateOk { handle: *node.handle(), attr: Fattr::of(&dir, attr), dir: wcc };
    Ok(Durable { result, failure_body: wcc, due })
}
