//! The trash: a folder whose content is removed in the background, by one thread.
//!
//! ```text
//!   list the folder ---> remove entry after entry ---> wait for a notification
//!         ^                                                    |
//!         +----------------------------------------------------+
//! ```
//!
//! The folder is the only state: all its content is removed, also after a restart in the middle of
//! a tree. Nothing outside of it is touched: symbolic links are not followed, and other file
//! systems are not entered. An entry that cannot be removed completely is set aside until the next
//! start, and the others are removed.
//!
//! The rate limits the load on the file system. A file is also charged for its size, and a large
//! file is truncated in steps: to free hundreds of GiB at once would delay everything else on the
//! disk.

mod removal;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

use self::removal::{Removal, RemovalOutcome, RemovalPace, RemovalTally};
use super::progress::TreeProgress;
use super::tree::{TreeEntry, TreeWalk, file};
use crate::errno::{Errno, Result};

/// The wait before another attempt after the system lacked memory or descriptors.
const RETRY: Duration = Duration::from_secs(60);

/// The thread that empties a folder. Dropping it stops the thread, like [`Trash::stop`].
#[derive(Debug)]
pub struct Trash {
    shared: Arc<TrashShared>,
    thread: Option<JoinHandle<()>>,
}

/// The status of the trash at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrashStatus {
    /// Entries of the folder that wait, including the current one, as of the last listing.
    pub waiting: u64,
    /// Entries of the folder that could not be removed, and are tried again at the next start.
    pub set_aside: u64,
    /// Files and directories that were removed since the start, at any depth.
    pub removed: u64,
    /// Bytes on the disk that were freed since the start.
    pub freed: u64,
    /// The entry of the folder that is being removed.
    pub current: Option<String>,
    /// Whether there is nothing to do: every entry is removed or set aside.
    pub idle: bool,
}

#[derive(Debug, Default)]
struct TrashShared {
    state: Mutex<TrashState>,
    /// Notified when the state changes or the thread must end.
    changed: Condvar,
    /// What was removed. Cancelling it ends the thread.
    progress: TreeProgress,
}

#[derive(Debug, Default)]
struct TrashState {
    nudged: bool,
    idle: bool,
    waiting: usize,
    set_aside: usize,
    current: Option<String>,
}

impl Trash {
    /// Starts to remove the content of the existing folder `dir`, at most `rate` entries a second.
    /// A folder may have only one such thread.
    ///
    /// # Errors
    /// The folder cannot be opened, or the system cannot start a thread.
    pub fn start(dir: PathBuf, rate: NonZeroU32) -> io::Result<Self> {
        let folder = file::root(&dir)?;
        let shared = Arc::<TrashShared>::default();
        let pace = RemovalPace::new(rate, Instant::now());
        let aside = HashSet::new();
        let worker = TrashWorker { dir, folder, shared: Arc::clone(&shared), pace, aside };
        let thread = thread::Builder::new().name("berth-trash".to_owned());
        let thread = thread.spawn(move || worker.work())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Notifies the thread that an entry was moved into the folder. Does not block; may be
    /// repeated.
    pub fn nudge(&self) {
        self.shared.lock().nudged = true;
        self.shared.changed.notify_all();
    }

    /// Returns the status at this moment. Does not block.
    pub fn status(&self) -> TrashStatus {
        let done = self.shared.progress.snapshot();
        let state = self.shared.lock();
        TrashStatus {
            waiting: state.waiting as u64,
            set_aside: state.set_aside as u64,
            removed: done.entries_done,
            freed: done.bytes_done,
            current: state.current.clone(),
            idle: state.idle && !state.nudged,
        }
    }

    /// Stops the thread, and waits for it: at most for the removal of one entry, or of 256 MiB of a
    /// file. The rest is removed after the next start.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.shared.progress.cancel();
        // Under the lock: the thread is then either waiting, or checks again before it waits.
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("emptying the trash panicked");
        }
    }
}

impl TrashShared {
    fn lock(&self) -> MutexGuard<'_, TrashState> {
        self.state.lock()
    }

    fn set(&self, change: impl FnOnce(&mut TrashState)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `until`, or until the thread must end.
    fn pause(&self, until: Instant) {
        let mut state = self.lock();
        while !self.progress.is_cancelled() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            self.changed.wait_for(&mut state, left);
        }
    }

    /// Waits for a notification, until `until` if given, or until the thread must end.
    fn wait(&self, until: Option<Instant>) {
        let mut state = self.lock();
        state.idle = until.is_none();
        self.changed.notify_all();
        while !state.nudged && !self.progress.is_cancelled() {
            let left = until.map_or(RETRY, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            self.changed.wait_for(&mut state, left);
        }
        (state.nudged, state.idle) = (false, false);
    }
}

/// The state of the thread.
struct TrashWorker {
    dir: PathBuf,
    folder: OwnedFd,
    shared: Arc<TrashShared>,
    pace: RemovalPace,
    /// Entries that are not tried again.
    aside: HashSet<CString>,
}

impl TrashWorker {
    fn work(mut self) {
        while !self.shared.progress.is_cancelled() {
            let later = self.round().unwrap_or_else(|error| {
                tracing::warn!(
                    path = %self.dir.display(), %error, "cannot list the trash; retrying"
                );
                self.shared.set(|state| state.current = None);
                true
            });
            self.shared.wait(later.then(|| Instant::now() + RETRY));
        }
    }

    /// Removes the content of the folder. Returns whether an entry must be tried again soon.
    fn round(&mut self) -> Result<bool> {
        // Opened each time, because the file system may have been mounted anew.
        self.folder = file::root(&self.dir)?;
        let found = self.look()?;
        let (mut waiting, mut later) = (found.len(), false);
        for name in found {
            let shown = name.to_string_lossy().into_owned();
            self.shared.set(|state| (state.waiting, state.current) = (waiting, Some(shown)));
            let end = self.remove(&name)?;
            match end {
                RemovalOutcome::Removed => {}
                RemovalOutcome::SetAside => drop(self.aside.insert(name)),
                RemovalOutcome::Later => later = true,
                RemovalOutcome::Stopped => break,
            }
            waiting -= usize::from(end != RemovalOutcome::Later);
        }
        let set_aside = self.aside.len();
        self.shared.set(|state| {
            (state.waiting, state.set_aside, state.current) = (waiting, set_aside, None);
        });
        Ok(later)
    }

    /// Lists the entries of the folder that are not set aside.
    fn look(&mut self) -> Result<Vec<CString>> {
        let mut walk = TreeWalk::new(file::directory(&self.folder, c".")?)?;
        let (mut found, mut aside) = (Vec::new(), HashSet::new());
        while let Some(TreeEntry { name, .. }) = walk.next_entry()? {
            match self.aside.take(&name) {
                Some(name) => drop(aside.insert(name)),
                None => found.push(name),
            }
        }
        self.aside = aside; // without entries that were removed by others
        Ok(found)
    }

    fn remove(&mut self, name: &CStr) -> Result<RemovalOutcome> {
        let walk = TreeWalk::new(file::directory(&self.folder, c".")?)?;
        let shared = Arc::clone(&self.shared);
        let (end, tally) = Removal::new(&mut self.pace, &shared, walk).run(name);
        self.log(name, end, tally);
        Ok(end)
    }

    fn log(&self, name: &CStr, end: RemovalOutcome, tally: RemovalTally) {
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        let RemovalTally { removed, failed, first, .. } = tally;
        let (what, error) = first.unwrap_or((name, Errno::IO));
        let path = self.dir.join(what);
        let path = path.display();
        match end {
            RemovalOutcome::Removed => tracing::info!(%path, removed, "removed from the trash"),
            RemovalOutcome::SetAside => tracing::warn!(
                %path, %error, failed, "cannot remove from the trash; tried again at the next start"
            ),
            RemovalOutcome::Later => tracing::warn!(
                %path, %error, failed, "cannot remove from the trash; retrying soon"
            ),
            RemovalOutcome::Stopped => {}
        }
    }
}
