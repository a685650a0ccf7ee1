//! The trash: a folder whose entries are removed in the background, by one thread.
//!
//! ```text
//!   look into the folder ---> remove entry after entry ---> wait for a nudge
//!           ^                                                    |
//!           +----------------------------------------------------+
//! ```
//!
//! The folder is all that is remembered: whatever is in it goes, also after a restart in the midst
//! of a tree. Nothing outside is touched: no symbolic link is followed and no other file system
//! entered. An entry of which something cannot be removed is set aside until the next start, and
//! the others go on.
//!
//! The rate spares the file system. A file is charged for its length, too, and a large one becomes
//! shorter in steps: to free hundreds of GiB at once would hold up all others on the disk.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use serde::Serialize;

use super::progress::Progress;
use super::tree::{self, Entry, Stat, Walk};
use crate::errno::{Errno, Result};

/// Bytes of a large file that are freed at once.
const STEP: u64 = 256 * 1024 * 1024;

/// Bytes of a file that are charged like an entry.
const CHARGED: u64 = 16 * 1024 * 1024;

/// The shortest wait for the rate, and what may be made up for after a slow call.
const PAUSE: Duration = Duration::from_millis(5);

/// The wait after the system lacked memory or descriptors.
const RETRY: Duration = Duration::from_secs(60);

/// A folder that is being emptied. Dropping it is [`Trash::stop`].
#[derive(Debug)]
pub struct Trash {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread does at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Entries of the folder that wait, the current one included, as of the last look into it.
    pub waiting: usize,
    /// Entries of the folder that could not be removed, and are tried again at the next start.
    pub set_aside: usize,
    /// Files and directories that were removed since the start, at any depth.
    pub removed: u64,
    /// Bytes on the disk that were freed since the start.
    pub freed_bytes: u64,
    /// The entry of the folder that is being removed.
    pub current: Option<String>,
    /// Whether there is nothing to do: everything is removed, or set aside.
    pub idle: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state has changed, or the thread has to end.
    changed: Condvar,
    /// What was removed; to cancel it ends the thread.
    progress: Progress,
}

#[derive(Debug, Default)]
struct State {
    nudged: bool,
    idle: bool,
    waiting: usize,
    set_aside: usize,
    current: Option<String>,
}

impl Trash {
    /// Starts to remove what is in the folder `dir`, which has to be there, at most `rate` entries
    /// a second. Only one at a time may do that to a folder.
    ///
    /// # Errors
    /// The folder cannot be opened, or the system refuses a thread.
    pub fn start(dir: PathBuf, rate: NonZeroU32) -> io::Result<Self> {
        let folder = tree::root(&dir)?;
        let shared = Arc::<Shared>::default();
        let pace = Pace::new(rate, Instant::now());
        let aside = HashSet::new();
        let worker = Worker { dir, folder, shared: Arc::clone(&shared), pace, aside };
        let thread = thread::Builder::new().name("berth-trash".to_owned());
        let thread = thread.spawn(move || worker.work())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Tells that an entry was renamed into the folder. Does not block; may be repeated.
    pub fn nudge(&self) {
        self.shared.lock().nudged = true;
        self.shared.changed.notify_all();
    }

    /// What is done at this moment. Does not block.
    pub fn status(&self) -> Status {
        let done = self.shared.progress.snapshot();
        let state = self.shared.lock();
        Status {
            waiting: state.waiting,
            set_aside: state.set_aside,
            removed: done.entries_done,
            freed_bytes: done.bytes_done,
            current: state.current.clone(),
            idle: state.idle && !state.nudged,
        }
    }

    /// Ends the thread, and waits for that: no longer than the removal of one entry takes, or of
    /// 256 MiB of a file. What is left is removed after the next start.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.shared.progress.cancel();
        // Under the lock, so that the thread is either waiting or will look before it waits.
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("emptying the trash panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `until`, or until the thread has to end.
    fn pause(&self, until: Instant) {
        let mut state = self.lock();
        while !self.progress.is_cancelled() {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a nudge, until `until` if that is given, or until the thread has to end.
    fn wait(&self, until: Option<Instant>) {
        let mut state = self.lock();
        state.idle = until.is_none();
        self.changed.notify_all();
        while !state.nudged && !self.progress.is_cancelled() {
            let left = until.map_or(RETRY, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        (state.nudged, state.idle) = (false, false);
    }
}

/// How fast entries may be removed.
#[derive(Debug)]
struct Pace {
    /// The time that an entry has.
    share: Duration,
    /// When the time of what was removed is over.
    due: Instant,
}

impl Pace {
    fn new(rate: NonZeroU32, now: Instant) -> Self {
        Self { share: Duration::from_secs(1) / rate.get(), due: now }
    }

    /// Charges an entry and what it freed. Answers until when to wait, if it is worth it.
    fn charge(&mut self, freed: u64, now: Instant) -> Option<Instant> {
        let entries = 1 + u32::try_from(freed / CHARGED).unwrap_or(u32::MAX - 1);
        let from = now.checked_sub(PAUSE).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = from + self.share.saturating_mul(entries);
        (self.due.saturating_duration_since(now) >= PAUSE).then_some(self.due)
    }
}

/// How the removal of an entry of the folder ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Removed,
    /// Something of it cannot be removed.
    SetAside,
    /// The system lacks something that it will have again.
    Later,
    /// The thread has to end.
    Stopped,
}

/// The thread.
struct Worker {
    dir: PathBuf,
    folder: OwnedFd,
    shared: Arc<Shared>,
    pace: Pace,
    /// Entries that are not to be tried again.
    aside: HashSet<CString>,
}

impl Worker {
    fn work(mut self) {
        while !self.shared.progress.is_cancelled() {
            let later = self.round().unwrap_or_else(|error| {
                tracing::warn!(path = %self.dir.display(), %error, "cannot look into the trash");
                self.shared.set(|state| state.current = None);
                true
            });
            self.shared.wait(later.then(|| Instant::now() + RETRY));
        }
    }

    /// Removes what is in the folder; whether there is something to be tried again soon.
    fn round(&mut self) -> Result<bool> {
        let found = self.look()?;
        let (mut waiting, mut later) = (found.len(), false);
        for name in found {
            let shown = name.to_string_lossy().into_owned();
            self.shared.set(|state| (state.waiting, state.current) = (waiting, Some(shown)));
            let end = self.remove(&name)?;
            match end {
                End::Removed => {}
                End::SetAside => drop(self.aside.insert(name)),
                End::Later => later = true,
                End::Stopped => break,
            }
            waiting -= usize::from(end != End::Later);
        }
        let set_aside = self.aside.len();
        self.shared.set(|state| {
            (state.waiting, state.set_aside, state.current) = (waiting, set_aside, None);
        });
        Ok(later)
    }

    /// The entries of the folder that are not set aside.
    fn look(&mut self) -> Result<Vec<CString>> {
        let mut walk = Walk::new(tree::directory(&self.folder, c".")?)?;
        let (mut found, mut aside) = (Vec::new(), HashSet::new());
        while let Some(Entry { name, .. }) = walk.next_entry()? {
            match self.aside.take(&name) {
                Some(name) => drop(aside.insert(name)),
                None => found.push(name),
            }
        }
        self.aside = aside; // without those that somebody else has removed
        Ok(found)
    }

    fn remove(&mut self, name: &CStr) -> Result<End> {
        let walk = Walk::new(tree::directory(&self.folder, c".")?)?;
        let shared = Arc::clone(&self.shared);
        let (pace, marks, tally) = (&mut self.pace, Vec::new(), Tally::default());
        let (end, tally) = Removal { pace, shared: &shared, walk, marks, tally }.run(name);
        self.log(name, end, tally);
        Ok(end)
    }

    fn log(&self, name: &CStr, end: End, tally: Tally) {
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        let Tally { removed, failed, first, .. } = tally;
        let (what, error) = first.unwrap_or((name, Errno::IO));
        let path = self.dir.join(what);
        let path = path.display();
        match end {
            End::Removed => tracing::info!(%path, removed, "removed from the trash"),
            End::SetAside => tracing::warn!(
                %path, %error, failed, "cannot remove from the trash; it is left for the next start"
            ),
            End::Later => tracing::warn!(
                %path, %error, failed, "cannot remove from the trash; it is tried again soon"
            ),
            End::Stopped => {}
        }
    }
}

/// What became of the files of an entry.
#[derive(Debug, Default)]
struct Tally {
    removed: u64,
    failed: u64,
    /// The first that failed.
    first: Option<(PathBuf, Errno)>,
    /// Whether one failed because of what the system will have again.
    later: bool,
}

/// The removal of one entry of the folder: children first.
struct Removal<'a> {
    pace: &'a mut Pace,
    shared: &'a Shared,
    /// It is in the folder itself at the beginning and at the end, and never reads that.
    walk: Walk,
    /// For each directory on the way: what was removed, and what had failed, when it was entered.
    marks: Vec<(u64, u64)>,
    tally: Tally,
}

impl Removal<'_> {
    fn run(mut self, name: &CStr) -> (End, Tally) {
        self.entry(name, FileType::Unknown);
        while self.walk.path().depth() > 0 && !self.shared.progress.is_cancelled() {
            if let Err(errno) = self.step() {
                self.failed(c"..", errno); // there is no way back
                break;
            }
        }
        let end = match self.tally {
            _ if self.shared.progress.is_cancelled() => End::Stopped,
            Tally { failed: 0, .. } => End::Removed,
            Tally { later: true, .. } => End::Later,
            _ => End::SetAside,
        };
        (end, self.tally)
    }

    fn step(&mut self) -> Result<()> {
        match self.walk.next_entry() {
            Ok(Some(entry)) => {
                self.entry(&entry.name, entry.kind);
                Ok(())
            }
            Ok(None) => self.leave(),
            Err(errno) => {
                self.failed(c".", errno);
                self.leave()
            }
        }
    }

    /// Goes into a directory, and removes what is none.
    fn entry(&mut self, name: &CStr, kind: FileType) {
        if matches!(kind, FileType::Directory | FileType::Unknown) {
            match self.enter(name) {
                Ok(()) | Err(Errno::NOENT) => return,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return self.failed(name, errno),
            }
        }
        let freed =
            Stat::of_entry(self.walk.here(), name).and_then(|stat| self.shrink(name, &stat));
        match freed {
            Ok(Some(freed)) => self.unlink(name, AtFlags::empty(), freed),
            Ok(None) | Err(Errno::NOENT) => {} // it has to end; somebody else was quicker
            Err(errno) => self.failed(name, errno),
        }
    }

    fn enter(&mut self, name: &CStr) -> Result<()> {
        let dir = openable(self.walk.here(), name)?;
        self.walk.enter(name.to_owned(), dir)?;
        self.marks.push((self.tally.removed, self.tally.failed));
        Ok(())
    }

    /// Removes the directory at whose end the walk is, and goes on in the one above.
    fn leave(&mut self) -> Result<()> {
        let used = Stat::of(self.walk.here()).map_or(0, |stat| stat.used);
        let name = self.walk.leave()?;
        let (removed, failed) = self.marks.pop().unwrap_or_default();
        if self.tally.failed == failed {
            let again = self.tally.removed > removed;
            self.remove_directory(&name, used, again);
        } // or something is left in it, as is known
        Ok(())
    }

    fn remove_directory(&mut self, name: &CStr, used: u64, again: bool) {
        match rustix::fs::unlinkat(self.walk.here(), name, AtFlags::REMOVEDIR) {
            // Some file systems skip entries when others are removed meanwhile. Every further time
            // has to remove some, so that this comes to an end.
            Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) if again => {
                self.entry(name, FileType::Directory);
            }
            removed => self.count(name, removed, used),
        }
    }

    fn unlink(&mut self, name: &CStr, flags: AtFlags, used: u64) {
        let removed = rustix::fs::unlinkat(self.walk.here(), name, flags);
        self.count(name, removed, used);
    }

    fn count(&mut self, name: &CStr, removed: rustix::io::Result<()>, used: u64) {
        match removed {
            Ok(()) => {
                self.tally.removed += 1;
                self.shared.progress.add(1, used);
                self.charge(used);
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => self.failed(name, errno.into()),
        }
    }

    /// Counts what cannot be removed; only the first is kept, for the log.
    fn failed(&mut self, name: &CStr, errno: Errno) {
        self.tally.failed += 1;
        self.tally.later |= [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno);
        if self.tally.first.is_none() {
            self.tally.first = Some((self.walk.path().show(name), errno));
        }
        self.charge(0);
    }

    /// Waits as the rate demands.
    fn charge(&mut self, freed: u64) {
        if let Some(until) = self.pace.charge(freed, Instant::now()) {
            self.shared.pause(until);
        }
    }

    /// Makes a large file shorter in steps, if no other name has it. Answers what its removal will
    /// free; none if the thread has to end before.
    fn shrink(&mut self, name: &CStr, stat: &Stat) -> Result<Option<u64>> {
        if stat.links != 1 {
            return Ok(Some(0));
        }
        if stat.used <= STEP || stat.kind != FileType::RegularFile {
            return Ok(Some(stat.used));
        }
        // What cannot be opened may still be removed at once.
        let Ok(file) = writable(self.walk.here(), name, stat) else { return Ok(Some(stat.used)) };
        let mut used = stat.used;
        for length in lengths(&file, stat)? {
            if self.shared.progress.is_cancelled() {
                return Ok(None);
            }
            rustix::fs::ftruncate(&file, length)?;
            let freed = used.saturating_sub(Stat::of(&file)?.used);
            used -= freed;
            self.shared.progress.add(0, freed);
            self.charge(freed);
        }
        Ok(Some(used))
    }
}

/// Opens a directory that is to be removed. Without privilege, its own mode may be in the way: a
/// directory without permissions cannot be read, and one that is read-only not emptied.
fn openable(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let open = || tree::directory(dir, name);
    let opened = match open() {
        Err(Errno::ACCES) => {
            let place = tree::place(dir, name)?;
            if Stat::of(&place)?.kind == FileType::Directory {
                rustix::fs::chmod(tree::proc_path(&place), Mode::RWXU)?;
            }
            open()?
        }
        opened => opened?,
    };
    let mode = Stat::of(&opened)?.mode;
    if !mode.contains(Mode::RWXU) {
        // If that fails, so will the removal of what is in it, unless it does not matter.
        let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

/// Opens the file for writing, if the name still has it.
fn writable(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<OwnedFd> {
    let place = tree::place(dir, name)?;
    let now = Stat::of(&place)?;
    if (now.id, now.kind, now.links) != (stat.id, FileType::RegularFile, 1) {
        return Err(Errno::STALE);
    }
    tree::content(&place, OFlags::RDWR)
}

/// The lengths to which a file is cut, one after the other, so that each frees a step.
fn lengths(file: impl AsFd, stat: &Stat) -> Result<Vec<u64>> {
    let file = file.as_fd();
    let (mut lengths, mut at, mut piece) = (Vec::new(), 0, 0);
    while let Some((mut start, end)) = tree::data(file, at, stat.size)? {
        while piece + (end - start) > STEP {
            start += STEP - piece;
            piece = 0;
            lengths.push(start);
        }
        piece += end - start;
        at = end;
    }
    let wanted = stat.used / STEP;
    if (lengths.len() as u64) < wanted / 2 {
        // Space that was reserved and not written looks empty, and is to be freed all the same.
        let part = (stat.size / wanted).max(1);
        lengths = (1..wanted).map(|n| n * part).collect();
    }
    lengths.reverse();
    Ok(lengths)
}

#[cfg(test)]
mod tests;
