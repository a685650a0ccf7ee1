//! What identifies an exported directory, also after its file system was remounted.
//!
//! The inode number does not suffice: most file systems give their roots the same one, FUSE daemons
//! all of them. File systems on disks record the birth time. Where there is none, or handles are
//! not kept, the fingerprint includes what was mounted: type and source, such as `server:/volume`
//! of GlusterFS. It does not include the device number, because each mount of FUSE, NFS or CephFS
//! has a new one.

use std::fmt;
use std::os::fd::AsFd;

use super::attr::Attr;
use super::handle::Stamp;
use crate::errno::Result;
use crate::sys::filesystem::FileSystem;
use crate::sys::mounts::Source;

/// The identity of a directory.
#[derive(Clone, Debug)]
pub struct Fingerprint {
    pub(super) kind: FileSystem,
    stamp: Stamp,
    /// What was mounted, if it is needed and known.
    source: Option<Source>,
}

impl Fingerprint {
    /// Takes the fingerprint of the directory of `fd`. Blocks.
    ///
    /// # Errors
    /// As statx(2) and fstatfs(2).
    pub fn of(fd: impl AsFd) -> Result<Self> {
        let attr = Attr::of(&fd)?;
        Self::with(&fd, &attr)
    }

    pub(super) fn with(fd: impl AsFd, attr: &Attr) -> Result<Self> {
        let kind = FileSystem::of(&fd)?;
        let is_unique = attr.born.is_some() && kind.keeps_handles();
        let source = if is_unique { None } else { Source::of(fd) };
        Ok(Self { kind, stamp: Stamp::of(attr), source })
    }

    /// Whether this fingerprint, which was just taken, is of the same directory as `before`.
    pub fn is_still(&self, before: &Self) -> bool {
        let source = before.source.is_none() || self.source == before.source;
        (self.kind, self.stamp) == (before.kind, before.stamp) && source
    }

    /// Whether it is the root of another mount of the same type of file system.
    pub(super) fn is_rival_of(&self, before: &Self) -> bool {
        self.kind == before.kind && self.source.is_some() && self.source != before.source
    }

    /// Returns what was mounted, if that is part of the identity. `None` for a disk, whose device
    /// may have another name after a restart of the machine.
    pub fn source(&self) -> Option<String> {
        let source = self.source.as_ref().filter(|_| !self.kind.keeps_handles());
        source.map(ToString::to_string)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => source.fmt(f),
            None => self.kind.fmt(f),
        }
    }
}
