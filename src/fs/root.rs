//! Roots: the exported directories, open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use rustix::fs::{Mode, OFlags};

use super::attr::Attr;
use super::fingerprint::Fingerprint;
use super::flush::metadata_request::MetadataRequest;
use super::group_commit::GroupCommit;
use super::handle::{Body, STAMPED_MAX, Stamp};
use super::handle_probe;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Account;
use crate::sys::disk::{self, Discipline};
use crate::sys::filesystem::FileSystem;
use crate::sys::handle::{self, KernelHandle, Mount};

/// How the files of an export are found by their handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// By the file system's own handle, which is valid until the file is removed. On a file system
    /// that may give a handle to another file, the file that is found is compared with the handle.
    Kernel,
    /// By inode number and path, where the file system or missing privileges rule out the other.
    /// The handle survives a restart, and renaming through the server.
    Path,
}

/// An exported directory.
pub struct Root {
    /// The export.
    pub id: ExportId,
    /// How its files are found.
    pub handles: HandleKind,
    /// The path of the directory.
    pub(super) path: PathBuf,
    /// Whether its file system was found to be away ([`super::reopen`]).
    pub(super) away: AtomicBool,
    /// Whether it was reopened, and this one must not be used any more.
    pub(super) replaced: AtomicBool,
    /// The directory, open for reading: opening by handle asks for such a descriptor.
    directory: OwnedFd,
    /// The mount of its file system, if that has handles.
    pub(super) mount: Option<Mount>,
    /// The identity of the directory.
    pub(super) fingerprint: Fingerprint,
    /// Whether it was logged that another file system is in its place.
    pub(super) warned_of_rival: AtomicBool,
    /// The inode number of the directory.
    pub(super) fileid: u64,
    /// The device number of its file system or subvolume. No other has the same one while this is
    /// open.
    pub(super) filesystem: (u32, u32),
    /// The account to which its files are booked, if it is a volume.
    pub(super) account: Option<Arc<Account>>,
    /// The guarantees of flushes on its file system.
    pub(super) discipline: Discipline,
    /// Whether its file system may support O_TMPFILE. The first file that is created shows it.
    pub(super) has_unnamed: AtomicBool,
    /// The number of open files with content that no flush covers; once it is attached, of all
    /// exports together.
    pub(super) unflushed: Arc<AtomicUsize>,
    /// The callers that wait for metadata to be flushed.
    pub(super) metadata: GroupCommit<Vec<MetadataRequest>>,
    /// The callers that wait for room that is held until files are flushed.
    pub(super) room: GroupCommit<()>,
}

impl Root {
    /// Opens the directory of an export, and chooses the kind of its handles unless that is
    /// `wanted`. Blocks.
    ///
    /// # Errors
    /// The directory cannot be opened, or the wanted kind of handle does not work here.
    pub fn open(
        id: ExportId,
        dir: &Path,
        wanted: Option<HandleKind>,
        account: Option<Arc<Account>>,
    ) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory: OwnedFd = rustix::fs::open(dir, flags, Mode::empty())?;
        let attr = Attr::of(&directory)?;
        let fingerprint = Fingerprint::with(&directory, &attr)?;
        let handles = match wanted {
            Some(HandleKind::Path) => HandleKind::Path,
            Some(HandleKind::Kernel) => {
                handle_probe::check(&directory)?;
                HandleKind::Kernel
            }
            None if fingerprint.kind.keeps_handles() && handle_probe::check(&directory).is_ok() => {
                HandleKind::Kernel
            }
            None => HandleKind::Path,
        };
        let mount = handle::mount(&directory).ok();
        let discipline = disk::discipline(&directory);
        let has_unnamed = AtomicBool::new(true);
        Ok(Self {
            id,
            handles,
            path: dir.to_path_buf(),
            away: AtomicBool::new(false),
            replaced: AtomicBool::new(false),
            directory,
            mount,
            fingerprint,
            warned_of_rival: AtomicBool::new(false),
            fileid: attr.fileid,
            filesystem: attr.filesystem,
            account,
            discipline,
            has_unnamed,
            unflushed: Arc::default(),
            metadata: GroupCommit::default(),
            room: GroupCommit::default(),
        })
    }

    /// Whether the file system never gives a handle to another file.
    pub(super) fn keeps_handles(&self) -> bool {
        self.fingerprint.kind.keeps_handles()
    }

    /// Whether no other file of the root will ever have the inode number and birth time of `attr`.
    pub(super) fn keeps_files_apart(&self, attr: &Attr) -> bool {
        self.handles == HandleKind::Kernel
            && self.keeps_handles()
            && attr.filesystem == self.filesystem
    }

    /// Returns the file system, if its handles are used although another file may get them.
    pub fn risks_handles(&self) -> Option<FileSystem> {
        (self.handles == HandleKind::Kernel && !self.keeps_handles())
            .then_some(self.fingerprint.kind)
    }

    /// Returns the body of the handle of the file that has `attr` and the handle `kernel`.
    ///
    /// # Errors
    /// `EOVERFLOW` if it is too long.
    pub(super) fn body(&self, attr: &Attr, kernel: KernelHandle) -> Result<Body<'static>> {
        if self.keeps_handles() {
            return Ok(Body::Kernel(kernel));
        }
        let fits = kernel.bytes().len() <= STAMPED_MAX;
        fits.then_some(Body::Stamped(Stamp::of(attr), kernel)).ok_or(Errno::OVERFLOW)
    }

    /// Whether the file that has `attr`, and was found by the handle with this body, is the one for
    /// which the handle was made. A search by path has compared them already.
    pub(super) fn is_meant(&self, body: &Body<'_>, attr: &Attr) -> bool {
        match body {
            Body::Kernel(kernel) if self.fingerprint.kind.has_numbers_in_handles() => {
                kernel.fileid().is_none_or(|fileid| fileid == attr.fileid)
            }
            Body::Kernel(_) => self.keeps_handles(),
            Body::Stamped(stamp, _) => *stamp == Stamp::of(attr),
            Body::Path(_) => true,
        }
    }

    /// Whether this directory is at the path `dir` now.
    pub(super) fn is_at(&self, dir: &Path) -> bool {
        let same = |ours: rustix::fs::Stat, theirs: rustix::fs::Stat| {
            // A number may be reused, but not while its directory still has a name.
            ours.st_nlink > 0 && (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
        };
        let ours = rustix::fs::fstat(&self.directory);
        matches!((ours, rustix::fs::stat(dir)), (Ok(ours), Ok(theirs)) if same(ours, theirs))
    }

    /// Returns another descriptor of the directory. Needs no permission.
    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
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
    use crate::fs::testing::{Files, errno};
    use crate::sched::Patience;

    const EXPORT: ExportId = ExportId(1);

    fn key() -> Key {
        Key::new([1; KEY_LEN])
    }

    /// Serves a directory as if it were on a file system of `kind`. `None` where there are no
    /// handles.
    fn served(dir: &Path, kind: FileSystem) -> Option<Fs> {
        let fs = Fs::new(key(), 64, dir).unwrap();
        let root = Root::open(EXPORT, dir, Some(HandleKind::Kernel), None);
        let Ok(mut root) = root else {
            crate::sys::testing::not_tried("the file system has no handles");
            return None;
        };
        root.fingerprint.kind = kind;
        fs.attach_all([root]);
        Some(fs)
    }

    fn open(fs: &Fs, body: Body<'_>) -> Result<()> {
        fs.nodes.sweep(0); // an open file would be found without its handle
        let handle = Handle::parse(key().seal(EXPORT, body).as_ref()).unwrap();
        fs.node(&handle, Patience::Blocking).map(drop).map_err(errno)
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
        // The file system has given the handle of one file to the other.
        assert_eq!(open(&fs, Body::Stamped(mine, kernel(&other))), Err(Errno::STALE));
        // The same number, with another birth time.
        let later = Stamp { generation: !mine.generation, ..mine };
        assert_eq!(open(&fs, Body::Stamped(later, right)), Err(Errno::STALE));
        // A handle of an earlier version has nothing to compare.
        assert_eq!(open(&fs, Body::Kernel(right)), Err(Errno::STALE));
    }

    #[test]
    fn handles_have_no_stamp_where_they_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let Some(fs) = served(dir.path(), FileSystem::EXT) else { return };
        let root = Files::of(&fs, EXPORT).root();
        let kernel = handle::of(&root).unwrap();
        assert_eq!(root.handle().body(), Some(Body::Kernel(kernel)));
        assert_eq!(open(&fs, Body::Kernel(kernel)), Ok(()));
    }

    #[test]
    fn no_handle_is_risked_unless_requested() {
        let proc = Path::new("/proc");
        assert_eq!(Root::open(EXPORT, proc, None, None).unwrap().handles, HandleKind::Path);
        let dir = tempfile::tempdir().unwrap();
        let root = |kind| {
            let mut root = Root::open(EXPORT, dir.path(), None, None).unwrap();
            root.fingerprint.kind = kind;
            root
        };
        assert_eq!(root(FileSystem::EXT).risks_handles(), None);
        let fuse = root(FileSystem::FUSE);
        let risk = (fuse.handles == HandleKind::Kernel).then_some(FileSystem::FUSE);
        assert_eq!(fuse.risks_handles(), risk);
    }
}
