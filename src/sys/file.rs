//! Reading into uninitialized memory, access checks, limits of a file system.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::{check, fault};
use crate::errno::{Errno, Result};

/// Reads up to `max` bytes at `offset` and appends them to `buffer`. Returns how many; fewer than
/// `max` only at the end of the file. May block.
///
/// # Errors
/// As pread(2).
pub fn read_at(fd: impl AsFd, buffer: &mut Vec<u8>, max: usize, offset: u64) -> Result<usize> {
    fault::read();
    read_with(fd, buffer, max, offset, 0)
}

/// As [`read_at`], but reads only what is in memory, and does not block. `None` if nothing is in
/// memory, or the file system cannot tell.
///
/// # Errors
/// As pread(2).
pub fn read_cached(
    fd: impl AsFd,
    buffer: &mut Vec<u8>,
    max: usize,
    offset: u64,
) -> Result<Option<usize>> {
    if fault::is_cold() {
        return Ok(None);
    }
    match read_with(fd, buffer, max, offset, libc::RWF_NOWAIT) {
        Ok(read) => Ok(Some(read)),
        Err(Errno::AGAIN | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn read_with(
    fd: impl AsFd,
    buffer: &mut Vec<u8>,
    max: usize,
    offset: u64,
    flags: libc::c_int,
) -> Result<usize> {
    let offset = i64::try_from(offset).map_err(|_| Errno::INVAL)?;
    buffer.reserve(max);
    let free = &mut buffer.spare_capacity_mut()[..max];
    let part = libc::iovec { iov_base: free.as_mut_ptr().cast(), iov_len: free.len() };
    // SAFETY: the kernel writes at most `iov_len` bytes into the spare capacity.
    let read =
        check(unsafe { libc::preadv2(fd.as_fd().as_raw_fd(), &raw const part, 1, offset, flags) })?
            .unsigned_abs();
    let len = buffer.len() + read;
    // SAFETY: the kernel has initialized `read` bytes behind the old length, within the capacity.
    unsafe { buffer.set_len(len) };
    Ok(read)
}

/// Makes `kept` refer to the file of `by`, atomically: a concurrent user of the descriptor uses the
/// one file or the other.
///
/// # Errors
/// As dup3(2).
pub fn replace(kept: &OwnedFd, by: &OwnedFd) -> Result<()> {
    // SAFETY: both are open, and `kept` stays open and owned; no memory is involved.
    check(unsafe { libc::dup3(by.as_raw_fd(), kept.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

/// Writes `data` at `offset`. Returns how many bytes were written.
///
/// # Errors
/// As pwrite(2).
pub fn write_at(fd: impl AsFd, data: &[u8], offset: u64) -> Result<usize> {
    fault::write();
    Ok(rustix::io::pwrite(fd, data, offset)?)
}

/// Checks that the thread, with its file-system identity, has the `access` (R_OK, W_OK, X_OK of
/// access(2)) to the file that `fd` refers to, which may be an O_PATH descriptor.
///
/// # Errors
/// As faccessat2(2); `EACCES` if it has not.
pub fn access(fd: impl AsFd, access: i32) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_EACCESS;
    // SAFETY: the path is an empty C string.
    check(unsafe {
        libc::syscall(libc::SYS_faccessat2, fd.as_fd().as_raw_fd(), c"".as_ptr(), access, flags)
    })?;
    Ok(())
}

/// Returns the number of links that a file may have in the file system of `fd`, if it is known.
pub fn link_max(fd: impl AsFd) -> Option<u32> {
    // SAFETY: no memory is involved.
    let max = unsafe { libc::fpathconf(fd.as_fd().as_raw_fd(), libc::_PC_LINK_MAX) };
    u32::try_from(max).ok()
}
