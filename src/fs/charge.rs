//! What files cost the volume that they are in (see [`crate::quota`]).
//!
//! Each open file remembers what it was charged with, so that what the file system does on its
//! own between two changes (blocks that are allocated when data is written back) is caught up with
//! at the next change, at the flush, or at the file's end, and nothing is charged twice.
//!
//! A file has ended when its last name is removed: nobody else may give it another one in
//! between. So removing and linking hold a lock for the file besides those of the directories;
//! it is always the last lock that is taken.

use std::ffi::CString;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, MutexGuard};

use rustix::fs::SeekFrom;

use super::attr::{Attr, Kind};
use super::node::Node;
use super::{Fs, Guard};
use crate::errno::{Errno, Result};
use crate::quota::{Account, Change, Hold};
use crate::sys::{self, Patience};
use crate::telemetry::bounded::OFTEN;

/// What the disk gives at a time, on nearly every file system. Where it gives more, what a change
/// takes is known only afterwards.
const BLOCK: u64 = 4096;

/// What a new name may add to its directory.
const NAME: u64 = BLOCK;

/// How many times a write is cut down to what is left, which others may take meanwhile.
const ATTEMPTS: usize = 8;

/// What an open file was charged with.
pub(super) struct Charge(AtomicI64);

/// It has ended, and costs nothing any more.
const ENDED: i64 = -1;

impl Charge {
    pub(super) fn new(attr: &Attr) -> Self {
        Self(AtomicI64::new(attr.cost()))
    }

    /// It costs so much now; answers how much more that is.
    fn update(&self, cost: i64) -> i64 {
        let update = |before| (before != ENDED).then_some(cost);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update) {
            Ok(before) => cost - before,
            Err(_) => 0,
        }
    }

    /// What it was charged with until now.
    pub(super) fn cost(&self) -> i64 {
        self.0.load(Ordering::Relaxed).max(0)
    }

    /// It ends; answers what it was charged with until now.
    pub(super) fn end(&self) -> i64 {
        self.0.swap(ENDED, Ordering::Relaxed).max(0)
    }
}

impl Attr {
    /// What the file costs, in bytes.
    ///
    /// Blocks that a file system (XFS) keeps ready behind the end of a file that grows are not
    /// charged: they can be as many as the file has, and are given back later. What it needs to
    /// find the blocks is.
    pub(super) fn cost(&self) -> i64 {
        let most = match self.kind {
            Kind::Regular => {
                round_up(self.size).saturating_add(self.size / 64).saturating_add(1 << 16)
            }
            _ => u64::MAX,
        };
        self.used.min(most).try_into().unwrap_or(i64::MAX)
    }
}

impl Node {
    pub(super) fn account(&self) -> Option<&Account> {
        self.root.account.as_deref()
    }

    /// Charges the volume with what the file takes now. Its lock is held.
    pub(super) fn charge(&self, attr: &Attr, hold: Option<Hold<'_>>) {
        let Some(account) = self.account() else { return };
        match (self.charge.update(attr.cost()), hold) {
            (more, Some(hold)) => hold.settle(self.fileid, Change::By(more)),
            (0, None) => {}
            (more, None) => account.book(self.fileid, Change::By(more)),
        }
    }

    /// As [`Node::charge`], after a change that may have grown it.
    pub(super) fn recharge(&self) {
        if self.account().is_some()
            && let Ok(attr) = Attr::of(self)
        {
            self.charge(&attr, None);
        }
    }
}

/// A file whose name is being taken away.
pub(super) struct Victim<'a> {
    attr: Attr,
    node: Option<Arc<Node>>,
    _link: Option<MutexGuard<'a, ()>>,
}

impl Victim<'_> {
    /// The file's number.
    pub(super) const fn fileid(&self) -> u64 {
        self.attr.fileid
    }
}

impl Fs {
    /// Keeps room for so many bytes and inodes in the volume of `node`. What lingers there gives way.
    ///
    /// # Errors
    /// As [`Account::hold`]; `EAGAIN` without patience, if something has to give way.
    fn hold<'n>(
        &self,
        node: &'n Node,
        account: &'n Account,
        (bytes, inodes): (u64, u64),
        patience: Patience,
    ) -> Result<Hold<'n>> {
        match account.hold(bytes, inodes, patience) {
            Err(Errno::NOSPC) if account.has_lingering() => {
                if patience == Patience::None {
                    return Err(Errno::AGAIN);
                }
                self.give_back(&node.root);
                account.hold(bytes, inodes, patience)
            }
            hold => hold,
        }
    }

    /// Keeps room for a new file in `dir` which takes `bytes` itself.
    ///
    /// # Errors
    /// `ENOSPC`; `EEXIST` instead, if the name is there anyway: that a volume is full is no answer
    /// to whoever wants to open a file. `EAGAIN`, see [`Account::hold`].
    pub(super) fn hold_birth<'d>(
        &self,
        dir: &'d Node,
        name: &[u8],
        bytes: u64,
        guard: &Guard<'_>,
    ) -> Result<Option<Hold<'d>>> {
        let Some(account) = dir.account() else { return Ok(None) };
        match self.hold(dir, account, (bytes + NAME, 1), guard.patience) {
            Err(Errno::NOSPC) if exists(dir, name) => Err(Errno::EXIST),
            hold => hold.map(Some),
        }
    }

    /// Charges the volume with a new file.
    pub(super) fn charge_birth(&self, node: &Node, attr: &Attr, hold: Option<Hold<'_>>) {
        let (Some(account), Some(hold)) = (node.account(), hold) else { return };
        if account.is_counting() {
            self.tell_birth(account, node);
        }
        hold.settle(attr.fileid, Change::Birth(attr.cost()));
    }

    /// Reports a new file to the count that is going on, as the count itself would see it: somebody
    /// may have found it and be writing already.
    fn tell_birth(&self, account: &Account, node: &Node) {
        // The number may be that of a file whose end is not booked yet.
        let _links = self.lock_links(node.fileid, Patience::Blocking);
        // No waiting: the directory's lock is held.
        let locked = self.lock_at(self.stripe(node.fileid), Patience::None);
        match (locked, Attr::of(node)) {
            (Ok(_file), Ok(attr)) => account.see(node.fileid, attr.cost()),
            _ => account.moved(node.fileid, node.handle().as_ref()),
        }
    }

    /// Keeps room for `data` at `offset` of a file with `attr`, whose lock is held; answers how much
    /// of it there is room for, which is all of it, or what just fits.
    ///
    /// # Errors
    /// `ENOSPC` if nothing fits. `EAGAIN`, see [`Account::hold`]; also without patience, if it has
    /// to be looked up which part of the file is there already.
    pub(super) fn hold_write<'n>(
        &self,
        node: &'n Node,
        attr: &Attr,
        (offset, len): (u64, usize),
        patience: Patience,
    ) -> Result<(Option<Hold<'n>>, usize)> {
        let Some(account) = node.account() else { return Ok((None, len)) };
        let end = offset + len as u64;
        let overwrites = round_up(end) <= round_up(attr.size) && attr.used >= attr.size;
        if overwrites || len == 0 {
            return Ok((None, len));
        }
        match self.hold(node, account, (round_up(end) - round_down(offset), 0), patience) {
            Err(Errno::NOSPC) => {}
            hold => return Ok((Some(hold?), len)),
        }
        if patience == Patience::None {
            return Err(Errno::AGAIN);
        }
        for _ in 0..ATTEMPTS {
            let (fits, cost) = self.fitting(node, (offset, end), account.left())?;
            match account.hold(cost, 0, patience) {
                Err(Errno::NOSPC) if cost > 0 => {} // somebody was quicker
                _ if fits == 0 => return Err(Errno::NOSPC),
                hold => return Ok((Some(hold?), fits)),
            }
        }
        Err(Errno::NOSPC)
    }

    /// How many bytes of a write can be made with `left` bytes of new blocks, and how many of those
    /// they take. Holes in the file cost, what is there already does not.
    fn fitting(&self, node: &Node, (offset, end): (u64, u64), left: u64) -> Result<(usize, u64)> {
        let content = self.writable(node, Patience::Blocking)?;
        let (mut at, mut cost) = (round_down(offset), 0);
        while at < end {
            let data = match rustix::fs::seek(&content, SeekFrom::Data(at)) {
                Ok(data) => round_down(data),
                Err(rustix::io::Errno::NXIO) => round_up(end), // there is none behind
                Err(errno) => return Err(errno.into()),
            };
            let hole = data.min(round_up(end)).saturating_sub(at);
            if cost + hole > left {
                at += round_down(left - cost);
                cost += round_down(left - cost);
                break;
            }
            (at, cost) = (at + hole, cost + hole);
            if at < end {
                at = round_up(rustix::fs::seek(&content, SeekFrom::Hole(at))?).max(at + BLOCK);
            }
        }
        let fits = at.min(end).saturating_sub(offset);
        Ok((usize::try_from(fits).unwrap_or(usize::MAX), cost))
    }

    /// What `name` is in `dir`, before it is taken away there. `None` if that cannot be found out,
    /// and so it cannot be taken away either.
    ///
    /// # Errors
    /// `EAGAIN` without patience, if another of its names is being given or taken away.
    pub(super) fn victim(
        &self,
        dir: &Arc<Node>,
        name: &[u8],
        guard: &Guard<'_>,
    ) -> Result<Option<Victim<'_>>> {
        let Ok(path) = CString::new(name) else { return Ok(None) };
        let Ok(mut attr) = Attr::of_entry(&**dir, &path) else { return Ok(None) };
        let mut link = None;
        if dir.account().is_some() {
            link = Some(self.lock_links(attr.fileid, guard.patience)?);
            // Again: it may have got or lost a name just now.
            let Ok(now) = Attr::of_entry(&**dir, &path) else { return Ok(None) };
            attr = now;
        }
        let kernel = || sys::handle::of_entry(&**dir, &path);
        let handle = self.handle_in(dir, name, &attr, kernel);
        let node = handle.ok().and_then(|handle| self.nodes.get(&handle));
        Ok(Some(Victim { attr, node, _link: link }))
    }

    /// Lets go of what lost a name, if that was the last: its space comes back at once, or when it has
    /// lingered for who reads it.
    pub(super) fn bury(&self, dir: &Node, victim: Option<Victim<'_>>) {
        let Some(Victim { attr, node, .. }) = &victim else { return };
        let ended = attr.kind == Kind::Directory || attr.links <= 1;
        if ended && node.as_ref().is_some_and(|node| self.linger(node)) {
            return;
        }
        if let Some(account) = dir.account()
            && ended
        {
            let cost = node.as_ref().map_or_else(|| attr.cost(), |node| node.charge.end());
            account.book(attr.fileid, Change::Death(cost));
        }
        if let Some(node) = node
            && node.attr().is_err()
        {
            self.nodes.remove(node.handle());
        }
    }

    /// Keeps others from giving names to a file or taking them away.
    pub(super) fn lock_links(&self, fileid: u64, patience: Patience) -> Result<MutexGuard<'_, ()>> {
        self.links.lock(self.stripe(fileid), patience)
    }

    /// Tells a count that is going on that `name` is in `dir` now: it may have passed by there.
    pub(super) fn tell_count(&self, dir: &Arc<Node>, name: &[u8]) {
        let Some(account) = dir.account().filter(|account| account.is_counting()) else { return };
        let Ok(path) = CString::new(name) else { return };
        let told = self.switch.as_server(|| -> Result<()> {
            let attr = Attr::of_entry(&**dir, &path)?;
            let kernel = || sys::handle::of_entry(&**dir, &path);
            account.moved(attr.fileid, self.handle_in(dir, name, &attr, kernel)?.as_ref());
            Ok(())
        });
        if let Err(error) | Ok(Err(error)) = told {
            tracing::warn!(name: OFTEN, %error, "a file that was renamed may be counted wrongly");
        }
    }
}

/// Whether `name` is in `dir`.
pub(super) fn exists(dir: &Node, name: &[u8]) -> bool {
    CString::new(name).is_ok_and(|name| Attr::of_entry(dir, &name).is_ok())
}

const fn round_down(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

const fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests;
