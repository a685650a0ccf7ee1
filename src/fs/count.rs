//! Counting what an export's files take on the disk, while they are in use (see
//! [`crate::quota::count`]).
//!
//! Directories are found again by their handles, so that it does not matter what is renamed
//! meanwhile, how deep the tree is, and how many descriptors there are. No link is followed, no
//! other file system entered.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Fs;
use super::attr::{Attr, FileKind};
use super::error::Error;
use super::handle::Handle;
use super::node::Node;
use super::root::Root;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Account;
use crate::quota::count::Counted;
use crate::sched::Patience;
use crate::sys;

/// Bytes of a directory's list that are read at a time.
const PIECE: usize = 64 * 1024;

/// How long it works before it rests as long, so that it takes at most half of a processor and of
/// a disk.
const TURN: Duration = Duration::from_millis(5);

/// Who counts, and what is still to be looked at.
struct Walk<'a> {
    fs: &'a Fs,
    root: Arc<Root>,
    account: &'a Account,
    /// Directories whose entries were not looked at yet.
    pending: Vec<Handle>,
    turn: Instant,
}

impl Fs {
    /// Counts what the files of an export take, and puts its account right. Blocks for as long as
    /// it takes; `None` if `stop` is set meanwhile, or the export has no account.
    ///
    /// # Errors
    /// The tree cannot be read; the account is as it was.
    pub fn count(&self, id: ExportId, stop: &AtomicBool) -> Result<Option<Counted>, Error> {
        let root = self.root(id)?;
        let Some(account) = root.account.clone() else { return Ok(None) };
        account.begin_count();
        self.close_orphans_of(&root); // they have no name, so the count would miss them
        let top = self.root_node(&root)?;
        let (pending, turn) = (vec![*top.handle()], Instant::now());
        let mut walk = Walk { fs: self, root, account: &account, pending, turn };
        let counted = walk.see_root(&top).map_err(Error::from).and_then(|()| walk.run(stop));
        if !matches!(counted, Ok(Some(_))) {
            account.abandon_count();
        }
        counted
    }
}

/// `None` for a file that is gone, or is not counted: one of another file system, and one in a
/// directory that is closed to the server.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Errno::NOENT | Errno::STALE | Errno::XDEV | Errno::ACCES) => Ok(None),
        result => result.map(Some),
    }
}

impl Walk<'_> {
    fn run(&mut self, stop: &AtomicBool) -> Result<Option<Counted>, Error> {
        let mut piece = vec![0; PIECE];
        loop {
            while let Some(handle) = self.pending.pop() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                match self.open(&handle).and_then(|dir| Ok(self.list(&dir, &mut piece)?)) {
                    Ok(()) => {}
                    Err(Error::Errno(Errno::STALE | Errno::NOENT)) => {} // it is gone
                    Err(error) => return Err(error),
                }
            }
            self.fs.wait_for_changes();
            if let Some(counted) = self.account.end_count() {
                return Ok(Some(counted));
            }
            while let Some(moved) = self.account.next_moved() {
                self.see_moved(&moved)?;
            }
        }
    }

    fn see_root(&self, top: &Node) -> Result<()> {
        self.see(self.root.fileid, || Attr::of(top), |_| Ok(*top.handle())).map(drop)
    }

    /// Reports a file while no call can change it. Returns its handle if it is a directory. Does
    /// nothing if the file is gone, is another one by now, or is not of this file system.
    ///
    /// A directory is reported only with its handle. A rename before that leaves it unreported, and
    /// reports it as moved ([`Fs::tell_count`]); after that, the handle still finds it.
    ///
    /// # Errors
    /// The file cannot be examined.
    fn see(
        &self,
        fileid: u64,
        attr: impl Fn() -> Result<Attr>,
        handle: impl Fn(&Attr) -> Result<Handle>,
    ) -> Result<Option<Handle>> {
        let _file = self.fs.lock_stripe(fileid, Patience::Blocking);
        let _links = self.fs.lock_links(fileid, Patience::Blocking);
        let is_it = |attr: &Attr| attr.fileid == fileid && attr.links > 0;
        let Some(seen) = found(attr())?.filter(is_it) else { return Ok(None) };
        let is_directory = seen.kind == FileKind::Directory;
        let handle = handle(&seen);
        if is_directory {
            // Renamed, and perhaps back: the handle may be that of another file, or of none.
            let is_same = found(attr())?.is_some_and(|attr| is_it(&attr));
            if !is_same || found(handle)?.is_none() {
                return Ok(None);
            }
        }
        // What the file system did since it was last charged would be charged again later.
        if let Some(node) = handle.as_ref().ok().and_then(|handle| self.fs.nodes.peek(handle)) {
            node.charge(&seen, None);
        }
        let directory = if is_directory { Some(handle?) } else { None };
        self.account.see(fileid, seen.cost());
        Ok(directory)
    }

    fn list(&mut self, dir: &Arc<Node>, piece: &mut [u8]) -> Result<()> {
        let list = self.fs.readable(dir)?;
        loop {
            self.rest();
            let read = sys::dir::read(&list, piece)?;
            if read == 0 {
                return Ok(());
            }
            for entry in sys::dir::entries(&piece[..read]) {
                if entry.name != c"." && entry.name != c".." {
                    self.look(dir, entry.fileid, entry.name)?;
                }
            }
        }
    }

    fn look(&mut self, dir: &Arc<Node>, fileid: u64, name: &CStr) -> Result<()> {
        let handle = |attr: &Attr| {
            let kernel = || sys::handle::of_entry(&**dir, name);
            self.fs.handle_in(dir, name.to_bytes(), attr, kernel)
        };
        let directory = self.see(fileid, || Attr::of_entry(&**dir, name), handle)?;
        self.pending.extend(directory);
        Ok(())
    }

    fn see_moved(&mut self, handle: &[u8]) -> Result<(), Error> {
        let Ok(handle) = Handle::parse(handle) else { return Ok(()) };
        let node = match self.open(&handle) {
            Ok(node) => Ok(node),
            Err(Error::Errno(errno)) => Err(errno),
            Err(error) => return Err(error),
        };
        let Some(node) = found(node)? else { return Ok(()) };
        let directory = self.see(node.fileid, || Attr::of(&node), |_| Ok(handle))?;
        self.pending.extend(directory);
        Ok(())
    }

    /// Opens a file without keeping it open for others.
    fn open(&self, handle: &Handle) -> Result<Arc<Node>, Error> {
        let body = handle.body().ok_or(Errno::STALE)?;
        let (path_fd, attr) = self.fs.open_body(&self.root, &body)?;
        Ok(Node::new(&self.root, *handle, path_fd, &attr))
    }

    fn rest(&mut self) {
        let worked = self.turn.elapsed();
        if worked > TURN {
            thread::sleep(worked.min(Duration::from_millis(100)));
            self.turn = Instant::now();
        }
    }
}
