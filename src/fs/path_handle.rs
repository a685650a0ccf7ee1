//! Handles without those of the file system: by inode number and path.
//!
//! Where open_by_handle_at(2) cannot be used (no privilege, overlayfs, some FUSE file systems), a
//! handle holds the file's inode number, a generation made of its birth time, and a [`Trail`]: one
//! byte for each directory on the way to the file, a hash of that directory's number. The file is
//! found from the root down, in directories whose byte fits. It survives a restart, and renaming
//! within a directory, without any record.
//!
//! ```text
//!   /a/b/file  --handle-->  | number of file | generation | h(a) h(b) |
//! ```
//!
//! A file that is moved into another directory through the server, by RENAME or LINK, keeps its
//! handle: the move is recorded in the [`move_log`] before it is made, and a [`search`] consults
//! the log first. A record of a move that was not made does no harm: the file is then found where
//! its trail leads. Not found again (`ESTALE`) are files that are moved beside the server, those of
//! the oldest moves beyond the log's bound, and files more than 4,096 directories deep that were
//! not looked up since the start. Directories that their owner may not list are searched all the
//! same ([`super::mode_loan`]).

mod descent_budget;
mod move_log;
mod moves;
mod search;
mod trail;

use std::ffi::CString;
use std::os::fd::OwnedFd;

use super::Fs;
use super::attr::{Attr, FileKind};
use super::handle::Body;
use super::identity::Identity;
use super::node::Node;
use super::root::{HandleKind, Root};
use crate::errno::{Errno, Result};
use crate::telemetry::bounded::OFTEN;
pub(super) use descent_budget::DescentBudget;
use move_log::{DirEntry, Move};
pub(super) use moves::Moves;
pub(super) use search::Search;
pub(super) use trail::Trail;
use trail::generation;

impl Fs {
    /// Returns the trail for the handle of a file in `dir`, and remembers its `name` there.
    pub(super) fn trail_in(&self, dir: &Node, attr: &Attr, name: Option<&[u8]>) -> Result<Trail> {
        let above = trail_of(dir)?;
        let trail = self.moves.trail_in(&dir.root, &above, attr);
        if let Some(name) = name {
            self.moves.remember_entry(&dir.root, &above, &trail, name);
        }
        Ok(trail)
    }

    /// Returns the trail of the directory `path_fd`, which is found by going up to the root.
    /// Blocks.
    pub(super) fn trail_from_root(&self, root: &Root, path_fd: &OwnedFd) -> Result<Trail> {
        let (mut way, mut attr) = (Vec::new(), Attr::of(path_fd)?);
        let mut above = None;
        while attr.fileid != root.fileid {
            way.push(attr);
            // Not above the root: that may be where its file system is mounted.
            let here = super::name::parent_of(above.as_ref().unwrap_or(path_fd))?;
            let next = Attr::of(&here)?;
            if (next.fileid, next.filesystem) == (attr.fileid, attr.filesystem) {
                return Err(Errno::STALE); // the root of everything: it was moved out of the export
            }
            (attr, above) = (next, Some(here));
        }
        let mut trail = Trail::root(&attr);
        for attr in way.iter().rev() {
            trail = self.moves.trail_in(root, &trail, attr);
        }
        Ok(trail)
    }

    /// Records that a file is about to be renamed, if its export uses path handles. To be called
    /// before; the result goes to [`Fs::end_move`] afterwards.
    pub(super) fn begin_move(
        &self,
        (from_dir, from): (&Node, &[u8]),
        (to_dir, to): (&Node, &[u8]),
        caller: &Identity,
    ) -> Result<Option<Move>> {
        if to_dir.root.handles == HandleKind::Kernel {
            return Ok(None);
        }
        let name = CString::new(from).map_err(|_| Errno::INVAL)?;
        let attr = self.switch.acting_as(caller, || Attr::of_entry(from_dir, &name))??;
        let trail = self.trail_in(from_dir, &attr, None)?;
        let entry = |dir: &Node, name: &[u8]| -> Result<DirEntry> {
            Ok(DirEntry { dir: trail_of(dir)?.to_bytes(), name: name.to_vec() })
        };
        self.record_move(to_dir, &attr, trail, entry(from_dir, from)?, entry(to_dir, to)?).map(Some)
    }

    /// As [`Fs::begin_move`], for a file that gets a further name.
    pub(super) fn begin_link(&self, node: &Node, to_dir: &Node, to: &[u8]) -> Result<Option<Move>> {
        if to_dir.root.handles == HandleKind::Kernel {
            return Ok(None);
        }
        let attr = node.attr()?;
        let to = DirEntry { dir: trail_of(to_dir)?.to_bytes(), name: to.to_vec() };
        let nowhere = DirEntry { dir: Vec::new(), name: Vec::new() };
        self.record_move(to_dir, &attr, trail_of(node)?, nowhere, to).map(Some)
    }

    fn record_move(
        &self,
        to_dir: &Node,
        attr: &Attr,
        trail: Trail,
        from: DirEntry,
        to: DirEntry,
    ) -> Result<Move> {
        let root = &to_dir.root;
        let is_directory = attr.kind == FileKind::Directory;
        let id = (root.id.0, attr.fileid, generation(attr));
        let pending = Move { id, is_directory, trail, from, to };
        // Where its trail leads, the file is found without a record.
        if trail_of(to_dir)?.below(root, attr) != trail {
            self.switch.as_server(|| self.moves.log().add(&pending, &pending.to))??;
        }
        Ok(pending)
    }

    /// Completes the record of a move, which ended with `result`. Returns that result.
    pub(super) fn end_move(&self, pending: Option<Move>, result: Result<()>) -> Result<()> {
        let Some(pending) = pending else { return result };
        let gone = if result.is_ok() { &pending.from } else { &pending.to };
        let recorded = self.switch.as_server(|| self.moves.log().remove(&pending, gone))?;
        self.moves.forget_entry(&pending.id);
        if let Err(error) = recorded {
            // The record has an entry too many, which a search ignores.
            tracing::warn!(name: OFTEN, %error, "cannot record a move");
        }
        result
    }
}

fn trail_of(node: &Node) -> Result<Trail> {
    match node.handle.body() {
        Some(Body::Path(body)) => Trail::parse(body).ok_or(Errno::STALE),
        Some(Body::Kernel(_) | Body::Stamped(..)) | None => Err(Errno::STALE),
    }
}
