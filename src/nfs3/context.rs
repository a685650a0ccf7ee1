//! The context of a call: the exports, the files of the call, and the rights of its caller.

use std::cell::Cell;
use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::Nfs;
use super::status::{Cause, Fail};
use super::types::{Fattr, Fh, PostOp, Wcc};
use crate::export::{Devices, Durability, Export, ExportTable, Mode, Options, SetId};
use crate::fs::Fs;
use crate::fs::attr::{Attr, Changes, FileKind, SET_IDS};
use crate::fs::flush::Due;
use crate::fs::guard::Guard;
use crate::fs::handle::Handle;
use crate::fs::identity::Identity;
use crate::fs::node::Node;
use crate::rpc::auth::Credentials;
use crate::rpc::pending::Delay;
use crate::rpc::{self, Outcome};
use crate::sched::Patience;

/// The context in which a procedure runs.
pub struct CallContext<'a> {
    /// The NFS program.
    pub nfs: &'a Nfs,
    /// The exports, as they were when the call began.
    pub table: &'a ExportTable,
    /// The call as received.
    pub rpc: &'a rpc::Call<'a>,
    /// The export that the call uses, once it is known.
    pub export: Cell<Option<&'a Export>>,
}

/// A file of the call, with the caller's rights in the export of its handle.
pub struct Object<'a> {
    /// The file.
    pub node: Arc<Node>,
    /// The export's options for this client.
    pub options: Options,
    /// The caller's identity, after the squash.
    pub caller: Identity,
    export: &'a Export,
}

/// The changes that an export makes to attributes in replies.
#[derive(Clone, Copy, Debug)]
pub struct View {
    fsid: u64,
    set_id: SetId,
    devices: Devices,
}

impl View {
    /// Returns the attributes as they are put into replies.
    pub const fn of(self, mut attr: Attr) -> Fattr {
        attr.mode = self.mode(attr.kind, attr.mode);
        if matches!(self.devices, Devices::Refused) {
            attr.device = (0, 0); // no driver has this number
        }
        Fattr { attr, fsid: self.fsid }
    }

    const fn mode(self, kind: FileKind, mode: u32) -> u32 {
        match (self.set_id, kind) {
            (SetId::Kept, _) | (_, FileKind::Directory) => mode,
            (SetId::Refused, _) => mode & !SET_IDS,
        }
    }
}

/// What must be flushed after a change of a file and its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushScope {
    /// The file is committed with its new name, if the file system guarantees that.
    WithDirectory,
    /// The file has other changes and must be flushed by itself.
    Separate,
}

impl<'a> CallContext<'a> {
    /// The file system operations.
    pub fn fs(&self) -> &Fs {
        &self.nfs.fs
    }

    /// Whether the call may block.
    pub const fn patience(&self) -> Patience {
        self.rpc.patience
    }

    /// Returns the file of a handle. Access to the export is checked here: at every call, for every
    /// handle.
    ///
    /// # Errors
    /// The handle is bad or stale, or the client has no access to the export.
    pub fn object(&self, fh: Fh<'_>) -> Result<Object<'a>, Cause> {
        let handle = Handle::parse(fh.0)?;
        let export = self.table.get(handle.export()).ok_or(nfsstat3::NFS3ERR_STALE)?;
        let options = export.access(self.rpc.peer)?;
        let caller = self.identity(&options);
        self.export.set(Some(export));
        let node = self.fs().node(&handle, self.patience())?;
        Ok(Object { node, options, caller, export })
    }

    /// As [`Self::object`], for a file that the call changes.
    ///
    /// # Errors
    /// As [`Self::object`]; `NFS3ERR_ROFS` if the export is read-only.
    pub fn object_to_change(&self, fh: Fh<'_>) -> Result<Object<'a>, Cause> {
        let object = self.object(fh)?;
        if object.options.mode == Mode::ReadOnly {
            return Err(nfsstat3::NFS3ERR_ROFS.into());
        }
        Ok(object)
    }

    /// Defers a change of names or attributes that may block: one that must be flushed before the
    /// reply is sent, or any change while changes are slow. Making such a change here and flushing
    /// it elsewhere saves too little to be worth it.
    ///
    /// # Errors
    /// `WouldBlock`, if the call must not block.
    pub fn defer_if_slow(&self, object: &Object<'_>) -> Result<(), Cause> {
        let waits = object.options.durability == Durability::Sync || !self.nfs.pace.is_quick();
        if waits && self.patience() == Patience::None { Err(Cause::WouldBlock) } else { Ok(()) }
    }

    fn identity(&self, options: &Options) -> Identity {
        match &self.rpc.credentials {
            Credentials::Sys(sys) => {
                let squashed = options.squash(sys.uid, sys.gid, sys.groups());
                Identity::new(squashed.uid, squashed.gid, squashed.groups())
            }
            Credentials::None => Identity::new(options.anonymous.uid, options.anonymous.gid, []),
        }
    }

    /// Runs `work`, which changes a directory, under the directory's lock. Returns its result with
    /// weak cache consistency data: both sets of attributes are read under the same lock.
    pub fn change_directory<T>(
        &self,
        dir: &Object<'_>,
        work: impl FnOnce(&Guard<'_>) -> Result<T, Cause>,
    ) -> Result<(T, Wcc), Fail<Wcc>> {
        self.defer_if_slow(dir)?;
        let guard = self.fs().lock(&dir.node, self.patience())?;
        let before = dir.node.attr()?;
        let done = self.nfs.pace.measure(self.patience(), || work(&guard));
        let wcc = dir.wcc(&before);
        Ok((done.map_err(|cause| cause.under(&guard).with(wcc))?, wcc))
    }

    /// Defers a call that found its volume full until the volume's files have been flushed. Returns
    /// `None` if the call may not wait again, or has no export.
    pub fn wait_for_room(&self) -> Option<Outcome> {
        let id = self.export.get().filter(|_| self.rpc.may_wait)?.id;
        let fs = Arc::clone(&self.nfs.fs);
        Some(Outcome::Wait(Delay::new(move |wake| fs.flush_volume(id, Box::new(|_| wake())))))
    }
}

impl Object<'_> {
    /// What must be on stable storage before the reply to a change of the names and attributes of
    /// `nodes` is sent; `None` if the export is `async`.
    pub fn due<const N: usize>(&self, nodes: [&Arc<Node>; N]) -> Option<Due> {
        match self.options.durability {
            Durability::Sync => Some(Due::Metadata(nodes.map(Arc::clone).to_vec())),
            Durability::Async => None,
        }
    }

    /// As [`Self::due`], for this directory and a file that was made, found or linked in it.
    pub fn due_with(&self, file: &Arc<Node>, scope: FlushScope) -> Option<Due> {
        match scope {
            FlushScope::WithDirectory if self.node.flushes_new_files() => self.due([&self.node]),
            // The file first: a crash must not leave a name without its file.
            _ => self.due([file, &self.node]),
        }
    }

    /// Returns the attributes as they are put into replies.
    pub const fn fattr(&self, attr: Attr) -> Fattr {
        self.view().of(attr)
    }

    /// The changes that the export makes to attributes.
    pub const fn view(&self) -> View {
        View { fsid: self.export.id.0, set_id: self.options.set_id, devices: self.options.devices }
    }

    /// Removes from `changes` what the export does not allow for this kind of file. The other
    /// changes are made, as Linux does for callers that may not set these mode bits.
    pub fn allowed(&self, kind: FileKind, changes: Changes) -> Changes {
        let mode = changes.mode.map(|mode| self.view().mode(kind, mode));
        Changes { mode, ..changes }
    }

    /// Counts bytes that were read through the export.
    pub fn count_read(&self, bytes: usize) {
        self.export.traffic.read(bytes);
    }

    /// Counts bytes that were written through the export.
    pub fn count_written(&self, bytes: usize) {
        self.export.traffic.written(bytes);
    }

    /// The current attributes, if they can be read.
    pub fn post_op(&self) -> PostOp {
        PostOp(self.node.attr().ok().map(|attr| self.fattr(attr)))
    }

    /// Weak cache consistency data: `before`, and the current attributes.
    pub fn wcc(&self, before: &Attr) -> Wcc {
        Wcc { before: Some(*before), after: self.post_op() }
    }
}
