//! Removes one entry of the trash: children first, at a limited rate, in small steps.
//!
//! A directory with content that cannot be removed is kept, and so are the directories above it.
//! Everything else in them is removed.

use std::ffi::CStr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::TrashShared;
use crate::errno::{Errno, Result};
use crate::volume::tree::TreeWalk;
use crate::volume::tree::file::{self, FileStat};

/// Bytes of a large file that are freed at once.
pub(super) const STEP: u64 = 256 * 1024 * 1024;

/// Bytes of a file that are charged like one entry.
pub(super) const CHARGED: u64 = 16 * 1024 * 1024;

/// The shortest wait for the rate, and the time by which a slow call may be made up for.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// The limit on the rate of removal.
#[derive(Debug)]
pub(super) struct RemovalPace {
    /// The time for one entry.
    share: Duration,
    /// When the time for everything removed so far is over.
    due: Instant,
}

impl RemovalPace {
    pub(super) fn new(rate: NonZeroU32, now: Instant) -> Self {
        Self { share: Duration::from_secs(1) / rate.get(), due: now }
    }

    /// Charges one entry and the bytes that it freed. Returns the time until which to wait, if the
    /// wait is long enough to be worth it.
    pub(super) fn charge(&mut self, freed: u64, now: Instant) -> Option<Instant> {
        let entries = 1 + u32::try_from(freed / CHARGED).unwrap_or(u32::MAX - 1);
        let from = now.checked_sub(PAUSE).map_or(self.due, |earliest| self.due.max(earliest));
        self.due = from + self.share.saturating_mul(entries);
        (self.due.saturating_duration_since(now) >= PAUSE).then_some(self.due)
    }
}

/// How the removal of an entry of the folder ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RemovalOutcome {
    Removed,
    /// Part of it cannot be removed.
    SetAside,
    /// The system lacked a resource that it will have again.
    Later,
    /// The thread must end.
    Stopped,
}

/// The numbers of files that were removed or not.
#[derive(Debug, Default)]
pub(super) struct RemovalTally {
    pub(super) removed: u64,
    pub(super) failed: u64,
    /// The first failure.
    pub(super) first: Option<(PathBuf, Errno)>,
    /// Whether a failure was for lack of a resource that the system will have again.
    later: bool,
}

/// The removal of one entry of the folder, children first.
pub(super) struct Removal<'a> {
    pace: &'a mut RemovalPace,
    shared: &'a TrashShared,
    /// It begins and ends in the folder itself, whose entries it does not read.
    walk: TreeWalk,
    /// For each directory of the path: the numbers removed and failed when it was entered.
    marks: Vec<(u64, u64)>,
    tally: RemovalTally,
}

impl<'a> Removal<'a> {
    /// Creates a removal with a walk that begins in the folder.
    pub(super) fn new(pace: &'a mut RemovalPace, shared: &'a TrashShared, walk: TreeWalk) -> Self {
        Self { pace, shared, walk, marks: Vec::new(), tally: RemovalTally::default() }
    }

    /// Removes the entry `name` of the folder.
    pub(super) fn run(mut self, name: &CStr) -> (RemovalOutcome, RemovalTally) {
        self.entry(name, FileType::Unknown);
        while self.walk.path().depth() > 0 && !self.shared.progress.is_cancelled() {
            if let Err(errno) = self.step() {
                self.failed(c"..", errno); // the walk cannot return from here
                break;
            }
        }
        let end = match self.tally {
            _ if self.shared.progress.is_cancelled() => RemovalOutcome::Stopped,
            RemovalTally { failed: 0, .. } => RemovalOutcome::Removed,
            RemovalTally { later: true, .. } => RemovalOutcome::Later,
            _ => RemovalOutcome::SetAside,
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

    /// Enters a directory, or removes anything else.
    fn entry(&mut self, name: &CStr, kind: FileType) {
        if matches!(kind, FileType::Directory | FileType::Unknown) {
            match self.enter(name) {
                Ok(()) | Err(Errno::NOENT) => return,
                Err(Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return self.failed(name, errno),
            }
        }
        let freed =
            FileStat::of_entry(self.walk.here(), name).and_then(|stat| self.shrink(name, &stat));
        match freed {
            Ok(Some(freed)) => self.unlink(name, AtFlags::empty(), freed),
            Ok(None) | Err(Errno::NOENT) => {} // the thread must end; the file is gone already
            Err(errno) => self.failed(name, errno),
        }
    }

    fn enter(&mut self, name: &CStr) -> Result<()> {
        let dir = openable(self.walk.here(), name)?;
        self.walk.enter(name.to_owned(), dir)?;
        self.marks.push((self.tally.removed, self.tally.failed));
        Ok(())
    }

    /// Removes the directory whose end is reached, and continues in the one above.
    fn leave(&mut self) -> Result<()> {
        let used = FileStat::of(self.walk.here()).map_or(0, |stat| stat.used);
        let name = self.walk.leave()?;
        let (removed, failed) = self.marks.pop().unwrap_or_default();
        if self.tally.failed == failed {
            let again = self.tally.removed > removed;
            self.remove_directory(&name, used, again);
        } // otherwise something is left in it, which was reported
        Ok(())
    }

    fn remove_directory(&mut self, name: &CStr, used: u64, again: bool) {
        match rustix::fs::unlinkat(self.walk.here(), name, AtFlags::REMOVEDIR) {
            // Some file systems skip entries while others are removed. Each repetition must have
            // removed some, so this ends.
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

    /// Counts a failure. Only the first is kept, for the log.
    fn failed(&mut self, name: &CStr, errno: Errno) {
        self.tally.failed += 1;
        self.tally.later |= [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&errno);
        if self.tally.first.is_none() {
            self.tally.first = Some((self.walk.path().show(name), errno));
        }
        self.charge(0);
    }

    /// Waits if the rate is exceeded.
    fn charge(&mut self, freed: u64) {
        if let Some(until) = self.pace.charge(freed, Instant::now()) {
            self.shared.pause(until);
        }
    }

    /// Truncates a large file in steps, if it has no other name. Returns the bytes that its removal
    /// will free, or `None` if the thread must end before.
    fn shrink(&mut self, name: &CStr, stat: &FileStat) -> Result<Option<u64>> {
        if stat.links != 1 {
            return Ok(Some(0));
        }
        if stat.used <= STEP || stat.kind != FileType::RegularFile {
            return Ok(Some(stat.used));
        }
        // A file that cannot be opened may still be removed at once.
        let Ok(file) = writable(self.walk.here(), name, stat) else { return Ok(Some(stat.used)) };
        let mut used = stat.used;
        for length in lengths(&file, stat)? {
            if self.shared.progress.is_cancelled() {
                return Ok(None);
            }
            rustix::fs::ftruncate(&file, length)?;
            let freed = used.saturating_sub(FileStat::of(&file)?.used);
            used -= freed;
            self.shared.progress.add(0, freed);
            self.charge(freed);
        }
        Ok(Some(used))
    }
}

/// Opens a directory that is to be removed. Without privilege its own mode may prevent that: a
/// directory without read permission cannot be read, and one without write permission cannot be
/// emptied.
fn openable(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let open = || file::directory(dir, name);
    let opened = match open() {
        Err(Errno::ACCES) => {
            let place = file::open_path(dir, name)?;
            if FileStat::of(&place)?.kind == FileType::Directory {
                rustix::fs::chmod(file::proc_path(&place), Mode::RWXU)?;
            }
            open()?
        }
        opened => opened?,
    };
    let mode = FileStat::of(&opened)?.mode;
    if !mode.contains(Mode::RWXU) {
        // If this fails and matters, the removal of its content fails and is reported.
        let _ = rustix::fs::fchmod(&opened, Mode::RWXU);
    }
    Ok(opened)
}

/// Opens the file for writing, if the name still refers to it.
fn writable(dir: BorrowedFd<'_>, name: &CStr, stat: &FileStat) -> Result<OwnedFd> {
    let place = file::open_path(dir, name)?;
    let now = FileStat::of(&place)?;
    if (now.id, now.kind, now.links) != (stat.id, FileType::RegularFile, 1) {
        return Err(Errno::STALE);
    }
    file::content(&place, OFlags::RDWR)
}

/// Returns the lengths to which a file is truncated, one after the other, so that each step frees
/// the same amount.
pub(super) fn lengths(file: impl AsFd, stat: &FileStat) -> Result<Vec<u64>> {
    let file = file.as_fd();
    let (mut lengths, mut at, mut piece) = (Vec::new(), 0, 0);
    while let Some((mut start, end)) = file::data(file, at, stat.size)? {
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
        // Space that is allocated but not written looks like a hole, and must be freed as well.
        let part = (stat.size / wanted).max(1);
        lengths = (1..wanted).map(|n| n * part).collect();
    }
    lengths.reverse();
    Ok(lengths)
}
