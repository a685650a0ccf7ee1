//! Detects directories with volumes inside one another: the content of each belongs to its own
//! server, whether that runs or not.
//!
//! A directory with volumes is recognized by its own folder, which is marked with an extended
//! attribute ([`super::mark`]). A client of an export therefore cannot make a directory look like
//! one and prevent the next start. If the file system has no extended attributes, the content and
//! the mode of the folder decide.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::geteuid;

use super::error::{Error, Result};
use super::mark::{self, MARK, OWN, exists};

/// The value of the mark.
const VALUE: &[u8] = b"volumes";

/// Marks the own folder of a directory with volumes.
pub(super) fn mark_own(own: &Path) {
    mark::set(own, VALUE);
}

/// Returns the directory with volumes that `dir` is or lies in, if there is one. `dir` must be
/// absolute and free of symbolic links. Blocks.
pub fn holder_of(dir: &Path) -> Option<PathBuf> {
    dir.ancestors().find(|above| is_own(&above.join(OWN))).map(Path::to_owned)
}

/// Checks that volumes can be kept in `dir`, which need not exist yet. Blocks.
///
/// # Errors
/// [`Error::Invalid`]: it is the root directory, or lies in another directory with volumes.
pub(super) fn check_directory(dir: &Path) -> Result<()> {
    let absolute = std::path::absolute(dir).map_err(Error::io("find", dir))?;
    let found = absolute.ancestors().find(|path| exists(path)).unwrap_or(Path::new("/"));
    let real = match found.canonicalize() {
        // A dangling symbolic link: the error of creating the directory says more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        real => real.map_err(Error::io("find", found))?,
    };
    // The directory itself may hold volumes, namely those to be served.
    let above = if found == absolute { real.parent() } else { Some(real.as_path()) };
    let Some(above) = above else {
        return Err(Error::Invalid(
            "the root directory cannot hold volumes; name a directory for them alone, like \
             --volumes /srv/volumes"
                .into(),
        ));
    };
    let Some(holder) = holder_of(above) else { return Ok(()) };
    let (dir, holder) = (real.display(), holder.display());
    Err(Error::Invalid(format!(
        "{dir} lies in {holder}, which holds volumes already ({holder}/{OWN}); choose a directory \
         outside of it"
    )))
}

/// Whether `own` is the own folder of a directory with volumes.
pub(super) fn is_own(own: &Path) -> bool {
    let Ok(found) = own.symlink_metadata() else { return false };
    // In a directory where every user may make names (/tmp), folders of other users count for
    // nothing.
    let above = own.parent().and_then(|above| above.metadata().ok());
    let owners = [Some(geteuid().as_raw()), above.map(|above| above.uid())];
    let mut value = [0; 16];
    found.is_dir()
        && owners.contains(&Some(found.uid()))
        && match rustix::fs::lgetxattr(own, MARK, &mut value) {
            Ok(len) => value.get(..len) == Some(VALUE),
            Err(Errno::NODATA) => false,
            // The folder of another user, whose content is not visible.
            Err(Errno::ACCESS) => true,
            Err(_) => {
                let is_closed = found.mode() & 0o077 == 0;
                is_closed && ["lock", "volumes"].iter().all(|of| exists(&own.join(of)))
            }
        }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::volume::prepare;

    fn refused(dir: &Path) -> String {
        check_directory(dir).unwrap_err().to_string()
    }

    #[test]
    fn the_root_directory_holds_no_volumes() {
        assert!(refused(Path::new("/")).contains("root directory"));
        assert!(refused(Path::new("/tmp/..")).contains("root directory"));
    }

    #[test]
    fn volumes_are_kept_in_no_other_volumes() {
        let temp = TempDir::new().unwrap();
        let dir = temp.path().canonicalize().unwrap().join("volumes");
        prepare(&dir).unwrap();
        check_directory(&dir).unwrap(); // again
        fs::create_dir(dir.join("a")).unwrap();
        let mut mark = [0; 16];
        if rustix::fs::lgetxattr(dir.join(OWN), MARK, &mut mark).is_err() {
            return; // no extended attributes, and no server has used the folder
        }
        for inside in ["a", "a/b/c", "new", ".berth/state"] {
            assert!(refused(&dir.join(inside)).contains("holds volumes already"), "{inside}");
            assert_eq!(holder_of(&dir.join(inside)).as_deref(), Some(&*dir), "{inside}");
        }
        assert_eq!(holder_of(&dir).as_deref(), Some(&*dir));
        assert_eq!(holder_of(dir.parent().unwrap()), None);
        // A folder that a client of an export could make is not mistaken for one.
        let made = temp.path().join("made");
        for name in ["lock", "volumes", "state"] {
            fs::create_dir_all(made.join(OWN).join(name)).unwrap();
        }
        assert_eq!(holder_of(&made), None);
    }
}
