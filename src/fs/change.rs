//! Changing attributes: all that is asked for, or nothing.
//!
//! Each attribute takes a system call of its own, and any of them may be refused:
//!
//! ```text
//!   check     the kind of file, the size, the right to write: refused before anything is changed
//!   owner     chown(2), first because it clears set-id bits
//!   mode      chmod(2)
//!   times     utimensat(2)
//!   size      ftruncate(2), the only change that cannot be taken back
//!   again     mode and times, where truncating has changed them
//! ```
//!
//! When a call fails, what the ones before it changed is restored from the attributes that the file
//! had. The caller holds the file's lock, so that nobody else's change is undone. What cannot be
//! restored (the disk fails) shows in the attributes that the reply carries (`wcc_data`).

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid};

use super::Fs;
use super::attr::{Attr, Changes, FileKind, SET_IDS, SetTime, Time};
use super::guard::Guard;
use super::identity::Identity;
use super::node::{Node, proc_path};
use super::write_descriptor::Content;
use crate::errno::{Errno, Result};

impl Fs {
    /// Changes attributes of `node`, which has `attr` and whose lock is held (`_guard`). The mode
    /// of a symbolic link, which means nothing, is left as it is.
    ///
    /// # Errors
    /// As chmod(2), chown(2), truncate(2) and utimensat(2) have them. Nothing is changed then,
    /// unless restoring it fails too.
    pub fn change(
        &self,
        node: &Node,
        attr: &Attr,
        caller: &Identity,
        changes: &Changes,
        _guard: &Guard<'_>,
    ) -> Result<()> {
        if changes.needs_owner() && !self.owns(attr, caller) && changes.size.is_some() {
            return Err(Errno::PERM);
        }
        let resize = self.resize(node, attr, caller, changes.size)?;
        let apply = || self.apply(node, changes, resize.as_ref());
        let changed = self.switch.acting_as(caller, apply)?;
        if changed.is_err() {
            self.restore(node, attr, changes);
        }
        if resize.is_some() {
            node.recharge();
        }
        changed
    }

    /// The content to be resized, and its new size; checks everything that would refuse it.
    fn resize(
        &self,
        node: &Node,
        attr: &Attr,
        caller: &Identity,
        size: Option<u64>,
    ) -> Result<Option<(Content<'static>, u64)>> {
        let Some(size) = size else { return Ok(None) };
        match attr.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        if !self.may_write(node, attr, caller)? {
            return Err(Errno::ACCES);
        }
        if i64::try_from(size).is_err() {
            return Err(Errno::FBIG);
        }
        Ok(Some((self.writable(node)?, size)))
    }

    /// Makes all changes, the one that cannot be undone last.
    fn apply(
        &self,
        node: &Node,
        changes: &Changes,
        resize: Option<&(Content<'_>, u64)>,
    ) -> Result<()> {
        let mode = changes.mode.filter(|_| node.kind != FileKind::Symlink);
        let (accessed, mut modified) = (changes.accessed, changes.modified);
        if resize.is_some() && (accessed, modified) == (SetTime::Keep, SetTime::Now) {
            // Truncating sets it, and does so for callers that may only write.
            modified = SetTime::Keep;
        }
        set_owner(node, changes)?;
        if let Some(mode) = mode {
            self.lender.while_none_is_lent(|| set_mode(node, mode))?;
        }
        set_times(node, accessed, modified)?;
        let Some((content, size)) = resize else { return Ok(()) };
        rustix::fs::ftruncate(content, *size)?;
        // The kernel clears set-id bits when anybody but root truncates.
        if let Some(mode) = mode.filter(|mode| mode & SET_IDS != 0) {
            self.lender.while_none_is_lent(|| set_mode(node, mode))?;
        }
        match modified {
            SetTime::To(_) => set_times(node, SetTime::Keep, modified),
            SetTime::Keep | SetTime::Now => Ok(()),
        }
    }

    /// Gives `node` back the attributes that `changes` may have changed.
    fn restore(&self, node: &Node, before: &Attr, changes: &Changes) {
        let restored = self.switch.as_server(|| {
            let now = Attr::of(node)?;
            let owner = Changes {
                uid: (now.uid != before.uid).then_some(before.uid),
                gid: (now.gid != before.gid).then_some(before.gid),
                ..Changes::default()
            };
            set_owner(node, &owner)?;
            self.lender.while_none_is_lent(|| {
                if Attr::of(node)?.mode == before.mode {
                    Ok(())
                } else {
                    set_mode(node, before.mode)
                }
            })?;
            // Only what has changed: setting any time sets that of the last change, too.
            let time = |set, now: Time, before| match set {
                SetTime::Now | SetTime::To(_) if now != before => SetTime::To(before),
                _ => SetTime::Keep,
            };
            let accessed = time(changes.accessed, now.accessed, before.accessed);
            set_times(node, accessed, time(changes.modified, now.modified, before.modified))
        });
        if let Err(error) | Ok(Err(error)) = restored {
            tracing::debug!(%error, "cannot restore the attributes of a refused SETATTR");
        }
    }
}

/// Sets the owner and the group, as far as `changes` names them.
pub(super) fn set_owner(file: impl AsFd, changes: &Changes) -> Result<()> {
    if changes.uid.is_none() && changes.gid.is_none() {
        return Ok(());
    }
    if changes.uid == Some(u32::MAX) || changes.gid == Some(u32::MAX) {
        return Err(Errno::INVAL); // chown(2) takes it for "leave it"
    }
    let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
    rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    Ok(())
}

/// Sets the permissions; never of a symbolic link.
pub(super) fn set_mode(file: impl AsFd, mode: u32) -> Result<()> {
    // Through /proc, because a descriptor without access to the content cannot be given to
    // fchmod(2), and fchmodat2(2) is too young to rely on.
    let mode = Mode::from_raw_mode(mode & 0o7777);
    Ok(rustix::fs::chmodat(CWD, proc_path(file), mode, AtFlags::empty())?)
}

/// Sets the times.
pub(super) fn set_times(file: impl AsFd, accessed: SetTime, modified: SetTime) -> Result<()> {
    if (accessed, modified) == (SetTime::Keep, SetTime::Keep) {
        return Ok(());
    }
    let times =
        Timestamps { last_access: timespec(accessed), last_modification: timespec(modified) };
    rustix::fs::utimensat(file, c"", &times, AtFlags::EMPTY_PATH)?;
    Ok(())
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        SetTime::To(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ExportId;
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::fs::mode_loan::ModeLender;
    use crate::fs::testing::Files;
    use crate::sched::Patience;

    const EXPORT: ExportId = ExportId(1);

    #[test]
    fn what_came_before_a_size_that_cannot_be_set_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "content").unwrap();
        rustix::fs::chmod(dir.path().join("file"), 0o6750.into()).unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let file = files.find(&files.root(), "file").unwrap();
        // Stands for a disk that refuses: a pipe has no size.
        file.write.set(std::io::pipe().unwrap().1.into(), 0);

        let before = file.attr().unwrap();
        let is_root = fs.switch.server().is_root();
        let changes = Changes {
            mode: Some(0o600),
            uid: is_root.then_some(7),
            gid: is_root.then_some(8),
            size: Some(3),
            accessed: SetTime::Now,
            modified: SetTime::To(Time { seconds: 1, nanoseconds: 2 }),
        };
        let guard = fs.lock(&file, Patience::Blocking).unwrap();
        let changed = fs.change(&file, &before, fs.switch.server(), &changes, &guard);
        assert_eq!(changed, Err(Errno::INVAL));
        let after = file.attr().unwrap();
        assert_eq!(Attr { changed: before.changed, ..after }, before);
    }

    #[test]
    fn what_is_refused_at_once_changes_no_time() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "content").unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let file = files.find(&files.root(), "file").unwrap();
        let before = file.attr().unwrap();
        wait_for_the_clock(dir.path(), before.changed);
        let changes = Changes {
            uid: Some(u32::MAX), // stands for an owner that the caller may not set
            accessed: SetTime::Now,
            modified: SetTime::To(Time { seconds: 1, nanoseconds: 2 }),
            ..Changes::default()
        };
        let guard = fs.lock(&file, Patience::Blocking).unwrap();
        let changed = fs.change(&file, &before, fs.switch.server(), &changes, &guard);
        assert_eq!(changed, Err(Errno::INVAL));
        assert_eq!(file.attr().unwrap(), before);
    }

    #[test]
    fn a_size_is_set_while_a_mode_is_lent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "content").unwrap();
        let mut fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.lender = ModeLender::new(true, dir.path());
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let file = files.find(&files.root(), "file").unwrap();
        // Stands for another export, whose disk hangs while a file is opened.
        let lent = fs.lender.lock();
        let (told, truncated) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| told.send(files.truncate(&file, 3)).unwrap());
            let truncated = truncated.recv_timeout(std::time::Duration::from_secs(30));
            drop(lent);
            assert_eq!(truncated, Ok(Ok(())));
        });
    }

    /// Waits until a change gets another time than `time`: the clock of files is a coarse one.
    fn wait_for_the_clock(dir: &std::path::Path, time: Time) {
        let probe = dir.join("probe");
        loop {
            std::fs::write(&probe, "").unwrap();
            let probe = std::fs::File::open(&probe).unwrap();
            if Attr::of(&probe).unwrap().changed != time {
                return;
            }
        }
    }
}
