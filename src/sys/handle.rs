//! The file system's own handles: name_to_handle_at(2), open_by_handle_at(2).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use super::check;
use crate::errno::{Errno, Result};

/// The length of the longest handle that is supported. ext4 uses 8 bytes, tmpfs and XFS 12, btrfs
/// up to 40.
pub const MAX: usize = 44;

/// The file system's own handle of a file, valid for as long as the file exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHandle {
    kind: u16,
    len: usize,
    bytes: [u8; MAX],
}

/// The id of a mount, valid while it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount(libc::c_int);

/// `struct file_handle` with room for the bytes that the kernel appends to it.
#[repr(C)]
struct Raw {
    len: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; MAX],
}

impl KernelHandle {
    /// Creates a handle of the file system's type `kind`. Only [`open`] shows whether it is valid.
    ///
    /// # Errors
    /// `EOVERFLOW` if `bytes` is longer than [`MAX`].
    pub fn new(kind: u16, bytes: &[u8]) -> Result<Self> {
        let mut all = [0; MAX];
        all.get_mut(..bytes.len()).ok_or(Errno::OVERFLOW)?.copy_from_slice(bytes);
        Ok(Self { kind, len: bytes.len(), bytes: all })
    }

    /// The file system's type of the handle.
    pub const fn kind(&self) -> u16 {
        self.kind
    }

    /// Returns the inode number, if handles of this type contain it (Linux' `enum fid_type`; XFS
    /// and btrfs have types of their own).
    pub fn fileid(&self) -> Option<u64> {
        let low = || self.bytes().first_chunk().map(|bytes| u32::from_ne_bytes(*bytes).into());
        let whole = || self.bytes().first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        match (self.kind, self.len) {
            (0x01, 8) => low(),
            (0x81, 12) | (0x4d, 20) => whole(),
            _ => None,
        }
    }

    /// The handle's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Returns the handle of the file that `fd` refers to, which may be an O_PATH descriptor. Needs no
/// privilege.
///
/// # Errors
/// `EOPNOTSUPP` if the file system has none, `EOVERFLOW` if it is longer than [`MAX`].
pub fn of(fd: impl AsFd) -> Result<KernelHandle> {
    Ok(of_name(fd, c"", libc::AT_EMPTY_PATH)?.0)
}

/// Returns the handle of the entry `name` of `dir`. Follows mount points, but no symbolic links.
///
/// # Errors
/// As [`of`], and those of a look-up.
pub fn of_entry(dir: impl AsFd, name: &CStr) -> Result<KernelHandle> {
    Ok(of_name(dir, name, 0)?.0)
}

/// As [`of_entry`], for the file with the number `fileid` on `mount`. `None` if it is another file,
/// or its handle does not contain the number.
pub fn of_file(dir: impl AsFd, name: &CStr, fileid: u64, mount: Mount) -> Option<KernelHandle> {
    let (handle, on) = of_name(dir, name, 0).ok()?;
    (on == mount && handle.fileid() == Some(fileid)).then_some(handle)
}

/// Returns the mount of `fd`.
///
/// # Errors
/// As [`of`].
pub fn mount(fd: impl AsFd) -> Result<Mount> {
    Ok(of_name(fd, c"", libc::AT_EMPTY_PATH)?.1)
}

fn of_name(dir: impl AsFd, name: &CStr, flags: i32) -> Result<(KernelHandle, Mount)> {
    let len = libc::c_uint::try_from(MAX).map_err(|_| Errno::OVERFLOW)?;
    let mut raw = Raw { len, kind: 0, bytes: [0; MAX] };
    let mut mount = 0;
    // SAFETY: `name` is a C string; `raw` is laid out as `struct file_handle`, followed by
    // as many bytes as its length says; both live over the call.
    check(unsafe {
        libc::name_to_handle_at(
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount,
            flags,
        )
    })?;
    let kind = u16::try_from(raw.kind).map_err(|_| Errno::OVERFLOW)?;
    Ok((KernelHandle { kind, len: raw.len as usize, bytes: raw.bytes }, Mount(mount)))
}

/// How often a handle is tried for which the kernel returns `ENOMEM`.
const TRIES: usize = 1000;

/// Opens the file behind a handle without access to its content (O_PATH). `mount` is a descriptor
/// on the file system that is not O_PATH. Needs CAP_DAC_READ_SEARCH.
///
/// # Errors
/// `ESTALE` if the file is gone, `EPERM` without the privilege.
pub fn open(mount: impl AsFd, handle: &KernelHandle) -> Result<OwnedFd> {
    // The kernel also returns `ENOMEM` for a deleted file whose number is being assigned to another
    // one at that moment (iget_locked() in fs/inode.c finds that one and gives up).
    for _ in 0..TRIES {
        match try_open(&mount, handle) {
            Err(Errno::NOMEM) => thread::yield_now(),
            opened => return opened,
        }
    }
    Err(Errno::NOMEM)
}

fn try_open(mount: impl AsFd, handle: &KernelHandle) -> Result<OwnedFd> {
    let len = libc::c_uint::try_from(handle.len).map_err(|_| Errno::OVERFLOW)?;
    let mut raw = Raw { len, kind: handle.kind.into(), bytes: handle.bytes };
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: as above; the kernel only reads `raw`.
    let fd = check(unsafe {
        libc::open_by_handle_at(mount.as_fd().as_raw_fd(), (&raw mut raw).cast(), flags)
    })?;
    // SAFETY: the kernel has just opened it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn check(kind: u16, bytes: &[u8], expected: Option<u64>) {
        assert_eq!(KernelHandle::new(kind, bytes).unwrap().fileid(), expected, "{kind:#x}");
    }

    #[test]
    fn the_number_is_read_from_forms_that_are_known_alone() {
        let number = 0x0102_0304_0506_0708_u64;
        let whole = [&number.to_ne_bytes()[..], &[9; 12]].concat();
        check(0x01, &[&77_u32.to_ne_bytes()[..], &[9; 4]].concat(), Some(77));
        check(0x81, &whole[..12], Some(number));
        check(0x4d, &whole, Some(number));
        check(0x01, &whole[..12], None); // tmpfs begins with the generation
        check(0xfe, &whole, None);
    }

    #[test]
    fn a_file_is_found_by_name_only_if_it_has_the_number_and_is_on_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let (folder, elsewhere) = (File::open(dir.path()).unwrap(), File::open("/proc").unwrap());
        let fileid = dir.path().join("file").metadata().unwrap().ino();
        let Ok(here) = mount(&folder) else { return }; // a file system without handles
        let known = of_entry(&folder, c"file").unwrap().fileid().is_some();
        let found = |fileid, mount| of_file(&folder, c"file", fileid, mount).is_some();
        assert_eq!(found(fileid, here), known);
        assert!(!found(fileid + 1, here));
        assert!(mount(&elsewhere).is_err() || !found(fileid, mount(&elsewhere).unwrap()));
    }

    #[test]
    fn a_file_that_is_gone_is_stale_though_its_number_is_being_given_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, name) = (File::open(dir.path()).unwrap(), dir.path().join("file"));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for other in ["one", "two"].map(|name| dir.path().join(name)) {
                let stop = &stop;
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::fs::write(&other, "").unwrap();
                        std::fs::remove_file(&other).unwrap();
                    }
                });
            }
            let refused = (0..10_000).find_map(|_| {
                std::fs::write(&name, "").unwrap();
                let handle = of_entry(&folder, c"file");
                std::fs::remove_file(&name).unwrap();
                // Without handles or the privilege there is nothing to see.
                let opened = open(&folder, &handle.ok()?);
                opened.err().filter(|errno| ![Errno::STALE, Errno::PERM].contains(errno))
            });
            stop.store(true, Ordering::Relaxed);
            assert_eq!(refused, None);
        });
    }
}
