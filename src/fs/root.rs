//! Roots: the directories that are exported, open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use rustix::fs::{Mode, OFlags};

use super::attr::Attr;
use super::flush::Named;
use super::group::Group;
use super::handle::{Body, STAMPED_MAX, Stamp};
use super::proof;
use super::which::Which;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Account;
use crate::sys::disk::{self, Discipline};
use crate::sys::filesystem::FileSystem;
use crate::sys::handle::{self, KernelHandle, Mount};

/// How the files of an export are found by their handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// By the file system's own handle: survives everything but the file's removal, on file systems
    /// that never give a handle to another file. On others the file that it leads to is compared
    /// with what the handle says.
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
    /// Where the directory is.
    pub(super) path: PathBuf,
    /// Whether its file system was found to be away ([`super::away`]).
    pub(super) away: AtomicBool,
    /// Whether it was opened anew, and nothing is to be done with this one any more.
    pub(super) replaced: AtomicBool,
    /// The directory, open for reading: opening by handle asks for such a descriptor.
    directory: OwnedFd,
    /// Where its file system is mounted, if that gives handles.
    pub(super) mount: Option<Mount>,
    /// Which directory it is.
    pub(super) which: Which,
    /// Whether it was said that another one is in its place.
    pub(super) told_of_rival: AtomicBool,
    /// The directory's number.
    pub(super) fileid: u64,
    /// Which file system of that kind, or the subvolume of one; while this is open, no other gets
    /// its number.
    pub(super) filesystem: (u32, u32),
    /// What its files are booked to, if anything.
    pub(super) account: Option<Arc<Account>>,
    /// What flushing means to its file system.
    pub(super) discipline: Discipline,
    /// Whether its file system may have files without a name; it is found out when one is made.
    pub(super) has_unnamed: AtomicBool,
    /// Open files with content that no flush covers; those of all exports together, once it is
    /// attached.
    pub(super) unflushed: Arc<AtomicUsize>,
    /// Who waits for names and attributes to be flushed.
    pub(super) names: Group<Vec<Named>>,
    /// Who waits for room that is held until files are flushed.
    pub(super) room: Group<()>,
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
        let attr = Attr::of(&directory)?;
        let which = Which::with(&directory, &attr)?;
        let handles = match wanted {
            Some(HandleKind::Path) => HandleKind::Path,
            Some(HandleKind::Kernel) => {
                proof::keeps(&directory)?;
                HandleKind::Kernel
            }
            None if which.kind.keeps_handles() && proof::keeps(&directory).is_ok() => {
                HandleKind::Kernel
            }
            None => HandleKind::Path,
        };
        let mount = handle::mount(&directory).ok();
        let (discipline, names) = (disk::discipline(&directory), Group::default());
        let has_unnamed = AtomicBool::new(true);
        Ok(Self {
            id,
            handles,
            path: dir.to_path_buf(),
            away: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            directory,
            mount,
            which,
            told_of_rival: AtomicBool::new(false),
            fileid: attr.fileid,
            filesystem: attr.filesystem,
            account,
            discipline,
            has_unnamed,
            unflushed: Arc::default(),
            names,
            room: Group::default(),
        })
    }

    /// Whether the file system never gives a handle to another file.
    pub(super) fn keeps_handles(&self) -> bool {
        self.which.kind.keeps_handles()
    }

    /// The file system, if its handles are used although another file may get them.
    pub fn risks_handles(&self) -> Option<FileSystem> {
        (self.handles == HandleKind::Kernel && !self.keeps_handles()).then_some(self.which.kind)
    }

    /// What goes into the handle of the file that has `attr`, with the file system's own.
    ///
    /// # Errors
    /// `EOVERFLOW` if that is too long.
    pub(super) fn body(&self, attr: &Attr, kernel: KernelHandle) -> Result<Body<'static>> {
        if self.keeps_handles() {
            return Ok(Body::Kernel(kernel));
        }
        let fits = kernel.bytes().len() <= STAMPED_MAX;
        fits.then_some(Body::Stamped(Stamp::of(attr), kernel)).ok_or(Errno::OVERFLOW)
    }

    /// Whether the file that has `attr`, to which the handle with this body led, is the one that it
    /// was made for. What is found by path was compared as it was found.
    pub(super) fn is_meant(&self, body: &Body<'_>, attr: &Attr) -> bool {
        match body {
            Body::Kernel(kernel) if self.which.kind.has_numbers_in_handles() => {
                kernel.fileid().is_none_or(|fileid| fileid == attr.fileid)
            }
            Body::Kernel(_) => self.keeps_handles(),
            Body::Stamped(stamp, _) => *stamp == Stamp::of(attr),
            Body::Path(_) => true,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Fs;
    use crate::fs::handle::{Handle, KEY_LEN, Key};
    use crate::fs::node::Node;
    use crate::fs::testing::Files;
    use crate::sched::Patience;

    const EXPORT: ExportId = ExportId(1);

    fn key() -> Key {
        Key::new([1; KEY_LEN])
    }

    /// Serves a directory as if a file system of `kind` were there; `None` where there are no
    /// handles.
    fn served(dir: &Path, kind: FileSystem) -> Option<Fs> {
        let fs = Fs::new(key(), 64, dir).unwrap();
        let root = Root::open(EXPORT, dir, Some(HandleKind::Kernel), None);
        let Ok(mut root) = root else {
            eprintln!("skipped: no handles here");
            return None;
        };
        root.which.kind = kind;
        fs.attach_all([root]);
        Some(fs)
    }

    fn open(fs: &Fs, body: Body<'_>) -> Result<()> {
        fs.nodes.sweep(0); // what is open is not asked for by its handle
        let handle = Handle::parse(key().seal(EXPORT, body).as_ref()).unwrap();
        fs.node(&handle, Patience::Blocking).map(drop)
    }

    #[test]
    fn a_handle_that_leads_to_another_file_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let Some(fs) = served(dir.path(), FileSystem::FUSE) else { return };
        let files = Files::of(&fs, EXPORT);
        let root = files.root();
        let (one, other) =
            (files.create(&root, "one").unwrap(), files.create(&root, "other").unwrap());
        let stamp = |node: &Node| Stamp::of(&node.attr().unwrap());
        let kernel = |node: &Node| handle::of(node).unwrap();
        let (mine, right) = (stamp(&one), kernel(&one));
        assert_eq!(one.handle().body(), Some(Body::Stamped(mine, right)));
        assert_eq!(open(&fs, Body::Stamped(mine, right)), Ok(()));
        // The file system has given what it called the one file to the other.
        assert_eq!(open(&fs, Body::Stamped(mine, kernel(&other))), Err(Errno::STALE));
        // The same number, by a file that was born at another time.
        let later = Stamp { generation: !mine.generation, ..mine };
        assert_eq!(open(&fs, Body::Stamped(later, right)), Err(Errno::STALE));
        // A handle that an earlier version gave out says nothing that could be compared.
        assert_eq!(open(&fs, Body::Kernel(right)), Err(Errno::STALE));
    }

    #[test]
    fn handles_are_as_short_as_they_were_where_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let Some(fs) = served(dir.path(), FileSystem::EXT) else { return };
        let root = Files::of(&fs, EXPORT).root();
        let kernel = handle::of(&root).unwrap();
        assert_eq!(root.handle().body(), Some(Body::Kernel(kernel)));
        assert_eq!(open(&fs, Body::Kernel(kernel)), Ok(()));
    }

    #[test]
    fn nothing_is_risked_unless_it_is_asked_for() {
        let proc = Path::new("/proc");
        assert_eq!(Root::open(EXPORT, proc, None, None).unwrap().handles, HandleKind::Path);
        let dir = tempfile::tempdir().unwrap();
        let root = |kind| {
            let mut root = Root::open(EXPORT, dir.path(), None, None).unwrap();
            root.which.kind = kind;
            root
        };
        assert_eq!(root(FileSystem::EXT).risks_handles(), None);
        let fuse = root(FileSystem::FUSE);
        let risk = (fuse.handles == HandleKind::Kernel).then_some(FileSystem::FUSE);
        assert_eq!(fuse.risks_handles(), risk);
    }
}
