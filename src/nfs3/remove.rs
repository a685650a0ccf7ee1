//! REMOVE, RMDIR (RFC 1813 §3.3.12, §3.3.13).

use super::context::CallContext;
use super::durable::{Durable, same_body};
use super::status::Reply;
use super::types::{DirOp, Wcc};
use crate::errno::Errno;
use crate::fs::name::Name;

/// REMOVE: removes a file's name; directories need RMDIR.
pub fn remove(cx: &CallContext<'_>, args: DirOp<'_>) -> Reply<Durable<Wcc, Wcc>, Wcc> {
    let dir = cx.object_to_change(args.dir)?;
    let ((), wcc) = cx.change_directory(&dir, |guard| {
        let name = Name::new(args.name)?.entry(Errno::ISDIR)?;
        cx.fs().remove(&dir.node, name, &dir.caller, guard)?;
        Ok(())
    })?;
    same_body(wcc, dir.due([&dir.node]))
}

/// RMDIR: removes an empty directory.
pub fn rmdir(cx: &CallContext<'_>, args: DirOp<'_>) -> Reply<Durable<Wcc, Wcc>, Wcc> {
    let dir = cx.object_to_change(args.dir)?;
    let ((), wcc) = cx.change_directory(&dir, |guard| {
        let name = match Name::new(args.name)? {
            Name::Entry(name) => name,
            Name::Itself => return Err(Errno::INVAL.into()),
            Name::Parent => return Err(Errno::EXIST.into()),
        };
        cx.fs().remove_directory(&dir.node, name, &dir.caller, guard)?;
        Ok(())
    })?;
    same_body(wcc, dir.due([&dir.node]))
}
