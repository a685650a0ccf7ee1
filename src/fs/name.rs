//! Names in directories: looking up, removing, renaming, linking. [`super::create`] creates files.
//!
//! Each operation runs as the caller: the kernel decides what is allowed, and who owns a new file.
//! A change is made under the lock of each directory that it touches.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};

use super::Fs;
use super::attr::{Attr, FileKind};
use super::error::Error;
use super::guard::Guard;
use super::identity::Identity;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::sched::Patience;
use crate::sys;

/// The length of the longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// A name as clients may write it: any bytes but `/` and zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// `.`, the directory itself.
    Itself,
    /// `..`, the directory above.
    Parent,
    /// The name of an entry.
    Entry(&'a [u8]),
}

impl<'a> Name<'a> {
    /// Checks a name.
    ///
    /// # Errors
    /// `EACCES` for an empty name (RFC 1813 §3.2) and for one with other bytes; `ENAMETOOLONG`.
    pub fn new(name: &'a [u8]) -> Result<Self> {
        match name {
            b"" => Err(Errno::ACCES),
            b"." => Ok(Self::Itself),
            b".." => Ok(Self::Parent),
            _ if name.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno::ACCES),
            _ => Ok(Self::Entry(name)),
        }
    }

    /// Returns the name of an entry.
    ///
    /// # Errors
    /// `otherwise` for `.` and `..`.
    pub fn entry(self, otherwise: Errno) -> Result<&'a [u8]> {
        match self {
            Self::Entry(name) => Ok(name),
            Self::Itself | Self::Parent => Err(otherwise),
        }
    }
}

impl Fs {
    /// Looks up a name in a directory. Returns its file, open, with the attributes.
    ///
    /// # Errors
    /// As openat2(2); `EACCES` for the root of another file system; [`Error::WouldBlock`] if the
    /// entry is not in memory.
    pub fn find(
        &self,
        dir: &Arc<Node>,
        name: Name<'_>,
        caller: &Identity,
        patience: Patience,
    ) -> Result<(Arc<Node>, Attr), Error> {
        if dir.kind != FileKind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        match name {
            Name::Itself => Ok((Arc::clone(dir), dir.attr()?)),
            Name::Parent => self.parent(dir, caller, patience),
            Name::Entry(name) => {
                let open = || self.open_below_with(dir, name, patience);
                let path_fd = self.switch.acting_as(caller, open)??;
                Ok(self.adopt(dir, name, path_fd)?)
            }
        }
    }

    /// Returns the parent of a directory. The parent of an export's root is the root itself.
    fn parent(
        &self,
        dir: &Arc<Node>,
        caller: &Identity,
        patience: Patience,
    ) -> Result<(Arc<Node>, Attr), Error> {
        if dir.fileid == dir.root.fileid {
            return Ok((Arc::clone(dir), dir.attr()?));
        }
        if patience == Patience::None {
            return Err(Error::WouldBlock);
        }
        let path_fd = self.switch.acting_as(caller, || parent_of(dir))??;
        // A directory that was moved out of the export beside the server still has its handle, but
        // that must not lead to its new surroundings.
        if !self.switch.as_server(|| is_below(&path_fd, dir))?? {
            return Err(Errno::STALE.into());
        }
        let attr = Attr::of(&path_fd)?;
        if attr.fileid == dir.root.fileid {
            let root = self.root_node(&dir.root)?;
            return Ok((root, attr));
        }
        let trail = || self.switch.as_server(|| self.trail_from_root(&dir.root, &path_fd))?;
        let handle = self.seal(&dir.root, &attr, || sys::handle::of(&path_fd), trail)?;
        Ok((self.keep(Node::new(&dir.root, handle, path_fd, &attr))?, attr))
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` if it is no symbolic link.
    pub fn target(&self, node: &Node) -> Result<Vec<u8>> {
        if node.kind != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        Ok(rustix::fs::readlinkat(node, c"", Vec::new())?.into_bytes())
    }

    /// Removes the name of a file that is no directory.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<(), Error> {
        self.unlink(dir, name, AtFlags::empty(), caller, guard)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn remove_directory(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<(), Error> {
        self.unlink(dir, name, AtFlags::REMOVEDIR, caller, guard)
    }

    pub(super) fn unlink(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        flags: AtFlags,
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<(), Error> {
        self.switch.acting_as(caller, || {
            let unlinked = self.begin_unlink(dir, name, guard)?;
            rustix::fs::unlinkat(dir, name, flags).map_err(Errno::from)?;
            self.release(dir, unlinked);
            dir.recharge();
            Ok(())
        })?
    }

    /// Renames a file, and replaces the file that has the new name.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(
        &self,
        (from_dir, from): (&Arc<Node>, &[u8]),
        (to_dir, to): (&Arc<Node>, &[u8]),
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<(), Error> {
        let unlinked = self.switch.acting_as(caller, || self.begin_unlink(to_dir, to, guard))??;
        let pending = self.begin_move((from_dir, from), (to_dir, to), caller)?;
        let renamed = self.switch.acting_as(caller, || {
            // Two names of one file: rename(2) does nothing.
            let unlinked = unlinked.filter(|unlinked| !is(from_dir, from, unlinked.fileid()));
            rustix::fs::renameat(from_dir, from, to_dir, to)?;
            self.release(to_dir, unlinked);
            Ok(())
        })?;
        if renamed.is_ok() {
            to_dir.recharge();
            from_dir.recharge();
            self.tell_count(to_dir, to);
        }
        Ok(self.end_move(pending, renamed)?)
    }

    /// Adds a name to a file.
    ///
    /// # Errors
    /// As link(2); `EINVAL` for a directory, for which RFC 1813 §3.3.15 has no better status.
    pub fn link(
        &self,
        node: &Node,
        dir: &Arc<Node>,
        name: &[u8],
        caller: &Identity,
        guard: &Guard<'_>,
    ) -> Result<(), Error> {
        if node.kind == FileKind::Directory {
            return Err(Errno::INVAL.into());
        }
        let _links = self.lock_links(node.fileid, guard.patience)?;
        // Through /proc: linking a descriptor needs a privilege that the caller lacks. The link
        // that is followed is the one in /proc, never the file itself if that is a symbolic link.
        let path = node.proc_path();
        let pending = self.begin_link(node, dir, name)?;
        let link = || rustix::fs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW);
        let linked = self.switch.acting_as(caller, link)?.map_err(|errno| match errno.into() {
            // The file is gone, not the directory.
            Errno::NOENT if node.attr().is_err() => Errno::STALE,
            errno => errno,
        });
        if linked.is_ok() {
            dir.recharge();
            self.tell_count(dir, name);
        }
        Ok(self.end_move(pending, linked)?)
    }
}

/// Whether `name` is the file with this number in `dir`.
fn is(dir: &Node, name: &[u8], fileid: u64) -> bool {
    let attr = std::ffi::CString::new(name).map(|name| Attr::of_entry(dir, &name));
    matches!(attr, Ok(Ok(attr)) if attr.fileid == fileid)
}

/// Opens the parent of `dir` within its file system.
///
/// # Errors
/// As openat2(2); `EXDEV` above the root of the file system.
pub(super) fn parent_of(dir: &impl std::os::fd::AsFd) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(dir, c"..", flags, Mode::empty(), resolve)?)
}

/// Whether the directory `path_fd` is the root of the export of `dir`, or below it. Ends at any
/// depth: each step leads upwards, and the root of the file system is the last.
fn is_below(path_fd: &OwnedFd, dir: &Node) -> Result<bool> {
    let mut here = rustix::io::fcntl_dupfd_cloexec(path_fd, 0)?;
    let mut fileid = Attr::of(&here)?.fileid;
    while fileid != dir.root.fileid {
        here = match parent_of(&here) {
            Ok(above) => above,
            Err(Errno::XDEV) => return Ok(false), // the root of the file system
            Err(errno) => return Err(errno),
        };
        let above = Attr::of(&here)?.fileid;
        if above == fileid {
            return Ok(false); // the root of everything
        }
        fileid = above;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ExportId;
    use crate::fs::handle::{KEY_LEN, Key};

    const EXPORT: ExportId = ExportId(1);

    fn check(name: &[u8], expected: Result<Name<'_>>) {
        assert_eq!(Name::new(name), expected, "{name:?}");
    }

    #[test]
    fn names_are_bytes_without_slash_and_zero() {
        check(b"plain", Ok(Name::Entry(b"plain")));
        check(b"\xff \n...", Ok(Name::Entry(b"\xff \n...")));
        check(b".", Ok(Name::Itself));
        check(b"..", Ok(Name::Parent));
        check(b"", Err(Errno::ACCES));
        check(b"a/b", Err(Errno::ACCES));
        check(b"a\0b", Err(Errno::ACCES));
        check(&[b'x'; 255], Ok(Name::Entry(&[b'x'; 255])));
        check(&[b'x'; 256], Err(Errno::NAMETOOLONG));
    }

    /// Nested directories, all called `d`, created and removed without a path.
    struct Deep(OwnedFd, usize);

    impl Deep {
        fn new(top: &std::path::Path, depth: usize) -> Self {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let mut here = rustix::fs::open(top, flags, Mode::empty()).unwrap();
            for _ in 0..depth {
                rustix::fs::mkdirat(&here, c"d", Mode::RWXU).unwrap();
                here = rustix::fs::openat(&here, c"d", flags, Mode::empty()).unwrap();
            }
            Self(here, depth)
        }
    }

    impl Drop for Deep {
        fn drop(&mut self) {
            for _ in 0..self.1 {
                self.0 = parent_of(&self.0).unwrap();
                rustix::fs::unlinkat(&self.0, c"d", AtFlags::REMOVEDIR).unwrap();
            }
        }
    }

    #[test]
    fn the_parent_is_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let deep = Deep::new(dir.path(), 5000);
        let root = fs.root(EXPORT).unwrap();
        let attr = Attr::of(&deep.0).unwrap();
        let trail = || fs.trail_from_root(&root, &deep.0);
        let handle = fs.seal(&root, &attr, || sys::handle::of(&deep.0), trail).unwrap();
        let path_fd = rustix::io::fcntl_dupfd_cloexec(&deep.0, 0).unwrap();
        let node = Node::new(&root, handle, path_fd, &attr);
        let above = fs.find(&node, Name::Parent, fs.switch.server(), Patience::Blocking).unwrap().1;
        assert_eq!(above.fileid, Attr::of(parent_of(&deep.0).unwrap()).unwrap().fileid);
    }
}
