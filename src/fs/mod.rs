//! The backing directory: POSIX operations on handles, as the caller's identity.
//!
//! Knows neither the wire nor Kubernetes. A change made beside the server is seen at once: what is
//! cached are descriptors ([`node`]), handles, and lists of directories as long as the kernel says
//! that they are true ([`pieces`]); attributes never are.
//!
//! Operations that change a file or directory take its [`Guard`]: the attributes before and after
//! must be read under the same lock as the change, or clients that compare them keep stale caches.

mod aside;
pub mod attr;
mod away;
mod change;
mod charge;
pub mod count;
pub mod data;
pub mod dir;
pub mod flush;
pub mod group;
pub mod handle;
pub mod identity;
pub mod info;
mod lend;
mod linger;
mod locate;
pub mod make;
mod moves;
pub mod name;
pub mod node;
mod pieces;
mod proof;
pub mod root;
mod settling;
mod shutdown;
mod stripes;
#[cfg(test)]
pub(crate) mod testing;
mod trail;
pub mod which;
mod writing;

use std::cell::Cell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::MutexGuard;
use quick_cache::sync::Cache;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Account;
use crate::sched::Patience;
use crate::sys;
use crate::sys::handle::KernelHandle;
use crate::sys::mounts::Mounts;
use aside::Asides;
use attr::{Attr, Time};
use dir::is_over;
use flush::{Extent, Flusher};
use handle::{Body, Handle, Key};
use identity::Switch;
use lend::Lender;
use linger::Lingering;
use locate::{Moves, Search, Searches};
use node::{Node, Nodes, Stats};
use pieces::Pieces;
use root::{HandleKind, Root};
use stripes::Stripes;
use trail::Trail;

/// Sweeps without use after which a node is closed.
const IDLE_SWEEPS: u32 = 4;

/// How often a path is tried again on which something is renamed.
const RENAMES: usize = 100;

/// Handles that are remembered: 30 MB of them.
const HANDLES: usize = 200_000;

/// The exported directories, and what is open in them.
pub struct Fs {
    key: Key,
    pub(crate) switch: Switch,
    roots: ArcSwap<HashMap<ExportId, Arc<Root>>>,
    nodes: Arc<Nodes>,
    /// Handles of files that were listed or looked up, by export, number and time of birth.
    handles: Cache<(ExportId, u64, Time), Handle>,
    /// Lists of directories.
    pieces: Pieces,
    /// What is mounted, where there is a /proc.
    mounts: Option<Mounts>,
    flusher: Flusher,
    /// For the files that change.
    locks: Arc<Stripes>,
    /// For the names of a file, and always taken after those (see [`charge`]).
    links: Stripes,
    /// Files without a name that can be read for some seconds more.
    lingering: Lingering,
    /// Lends modes, where that is one user's affair.
    lender: Lender,
    moves: Moves,
    searches: Searches,
    /// Names of files that are being made.
    asides: Asides,
    /// How many nodes may have unflushed content.
    dirty_max: usize,
    /// Whether it was said what handles risk.
    warned: AtomicBool,
}

/// The right to change one or two files, until it is dropped.
#[must_use = "the files are unlocked when this is dropped"]
pub struct Guard<'a> {
    /// That of the call, for what else it may have to wait for.
    patience: Patience,
    /// Whether the last room that was asked for is held until files are flushed.
    room_later: Cell<bool>,
    _first: MutexGuard<'a, ()>,
    _second: Option<MutexGuard<'a, ()>>,
}

impl<'a> Guard<'a> {
    fn new(
        patience: Patience,
        first: MutexGuard<'a, ()>,
        second: Option<MutexGuard<'a, ()>>,
    ) -> Self {
        Self { patience, room_later: Cell::new(false), _first: first, _second: second }
    }

    /// Whether the change that failed with `ENOSPC` may fit when files of its volume have been
    /// flushed ([`Fs::settle_volume`]): room is held for what they may turn out to take.
    pub const fn may_have_room_later(&self) -> bool {
        self.room_later.get()
    }
}

impl Fs {
    /// Serves nothing yet. Handles are made with `key`; files are kept open with at most
    /// `descriptors` of them; what has to survive the server is kept in the folder `state`.
    ///
    /// # Errors
    /// The system has no random numbers, or the folder cannot be used.
    pub fn new(key: Key, descriptors: usize, state: &Path) -> Result<Self> {
        let descriptors = descriptors.max(48);
        let (switch, locks) = (Switch::new(), Arc::new(Stripes::new()));
        let nodes = Arc::new(Nodes::new(descriptors));
        Ok(Self {
            key,
            roots: ArcSwap::default(),
            handles: Cache::new(HANDLES),
            pieces: Pieces::new(),
            mounts: Mounts::watch().ok(),
            flusher: Flusher::start(Arc::clone(&locks), Arc::clone(&nodes))?,
            nodes,
            locks,
            links: Stripes::new(),
            lingering: Lingering::default(),
            lender: Lender::new(!switch.can_switch(), state),
            switch,
            moves: Moves::open(state)?,
            searches: Searches::new(descriptors),
            asides: Asides::open(state),
            // Each has up to three descriptors, which are kept until it is flushed.
            dirty_max: descriptors / 12,
            warned: AtomicBool::new(false),
        })
    }

    /// Whether changes are made as the callers; if not, all are the server's user.
    pub const fn acts_as_callers(&self) -> bool {
        self.switch.can_switch()
    }

    /// Makes a directory reachable by the handles of `id`; answers how its files are found. What
    /// they take is booked to `account`.
    ///
    /// # Errors
    /// The directory cannot be opened, or `wanted` does not work there.
    pub fn attach(
        &self,
        id: ExportId,
        dir: &Path,
        wanted: Option<HandleKind>,
        account: Option<Arc<Account>>,
    ) -> Result<HandleKind> {
        let root = Root::open(id, dir, wanted, account)?;
        let kind = root.handles;
        self.attach_all([root]);
        Ok(kind)
    }

    /// As [`Fs::attach`], for many that were opened before ([`Root::open`]).
    pub fn attach_all(&self, opened: impl IntoIterator<Item = Root>) {
        let opened: Vec<_> = opened.into_iter().map(|root| self.attached(root)).collect();
        self.warn_of_risks(&opened);
        self.roots.rcu(|roots| {
            let mut roots = HashMap::clone(roots);
            roots.extend(opened.iter().map(|root| (root.id, Arc::clone(root))));
            roots
        });
        self.remove_unfinished(&opened.iter().map(|root| root.id).collect::<Vec<_>>());
    }

    /// A root whose files are counted with those of all others.
    fn attached(&self, mut root: Root) -> Arc<Root> {
        root.unflushed = Arc::clone(self.flusher.unflushed());
        Arc::new(root)
    }

    /// Says once what kernel handles risk where the file system may give them to other files.
    fn warn_of_risks(&self, opened: &[Arc<Root>]) {
        let Some(filesystem) = opened.iter().find_map(|root| root.risks_handles()) else { return };
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %filesystem,
                "--handles kernel: this file system may forget a file handle, or give it to \
                 another file; a client then gets ESTALE for a file that is still there, and a \
                 file that got the handle, number and time of birth of one that was removed is \
                 taken for that one; --handles auto avoids both"
            );
        }
    }

    /// Whether `id` stands for the directory that is at `dir` now: it may have been removed and
    /// made anew since it was attached.
    pub fn serves(&self, id: ExportId, dir: &Path) -> bool {
        self.root(id).is_ok_and(|root| root.is_at(dir))
    }

    /// Makes all handles of `id` stale.
    pub fn detach(&self, id: ExportId) {
        let Some(root) = self.roots.load().get(&id).cloned() else { return };
        self.roots.rcu(|roots| {
            let mut roots = HashMap::clone(roots);
            roots.remove(&id);
            roots
        });
        self.give_back(&root);
        self.nodes.forget(&root);
    }

    /// The handle of the directory `below` the root of an export. Symbolic links are followed as if
    /// that were the root of everything: none leads out of it, and none to another file system.
    /// Blocks.
    ///
    /// # Errors
    /// As openat2(2) has them; `ENOTDIR` if it is no directory, `EXDEV` on another file system.
    pub fn locate(&self, id: ExportId, below: &[u8]) -> Result<Handle> {
        let root = self.root(id)?;
        if below.is_empty() {
            return Ok(*self.root_node(&root)?.handle());
        }
        let place = self.descriptor(|| open_in_root(&root, below))?;
        let attr = Attr::of(&place)?;
        if (attr.fileid, attr.filesystem) == (root.fileid, root.filesystem) {
            return Ok(*self.root_node(&root)?.handle());
        }
        let trail = || self.switch.as_server(|| self.trail_from_root(&root, &place))?;
        let handle = self.seal(&root, &attr, || sys::handle::of(&place), trail)?;
        Ok(*self.keep(Node::new(&root, handle, place, &attr))?.handle())
    }

    /// The file of a handle.
    ///
    /// # Errors
    /// `ESTALE` if the handle is none of ours or its file is gone; others if that cannot be opened;
    /// `EAGAIN` without patience, if it is not open.
    pub fn node(&self, handle: &Handle, patience: Patience) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes.get(handle) {
            return Ok(node);
        }
        let body = self.key.check(handle)?;
        let root = self.root(handle.export())?;
        if patience == Patience::None {
            return Err(Errno::AGAIN); // finding it may read from the disk
        }
        let (place, attr) = self.open_body(&root, &body)?;
        self.keep(Node::new(&root, *handle, place, &attr))
    }

    /// Opens the file that the handle with this body was made for. Blocks.
    ///
    /// # Errors
    /// `ESTALE` if it is gone, or the file system has given its handle to another file.
    fn open_body(&self, root: &Root, body: &Body<'_>) -> Result<(OwnedFd, Attr)> {
        let place = match body {
            Body::Kernel(_) if !root.keeps_handles() => return Err(Errno::STALE),
            Body::Kernel(kernel) | Body::Stamped(_, kernel) => {
                self.descriptor(|| sys::handle::open(root, kernel))
            }
            Body::Path(path) => {
                let (moves, lender, searches) = (&self.moves, &self.lender, &self.searches);
                let search = Search { moves, root, lender, searches };
                self.descriptor(|| search.find(path))
            }
        };
        let place = place.inspect_err(|errno| root.note(*errno)).map_err(|errno| match errno {
            // What a file system says of a handle whose file is gone differs.
            Errno::NOENT | Errno::INVAL => Errno::STALE,
            errno => errno,
        })?;
        let attr = Attr::of(&place)?;
        if root.is_meant(body, &attr) { Ok((place, attr)) } else { Err(Errno::STALE) }
    }

    fn root(&self, id: ExportId) -> Result<Arc<Root>> {
        self.roots.load().get(&id).cloned().ok_or(Errno::STALE)
    }

    fn root_node(&self, root: &Arc<Root>) -> Result<Arc<Node>> {
        let place = root.place()?;
        let attr = Attr::of(&place).inspect_err(|errno| root.note(*errno))?;
        let kernel = || sys::handle::of(&place);
        let handle = self.seal(root, &attr, kernel, || Ok(Trail::root(&attr)))?;
        self.keep(Node::new(root, handle, place, &attr))
    }

    /// Runs `open` as the server; if there are no descriptors left, closes what is not in use and
    /// tries once more.
    fn descriptor(&self, open: impl Fn() -> Result<OwnedFd>) -> Result<OwnedFd> {
        match self.switch.as_server(&open)? {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.nodes.sweep(0);
                self.switch.as_server(open)?
            }
            result => result,
        }
    }

    /// Opens what `name` is in `dir`, without access to its content, within the file system.
    fn open_below(
        &self,
        dir: &Node,
        name: &[u8],
        flags: OFlags,
        patience: Patience,
    ) -> Result<OwnedFd> {
        let mut resolve = ResolveFlags::NO_XDEV;
        if patience == Patience::None {
            resolve |= ResolveFlags::CACHED;
        }
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
            Ok(place) => Ok(place),
            // Another file system is mounted there. It is not exported.
            Err(rustix::io::Errno::XDEV) => Err(Errno::ACCES),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The node and the attributes of a file that was just opened as `name` in `dir`.
    fn adopt(&self, dir: &Node, name: &[u8], place: OwnedFd) -> Result<(Arc<Node>, Attr)> {
        let attr = Attr::of(&place)?;
        let handle = match self.remembered(&dir.root, &attr) {
            Some(handle) => handle,
            None => {
                let handle = self.handle_in(dir, name, &attr, || sys::handle::of(&place))?;
                self.remember(&dir.root, &attr, handle);
                handle
            }
        };
        if let Some(node) = self.nodes.get(&handle) {
            return Ok((node, attr));
        }
        Ok((self.keep(Node::new(&dir.root, handle, place, &attr))?, attr))
    }

    /// The handle of the file that is `name` in `dir` and has `attr`.
    fn handle_in(
        &self,
        dir: &Node,
        name: &[u8],
        attr: &Attr,
        kernel: impl FnOnce() -> Result<KernelHandle>,
    ) -> Result<Handle> {
        self.seal(&dir.root, attr, kernel, || self.trail_in(dir, attr, Some(name)))
    }

    /// The handle of the file that has `attr`, if it was asked for before.
    fn remembered(&self, root: &Root, attr: &Attr) -> Option<Handle> {
        // A snapshot in the export has files of the same number and time of birth.
        if attr.filesystem != root.filesystem {
            return None;
        }
        self.handles.get(&(root.id, attr.fileid, attr.born?))
    }

    /// Remembers the handle of the file that has `attr`, where no other file will ever have that
    /// number and time of birth; answers whether it did.
    fn remember(&self, root: &Root, attr: &Attr, handle: Handle) -> bool {
        let Some(born) = attr.born.filter(|born| is_over(*born)) else { return false };
        let kept = root.handles == HandleKind::Kernel && root.keeps_handles();
        let may = kept && attr.filesystem == root.filesystem;
        if may {
            self.handles.insert((root.id, attr.fileid, born), handle);
        }
        may
    }

    /// Makes the handle of the file that has `attr`, of the kind that the export has.
    fn seal(
        &self,
        root: &Root,
        attr: &Attr,
        kernel: impl FnOnce() -> Result<KernelHandle>,
        trail: impl FnOnce() -> Result<Trail>,
    ) -> Result<Handle> {
        Ok(match root.handles {
            HandleKind::Kernel => self.key.seal(root.id, root.body(attr, kernel()?)?),
            HandleKind::Path => self.key.seal(root.id, Body::Path(&trail()?.to_bytes())),
        })
    }

    /// Locks a file for a change.
    ///
    /// # Errors
    /// `EAGAIN` without patience, if another change is going on.
    pub fn lock(&self, node: &Node, patience: Patience) -> Result<Guard<'_>> {
        let first = self.lock_at(self.stripe(node.fileid), patience)?;
        Ok(Guard::new(patience, first, None))
    }

    /// Locks two files for a change of both.
    ///
    /// # Errors
    /// As [`Fs::lock`].
    pub fn lock_both(&self, one: &Node, other: &Node, patience: Patience) -> Result<Guard<'_>> {
        let (a, b) = (self.stripe(one.fileid), self.stripe(other.fileid));
        // Always in this order, so that two who need the same locks cannot wait for each other.
        let first = self.lock_at(a.min(b), patience)?;
        let second = if a == b { None } else { Some(self.lock_at(a.max(b), patience)?) };
        Ok(Guard::new(patience, first, second))
    }

    fn stripe(&self, fileid: u64) -> usize {
        self.locks.index(fileid)
    }

    fn lock_at(&self, index: usize, patience: Patience) -> Result<MutexGuard<'_, ()>> {
        self.locks.lock(index, patience)
    }

    /// Waits until every change that is going on has come to its end. Those that begin meanwhile
    /// are not waited for.
    fn wait_for_changes(&self) {
        self.locks.wait_for_all();
    }

    /// The files that are open, and how well they are found.
    pub fn stats(&self) -> Stats {
        self.nodes.stats()
    }

    /// How often something was flushed.
    pub fn flushes(&self) -> u64 {
        self.flusher.count()
    }

    /// Closes what was not used for a while, and flushes what was written then. Blocks; to be
    /// called once a second.
    pub fn sweep(&self) {
        self.nodes.tick();
        let swept = self.nodes.sweep(IDLE_SWEEPS + 1);
        self.sweep_lingering();
        self.close_written(&swept.written);
        for node in swept.unflushed {
            self.flush_quietly(&node);
        }
    }

    fn flush_quietly(&self, node: &Arc<Node>) {
        if let Err(error) = self.flush(node, Extent::All) {
            flush::note_failure(node, error);
        }
    }
}

/// Opens the directory `path` below a root, which no link on the way leaves.
fn open_in_root(root: &Root, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RENAMES {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed on the way, so that the kernel is not sure of a `..`.
            Err(rustix::io::Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(Errno::AGAIN)
}
