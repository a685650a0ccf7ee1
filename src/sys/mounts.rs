//! Whether anything was mounted or unmounted.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::errno::Result;

/// Counts the changes of what is mounted, by polling the list of mounts (proc_pid_mounts(5)).
pub struct Mounts(Mutex<Seen>);

struct Seen {
    list: OwnedFd,
    changes: u64,
}

impl Mounts {
    /// Watches what the calling thread sees of mounts.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn watch() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let list = rustix::fs::open("/proc/thread-self/mountinfo", flags, Mode::empty())?;
        Ok(Self(Mutex::new(Seen { list, changes: 0 })))
    }

    /// How many changes were seen. A mount whose system call has ended is among them; several may
    /// count as one.
    pub fn changes(&self) -> u64 {
        // The kernel tells of each change once, so that nobody may ask before it is counted.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = [PollFd::new(&seen.list, PollFlags::PRI)];
        // What cannot be asked may have changed.
        let changed = poll(&mut list, Some(&Timespec::default())) != Ok(0);
        seen.changes += u64::from(changed);
        seen.changes
    }
}

/// Runs a test on a thread that has mounts of its own, which go with it, whatever happens; says so if
/// there can be none.
#[cfg(test)]
pub fn with_own(test: impl FnOnce() + Send) {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::UnshareFlags;

    let run = || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        // What makes it deprecated are threads with descriptors of their own, which this is not.
        #[allow(deprecated)]
        let unshared = rustix::thread::unshare(UnshareFlags::NEWNS);
        match unshared.and_then(|()| mount_change("/", private)) {
            Ok(()) => test(),
            Err(errno) => eprintln!("skipped: no mounts of our own: {errno}"),
        }
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("the test passes"));
}

#[cfg(test)]
mod tests {
    use rustix::mount::mount_bind;

    use super::*;

    #[test]
    fn a_mount_is_seen_once_it_is_made() {
        with_own(|| {
            let (dir, mounts) = (tempfile::tempdir().unwrap(), Mounts::watch().unwrap());
            let before = mounts.changes();
            assert_eq!(mounts.changes(), before);
            mount_bind(dir.path(), dir.path()).unwrap();
            let after = mounts.changes();
            assert!(after > before);
            assert_eq!(mounts.changes(), after);
        });
    }
}
