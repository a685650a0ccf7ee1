//! REMOVE, RMDIR (RFC 1813 §3.3.12, §3.3.13).

use super::reply::{Reply, change_directory};
use super::types::{DirOp, Wcc};
use crate::errno::Errno;
use crate::fs::name::Name;
use crate::nfs::context::CallContext;
use crate::nfs::durability::Durable;

/// REMOVE: removes a file's name; directories need RMDIR.
pub fn remove(cx: &CallContext<'_>, args: DirOp<'_>) -> Reply<Durable<Wcc, Wcc>, Wcc> {
    let dir = cx.object_to_change(args.dir)?;
    let ((), wcc) = change_directory(cx, &dir, |guard| {
        let name = Name::new(args.name)?.entry(Errno::ISDIR)?;
        cx.fs().remove(&dir.node, name, &dir.caller, guard)?;
        Ok(())
    })?;
    Ok(Durable::same_body(wcc, dir.due([&dir.node])))
}

/// RMDIR: removes an empty directory.
pub fn rmdir(cx: &CallContext<'_>, args: DirOp<'_>) -> Reply<Durable<Wcc, Wcc>, Wcc> {
    let dir = cx.object_to_change(args.dir)?;
    let ((), wcc) = change_directory(cx, &dir, |guard| {
        let name = match Name::new(args.name)? {
            Name::Entry(name) => name,
            Name::Itself => return Err(Errno::INVAL.into()),
            Name::Parent => return Err(Errno::EXIST.into()),
        };
        cx.fs().remove_directory(&dir.node, name, &dir.caller, guard)?;
        Ok(())
    })?;
    Ok(Durable::same_body(wcc, dir.due([&dir.node])))
}
