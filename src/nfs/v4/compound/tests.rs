//! Compounds as a client sends them, up to the reply.

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::export::table::Exports;
use crate::export::{Export, ExportId, Ports};
use crate::fs::Fs;
use crate::fs::handle::{KEY_LEN, Key};
use crate::nfs::core::Core;
use crate::rpc::auth::Credentials;
use crate::rpc::program::Call;

const EXCHANGE_ID: u32 = 42;
const CREATE_SESSION: u32 = 43;
const DESTROY_SESSION: u32 = 44;
const GETFH: u32 = 10;
const LOOKUP: u32 = 15;
const LOOKUPP: u32 = 16;
const PUTFH: u32 = 22;
const PUTROOTFH: u32 = 24;
const RESTOREFH: u32 = 31;
const SAVEFH: u32 = 32;

/// A server with the exports `/` or `/data`, and `/vol/a`, each with a directory `sub`.
struct Served {
    core: Core,
    server: Server,
    _dirs: Vec<TempDir>,
}

/// What the reply to a compound has.
#[derive(Debug, PartialEq)]
struct Reply {
    status: Status,
    /// The number and the status of each operation that was carried out.
    operations: Vec<(u32, Status)>,
    /// The results of the last one, without status.
    last: Vec<u8>,
}

/// The arguments of a compound.
#[derive(Clone)]
struct Request {
    minor: u32,
    count: u32,
    operations: Vec<u8>,
}

impl Request {
    fn new() -> Self {
        Self { minor: 1, count: 0, operations: Vec::new() }
    }

    fn op(mut self, number: u32, args: impl FnOnce(&mut Writer<'_>)) -> Self {
        self.count += 1;
        let mut w = Writer::new(&mut self.operations);
        w.u32(number);
        args(&mut w);
        self
    }

    fn plain(self, number: u32) -> Self {
        self.op(number, |_| ())
    }

    fn lookup(self, name: &str) -> Self {
        self.op(LOOKUP, |w| w.opaque(name.as_bytes()))
    }

    fn bytes(&self) -> Vec<u8> {
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
    fn new(paths: &[&str]) -> Self {
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
        Self { core: Core::new(Arc::new(fs), Arc::new(exports)), server, _dirs: dirs }
    }

    fn call(&self, args: &[u8], patience: Patience) -> (Outcome, Vec<u8>) {
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
    fn reply(&self, args: &[u8]) -> Vec<u8> {
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

    fn send(&self, request: &Request) -> Reply {
        parse(&self.reply(&request.bytes()))
    }

    /// Sends a request whose operations succeed. Returns the results of the last one.
    #[track_caller]
    fn done(&self, request: &Request) -> Vec<u8> {
        let reply = self.send(request);
        assert_eq!(reply.status, Status::OK, "{reply:?}");
        reply.last
    }

    /// Makes a client known, and returns the id of its session.
    fn session(&self) -> [u8; 16] {
        let results = self.done(&exchange_id());
        let mut r = Reader::new(&results);
        let (client, sequence) = (r.u64().unwrap(), r.u32().unwrap());
        let results = self.done(&create_session(client, sequence));
        *results.first_chunk().unwrap()
    }
}

/// The results of operations that these tests send.
fn parse(reply: &[u8]) -> Reply {
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
            EXCHANGE_ID | CREATE_SESSION if status == Status::OK => r = Reader::new(&[]),
            _ => {}
        }
        last = before.rest()[..before.rest().len() - r.rest().len()].to_vec();
    }
    assert!(r.rest().is_empty(), "more results than operations");
    Reply { status, operations, last }
}

fn exchange_id() -> Request {
    Request::new().op(EXCHANGE_ID, |w| {
        w.fixed(&[1; 8]);
        w.opaque(b"a client");
        (0..3).for_each(|_| w.u32(0)); // flags, SP4_NONE, implementation
    })
}

fn create_session(client: u64, sequence: u32) -> Request {
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

fn in_session(session: [u8; 16], sequence: u32) -> Request {
    Request::new().op(SEQUENCE, |w| {
        w.fixed(&session);
        [sequence, 0, 0, 1].into_iter().for_each(|word| w.u32(word));
    })
}

fn handle(results: &[u8]) -> Vec<u8> {
    Reader::new(results).opaque(128).unwrap().to_vec()
}

#[test]
fn a_client_walks_from_the_root_to_an_export_and_back() {
    let served = Served::new(&["/data", "/vol/a"]);
    let session = served.session();
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    let top = handle(&served.done(&root(1).plain(GETFH)));
    let sub = handle(&served.done(&root(2).lookup("vol").lookup("a").lookup("sub").plain(GETFH)));
    let again = in_session(session, 3).op(PUTFH, |w| w.opaque(&sub)).plain(GETFH);
    assert_eq!(handle(&served.done(&again)), sub);
    let back = in_session(session, 4).op(PUTFH, |w| w.opaque(&sub));
    let back = back.plain(LOOKUPP).plain(LOOKUPP).plain(LOOKUPP).plain(GETFH);
    assert_eq!(handle(&served.done(&back)), top);
    let above = served.send(&root(5).plain(LOOKUPP));
    assert_eq!(above.status, Status::NOENT);
    let other = root(6).lookup("data").plain(SAVEFH).plain(PUTROOTFH);
    let other = handle(&served.done(&other.plain(RESTOREFH).plain(GETFH)));
    assert!(other != top && other != sub);
}

#[test]
fn an_export_at_the_root_is_the_root_and_others_lie_in_it() {
    let served = Served::new(&["/", "/vol/a"]);
    let session = served.session();
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    served.done(&root(1).lookup("sub").plain(GETFH));
    let inner = handle(&served.done(&root(2).lookup("vol").lookup("a").lookup("sub").plain(GETFH)));
    let outer = handle(&served.done(&root(3).lookup("sub").plain(GETFH)));
    assert_ne!(inner, outer);
    assert_eq!(served.send(&root(4).lookup("none")).status, Status::NOENT);
}

#[test]
fn a_compound_that_would_block_goes_on_where_it_stopped() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let request = in_session(session, 1).plain(PUTROOTFH).lookup("data").plain(GETFH).bytes();
    let (outcome, _) = served.call(&request, Patience::None);
    assert_eq!(outcome, Outcome::Later);
    // The connection is lost: the retransmission is the one that goes on.
    let (outcome, first) = served.call(&request, Patience::Blocking);
    assert_eq!(outcome, Outcome::SUCCESS);
    let reply = parse(&first);
    let numbers: Vec<_> = reply.operations.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [SEQUENCE, PUTROOTFH, LOOKUP, GETFH]);
    assert_eq!(served.call(&request, Patience::None), (Outcome::SUCCESS, first), "from its slot");
}

#[test]
fn operations_need_a_session() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let refused = |request: Request, status: Status, operations: &[(u32, Status)]| {
        let reply = served.send(&request);
        assert_eq!((reply.status, &*reply.operations), (status, operations));
    };
    let new = Request::new;
    refused(new(), Status::OK, &[]);
    let status = Status::OP_NOT_IN_SESSION;
    refused(new().plain(PUTROOTFH), status, &[(PUTROOTFH, status)]);
    let status = Status::NOT_ONLY_OP;
    refused(exchange_id().plain(PUTROOTFH), status, &[(EXCHANGE_ID, status)]);
    for illegal in [0, 2, 59, 10_044] {
        let status = Status::OP_ILLEGAL;
        refused(new().plain(illegal), status, &[(ops::ILLEGAL, status)]);
    }
    let status = Status::MINOR_VERS_MISMATCH;
    for minor in [0, 3] {
        refused(Request { minor, ..new().plain(PUTROOTFH) }, status, &[]);
    }
    let status = Status::BADSESSION;
    refused(in_session([9; 16], 1), status, &[(SEQUENCE, status)]);
    let (done, status) = ((SEQUENCE, Status::OK), Status::SEQUENCE_POS);
    let twice = in_session(session, 1).op(SEQUENCE, |w| w.fixed(&[0; 32]));
    refused(twice, status, &[done, (SEQUENCE, status)]);
    let status = Status::NOFILEHANDLE;
    refused(in_session(session, 2).plain(GETFH), status, &[done, (GETFH, status)]);
    let status = Status::BADXDR;
    refused(in_session(session, 3).plain(LOOKUP), status, &[done, (LOOKUP, status)]);
    let status = Status::NOTSUPP;
    refused(in_session(session, 4).plain(20), status, &[done, (20, status)]);
}

#[test]
fn every_truncated_compound_is_refused() {
    let served = Served::new(&["/data"]);
    let (session, mut sequence) = (served.session(), 1);
    let whole = |n| in_session(session, n).plain(PUTROOTFH).lookup("data").plain(GETFH).bytes();
    for len in 0..whole(1).len() {
        let (outcome, out) = served.call(&whole(sequence)[..len], Patience::Blocking);
        if outcome == Outcome::Garbage {
            continue;
        }
        let reply = parse(&out);
        assert_eq!((reply.status, outcome), (Status::BADXDR, Outcome::Done { status: 10036 }));
        sequence += u32::from(reply.operations[0] == (SEQUENCE, Status::OK));
    }
    assert!(sequence > 20, "truncated in the operations after SEQUENCE, too");
}

#[test]
fn a_session_ends_with_its_last_compound() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let destroy = |request: Request| request.op(DESTROY_SESSION, |w| w.fixed(&session));
    let status = served.send(&destroy(in_session(session, 1)).plain(PUTROOTFH)).status;
    assert_eq!(status, Status::NOT_ONLY_OP);
    served.done(&destroy(in_session(session, 2)));
    assert_eq!(served.send(&in_session(session, 3)).status, Status::BADSESSION);
}
