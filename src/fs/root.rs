//! Roots: the directories that are exported, open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, OFlags};

use super::attr::Attr;
use super::group::Group;
use super::handle::{Body, Key};
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Account;
use crate::sys::disk::{self, Discipline};
use crate::sys::handle::{self, Mount};

/// How the files of an export are found by their handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// By the file system's own handle: survives everything but the file's removal.
    Kernel,
    /// By number and path, where the file system or the privileges do not allow the other:
    /// survives a restart, and renaming through the server.
    Path,
}

/// An exported directory.
pub struct Root {
    /// The export.
    pub id: ExportId,
    /// How its files are found.
    pub handles: HandleKind,
    /// The directory, open for reading: opening by handle asks for such a descriptor.
    directory: OwnedFd,
    /// Where its file system is mounted, if that gives handles.
    pub(super) mount: Option<Mount>,
    /// The directory's number.
    pub(super) fileid: u64,
    /// Its file system, or the subvolume of one; while this is open, no other gets its number.
    pub(super) filesystem: (u32, u32),
    /// What its files are booked to, if anything.
    pub(super) account: Option<Arc<Account>>,
    /// What flushing means to its file system.
    pub(super) discipline: Discipline,
    /// Whether its file system may have files without a name; it is found out when one is made.
    pub(super) has_unnamed: AtomicBool,
    /// Who waits for names and attributes to be flushed.
    pub(super) names: Group<Vec<Arc<Node>>>,
}

impl Root {
    /// Opens the directory of an export, and finds out how its files can be found again.
    /// `wanted` rules that out for the kind that it does not name.
    ///
    /// # Errors
    /// The directory cannot be opened, or the kind of handle that is wanted does not work here.
    pub fn open(
        id: ExportId,
        dir: &Path,
        wanted: Option<HandleKind>,
        account: Option<Arc<Account>>,
    ) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory: OwnedFd = rustix::fs::open(dir, flags, Mode::empty())?;
        let Attr { fileid, filesystem, .. } = Attr::of(&directory)?;
        let handles = match wanted {
            Some(HandleKind::Path) => HandleKind::Path,
            Some(HandleKind::Kernel) => {
                reopens(&directory)?;
                HandleKind::Kernel
            }
            None if reopens(&directory).is_ok() => HandleKind::Kernel,
            None => HandleKind::Path,
        };
        let mount = handle::mount(&directory).ok();
        let (discipline, names) = (disk::discipline(&directory), Group::default());
        let has_unnamed = AtomicBool::new(true);
        Ok(Self {
            id,
            handles,
            directory,
            mount,
            fileid,
            filesystem,
            account,
            discipline,
            has_unnamed,
            names,
        })
    }

    /// Whether this is what is at `dir` now.
    pub(super) fn is_at(&self, dir: &Path) -> bool {
        let same = |ours: rustix::fs::Stat, theirs: rustix::fs::Stat| {
            // A number may be used again, but not while what had it still has a name.
            ours.st_nlink > 0 && (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
        };
        let ours = rustix::fs::fstat(&self.directory);
        matches!((ours, rustix::fs::stat(dir)), (Ok(ours), Ok(theirs)) if same(ours, theirs))
    }

    /// A further descriptor of the directory, whoever asks.
    pub(super) fn place(&self) -> Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(&self.directory, 0)?)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Whether a directory can be opened by its own handle.
fn reopens(directory: &OwnedFd) -> Result<()> {
    let handle = handle::of(directory)?;
    // It has to fit into ours with everything around it.
    Key::new([0; super::handle::KEY_LEN]).seal(ExportId(0), Body::Kernel(handle));
    let again = handle::open(directory, &handle)?;
    let same = Attr::of(&again)?.fileid == Attr::of(directory)?.fileid;
    if same { Ok(()) } else { Err(Errno::STALE) }
}
