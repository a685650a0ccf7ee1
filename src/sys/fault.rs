//! A slow or failing disk for tests: only in debug builds, and only if the environment variable
//! `BERTH_FAULTS` names a folder. The files in that folder control the disk:
//!
//! - `cold`: nothing is in memory, and every READ reads from the disk;
//! - `hold`: reads and flushes wait while the file exists, except the first flushes, whose number
//!   is in the file;
//! - `stuck`: writes wait while the file exists;
//! - `fail`: flushes fail;
//! - `flushes`: grows by a byte with each flush that begins;
//! - `crash`: the process ends, as by `kill -9`, at the step of creating files whose number is in
//!   the file;
//! - `old`: the file system supports neither O_TMPFILE nor renaming without replacing;
//! - `bare`: it does not support links either.
//!
//! These are conditions and not delays: tests can tell a call that waits from a busy machine.

use crate::errno::Result;

/// Returns when the disk has flushed.
pub(super) fn flush() -> Result<()> {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        return disk::flush(folder);
    }
    Ok(())
}

/// Returns when the disk has read.
pub(super) fn read() {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref()
        && disk::is_cold(folder)
    {
        disk::wait_as(folder, u64::MAX);
    }
}

/// Returns when there is room in memory for a write.
pub(super) fn write() {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        disk::wait_while(|| folder.join("stuck").exists());
    }
}

/// Whether writes wait.
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

/// Ends the process, if it is to crash at this step.
pub(super) fn step() {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        disk::step(folder);
    }
}

/// Whether the file system lacks optional features.
pub(super) fn is_old() -> bool {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        return folder.join("old").exists() || is_bare();
    }
    false
}

/// Whether the file system also lacks links.
pub(super) fn is_bare() -> bool {
    #[cfg(debug_assertions)]
    if let Some(folder) = disk::FOLDER.as_deref() {
        return folder.join("bare").exists();
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

    use rustix::process::Signal;

    use crate::errno::{Errno, Result};

    /// Global, because it is one disk for the whole process, and a setting that no user may have is
    /// not passed down to here.
    pub(super) static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("BERTH_FAULTS").map(PathBuf::from));

    static FLUSHES: AtomicU64 = AtomicU64::new(0);

    static STEPS: AtomicU64 = AtomicU64::new(0);

    pub(super) fn flush(folder: &Path) -> Result<()> {
        let number = FLUSHES.fetch_add(1, Ordering::SeqCst) + 1;
        let mut log = OpenOptions::new().append(true).create(true).open(folder.join("flushes"))?;
        log.write_all(b".")?;
        wait_as(folder, number);
        if folder.join("fail").exists() { Err(Errno::IO) } else { Ok(()) }
    }

    pub(super) fn step(folder: &Path) {
        let number = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
        let here = |text: String| text.trim().parse() == Ok(number);
        if fs::read_to_string(folder.join("crash")).is_ok_and(here) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
            wait_while(|| true);
        }
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
