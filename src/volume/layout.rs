//! The files and directories of the volumes on the disk, and the basic operations on them.
//!
//! ```text
//!   DIR/NAME/                  a volume, as its clients see it; or DIR/SOME/WHERE/ on request
//!   DIR/archived-NAME-TIME/    an archived directory
//!   DIR/.berth/                Berth's own folder, closed to other users
//!     lock                     held by the server that uses DIR (see super::lock)
//!     volumes/ID.json          the registry: a record of each volume (see super::registry)
//!     ledger                   the usage of each volume (see crate::quota::ledger)
//!     cloning/ID.json          clones that are not volumes yet (see super::clone_note)
//!     making/ID/               a new volume's directory before it is moved to its place
//!     making/ID~/              the same for a recycled volume
//!     leaving/ID/              a former volume's directory on its way to the trash
//!     trash/ID.NUMBER/         a directory that is being removed
//!     spare/                   the reserve for a full disk (see super::reserve)
//! ```
//!
//! All of it is on one file system, so a directory moves in one step. Each function here is one
//! such step: it happens completely or not at all, and is on the disk when the function returns.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2, renameat_with};

use super::error::{Error, Result};
use super::lock::DirectoryLock;
use super::mark::{OWN, exists};
use super::name::VolumeId;
use super::nested;
use super::spec::{OwnerAndMode, Spec};
use crate::sys::durable;

/// The folders in Berth's own folder.
const FOLDERS: [&str; 6] = [REGISTRY, "cloning", "making", "leaving", "trash", "spare"];

/// The folder of the registry, the only one whose content cannot be replaced.
const REGISTRY: &str = "volumes";

/// Folders that may be made later if the disk is full. Otherwise a server could not start on a disk
/// that an earlier version has filled, and nothing could be reclaimed.
const LATER: [&str; 2] = ["cloning", "spare"];

/// A directory with volumes, locked by this server.
pub(super) struct VolumeLayout {
    dir: PathBuf,
    own: PathBuf,
    /// The lock that keeps other servers away.
    pub(super) lock: Arc<DirectoryLock>,
    /// Held while spare files or directories are made or taken.
    pub(super) spare: Mutex<()>,
    #[cfg(test)]
    pub(super) crash: crash::CrashPoint,
}

impl VolumeLayout {
    /// Makes the folders that are missing, and takes the lock.
    ///
    /// # Errors
    /// A folder cannot be made; another server uses the directory.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        prepare(dir)?;
        let dir = dir.canonicalize().map_err(Error::io("find", dir))?;
        let own = dir.join(OWN);
        check_folder(&own)?;
        for name in FOLDERS {
            let path = own.join(name);
            if name != REGISTRY && exists(&path) && check_folder(&path).is_err() {
                set_aside(&path)?;
            }
            match folder(&path, 0o700) {
                Err(error) if error.is_full() && LATER.contains(&name) => {
                    tracing::warn!(%error, "the disk is full; the folder is made later");
                }
                made => made.and_then(|()| check_folder(&path))?,
            }
        }
        durable::flush_folder(&own).map_err(Error::io("flush", &own))?;
        let lock = Arc::new(DirectoryLock::take(&own)?);
        Ok(Self {
            dir,
            own,
            lock,
            spare: Mutex::default(),
            #[cfg(test)]
            crash: crash::CrashPoint::default(),
        })
    }

    /// The directory with the volumes.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the registry.
    pub(super) fn registry(&self) -> PathBuf {
        self.own.join(REGISTRY)
    }

    /// The folder of the notes of clones.
    pub(super) fn cloning(&self) -> PathBuf {
        self.own.join("cloning")
    }

    /// The file of the ledger.
    pub(super) fn ledger(&self) -> PathBuf {
        self.own.join("ledger")
    }

    /// The folder whose content is removed in the background.
    pub(super) fn trash(&self) -> PathBuf {
        self.own.join("trash")
    }

    /// The folder of the reserve.
    pub(super) fn spares(&self) -> PathBuf {
        self.own.join("spare")
    }

    /// The directory of a volume.
    pub(super) fn volume(&self, spec: &Spec) -> PathBuf {
        self.dir.join(spec.relative_path())
    }

    /// The directory of a new volume before it is moved to its place.
    pub(super) fn making(&self, id: &VolumeId) -> PathBuf {
        self.own.join("making").join(id.as_str())
    }

    /// The new directory of a recycled volume before it is moved to its place. No id ends with `~`.
    pub(super) fn renewing(&self, id: &VolumeId) -> PathBuf {
        self.own.join("making").join(format!("{id}~"))
    }

    /// The former directory of a volume, on its way to the trash.
    pub(super) fn leaving(&self, id: &VolumeId) -> PathBuf {
        self.own.join("leaving").join(id.as_str())
    }

    /// Creates an empty directory without setting its owner and mode. The remains of an earlier
    /// attempt go into the trash.
    pub(super) fn create_empty(&self, path: &Path) -> Result<()> {
        self.step()?;
        if exists(path) {
            self.discard(path)?;
        }
        DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create", path))
    }

    /// Moves a new directory to its place.
    ///
    /// # Errors
    /// [`Error::InTheWay`]: the place is taken, and nothing has changed.
    pub(super) fn install(&self, made: &Path, spec: &Spec) -> Result<()> {
        self.make_parents(spec)?;
        self.rename(made, &self.volume(spec))
    }

    /// Moves the directory of a volume from its place to `leaving`.
    pub(super) fn withdraw(&self, spec: &Spec) -> Result<()> {
        self.rename(&self.volume(spec), &self.leaving(&spec.id))
    }

    /// Moves the directory of a volume to the name `to`, directly below the directory with volumes.
    pub(super) fn archive(&self, spec: &Spec, to: &str) -> Result<()> {
        self.rename(&self.volume(spec), &self.dir.join(to))
    }

    /// Creates the missing directories above a volume's.
    fn make_parents(&self, spec: &Spec) -> Result<()> {
        for path in self.parents(spec).iter().rev().filter(|path| !exists(path)) {
            self.step()?;
            let made = DirBuilder::new().mode(0o700).create(path);
            made.map_err(Error::io("create", path))?;
            let above = path.parent().unwrap_or(&self.dir);
            durable::flush_folder(above).map_err(Error::io("flush", above))?;
        }
        Ok(())
    }

    /// Removes the directories above the former place of a volume, as far as they are empty.
    pub(super) fn prune_parents(&self, spec: &Spec) {
        if self.check_parents(spec).is_err() {
            return; // not the directories that were made for it
        }
        // An empty directory that remains does no harm: the next volume below it uses it.
        let remove = |path: &PathBuf| {
            fs::remove_dir(path)?;
            durable::flush_folder(path.parent().unwrap_or(&self.dir))
        };
        let _ = self.parents(spec).iter().try_for_each(remove);
    }

    /// The directories above a volume's, the deepest first.
    pub(super) fn parents(&self, spec: &Spec) -> Vec<PathBuf> {
        let path = self.volume(spec);
        let above = path.ancestors().skip(1).take_while(|above| *above != self.dir);
        above.map(Path::to_owned).collect()
    }

    /// Checks that the directories above a volume's are directories, and not symbolic links.
    ///
    /// # Errors
    /// [`Error::InTheWay`]
    pub(super) fn check_parents(&self, spec: &Spec) -> Result<()> {
        self.parents(spec).iter().try_for_each(|path| self.directory(path).map(drop))
    }

    /// Whether a volume's directory is in its place: a directory, with no symbolic link above it.
    /// Anything else there was made by others and is left alone.
    pub(super) fn is_there(&self, spec: &Spec) -> bool {
        let found = self.check_parents(spec).and_then(|()| self.directory(&self.volume(spec)));
        matches!(found, Ok(Some(_)))
    }

    /// Checks that nothing is mounted on a volume's directory or on the way to it. A bind mount may
    /// show another volume's directory, and a mount point cannot be moved to the trash.
    ///
    /// # Errors
    /// [`Error::Invalid`] if something is; as openat2(2).
    pub(super) fn check_unmounted(&self, spec: &Spec) -> Result<()> {
        let path = self.volume(spec);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, &self.dir, flags, Mode::empty());
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        match top.and_then(|top| openat2(top, spec.relative_path(), flags, Mode::empty(), resolve))
        {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::XDEV) => Err(Error::Invalid(format!(
                "something is mounted on {} or above it; adopt the directory itself",
                path.display()
            ))),
            Err(errno) => Err(Error::io("open", path)(errno.into())),
        }
    }

    /// Moves a path below Berth's own folder into the trash.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let trash = self.trash();
        let free = (0_u32..).map(|n| trash.join(format!("{name}.{n}"))).find(|to| !exists(to));
        self.rename(path, &free.expect("there are more numbers than entries"))
    }

    /// Lists the content of `making` and `leaving`.
    pub(super) fn leftovers(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for name in ["making", "leaving"] {
            let path = self.own.join(name);
            for entry in fs::read_dir(&path).map_err(Error::io("list", &path))? {
                found.push(entry.map_err(Error::io("list", &path))?.path());
            }
        }
        Ok(found)
    }

    /// Returns the bytes that a directory itself takes on the disk, or `None` if nothing is at
    /// `path`.
    ///
    /// # Errors
    /// Something else is there, or it cannot be examined.
    pub(super) fn directory(&self, path: &Path) -> Result<Option<u64>> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(Some(meta.blocks() * 512)),
            Ok(_) => Err(Error::InTheWay(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("examine", path)(error)),
        }
    }

    /// Returns the owner and the mode of a volume's directory, if it exists.
    pub(super) fn access(&self, spec: &Spec) -> Option<OwnerAndMode> {
        let found = fs::symlink_metadata(self.volume(spec)).ok().filter(fs::Metadata::is_dir)?;
        Some(OwnerAndMode { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.begin()?;
        let moved = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system does not support the flag. No other process makes names here, so a
            // check suffices.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if exists(to) => {
                Err(rustix::io::Errno::EXIST)
            }
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                rustix::fs::rename(from, to)
            }
            moved => moved,
        };
        match moved {
            Err(rustix::io::Errno::EXIST) => return Err(Error::InTheWay(to.to_owned())),
            moved => moved.map_err(|errno| Error::io("move", from)(errno.into()))?,
        }
        // The new name is flushed first: a crash in between may leave both names, but never
        // neither.
        for path in [to, from] {
            let folder = path.parent().unwrap_or(&self.dir);
            durable::flush_folder(folder).map_err(Error::io("flush", folder))?;
        }
        Ok(())
    }

    /// Checks that this server still has the directory to itself. To be called before anything is
    /// registered or moved.
    pub(super) fn begin(&self) -> Result<()> {
        self.lock.check().map_err(Error::io("use", &self.dir))?;
        self.step()
    }

    /// A point at which a test can simulate a crash.
    #[cfg(not(test))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)]
    pub(super) fn step(&self) -> Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn step(&self) -> Result<()> {
        self.crash.step().map_err(Error::io("reach", "this point"))
    }
}

/// Creates the directory and Berth's own folder in it, if they are missing. Only the server's user
/// may enter: the modes of volumes are meant for their clients, not for local users.
pub(super) fn prepare(dir: &Path) -> Result<()> {
    folder(dir, 0o700)?;
    folder(&dir.join(OWN), 0o700)?;
    nested::mark_own(&dir.join(OWN));
    Ok(())
}

/// Creates a folder and its missing ancestors.
pub(super) fn folder(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::io("create", path))
}

/// Checks that a path is a directory and not a symbolic link: its content gets moved and removed.
fn check_folder(path: &Path) -> Result<()> {
    let found = path.symlink_metadata().map_err(Error::io("examine", path))?;
    if found.is_dir() { Ok(()) } else { Err(Error::NoFolder(path.to_owned())) }
}

/// Renames a file that has the name of a folder without persistent content.
fn set_aside(path: &Path) -> Result<()> {
    let aside = durable::set_aside(path).map_err(Error::io("move", path))?;
    let (path, aside) = (path.display(), aside.display());
    tracing::warn!(%path, %aside, "not a directory; renamed it");
    Ok(())
}

/// A simulated crash for tests: from this point on, every step fails.
#[cfg(test)]
pub(super) mod crash {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub(crate) struct CrashPoint(AtomicUsize);

    impl Default for CrashPoint {
        fn default() -> Self {
            Self(AtomicUsize::new(usize::MAX))
        }
    }

    impl CrashPoint {
        /// Crashes at the step with this number, and fails all steps after it.
        pub(crate) fn after(&self, steps: usize) {
            self.0.store(steps, Ordering::SeqCst);
        }

        /// Ends the simulation: the steps succeed again.
        pub(crate) fn heal(&self) {
            self.0.store(usize::MAX, Ordering::SeqCst);
        }

        /// Whether the crash has happened.
        pub(crate) fn reached(&self) -> bool {
            self.0.load(Ordering::SeqCst) == 0
        }

        pub(crate) fn step(&self) -> io::Result<()> {
            let left = |left: usize| match left {
                usize::MAX => Some(left),
                left => left.checked_sub(1),
            };
            match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) {
                Ok(1) | Err(_) => Err(io::Error::other("the process died here")),
                Ok(_) => Ok(()),
            }
        }
    }
}
