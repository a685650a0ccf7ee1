//! Holding room in a volume before a change.

use rustix::fs::SeekFrom;

use super::charge::{BLOCK, round_down, round_up};
use crate::errno::{Errno, Result};
use crate::fs::Fs;
use crate::fs::attr::{Attr, entry_exists};
use crate::fs::error::Error;
use crate::fs::guard::Guard;
use crate::fs::node::Node;
use crate::quota::{Account, Hold, HoldError, Usage};
use crate::sched::Patience;

/// What a new name may add to its directory, in bytes.
const NAME: u64 = BLOCK;

/// What mapping a new block takes at most if it lies beside others: an entry in a block of entries.
/// A block that lies apart may take a block of its own, because its entry splits a full block.
const MAPPING: u64 = 16;

/// How often a write is cut down to what is left, while other calls take of that.
const ATTEMPTS: usize = 8;

/// Room for a WRITE.
pub(in crate::fs) struct WriteRoom<'n> {
    pub(super) hold: Option<Hold<'n>>,
    /// How many bytes of the data there is room for.
    pub(in crate::fs) fits: usize,
    /// The part of the hold that is kept until the file is flushed.
    pub(super) delayed: i64,
}

impl Fs {
    /// Holds room for this many bytes and inodes in the volume of `node`, for a change under
    /// `guard`. Closes orphans for it. Does not flush files for which room is held until a flush,
    /// because no lock may be held during a flush; the guard records that flushing them may free
    /// room ([`Guard::may_have_room_later`]).
    ///
    /// # Errors
    /// As [`Account::hold`]; [`HoldError::WouldBlock`] also if there may be room nevertheless.
    fn hold<'n>(
        &self,
        node: &'n Node,
        account: &'n Account,
        room: Usage,
        guard: &Guard<'_>,
    ) -> Result<Hold<'n>, HoldError> {
        let held = account.hold(room, guard.patience);
        if !matches!(held, Err(HoldError::Full)) {
            return held;
        }
        let (has_orphans, later) =
            (account.has_lingering(), account.may_have_room_later(room.inodes));
        if guard.patience == Patience::None && (has_orphans || later) {
            return Err(HoldError::WouldBlock);
        }
        if has_orphans {
            self.close_orphans_of(&node.root);
        }
        guard.room_later.set(later);
        // In any case: the last of what was held may have been given back since.
        account.hold(room, guard.patience)
    }

    /// Holds room for a new file `name` in `dir`, which takes `bytes` itself.
    ///
    /// # Errors
    /// As [`Fs::hold`]. `EEXIST` instead of `ENOSPC` if the name exists: a caller that only wants
    /// to open the file must not be told that the volume is full.
    pub(in crate::fs) fn hold_birth<'d>(
        &self,
        dir: &'d Node,
        name: &[u8],
        bytes: u64,
        guard: &Guard<'_>,
    ) -> Result<Option<Hold<'d>>, Error> {
        let Some(account) = dir.account() else { return Ok(None) };
        let room = Usage { bytes: bytes + NAME, inodes: 1 };
        match self.hold(dir, account, room, guard) {
            Err(HoldError::Full) if entry_exists(dir, name) => Err(Errno::EXIST.into()),
            hold => Ok(Some(hold?)),
        }
    }

    /// Holds room for `len` bytes at `offset` of a file that has `attr`, for all of them or for as
    /// many as fit. The file's lock is held.
    ///
    /// # Errors
    /// As [`Fs::hold`]; `ENOSPC` if nothing fits. [`Error::WouldBlock`] also if it has to be looked
    /// up which part of the file has blocks already.
    pub(in crate::fs) fn hold_write<'n>(
        &self,
        node: &'n Node,
        attr: &Attr,
        (offset, len): (u64, usize),
        guard: &Guard<'_>,
    ) -> Result<WriteRoom<'n>, Error> {
        let free = WriteRoom { hold: None, fits: len, delayed: 0 };
        let Some(account) = node.account() else { return Ok(free) };
        let end = offset + len as u64;
        let overwrites = round_up(end) <= round_up(attr.size) && attr.used >= attr.size;
        if overwrites || len == 0 {
            return Ok(free);
        }
        let (data, apart) = (round_up(end) - round_down(offset), mapping_apart(attr, offset));
        let delayed = apart + data / BLOCK * MAPPING;
        let room = Usage { bytes: data + delayed, inodes: 0 };
        match self.hold(node, account, room, guard) {
            Err(HoldError::Full) => {}
            hold => {
                let delayed = delayed.cast_signed();
                return Ok(WriteRoom { hold: Some(hold?), delayed, ..free });
            }
        }
        if guard.patience == Patience::None {
            return Err(Error::WouldBlock);
        }
        for _ in 0..ATTEMPTS {
            // To the last block: the mapping of blocks side by side fits into a block that is
            // there.
            let left = account.left().saturating_sub(apart);
            let (fits, cost) = self.fitting(node, (offset, end), left)?;
            let delayed = if cost > 0 { apart } else { 0 };
            let room = Usage { bytes: cost + delayed, inodes: 0 };
            match account.hold(room, guard.patience) {
                Err(HoldError::Full) if cost > 0 => {} // another call was quicker
                _ if fits == 0 => return Err(Errno::NOSPC.into()),
                hold => {
                    let delayed = delayed.cast_signed();
                    return Ok(WriteRoom { hold: Some(hold?), fits, delayed });
                }
            }
        }
        Err(Errno::NOSPC.into())
    }

    /// Returns how many bytes of a write fit into `left` bytes of new blocks, and how many of those
    /// they take. Holes in the file take blocks; what is there already does not.
    fn fitting(&self, node: &Node, (offset, end): (u64, u64), left: u64) -> Result<(usize, u64)> {
        let content = self.writable(node)?;
        let (mut at, mut cost) = (round_down(offset), 0);
        while at < end {
            let data = match rustix::fs::seek(&content, SeekFrom::Data(at)) {
                Ok(data) => round_down(data),
                Err(rustix::io::Errno::NXIO) => round_up(end), // no data behind
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
}

/// Returns the bytes that mapping a block at `offset` may take if it lies apart from others. It
/// does not if it continues the file at its end.
fn mapping_apart(attr: &Attr, offset: u64) -> u64 {
    let end = round_down(attr.size)..=round_up(attr.size);
    if end.contains(&round_down(offset)) { 0 } else { BLOCK }
}
