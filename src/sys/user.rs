//! The file-system identity of the calling thread.
//!
//! Linux keeps credentials per thread. The C library's setgroups(2) changes all threads, which is
//! why the raw calls are used here.

use super::check;
use crate::errno::{Errno, Result};

/// An invalid id, with which setfsuid(2) and setfsgid(2) return the id without changing it.
const ASK: u32 = u32::MAX;

/// Sets the thread's file-system user id. Changing it from 0 drops the thread's privileges of file
/// access, and changing it back to 0 restores them (capabilities(7)).
///
/// # Errors
/// `EPERM` without the privilege, `EINVAL` for an id that the user namespace does not have.
pub fn set_fsuid(uid: u32) -> Result<()> {
    // SAFETY: no memory is involved.
    set(uid, |uid| unsafe { libc::setfsuid(uid) })
}

/// Sets the thread's file-system group id.
///
/// # Errors
/// As [`set_fsuid`].
pub fn set_fsgid(gid: u32) -> Result<()> {
    // SAFETY: no memory is involved.
    set(gid, |gid| unsafe { libc::setfsgid(gid) })
}

/// Neither call reports an error; both return the former id.
fn set(id: u32, call: impl Fn(u32) -> i32) -> Result<()> {
    call(id);
    if call(ASK).cast_unsigned() == id { Ok(()) } else { Err(Errno::PERM) }
}

/// Returns the thread's file-system user and group id.
pub fn fs_ids() -> (u32, u32) {
    // SAFETY: no memory is involved.
    unsafe { (libc::setfsuid(ASK).cast_unsigned(), libc::setfsgid(ASK).cast_unsigned()) }
}

/// Sets the thread's supplementary groups.
///
/// # Errors
/// `EPERM` without the privilege.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `groups.len()` ids from the slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    Ok(())
}

/// Returns the process' supplementary groups.
///
/// # Errors
/// There are more than `max`.
pub fn groups(max: usize) -> Result<Vec<u32>> {
    let mut groups = vec![0; max];
    let count = libc::c_int::try_from(max).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel writes at most `count` ids, for which there is room.
    let count = check(unsafe { libc::getgroups(count, groups.as_mut_ptr()) })?;
    groups.truncate(count.unsigned_abs() as usize);
    Ok(groups)
}
