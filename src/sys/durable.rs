//! The server's own files, written atomically: a crash after any step leaves the old content or the
//! new one.
//!
//! They are not trusted when they are read: a restored backup, another program or a broken disk may
//! have left anything under their names. Only regular files are opened, symbolic links are not
//! followed, no open blocks (as that of a FIFO would), and no file is read beyond the given size.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Names that are tried for a file that is set aside.
const ASIDE_MAX: u32 = 100;

/// Reads the file `path`.
///
/// # Errors
/// `InvalidData` if it is not a regular file, or larger than `max` bytes; as open(2) and read(2).
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_whole(open(path)?, max)
}

/// Opens the file `path` for reading.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path) -> io::Result<File> {
    is_regular(&fs::symlink_metadata(path)?)?;
    open_regular(OpenOptions::new().read(true), libc::O_NOFOLLOW, path)
}

/// Opens the existing file `path` for overwriting.
///
/// # Errors
/// As [`read`].
pub fn open_to_write(path: &Path) -> io::Result<File> {
    is_regular(&fs::symlink_metadata(path)?)?;
    open_regular(OpenOptions::new().write(true), libc::O_NOFOLLOW, path)
}

/// Reads a file that an administrator has named. As [`read`], but follows symbolic links.
///
/// # Errors
/// As [`read`].
pub fn read_named(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    is_regular(&fs::metadata(path)?)?;
    read_whole(open_regular(OpenOptions::new().read(true), 0, path)?, max)
}

/// Opens the file `path` to hold a lock on it. Creates it if necessary, with access only for the
/// server's user.
///
/// # Errors
/// As [`read`].
pub fn open_lock(path: &Path) -> io::Result<File> {
    match fs::symlink_metadata(path) {
        Ok(found) => is_regular(&found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut options = OpenOptions::new();
    open_regular(options.append(true).create(true).mode(0o600), libc::O_NOFOLLOW, path)
}

/// Creates the file `path`, with access only for the server's user. Removes one that a crash has
/// left.
///
/// # Errors
/// As unlink(2) and open(2).
pub fn create(path: &Path) -> io::Result<File> {
    // Not truncated: there may be a symbolic link, or a pipe without a reader.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Renames an unusable file, so that it can be examined: appends `.damaged` to its path, or the
/// like. Returns the new path.
///
/// # Errors
/// As rename(2).
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut failure = None;
    for n in 0..ASIDE_MAX {
        let mut aside = path.as_os_str().to_owned();
        aside.push(if n == 0 { ".damaged".to_owned() } else { format!(".damaged.{n}") });
        // Replaces an older file. If there is a directory, the next name is tried.
        match fs::rename(path, &aside) {
            Ok(()) => return Ok(aside.into()),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::other("no name is left")))
}

fn open_regular(options: &mut OpenOptions, flags: i32, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    is_regular(&file.metadata()?)?; // it may have been replaced since
    Ok(file)
}

fn is_regular(found: &Metadata) -> io::Result<()> {
    if found.is_file() { Ok(()) } else { Err(invalid("it is not a regular file".into())) }
}

fn read_whole(file: File, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > max {
        return Err(invalid(format!("it is larger than {max} bytes")));
    }
    Ok(content)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Replaces the content of the file `path`, with access only for the server's user: writes a new
/// file beside it, flushes it, renames it, and flushes the folder. Blocks.
///
/// # Errors
/// As write(2), fsync(2) and rename(2). The old content remains, unless only the last step failed;
/// then it may be either.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let write = || -> io::Result<()> {
        let mut file = create(fresh)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(fresh, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(fresh)))?;
    flush_folder_of(path)
}

/// Removes a file, and flushes the folder. A missing file is no error. Blocks.
///
/// # Errors
/// As unlink(2) and fsync(2).
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    flush_folder_of(path)
}

/// Flushes the names in a folder. Blocks.
///
/// # Errors
/// As open(2) and fsync(2).
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
        // A directory under the name of the new file stands for a full disk.
        fs::create_dir(dir.path().join("file.new")).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), b"12345").unwrap();
        fs::create_dir(path("dir")).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, mode, 0).unwrap();
        assert_eq!(read(&path("file"), 5).unwrap(), b"12345");
        assert_eq!(read(&path("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
        for (name, max) in [("file", 4), ("dir", 5), ("link", 5), ("fifo", 5)] {
            let refused = read(&path(name), max).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{name}: {refused}");
        }
        for name in ["dir", "link", "fifo"] {
            assert!(open_lock(&path(name)).is_err(), "{name}");
        }
        assert!(open_lock(&path("file")).is_ok() && open_lock(&path("lock")).is_ok());
        assert_eq!(read_named(&path("link"), 5).unwrap(), b"12345");
        assert!(read_named(&path("fifo"), 5).is_err());
    }

    #[test]
    fn a_file_that_a_crash_left_is_replaced_and_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        fs::write(&other, b"precious").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join("file.new")).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(
            (&*fs::read(&path).unwrap(), &*fs::read(&other).unwrap()),
            (&b"new"[..], &b"precious"[..])
        );
    }

    #[test]
    fn a_file_that_is_set_aside_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::create_dir_all(dir.path().join("file.damaged/full")).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(set_aside(&path).unwrap(), dir.path().join("file.damaged.1"));
        assert!(!path.exists());
        assert!(set_aside(&path).is_err());
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
