//! The current and the saved file of a compound (RFC 8881 section 16.2.3.1).

use super::compound::Stop;
use super::pseudo::PseudoId;
use super::status::Status;
use crate::fs::handle::Handle;
use crate::locks::Stateid;
use crate::nfs::context::{CallContext, Fh, Object};

/// The place of a file in a compound, with the stateid that belongs to it.
#[derive(Clone, Default)]
pub struct FileSlot<'a> {
    file: Option<File<'a>>,
    /// The current or saved stateid, which an operation left for those that follow.
    pub stateid: Option<Stateid>,
}

/// A file.
#[derive(Clone)]
enum File<'a> {
    /// A directory of the pseudo file system.
    Pseudo(PseudoId),
    /// A file of an export that was not looked up again since the compound was suspended.
    Handle(Handle),
    /// A file of an export.
    Object(Object<'a>),
}

/// The file of a compound that is suspended.
#[derive(Clone, Copy, Default)]
pub struct SuspendedFile {
    handle: Option<Handle>,
    pseudo: Option<PseudoId>,
    stateid: Option<Stateid>,
}

/// The file that an operation works on.
pub enum Target<'s, 'a> {
    /// A directory of the pseudo file system.
    Pseudo(PseudoId),
    /// A file of an export.
    Object(&'s Object<'a>),
}

impl<'a> FileSlot<'a> {
    /// The slot of a directory of the pseudo file system.
    pub const fn pseudo(id: PseudoId) -> Self {
        Self { file: Some(File::Pseudo(id)), stateid: None }
    }

    /// The slot of a file of an export.
    pub const fn object(object: Object<'a>) -> Self {
        Self { file: Some(File::Object(object)), stateid: None }
    }

    /// Returns the file. Looks it up again if the compound was suspended.
    ///
    /// # Errors
    /// `NOFILEHANDLE` if there is none; those of [`CallContext::object`].
    pub fn target(&mut self, cx: &CallContext<'a>) -> Result<Target<'_, 'a>, Stop> {
        if let Some(File::Handle(handle)) = &self.file {
            let object = cx.object(Fh(handle.as_ref()))?;
            self.file = Some(File::Object(object));
        }
        match &self.file {
            Some(File::Pseudo(id)) => Ok(Target::Pseudo(*id)),
            Some(File::Object(object)) => Ok(Target::Object(object)),
            //= RFC 8881 15.1.2.5: an operation on the current file, without one, gets NOFILEHANDLE
            None | Some(File::Handle(_)) => Err(Status::NOFILEHANDLE.into()),
        }
    }

    /// Returns the file if it lies in an export.
    ///
    /// # Errors
    /// Those of [`Self::target`]; `otherwise` for a directory of the pseudo file system.
    pub fn in_export(
        &mut self,
        cx: &CallContext<'a>,
        otherwise: Status,
    ) -> Result<&Object<'a>, Stop> {
        match self.target(cx)? {
            Target::Object(object) => Ok(object),
            Target::Pseudo(_) => Err(otherwise.into()),
        }
    }

    /// Returns what is kept of the file while its compound is suspended.
    pub fn suspend(&self) -> SuspendedFile {
        let (handle, pseudo) = match &self.file {
            None => (None, None),
            Some(File::Pseudo(id)) => (None, Some(*id)),
            Some(File::Handle(handle)) => (Some(*handle), None),
            Some(File::Object(object)) => (Some(*object.node.handle()), None),
        };
        SuspendedFile { handle, pseudo, stateid: self.stateid }
    }

    /// Restores the file of a compound that goes on.
    pub fn resume(from: SuspendedFile) -> Self {
        let file = from.pseudo.map(File::Pseudo).or(from.handle.map(File::Handle));
        Self { file, stateid: from.stateid }
    }
}
