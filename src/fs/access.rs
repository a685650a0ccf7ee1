//! Access checks.

use super::Fs;
use super::attr::Attr;
use super::identity::Identity;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::sys;

/// A kind of access to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read its content, or list it.
    Read,
    /// Write its content, or change names in it.
    Write,
    /// Execute it, or look up names in it.
    Execute,
}

impl Access {
    const fn bit(self) -> i32 {
        match self {
            Self::Read => libc::R_OK,
            Self::Write => libc::W_OK,
            Self::Execute => libc::X_OK,
        }
    }
}

impl Fs {
    /// Whether the mode, the groups and the ACL of `node` allow `caller` the access.
    ///
    /// # Errors
    /// As faccessat2(2), except those that deny the access.
    pub fn may(&self, node: &Node, caller: &Identity, access: Access) -> Result<bool> {
        let checked = self.switch.acting_as(caller, || sys::file::access(node, access.bit()))?;
        match checked {
            Ok(()) => Ok(true),
            Err(Errno::ACCES | Errno::PERM | Errno::ROFS | Errno::TXTBSY) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Whether `caller` may read the content of `node`, which has `attr`. The owner may, whatever
    /// the mode is by now: the client checked when the file was opened. A caller that may execute
    /// a file must be able to read it.
    ///
    /// # Errors
    /// As [`Fs::may`].
    pub fn may_read(&self, node: &Node, attr: &Attr, caller: &Identity) -> Result<bool> {
        Ok(self.owns(attr, caller)
            || self.may(node, caller, Access::Read)?
            || self.may(node, caller, Access::Execute)?)
    }

    /// Whether `caller` may write the content of `node`, which has `attr`; as [`Fs::may_read`].
    ///
    /// # Errors
    /// As [`Fs::may`].
    pub fn may_write(&self, node: &Node, attr: &Attr, caller: &Identity) -> Result<bool> {
        Ok(self.owns(attr, caller) || self.may(node, caller, Access::Write)?)
    }

    /// Whether `caller` is root or the owner. Without the privilege to act as others, every caller
    /// is the server's user.
    pub(super) fn owns(&self, attr: &Attr, caller: &Identity) -> bool {
        let acting = if self.switch.can_switch() { caller } else { self.switch.server() };
        acting.is_root() || acting.uid == attr.uid
    }
}
