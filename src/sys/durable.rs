//! Files that Berth keeps for itself, written so that a crash after any step leaves the old
//! content or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Replaces the content of the file `path`, for nobody else's eyes: written beside it, flushed,
/// renamed, and the folder flushed. Blocks.
///
/// # Errors
/// As write(2), fsync(2) and rename(2) have them. Then the old content is still there, unless only
/// the last step failed, after which it may be either.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(fresh, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(fresh)))?;
    flush_folder_of(path)
}

/// Removes a file so that it stays removed. Blocks; one that is gone already is no error.
///
/// # Errors
/// As unlink(2) and fsync(2) have them.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    flush_folder_of(path)
}

/// Has the names in a folder on the disk. Blocks.
///
/// # Errors
/// As open(2) and fsync(2) have them.
pub fn flush_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn flush_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => flush_folder(folder),
        _ => flush_folder(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_new_content_replaces_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.json");
        replace(&path, b"old, and longer").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"old").unwrap();
        // What it would write to is in the way, as a stand-in for a disk that is full.
        fs::create_dir(dir.path().join("file.new")).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn removing_twice_is_removing_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
