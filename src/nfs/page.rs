//! A page of READDIR and READDIRPLUS under construction.

use std::ops::ControlFlow;

use super::failure::Failure;
use crate::xdr::{Mark, Writer};

/// Largest page, in bytes, whatever a client requests: a reply must fit into memory.
pub const PAGE_MAX: u32 = 256 * 1024;

/// Bytes after the last entry: the end of the list, and whether the directory ends.
const END: usize = 8;

/// The entries that fit into the sizes that a client allows.
pub struct Page<'w, 'b> {
    w: &'w mut Writer<'b>,
    /// The start of the data that counts against the client's limit.
    start: Mark,
    /// The client's limit, without the end of the list.
    max: usize,
    /// Bytes of names, file ids and cookies, and their limit.
    names: usize,
    names_max: usize,
    is_empty: bool,
}

impl<'w, 'b> Page<'w, 'b> {
    /// Begins a page of at most `max` bytes, of which those since `start` are written. Names, file
    /// ids and cookies take at most `names_max` bytes of it.
    pub fn begin(w: &'w mut Writer<'b>, start: Mark, max: usize, names_max: usize) -> Self {
        let max = max.min(PAGE_MAX as usize).saturating_sub(END);
        Self { w, start, max, names: 0, names_max, is_empty: true }
    }

    /// Adds an entry, of which `name` appends what counts as its name and `rest` what else it has,
    /// if both fit.
    pub fn add(
        &mut self,
        name: impl FnOnce(&mut Writer<'_>),
        rest: impl FnOnce(&mut Writer<'_>),
    ) -> ControlFlow<()> {
        let before = self.w.mark();
        self.w.bool(true);
        name(self.w);
        let names = self.names + self.w.since(before);
        // The first entry may exceed `names_max`, or the client would make no progress.
        if names <= self.names_max || self.is_empty {
            rest(self.w);
            if self.w.since(self.start) <= self.max {
                self.names = names;
                self.is_empty = false;
                return ControlFlow::Continue(());
            }
        }
        self.w.rewind(before);
        ControlFlow::Break(())
    }

    /// Ends the page. `ended` says whether the directory ends with it.
    ///
    /// # Errors
    /// `TooSmall` if the first entry did not fit.
    pub fn end(self, ended: bool) -> Result<(), Failure> {
        if self.is_empty && !ended {
            return Err(Failure::TooSmall);
        }
        self.w.bool(false);
        self.w.bool(ended);
        Ok(())
    }
}
