//! The arguments of every procedure of every program.
//!
//! Input makes arguments of the form that a procedure expects, with any values; then a word of them
//! is overwritten, or they are cut short. With bytes alone hardly any call would get past its handle.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use berth::export::table::Exports;
use berth::export::{Export, ExportId, Ports};
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

/// What the arguments of each NFS procedure are made of: a handle, a name, attributes, words, a
/// choice out of few, a file's type, data.
const NFS: &[&str] = &[
    "", "h", "haw", "hn", "hw", "h", "hwww", "hwwwcd", "hnca", "hna", "hnan", "hntaww", "hn", "hn",
    "hnhn", "hhn", "hwwwww", "hwwwwww", "h", "h", "h", "hwww", "",
];

/// The same of each MOUNT procedure, whose paths are names.
const MOUNT: &[&str] = &["", "n", "", "n", "", "", ""];

/// The same of each procedure of all versions of portmap.
const PORTMAP: &[&str] =
    &["", "wwcw", "wwcw", "wwcw", "", "wwwd", "d", "nnn", "wwnnn", "wwnnn", "wwnnn", "", ""];

/// One call.
#[derive(Debug, TypeGenerator)]
struct Input {
    procedure: u8,
    /// What the values of the arguments are taken from.
    choices: Vec<u32>,
    /// Overwrites a word.
    spoil: Option<(u16, u32)>,
    /// Cuts the arguments short.
    cut: Option<u16>,
}

impl Input {
    /// The arguments, in the form that the procedure expects.
    fn args(&self, form: &str, handles: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        let mut choices = self.choices.iter().copied();
        let mut choice = || choices.next().unwrap_or(0);
        for part in form.chars() {
            match part {
                'h' => w.opaque(&handles[choice() as usize % handles.len()]),
                'n' => w.opaque(&name(choice())),
                'w' => w.u32(choice()),
                'c' => w.u32(choice() % 4),
                't' => w.u32(choice() % 8),
                'd' => w.opaque(&vec![7; choice() as usize % 10_000]),
                'a' => attributes(&mut w, &mut choice),
                _ => unreachable!("no such part: {part}"),
            }
        }
        if let (Some((at, word)), words @ 1..) = (self.spoil, out.len() / 4) {
            let at = usize::from(at) % words * 4;
            out[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        out.truncate(self.cut.map_or(usize::MAX, usize::from));
        out
    }
}

/// A name out of few, so that calls meet; some of them no entry can have.
fn name(choice: u32) -> Vec<u8> {
    match choice % 32 {
        0 => vec![],
        1 => b".".to_vec(),
        2 => b"..".to_vec(),
        3 => b"../outside".to_vec(),
        4 => b"a\0b".to_vec(),
        5 => vec![b'n'; 255],
        6 => vec![b'n'; 256],
        7 => b"/".to_vec(),
        8 => b"link".to_vec(),
        n => format!("name{}", n % 8).into_bytes(),
    }
}

/// Some attributes; of each it is chosen whether it is to be set.
fn attributes(w: &mut Writer<'_>, choice: &mut impl FnMut() -> u32) {
    let set = choice();
    for bit in 0..3 {
        w.bool(set >> bit & 1 == 1);
        if set >> bit & 1 == 1 {
            w.u32(choice() & 0o7777);
        }
    }
    w.bool(set & 8 != 0);
    if set & 8 != 0 {
        w.u64(u64::from(choice()) << (set >> 28 << 1));
    }
    for bits in [4, 6] {
        let how = (set >> bits & 3).min(2);
        w.u32(how);
        if how == 2 {
            w.u32(choice());
            w.u32(choice());
        }
    }
}

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
        for open in [&dir, &dir.join("dir")] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::write(dir.join("file"), b"content").unwrap();
        fs::write(temp.join("outside"), b"outside").unwrap();
        symlink("../outside", dir.join("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o666.into()).unwrap();

        let id = ExportId(1);
        let backing = Arc::new(Fs::new(Key::new([7; 16]), 256, &state).unwrap());
        backing.attach(id, &dir, None, None).unwrap();
        let root = backing.locate(id, b"").unwrap().as_ref().to_vec();
        let exports = Arc::<Exports>::default();
        exports.change(&[], [Arc::new(Export::sole(id, dir, Ports::Any))]).unwrap();
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
            may_wait: false,
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
fn fuzz(which: usize, version: u32, forms: &[&str]) {
    let temp = TempDir::with_prefix("berth-fuzz-").unwrap();
    // A thread of its own, which stays the last caller: this one must remove the directory.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // After a panic nothing is called again, except to shrink its input.
            let served = AssertUnwindSafe(Served::over(temp.path()));
            check!().with_type().for_each(|input: &Input| {
                let procedure = usize::from(input.procedure) % forms.len();
                let args = input.args(forms[procedure], &served.handles);
                let procedure = u32::try_from(procedure).unwrap();
                call(&*served.programs[which], version, procedure, &args);
            });
        });
    });
    assert_eq!(fs::read(temp.path().join("outside")).unwrap(), b"outside");
}

#[test]
fn nfs_arguments() {
    fuzz(0, 3, NFS);
}

#[test]
fn mount_arguments() {
    fuzz(1, 3, MOUNT);
}

#[test]
fn portmap_arguments() {
    for version in 2..=4 {
        fuzz(2, version, PORTMAP);
    }
}
