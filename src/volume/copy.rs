//! Copies a tree of files into an empty directory, with all metadata that clients can see.
//!
//! A copy keeps content with its holes, owner, mode, both times, ACLs, extended attributes,
//! symbolic links, pipes, sockets, devices and hard links. Content is shared with the source where
//! the file system supports it (FICLONE), which makes a copy take seconds. Files that are removed
//! while the copy is in progress and mount points are left out. A directory gets its attributes
//! after its content: this preserves its times, passes on no ACL, and lets only the server enter it
//! before.
//!
//! At the end everything is on the disk. One syncfs(2) does that, which also waits for data of
//! others. To flush each file would cost a journal commit each, and make a tree of small files
//! about a hundred times slower.
//!
//! Without privilege (not root) the copy belongs to the server's user, as far as owners cannot be
//! changed, and set-id bits that would then apply to another user are dropped.

mod attributes;
mod content;
mod links;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Mode, OFlags};

use self::attributes::AttributeCopier;
use self::content::ContentCopier;
use self::links::{HardLinks, TargetDir};
use super::progress::TreeProgress;
use super::tree::file::{self, FileStat};
use super::tree::{Descent, TreeEntry, TreeWalk};
use crate::errno::Errno;

/// The totals of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyTotals {
    /// Names that were made, without the root.
    pub entries: u64,
    /// Bytes on the disk, including the directories and the root.
    pub bytes: u64,
    /// Mount points that were left out. Files that vanished during the copy do not count.
    pub left_out: u64,
}

/// Why a tree could not be copied. What was copied so far stays in place, for the caller to
/// discard.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the two directories cannot be opened.
    #[error("cannot open directory {}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The reason.
        source: Errno,
    },
    /// The target has content already.
    #[error("cannot copy into directory {}, which is not empty; give an empty one", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The target lies inside the source.
    #[error("cannot copy a tree into its own directory {}", path.display())]
    Inside {
        /// The directory, relative to the root of the tree.
        path: PathBuf,
    },
    /// The copy would exceed its limit.
    #[error("the copy exceeds its limit of {limit} bytes on the disk; allow more")]
    Limit {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The disk is full, or the quota on it is used up.
    #[error("cannot copy {}, the disk is full; free some space on it", path.display())]
    NoSpace {
        /// The file that was being copied, relative to the root of the tree.
        path: PathBuf,
        /// The reason.
        source: Errno,
    },
    /// [`TreeProgress::cancel`] was called.
    #[error("the copy was cancelled")]
    Cancelled,
    /// A directory was moved while the copy was in a subdirectory too deep to keep all its
    /// ancestors open.
    #[error("cannot copy {}, which was moved meanwhile; copy again", path.display())]
    Moved {
        /// The directory, relative to the root of the tree.
        path: PathBuf,
    },
    /// A file cannot be read, made or given its attributes.
    #[error("cannot copy {}", path.display())]
    Entry {
        /// The file, relative to the root of the tree.
        path: PathBuf,
        /// The reason.
        source: Errno,
    },
    /// The copy could not be flushed, so it may not survive a crash.
    #[error("cannot flush the copy {}", path.display())]
    Flush {
        /// The root of the copy.
        path: PathBuf,
        /// The reason.
        source: Errno,
    },
}

/// Why one entry could not be copied.
#[derive(Debug)]
enum EntryError {
    System(Errno),
    Limit(u64),
    Cancelled,
    Inside,
}

impl From<Errno> for EntryError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<rustix::io::Errno> for EntryError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

impl EntryError {
    /// Converts into the error of copying `path`.
    fn at(self, path: PathBuf) -> CopyError {
        match self {
            Self::System(source @ (Errno::NOSPC | Errno::DQUOT)) => {
                CopyError::NoSpace { path, source }
            }
            Self::System(source) => CopyError::Entry { path, source },
            Self::Limit(limit) => CopyError::Limit { limit },
            Self::Cancelled => CopyError::Cancelled,
            Self::Inside => CopyError::Inside { path },
        }
    }
}

/// Copies the content and the attributes of the directory `from` to the existing empty directory
/// `to`, and flushes the copy to the disk. Blocks until all is done, and acts with the identity of
/// the calling thread. May be repeated with another directory, or after emptying it.
///
/// The source may change meanwhile. Of a file, the length that it had when it was opened is copied;
/// where content can be shared, the copy is a snapshot of the whole file.
///
/// # Errors
/// As [`CopyError`]; what was copied so far stays in `to`. `limit_bytes` is what the copy may take
/// on the disk. It may be exceeded by up to 16 MiB before the error is returned.
pub fn copy_tree(
    from: &Path,
    to: &Path,
    progress: &TreeProgress,
    limit_bytes: u64,
) -> Result<CopyTotals, CopyError> {
    let mut copier = Copier::new(from, to, progress, limit_bytes)?;
    copier.run()?;
    let Copier { target, copied, .. } = copier;
    // The descriptor was opened before the first write, so syncfs also reports a write-back error
    // that occurred since.
    rustix::fs::syncfs(target.root())
        .map_err(|errno| CopyError::Flush { path: to.to_owned(), source: errno.into() })?;
    Ok(copied)
}

/// A copy in progress: the walk and the target are at the same place of their trees.
struct Copier<'a> {
    walk: TreeWalk,
    target: Descent,
    /// One for each directory from the root to the current one.
    levels: Vec<CopyLevel>,
    root: FileStat,
    links: HardLinks,
    content: ContentCopier,
    attributes: AttributeCopier,
    copied: CopyTotals,
    progress: &'a TreeProgress,
    limit: u64,
}

/// A directory whose content is being copied.
struct CopyLevel {
    /// Its attributes before it was read.
    stat: FileStat,
    place: Rc<TargetDir>,
}

impl<'a> Copier<'a> {
    fn new(
        from: &Path,
        to: &Path,
        progress: &'a TreeProgress,
        limit: u64,
    ) -> Result<Self, CopyError> {
        let (walk, stat) = open(from)?;
        let (mut empty, root) = open(to)?;
        let failed = |source| CopyError::Open { path: to.to_owned(), source };
        if empty.next_entry().map_err(failed)?.is_some() {
            return Err(CopyError::NotEmpty { path: to.to_owned() });
        }
        attributes::clear_acls(empty.here()).map_err(failed)?;
        let target = file::directory(empty.here(), c".").and_then(Descent::new).map_err(failed)?;
        Ok(Self {
            walk,
            target,
            levels: vec![CopyLevel { stat, place: TargetDir::root() }],
            root,
            links: HardLinks::default(),
            content: ContentCopier::new(),
            attributes: AttributeCopier::new(),
            copied: CopyTotals::default(),
            progress,
            limit,
        })
    }

    fn run(&mut self) -> Result<(), CopyError> {
        loop {
            if self.progress.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            match self.walk.next_entry() {
                Ok(Some(entry)) => {
                    let name = entry.name.clone();
                    self.entry(entry).map_err(|fault| fault.at(self.walk.path().show(&name)))?;
                }
                Ok(None) => {
                    self.finish().map_err(|fault| fault.at(self.here()))?;
                    if self.walk.path().depth() == 0 {
                        return Ok(());
                    }
                    self.leave()?;
                }
                Err(source) => return Err(CopyError::Entry { path: self.here(), source }),
            }
        }
    }

    fn entry(&mut self, entry: TreeEntry) -> Result<(), EntryError> {
        let place = match file::open_path(self.walk.here(), &entry.name) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::STALE) => return Ok(()), // it vanished
            Err(Errno::XDEV) => {
                self.leave_out(&entry.name);
                return Ok(());
            }
            Err(errno) => return Err(errno.into()),
        };
        let stat = FileStat::of(&place)?;
        match stat.kind {
            FileType::Directory => self.directory(&place, entry.name, stat)?,
            _ if self.link(&stat, &entry.name)? => {}
            FileType::RegularFile => self.file(&place, entry.name, &stat)?,
            _ => self.special(&place, entry.name, &stat)?,
        }
        self.copied.entries += 1;
        self.progress.add(1, 0);
        Ok(())
    }

    fn leave_out(&mut self, name: &CStr) {
        let path = self.walk.path().show(name);
        tracing::warn!(path = %path.display(), "the copy leaves out a mount point");
        self.copied.left_out += 1;
    }

    /// Makes a directory and enters it. It gets its attributes after its content.
    fn directory(
        &mut self,
        place: &OwnedFd,
        name: CString,
        stat: FileStat,
    ) -> Result<(), EntryError> {
        if stat.id == self.root.id {
            return Err(EntryError::Inside);
        }
        let source = file::directory(place, c".")?;
        rustix::fs::mkdirat(self.target.here(), &name, Mode::RWXU)?;
        let made = file::directory(self.target.here(), &name)?;
        let above = self.levels.last().expect("there is a level for every directory");
        let level = CopyLevel { stat, place: above.place.below(name.clone()) };
        self.walk.enter(name.clone(), source)?;
        self.target.down(name, made)?;
        self.levels.push(level);
        Ok(())
    }

    /// Makes another name of a file that was already copied. Returns `false` if there is no such
    /// copy.
    fn link(&mut self, stat: &FileStat, name: &CStr) -> Result<bool, EntryError> {
        let target = &self.target;
        Ok(stat.links > 1 && self.links.link(target.root(), stat, target.here(), name)?)
    }

    fn file(&mut self, place: &OwnedFd, name: CString, stat: &FileStat) -> Result<(), EntryError> {
        let source = file::content(place, OFlags::RDONLY)?;
        // An estimate that is seldom too high: the disk may have allocated more than the file's
        // content.
        self.within_limit(stat.used.min(stat.size))?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::openat(self.target.here(), &name, flags, mode)?;
        let (taken, limit, progress) = (self.copied.bytes, self.limit, self.progress);
        let mut step = |bytes| {
            progress.add(0, bytes);
            within(taken, FileStat::of(&made)?.used, limit)?;
            if progress.is_cancelled() { Err(EntryError::Cancelled) } else { Ok(()) }
        };
        self.content.copy(&source, &made, stat.size, &mut step)?;
        self.complete(place, &made, name, stat)
    }

    /// Makes a file without content of its own: a symbolic link, a pipe, a socket or a device.
    fn special(
        &mut self,
        place: &OwnedFd,
        name: CString,
        stat: &FileStat,
    ) -> Result<(), EntryError> {
        let dir = self.target.here();
        match stat.kind {
            FileType::Symlink => {
                rustix::fs::symlinkat(attributes::target(place.as_fd())?, dir, &name)?;
            }
            kind => {
                let mode = Mode::RUSR | Mode::WUSR;
                rustix::fs::mknodat(dir, &name, kind, mode, stat.device)?;
            }
        }
        let made = file::open_path(dir, &name)?;
        self.complete(place, &made, name, stat)
    }

    /// Applies the attributes to a file that was made.
    fn complete(
        &mut self,
        place: &OwnedFd,
        made: &OwnedFd,
        name: CString,
        stat: &FileStat,
    ) -> Result<(), EntryError> {
        self.attributes.apply(place.as_fd(), made.as_fd(), stat)?;
        if stat.links > 1 {
            let level = self.levels.last().expect("there is a level for every directory");
            self.links.remember(stat, &level.place, name);
        }
        self.take(FileStat::of(made)?.used)
    }

    /// Applies the attributes to the current directory, whose content was copied.
    fn finish(&mut self) -> Result<(), EntryError> {
        let level = self.levels.last().expect("there is a level for every directory");
        self.attributes.apply(self.walk.here(), self.target.here(), &level.stat)?;
        self.take(FileStat::of(self.target.here())?.used)
    }

    fn leave(&mut self) -> Result<(), CopyError> {
        let path = self.here();
        if let Err(source) = self.walk.leave() {
            return match source {
                Errno::STALE => Err(CopyError::Moved { path }),
                source => Err(CopyError::Entry { path, source }),
            };
        }
        self.target.up().map_err(|source| CopyError::Entry { path, source })?;
        self.levels.pop();
        Ok(())
    }

    /// Adds to the bytes that the copy takes on the disk.
    fn take(&mut self, bytes: u64) -> Result<(), EntryError> {
        self.within_limit(bytes)?;
        self.copied.bytes += bytes;
        Ok(())
    }

    fn within_limit(&self, more: u64) -> Result<(), EntryError> {
        within(self.copied.bytes, more, self.limit)
    }

    fn here(&self) -> PathBuf {
        self.walk.path().show(c".")
    }
}

fn within(taken: u64, more: u64, limit: u64) -> Result<(), EntryError> {
    if taken.saturating_add(more) > limit { Err(EntryError::Limit(limit)) } else { Ok(()) }
}

fn open(path: &Path) -> Result<(TreeWalk, FileStat), CopyError> {
    let open = || {
        let root = file::root(path)?;
        let stat = FileStat::of(&root)?;
        Ok((TreeWalk::new(root)?, stat))
    };
    open().map_err(|source| CopyError::Open { path: path.to_owned(), source })
}
