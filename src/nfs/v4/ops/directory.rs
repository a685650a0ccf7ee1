//! READDIR, READLINK (RFC 8881 sections 18.23, 18.24).

use std::ops::ControlFlow;
use std::sync::Arc;

use super::super::attr::{self, Bitmap, WRITE_ONLY, number};
use super::super::compound::{Compound, OpResult};
use super::super::file::Target;
use super::super::pseudo::PseudoId;
use super::super::server::PseudoView;
use super::super::status::Status;
use super::attributes::{file_attrs, pseudo_attrs};
use crate::errno::Errno;
use crate::export::Export;
use crate::fs::attr::FileKind;
use crate::nfs::context::Object;
use crate::nfs::page::{PAGE_MAX, Page};
use crate::xdr::{Decode, Encode, Reader, Writer};

/// Room in a reply for the results of the operations before.
const OTHERS: usize = 1024;

/// Bytes of an entry in a page, for each byte that it takes in the directory, about.
const GROWTH: usize = 8;

/// READDIR: lists the current directory, one page for each call. Cookies are the directory's own
/// offsets, which stay valid when the directory changes; the cookie verifier is always 0.
pub fn readdir<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    let cookie = r.u64()?;
    let _verifier = r.u64()?;
    let (dir_count, max_count, wanted) = (r.u32()?, r.u32()?, Bitmap::decode(r)?);
    //= RFC 8881 18.23.3: an attribute that can only be set gets INVAL
    if wanted.intersects(WRITE_ONLY) {
        return Err(Status::INVAL.into());
    }
    c.check_patience()?;
    let room = c.reply_max().saturating_sub(OTHERS);
    let max = (max_count as usize).min(room);
    let (start, names_max) =
        (w.mark(), if dir_count == 0 { usize::MAX } else { dir_count as usize });
    w.u64(0); // cookie verifier
    let mut page = Page::begin(w, start, max, names_max);
    let (minor, pseudo) = (c.minor, c.pseudo);
    let ended = match c.current.target(&c.cx)? {
        Target::Pseudo(id) => {
            let node = pseudo.tree.get(id, c.cx.rpc.peer).ok_or(Status::STALE)?;
            let key = c.cx.fs().key();
            let mut children = pseudo.tree.list(node, PseudoId::from_u64(cookie), c.cx.rpc.peer);
            !children.any(|child| {
                let number = child.id.to_u64();
                let may = |export: &&Arc<Export>| export.access(c.cx.rpc.peer).is_ok();
                let added = add(&mut page, (number, child.name()), |w| {
                    match child.export.as_ref().filter(may).map(|export| c.cx.root_of(export)) {
                        Some(Ok(root)) => encode_root(&root, pseudo, (wanted, minor), w),
                        // One export that cannot be used does not hide the others.
                        Some(Err(_)) => encode_error(wanted, w),
                        None => {
                            let handle = key.seal_pseudo(number);
                            let attrs = pseudo_attrs(pseudo, child.id, handle.as_ref());
                            attr::encode(&attrs, wanted, minor, w);
                        }
                    }
                });
                added.is_break()
            })
        }
        Target::Object(dir) => {
            if dir.node.kind != FileKind::Directory {
                return Err(Status::NOTDIR.into());
            }
            let range = (cookie, max.min(PAGE_MAX as usize) / GROWTH);
            let listed = c.cx.fs().list(&dir.node, &dir.caller, range, |listed| {
                let name = listed.entry.name.to_bytes();
                if matches!(name, b"." | b"..") {
                    return ControlFlow::Continue(());
                }
                add(&mut page, (listed.entry.cookie, name), |w| {
                    match c.cx.fs().look_up_listed(&dir.node, &listed) {
                        Some((attr, handle)) => {
                            let attrs = file_attrs(dir, pseudo, attr, handle.as_ref());
                            attr::encode(&attrs, wanted, minor, w);
                        }
                        None => encode_error(wanted, w),
                    }
                })
            });
            match listed {
                //= RFC 8881 18.23.3: a cookie that is none of the directory gets BAD_COOKIE
                Err(Errno::INVAL) => return Err(Status::BAD_COOKIE.into()),
                listed => listed?,
            }
        }
    };
    //= RFC 8881 18.23.3: a first entry that does not fit gets TOOSMALL
    Ok(page.end(ended)?)
}

/// Appends the attributes of the root of an export.
fn encode_root(
    root: &Object<'_>,
    pseudo: &PseudoView,
    (wanted, minor): (Bitmap, u32),
    w: &mut Writer<'_>,
) {
    match root.node.attr() {
        Ok(attr) => {
            let attrs = file_attrs(root, pseudo, attr, root.node.handle().as_ref());
            attr::encode(&attrs, wanted, minor, w);
        }
        Err(_) => encode_error(wanted, w),
    }
}

/// The attributes of an entry that cannot be examined: only the reason, if it is wanted.
fn encode_error(wanted: Bitmap, w: &mut Writer<'_>) {
    if wanted.has(number::RDATTR_ERROR) {
        Bitmap::of(&[number::RDATTR_ERROR]).encode(w);
        w.length(4);
        w.u32(Status::NOENT.0);
    } else {
        Bitmap::default().encode(w);
        w.length(0);
    }
}

/// Adds an entry with the attributes that `attrs` appends, if it fits.
fn add(
    page: &mut Page<'_, '_>,
    (cookie, name): (u64, &[u8]),
    attrs: impl FnOnce(&mut Writer<'_>),
) -> ControlFlow<()> {
    let name = |w: &mut Writer<'_>| {
        w.u64(cookie);
        w.opaque(name);
    };
    page.add(name, attrs)
}

/// READLINK: returns the target of the current file, a symbolic link.
pub fn readlink<'a>(c: &mut Compound<'a>, _: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    let link: &Object<'_> = c.current.in_export(&c.cx, Status::WRONG_TYPE)?;
    //= RFC 8881 18.24.3: a file that is no symbolic link gets WRONG_TYPE
    if link.node.kind != FileKind::Symlink {
        return Err(Status::WRONG_TYPE.into());
    }
    w.opaque(&c.cx.fs().target(&link.node)?);
    Ok(())
}
