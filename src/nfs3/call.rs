//! What a procedure works with: the files of its call, and the rights of its caller.

use std::cell::Cell;
use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::Nfs;
use super::status::{Fail, Why};
use super::types::{Fattr, Fh, PostOp, Wcc};
use crate::export::{Devices, Durability, Export, Mode, Options, SetId, Table};
use crate::fs::attr::{Attr, Changes, Kind, SET_IDS};
use crate::fs::flush::Due;
use crate::fs::handle::Handle;
use crate::fs::identity::Identity;
use crate::fs::node::Node;
use crate::fs::{Fs, Guard};
use crate::rpc::auth::Credentials;
use crate::rpc::pending::Delay;
use crate::rpc::{self, Outcome};
use crate::sys::Patience;

/// A call of a procedure.
pub struct Call<'a> {
    /// The server.
    pub nfs: &'a Nfs,
    /// What is exported while the call runs.
    pub table: &'a Table,
    /// As it came.
    pub rpc: &'a rpc::Call<'a>,
    /// Through which export it reaches its files, once that is known.
    pub export: Cell<Option<&'a Export>>,
}

/// A file of the call, and what its caller may do through the export that it was reached by.
pub struct Object<'a> {
    /// The file.
    pub node: Arc<Node>,
    /// The export's options for this client.
    pub options: Options,
    /// The caller, after the squash.
    pub who: Identity,
    export: &'a Export,
}

/// How an export shows attributes.
#[derive(Clone, Copy, Debug)]
pub struct View {
    fsid: u64,
    set_id: SetId,
    devices: Devices,
}

impl View {
    /// Attributes, as they go into replies.
    pub const fn of(self, mut attr: Attr) -> Fattr {
        attr.mode = self.mode(attr.kind, attr.mode);
        if matches!(self.devices, Devices::Refused) {
            attr.device = (0, 0); // which no driver has
        }
        Fattr { attr, fsid: self.fsid }
    }

    const fn mode(self, kind: Kind, mode: u32) -> u32 {
        match (self.set_id, kind) {
            (SetId::Kept, _) | (_, Kind::Directory) => mode,
            (SetId::Refused, _) => mode & !SET_IDS,
        }
    }
}

/// How a file in a directory gets onto the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settles {
    /// With the name that it was given, where the file system can do that.
    WithItsDirectory,
    /// By itself: it was changed apart from that.
    Alone,
}

impl<'a> Call<'a> {
    /// The backing directories.
    pub fn fs(&self) -> &Fs {
        &self.nfs.fs
    }

    /// Whether the call may wait.
    pub const fn patience(&self) -> Patience {
        self.rpc.patience
    }

    /// The file of a handle. The client list is checked here, at every call, for every handle.
    pub fn object(&self, fh: Fh<'_>) -> Result<Object<'a>, Why> {
        let handle = Handle::parse(fh.0)?;
        let export = self.table.get(handle.export()).ok_or(nfsstat3::NFS3ERR_STALE)?;
        let options = export.access(self.rpc.peer)?;
        let who = self.caller(&options);
        self.export.set(Some(export));
        let node = self.fs().node(&handle, self.patience())?;
        Ok(Object { node, options, who, export })
    }

    /// The same for a file that is going to be changed: not through a read-only export.
    pub fn object_to_change(&self, fh: Fh<'_>) -> Result<Object<'a>, Why> {
        let object = self.object(fh)?;
        if object.options.mode == Mode::ReadOnly {
            return Err(nfsstat3::NFS3ERR_ROFS.into());
        }
        Ok(object)
    }

    /// Puts a change of names or attributes off, if it has to be on the disk before it is answered, or if
    /// changes have turned out to be slow lately. To make one where it was read that comes alone, and have
    /// only the flush elsewhere, saved CREATE and REMOVE less than a tenth.
    pub fn may_change_now(&self, object: &Object<'_>) -> Result<(), Why> {
        let waits = object.options.durability == Durability::Sync || !self.nfs.pace.is_quick();
        if waits && self.patience() == Patience::None { Err(Why::Later) } else { Ok(()) }
    }

    fn caller(&self, options: &Options) -> Identity {
        match &self.rpc.credentials {
            Credentials::Sys(sys) => {
                let squashed = options.squash(sys.uid, sys.gid, sys.groups());
                Identity::new(squashed.uid, squashed.gid, squashed.groups())
            }
            Credentials::None => Identity::new(options.anonymous.uid, options.anonymous.gid, []),
        }
    }

    /// Changes a directory: `work` runs under its lock, between the two looks at its attributes.
    pub fn change_directory<T>(
        &self,
        dir: &Object<'_>,
        work: impl FnOnce(&Guard<'_>) -> Result<T, Why>,
    ) -> Result<(T, Wcc), Fail<Wcc>> {
        self.may_change_now(dir)?;
        let guard = self.fs().lock(&dir.node, self.patience())?;
        let before = dir.node.attr()?;
        let done = self.nfs.pace.watch(self.patience(), || work(&guard));
        let wcc = dir.wcc(&before);
        Ok((done.map_err(|why| why.under(&guard).with(wcc))?, wcc))
    }

    /// Has a call that found its volume full tried again when files of that have been flushed, unless
    /// it has waited too often for that.
    pub fn wait_for_room(&self) -> Option<Outcome> {
        let id = self.export.get().filter(|_| self.rpc.may_wait)?.id;
        let fs = Arc::clone(&self.nfs.fs);
        Some(Outcome::Wait(Delay::new(move |wake| fs.settle_volume(id, Box::new(|_| wake())))))
    }
}

impl Object<'_> {
    /// What has to be on the disk before changes of the names and attributes of `nodes` are
    /// answered, if the export says so.
    pub fn due<const N: usize>(&self, nodes: [&Arc<Node>; N]) -> Option<Due> {
        match self.options.durability {
            Durability::Sync => Some(Due::Names(nodes.map(Arc::clone).to_vec())),
            Durability::Async => None,
        }
    }

    /// The same for a directory and a file that has come into it, or was there and has changed.
    pub fn due_with(&self, file: &Arc<Node>, settles: Settles) -> Option<Due> {
        match settles {
            Settles::WithItsDirectory if self.node.settles_new_names() => self.due([&self.node]),
            // The file first: a name of a file that is not there is worse than none.
            _ => self.due([file, &self.node]),
        }
    }

    /// Attributes, as they go into replies.
    pub const fn fattr(&self, attr: Attr) -> Fattr {
        self.view().of(attr)
    }

    /// How the export shows attributes.
    pub const fn view(&self) -> View {
        View { fsid: self.export.id.0, set_id: self.options.set_id, devices: self.options.devices }
    }

    /// What of `changes` the export lets a file of this kind have. The bits that it refuses are left
    /// out and the rest is done, as Linux does it for those who may not set them.
    pub fn allowed(&self, kind: Kind, changes: Changes) -> Changes {
        let mode = changes.mode.map(|mode| self.view().mode(kind, mode));
        Changes { mode, ..changes }
    }

    /// Notes that so many bytes were read through the export.
    pub fn count_read(&self, bytes: usize) {
        self.export.traffic.read(bytes);
    }

    /// Notes that so many bytes were written through the export.
    pub fn count_written(&self, bytes: usize) {
        self.export.traffic.written(bytes);
    }

    /// The attributes at this moment, if they can be read.
    pub fn post_op(&self) -> PostOp {
        PostOp(self.node.attr().ok().map(|attr| self.fattr(attr)))
    }

    /// The attributes before a change, and at this moment.
    pub fn wcc(&self, before: &Attr) -> Wcc {
        Wcc { before: Some(*before), after: self.post_op() }
    }
}
