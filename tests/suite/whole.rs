//! A file appears with everything that it was made with, or not at all: whatever fails, and
//! wherever the server ends.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::support::client::{Client, Cred, own_gid, someone, unpacked};
use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{not_tried, privileged};

const EARLY: nfstime3 = nfstime3 { seconds: 1_000_000_000, nseconds: 123_456_789 };
const VERIFIER: createverf3 = createverf3(*b"verifier");
const SIZE: u64 = 100_000;

/// What a file system may lack: nothing; O_TMPFILE and RENAME_NOREPLACE; links besides.
const FILE_SYSTEMS: [&str; 3] = ["", "old", "bare"];

/// A call that makes something with more than one step, and what it makes of it.
struct Case {
    what: &'static str,
    procedure: NFS_PROGRAM,
    args: fn(diropargs3<'_>) -> Vec<u8>,
    mode: u32,
    size: Option<u64>,
}

const CASES: [Case; 5] = [
    Case {
        what: "CREATE EXCLUSIVE",
        procedure: NFS_PROGRAM::NFSPROC3_CREATE,
        args: |where_| packed(&CREATE3args { where_, how: createhow3::EXCLUSIVE(VERIFIER) }),
        mode: 0o600,
        size: Some(0),
    },
    Case {
        what: "CREATE GUARDED",
        procedure: NFS_PROGRAM::NFSPROC3_CREATE,
        args: |where_| {
            let attributes = sattr3 { size: set_size3::Some(SIZE), ..attributes(0o6751) };
            packed(&CREATE3args { where_, how: createhow3::GUARDED(attributes) })
        },
        mode: 0o6751,
        size: Some(SIZE),
    },
    Case {
        what: "MKDIR",
        procedure: NFS_PROGRAM::NFSPROC3_MKDIR,
        args: |where_| packed(&MKDIR3args { where_, attributes: attributes(0o2750) }),
        mode: 0o2750,
        size: None,
    },
    Case {
        what: "SYMLINK",
        procedure: NFS_PROGRAM::NFSPROC3_SYMLINK,
        args: |where_| {
            let (symlink_attributes, symlink_data) = (attributes(0o700), b"target"[..].into());
            let symlink = symlinkdata3 { symlink_attributes, symlink_data };
            packed(&SYMLINK3args { where_, symlink })
        },
        mode: 0o777,
        size: Some(6),
    },
    Case {
        what: "MKNOD",
        procedure: NFS_PROGRAM::NFSPROC3_MKNOD,
        args: |where_| packed(&MKNOD3args { where_, what: mknoddata3::NF3FIFO(attributes(0o640)) }),
        mode: 0o640,
        size: Some(0),
    },
];

/// The owner that the attributes name: another one than the caller, where that may be.
fn wished() -> (u32, u32) {
    if privileged() { (500, 501) } else { (Cred::superuser().uid, own_gid()) }
}

fn attributes(bits: u32) -> sattr3 {
    let (uid, gid) = wished();
    sattr3 {
        gid: set_gid3::Some(gid),
        mode: set_mode3::Some(bits),
        atime: set_atime::SET_TO_SERVER_TIME,
        mtime: set_mtime::SET_TO_CLIENT_TIME(EARLY),
        ..owner(uid)
    }
}

impl Case {
    fn args(&self, dir: &Fh, name: &str) -> Vec<u8> {
        (self.args)(diropargs3 { dir: dir.clone(), name: name.as_bytes().into() })
    }

    /// Makes it, and says how that went.
    fn status(&self, c: &mut Client, dir: &Fh, name: &str) -> nfsstat3 {
        let asked = c.ask(self.procedure, &[self.args(dir, name)]);
        let answer = c.answers(&asked).into_values().next().unwrap();
        unpacked::<CREATE3res>(&answer).status() // those of the four differ in their names only
    }

    #[track_caller]
    fn is_whole(&self, found: &Metadata) {
        assert_eq!(found.mode() & 0o7777, self.mode, "{}", self.what);
        assert!(self.size.is_none_or(|size| size == found.size()), "{}", self.what);
        if self.what == "CREATE EXCLUSIVE" {
            let times = u64::from_be_bytes(VERIFIER.0) & 0x7fff_ffff_7fff_ffff;
            let found = found.atime().cast_unsigned() << 32 | found.mtime().cast_unsigned();
            assert_eq!(found, times);
        } else {
            assert_eq!((found.uid(), found.gid()), wished(), "{}", self.what);
            assert_eq!(found.mtime(), i64::from(EARLY.seconds), "{}", self.what);
        }
    }
}

/// The names in a directory of the server's.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Fails unless what `name` is, if anything, is whole, and nothing else is in the directory.
#[track_caller]
fn nothing_is_half_made(s: &Server, case: &Case, name: &str) -> bool {
    let found = names(&s.dir);
    assert!(found.iter().all(|found| found == name), "{found:?} after {}", case.what);
    assert_eq!(names(&s.beside("state/making")), [""; 0], "{}", case.what);
    let there = s.dir.join(name).symlink_metadata();
    there.iter().for_each(|found| case.is_whole(found));
    there.is_ok()
}

fn server(file_system: &str) -> Server {
    let s = Setup::default().faults().start();
    if !file_system.is_empty() {
        s.faults().lack(file_system);
    }
    s
}

#[test]
fn what_is_made_has_all_that_was_asked_for() {
    for file_system in FILE_SYSTEMS {
        let s = server(file_system);
        let mut c = s.client();
        let root = c.root();
        for case in &CASES {
            assert_eq!(case.status(&mut c, &root, case.what), NFS3_OK, "{}", case.what);
            case.is_whole(&s.dir.join(case.what).symlink_metadata().unwrap());
        }
        assert_eq!(names(&s.dir).len(), CASES.len(), "{file_system:?}");
        assert_eq!(names(&s.beside("state/making")), [""; 0], "{file_system:?}");
    }
}

#[test]
fn a_server_that_ends_at_any_step_leaves_nothing_half_made() {
    // Without links, a file gets its name first.
    for file_system in &FILE_SYSTEMS[..2] {
        for case in &CASES {
            let mut s = server(file_system);
            let mut seen = [false; 2];
            for step in 1.. {
                let mut c = s.client();
                let root = c.root();
                s.faults().crash(step);
                c.ask(case.procedure, &[case.args(&root, case.what)]);
                if c.receive().is_ok() {
                    assert!(step > 3, "{}: {step} steps", case.what);
                    break;
                }
                s.wait();
                s.faults().crash(0);
                s.launch_again();
                let there = nothing_is_half_made(&s, case, case.what);
                seen[usize::from(there)] = true;
                let mut c = s.client();
                let root = c.root();
                let repeats = case.what == "CREATE EXCLUSIVE" || !there;
                let expected = if repeats { NFS3_OK } else { NFS3ERR_EXIST };
                assert_eq!(case.status(&mut c, &root, case.what), expected, "{}", case.what);
                if case.what == "MKDIR" {
                    c.rmdir(&root, case.what).ok();
                } else {
                    c.remove(&root, case.what).ok();
                }
                s.restart(); // steps are counted from the start
            }
            assert_eq!(seen, [true; 2], "{}: there before a step, and not there", case.what);
        }
    }
}

#[test]
fn what_is_refused_leaves_nothing() {
    for file_system in FILE_SYSTEMS {
        let s = server(file_system);
        let mut c = s.client();
        let root = c.root();
        let foreign = || sattr3 { mtime: set_mtime::SET_TO_CLIENT_TIME(EARLY), ..owner(7) };
        if privileged() {
            c.setattr(&root, mode(0o1777)).ok();
            c.cred = someone();
        }
        c.create(&root, "file", createhow3::UNCHECKED(foreign())).fails(NFS3ERR_PERM);
        c.mkdir(&root, "dir", foreign()).fails(NFS3ERR_PERM);
        c.mknod(&root, "fifo", mknoddata3::NF3FIFO(foreign())).fails(NFS3ERR_PERM);
        let large = sattr3 { mtime: foreign().mtime, ..size(1 << 63) };
        c.create(&root, "large", createhow3::GUARDED(large)).fails(NFS3ERR_FBIG);
        assert_eq!(names(&s.dir), [""; 0], "{file_system:?}");
        assert_eq!(names(&s.beside("state/making")), [""; 0], "{file_system:?}");
    }
}

#[test]
fn a_name_that_is_taken_is_exist_though_nothing_could_be_made() {
    for file_system in FILE_SYSTEMS {
        let s = server(file_system);
        let mut c = s.client();
        let root = c.root();
        c.file_of(&root, "file", b"content");
        c.dir(&root, "dir");
        if privileged() {
            c.cred = someone();
        } else {
            c.setattr(&root, mode(0o555)).ok();
        }
        for case in &CASES {
            for name in ["file", "dir"] {
                assert_eq!(case.status(&mut c, &root, name), NFS3ERR_EXIST, "{}", case.what);
            }
            assert_eq!(case.status(&mut c, &root, "other"), NFS3ERR_ACCES, "{}", case.what);
        }
        assert_eq!(fs::read(s.dir.join("file")).unwrap(), b"content");
        assert_eq!(names(&s.dir).len(), 2, "{file_system:?}");
    }
}

/// The entries of an ACL as Linux keeps them: version 2, then tag, rights and id of each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acl_of(path: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    let len = rustix::fs::getxattr(path, "system.posix_acl_access", bytes.as_mut_slice());
    bytes.truncate(len.unwrap_or(0));
    bytes
}

#[test]
fn what_is_made_in_steps_inherits_what_is_made_at_once() {
    const NOBODY: u32 = u32::MAX;
    for file_system in FILE_SYSTEMS {
        let s = server(file_system);
        let mut c = s.client();
        let root = c.root();
        let dir = c.dir(&root, "dir");
        if privileged() {
            c.setattr(&dir, sattr3 { mode: set_mode3::Some(0o3777), ..group(77) }).ok();
            c.cred = someone();
        }
        let inherited =
            [(1, 7, NOBODY), (2, 7, 33), (4, 5, NOBODY), (16, 7, NOBODY), (32, 1, NOBODY)];
        let path = s.dir.join("dir");
        let flags = rustix::fs::XattrFlags::empty();
        let name = "system.posix_acl_default";
        if rustix::fs::setxattr(&path, name, &acl(&inherited), flags).is_err() {
            return not_tried("the file system has no ACLs");
        }
        for (number, bits) in [0o644, 0o666, 0o4755, 0o2775, 0].into_iter().enumerate() {
            let plain = mode(bits);
            let more = sattr3 { mtime: set_mtime::SET_TO_CLIENT_TIME(EARLY), ..mode(bits) };
            for (how, wanted) in [("plain", plain), ("more", more)] {
                let file = format!("{how}{number}");
                c.create(&dir, &file, createhow3::UNCHECKED(wanted.clone())).ok();
                c.mkdir(&dir, format!("{file}d"), wanted.clone()).ok();
                c.mknod(&dir, format!("{file}n"), mknoddata3::NF3FIFO(wanted)).ok();
            }
            for kind in ["", "d", "n"] {
                let both = ["plain", "more"].map(|how| path.join(format!("{how}{number}{kind}")));
                let found = both.clone().map(|path| fs::symlink_metadata(path).unwrap());
                let rights = found.map(|found| (found.mode(), found.uid(), found.gid()));
                assert_eq!(rights[0], rights[1], "{file_system:?} {bits:o} {kind}");
                assert_eq!(acl_of(&both[0]), acl_of(&both[1]), "{file_system:?} {bits:o} {kind}");
                let group_is_inherited = rights[0].0 & 0o2000 != 0 || !privileged() || kind != "d";
                assert!(group_is_inherited, "{file_system:?} {bits:o}");
            }
        }
    }
}

#[test]
fn whoever_watches_the_directory_sees_the_name_of_what_is_made_and_written() {
    for file_system in ["", "old"] {
        let s = server(file_system);
        let mut c = s.client();
        let root = c.root();
        let watch = inotify::init(CreateFlags::NONBLOCK).unwrap();
        let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MODIFY;
        inotify::add_watch(&watch, &s.dir, events).unwrap();
        let made = c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).ok();
        c.write(&given_fh(made.obj), 0, b"content", stable_how::FILE_SYNC).ok();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&watch, &mut buffer);
        let mut seen = ReadFlags::empty();
        while let Ok(event) = reader.next() {
            if event.file_name() == Some(c"file") {
                seen |= event.events();
            }
        }
        let appeared = ReadFlags::CREATE | ReadFlags::MOVED_TO;
        assert!(seen.intersects(appeared), "{file_system:?}: {seen:?}");
        assert!(seen.contains(ReadFlags::MODIFY), "{file_system:?}: {seen:?}");
    }
}

#[test]
fn what_is_made_in_steps_can_be_used_at_once_and_later() {
    for file_system in FILE_SYSTEMS {
        let mut s = server(file_system);
        let mut c = s.client();
        let root = c.root();
        let dir = given_fh(c.mkdir(&root, "dir", attributes(0o777)).ok().obj);
        let made = c.create(&dir, "file", createhow3::EXCLUSIVE(VERIFIER)).ok();
        let file = given_fh(made.obj);
        c.write(&file, 0, b"content", stable_how::UNSTABLE).ok();
        c.setattr(&file, mode(0o644)).ok();
        assert_eq!(c.find(&dir, "file"), file);
        s.restart();
        let mut c = s.client();
        assert_eq!(c.content(&file), b"content", "{file_system:?}");
        c.rename((&dir, "file"), (&root, "renamed")).ok();
        c.link(&file, &dir, "linked").ok();
        assert_eq!(c.attrs(&file).nlink, 2);
    }
}
