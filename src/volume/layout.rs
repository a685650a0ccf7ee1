//! What is where on the disk, and the few things that are done to it.
//!
//! ```text
//!   DIR/NAME/                  a volume, as its clients see it; or DIR/SOME/WHERE/, if it is to be there
//!   DIR/archived-NAME-TIME/    what was archived
//!   DIR/.berth/                Berth's own, for nobody else
//!     lock                     held by the server that uses DIR (see super::lock)
//!     volumes/ID.json          the registry: what each volume is (see super::registry)
//!     ledger                   what each volume uses (see crate::quota::ledger)
//!     cloning/ID.json          clones that are no volumes yet (see super::clone_note)
//!     making/ID/               a directory that is going to be a volume
//!     making/ID~/              one that is going to be a recycled volume's
//!     leaving/ID/              one that was, on its way to the trash
//!     trash/ID.NUMBER/         what is being removed
//!     spare/                   what giving back takes when the disk is full (see super::reserve)
//! ```
//!
//! All of it is on one file system, so that directories move in one step. Each function here is one
//! such step: it happens or it does not, and is on the disk when it returns.

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

/// The folders in it.
const FOLDERS: [&str; 6] = [REGISTRY, "cloning", "making", "leaving", "trash", "spare"];

/// The folder without which nothing is known.
const REGISTRY: &str = "volumes";

/// The folders that are made later if the disk is full: the server of a disk that an earlier
/// version has filled starts, or nobody could give anything back.
const LATER: [&str; 2] = ["cloning", "spare"];

/// A directory with volumes, locked.
pub(super) struct VolumeLayout {
    dir: PathBuf,
    own: PathBuf,
    /// That which says that nobody else has it.
    pub(super) lock: Arc<DirectoryLock>,
    /// Held while something of the reserve is made or taken.
    pub(super) spare: Mutex<()>,
    #[cfg(test)]
    pub(super) crash: crash::CrashPoint,
}

impl VolumeLayout {
    /// Makes what is not there yet, and takes the lock.
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
                    tracing::warn!(%error, "it is made when there is room");
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

    /// The folder with the registry.
    pub(super) fn registry(&self) -> PathBuf {
        self.own.join(REGISTRY)
    }

    /// The folder with the notes of clones.
    pub(super) fn cloning(&self) -> PathBuf {
        self.own.join("cloning")
    }

    /// The file with the ledger.
    pub(super) fn ledger(&self) -> PathBuf {
        self.own.join("ledger")
    }

    /// The folder that is emptied.
    pub(super) fn trash(&self) -> PathBuf {
        self.own.join("trash")
    }

    /// The folder with the reserve.
    pub(super) fn spares(&self) -> PathBuf {
        self.own.join("spare")
    }

    /// The directory of a volume.
    pub(super) fn volume(&self, spec: &Spec) -> PathBuf {
        self.dir.join(spec.relative_path())
    }

    /// The directory that is going to be a volume.
    pub(super) fn making(&self, id: &VolumeId) -> PathBuf {
        self.own.join("making").join(id.as_str())
    }

    /// The directory that is going to be a recycled volume's. No id ends like this.
    pub(super) fn renewing(&self, id: &VolumeId) -> PathBuf {
        self.own.join("making").join(format!("{id}~"))
    }

    /// The directory that was a volume.
    pub(super) fn leaving(&self, id: &VolumeId) -> PathBuf {
        self.own.join("leaving").join(id.as_str())
    }

    /// The same without an owner and a mode, which somebody else sets. What an earlier attempt
    /// left goes into the trash.
    pub(super) fn create_empty(&self, path: &Path) -> Result<()> {
        self.step()?;
        if exists(path) {
            self.discard(path)?;
        }
        DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create", path))
    }

    /// Puts what was made into its place.
    ///
    /// # Errors
    /// [`Error::InTheWay`], and then nothing has changed.
    pub(super) fn install(&self, made: &Path, spec: &Spec) -> Result<()> {
        self.make_parents(spec)?;
        self.rename(made, &self.volume(spec))
    }

    /// Takes the directory of a volume out of its place.
    pub(super) fn withdraw(&self, spec: &Spec) -> Result<()> {
        self.rename(&self.volume(spec), &self.leaving(&spec.id))
    }

    /// Puts the directory of a volume aside, under a name in the same folder.
    pub(super) fn archive(&self, spec: &Spec, to: &str) -> Result<()> {
        self.rename(&self.volume(spec), &self.dir.join(to))
    }

    /// Makes the directories on the way to a volume's.
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

    /// Removes the directories on the way to where a volume was, as far as nothing is in them.
    pub(super) fn prune_parents(&self, spec: &Spec) {
        if self.check_parents(spec).is_err() {
            return; // they are not those that were made for it
        }
        // One that stays does no harm: the next volume that wants it finds it.
        let remove = |path: &PathBuf| {
            fs::remove_dir(path)?;
            durable::flush_folder(path.parent().unwrap_or(&self.dir))
        };
        let _ = self.parents(spec).iter().try_for_each(remove);
    }

    /// The directories on the way to a volume's, the deepest first.
    pub(super) fn parents(&self, spec: &Spec) -> Vec<PathBuf> {
        let path = self.volume(spec);
        let above = path.ancestors().skip(1).take_while(|above| *above != self.dir);
        above.map(Path::to_owned).collect()
    }

    /// Whether the way to a volume's directory leads through no link.
    ///
    /// # Errors
    /// [`Error::InTheWay`]
    pub(super) fn check_parents(&self, spec: &Spec) -> Result<()> {
        self.parents(spec).iter().try_for_each(|path| self.directory(path).map(drop))
    }

    /// Whether a volume's directory is where it should be: a directory, and no link on the way to
    /// it. Whatever else is there was put there by somebody else, and is left alone.
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

    /// Moves what is below `own` into the trash.
    pub(super) fn discard(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let trash = self.trash();
        let free = (0_u32..).map(|n| trash.join(format!("{name}.{n}"))).find(|to| !exists(to));
        self.rename(path, &free.expect("there are more numbers than entries"))
    }

    /// Everything in the folders of what is made and what leaves.
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

    /// A directory as it is, and what it takes on the disk. `None`: there is none.
    ///
    /// # Errors
    /// There is something else, or it cannot be looked at.
    pub(super) fn directory(&self, path: &Path) -> Result<Option<u64>> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(Some(meta.blocks() * 512)),
            Ok(_) => Err(Error::InTheWay(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at", path)(error)),
        }
    }

    /// Whose the directory of a volume is, if it is there.
    pub(super) fn access(&self, spec: &Spec) -> Option<OwnerAndMode> {
        let found = fs::symlink_metadata(self.volume(spec)).ok().filter(fs::Metadata::is_dir)?;
        Some(OwnerAndMode { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.begin()?;
        let moved = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system does not know the flag. Nobody else makes names here.
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
        // The new name first: a crash in between may leave both, but not neither.
        for path in [to, from] {
            let folder = path.parent().unwrap_or(&self.dir);
            durable::flush_folder(folder).map_err(Error::io("flush", folder))?;
        }
        Ok(())
    }

    /// To be called before anything is registered or moved: it is still this server's to do.
    pub(super) fn begin(&self) -> Result<()> {
        self.lock.check().map_err(Error::io("use", &self.dir))?;
        self.step()
    }

    /// Where a test may have the process die.
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

/// Makes the directory and Berth's own folder in it, if they are not there. Only the server's user
/// may enter: what a volume allows to everybody is meant for its clients.
pub(super) fn prepare(dir: &Path) -> Result<()> {
    folder(dir, 0o700)?;
    folder(&dir.join(OWN), 0o700)?;
    nested::mark_own(&dir.join(OWN));
    Ok(())
}

/// Makes a folder and those above it, as far as they are not there.
pub(super) fn folder(path: &Path, mode: u32) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(Error::io("create", path))
}

/// Whether there is a directory, and no link to one: what is in it is moved, and removed.
fn check_folder(path: &Path) -> Result<()> {
    let found = path.symlink_metadata().map_err(Error::io("look at", path))?;
    if found.is_dir() { Ok(()) } else { Err(Error::NoFolder(path.to_owned())) }
}

/// What is no directory and has the name of one with nothing but what is left over.
fn set_aside(path: &Path) -> Result<()> {
    let aside = durable::set_aside(path).map_err(Error::io("move", path))?;
    let (path, aside) = (path.display(), aside.display());
    tracing::warn!(%path, %aside, "it is not a directory, and was set aside");
    Ok(())
}

/// A point at which a test ends everything, as if the process had died there.
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
        /// Dies after so many steps, and does none from then on.
        pub(crate) fn after(&self, steps: usize) {
            self.0.store(steps, Ordering::SeqCst);
        }

        /// Fails no more: what failed was no death.
        pub(crate) fn heal(&self) {
            self.0.store(usize::MAX, Ordering::SeqCst);
        }

        /// Whether it has died.
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
