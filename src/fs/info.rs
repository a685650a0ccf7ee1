//! What a file system says of itself.

use super::Fs;
use super::name::NAME_MAX;
use super::node::Node;
use crate::errno::Result;
use crate::quota::{Account, LimitRule};
use crate::sys;
use crate::sys::disk::DiskStatistics;

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

impl Space {
    /// The room that there is in a volume on this disk.
    fn within(self, account: &Account) -> Self {
        let (limits, used) = (account.limits(), account.usage());
        if limits.rule == LimitRule::Off {
            return self;
        }
        let disk = self.inodes;
        let inodes = limits.inodes.unwrap_or(used.inodes.saturating_add(disk.free));
        Self {
            bytes: self.bytes.within(limits.bytes, used.bytes),
            inodes: disk.within(inodes, used.inodes),
        }
    }
}

impl Amount {
    fn within(self, total: u64, used: u64) -> Self {
        let left = total.saturating_sub(used);
        Self { total, free: left.min(self.free), available: left.min(self.available) }
    }
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
    /// The room of the volume that `node` lies in, and without one that of its file system. Never
    /// more is left than the file system has. May block.
    ///
    /// # Errors
    /// As statfs(2) has them.
    pub fn space(&self, node: &Node) -> Result<Space> {
        let stat = DiskStatistics::of(node)?;
        let disk = Space {
            bytes: Amount {
                total: stat.total_bytes,
                free: stat.free_bytes,
                available: stat.available_bytes,
            },
            inodes: Amount {
                total: stat.total_inodes,
                free: stat.free_inodes,
                available: stat.available_inodes,
            },
        };
        Ok(node.root.account.as_ref().map_or(disk, |account| disk.within(account)))
    }

    /// The limits of the file system that `node` lies on. May block.
    ///
    /// # Errors
    /// As [`Fs::space`].
    pub fn limits(&self, node: &Node) -> Result<Limits> {
        let name = DiskStatistics::of(node)?.name_max_bytes;
        let name = u32::try_from(name).unwrap_or(u32::MAX);
        Ok(Limits {
            links: sys::file::link_max(node).unwrap_or(LINKS_MIN),
            name: name.min(u32::try_from(NAME_MAX).unwrap_or(u32::MAX)),
        })
    }
}
