//! As whom the thread acts in the file system.
//!
//! Ownership, setgid inheritance, sticky bits, ACLs and security modules are the kernel's work: a
//! change is made by a thread that has taken on the caller's file-system uid, gid and groups.
//! Taking them on costs more than most calls, so that a thread stays who it is until somebody else
//! is needed: what must run as the caller is wrapped in [`Switch::acting_as`], what needs the
//! server's privileges in [`Switch::as_server`], and everything else must not care.
//!
//! The kernel keeps this per thread, and so does the note of it here, in a thread-local: any other
//! place for it could come apart from what it describes.

use std::cell::Cell;

use crate::errno::{Errno, Result};
use crate::sys::user;

/// Groups that a caller may have besides the first: as many as AUTH_SYS carries.
pub const GROUPS_MAX: usize = 16;

/// Who acts, after the export's rule was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    groups: [u32; GROUPS_MAX],
    count: usize,
}

impl Identity {
    /// A user in groups; those beyond [`GROUPS_MAX`] are left out.
    pub fn new(uid: u32, gid: u32, groups: impl IntoIterator<Item = u32>) -> Self {
        let mut identity = Self { uid, gid, groups: [0; GROUPS_MAX], count: 0 };
        for (slot, group) in identity.groups.iter_mut().zip(groups) {
            *slot = group;
            identity.count += 1;
        }
        identity
    }

    /// The further groups.
    pub fn groups(&self) -> &[u32] {
        &self.groups[..self.count]
    }

    /// Whether it is root, whom no mode keeps out.
    pub const fn is_root(&self) -> bool {
        self.uid == 0
    }
}

/// Whom the thread acts as now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acting {
    Server,
    Caller(Identity),
    /// A switch failed half way.
    Unknown,
}

thread_local! {
    static NOW: Cell<Acting> = const { Cell::new(Acting::Server) };
}

/// The means to act as callers, if the process has them.
#[derive(Debug)]
pub struct Switch {
    server: Identity,
    can: bool,
}

impl Switch {
    /// Finds out who the server is, and whether it may act as others.
    pub fn new() -> Self {
        let (uid, gid) = user::fs_ids();
        // More groups than a caller can have are only lost to a server that cannot switch, and
        // then they are never set.
        let groups = user::groups(65536).unwrap_or_default();
        let server = Identity::new(uid, gid, groups);
        let mut switch = Self { server, can: true };
        let nobody = Identity::new(65534, 65534, []);
        switch.can = switch.acting_as(&nobody, || ()).is_ok() && switch.as_server(|| ()).is_ok();
        switch
    }

    /// Whether callers act as themselves; if not, everybody acts as the server's user.
    pub const fn can_switch(&self) -> bool {
        self.can
    }

    /// The user that the server runs as.
    pub const fn server(&self) -> &Identity {
        &self.server
    }

    /// Runs `work` as `caller`.
    ///
    /// # Errors
    /// `EACCES` if the caller's ids do not exist in the server's user namespace.
    pub fn acting_as<T>(&self, caller: &Identity, work: impl FnOnce() -> T) -> Result<T> {
        if self.can {
            self.become_(Acting::Caller(*caller), caller).map_err(|_| Errno::ACCES)?;
        }
        Ok(work())
    }

    /// Runs `work` as the server, with its privileges.
    ///
    /// # Errors
    /// The thread cannot become the server again, which the kernel always allows.
    pub fn as_server<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        if self.can {
            self.become_(Acting::Server, &self.server)?;
        }
        Ok(work())
    }

    fn become_(&self, acting: Acting, who: &Identity) -> Result<()> {
        let now = NOW.get();
        if now == acting {
            return Ok(());
        }
        let before = match &now {
            Acting::Server => Some(&self.server),
            Acting::Caller(caller) => Some(caller),
            Acting::Unknown => None,
        };
        NOW.set(Acting::Unknown);
        if before.is_none_or(|before| before.groups() != who.groups()) {
            user::set_groups(who.groups())?;
        }
        if before.is_none_or(|before| before.gid != who.gid) {
            user::set_fsgid(who.gid)?;
        }
        if before.is_none_or(|before| before.uid != who.uid) {
            user::set_fsuid(who.uid)?;
        }
        NOW.set(acting);
        Ok(())
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}
