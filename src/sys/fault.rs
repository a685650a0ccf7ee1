//! A slow or failing disk for tests: only in debug builds, and only where the environment names a
//! folder in `BERTH_FAULTS`. The files that are in it say what the disk does:
//!
//! - `cold`: nothing is in memory, so that every READ has to ask the disk;
//! - `hold`: what asks the disk waits for as long as the file is there, but for the first so many
//!   flushes as the number in it says;
//! - `stuck`: what is written waits for as long as the file is there;
//! - `fail`: what is flushed does not get onto the disk;
//! - `flushes`: grows by a byte with each flush that begins.
//!
//! Conditions and no delays, so that tests can tell "waits" from "takes long on a busy machine".

use crate::errno::Result;

/// Comes back when the disk has flushed.
pub(super) fn flush() -> Result<()> {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        return disk::flush(folder);
    }
    Ok(())
}

/// Comes back when the disk has read.
pub(super) fn read() {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref()
        && disk::is_cold(folder)
    {
        disk::wait_as(folder, u64::MAX);
    }
}

/// Comes back when there is room in memory for what is written.
pub(super) fn write() {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        disk::wait_while(|| folder.join("stuck").exists());
    }
}

/// Whether what is written waits.
pub(super) fn is_stuck() -> bool {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        return folder.join("stuck").exists();
    }
    false
}

/// Whether nothing is in memory.
pub(super) fn is_cold() -> bool {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        return disk::is_cold(folder);
    }
    false
}

#[cfg(debug_assertions)]
mod disk {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::errno::{Errno, Result};

    /// Global, because there is one disk for the whole process, and no way down to here for a
    /// setting that no user may have.
    pub(super) static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("BERTH_FAULTS").map(PathBuf::from));

    static FLUSHES: AtomicU64 = AtomicU64::new(0);

    pub(super) fn flush(folder: &Path) -> Result<()> {
        let number = FLUSHES.fetch_add(1, Ordering::SeqCst) + 1;
        let mut log = OpenOptions::new().append(true).create(true).open(folder.join("flushes"))?;
        log.write_all(b".")?;
        wait_as(folder, number);
        if folder.join("fail").exists() { Err(Errno::IO) } else { Ok(()) }
    }

    pub(super) fn is_cold(folder: &Path) -> bool {
        folder.join("cold").exists()
    }

    pub(super) fn wait_as(folder: &Path, number: u64) {
        let held = |text: String| text.trim().parse().unwrap_or(0) < number;
        wait_while(|| fs::read_to_string(folder.join("hold")).is_ok_and(held));
    }

    pub(super) fn wait_while(condition: impl Fn() -> bool) {
        while condition() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
