//! The calls of NFSv3 and MOUNTv3 (RFC 1813) that the load uses, and their replies. Replies are
//! decoded completely, so one that is too short or too long is detected.

use anyhow::{Result, bail, ensure};

use crate::outbox::{Outbox, Program};
use crate::wire::{Put, Reader, wire_length};

pub const NFS: Program = Program { number: 100_003, version: 3 };
pub const MOUNT: Program = Program { number: 100_005, version: 3 };

/// All bits of ACCESS: READ, LOOKUP, MODIFY, EXTEND, DELETE, EXECUTE.
const ACCESS_ALL: u32 = 0x3f;
const ACCESS_READ: u32 = 0x01;
const HANDLE_MAX: usize = 64;
const NAME_MAX: usize = 255;

pub const REGULAR: u32 = 1;
pub const DIRECTORY: u32 = 2;

#[derive(Clone)]
pub struct Handle(Vec<u8>);

/// The attributes that are checked.
#[derive(Clone, Copy)]
pub struct Attributes {
    pub kind: u32,
    pub size: u64,
    pub fileid: u64,
}

#[derive(Clone, Copy)]
pub enum Stable {
    Unstable = 0,
    FileSync = 2,
}

impl Outbox {
    pub fn mount(&mut self, path: &str) {
        self.call(1, |args| args.put_opaque(path.as_bytes()));
    }

    pub fn unmount(&mut self, path: &str) {
        self.call(3, |args| args.put_opaque(path.as_bytes()));
    }

    pub fn null(&mut self) {
        self.call(0, |_| ());
    }

    pub fn getattr(&mut self, file: &Handle) {
        self.call(1, |args| args.put_opaque(&file.0));
    }

    pub fn lookup(&mut self, dir: &Handle, name: &[u8]) {
        self.entry(3, dir, name, |_| ());
    }

    pub fn access(&mut self, file: &Handle) {
        self.call(4, |args| {
            args.put_opaque(&file.0);
            args.put_u32(ACCESS_ALL);
        });
    }

    pub fn read(&mut self, file: &Handle, offset: u64, count: usize) {
        self.call(6, |args| {
            args.put_opaque(&file.0);
            args.put_u64(offset);
            args.put_u32(wire_length(count));
        });
    }

    /// The length of `data` is a multiple of four.
    pub fn write(&mut self, file: &Handle, offset: u64, data: &'static [u8], stable: Stable) {
        self.call_with_data(7, data, |args| {
            args.put_opaque(&file.0);
            args.put_u64(offset);
            args.put_u32(wire_length(data.len()));
            args.put_u32(stable as u32);
            args.put_u32(wire_length(data.len()));
        });
    }

    /// GUARDED: an existing file is an error.
    pub fn create(&mut self, dir: &Handle, name: &[u8]) {
        self.entry(8, dir, name, |args| {
            args.put_u32(1);
            put_mode(args, 0o666); // for calls by other users
        });
    }

    /// EXCLUSIVE, as the Linux client sends it for O_EXCL.
    pub fn create_exclusively(&mut self, dir: &Handle, name: &[u8], verifier: u64) {
        self.entry(8, dir, name, |args| {
            args.put_u32(2);
            args.put_u64(verifier);
        });
    }

    pub fn mkdir(&mut self, dir: &Handle, name: &[u8]) {
        self.entry(9, dir, name, |args| put_mode(args, 0o777));
    }

    pub fn remove(&mut self, dir: &Handle, name: &[u8]) {
        self.entry(12, dir, name, |_| ());
    }

    pub fn rmdir(&mut self, dir: &Handle, name: &[u8]) {
        self.entry(13, dir, name, |_| ());
    }

    pub fn readdirplus(&mut self, dir: &Handle, cookie: u64, verifier: u64, max: u32) {
        self.call(17, |args| {
            args.put_opaque(&dir.0);
            args.put_u64(cookie);
            args.put_u64(verifier);
            args.put_u32(max); // dircount: like the Linux client, no separate limit
            args.put_u32(max);
        });
    }

    pub fn commit(&mut self, file: &Handle) {
        self.call(21, |args| {
            args.put_opaque(&file.0);
            args.put_u64(0);
            args.put_u32(0); // to the end
        });
    }

    fn entry(
        &mut self,
        procedure: u32,
        dir: &Handle,
        name: &[u8],
        more: impl FnOnce(&mut Vec<u8>),
    ) {
        self.call(procedure, |args| {
            args.put_opaque(&dir.0);
            args.put_opaque(name);
            more(args);
        });
    }
}

/// A sattr3 that sets only the mode.
fn put_mode(args: &mut Vec<u8>, mode: u32) {
    for word in [1, mode, 0, 0, 0, 0, 0] {
        args.put_u32(word);
    }
}

/// MNT: returns the handle, and ignores the flavors that the server offers.
pub fn mounted(reply: &mut Reader<'_>) -> Result<Handle> {
    succeeded("MNT", reply)?;
    let root = handle(reply)?;
    for _ in 0..reply.u32()? {
        reply.u32()?;
    }
    Ok(root)
}

/// An empty result: NULL, UMNT.
#[expect(clippy::unnecessary_wraps, reason = "has the signature of the other decoders")]
pub fn nothing(_: &mut Reader<'_>) -> Result<()> {
    Ok(())
}

pub fn got_attributes(reply: &mut Reader<'_>) -> Result<Attributes> {
    succeeded("GETATTR", reply)?;
    attributes(reply)
}

pub fn looked_up(reply: &mut Reader<'_>) -> Result<(Handle, Option<Attributes>)> {
    succeeded("LOOKUP", reply)?;
    let found = handle(reply)?;
    let attributes = maybe_attributes(reply)?;
    maybe_attributes(reply)?;
    Ok((found, attributes))
}

pub fn access_granted(reply: &mut Reader<'_>) -> Result<()> {
    succeeded("ACCESS", reply)?;
    maybe_attributes(reply)?;
    let granted = reply.u32()?;
    ensure!(
        granted & ACCESS_READ != 0 && granted & !ACCESS_ALL == 0,
        "ACCESS granted {granted:#x}: READ is missing, or a bit was not requested"
    );
    Ok(())
}

/// READ: returns the data, which must have the requested length.
pub fn read<'a>(reply: &mut Reader<'a>, requested: usize) -> Result<&'a [u8]> {
    succeeded("READ", reply)?;
    maybe_attributes(reply)?;
    let count = reply.u32()? as usize;
    reply.flag()?; // eof
    let data = reply.opaque(requested)?;
    ensure!(
        count == requested && data.len() == requested,
        "READ of {requested} bytes returned a count of {count} and {} bytes",
        data.len()
    );
    Ok(data)
}

/// WRITE: all data must be written, at least as stable as requested.
pub fn written(reply: &mut Reader<'_>, requested: usize, stable: Stable) -> Result<()> {
    succeeded("WRITE", reply)?;
    changes(reply)?;
    let count = reply.u32()? as usize;
    let committed = reply.u32()?;
    reply.u64()?; // the verifier
    ensure!(count == requested, "WRITE of {requested} bytes wrote {count} of them");
    ensure!(
        (stable as u32..=2).contains(&committed),
        "WRITE requested stability {}, got {committed}",
        stable as u32
    );
    Ok(())
}

/// CREATE and MKDIR. The handle is optional in the reply, so callers that need it use LOOKUP.
pub fn created(what: &str, reply: &mut Reader<'_>) -> Result<()> {
    succeeded(what, reply)?;
    if reply.flag()? {
        handle(reply)?;
    }
    maybe_attributes(reply)?;
    changes(reply)
}

/// REMOVE and RMDIR.
pub fn removed(what: &str, reply: &mut Reader<'_>) -> Result<()> {
    succeeded(what, reply)?;
    changes(reply)
}

pub fn committed(reply: &mut Reader<'_>) -> Result<()> {
    succeeded("COMMIT", reply)?;
    changes(reply)?;
    reply.u64()?;
    Ok(())
}

/// The fields of a READDIRPLUS reply around its entries.
pub struct Page {
    pub verifier: u64,
    pub end: bool,
}

/// READDIRPLUS: calls `entry` with each name and cookie, `.` and `..` included.
pub fn listed<'a>(
    reply: &mut Reader<'a>,
    mut entry: impl FnMut(&'a [u8], u64) -> Result<()>,
) -> Result<Page> {
    succeeded("READDIRPLUS", reply)?;
    maybe_attributes(reply)?;
    let verifier = reply.u64()?;
    while reply.flag()? {
        reply.u64()?; // fileid
        let name = reply.opaque(NAME_MAX)?;
        let cookie = reply.u64()?;
        maybe_attributes(reply)?;
        if reply.flag()? {
            reply.opaque(HANDLE_MAX)?;
        }
        entry(name, cookie)?;
    }
    let end = reply.flag()?;
    Ok(Page { verifier, end })
}

fn succeeded(what: &str, reply: &mut Reader<'_>) -> Result<()> {
    match reply.u32()? {
        0 => Ok(()),
        status => bail!("{what} returned status {status}"),
    }
}

fn handle(reply: &mut Reader<'_>) -> Result<Handle> {
    let bytes = reply.opaque(HANDLE_MAX)?;
    ensure!(!bytes.is_empty(), "a handle is empty");
    Ok(Handle(bytes.to_vec()))
}

fn attributes(reply: &mut Reader<'_>) -> Result<Attributes> {
    let kind = reply.u32()?;
    reply.bytes(16)?; // mode, links, uid, gid
    let size = reply.u64()?;
    reply.bytes(24)?; // used, device, file system
    let fileid = reply.u64()?;
    reply.bytes(24)?; // three times
    Ok(Attributes { kind, size, fileid })
}

fn maybe_attributes(reply: &mut Reader<'_>) -> Result<Option<Attributes>> {
    Ok(if reply.flag()? { Some(attributes(reply)?) } else { None })
}

/// wcc_data: size and two times before the operation, attributes after it.
fn changes(reply: &mut Reader<'_>) -> Result<()> {
    if reply.flag()? {
        reply.bytes(24)?;
    }
    maybe_attributes(reply)?;
    Ok(())
}
