//! The receive buffer: reads as many bytes as the socket has, and returns complete records without
//! copying them.

use std::io::Read;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::outbox::LAST_FRAGMENT;

/// Maximum length of a reply: a READ of 1 MiB and its header, generously.
const RECORD_MAX: usize = 2 << 20;
/// Several times the longest reply, so that an incomplete record is seldom moved.
const CAPACITY: usize = 8 << 20;

pub struct Inbox {
    bytes: Vec<u8>,
    /// The bytes that have been received and not returned yet.
    filled: Range<usize>,
}

impl Inbox {
    pub fn new() -> Self {
        Self { bytes: vec![0; CAPACITY], filled: 0..0 }
    }

    pub fn is_full(&self) -> bool {
        self.filled.len() == CAPACITY
    }

    /// Reads what the socket has. Blocks until there is at least one byte.
    pub fn receive(&mut self, mut socket: impl Read) -> Result<()> {
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if CAPACITY - self.filled.end < RECORD_MAX {
            self.bytes.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        let count =
            socket.read(&mut self.bytes[self.filled.end..]).context("no reply from the server")?;
        ensure!(count > 0, "the server closed the connection");
        self.filled.end += count;
        Ok(())
    }

    /// Returns the next reply without its record marks, or `None` if it is incomplete.
    pub fn record(&mut self) -> Result<Option<&[u8]>> {
        let Some(fragments) = self.fragments()? else {
            return Ok(None);
        };
        // A record of one fragment, the usual case, is not moved.
        let mut whole = fragments[0].clone();
        for fragment in &fragments[1..] {
            self.bytes.copy_within(fragment.clone(), whole.end);
            whole.end += fragment.len();
        }
        self.filled.start = fragments[fragments.len() - 1].end;
        Ok(Some(&self.bytes[whole]))
    }

    /// The positions of the fragments of the next record, or `None` if it is incomplete.
    fn fragments(&self) -> Result<Option<Vec<Range<usize>>>> {
        let mut found = Vec::new();
        let mut length = 0;
        let mut at = self.filled.start;
        loop {
            if at + 4 > self.filled.end {
                return Ok(None);
            }
            let mut mark = [0; 4];
            mark.copy_from_slice(&self.bytes[at..at + 4]);
            let mark = u32::from_be_bytes(mark);
            let body = at + 4..at + 4 + (mark & !LAST_FRAGMENT) as usize;
            length += body.len();
            ensure!(length <= RECORD_MAX, "a reply has more than {RECORD_MAX} bytes");
            if body.end > self.filled.end {
                return Ok(None);
            }
            at = body.end;
            found.push(body);
            if mark & LAST_FRAGMENT != 0 {
                return Ok(Some(found));
            }
        }
    }
}
