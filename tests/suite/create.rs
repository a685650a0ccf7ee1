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

/// A call that makes an entry.
type Make = fn(&mut Client, &Fh, &[u8]) -> CREATE3res;

/// All calls that make an entry, for tests that apply to each of them.
const MAKERS: [(&str, Make); 6] = [
    ("CREATE UNCHECKED", |c, dir, name| c.create(dir, name, unchecked(mode(0o644)))),
    ("CREATE GUARDED", |c, dir, name| c.create(dir, name, guarded())),
    ("CREATE EXCLUSIVE", |c, dir, name| c.create(dir, name, createhow3::EXCLUSIVE(VERIFIER))),
    ("MKDIR", |c, dir, name| like_create(&c.mkdir(dir, name, mode(0o755)))),
    ("SYMLINK", |c, dir, name| like_create(&c.symlink(dir, name, "target"))),
    ("MKNOD", |c, dir, name| like_create(&c.mknod(dir, name, mknoddata3::NF3FIFO(mode(0o644))))),
];

/// The results of the four procedures have the same encoding.
fn like_create(results: &impl Pack) -> CREATE3res {
    unpacked(&packed(results))
}

#[test]
fn results_have_the_new_file_its_attributes_and_exact_wcc_data() {
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
fn an_existing_name_is_refused_and_unchanged() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "file", b"content");
    c.dir(&root, "dir");
    c.symlink_to(&root, "link", "file");
    for (what, make) in MAKERS {
        for name in ["file", "dir", "link"] {
            if (what, name) == ("CREATE UNCHECKED", "file") {
                continue; // opens the file; tested below
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
fn invalid_names_are_refused() {
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
fn names_are_arbitrary_bytes_up_to_255() {
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
fn making_an_entry_in_a_file_is_notdir() {
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
fn making_an_entry_needs_write_permission() {
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
fn a_full_disk_is_nospc() {
    if !privileged() {
        return not_tried("mounting a disk needs privileges");
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
fn a_new_file_has_the_callers_ids_and_the_requested_mode() {
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
            // A setuid bit has no meaning for a directory, and mkdir(2) ignores it.
            let expected = if kind == "dir" { bits & 0o1777 } else { bits };
            assert_eq!(attrs.mode, expected, "{kind} {bits:o}");
            let expected = if privileged() { (1000, 1000) } else { (c.cred.uid, own_gid()) };
            assert_eq!((attrs.uid, attrs.gid), expected, "{kind}");
        }
    }
}

#[test]
fn the_superuser_can_set_the_owner_of_a_new_file() {
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
        // A file that cannot get the requested attributes is not left behind.
        c.lookup(&root, "file").fails(NFS3ERR_NOENT);
    }
}

#[test]
fn unchecked_opens_an_existing_file_and_a_size_of_zero_truncates_it() {
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
fn unchecked_does_not_truncate_a_file_that_the_caller_may_not_write() {
    if !privileged() {
        return not_tried("needs privileges to act as another user");
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
    assert_eq!(given_fh(again.obj), file, "a retransmission after a restart");
    c.create(&root, "file", createhow3::EXCLUSIVE(OTHER)).fails(NFS3ERR_EXIST);
}

#[test]
fn the_verifier_is_compared_but_for_bits_that_times_cannot_store() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for verifier in [[0; 8], [0xff; 8]] {
        let name = format!("{}", verifier[0]);
        c.create(&root, &name, createhow3::EXCLUSIVE(createverf3(verifier))).ok();
        // The verifier is stored in two times of the file, and some file systems store no negative
        // times.
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
fn exclusive_does_not_open_a_file_made_otherwise() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "file", b"content");
    c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).fails(NFS3ERR_EXIST);
}

#[test]
fn setattr_completes_an_exclusive_create() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = given_fh(c.create(&root, "file", createhow3::EXCLUSIVE(VERIFIER)).ok().obj);
    assert_eq!(c.attrs(&file).mode & 0o077, 0, "private until it is complete");
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
fn a_symbolic_link_target_is_stored_unchanged() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let link = c.symlink_to(&root, "link", "../../etc//passwd");
    assert_eq!(fs::read_link(s.dir.join("link")).unwrap().to_str(), Some("../../etc//passwd"));
    let attrs = c.attrs(&link);
    assert_eq!((attrs.type_, attrs.size), (ftype3::NF3LNK, 17));
}

#[test]
fn invalid_targets_are_refused() {
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
fn anyone_makes_fifos_and_sockets_and_the_superuser_makes_devices() {
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
fn mknod_of_a_type_with_its_own_procedure_is_badtype() {
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
        // No file has this type.
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
fn an_unknown_createmode_is_garbage() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let mut args = packed(&root);
    args.extend(packed(&filename3::from(&b"name"[..])));
    args.extend(words(&[3, 0, 0, 0, 0, 0, 0]));
    assert_eq!(c.raw(NFS, 8, &args), Reply::Refused(4, vec![]));
    c.lookup(&root, "name").fails(NFS3ERR_NOENT);
}
