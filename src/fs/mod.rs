//! The backing directory: POSIX operations on handles, as the caller's identity.
//!
//! Knows neither the wire format nor Kubernetes. A change made beside the server is seen at once:
//! descriptors and handles are cached ([`node_cache`]), and directory listings as long as the
//! kernel says that they are true ([`listing`]). Attributes are never cached.
//!
//! Operations that change a file or directory take its [`guard::Guard`]: the attributes before and
//! after must be read under the same lock as the change, or clients that compare them keep stale
//! caches.
//!
//! ```text
//!   name  create  change  data  listing  access  info    what clients ask for
//!   accounting  flush  orphans  temp_name  mode_loan     what a change involves
//!   node_cache  node  root  reopen                       what is open
//!   handle  path_handle  handle_probe  fingerprint       how a file or root is found again
//!   attr  identity  guard  stripes  group_commit         the basis
//! ```

pub mod access;
mod accounting;
pub mod attr;
mod change;
pub mod count;
pub mod create;
pub mod data;
pub mod error;
pub mod fingerprint;
pub mod flush;
pub mod group_commit;
pub mod guard;
pub mod handle;
mod handle_probe;
pub mod identity;
pub mod info;
pub mod listing;
mod mode_loan;
pub mod name;
pub mod node;
pub mod node_cache;
mod orphans;
mod path_handle;
mod reopen;
pub mod root;
mod shutdown;
mod stripes;
mod temp_name;
#[cfg(test)]
pub(crate) mod testing;
mod write_descriptor;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::Account;
use crate::sched::Patience;
use crate::sys;
use crate::sys::handle::KernelHandle;
use crate::sys::mounts::Mounts;
use attr::Attr;
use error::Error;
use flush::flusher::Flusher;
use handle::{Body, Handle, Key};
use identity::Switch;
use listing::Listings;
use mode_loan::ModeLender;
use node::Node;
use node_cache::{NodeCache, Stats};
use orphans::Orphans;
use path_handle::{DescentBudget, Moves, Search, Trail};
use root::{HandleKind, Root};
use stripes::Stripes;
use temp_name::TempNames;

/// Sweeps without use after which a file is closed.
const IDLE_SWEEPS: u32 = 4;

/// How often a path is resolved again because something on it was renamed.
const RENAMES_MAX: usize = 100;

/// The exported directories, and the files that are open in them.
pub struct Fs {
    key: Key,
    pub(crate) switch: Switch,
    roots: ArcSwap<HashMap<ExportId, Arc<Root>>>,
    nodes: Arc<NodeCache>,
    listings: Listings,
    /// What is mounted, where there is a /proc.
    mounts: Option<Mounts>,
    flusher: Flusher,
    /// Locks for files that change.
    locks: Arc<Stripes>,
    /// Locks for the names of a file, always taken after those (see [`accounting`]).
    links: Stripes,
    orphans: Orphans,
    lender: ModeLender,
    moves: Moves,
    descents: DescentBudget,
    temp_names: TempNames,
    /// The number of files that may have unflushed content.
    dirty_max: usize,
    /// Whether the risk of kernel handles was logged.
    warned: AtomicBool,
}

impl Fs {
    /// Creates it without exports. Handles are made with `key`. At most `descriptors` descriptors
    /// are kept open for files. What has to survive the server is kept in the folder `state`.
    ///
    /// # Errors
    /// The system has no random numbers, or the folder cannot be used.
    pub fn new(key: Key, descriptors: usize, state: &Path) -> Result<Self> {
        let descriptors = descriptors.max(48);
        let (switch, locks) = (Switch::new(), Arc::new(Stripes::new()));
        let nodes = Arc::new(NodeCache::new(descriptors));
        Ok(Self {
            key,
            roots: ArcSwap::default(),
            listings: Listings::new(),
            mounts: Mounts::watch().ok(),
            flusher: Flusher::start(Arc::clone(&locks), Arc::clone(&nodes))?,
            nodes,
            locks,
            links: Stripes::new(),
            orphans: Orphans::default(),
            lender: ModeLender::new(!switch.can_switch(), state),
            switch,
            moves: Moves::open(state)?,
            descents: DescentBudget::new(descriptors),
            temp_names: TempNames::open(state),
            // Each has up to three descriptors, which stay open until it is flushed.
            dirty_max: descriptors / 12,
            warned: AtomicBool::new(false),
        })
    }

    /// Returns the key of the handles.
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Whether callers act as themselves. If not, every caller acts as the server's user.
    pub const fn acts_as_callers(&self) -> bool {
        self.switch.can_switch()
    }

    /// Makes a directory reachable by the handles of `id`. Returns how its files are found. The
    /// space that they take is booked to `account`. Blocks.
    ///
    /// # Errors
    /// The directory cannot be opened, or the `wanted` kind of handle does not work there.
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

    /// As [`Fs::attach`], for any number of roots that are open already ([`Root::open`]).
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

    /// Shares a root whose unflushed files are counted with those of all others.
    fn attached(&self, mut root: Root) -> Arc<Root> {
        root.unflushed = Arc::clone(self.flusher.unflushed());
        Arc::new(root)
    }

    /// Warns once if kernel handles are used on a file system that may give them to other files.
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

    /// Whether `id` is attached to the directory that is at `dir` now. That may have been removed
    /// and created again since.
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
        self.close_orphans_of(&root);
        self.nodes.forget(&root);
    }

    /// Returns the handle of the directory `below` the root of an export. Symbolic links are
    /// followed as if the export were the root directory: none leads out of it, and none to another
    /// file system. Blocks.
    ///
    /// # Errors
    /// As openat2(2); `ENOTDIR` if it is no directory, `EXDEV` on another file system.
    pub fn locate(&self, id: ExportId, below: &[u8]) -> Result<Handle> {
        let root = self.root(id)?;
        if below.is_empty() {
            return Ok(*self.root_node(&root)?.handle());
        }
        let path_fd = self.open_as_server(|| open_in_root(&root, below))?;
        let attr = Attr::of(&path_fd)?;
        if (attr.fileid, attr.filesystem) == (root.fileid, root.filesystem) {
            return Ok(*self.root_node(&root)?.handle());
        }
        let trail = || self.switch.as_server(|| self.trail_from_root(&root, &path_fd))?;
        let handle = self.seal(&root, &attr, || sys::handle::of(&path_fd), trail)?;
        Ok(*self.keep(Node::new(&root, handle, path_fd, &attr))?.handle())
    }

    /// Returns the file of a handle.
    ///
    /// # Errors
    /// `ESTALE` if the handle was not made by this server or its file is gone; others if the file
    /// cannot be opened; [`Error::WouldBlock`] if it is not open.
    pub fn node(&self, handle: &Handle, patience: Patience) -> Result<Arc<Node>, Error> {
        if let Some(node) = self.nodes.get(handle) {
            return Ok(node);
        }
        let body = self.key.check(handle)?;
        let root = self.root(handle.export())?;
        if patience == Patience::None {
            return Err(Error::WouldBlock); // opening it may read from the disk
        }
        let (path_fd, attr) = self.open_body(&root, &body)?;
        Ok(self.keep(Node::new(&root, *handle, path_fd, &attr))?)
    }

    /// Opens the file for which the handle with this body was made. Blocks.
    ///
    /// # Errors
    /// `ESTALE` if it is gone, or the file system has given its handle to another file;
    /// [`Error::Busy`] if it cannot be searched now.
    fn open_body(&self, root: &Root, body: &Body<'_>) -> Result<(OwnedFd, Attr), Error> {
        let path_fd = match body {
            Body::Kernel(_) if !root.keeps_handles() => return Err(Errno::STALE.into()),
            Body::Kernel(kernel) | Body::Stamped(_, kernel) => {
                self.open_as_server(|| Ok(sys::handle::open(root, kernel)?))
            }
            Body::Path(path) => {
                let (moves, lender, budget) = (&self.moves, &self.lender, &self.descents);
                let search = Search { moves, root, lender, budget };
                self.open_as_server(|| search.find(path))
            }
        };
        let path_fd = path_fd.inspect_err(|error| root.note_error(*error));
        let path_fd = path_fd.map_err(|error| match error {
            // File systems differ in the error for a handle whose file is gone.
            Error::Errno(Errno::NOENT | Errno::INVAL) => Errno::STALE.into(),
            error => error,
        })?;
        let attr = Attr::of(&path_fd)?;
        if root.is_meant(body, &attr) { Ok((path_fd, attr)) } else { Err(Errno::STALE.into()) }
    }

    fn root(&self, id: ExportId) -> Result<Arc<Root>> {
        self.roots.load().get(&id).cloned().ok_or(Errno::STALE)
    }

    fn root_node(&self, root: &Arc<Root>) -> Result<Arc<Node>> {
        let path_fd = root.duplicate()?;
        let attr = Attr::of(&path_fd).inspect_err(|errno| root.note(*errno))?;
        let kernel = || sys::handle::of(&path_fd);
        let handle = self.seal(root, &attr, kernel, || Ok(Trail::root(&attr)))?;
        self.keep(Node::new(root, handle, path_fd, &attr))
    }

    /// Runs `open` as the server. If there are no descriptors left, closes files that are not in
    /// use and tries once more.
    fn open_as_server<E: From<Errno> + PartialEq>(
        &self,
        open: impl Fn() -> Result<OwnedFd, E>,
    ) -> Result<OwnedFd, E> {
        let is_limit = |error: &E| [Errno::MFILE, Errno::NFILE].map(E::from).contains(error);
        match self.switch.as_server(&open)? {
            Err(error) if is_limit(&error) => {
                self.nodes.sweep(0);
                self.switch.as_server(open)?
            }
            result => result,
        }
    }

    /// Opens the entry `name` of `dir`, without access to its content, within the file system.
    /// Blocks.
    ///
    /// # Errors
    /// As openat2(2); `EACCES` if another file system is mounted there, which is not exported.
    fn open_below(&self, dir: &Node, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
        open_entry(dir, name, flags, ResolveFlags::empty()).map_err(not_exported)
    }

    /// As [`Fs::open_below`], but blocks only with patience.
    ///
    /// # Errors
    /// As [`Fs::open_below`]; [`Error::WouldBlock`] if the entry is not in memory.
    fn open_below_with(
        &self,
        dir: &Node,
        name: &[u8],
        patience: Patience,
    ) -> Result<OwnedFd, Error> {
        match patience {
            Patience::None => {
                open_entry(dir, name, OFlags::empty(), ResolveFlags::CACHED).map_err(|errno| {
                    match errno {
                        rustix::io::Errno::AGAIN => Error::WouldBlock,
                        errno => not_exported(errno).into(),
                    }
                })
            }
            Patience::Blocking => Ok(self.open_below(dir, name, OFlags::empty())?),
        }
    }

    /// Returns the node and the attributes of a file that was just opened as `name` in `dir`.
    fn adopt(&self, dir: &Node, name: &[u8], path_fd: OwnedFd) -> Result<(Arc<Node>, Attr)> {
        let attr = Attr::of(&path_fd)?;
        let handle = match self.listings.handle(&dir.root, &attr) {
            Some(handle) => handle,
            None => {
                let handle = self.handle_in(dir, name, &attr, || sys::handle::of(&path_fd))?;
                self.listings.remember_handle(&dir.root, &attr, handle);
                handle
            }
        };
        if let Some(node) = self.nodes.get(&handle) {
            return Ok((node, attr));
        }
        Ok((self.keep(Node::new(&dir.root, handle, path_fd, &attr))?, attr))
    }

    /// Returns the handle of the file that is `name` in `dir` and has `attr`.
    fn handle_in(
        &self,
        dir: &Node,
        name: &[u8],
        attr: &Attr,
        kernel: impl FnOnce() -> Result<KernelHandle>,
    ) -> Result<Handle> {
        self.seal(&dir.root, attr, kernel, || self.trail_in(dir, attr, Some(name)))
    }

    /// Creates the handle of the file that has `attr`, of the kind that the export uses.
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

    /// Returns how many files are open, and how often a call found its file open.
    pub fn stats(&self) -> Stats {
        self.nodes.stats()
    }

    /// Returns the number of flushes until now.
    pub fn flushes(&self) -> u64 {
        self.flusher.count()
    }

    /// Closes files that were not used for a while, and flushes those that were written. Blocks. To
    /// be called once a second.
    pub fn sweep(&self) {
        self.nodes.tick();
        let swept = self.nodes.sweep(IDLE_SWEEPS + 1);
        self.sweep_orphans();
        self.close_written(&swept.written);
        for node in swept.unflushed {
            self.flush_in_background(&node);
        }
    }
}

fn open_entry(
    dir: &Node,
    name: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve | ResolveFlags::NO_XDEV)
}

/// Another file system is mounted where this is `EXDEV`. It is not exported.
fn not_exported(errno: rustix::io::Errno) -> Errno {
    if errno == rustix::io::Errno::XDEV { Errno::ACCES } else { errno.into() }
}

/// Opens the directory `path` below a root, which no symbolic link on the way leaves. Blocks.
///
/// # Errors
/// As openat2(2); `EAGAIN` if directories on the way are renamed all the time.
fn open_in_root(root: &Root, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RENAMES_MAX {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed on the way, and the kernel cannot be sure of a `..`.
            Err(rustix::io::Errno::AGAIN) => {}
            opened => return Ok(opened?),
        }
    }
    Err(Errno::AGAIN)
}
