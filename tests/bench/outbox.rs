//! The send buffer: collects records, which are then sent by one system call.
//!
//! A record is written once and never moved. Its header is copied from a template, the same for all
//! calls of a program; the data of a WRITE is not copied, only referenced.

use std::io::IoSlice;

use crate::wire::{Put, wire_length};

/// The bit of a record mark that marks the last fragment of a record.
pub const LAST_FRAGMENT: u32 = 1 << 31;

/// The AUTH_SYS identity of calls (RFC 5531 appendix A).
#[derive(Clone, Copy)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// A program and its version.
#[derive(Clone, Copy)]
pub struct Program {
    pub number: u32,
    pub version: u32,
}

pub struct Outbox {
    bytes: Vec<u8>,
    /// Referenced data, each with the position in `bytes` where it belongs.
    data: Vec<(usize, &'static [u8])>,
    /// The header after the xid: CALL, RPC version, program, version, procedure, credential,
    /// verifier.
    template: Vec<u8>,
    xid: u32,
}

/// Position of the procedure in the template: after CALL, RPC version, program and version.
const PROCEDURE_AT: usize = 16;
/// Position of uid and gid: after procedure, flavor, length, stamp and machine name.
const CALLER_AT: usize = 40;

impl Outbox {
    pub fn new(program: Program, caller: Caller) -> Self {
        let mut template = Vec::new();
        for word in [0, 2, program.number, program.version, 0] {
            template.put_u32(word);
        }
        let mut credential = Vec::new();
        credential.put_u32(0);
        credential.put_opaque(b"load");
        for word in [caller.uid, caller.gid, 0] {
            credential.put_u32(word);
        }
        template.put_u32(1); // AUTH_SYS
        template.put_opaque(&credential);
        template.put_u64(0); // the verifier: AUTH_NONE, empty
        Self { bytes: Vec::new(), data: Vec::new(), template, xid: 0 }
    }

    /// Makes the following calls as this user.
    pub fn call_as(&mut self, caller: Caller) {
        for (word, id) in [caller.uid, caller.gid].into_iter().enumerate() {
            let at = CALLER_AT + 4 * word;
            self.template[at..at + 4].copy_from_slice(&id.to_be_bytes());
        }
    }

    /// Sets the xid of the next call.
    pub fn set_xid(&mut self, xid: u32) {
        self.xid = xid;
    }

    /// Appends a call.
    pub fn call(&mut self, procedure: u32, args: impl FnOnce(&mut Vec<u8>)) {
        self.call_with_data(procedure, &[], args);
    }

    /// Appends a call whose arguments end with `data`, whose length is a multiple of four.
    pub fn call_with_data(
        &mut self,
        procedure: u32,
        data: &'static [u8],
        args: impl FnOnce(&mut Vec<u8>),
    ) {
        let mark_at = self.bytes.len();
        self.bytes.put_u32(0);
        self.bytes.put_u32(self.xid);
        let header_at = self.bytes.len();
        self.bytes.extend_from_slice(&self.template);
        self.patch(header_at + PROCEDURE_AT, procedure);
        args(&mut self.bytes);
        let length = wire_length(self.bytes.len() - mark_at - 4 + data.len());
        self.patch(mark_at, length | LAST_FRAGMENT);
        if !data.is_empty() {
            self.data.push((self.bytes.len(), data));
        }
    }

    fn patch(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// All records, in the order of the wire.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.data.len() + 1);
        let mut from = 0;
        for (before, data) in &self.data {
            slices.push(IoSlice::new(&self.bytes[from..*before]));
            slices.push(IoSlice::new(data));
            from = *before;
        }
        slices.push(IoSlice::new(&self.bytes[from..]));
        slices
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.data.clear();
    }
}
