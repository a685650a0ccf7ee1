//! Making files: each appears with everything that it was made with, or not at all.
//!
//! What one system call makes is made by it. What needs more (an owner, times, a size, the verifier
//! of an exclusive CREATE) gets its name last, so that nobody finds it half made, neither now nor
//! after a crash:
//!
//! ```text
//!   unnamed   a file without a name: O_TMPFILE, attributes, linkat(2)
//!   aside     anything else, or where there are no such files: a name that nobody knows
//!             ([`super::aside`]), attributes, and a rename that does not replace
//!   in place  where the file system has neither, or the directory gives no name up (chattr +a): under
//!             its name, which is removed on failure
//! ```
//!
//! All of it happens in the directory that the file is for, as the caller, so that it inherits what
//! a plain open(2) there gives it: group, ACL, project, label.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::aside::Left;
use super::attr::{Attr, Changes, Kind, SET_IDS, SetTime};
use super::change::{set_mode, set_owner, set_times};
use super::charge::exists;
use super::identity::Identity;
use super::node::Node;
use super::{Fs, Guard};
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Change;
use crate::sched::Patience;
use crate::sys::making::{give_name, gives_no_name_up, rename_new, step, unnamed};
use crate::telemetry::bounded::OFTEN;

/// What a new directory takes on the disk, at most, on nearly every file system.
const DIRECTORY: u64 = 4096;

/// The same for a symbolic link that does not fit into its inode.
const SYMLINK: u64 = 4096;

/// A file to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// One with content; open for writing when it is made.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// A block device with its numbers.
    Block(u32, u32),
    /// A character device with its numbers.
    Character(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A file to be made, and all that it is to have.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    what: What<'a>,
    mode: u32,
    /// What making it does not give it.
    rest: Changes,
}

/// A file that was made.
pub struct Made {
    /// It.
    pub node: Arc<Node>,
    /// Its attributes.
    pub attr: Attr,
    /// Whether one system call made it, so that nothing but its directory needs to be flushed for
    /// it ([`Node::settles_new_names`]).
    pub at_once: bool,
}

/// Why a file was not made.
struct Unmade {
    errno: Errno,
    /// Whether somebody has put files into it, so that it stays.
    is_in_use: bool,
}

impl From<Errno> for Unmade {
    fn from(errno: Errno) -> Self {
        Self { errno, is_in_use: false }
    }
}

impl From<Unmade> for Errno {
    fn from(unmade: Unmade) -> Self {
        unmade.errno
    }
}

/// Whether a directory cannot be removed because somebody has put files into it: it is theirs now.
fn is_in_use(error: Errno) -> bool {
    matches!(error, Errno::NOTEMPTY | Errno::EXIST)
}

impl<'a> New<'a> {
    /// `what` with the attributes `wanted`, and the permissions `mode` if those name none.
    pub fn with(what: What<'a>, wanted: &Changes, mode: u32) -> Self {
        // It is made now, and empty.
        let late = |time| if time == SetTime::Now { SetTime::Keep } else { time };
        let size = wanted.size.filter(|size| *size != 0 && what == What::File);
        let (accessed, modified) = (late(wanted.accessed), late(wanted.modified));
        let rest = Changes { mode: None, size, accessed, modified, ..*wanted };
        Self { what, mode: wanted.mode.unwrap_or(mode) & 0o7777, rest }
    }

    /// Whether one system call makes it.
    fn is_simple(&self) -> bool {
        let inherits = self.what == What::Directory && self.set_ids() != 0; // mkdir(2) ignores them
        self.rest == Changes::default() && !inherits
    }

    /// Its set-id bits, as far as they mean anything.
    const fn set_ids(&self) -> u32 {
        match self.what {
            What::Symlink(_) => 0,
            What::Directory => self.mode & libc::S_ISGID,
            _ => self.mode & SET_IDS,
        }
    }

    /// What it takes on the disk, at most.
    const fn room(&self) -> u64 {
        match self.what {
            What::Directory => DIRECTORY,
            What::Symlink(_) => SYMLINK,
            _ => 0,
        }
    }

    /// Makes it under `name`; answers its content, open.
    fn make(&self, dir: &Node, name: &[u8]) -> Result<Option<OwnedFd>> {
        let mode = Mode::from_raw_mode(self.mode);
        let mknod = |kind, device| rustix::fs::mknodat(dir, name, kind, mode, device);
        let device = |(major, minor)| rustix::fs::makedev(major, minor);
        match self.what {
            What::File => {
                let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Ok(Some(rustix::fs::openat(dir, name, how, mode)?));
            }
            What::Directory => rustix::fs::mkdirat(dir, name, mode)?,
            What::Symlink(target) => rustix::fs::symlinkat(target, dir, name)?,
            What::Block(major, minor) => mknod(FileType::BlockDevice, device((major, minor)))?,
            What::Character(major, minor) => {
                mknod(FileType::CharacterDevice, device((major, minor)))?;
            }
            What::Fifo => mknod(FileType::Fifo, 0)?,
            What::Socket => mknod(FileType::Socket, 0)?,
        }
        Ok(None)
    }

    /// Gives `file`, which was just made, what that did not give it.
    fn complete(&self, file: &OwnedFd) -> Result<()> {
        step();
        set_owner(file, &self.rest)?;
        step();
        if let Some(size) = self.rest.size {
            let size = i64::try_from(size).map_err(|_| Errno::FBIG)?;
            rustix::fs::ftruncate(file, size.unsigned_abs())?;
            step();
        }
        // Changing the owner or the size has cleared them, and mkdir(2) leaves them out.
        let set_ids = self.set_ids();
        let mode = if set_ids == 0 { 0 } else { Attr::of(file)?.mode };
        if mode & set_ids != set_ids {
            set_mode(file, mode | set_ids)?;
            step();
        }
        set_times(file, self.rest.accessed, self.rest.modified)?;
        step();
        Ok(())
    }
}

impl Fs {
    /// Makes a file that is not there, as a whole or not at all.
    ///
    /// # Errors
    /// As open(2) with O_CREAT and O_EXCL, mkdir(2), symlink(2) and mknod(2) have them; those of
    /// [`Fs::change`] for the attributes.
    pub fn make(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        new: &New<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<Made> {
        let hold = self.hold_birth(dir, name, new.room(), guard)?;
        let at_once = new.is_simple();
        let content = if at_once {
            self.switch.acting_as(caller, || new.make(dir, name))??
        } else {
            self.make_whole((dir, name), new, caller, guard)?;
            None
        };
        let (node, attr) = match content {
            Some(content) => self.keep_content(dir, name, content)?,
            None => self.find_made(dir, name)?,
        };
        self.charge_birth(&node, &attr, hold);
        dir.recharge();
        Ok(Made { node, attr, at_once })
    }

    /// The node of a new file that is open for writing, and is kept so.
    fn keep_content(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        content: OwnedFd,
    ) -> Result<(Arc<Node>, Attr)> {
        // A second descriptor, which opens nothing: it costs a tenth of one without access.
        let place = rustix::io::fcntl_dupfd_cloexec(&content, 0)?;
        let (node, attr) = self.adopt(dir, name, place)?;
        node.write.set(content, self.nodes.now());
        self.nodes.recount(&node.handle);
        Ok((node, attr))
    }

    /// What was just made: the caller may make it, and so needs no permission to find it. A file
    /// that was made without a name is opened by its name: through the other descriptor, inotify(7)
    /// would tell of changes under a name that nobody knows.
    fn find_made(&self, dir: &Arc<Node>, name: &[u8]) -> Result<(Arc<Node>, Attr)> {
        let open = || self.open_below(dir, name, OFlags::empty(), Patience::Blocking);
        self.adopt(dir, name, self.descriptor(open)?)
    }

    /// Makes what takes several steps.
    fn make_whole(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &New<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<()> {
        // That the name is taken matters more than that it could not be made, as in open(2).
        if self.switch.acting_as(caller, || exists(dir, name))? {
            return Err(Errno::EXIST);
        }
        if new.what == What::File && self.make_unnamed((dir, name), new, caller)? {
            return Ok(());
        }
        if gives_no_name_up(dir) {
            return Ok(self.make_steps((dir, name), new, caller, guard, || Ok(()))?);
        }
        let is_directory = new.what == What::Directory;
        let rename = |aside: &[u8]| rename_new(&**dir, aside, name, is_directory);
        match self.make_aside(dir, new, caller, guard, rename) {
            Err(Errno::OPNOTSUPP) => {
                Ok(self.make_steps((dir, name), new, caller, guard, || Ok(()))?)
            }
            made => made,
        }
    }

    /// Makes a file under a name that nobody knows, and does `rename` with that. The record of the
    /// name stays if there is something that can be removed later.
    fn make_aside(
        &self,
        dir: &Arc<Node>,
        new: &New<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
        rename: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let aside = self.switch.as_server(|| self.asides.begin(dir.handle()))??;
        let last = || rename(aside.name());
        let made = self.make_steps((dir, aside.name()), new, caller, guard, last);
        let is_in_use = made.as_ref().is_err_and(|unmade| unmade.is_in_use);
        self.switch.as_server(|| {
            if is_in_use || !exists(dir, aside.name()) {
                aside.end();
            }
        })?;
        Ok(made?)
    }

    /// Makes a file that gets its name when it is complete; answers `false` if the file system
    /// cannot do that.
    fn make_unnamed(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &New<'_>,
        caller: &Identity,
    ) -> Result<bool> {
        let can = &dir.root.has_unnamed;
        if !can.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.switch.acting_as(caller, || {
            let file = match unnamed(dir, Mode::from_raw_mode(new.mode)) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::ISDIR | Errno::INVAL) => {
                    can.store(false, Ordering::Relaxed);
                    return Ok(false);
                }
                file => file?,
            };
            new.complete(&file)?;
            match give_name(&file, dir, name) {
                // It has no links, or its owner is not the caller although the caller made it.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::MLINK) => Ok(false),
                named => named.map(|()| true),
            }
        })?
    }

    /// Makes a file under `name`, completes it, and does `last`. What fails half way is removed.
    fn make_steps(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &New<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
        last: impl FnOnce() -> Result<()>,
    ) -> std::result::Result<(), Unmade> {
        let content = self.switch.acting_as(caller, || new.make(dir, name))??;
        step();
        let open = || self.open_below(dir, name, OFlags::empty(), Patience::Blocking);
        let made = match content {
            Some(content) => Ok(content),
            None => self.descriptor(open),
        };
        let made = made.and_then(|file| {
            self.switch.acting_as(caller, || {
                new.complete(&file)?;
                last()
            })?
        });
        let Err(errno) = made else { return Ok(()) };
        let taken_back = self.take_back(dir, name, guard);
        if let Err(error) = taken_back {
            tracing::warn!(
                name: OFTEN, %error, "cannot remove a file that could not be completed"
            );
        }
        Err(Unmade { errno, is_in_use: taken_back.is_err_and(is_in_use) })
    }

    /// Removes what was made and not completed.
    fn take_back(&self, dir: &Arc<Node>, name: &[u8], guard: &Guard<'_>) -> Result<()> {
        let path = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
        let attr = Attr::of_entry(&**dir, &path)?;
        // A count may have seen it, and has to hear of its end.
        if let Some(account) = dir.root.account.as_deref() {
            account.book(attr.fileid, Change::Birth(attr.cost()));
        }
        self.remove_any(dir, name, &attr, guard)
    }

    fn remove_any(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        attr: &Attr,
        guard: &Guard<'_>,
    ) -> Result<()> {
        let is_directory = attr.kind == Kind::Directory;
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.unlink(dir, name, flags, self.switch.server(), guard)
    }

    /// Removes what an earlier server was making in these exports when it ended. Blocks.
    pub(super) fn remove_unfinished(&self, exports: &[ExportId]) {
        for left in self.asides.left_in(exports) {
            match self.remove_left(&left) {
                Ok(()) | Err(Errno::NOENT | Errno::STALE) => left.aside.end(),
                Err(error) if is_in_use(error) => left.aside.end(),
                Err(error) => {
                    let file = String::from_utf8_lossy(left.aside.name()).into_owned();
                    tracing::warn!(name: OFTEN, %error, file, "cannot remove a file that was not completed");
                }
            }
        }
    }

    fn remove_left(&self, left: &Left) -> Result<()> {
        let dir = self.node(&left.dir, Patience::Blocking)?;
        let guard = self.lock(&dir, Patience::Blocking)?;
        let name = left.aside.name();
        let path = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
        let attr = Attr::of_entry(&*dir, &path)?;
        self.remove_any(&dir, name, &attr, &guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::attr::Time;
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::fs::testing::Files;
    use std::path::Path;

    const EXPORT: ExportId = ExportId(1);

    fn served(dir: &Path, state: &Path) -> Fs {
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, state).unwrap();
        fs.attach(EXPORT, dir, None, None).unwrap();
        fs
    }

    fn records(state: &Path) -> usize {
        std::fs::read_dir(state.join("making")).map_or(0, Iterator::count)
    }

    #[test]
    fn a_directory_that_others_use_before_it_is_complete_is_theirs() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let fs = served(dir.path(), state.path());
        let files = Files::of(&fs, EXPORT);
        let new = New::with(What::Directory, &Changes::default(), 0o700);
        let root = files.root();
        let guard = fs.lock(&root, Patience::Blocking).unwrap();
        let refused_and = |name: &[u8], used: bool| {
            let name = dir.path().join(std::str::from_utf8(name).unwrap());
            if used {
                std::fs::write(name.join("file"), "content").unwrap();
            }
            assert_eq!(records(state.path()), 1);
            Err(Errno::PERM)
        };
        for used in [false, true] {
            let rename = |name: &[u8]| refused_and(name, used);
            let made = fs.make_aside(&root, &new, &files.who, &guard, rename);
            assert_eq!(made, Err(Errno::PERM));
            assert_eq!(records(state.path()), 0);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(used));
        }
    }

    #[test]
    fn what_an_earlier_server_left_is_removed_unless_others_use_it() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let fs = served(dir.path(), state.path());
        let root = Files::of(&fs, EXPORT).root();
        let begin = || {
            let aside = fs.asides.begin(root.handle()).unwrap();
            let path = dir.path().join(std::str::from_utf8(aside.name()).unwrap());
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (used, left) = (begin(), begin());
        std::fs::write(used.join("file"), "content").unwrap();
        assert_eq!(records(state.path()), 2);
        drop((root, fs));
        let _fs = served(dir.path(), state.path());
        assert_eq!(records(state.path()), 0);
        assert!(used.exists() && !left.exists());
    }

    #[test]
    fn a_directory_that_gives_no_name_up_gets_what_is_made_in_it() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let chattr = |change: &str| {
            let changed = std::process::Command::new("chattr").arg(change).arg(dir.path()).status();
            changed.is_ok_and(|status| status.success())
        };
        if !chattr("+a") {
            eprintln!("skipped: chattr +a does not work here");
            return;
        }
        let fs = served(dir.path(), state.path());
        let files = Files::of(&fs, EXPORT);
        let changes = Changes { modified: SetTime::To(TIME), ..Changes::default() };
        let whats = [What::Directory, What::File, What::Symlink(b"to"), What::Fifo];
        let made: Vec<_> = (whats.iter().enumerate())
            .map(|(n, what)| {
                let new = New::with(*what, &changes, 0o700);
                let made = files.make(&files.root(), &n.to_string(), &new);
                made.and_then(|node| Ok(node.attr()?.modified))
            })
            .collect();
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert!(chattr("-a"));
        assert_eq!(made, [Ok(TIME); 4]);
        assert_eq!((names, records(state.path())), (4, 0));
    }

    const TIME: Time = Time { seconds: 1_000_000_000, nanoseconds: 0 };
}
