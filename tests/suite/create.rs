//! CREATE, MKDIR, SYMLINK and MKNOD (RFC 1813 §3.3.8 to §3.3.11).

use std::fs;
use std::os::unix::fs::MetadataExt;

use nfs3_types::xdr_codec::Pack;

use crate::support::client::{Client, Cred, NFS, Reply, own_gid, someone, unpacked, words};
use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{not_tried, privileged};

const VERIFIER: createverf3 = createverf3(*b"verifier");
const OTHER: createverf3 = createverf3(*b"VERIFIER");

fn unchecked(attrs: sattr3) -> createhow3 {
    createhow3::UNCHECKED(attrs)
}

fn guarded() -> createhow3 {
    createhow3::GUARDED(mode(0o644))
}

/// A way to make an entry.
type Make = fn(&mut Client, &Fh, &[u8]) -> CREATE3res;

/// All ways to make an entry: what holds for all is tested for all.
const MAKERS: [(&str, Make); 6] = [
    ("CREATE UNCHECKED", |c, dir, name| c.create(dir, name, unchecked(mode(0o644)))),
    ("CREATE GUARDED", |c, dir, name| c.create(dir, name, guarded())),
    ("CREATE EXCLUSIVE", |c, dir, name| c.create(dir, name, createhow3::EXCLUSIVE(VERIFIER))),
    ("MKDIR", |c, dir, name| like_create(&c.mkdir(dir, name, mode(0o755)))),
    ("SYMLINK", |c, dir, name| like_create(&c.symlink(dir, name, "target"))),
    ("MKNOD", |c, dir, name| like_create(&c.mknod(dir, name, mknoddata3::NF3FIFO(mode(0o644))))),
];

/// The results of the four procedures differ in their names only.
fn like_create(results: &impl Pack) -> CREATE3res {
    unpacked(&packed(results))
}

#[test]
fn what_is_made_is_given_with_its_attributes_and_its_directorys() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for (what, make) in MAKERS {
        let before = c.attrs(&root);
        let made = make(&mut c, &root, what.as_bytes()).ok();
        exact_wcc(&made.dir_wcc, &before, &c.attrs(&root));
        let object = given_fh(made.obj);
        same_attrs(given(&made.obj_attributes), &c.attrs(&object));
        assert_eq!(c.find(&root, what), object, "{what}");
    }
}

#[test]
fn a_name_that_exists_is_refused_and_stays_what_it_is() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "file", b"content");
    c.dir(&root, "dir");
    c.symlink_to(&root, "link", "file");
    for (what, make) in MAKERS {
        for name in ["file", "dir", "link"] {
            if (what, name) == ("CREATE UNCHECKED", "file") {
                continue; // that it opens; below
            }
            let before = c.attrs(&root);
            let answer = make(&mut c, &root, name.as_bytes());
            let allowed: &[_] = match what {
                "CREATE UNCHECKED" => &[NFS3ERR_EXIST, NFS3ERR_ISDIR, NFS3ERR_INVAL],
                _ => &[NFS3ERR_EXIST],
            };
            one_of(answer.status(), allowed);
            exact_wcc(&answer.failed().dir_wcc, &before, &before);
        }
    }
    assert_eq!(fs::read(s.dir.join("file")).unwrap(), b"content");
}

#[test]
fn impossible_names_are_refused() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for (what, make) in MAKERS {
        for (name, allowed) in impossible_names() {
            let status = make(&mut c, &root, &name).status();
            assert!(allowed.contains(&status), "{what} {:?}: {status}", &name[..name.len().min(5)]);
        }
        for name in [".", ".."] {
            let status = make(&mut c, &root, name.as_bytes()).status();
            one_of(status, &[NFS3ERR_EXIST, NFS3ERR_INVAL, NFS3ERR_ACCES, NFS3ERR_ISDIR]);
        }
    }
    assert_eq!(fs::read_dir(&s.dir).unwrap().count(), 0);
    assert_eq!(fs::read_dir(s.dir.parent().unwrap()).unwrap().count(), 3, "export, state, log");
}

#[test]
fn names_are_bytes_and_255_of_them() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for (what, make) in MAKERS {
        let dir = c.dir(&root, what);
        for name in [&[0xff; 255][..], b"\xc3\x28", b" ", b"...", b"a\nb", b"\\", b"*"] {
            make(&mut c, &dir, name).ok();
            c.lookup(&dir, name).ok();
        }
    }
}

#[test]
fn only_a_directory_has_entries() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for (what, make) in MAKERS {
        let status = make(&mut c, &file, b"name").status();
        assert_eq!(status, NFS3ERR_NOTDIR, "{what}");
    }
}

#[test]
fn making_needs_permission() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    if privileged() {
        c.cred = someone();
    } else {
        c.setattr(&dir, mode(0o555)).ok();
    }
    for (what, make) in MAKERS {
        let before = c.attrs(&dir);
        let answer = make(&mut c, &dir, b"name");
        assert_eq!(answer.status(), NFS3ERR_ACCES, "{what}");
        exact_wcc(&answer.failed().dir_wcc, &before, &before);
    }
}

#[test]
fn a_disk_without_room_is_nospc() {
    if !privileged() {
        return not_tried("a disk of its own takes privileges");
    }
    let s = Setup::default().disk("size=1m,nr_inodes=2").start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "the last");
    for (what, make) in MAKERS {
        let status = make(&mut c, &root, b"name").status();
        assert_eq!(status, NFS3ERR_NOSPC, "{what}");
    }
    c.remove(&root, "the last").ok();
    c.file(&root, "again");
}

#[test]
fn a_new_file_is_the_callers_with_the_mode_it_asked_for() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o777)).ok();
    if privileged() {
        c.cred = someone();
    }
    for (number, bits) in [0o600, 0o777, 0o4755, 0, 0o1666].into_iter().enumerate() {
        for (kind, made) in [
            ("file", c.create(&root, format!("file{number}"), unchecked(mode(bits))).ok().obj),
            ("dir", c.mkdir(&root, format!("dir{number}"), mode(bits)).ok().obj),
        ] {
            let attrs = c.attrs(&given_fh(made));
            // A setuid bit means nothing to a directory, and mkdir(2) leaves it out.
            let expected = if kind == "dir" { bits & 0o1777 } else { bits };
            assert_eq!(attrs.mode, expected, "{kind} {bits:o}");
            let expected = if privileged() { (1000, 1000) } else { (c.cred.uid, own_gid()) };
            assert_eq!((attrs.uid, attrs.gid), expected, "{kind}");
        }
    }
}

#[test]
fn the_superuser_makes_files_for_others() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let attrs = sattr3 { mode: set_mode3::Some(0o640), gid: set_gid3::Some(8), ..owner(7) };
    let made = c.create(&root, "file", unchecked(attrs));
    if privileged() {
        let attrs = c.attrs(&given_fh(made.ok().obj));
        assert_eq!((attrs.uid, attrs.gid, attrs.mode), (7, 8, 0o640));
    } else {
        made.fails(NFS3ERR_PERM);
        // What could not be made as asked for is not there half made.
        c.lookup(&root, "file").fails(NFS3ERR_NOENT);
    }
}

#[test]
fn unchecked_opens_what_exists_and_a_size_of_zero_truncates_it() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    let again = c.create(&root, "file", unchecked(sattr3::default())).ok();
    assert_eq!(given_fh(again.obj), file);
    assert_eq!(c.content(&file), b"content");
    let before = c.attrs(&file);
    c.create(&root, "file", unchecked(size(0))).ok();
    let after = c.attrs(&file);
    assert_eq!((after.size, after.mode), (0, before.mode));
    c.create(&root, "new", unchecked(size(100))).ok();
    assert_eq!(fs::metadata(s.dir.join("new")).unwrap().size(), 100);
}

#[test]
fn unchecked_does_not_truncate_what_the_caller_may_not_write() {
    if !privileged() {
        return not_tried("there is only one user without privileges");
    }
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    c.cred = someone();
    c.create(&root, "file", unchecked(size(0))).fails(NFS3ERR_ACCES);
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn exclusive_succeeds_again_with_the_same_verifier_only() {
    let mut s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = given_fh(c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).ok().obj);
    let again = c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).ok();
    assert_eq!(given_fh(again.obj), file);
    c.create(&root, "file", createhow3::EXCLUSIVE(OTHER)).fails(NFS3ERR_EXIST);
    s.restart();
    let mut c = s.client();
    let again = c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).ok();
    assert_eq!(given_fh(again.obj), file, "a client repeats over a restart of the server");
    c.create(&root, "file", createhow3::EXCLUSIVE(OTHER)).fails(NFS3ERR_EXIST);
}

#[test]
fn every_bit_of_the_verifier_counts_but_those_that_times_cannot_keep() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for verifier in [[0; 8], [0xff; 8]] {
        let name = format!("{}", verifier[0]);
        c.create(&root, &name, createhow3::EXCLUSIVE(createverf3(verifier))).ok();
        // The verifier lies in two times of the file, and file systems may know no negative ones.
        for bit in (0..64).filter(|bit| ![7, 39].contains(bit)) {
            let mut other = verifier;
            other[bit / 8] ^= 1 << (bit % 8);
            let status = c.create(&root, &name, createhow3::EXCLUSIVE(createverf3(other))).status();
            assert_eq!(status, NFS3ERR_EXIST, "bit {bit}");
        }
        c.create(&root, &name, createhow3::EXCLUSIVE(createverf3(verifier))).ok();
    }
}

#[test]
fn exclusive_does_not_take_a_file_that_was_there_before() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "file", b"content");
    c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).fails(NFS3ERR_EXIST);
}

#[test]
fn a_client_can_finish_an_exclusive_create_by_setting_attributes() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = given_fh(c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).ok().obj);
    assert_eq!(c.attrs(&file).mode & 0o077, 0, "closed until it is finished");
    let now = sattr3 {
        atime: set_atime::SET_TO_SERVER_TIME,
        mtime: set_mtime::SET_TO_SERVER_TIME,
        ..mode(0o644)
    };
    c.setattr(&file, now).ok();
    let attrs = c.attrs(&file);
    assert_eq!((attrs.mode, attrs.size), (0o644, 0));
}

#[test]
fn a_symbolic_links_target_is_kept_as_it_is() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let link = c.symlink_to(&root, "link", "../../etc//passwd");
    assert_eq!(fs::read_link(s.dir.join("link")).unwrap().to_str(), Some("../../etc//passwd"));
    let attrs = c.attrs(&link);
    assert_eq!((attrs.type_, attrs.size), (ftype3::NF3LNK, 17));
}

#[test]
fn targets_that_no_link_can_have_are_refused() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let refused = &[NFS3ERR_INVAL, NFS3ERR_NOENT, NFS3ERR_ACCES, NFS3ERR_NAMETOOLONG];
    for target in [&b""[..], b"a\0b", &[b'x'; 4096]] {
        one_of(c.symlink(&root, "link", target).status(), refused);
    }
    c.lookup(&root, "link").fails(NFS3ERR_NOENT);
}

#[test]
fn special_files_are_made_and_devices_by_the_superuser() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let made = |r: MKNOD3res| given(&r.ok().obj_attributes).clone();
    let fifo = made(c.mknod(&root, "fifo", mknoddata3::NF3FIFO(mode(0o640))));
    assert_eq!((fifo.type_, fifo.mode), (ftype3::NF3FIFO, 0o640));
    let socket = made(c.mknod(&root, "socket", mknoddata3::NF3SOCK(mode(0o600))));
    assert_eq!((socket.type_, socket.mode), (ftype3::NF3SOCK, 0o600));
    let device = || devicedata3 {
        dev_attributes: mode(0o600),
        spec: specdata3 { specdata1: 1, specdata2: 3 },
    };
    if privileged() {
        let null = made(c.mknod(&root, "char", mknoddata3::NF3CHR(device())));
        assert_eq!((null.type_, null.rdev), (ftype3::NF3CHR, device().spec));
        let block = made(c.mknod(&root, "block", mknoddata3::NF3BLK(device())));
        assert_eq!((block.type_, block.rdev), (ftype3::NF3BLK, device().spec));
        c.cred = someone();
        c.with(Cred::superuser(), |c| c.setattr(&root, mode(0o777)).ok());
    }
    c.mknod(&root, "char2", mknoddata3::NF3CHR(device())).fails(NFS3ERR_PERM);
    c.lookup(&root, "char2").fails(NFS3ERR_NOENT);
}

#[test]
fn mknod_of_what_has_a_procedure_of_its_own_is_badtype() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for kind in [ftype3::NF3REG, ftype3::NF3DIR, ftype3::NF3LNK] {
        let mut args = packed(&root);
        args.extend(packed(&filename3::from(&b"name"[..])));
        args.extend(words(&[kind as u32]));
        let results = c.raw(NFS, 11, &args).results();
        let answer: MKNOD3res = unpacked(&results);
        answer.fails(NFS3ERR_BADTYPE);
        // Nothing has this type.
        let end = args.len();
        args[end - 4..].copy_from_slice(&99u32.to_be_bytes());
        match c.raw(NFS, 11, &args) {
            Reply::Refused(4, _) => {}
            reply => {
                let answer: MKNOD3res = unpacked(&reply.results());
                answer.fails(NFS3ERR_BADTYPE);
            }
        }
    }
    c.lookup(&root, "name").fails(NFS3ERR_NOENT);
}

#[test]
fn an_unknown_way_to_create_is_garbage() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let mut args = packed(&root);
    args.extend(packed(&filename3::from(&b"name"[..])));
    args.extend(words(&[3, 0, 0, 0, 0, 0, 0]));
    assert_eq!(c.raw(NFS, 8, &args), Reply::Refused(4, vec![]));
    c.lookup(&root, "name").fails(NFS3ERR_NOENT);
}
