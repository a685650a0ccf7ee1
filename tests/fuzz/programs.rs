//! Calls every procedure of every program with fuzzed arguments.
//!
//! The arguments have the form that the procedure expects, with arbitrary values; then a word is
//! overwritten, or they are truncated. With random bytes alone, hardly any call would get past its
//! handle.

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
use berth::nfs::Nfs;
use berth::portmap::Portmap;
use berth::rpc::auth::{AuthSys, Credentials};
use berth::rpc::program::{Call, Outcome, Program};
use berth::sched::Patience;
use berth::xdr::{Reader, Writer};
use bolero::{TypeGenerator, check};
use tempfile::TempDir;

/// Upper bound of a reply: the largest READ with its header and attributes.
const REPLY_MAX: usize = (1 << 20) + 4096;

/// The form of the arguments of each NFS procedure. `h`: handle, `n`: name, `a`: attributes, `w`:
/// word, `c`: discriminant, `t`: file type, `d`: data.
const NFS: &[&str] = &[
    "", "h", "haw", "hn", "hw", "h", "hwww", "hwwwcd", "hnca", "hna", "hnan", "hntaww", "hn", "hn",
    "hnhn", "hhn", "hwwwww", "hwwwwww", "h", "h", "h", "hwww", "",
];

/// The form of the arguments of each MOUNT procedure; paths are encoded like names.
const MOUNT: &[&str] = &["", "n", "", "n", "", "", ""];

/// The form of the arguments of each portmap procedure, all versions together.
const PORTMAP: &[&str] =
    &["", "wwcw", "wwcw", "wwcw", "", "wwwd", "d", "nnn", "wwnnn", "wwnnn", "wwnnn", "", ""];

/// One call.
#[derive(Debug, TypeGenerator)]
struct Input {
    procedure: u8,
    /// The values of the arguments.
    choices: Vec<u32>,
    /// Overwrites a word: position and value.
    spoil: Option<(u16, u32)>,
    /// Truncates the arguments to this length.
    cut: Option<u16>,
}

impl Input {
    /// Encodes arguments of the given form.
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

/// One of a few names, so that calls act on the same files; some are invalid.
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

/// Encodes a `sattr3` in which each attribute may be set or not.
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

/// The programs, serving a temporary directory.
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
            credentials: Credentials::Sys(AuthSys::new(1000, 1000, &[])),
            peer: "127.0.0.1:700".parse().unwrap(),
            local: "127.0.0.1:2049".parse().unwrap(),
            patience,
            may_wait: false,
        };
        program.call(&call, &mut Writer::new(out))
    };
    let mut out = Vec::new();
    // As in the server: a call that would block runs again with blocking allowed.
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

/// Calls a program with fuzzed input; the directory keeps its content from call to call.
fn fuzz(which: usize, version: u32, forms: &[&str]) {
    let temp = TempDir::with_prefix("berth-fuzz-").unwrap();
    // In its own thread, which keeps the identity of the last caller: this thread must be able to
    // remove the directory.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // After a panic, the programs are called only to shrink the input.
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
