//! The arguments and the results of COMPOUND around its operations.

use super::super::status::Status;
use crate::rpc::program::Outcome;
use crate::xdr::{self, Encode, Mark, Reader, Writer};

/// Longest tag, which is returned as it is.
const TAG_MAX: usize = 1024;

/// The arguments of COMPOUND before the operations.
pub(super) struct Header<'a> {
    pub(super) tag: &'a [u8],
    pub(super) minor: u32,
    pub(super) operations: u32,
}

/// The results of a compound under construction.
pub struct Results<'w, 'b> {
    pub(super) w: &'w mut Writer<'b>,
    pub(super) start: Mark,
    pub(super) status: Mark,
    pub(super) count: Mark,
    pub(super) first: Mark,
}

/// Where a compound begins.
pub enum Start {
    /// With the operation of this number.
    At(u32),
    /// Nowhere: it was carried out before, and this is its reply.
    Replay(Box<[u8]>),
    /// Nowhere: its first operation has failed, or there is none.
    Ended(Status, u32),
}

impl<'a> Header<'a> {
    pub(super) fn decode(r: &mut Reader<'a>) -> Result<Self, xdr::Error> {
        Ok(Self { tag: r.opaque(TAG_MAX)?, minor: r.u32()?, operations: r.u32()? })
    }
}

impl<'w, 'b> Results<'w, 'b> {
    pub(super) fn begin(w: &'w mut Writer<'b>, tag: &[u8]) -> Self {
        let (start, status) = (w.mark(), w.hole());
        w.opaque(tag);
        let count = w.hole();
        let first = w.mark();
        Self { w, start, status, count, first }
    }

    pub(super) fn end(self, status: Status, operations: u32) -> Outcome {
        self.w.fill(self.status, status.0);
        self.w.fill(self.count, operations);
        Outcome::Done { status: status.0 }
    }

    /// Writes the results of the only operation, which has failed.
    pub fn only(&mut self, number: u32, status: Status) -> Start {
        self.w.u32(number);
        self.w.u32(status.0);
        Start::Ended(status, 1)
    }

    /// Writes the results of the first operation, which has succeeded.
    pub fn first(&mut self, number: u32, results: &impl Encode) {
        self.w.u32(number);
        self.w.u32(Status::OK.0);
        results.encode(self.w);
    }

    /// Returns where `hole` stands, from the start of the results.
    pub(super) fn position(&self, hole: Mark) -> usize {
        self.w.since(self.start) - self.w.since(hole)
    }
}

/// Replaces a number in encoded results.
pub(super) fn put(reply: &mut [u8], at: usize, value: u32) {
    if let Some(place) = reply.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Results that are encoded.
pub(super) struct Whole<'a>(pub(super) &'a [u8]);

impl Encode for Whole<'_> {
    fn encode(&self, w: &mut Writer<'_>) {
        w.fixed(self.0);
    }
}
