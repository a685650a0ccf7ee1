//! The context of a call: the exports, the files of the call, and the rights of its caller.

use std::cell::Cell;
use std::sync::Arc;

use super::core::Core;
use super::failure::Failure;
use crate::errno::Errno;
use crate::export::{Devices, Durability, Export, ExportMode, ExportOptions, ExportTable, SetId};
use crate::fs::Fs;
use crate::fs::attr::{Attr, Changes, FileKind, SET_IDS};
use crate::fs::guard::Guard;
use crate::fs::handle::Handle;
use crate::fs::identity::Identity;
use crate::fs::name::Name;
use crate::fs::node::Node;
use crate::rpc::auth::Credentials;
use crate::rpc::pending::Delay;
use crate::rpc::program::{Call, Outcome};
use crate::sched::Patience;

/// The context in which a procedure runs.
pub struct CallContext<'a> {
    /// What all calls share.
    pub core: &'a Core,
    /// The call as received.
    pub rpc: &'a Call<'a>,
    /// The exports, as they were when the call began.
    table: &'a ExportTable,
    /// The export that the call uses, once it is known.
    export: Cell<Option<&'a Export>>,
}

/// A file handle as received, unchecked.
#[derive(Clone, Copy, Debug)]
pub struct Fh<'a>(pub &'a [u8]);

/// A file of the call, with the caller's rights in the export of its handle.
#[derive(Clone)]
pub struct Object<'a> {
    /// The file.
    pub node: Arc<Node>,
    /// The export's options for this client.
    pub options: ExportOptions,
    /// The caller's identity, after the squash.
    pub caller: Identity,
    export: &'a Export,
}

/// The changes that an export makes to attributes in replies.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The export's id, which clients see as the id of the file system.
    pub fsid: u64,
    set_id: SetId,
    devices: Devices,
}

/// The attributes of a file before and after a change, read under the lock of the change: they show
/// a client whether another client changed the file, too.
#[derive(Clone, Copy, Debug)]
pub struct Transition {
    /// Attributes before the change.
    pub before: Attr,
    /// Attributes after the change, if they can be read.
    pub after: Option<Attr>,
}

impl<'a> CallContext<'a> {
    /// Creates the context of a call that begins.
    pub const fn new(core: &'a Core, table: &'a ExportTable, rpc: &'a Call<'a>) -> Self {
        Self { core, rpc, table, export: Cell::new(None) }
    }

    /// Returns the file system operations.
    pub fn fs(&self) -> &Fs {
        &self.core.fs
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
    pub fn object(&self, fh: Fh<'_>) -> Result<Object<'a>, Failure> {
        let handle = Handle::parse(fh.0)?;
        let export = self.table.get(handle.export()).ok_or(Errno::STALE)?;
        let options = export.access(self.rpc.peer)?;
        let caller = self.identity(&options);
        self.export.set(Some(export));
        let node = self.fs().node(&handle, self.patience())?;
        Ok(Object { node, options, caller, export })
    }

    /// Returns the directory that an export exports.
    ///
    /// # Errors
    /// As [`Self::object`]; `WouldBlock` if the call must not block.
    pub fn root_of(&self, export: &Export) -> Result<Object<'a>, Failure> {
        export.access(self.rpc.peer)?;
        if self.patience() == Patience::None {
            return Err(Failure::WouldBlock);
        }
        let handle = self.fs().locate(export.id, b"")?;
        self.object(Fh(handle.as_ref()))
    }

    /// Looks up a name in a directory.
    ///
    /// # Errors
    /// As [`Fs::find`].
    pub fn find(&self, dir: &Object<'a>, name: Name<'_>) -> Result<Object<'a>, Failure> {
        let (node, _) = self.fs().find(&dir.node, name, &dir.caller, self.patience())?;
        Ok(Object { node, ..dir.clone() })
    }

    /// As [`Self::object`], for a file that the call changes.
    ///
    /// # Errors
    /// As [`Self::object`]; `EROFS` if the export is read-only.
    pub fn object_to_change(&self, fh: Fh<'_>) -> Result<Object<'a>, Failure> {
        let object = self.object(fh)?;
        if object.options.mode == ExportMode::ReadOnly {
            return Err(Errno::ROFS.into());
        }
        Ok(object)
    }

    /// Defers a change of names or attributes that may block: one that must be flushed before the
    /// reply is sent, or any change while changes are slow. Making such a change here and flushing
    /// it elsewhere saves too little to be worth it.
    ///
    /// # Errors
    /// `WouldBlock`, if the call must not block.
    pub fn defer_if_slow(&self, object: &Object<'_>) -> Result<(), Failure> {
        let waits = object.options.durability == Durability::Sync || !self.core.pace.is_quick();
        if waits && self.patience() == Patience::None { Err(Failure::WouldBlock) } else { Ok(()) }
    }

    fn identity(&self, options: &ExportOptions) -> Identity {
        match &self.rpc.credentials {
            Credentials::Sys(sys) => {
                let squashed = options.squash(sys.uid, sys.gid, sys.groups());
                Identity::new(squashed.uid, squashed.gid, squashed.groups())
            }
            Credentials::None => Identity::new(options.anonymous.uid, options.anonymous.gid, []),
        }
    }

    /// Runs `work`, which changes a directory, under the directory's lock. Returns its result, and
    /// the directory's attributes before and after.
    ///
    /// # Errors
    /// The directory cannot be locked, or has no attributes; `work` did not run.
    pub fn change_directory<T>(
        &self,
        dir: &Object<'_>,
        work: impl FnOnce(&Guard<'_>) -> Result<T, Failure>,
    ) -> Result<(Result<T, Failure>, Transition), Failure> {
        self.defer_if_slow(dir)?;
        let guard = self.fs().lock(&dir.node, self.patience())?;
        let before = dir.node.attr()?;
        let result = self.core.pace.measure(self.patience(), || work(&guard));
        let transition = dir.since(before);
        Ok((result.map_err(|failure| failure.under(&guard)), transition))
    }

    /// Defers a call that found its volume full until the volume's files have been flushed. Returns
    /// `None` if the call may not wait again, or has no export.
    pub fn wait_for_room(&self) -> Option<Outcome> {
        let id = self.export.get().filter(|_| self.rpc.may_wait)?.id;
        let fs = Arc::clone(&self.core.fs);
        Some(Outcome::Wait(Delay::new(move |wake| fs.flush_volume(id, Box::new(|_| wake())))))
    }

    /// Counts the call for its export. A call counts once, when it completes: a deferred call runs
    /// again.
    pub fn count(&self, outcome: &Outcome) {
        if !matches!(outcome, Outcome::Later | Outcome::Wait(_))
            && let Some(export) = self.export.get()
        {
            export.traffic.call();
        }
    }
}

impl<'a> Object<'a> {
    /// Returns the export of its handle.
    pub const fn export(&self) -> &'a Export {
        self.export
    }
}

impl Object<'_> {
    /// Returns the changes that the export makes to attributes.
    pub const fn view(&self) -> View {
        View { fsid: self.export.id.0, set_id: self.options.set_id, devices: self.options.devices }
    }

    /// Returns the current attributes and those `before` a change.
    pub fn since(&self, before: Attr) -> Transition {
        Transition { before, after: self.node.attr().ok() }
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
}

impl View {
    /// Returns the attributes as they are put into replies.
    pub const fn of(self, mut attr: Attr) -> Attr {
        attr.mode = self.mode(attr.kind, attr.mode);
        if matches!(self.devices, Devices::Refused) {
            attr.device = (0, 0); // no driver has this number
        }
        attr
    }

    const fn mode(self, kind: FileKind, mode: u32) -> u32 {
        match (self.set_id, kind) {
            (SetId::Kept, _) | (_, FileKind::Directory) => mode,
            (SetId::Refused, _) => mode & !SET_IDS,
        }
    }
}
