//! The current and the saved file: PUTFH, PUTROOTFH, GETFH, SAVEFH, RESTOREFH, LOOKUP, LOOKUPP,
//! SECINFO, SECINFO_NO_NAME (RFC 8881 sections 18.19 to 18.21, 18.8, 18.27 to 18.29, 18.13, 18.14,
//! 18.45).

use super::super::compound::{Compound, OpResult, Stop};
use super::super::file::{FileSlot, Target};
use super::super::pseudo::{PseudoId, PseudoNode};
use super::super::status::Status;
use super::super::types::TEXT_MAX;
use crate::errno::Errno;
use crate::fs::attr::FileKind;
use crate::fs::handle::{self, Handle};
use crate::fs::name::Name;
use crate::nfs::context::Fh;
use crate::nfs::failure::Failure;
use crate::xdr::{Error, Reader, Writer};

/// Longest handle of NFS version 4 (NFS4_FHSIZE). Those of this server are shorter.
const HANDLE_MAX: usize = 128;

/// The flavor of AUTH_SYS.
const AUTH_SYS: u32 = 1;

/// PUTFH: makes the file of a handle the current one.
pub fn putfh<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    let bytes = r.opaque(HANDLE_MAX)?;
    //= RFC 8881 15.1.2.1: a handle that is none of this server's gets BADHANDLE
    let handle = Handle::parse(bytes).map_err(|_| Status::BADHANDLE)?;
    c.current = match c.cx.fs().key().check_pseudo(&handle)? {
        Some(number) => enter(c, visible(c, PseudoId::from_u64(number))?)?,
        None => FileSlot::object(c.cx.object(Fh(bytes))?),
    };
    Ok(())
}

/// PUTROOTFH, and PUTPUBFH: makes the root of the server the current file.
pub fn putrootfh<'a>(c: &mut Compound<'a>, _: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    c.current = enter(c, c.pseudo.tree.root())?;
    Ok(())
}

/// GETFH: returns the handle of the current file.
pub fn getfh<'a>(c: &mut Compound<'a>, _: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    match c.current.target(&c.cx)? {
        Target::Pseudo(id) => w.opaque(c.cx.fs().key().seal_pseudo(id.to_u64()).as_ref()),
        Target::Object(object) => w.opaque(object.node.handle().as_ref()),
    }
    Ok(())
}

/// SAVEFH: saves the current file.
pub fn savefh<'a>(c: &mut Compound<'a>, _: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    c.current.target(&c.cx)?;
    c.saved = c.current.clone();
    Ok(())
}

/// RESTOREFH: makes the saved file the current one.
pub fn restorefh<'a>(c: &mut Compound<'a>, _: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    c.saved.target(&c.cx)?;
    c.current = c.saved.clone();
    Ok(())
}

/// LOOKUP: makes an entry of the current directory the current file.
pub fn lookup<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    let name = component(r)?;
    let found = match c.current.target(&c.cx)? {
        Target::Pseudo(id) => {
            let child = c.pseudo.tree.child(visible(c, id)?, name, c.cx.rpc.peer);
            enter(c, child.ok_or(Status::NOENT)?)?
        }
        Target::Object(dir) => {
            check_directory(dir.node.kind)?;
            let dir = dir.clone();
            let inner =
                if dir.node.is_root() { c.pseudo.tree.of_export(dir.export()) } else { None };
            let inner = inner.and_then(|node| c.pseudo.tree.child(node, name, c.cx.rpc.peer));
            match inner {
                //= RFC 8881 7.7: the name of an export inside another one leads into it
                Some(node) if node.export.is_some() => enter(c, node)?,
                inner => match (c.cx.find(&dir, Name::Entry(name)), inner) {
                    (Err(Failure::Errno(Errno::NOENT)), Some(node)) => enter(c, node)?,
                    (found, _) => FileSlot::object(found?),
                },
            }
        }
    };
    c.current = found;
    Ok(())
}

/// LOOKUPP: makes the parent of the current directory the current file.
pub fn lookupp<'a>(c: &mut Compound<'a>, _: &mut Reader<'a>, _: &mut Writer<'_>) -> OpResult {
    let node = match c.current.target(&c.cx)? {
        Target::Pseudo(id) => visible(c, id)?,
        Target::Object(dir) => {
            check_directory(dir.node.kind)?;
            let dir = dir.clone();
            if !dir.node.is_root() {
                c.current = FileSlot::object(c.cx.find(&dir, Name::Parent)?);
                return Ok(());
            }
            c.pseudo.tree.of_export(dir.export()).ok_or(Status::STALE)?
        }
    };
    //= RFC 8881 18.14.3: the root of the server has no parent: NOENT
    if node.id == PseudoId::ROOT {
        return Err(Status::NOENT.into());
    }
    c.current = enter(c, visible(c, node.parent)?)?;
    Ok(())
}

/// SECINFO: returns the security flavors for an entry of the current directory.
pub fn secinfo<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    lookup(c, r, w)?;
    take_flavors(c, w);
    Ok(())
}

/// SECINFO_NO_NAME: returns the security flavors for the current file, or for its parent.
pub fn secinfo_no_name<'a>(
    c: &mut Compound<'a>,
    r: &mut Reader<'a>,
    w: &mut Writer<'_>,
) -> OpResult {
    match r.u32()? {
        0 => {
            c.current.target(&c.cx)?;
        }
        1 => lookupp(c, r, w)?,
        _ => return Err(Error::Unknown.into()),
    }
    take_flavors(c, w);
    Ok(())
}

/// Appends the security flavors: all exports have the same one.
fn take_flavors(c: &mut Compound<'_>, w: &mut Writer<'_>) {
    //= RFC 8881 2.6.3.1.1.8: the current file is used up
    c.current = FileSlot::default();
    w.length(1);
    w.u32(AUTH_SYS);
}

/// Returns a directory of the pseudo file system.
///
/// # Errors
/// `STALE` if it is gone, or this client must not see it.
fn visible<'a>(c: &Compound<'a>, id: PseudoId) -> Result<&'a PseudoNode, Stop> {
    Ok(c.pseudo.tree.get(id, c.cx.rpc.peer).ok_or(Status::STALE)?)
}

/// Returns what a client sees at a node of the pseudo file system: the root of its export, if it
/// may mount that, or a directory that leads to others.
fn enter<'a>(c: &Compound<'a>, node: &PseudoNode) -> Result<FileSlot<'a>, Stop> {
    match &node.export {
        Some(export) if export.access(c.cx.rpc.peer).is_ok() => {
            Ok(FileSlot::object(c.cx.root_of(export)?))
        }
        _ => Ok(FileSlot::pseudo(node.id)),
    }
}

/// Decodes the name of an entry. Names are bytes, as knfsd has them: UTF-8 is not demanded.
///
/// # Errors
/// `INVAL` for an empty name, `BADNAME` for one that no entry can have, `NAMETOOLONG`.
fn component<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Stop> {
    match r.opaque(TEXT_MAX)? {
        //= RFC 8881 18.13.3: an empty name gets INVAL, and `.` and `..` get BADNAME
        b"" => Err(Status::INVAL.into()),
        b"." | b".." => Err(Status::BADNAME.into()),
        name if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Status::BADNAME.into()),
        name => match Name::new(name)? {
            Name::Entry(name) => Ok(name),
            Name::Itself | Name::Parent => Err(Status::BADNAME.into()),
        },
    }
}

fn check_directory(kind: FileKind) -> OpResult {
    match kind {
        FileKind::Directory => Ok(()),
        //= RFC 8881 18.13.3: a symbolic link as the directory of a name gets SYMLINK
        FileKind::Symlink => Err(Status::SYMLINK.into()),
        _ => Err(Status::NOTDIR.into()),
    }
}

const _: () = assert!(handle::MAX <= HANDLE_MAX);
