//! Files of an export as tests use them, through all that a client's call goes through; and
//! volumes.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, mpsc};

use tempfile::TempDir;

use super::Fs;
use super::attr::Changes;
use super::create::{NewFile, NewKind};
use super::error::Error;
use super::guard::Guard;
use super::handle::{KEY_LEN, Key};
use super::identity::Identity;
use super::name::Name;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::export::ExportId;
use crate::quota::ledger::Ledger;
use crate::quota::{Account, LimitRule, QuotaLimits, Usage};
use crate::sched::Patience;

const WAIT: Patience = Patience::Blocking;

/// The errno of an operation that may block, and fails for no other reason in tests.
pub(crate) fn errno(error: Error) -> Errno {
    match error {
        Error::Errno(errno) => errno,
        Error::WouldBlock | Error::NotCounted | Error::Busy => panic!("{error}"),
    }
}

/// The files of an export, used as the server's user.
pub(crate) struct Files<'a> {
    fs: &'a Fs,
    export: ExportId,
    pub(crate) who: Identity,
}

impl<'a> Files<'a> {
    pub(crate) fn of(fs: &'a Fs, export: ExportId) -> Self {
        Self { fs, export, who: *fs.switch.server() }
    }

    pub(crate) fn root(&self) -> Arc<Node> {
        self.fs.node(&self.fs.locate(self.export, b"").unwrap(), WAIT).unwrap()
    }

    pub(crate) fn find(&self, dir: &Arc<Node>, name: &str) -> Result<Arc<Node>> {
        let found = self.fs.find(dir, Name::Entry(name.as_bytes()), &self.who, WAIT);
        Ok(found.map_err(errno)?.0)
    }

    pub(crate) fn create(&self, dir: &Arc<Node>, name: &str) -> Result<Arc<Node>> {
        self.make(dir, name, &NewFile::with(NewKind::File, &Changes::default(), 0o600))
    }

    pub(crate) fn mkdir(&self, dir: &Arc<Node>, name: &str) -> Result<Arc<Node>> {
        self.make(dir, name, &NewFile::with(NewKind::Directory, &Changes::default(), 0o700))
    }

    pub(crate) fn symlink(&self, dir: &Arc<Node>, name: &str, target: &[u8]) -> Result<Arc<Node>> {
        self.make(dir, name, &NewFile::with(NewKind::Symlink(target), &Changes::default(), 0o777))
    }

    pub(crate) fn make(&self, dir: &Arc<Node>, name: &str, new: &NewFile<'_>) -> Result<Arc<Node>> {
        let make = |guard: &Guard<'_>| self.fs.create(dir, name.as_bytes(), new, &self.who, guard);
        Ok(self.change(dir, make)?.node)
    }

    pub(crate) fn write(&self, file: &Node, offset: u64, len: usize) -> Result<usize> {
        let data = vec![7; len];
        let write = |guard: &Guard<'_>| {
            self.fs.write(file, &file.attr()?, &self.who, (offset, &data), WAIT, guard)
        };
        Ok(self.change(file, write)?.count)
    }

    /// Makes a change under the lock of `node`; again, if the volume may have room later.
    fn change<T>(&self, node: &Node, make: impl Fn(&Guard<'_>) -> Result<T, Error>) -> Result<T> {
        for _ in 0..8 {
            let guard = self.fs.lock(node, WAIT).map_err(errno)?;
            match make(&guard).map_err(errno) {
                Err(Errno::NOSPC) if guard.may_have_room_later() => drop(guard),
                made => return made,
            }
            self.settle();
        }
        Err(Errno::NOSPC)
    }

    /// Comes back when the files for which room is held have been flushed.
    pub(crate) fn settle(&self) {
        let (told, settled) = mpsc::channel();
        let then = Box::new(move |settled| told.send(settled).unwrap());
        self.fs.flush_volume(self.export, then);
        settled.recv().unwrap().unwrap();
    }

    /// Reads as a client does; answers how much.
    pub(crate) fn read(&self, file: &Node) -> Result<usize> {
        let (attr, mut buffer) = (file.attr_to_read()?, Vec::new());
        let read = self.fs.read(file, &attr, &self.who, &mut buffer, (0, 1 << 20), WAIT);
        Ok(read.map_err(errno)?.count)
    }

    pub(crate) fn truncate(&self, file: &Node, size: u64) -> Result<()> {
        let guard = self.fs.lock(file, WAIT).map_err(errno)?;
        let changes = Changes { size: Some(size), ..Changes::default() };
        self.fs.change(file, &file.attr()?, &self.who, &changes, &guard)
    }

    pub(crate) fn remove(&self, dir: &Arc<Node>, name: &str) -> Result<()> {
        let guard = self.fs.lock(dir, WAIT).map_err(errno)?;
        self.fs.remove(dir, name.as_bytes(), &self.who, &guard).map_err(errno)
    }

    pub(crate) fn rmdir(&self, dir: &Arc<Node>, name: &str) -> Result<()> {
        let guard = self.fs.lock(dir, WAIT).map_err(errno)?;
        self.fs.remove_directory(dir, name.as_bytes(), &self.who, &guard).map_err(errno)
    }

    pub(crate) fn rename(&self, from: (&Arc<Node>, &str), to: (&Arc<Node>, &str)) -> Result<()> {
        let guard = self.fs.lock_both(from.0, to.0, WAIT).map_err(errno)?;
        let (from, to) = ((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()));
        self.fs.rename(from, to, &self.who, &guard).map_err(errno)
    }

    pub(crate) fn link(&self, file: &Node, dir: &Arc<Node>, name: &str) -> Result<()> {
        let guard = self.fs.lock_both(file, dir, WAIT).map_err(errno)?;
        self.fs.link(file, dir, name.as_bytes(), &self.who, &guard).map_err(errno)
    }
}

/// A volume on its own.
pub(crate) struct Volume {
    pub(crate) fs: Fs,
    pub(crate) account: Arc<Account>,
    pub(crate) dir: TempDir,
    _ledger: Ledger,
    _state: TempDir,
}

/// The export that it is.
pub(crate) const VOLUME: ExportId = ExportId(1);

/// A volume of so many bytes and inodes.
pub(crate) fn volume(bytes: u64, inodes: Option<u64>) -> Volume {
    let (dir, state) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let fs = Fs::new(Key::new([1; KEY_LEN]), 4096, state.path()).unwrap();
    let ledger = Ledger::open(state.path().join("ledger"), || Ok(()));
    let own = dir.path().metadata().unwrap().blocks() * 512;
    let limits = QuotaLimits { bytes, inodes, rule: LimitRule::Enforce };
    let account = ledger.fresh("a", limits, Usage { bytes: own, inodes: 1 });
    ledger.begin().unwrap();
    fs.attach(VOLUME, dir.path(), None, Some(Arc::clone(&account))).unwrap();
    Volume { fs, account, dir, _ledger: ledger, _state: state }
}

impl Volume {
    pub(crate) fn files(&self) -> Files<'_> {
        Files::of(&self.fs, VOLUME)
    }
}

/// What du(1) finds in a directory.
pub(crate) fn du(dir: &Path) -> Usage {
    let mut seen = BTreeSet::new();
    let mut usage = Usage::default();
    for entry in walkdir::WalkDir::new(dir) {
        let meta = entry.unwrap().path().symlink_metadata().unwrap();
        if seen.insert(meta.ino()) {
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
        }
    }
    usage
}
