//! Creating files: each appears complete, or not at all.
//!
//! A file that one system call can create is created by it. A file that needs more (an owner,
//! times, a size, the verifier of an exclusive CREATE) gets its name last. No other call finds it
//! incomplete, neither now nor after a crash:
//!
//! ```text
//!   unnamed    a file without a name: O_TMPFILE, attributes, linkat(2)
//!   temporary  anything else, or without O_TMPFILE: a temporary name ([`super::temp_name`]),
//!              attributes, and a rename that does not replace
//!   in place   if the file system supports neither, or the directory does not let names go
//!              (chattr +a): under its name, which is removed on failure
//! ```
//!
//! All of it happens in the directory for which the file is created, as the caller. The file
//! therefore inherits what a plain open(2) there gives it: group, ACL, project, label.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::Fs;
use super::attr::entry_exists;
use super::attr::{Attr, Changes, FileKind, SET_IDS, SetTime};
use super::change::{set_mode, set_owner, set_times};
use super::error::Error;
use super::guard::Guard;
use super::identity::Identity;
use super::node::Node;
use super::temp_name::Leftover;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Change;
use crate::sched::Patience;
use crate::sys::making::{give_name, gives_no_name_up, rename_new, step, unnamed};
use crate::telemetry::bounded::OFTEN;

/// The space that a new directory takes at most, on nearly every file system.
const DIRECTORY: u64 = 4096;

/// The space that a symbolic link takes at most, if it does not fit into its inode.
const SYMLINK: u64 = 4096;

/// The type of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind<'a> {
    /// A regular file; open for writing when it is created.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(&'a [u8]),
    /// A block device with its major and minor number.
    Block(u32, u32),
    /// A character device with its major and minor number.
    Character(u32, u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A new file, and all attributes that it is to have.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    what: NewKind<'a>,
    mode: u32,
    /// The attributes that the first system call does not set.
    rest: Changes,
}

/// A file that was created.
pub struct Created {
    /// The file.
    pub node: Arc<Node>,
    /// Its attributes.
    pub attr: Attr,
    /// Whether one system call created it. Then a flush of its directory may suffice for it
    /// ([`Node::flushes_new_files`]).
    pub at_once: bool,
}

/// The reason why a file was not created.
struct CreateError {
    errno: Errno,
    /// Whether it stays, because it is a directory into which others have put files.
    is_in_use: bool,
}

impl From<Errno> for CreateError {
    fn from(errno: Errno) -> Self {
        Self { errno, is_in_use: false }
    }
}

impl From<CreateError> for Errno {
    fn from(unmade: CreateError) -> Self {
        unmade.errno
    }
}

/// Whether a directory cannot be removed because others have put files into it: it is theirs now.
fn is_in_use(error: Error) -> bool {
    matches!(error, Error::Errno(Errno::NOTEMPTY | Errno::EXIST))
}

impl<'a> NewFile<'a> {
    /// Describes a new file with the attributes `wanted`, and the permissions `mode` if those name
    /// none.
    pub fn with(what: NewKind<'a>, wanted: &Changes, mode: u32) -> Self {
        // A new file is empty, and has the current time.
        let late = |time| if time == SetTime::Now { SetTime::Keep } else { time };
        let size = wanted.size.filter(|size| *size != 0 && what == NewKind::File);
        let (accessed, modified) = (late(wanted.accessed), late(wanted.modified));
        let rest = Changes { mode: None, size, accessed, modified, ..*wanted };
        Self { what, mode: wanted.mode.unwrap_or(mode) & 0o7777, rest }
    }

    /// Whether one system call creates it.
    fn is_simple(&self) -> bool {
        // mkdir(2) ignores them.
        let inherits = self.what == NewKind::Directory && self.set_ids() != 0;
        self.rest == Changes::default() && !inherits
    }

    /// Returns its set-id bits, as far as they mean anything.
    const fn set_ids(&self) -> u32 {
        match self.what {
            NewKind::Symlink(_) => 0,
            NewKind::Directory => self.mode & libc::S_ISGID,
            _ => self.mode & SET_IDS,
        }
    }

    /// Returns the space that it takes on the disk at most, in bytes.
    const fn room(&self) -> u64 {
        match self.what {
            NewKind::Directory => DIRECTORY,
            NewKind::Symlink(_) => SYMLINK,
            _ => 0,
        }
    }

    /// Creates it under `name`. Returns the content of a regular file, open.
    fn make(&self, dir: &Node, name: &[u8]) -> Result<Option<OwnedFd>> {
        let mode = Mode::from_raw_mode(self.mode);
        let mknod = |kind, device| rustix::fs::mknodat(dir, name, kind, mode, device);
        let device = |(major, minor)| rustix::fs::makedev(major, minor);
        match self.what {
            NewKind::File => {
                let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Ok(Some(rustix::fs::openat(dir, name, how, mode)?));
            }
            NewKind::Directory => rustix::fs::mkdirat(dir, name, mode)?,
            NewKind::Symlink(target) => rustix::fs::symlinkat(target, dir, name)?,
            NewKind::Block(major, minor) => mknod(FileType::BlockDevice, device((major, minor)))?,
            NewKind::Character(major, minor) => {
                mknod(FileType::CharacterDevice, device((major, minor)))?;
            }
            NewKind::Fifo => mknod(FileType::Fifo, 0)?,
            NewKind::Socket => mknod(FileType::Socket, 0)?,
        }
        Ok(None)
    }

    /// Sets the remaining attributes of `file`, which was just created.
    fn complete(&self, file: &OwnedFd) -> Result<()> {
        step();
        set_owner(file, &self.rest)?;
        step();
        if let Some(size) = self.rest.size {
            let size = i64::try_from(size).map_err(|_| Errno::FBIG)?;
            rustix::fs::ftruncate(file, size.unsigned_abs())?;
            step();
        }
        // Changing the owner or the size has cleared them, and mkdir(2) ignores them.
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
    /// Creates a file, complete or not at all. Blocks.
    ///
    /// # Errors
    /// As open(2) with O_CREAT and O_EXCL, mkdir(2), symlink(2) and mknod(2); those of
    /// [`Fs::change`] for the attributes. [`Error::WouldBlock`] and [`Error::NotCounted`] if room
    /// cannot be held.
    pub fn create(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        new: &NewFile<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<Created, Error> {
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
            None => self.find_created(dir, name)?,
        };
        self.charge_birth(&node, hold);
        dir.recharge();
        Ok(Created { node, attr, at_once })
    }

    /// Returns the node of a new file that is open for writing, and stays so.
    fn keep_content(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        content: OwnedFd,
    ) -> Result<(Arc<Node>, Attr)> {
        // A duplicate costs a tenth of opening a descriptor without access.
        let path_fd = rustix::io::fcntl_dupfd_cloexec(&content, 0)?;
        let (node, attr) = self.adopt(dir, name, path_fd)?;
        node.write.set(content, self.nodes.now());
        self.nodes.recount(&node.handle);
        Ok((node, attr))
    }

    /// Returns the node of a file that was just created. The caller may create it, and needs no
    /// permission to find it. A file that was created without a name is opened by its name: through
    /// the other descriptor, inotify(7) would report changes under an unknown name.
    fn find_created(&self, dir: &Arc<Node>, name: &[u8]) -> Result<(Arc<Node>, Attr)> {
        let open = || self.open_below(dir, name, OFlags::empty());
        self.adopt(dir, name, self.open_as_server(open)?)
    }

    /// Creates a file that takes several steps.
    fn make_whole(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &NewFile<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<()> {
        // An existing name takes precedence over other errors, as in open(2).
        if self.switch.acting_as(caller, || entry_exists(dir, name))? {
            return Err(Errno::EXIST);
        }
        if new.what == NewKind::File && self.make_unnamed((dir, name), new, caller)? {
            return Ok(());
        }
        if gives_no_name_up(dir) {
            return Ok(self.make_steps((dir, name), new, caller, guard, || Ok(()))?);
        }
        let is_directory = new.what == NewKind::Directory;
        let rename = |temp: &[u8]| rename_new(&**dir, temp, name, is_directory);
        match self.make_under_temp_name(dir, new, caller, guard, rename) {
            Err(Errno::OPNOTSUPP) => {
                Ok(self.make_steps((dir, name), new, caller, guard, || Ok(()))?)
            }
            made => made,
        }
    }

    /// Creates a file under a temporary name, and calls `rename` with that. The record of the name
    /// stays if a file is left that can be removed later.
    fn make_under_temp_name(
        &self,
        dir: &Arc<Node>,
        new: &NewFile<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
        rename: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let temp = self.switch.as_server(|| self.temp_names.begin(dir.handle()))??;
        let last = || rename(temp.as_bytes());
        let made = self.make_steps((dir, temp.as_bytes()), new, caller, guard, last);
        let is_in_use = made.as_ref().is_err_and(|unmade| unmade.is_in_use);
        self.switch.as_server(|| {
            if is_in_use || !entry_exists(dir, temp.as_bytes()) {
                temp.end();
            }
        })?;
        Ok(made?)
    }

    /// Creates a file that gets its name when it is complete. Returns `false` if the file system
    /// does not support that.
    fn make_unnamed(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &NewFile<'_>,
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
                // There are no links, or the owner is not the caller although the caller created
                // it.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::MLINK) => Ok(false),
                named => named.map(|()| true),
            }
        })?
    }

    /// Creates a file under `name`, completes it, and runs `last`. Removes the file on failure.
    fn make_steps(
        &self,
        (dir, name): (&Arc<Node>, &[u8]),
        new: &NewFile<'_>,
        caller: &Identity,
        guard: &Guard<'_>,
        last: impl FnOnce() -> Result<()>,
    ) -> std::result::Result<(), CreateError> {
        let content = self.switch.acting_as(caller, || new.make(dir, name))??;
        step();
        let open = || self.open_below(dir, name, OFlags::empty());
        let made = match content {
            Some(content) => Ok(content),
            None => self.open_as_server(open),
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
        Err(CreateError { errno, is_in_use: taken_back.is_err_and(is_in_use) })
    }

    /// Removes a file that was created and not completed.
    fn take_back(&self, dir: &Arc<Node>, name: &[u8], guard: &Guard<'_>) -> Result<(), Error> {
        let path = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
        let attr = Attr::of_entry(&**dir, &path)?;
        // Its end will be booked, before or after the end of a count that may have seen it.
        if let Some(account) = dir.root.account.as_deref() {
            // The number may be that of a file whose end is not booked yet.
            let _links = self.lock_links(attr.fileid, Patience::Blocking)?;
            let cost = attr.cost();
            account.book(attr.fileid, Change::CreatedAndSeen { opened: cost, now: cost });
        }
        self.remove_any(dir, name, &attr, guard)
    }

    fn remove_any(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        attr: &Attr,
        guard: &Guard<'_>,
    ) -> Result<(), Error> {
        let is_directory = attr.kind == FileKind::Directory;
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        self.unlink(dir, name, flags, self.switch.server(), guard)
    }

    /// Removes the incomplete files that an earlier run has left in these exports. Blocks.
    pub(super) fn remove_unfinished(&self, exports: &[ExportId]) {
        for left in self.temp_names.leftovers_in(exports) {
            match self.remove_left(&left) {
                Ok(()) | Err(Error::Errno(Errno::NOENT | Errno::STALE)) => left.name.end(),
                Err(error) if is_in_use(error) => left.name.end(),
                Err(error) => {
                    let file = String::from_utf8_lossy(left.name.as_bytes()).into_owned();
                    tracing::warn!(
                        name: OFTEN, %error, file, "cannot remove a file that was not completed"
                    );
                }
            }
        }
    }

    fn remove_left(&self, left: &Leftover) -> Result<(), Error> {
        let dir = self.node(&left.dir, Patience::Blocking)?;
        let guard = self.lock(&dir, Patience::Blocking)?;
        let name = left.name.as_bytes();
        let path = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
        let attr = Attr::of_entry(&*dir, &path)?;
        self.remove_any(&dir, name, &attr, &guard)
    }
}

#[cfg(test)]
mod tests;
