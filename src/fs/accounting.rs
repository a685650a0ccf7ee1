//! What files cost the volume that they are in (see [`crate::quota`]).
//!
//! Each open file remembers what it was charged with. What the file system does on its own between
//! two changes (blocks that are allocated at write-back) is caught up with at the next change, at
//! the flush, or at the file's end, and nothing is charged twice.
//!
//! The blocks that map a file's data (extents, which a file system keeps in blocks of their own
//! when there are many) are allocated at write-back, and are not in the file's attributes before.
//! Each WRITE that takes new blocks therefore holds room for them as well, until the file was
//! flushed and its attributes say what it really took.
//!
//! A file ends when its last name is removed, and nobody else may give it another one in between.
//! Removing and linking therefore hold a lock for the file as well as those of the directories. It
//! is always the last lock that is taken.
//!
//! ```text
//!   charge     what one open file was charged with
//!   room       holding room before a change
//!   unlinked   the end of a file
//! ```

pub(super) mod charge;
pub(super) mod room;
pub(super) mod unlinked;

use std::ffi::CString;
use std::sync::Arc;

use super::Fs;
use super::attr::Attr;
use super::node::Node;
use crate::errno::Result;
use crate::quota::{Account, Change, Hold};
use crate::sched::Patience;
use crate::sys;
use crate::telemetry::bounded::OFTEN;
use room::WriteRoom;

impl Node {
    /// Charges the volume with what the file takes now. The file's lock is held.
    pub(super) fn charge(&self, attr: &Attr, hold: Option<Hold<'_>>) {
        let Some(account) = self.account() else { return };
        match (self.charge.update(attr.cost()), hold) {
            (more, Some(hold)) => hold.settle(self.fileid, Change::Resized(more)),
            (0, None) => {}
            (more, None) => account.book(self.fileid, Change::Resized(more)),
        }
    }

    /// As [`Node::charge`], after a WRITE for which there was `room`.
    pub(super) fn charge_write(&self, attr: &Attr, room: WriteRoom<'_>) {
        let Some(hold) = room.hold else { return self.charge(attr, None) };
        let more = self.charge.update(attr.cost());
        hold.settle_but(self.fileid, Change::Resized(more), room.delayed);
        self.charge.add_delayed(room.delayed);
    }

    /// Charges the volume with what the file takes after a flush, for which `delayed` was held. The
    /// file's lock need not be held.
    pub(super) fn charge_flushed(&self, delayed: i64) {
        let Some(account) = self.account() else { return };
        let cost = || Attr::of(self).map(|attr| attr.cost());
        account.book_found(self.fileid, || self.charge.catch_up(cost));
        self.give_back_delayed(delayed);
    }

    /// As [`Node::charge`], with the current attributes, after a change that may have grown it.
    pub(super) fn recharge(&self) {
        if self.account().is_some()
            && let Ok(attr) = Attr::of(self)
        {
            self.charge(&attr, None);
        }
    }
}

impl Fs {
    /// Charges the volume with a new file. Another call may have found it before, opened it, and
    /// booked what it wrote.
    pub(super) fn charge_birth(&self, node: &Node, hold: Option<Hold<'_>>) {
        let (Some(account), Some(hold)) = (node.account(), hold) else { return };
        let birth = node.charge.opened();
        if account.is_counting() {
            self.charge_seen_birth(account, node, birth, hold);
        } else {
            hold.settle(node.fileid, Change::Created(birth));
        }
    }

    /// As [`Fs::charge_birth`], while a count is under way: reports the file as the count itself
    /// would see it, because another call may have found it and be writing to it already.
    fn charge_seen_birth(&self, account: &Account, node: &Node, birth: i64, hold: Hold<'_>) {
        // The number may be that of a file whose end is not booked yet.
        let _links = self.lock_links(node.fileid, Patience::Blocking);
        // Without waiting: the directory's lock is held.
        let locked = self.lock_stripe(node.fileid, Patience::None);
        match (&locked, Attr::of(node)) {
            (Ok(_), Ok(attr)) => {
                node.charge(&attr, None); // as the count itself does
                hold.settle(
                    node.fileid,
                    Change::CreatedAndSeen { opened: birth, now: attr.cost() },
                );
            }
            _ => {
                account.moved(node.fileid, node.handle().as_ref());
                hold.settle(node.fileid, Change::Created(birth));
            }
        }
    }

    /// Tells a count that is under way that `name` is in `dir` now: the count may have passed by
    /// that directory.
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

#[cfg(test)]
mod tests;
