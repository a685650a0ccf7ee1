//! Where directories of the configuration lie, and whether one lies in another.
//!
//! Their paths do not tell: a bind mount shows a directory under a second path. So they are
//! compared by what they are as well: by device and number of the directories on their ways, and by
//! where they are in their file system, which also holds where the way of one leads through a bind
//! mount.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sys::mounts::Location;

/// A directory, as it is now.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and number of the directory and of those above it, from the directory upwards.
    way: Vec<(u64, u64)>,
    location: Option<Location>,
}

impl Place {
    /// Looks at the directory `path`, which is absolute and without links. Blocks.
    ///
    /// # Errors
    /// It, or one above it, cannot be looked at.
    pub fn of(path: &Path) -> Result<Self> {
        let number = |path: &Path| -> Result<(u64, u64)> {
            let of =
                fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
            Ok((of.dev(), of.ino()))
        };
        let way = path.ancestors().map(number).collect::<Result<_>>()?;
        Ok(Self { path: path.to_owned(), way, location: Location::of(path) })
    }

    /// Whether it is the other directory, or lies below it.
    pub fn is_in(&self, other: &Self) -> bool {
        let located = match (&self.location, &other.location) {
            (Some(ours), Some(theirs)) => ours.is_in(theirs),
            _ => false,
        };
        located || self.path.starts_with(&other.path) || self.way.contains(&other.way[0])
    }
}

impl fmt::Display for Place {
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
            let is_in =
                |a: &str, b: &str| Place::of(&at(a)).unwrap().is_in(&Place::of(&at(b)).unwrap());
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
    fn what_is_not_there_cannot_be_compared() {
        assert!(Place::of(Path::new("/no/such/directory")).is_err());
    }
}
