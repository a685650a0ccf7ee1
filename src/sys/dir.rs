//! Reading directories: getdents64(2).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use super::check;
use crate::errno::Result;

/// The offset of the name in `struct linux_dirent64`, behind number, offset, length and type.
const NAME: usize = 19;

/// An entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The inode number.
    pub fileid: u64,
    /// The offset of the next entry, for lseek(2).
    pub cookie: u64,
    /// The type of the file (DT_DIR and the like), DT_UNKNOWN if the file system does not tell.
    pub kind: u8,
    /// Its name.
    pub name: &'a CStr,
}

/// Reads entries from the position of `fd` on into `buffer`, for [`entries`]. Returns how many
/// bytes they take, 0 at the end. Blocks.
///
/// # Errors
/// `EINVAL` if the buffer is too small for the next entry.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `buffer.len()` bytes into the buffer.
    let read = check(unsafe {
        libc::syscall(libc::SYS_getdents64, fd, buffer.as_mut_ptr(), buffer.len())
    })?;
    Ok(usize::try_from(read).unwrap_or(0))
}

/// Returns the entries in the bytes that [`read`] has read.
pub const fn entries(buffer: &[u8]) -> Entries<'_> {
    Entries { rest: buffer }
}

/// An iterator over entries.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// Returns the bytes of the remaining entries.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let rest = self.rest;
        let number =
            |at: usize| rest.get(at..at + 8)?.first_chunk().map(|b| u64::from_ne_bytes(*b));
        let (fileid, cookie) = (number(0)?, number(8)?);
        let len = usize::from(u16::from_ne_bytes(*rest.get(16..18)?.first_chunk()?));
        let name = CStr::from_bytes_until_nul(rest.get(NAME..len)?).ok()?;
        let kind = rest[NAME - 1];
        self.rest = &rest[len..];
        Some(Entry { fileid, cookie, kind, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::fs::File;

    #[test]
    fn a_directory_lists_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let mut buffer = [0; 4096];
        let read = read(File::open(dir.path()).unwrap(), &mut buffer).unwrap();
        let found: BTreeSet<_> = entries(&buffer[..read]).map(|e| (e.name, e.kind)).collect();
        let expected = [
            (c".", libc::DT_DIR),
            (c"..", libc::DT_DIR),
            (c"below", libc::DT_DIR),
            (c"file", libc::DT_REG),
        ];
        assert_eq!(found, expected.into());
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_entries_end_the_list(bytes: Vec<u8>) {
            prop_assert!(entries(&bytes).count() <= bytes.len());
        }
    }
}
