//! What a file system says of itself.

use super::Fs;
use super::name::NAME_MAX;
use super::node::Node;
use crate::errno::Result;
use crate::sys;

/// Links that a file may surely have, where the file system does not say (POSIX).
const LINKS_MIN: u32 = 8;

/// An amount of something, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// All of it.
    pub total: u64,
    /// What is not used.
    pub free: u64,
    /// What is not used and not reserved for root.
    pub available: u64,
}

/// The room of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// For content, in bytes.
    pub bytes: Amount,
    /// For files.
    pub inodes: Amount,
}

/// The limits of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Links of a file.
    pub links: u32,
    /// Bytes of a name.
    pub name: u32,
}

impl Fs {
    /// The room of the file system that `node` lies on. May block.
    ///
    /// # Errors
    /// As statfs(2) has them.
    pub fn space(&self, node: &Node) -> Result<Space> {
        let stat = rustix::fs::fstatvfs(node)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            bytes: Amount {
                total: bytes(stat.f_blocks),
                free: bytes(stat.f_bfree),
                available: bytes(stat.f_bavail),
            },
            inodes: Amount { total: stat.f_files, free: stat.f_ffree, available: stat.f_favail },
        })
    }

    /// The limits of the file system that `node` lies on. May block.
    ///
    /// # Errors
    /// As [`Fs::space`].
    pub fn limits(&self, node: &Node) -> Result<Limits> {
        let stat = rustix::fs::fstatvfs(node)?;
        let name = u32::try_from(stat.f_namemax).unwrap_or(u32::MAX);
        Ok(Limits {
            links: sys::file::link_max(node).unwrap_or(LINKS_MIN),
            name: name.min(u32::try_from(NAME_MAX).unwrap_or(u32::MAX)),
        })
    }
}
