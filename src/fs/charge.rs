//! What files cost the volume that they are in (see [`crate::quota`]).
//!
//! Each open file remembers what it was charged with, so that what the file system does on its
//! own between two changes (blocks that are allocated when data is written back) is caught up with
//! at the next change, at the flush, or at the file's end, and nothing is charged twice.
//!
//! What finds the blocks of a file (extents, which a file system keeps in blocks of their own when
//! they are many) is allocated late, when data is written back, and is not in the file's attributes
//! before. Each WRITE that takes new blocks therefore holds room for it besides, and keeps it held
//! until the file was flushed and its attributes say what it really took.
//!
//! A file has ended when its last name is removed: nobody else may give it another one in
//! between. So removing and linking hold a lock for the file besides those of the directories;
//! it is always the last lock that is taken.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::MutexGuard;
use rustix::fs::SeekFrom;

use super::attr::{Attr, Kind};
use super::node::Node;
use super::{Fs, Guard};
use crate::errno::{Errno, Result};
use crate::quota::{Account, Change, Hold};
use crate::sched::Patience;
use crate::sys;
use crate::telemetry::bounded::OFTEN;

/// What the disk gives at a time, on nearly every file system. Where it gives more, what a change
/// takes is known only afterwards.
const BLOCK: u64 = 4096;

/// What a new name may add to its directory.
const NAME: u64 = BLOCK;

/// What finding a new block may take at most, where blocks lie side by side: an entry of a block of
/// entries. What lies apart may take a block of its own for that, because an entry in between
/// splits a block that is full.
const EXTENT: u64 = 16;

/// How many times a write is cut down to what is left, which others may take meanwhile.
const ATTEMPTS: usize = 8;

/// What an open file was charged with.
pub(super) struct Charge {
    cost: AtomicI64,
    /// What is held for it until it is flushed.
    late: AtomicI64,
}

/// Room for a WRITE.
pub(super) struct Room<'n> {
    hold: Option<Hold<'n>>,
    /// How much of the data there is room for.
    pub(super) fits: usize,
    /// What of the hold is kept until the file is flushed.
    late: i64,
}

/// It has ended, and costs nothing any more.
const ENDED: i64 = -1;

impl Charge {
    pub(super) fn new(attr: &Attr) -> Self {
        Self { cost: AtomicI64::new(attr.cost()), late: AtomicI64::new(0) }
    }

    /// It costs so much now; answers how much more that is.
    fn update(&self, cost: i64) -> i64 {
        let update = |before| (before != ENDED).then_some(cost);
        match self.cost.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update) {
            Ok(before) => cost - before,
            Err(_) => 0,
        }
    }

    /// It costs what `cost` finds, unless somebody else was charged meanwhile: then it is looked at
    /// again. Returns how much more that is.
    fn catch_up(&self, cost: impl Fn() -> Result<i64>) -> i64 {
        for _ in 0..ATTEMPTS {
            let before = self.cost.load(Ordering::Relaxed);
            let Ok(now) = cost() else { return 0 };
            if before == ENDED {
                return 0;
            }
            let exchange =
                self.cost.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed);
            if exchange.is_ok() {
                return now - before;
            }
        }
        0 // it is written to all the time, and flushed again after that
    }

    /// What it was charged with until now.
    pub(super) fn cost(&self) -> i64 {
        self.cost.load(Ordering::Relaxed).max(0)
    }

    /// It ends; answers what it was charged with until now.
    pub(super) fn end(&self) -> i64 {
        self.cost.swap(ENDED, Ordering::Relaxed).max(0)
    }

    /// What is held for it.
    pub(super) fn late(&self) -> i64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Takes up to `most` of what is held for it, to be given back.
    fn take_late(&self, most: i64) -> i64 {
        let less = |late: i64| Some(late - late.min(most));
        let before = self.late.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.map_or(0, |before| before.min(most))
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

    /// As [`Node::charge`], after a WRITE for which there was `room`.
    pub(super) fn charge_write(&self, attr: &Attr, room: Room<'_>) {
        let Some(hold) = room.hold else { return self.charge(attr, None) };
        let more = self.charge.update(attr.cost());
        hold.settle_but(self.fileid, Change::By(more), room.late);
        if room.late != 0 {
            self.charge.late.fetch_add(room.late, Ordering::Relaxed);
        }
    }

    /// Charges the volume with what the file takes after a flush, which covers what `late` was held
    /// for. Its lock need not be held.
    pub(super) fn charge_flushed(&self, late: i64) {
        let Some(account) = self.account() else { return };
        let cost = || Attr::of(self).map(|attr| attr.cost());
        account.book_found(self.fileid, || self.charge.catch_up(cost));
        self.give_back_late(late);
    }

    /// Gives back up to `most` of what is held for the file.
    pub(super) fn give_back_late(&self, most: i64) {
        if let Some(account) = self.account() {
            account.give_back(self.charge.take_late(most));
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
    /// Holds room for this many bytes and inodes in the volume of `node`, for a change under
    /// `guard`. Lingering files are closed for it. Files for which room is held until a flush are
    /// not flushed, because no lock may be held during a flush; the guard records that flushing
    /// them may free room ([`Guard::may_have_room_later`]).
    ///
    /// # Errors
    /// As [`Account::hold`]; `EAGAIN` without patience, if there may be room nevertheless.
    fn hold<'n>(
        &self,
        node: &'n Node,
        account: &'n Account,
        (bytes, inodes): (u64, u64),
        guard: &Guard<'_>,
    ) -> Result<Hold<'n>> {
        let held = account.hold(bytes, inodes, guard.patience);
        if !matches!(held, Err(Errno::NOSPC)) {
            return held;
        }
        let (lingers, late) = (account.has_lingering(), account.may_have_room_later(inodes));
        if guard.patience == Patience::None && (lingers || late) {
            return Err(Errno::AGAIN);
        }
        if lingers {
            self.give_back(&node.root);
        }
        guard.room_later.set(late);
        // In any case: the last of what was held may have been given back since.
        account.hold(bytes, inodes, guard.patience)
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
        match self.hold(dir, account, (bytes + NAME, 1), guard) {
            Err(Errno::NOSPC) if exists(dir, name) => Err(Errno::EXIST),
            hold => hold.map(Some),
        }
    }

    /// Charges the volume with a new file.
    pub(super) fn charge_birth(&self, node: &Node, attr: &Attr, hold: Option<Hold<'_>>) {
        let (Some(account), Some(hold)) = (node.account(), hold) else { return };
        let birth = attr.cost();
        if account.is_counting() {
            self.charge_seen_birth(account, node, birth, hold);
        } else {
            hold.settle(attr.fileid, Change::Birth(birth));
        }
    }

    /// The same for a count that is going on, to which the file is reported as the count itself
    /// would see it: somebody may have found it and be writing already.
    fn charge_seen_birth(&self, account: &Account, node: &Node, birth: i64, hold: Hold<'_>) {
        // The number may be that of a file whose end is not booked yet.
        let _links = self.lock_links(node.fileid, Patience::Blocking);
        // No waiting: the directory's lock is held.
        let locked = self.lock_at(self.stripe(node.fileid), Patience::None);
        match (&locked, Attr::of(node)) {
            (Ok(_), Ok(attr)) => {
                hold.settle(node.fileid, Change::Seen { birth, now: attr.cost() });
            }
            _ => {
                account.moved(node.fileid, node.handle().as_ref());
                hold.settle(node.fileid, Change::Birth(birth));
            }
        }
    }

    /// Keeps room for `len` bytes at `offset` of a file with `attr`, whose lock is held: for all of
    /// them, or for what just fits.
    ///
    /// # Errors
    /// `ENOSPC` if nothing fits. `EAGAIN`, see [`Account::hold`]; also without patience, if it has
    /// to be looked up which part of the file is there already.
    pub(super) fn hold_write<'n>(
        &self,
        node: &'n Node,
        attr: &Attr,
        (offset, len): (u64, usize),
        guard: &Guard<'_>,
    ) -> Result<Room<'n>> {
        let free = Room { hold: None, fits: len, late: 0 };
        let Some(account) = node.account() else { return Ok(free) };
        let end = offset + len as u64;
        let overwrites = round_up(end) <= round_up(attr.size) && attr.used >= attr.size;
        if overwrites || len == 0 {
            return Ok(free);
        }
        let (data, apart) = (round_up(end) - round_down(offset), lies_apart(attr, offset));
        let late = apart + data / BLOCK * EXTENT;
        match self.hold(node, account, (data + late, 0), guard) {
            Err(Errno::NOSPC) => {}
            hold => return Ok(Room { hold: Some(hold?), late: late.cast_signed(), ..free }),
        }
        if guard.patience == Patience::None {
            return Err(Errno::AGAIN);
        }
        for _ in 0..ATTEMPTS {
            // To the last block: entries of blocks that lie side by side fit where there are some.
            let left = account.left().saturating_sub(apart);
            let (fits, cost) = self.fitting(node, (offset, end), left)?;
            let late = if cost > 0 { apart } else { 0 };
            match account.hold(cost + late, 0, guard.patience) {
                Err(Errno::NOSPC) if cost > 0 => {} // somebody was quicker
                _ if fits == 0 => return Err(Errno::NOSPC),
                hold => return Ok(Room { hold: Some(hold?), fits, late: late.cast_signed() }),
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

    /// Lets go of what lost a name, if that was the last: its space comes back at once, or when it
    /// has lingered for who reads it.
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
            if let Some(node) = node {
                node.give_back_late(i64::MAX);
            }
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

/// The block that the file system may take for finding what is written at `offset`, if that may lie
/// apart from what is there: it does unless it continues the file at its end.
fn lies_apart(attr: &Attr, offset: u64) -> u64 {
    let end = round_down(attr.size)..=round_up(attr.size);
    if end.contains(&round_down(offset)) { 0 } else { BLOCK }
}

const fn round_down(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

const fn round_up(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK)
}

#[cfg(test)]
mod tests;
