//! Which directory an open one is, so that it is known again after its file system was mounted
//! anew.
//!
//! A number alone does not tell: most file systems number their roots alike, FUSE daemons all of
//! them. Disks record when a directory was made. Where that is not to be had, or handles are not
//! kept, the directory is also known by what was mounted: type and source, as `server:/volume` of
//! GlusterFS. The number of the device is no part of it, because each mount of FUSE, NFS or CephFS
//! has another one.

use std::fmt;
use std::os::fd::AsFd;

use super::attr::Attr;
use super::handle::Stamp;
use crate::errno::Result;
use crate::sys::filesystem::FileSystem;
use crate::sys::mounts::Source;

/// Which directory it is.
#[derive(Clone, Debug)]
pub struct Which {
    pub(super) kind: FileSystem,
    stamp: Stamp,
    /// What was mounted, where it takes that to tell and can be found out.
    source: Option<Source>,
}

impl Which {
    /// Looks at the directory of `fd`. Blocks.
    ///
    /// # Errors
    /// As statx(2) and fstatfs(2).
    pub fn of(fd: impl AsFd) -> Result<Self> {
        let attr = Attr::of(&fd)?;
        Self::with(&fd, &attr)
    }

    pub(super) fn with(fd: impl AsFd, attr: &Attr) -> Result<Self> {
        let kind = FileSystem::of(&fd)?;
        let is_told = attr.born.is_some() && kind.keeps_handles();
        let source = if is_told { None } else { Source::of(fd) };
        Ok(Self { kind, stamp: Stamp::of(attr), source })
    }

    /// Whether this, which was just opened, is the same directory as `before`.
    pub fn is_still(&self, before: &Self) -> bool {
        let source = before.source.is_none() || self.source == before.source;
        (self.kind, self.stamp) == (before.kind, before.stamp) && source
    }

    /// Whether it is the directory in which another mount of the same kind of file system begins.
    pub(super) fn is_rival_of(&self, before: &Self) -> bool {
        self.kind == before.kind && self.source.is_some() && self.source != before.source
    }

    /// What was mounted, if it takes that to tell the directory from others. `None` for a disk: its
    /// device may have another name after a restart of the machine.
    pub fn source(&self) -> Option<String> {
        let source = self.source.as_ref().filter(|_| !self.kind.keeps_handles());
        source.map(ToString::to_string)
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => source.fmt(f),
            None => self.kind.fmt(f),
        }
    }
}
