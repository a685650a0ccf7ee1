//! The arguments of every procedure of every program.
//!
//! Input is a list of pieces that arguments are made of: with bytes alone hardly any call would get
//! past its handle.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use berth::export::{Export, ExportId, Table};
use berth::fs::Fs;
use berth::fs::handle::Key;
use berth::mount::Mount;
use berth::nfs3::Nfs;
use berth::portmap::Portmap;
use berth::rpc::auth::{Credentials, Sys};
use berth::rpc::{Call, Outcome, Program};
use berth::sys::Patience;
use berth::xdr::{Reader, Writer};
use bolero::{TypeGenerator, check};
use tempfile::TempDir;

/// A reply is not larger than the largest READ and what goes with it.
const REPLY_MAX: usize = (1 << 20) + 4096;

/// Something that arguments are made of.
#[derive(Debug, TypeGenerator)]
enum Piece {
    /// The handle of something that exists: the root, a directory, a file, a link, a pipe.
    Handle(u8),
    /// The same with one bit changed.
    Forged(u8, u16),
    /// A name out of few, so that calls meet.
    Name(u8),
    /// A name of any kind.
    Odd(Vec<u8>),
    /// A number out of few: false, true, an enumeration.
    Small(u8),
    /// Any number.
    Word(u32),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// The arguments of a call, and the procedure.
type Input = (u8, Vec<Piece>);

/// The programs over a temporary directory.
struct Served {
    programs: [Box<dyn Program>; 3],
    handles: Vec<Vec<u8>>,
}

impl Served {
    fn over(temp: &Path) -> Self {
        let (dir, state) = (temp.join("export"), temp.join("state"));
        fs::create_dir_all(dir.join("dir")).unwrap();
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("file"), b"content").unwrap();
        fs::write(temp.join("outside"), b"outside").unwrap();
        symlink("../outside", dir.join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o666.into()).unwrap();

        let id = ExportId(1);
        let backing = Arc::new(Fs::new(Key::new([7; 16]), 256, &state).unwrap());
        backing.attach(id, &dir, None).unwrap();
        let root = backing.locate(id, b"").unwrap().as_ref().to_vec();
        let table = Table::new([Export::sole(id, dir)]).unwrap();
        let exports = Arc::new(ArcSwap::from_pointee(table));
        let nfs = Nfs::new(Arc::clone(&backing), Arc::clone(&exports));
        let handles = ["dir", "file", "link", "fifo"].map(|name| look_up(&nfs, &root, name));
        Self {
            programs: [
                Box::new(nfs),
                Box::new(Mount::new(exports, backing)),
                Box::new(Portmap::default()),
            ],
            handles: [root].into_iter().chain(handles).collect(),
        }
    }

    fn args(&self, pieces: &[Piece]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        let handle = |which: &u8| &self.handles[usize::from(*which) % self.handles.len()];
        for piece in pieces {
            match piece {
                Piece::Handle(which) => w.opaque(handle(which)),
                Piece::Forged(which, bit) => {
                    let mut forged = handle(which).clone();
                    let bit = usize::from(*bit) % (forged.len() * 8);
                    forged[bit / 8] ^= 1 << (bit % 8);
                    w.opaque(&forged);
                }
                Piece::Name(which) => w.opaque(format!("name{}", which % 8).as_bytes()),
                Piece::Odd(name) => w.opaque(name),
                Piece::Small(number) => w.u32(u32::from(number % 8)),
                Piece::Word(number) => w.u32(*number),
                Piece::Bytes(bytes) => w.fixed(bytes),
            }
        }
        out
    }
}

fn call(program: &dyn Program, version: u32, procedure: u32, args: &[u8]) -> (Outcome, Vec<u8>) {
    let call = |patience, out: &mut Vec<u8>| {
        let call = Call {
            version,
            procedure,
            args: Reader::new(args),
            credentials: Credentials::Sys(Sys::new(1000, 1000, &[])),
            peer: "127.0.0.1:700".parse().unwrap(),
            local: "127.0.0.1:2049".parse().unwrap(),
            patience,
        };
        program.call(&call, &mut Writer::new(out))
    };
    let mut out = Vec::new();
    // As the server does it: what would sleep is called again where it may.
    let mut outcome = call(Patience::None, &mut out);
    if outcome == Outcome::Later {
        out.clear();
        outcome = call(Patience::Blocking, &mut out);
        assert_ne!(outcome, Outcome::Later);
    }
    assert!(out.len() <= REPLY_MAX);
    (outcome, out)
}

fn look_up(nfs: &Nfs, dir: &[u8], name: &str) -> Vec<u8> {
    let mut args = Vec::new();
    let mut w = Writer::new(&mut args);
    w.opaque(dir);
    w.opaque(name.as_bytes());
    let (_, found) = call(nfs, 3, 3, &args);
    let mut r = Reader::new(&found);
    assert_eq!(r.u32(), Ok(0), "{name} was not found");
    r.opaque(64).unwrap().to_vec()
}

/// Calls a program with whatever comes, over one directory that lives on from call to call.
fn fuzz(which: usize, version: u32, procedures: u8) {
    let temp = TempDir::with_prefix("berth-fuzz-").unwrap();
    // A thread of its own, which stays the last caller: this one must remove the directory.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // After a panic nothing is called again, except to shrink its input.
            let served = AssertUnwindSafe(Served::over(temp.path()));
            check!().with_type().for_each(|(procedure, pieces): &Input| {
                let procedure = u32::from(procedure % procedures);
                call(&*served.programs[which], version, procedure, &served.args(pieces));
            });
        });
    });
    assert_eq!(fs::read(temp.path().join("outside")).unwrap(), b"outside");
}

#[test]
fn nfs_arguments() {
    fuzz(0, 3, 23);
}

#[test]
fn mount_arguments() {
    fuzz(1, 3, 7);
}

#[test]
fn portmap_arguments() {
    for version in 2..=4 {
        fuzz(2, version, 13);
    }
}
