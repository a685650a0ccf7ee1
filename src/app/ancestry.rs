//! The ancestors of a directory, to decide whether one directory lies in another.
//!
//! Paths do not suffice: a bind mount shows a directory under a second path. Directories are also
//! compared by device and inode with the ancestors of the other, and by their location in their
//! file system, which covers paths that lead through a bind mount.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sys::mounts::Location;

/// A directory with its ancestors, at the time of [`Ancestry::of`].
#[derive(Debug)]
pub struct Ancestry {
    path: PathBuf,
    /// Device and inode of the directory and of its ancestors, from the directory upwards.
    chain: Vec<(u64, u64)>,
    location: Option<Location>,
}

impl Ancestry {
    /// Examines the directory `path`, which is absolute and has no symbolic links. Blocks.
    ///
    /// # Errors
    /// The directory or one of its ancestors cannot be examined.
    pub fn of(path: &Path) -> Result<Self> {
        let number = |path: &Path| -> Result<(u64, u64)> {
            let of =
                fs::metadata(path).with_context(|| format!("cannot examine {}", path.display()))?;
            Ok((of.dev(), of.ino()))
        };
        let chain = path.ancestors().map(number).collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), chain, location: Location::of(path) })
    }

    /// Whether this is the other directory, or lies below it.
    pub fn is_in(&self, other: &Self) -> bool {
        let located = match (&self.location, &other.location) {
            (Some(ours), Some(theirs)) => ours.is_in(theirs),
            _ => false,
        };
        located || self.path.starts_with(&other.path) || self.chain.contains(&other.chain[0])
    }
}

impl fmt::Display for Ancestry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use rustix::mount::mount_bind;

    use super::*;
    use crate::sys::mounts;

    #[test]
    fn a_directory_lies_in_another_by_whichever_path() {
        mounts::with_own(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["srv/volumes/v", "srv/more", "bound", "deep/bound"] {
                fs::create_dir_all(at(name)).unwrap();
            }
            mount_bind(at("srv"), at("bound")).unwrap();
            mount_bind(at("srv/volumes"), at("deep/bound")).unwrap();
            let is_in = |a: &str, b: &str| {
                Ancestry::of(&at(a)).unwrap().is_in(&Ancestry::of(&at(b)).unwrap())
            };
            for volumes in ["srv/volumes", "bound/volumes", "deep/bound"] {
                for export in ["srv", "bound", "srv/volumes", "bound/volumes", "deep/bound", ""] {
                    assert!(is_in(volumes, export), "{volumes} in {export}");
                }
                for export in ["srv/volumes/v", "srv/more", "bound/more"] {
                    assert!(!is_in(volumes, export), "{volumes} not in {export}");
                }
                for inside in ["srv/volumes/v", "bound/volumes/v", "deep/bound/v"] {
                    assert!(is_in(inside, volumes), "{inside} in {volumes}");
                }
            }
        });
    }

    #[test]
    fn a_directory_that_does_not_exist_is_an_error() {
        assert!(Ancestry::of(Path::new("/no/such/directory")).is_err());
    }
}
