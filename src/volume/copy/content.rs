//! Copies the content of a file: by sharing it, in the kernel, or by reading and writing.
//!
//! A method that the file system does not support is tried once for each tree and not for each
//! file, because a tree and its copy each lie in one file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::errno::{Errno, Result};
use crate::volume::tree::file::{self, FileStat};

/// Bytes between two checks of the limit and of cancellation.
const STEP: u64 = 16 * 1024 * 1024;

/// Bytes that are read and written at once if the kernel does not copy.
const BUFFER: usize = 256 * 1024;

/// The methods that are still worth trying, and a buffer for the last one.
pub(super) struct ContentCopier {
    clones: bool,
    copies: bool,
    buffer: Vec<u8>,
}

/// Called with the number of bytes that were copied. Ends the copy by returning an error.
pub(super) type ProgressCallback<'a, E> = &'a mut dyn FnMut(u64) -> std::result::Result<(), E>;

impl ContentCopier {
    pub(super) fn new() -> Self {
        Self { clones: true, copies: true, buffer: Vec::new() }
    }

    /// Copies `size` bytes of `from` to the empty file `to`, without its holes. If `from` becomes
    /// shorter meanwhile, `to` gets the new length. If content can be shared, `to` gets all content
    /// that `from` has at that moment, even if that is more.
    pub(super) fn copy<E: From<Errno>>(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        size: u64,
        step: ProgressCallback<'_, E>,
    ) -> std::result::Result<(), E> {
        if size == 0 {
            return Ok(());
        }
        if self.clone(from, to)? {
            return step(size.min(FileStat::of(to)?.used));
        }
        rustix::fs::ftruncate(to, size).map_err(Errno::from)?; // what follows the data is a hole
        let mut at = 0;
        while let Some((start, end)) = file::data(from, at, size)? {
            self.part(from, to, (start, end), step)?;
            at = end;
        }
        let now = FileStat::of(from)?.size;
        if now < size {
            rustix::fs::ftruncate(to, now).map_err(Errno::from)?;
        }
        Ok(())
    }

    /// Shares the content of the files. Returns whether that was possible.
    fn clone(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool> {
        if !self.clones {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOTTY) => {
                self.clones = false;
                Ok(false)
            }
            Err(errno) => {
                self.clones &= !is_never(errno.into());
                unless_final(errno.into()).map(|()| false)
            }
        }
    }

    fn part<E: From<Errno>>(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        (mut at, end): (u64, u64),
        step: ProgressCallback<'_, E>,
    ) -> std::result::Result<(), E> {
        while at < end {
            let wanted = usize::try_from((end - at).min(STEP)).unwrap_or(usize::MAX);
            let copied = match self.range(from, to, at, wanted)? {
                0 => self.write(from.as_fd(), to.as_fd(), at, wanted)?,
                copied => copied,
            };
            if copied == 0 {
                break; // the file has become shorter
            }
            at += copied as u64;
            step(copied as u64)?;
        }
        Ok(())
    }

    /// Copies in the kernel. Returns the number of bytes; 0 if that is not possible. Some kernels
    /// return 0 as at the end of a file for files that they cannot copy, so 0 does not tell that
    /// the file has ended.
    fn range(&mut self, from: &OwnedFd, to: &OwnedFd, at: u64, wanted: usize) -> Result<usize> {
        if !self.copies {
            return Ok(0);
        }
        match rustix::fs::copy_file_range(from, Some(&mut { at }), to, Some(&mut { at }), wanted) {
            Ok(copied) => Ok(copied),
            Err(errno) => {
                self.copies &= !is_never(errno.into());
                unless_final(errno.into()).map(|()| 0)
            }
        }
    }

    /// Reads and writes. Returns the number of bytes; 0 at the end of the file.
    fn write(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        at: u64,
        wanted: usize,
    ) -> Result<usize> {
        self.buffer.resize(BUFFER, 0);
        let read = rustix::io::pread(from, &mut self.buffer[..wanted.min(BUFFER)], at)?;
        let mut written = 0;
        while written < read {
            match rustix::io::pwrite(to, &self.buffer[written..read], at + written as u64)? {
                0 => return Err(Errno::IO), // the loop would not end
                more => written += more,
            }
        }
        Ok(read)
    }
}

/// Whether an error concerns the whole file system, and not only one file.
fn is_never(errno: Errno) -> bool {
    [Errno::OPNOTSUPP, Errno::XDEV, Errno::NOSYS, Errno::PERM].contains(&errno)
}

/// Returns the error if no other method can succeed either, as on a full disk.
fn unless_final(errno: Errno) -> Result<()> {
    let is_final = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG].contains(&errno);
    if is_final { Err(errno) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, MetadataExt};
    use tempfile::tempdir;

    const MIB: u64 = 1024 * 1024;

    fn sevens(mib: usize) -> Vec<u8> {
        vec![7; mib << 20]
    }

    /// Copies a file that `make` fills, by the given methods. Returns both contents.
    fn copy(clones: bool, copies: bool, make: impl Fn(&File)) -> (Vec<u8>, Vec<u8>, u64) {
        let dir = tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        make(&File::create(&from).unwrap());
        let target = File::create(&to).unwrap().into();
        let source: OwnedFd = File::open(&from).unwrap().into();
        let size = FileStat::of(&source).unwrap().size;
        let mut content = ContentCopier { clones, copies, buffer: Vec::new() };
        let mut seen = 0;
        let mut step = |bytes| {
            seen += bytes;
            Ok::<_, Errno>(())
        };
        content.copy(&source, &target, size, &mut step).unwrap();
        assert!(seen <= size);
        (fs::read(from).unwrap(), fs::read(&to).unwrap(), fs::metadata(to).unwrap().blocks() * 512)
    }

    fn sparse(file: &File) {
        file.write_all_at(&[1; 100_000], 3 * MIB).unwrap();
        file.write_all_at(&[2; 4096], 9 * MIB).unwrap();
        file.set_len(20 * MIB + 1).unwrap();
    }

    #[test]
    fn every_way_copies_all_and_keeps_holes() {
        for (clones, copies) in [(true, true), (false, true), (false, false)] {
            let (from, to, used) = copy(clones, copies, sparse);
            assert!(from == to, "{clones} {copies}");
            assert!(used < MIB, "{used} bytes are taken");
        }
    }

    #[test]
    fn more_than_a_step_is_copied() {
        for copies in [true, false] {
            let pattern: Vec<u8> = (0..17 * MIB + 5).map(|n| (n % 251) as u8).collect();
            let (from, to, _) = copy(false, copies, |file| file.write_all_at(&pattern, 0).unwrap());
            assert!(from == pattern && to == pattern);
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_copied_as_far_as_it_goes() {
        for copies in [true, false] {
            let dir = tempdir().unwrap();
            fs::write(dir.path().join("from"), sevens(40)).unwrap();
            let source = File::options().read(true).write(true).open(dir.path().join("from"));
            let (source, to) = (source.unwrap(), dir.path().join("to"));
            let (cut, from) = (source.try_clone().unwrap(), OwnedFd::from(source));
            let mut content = ContentCopier { clones: false, copies, buffer: Vec::new() };
            let mut step = |_| cut.set_len(35 * MIB).map_err(Errno::from);
            let target = File::create(&to).unwrap().into();
            content.copy(&from, &target, 40 * MIB, &mut step).unwrap();
            assert!(fs::read(to).unwrap() == sevens(35));
        }
    }

    #[test]
    fn what_the_file_system_cannot_do_is_tried_once() {
        let dir = tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "content").unwrap();
        let (from, to) = (File::open(from).unwrap().into(), File::create(to).unwrap().into());
        let mut content = ContentCopier::new();
        let shared = content.clone(&from, &to).unwrap();
        assert_eq!(shared, content.clones);
    }

    #[test]
    fn the_step_ends_the_copying() {
        let dir = tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, sevens(40)).unwrap();
        let target = File::create(&to).unwrap().into();
        let mut content = ContentCopier { clones: false, ..ContentCopier::new() };
        let mut step = |_| Err(Errno::INTR);
        let from = File::open(from).unwrap().into();
        assert_eq!(content.copy(&from, &target, 40 * MIB, &mut step), Err(Errno::INTR));
        assert!(fs::metadata(to).unwrap().blocks() * 512 < 20 * MIB);
    }
}
