//! A client of version 4 for tests: compounds as it sends them, and what their replies have.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;

use super::compound::compound;
use super::ops::SEQUENCE;
use super::server::Server;
use super::status::Status;
use crate::export::table::Exports;
use crate::export::{Export, ExportId, Ports};
use crate::fs::Fs;
use crate::fs::handle::{KEY_LEN, Key};
use crate::nfs::context::CallContext;
use crate::nfs::core::Core;
use crate::rpc::auth::Credentials;
use crate::rpc::program::{Call, Outcome};
use crate::sched::Patience;
use crate::xdr::{Reader, Writer};

pub(super) const ACCESS: u32 = 3;
pub(super) const GETATTR: u32 = 9;
pub(super) const NVERIFY: u32 = 17;
pub(super) const READDIR: u32 = 26;
pub(super) const READLINK: u32 = 27;
pub(super) const SECINFO: u32 = 33;
pub(super) const VERIFY: u32 = 37;
pub(super) const FREE_STATEID: u32 = 45;
pub(super) const SECINFO_NO_NAME: u32 = 52;
pub(super) const TEST_STATEID: u32 = 55;
pub(super) const RECLAIM_COMPLETE: u32 = 58;
pub(super) const EXCHANGE_ID: u32 = 42;
pub(super) const CREATE_SESSION: u32 = 43;
pub(super) const DESTROY_SESSION: u32 = 44;
pub(super) const GETFH: u32 = 10;
pub(super) const LOOKUP: u32 = 15;
pub(super) const LOOKUPP: u32 = 16;
pub(super) const PUTFH: u32 = 22;
pub(super) const PUTROOTFH: u32 = 24;
pub(super) const RESTOREFH: u32 = 31;
pub(super) const SAVEFH: u32 = 32;

/// A server with the exports `/` or `/data`, and `/vol/a`, each with a directory `sub`.
pub(super) struct Served {
    core: Core,
    server: Server,
    pub(super) dirs: Vec<TempDir>,
}

/// What the reply to a compound has.
#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) status: Status,
    /// The number and the status of each operation that was carried out.
    pub(super) operations: Vec<(u32, Status)>,
    /// The results of the last one, without status.
    pub(super) last: Vec<u8>,
}

/// The arguments of a compound.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) minor: u32,
    pub(super) count: u32,
    pub(super) operations: Vec<u8>,
}

impl Request {
    pub(super) fn new() -> Self {
        Self { minor: 1, count: 0, operations: Vec::new() }
    }

    pub(super) fn op(mut self, number: u32, args: impl FnOnce(&mut Writer<'_>)) -> Self {
        self.count += 1;
        let mut w = Writer::new(&mut self.operations);
        w.u32(number);
        args(&mut w);
        self
    }

    pub(super) fn plain(self, number: u32) -> Self {
        self.op(number, |_| ())
    }

    pub(super) fn lookup(self, name: &str) -> Self {
        self.op(LOOKUP, |w| w.opaque(name.as_bytes()))
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut w = Writer::new(&mut bytes);
        w.opaque(b"tag");
        w.u32(self.minor);
        w.u32(self.count);
        w.fixed(&self.operations);
        bytes
    }
}

impl Served {
    pub(super) fn new(paths: &[&str]) -> Self {
        let state = TempDir::new().unwrap();
        let fs = Fs::new(Key::new([7; KEY_LEN]), 64, state.path()).unwrap();
        let (exports, mut dirs) = (Exports::default(), Vec::new());
        for (id, path) in (1..).map(ExportId).zip(paths) {
            let dir = TempDir::new().unwrap();
            std::fs::create_dir(dir.path().join("sub")).unwrap();
            fs.attach(id, dir.path(), None, None).unwrap();
            let sole = Export::sole(id, dir.path().into(), Ports::Any);
            let export = Export { path: path.as_bytes().to_vec(), ..sole };
            exports.change(&[], [Arc::new(export)]).unwrap();
            dirs.push(dir);
        }
        let server = Server::open(state.path(), (1, 2)).unwrap();
        dirs.push(state);
        Self { core: Core::new(Arc::new(fs), Arc::new(exports)), server, dirs }
    }

    pub(super) fn call(&self, args: &[u8], patience: Patience) -> (Outcome, Vec<u8>) {
        let here = SocketAddr::from(([127, 0, 0, 1], 2049));
        let call = Call {
            version: 4,
            procedure: 1,
            args: Reader::new(args),
            credentials: Credentials::None,
            peer: SocketAddr::from(([127, 0, 0, 1], 700)),
            local: here,
            patience,
            may_wait: false,
        };
        let table = self.core.exports.load();
        let view = self.server.pseudo(&table);
        let cx = CallContext::new(&self.core, &table, &call);
        let mut out = Vec::new();
        let outcome = compound(&self.server, &view, cx, &mut Writer::new(&mut out));
        (outcome, out)
    }

    /// Calls without patience first, and again with it if that is needed.
    pub(super) fn reply(&self, args: &[u8]) -> Vec<u8> {
        match self.call(args, Patience::None) {
            (Outcome::Later, _) => {
                let (outcome, out) = self.call(args, Patience::Blocking);
                assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
                out
            }
            (outcome, out) => {
                assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
                out
            }
        }
    }

    pub(super) fn send(&self, request: &Request) -> Reply {
        parse(&self.reply(&request.bytes()))
    }

    /// Sends a request whose operations succeed. Returns the results of the last one.
    #[track_caller]
    pub(super) fn done(&self, request: &Request) -> Vec<u8> {
        let reply = self.send(request);
        assert_eq!(reply.status, Status::OK, "{reply:?}");
        reply.last
    }

    /// Makes a client known, and returns the id of its session.
    pub(super) fn session(&self) -> [u8; 16] {
        let results = self.done(&exchange_id());
        let mut r = Reader::new(&results);
        let (client, sequence) = (r.u64().unwrap(), r.u32().unwrap());
        let results = self.done(&create_session(client, sequence));
        *results.first_chunk().unwrap()
    }
}

/// The results of operations that these tests send.
pub(super) fn parse(reply: &[u8]) -> Reply {
    let mut r = Reader::new(reply);
    let status = Status(r.u32().unwrap());
    assert_eq!(r.opaque(16), Ok(&b"tag"[..]));
    let mut operations = Vec::new();
    let mut last = Vec::new();
    for _ in 0..r.u32().unwrap() {
        let (number, status) = (r.u32().unwrap(), Status(r.u32().unwrap()));
        operations.push((number, status));
        let before = r;
        match number {
            SEQUENCE if status == Status::OK => drop(r.fixed::<36>().unwrap()),
            GETFH if status == Status::OK => drop(r.opaque(128).unwrap()),
            // The last operation of what tests send.
            EXCHANGE_ID | CREATE_SESSION | ACCESS | GETATTR | READDIR | READLINK | SECINFO
            | SECINFO_NO_NAME | TEST_STATEID
                if status == Status::OK =>
            {
                r = Reader::new(&[]);
            }
            _ => {}
        }
        last = before.rest()[..before.rest().len() - r.rest().len()].to_vec();
    }
    assert!(r.rest().is_empty(), "more results than operations");
    Reply { status, operations, last }
}

pub(super) fn exchange_id() -> Request {
    Request::new().op(EXCHANGE_ID, |w| {
        w.fixed(&[1; 8]);
        w.opaque(b"a client");
        (0..3).for_each(|_| w.u32(0)); // flags, SP4_NONE, implementation
    })
}

pub(super) fn create_session(client: u64, sequence: u32) -> Request {
    Request::new().op(CREATE_SESSION, |w| {
        w.u64(client);
        w.u32(sequence);
        w.u32(0);
        for _ in 0..2 {
            [0, 1 << 20, 1 << 20, 4096, 16, 8, 0].into_iter().for_each(|word| w.u32(word));
        }
        (0..2).for_each(|_| w.u32(0));
    })
}

pub(super) fn in_session(session: [u8; 16], sequence: u32) -> Request {
    Request::new().op(SEQUENCE, |w| {
        w.fixed(&session);
        [sequence, 0, 0, 1].into_iter().for_each(|word| w.u32(word));
    })
}

pub(super) fn handle(results: &[u8]) -> Vec<u8> {
    Reader::new(results).opaque(128).unwrap().to_vec()
}
