//! File handles: they survive renames and restarts, become stale when their file is removed, cannot
//! be forged, and are valid in one export only.

use std::fs;

use rustix::process::Signal;

use crate::support::client::{Client, Cred, NFS, Reply, unpacked};
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

const DEAD: &[nfsstat3] = &[NFS3ERR_STALE, NFS3ERR_BADHANDLE];

/// The lengths that the server's handles may have.
const LENGTHS: std::ops::RangeInclusive<usize> = 18..=64;

/// The status of every procedure that takes a handle, called with `object`. `good` is a valid
/// directory.
fn every_use(c: &mut Client, object: &Fh, good: &Fh) -> Vec<(&'static str, nfsstat3)> {
    let position = (0, cookieverf3::default());
    let how = || createhow3::UNCHECKED(mode(0o644));
    vec![
        ("GETATTR", c.getattr(object).status()),
        ("SETATTR", c.setattr(object, mode(0o700)).status()),
        ("LOOKUP", c.lookup(object, "x").status()),
        ("ACCESS", c.access(object, 0x3f).status()),
        ("READLINK", c.readlink(object).status()),
        ("READ", c.read(object, 0, 10).status()),
        ("WRITE", c.write(object, 0, b"data", stable_how::FILE_SYNC).status()),
        ("CREATE", c.create(object, "new", how()).status()),
        ("MKDIR", c.mkdir(object, "new", mode(0o755)).status()),
        ("SYMLINK", c.symlink(object, "new", "x").status()),
        ("MKNOD", c.mknod(object, "new", mknoddata3::NF3FIFO(mode(0o644))).status()),
        ("REMOVE", c.remove(object, "x").status()),
        ("RMDIR", c.rmdir(object, "x").status()),
        ("RENAME from", c.rename((object, "x"), (good, "new")).status()),
        ("RENAME to", c.rename((good, "kept"), (object, "new")).status()),
        ("LINK of", c.link(object, good, "new").status()),
        ("READDIR", c.readdir(object, position, 4096).status()),
        ("READDIRPLUS", c.readdirplus(object, position, (4096, 4096)).status()),
        ("FSSTAT", c.fsstat(object).status()),
        ("FSINFO", c.fsinfo(object).status()),
        ("PATHCONF", c.pathconf(object).status()),
        ("COMMIT", c.commit(object, 0, 0).status()),
    ]
}

#[track_caller]
fn check_dead(c: &mut Client, object: &Fh, good: &Fh) {
    for (procedure, status) in every_use(c, object, good) {
        assert!(DEAD.contains(&status), "{procedure}: {status} for {object:02x?}");
    }
    let file = c.find(good, "kept");
    one_of(c.link(&file, object, "new").status(), DEAD);
}

/// A client of a new server, and its root with one file in it.
fn start() -> (Server, Client, Fh) {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "kept", b"content");
    (s, c, root)
}

#[test]
fn a_handle_survives_a_restart() {
    let (mut s, mut c, root) = start();
    let dir = c.dir(&root, "dir");
    let inner = c.dir(&dir, "inner");
    let file = c.file_of(&inner, "file", b"content");
    let link = c.symlink_to(&root, "link", "target");
    let before: Vec<_> =
        [&root, &dir, &inner, &file, &link].map(|o| c.attrs(o).fileid).into_iter().collect();
    for again in [Server::restart, Server::crash_and_restart] {
        again(&mut s);
        let mut c = s.client();
        // Use the handles before any look-up by name.
        assert_eq!(c.content(&file), b"content");
        let after: Vec<_> =
            [&root, &dir, &inner, &file, &link].map(|o| c.attrs(o).fileid).into_iter().collect();
        assert_eq!(after, before);
        assert_eq!(c.find(&inner, "file"), file, "the handle has changed");
        assert_eq!(c.root(), root);
        assert_eq!(c.find(&inner, ".."), dir);
    }
}

#[test]
fn a_handle_survives_renames_of_its_file_and_of_directories_above() {
    let (mut s, mut c, root) = start();
    let (a, b) = (c.dir(&root, "a"), c.dir(&root, "b"));
    let dir = c.dir(&a, "dir");
    let file = c.file_of(&dir, "file", b"content");
    c.rename((&dir, "file"), (&dir, "renamed")).ok();
    assert_eq!(c.content(&file), b"content");
    c.rename((&dir, "renamed"), (&b, "moved")).ok();
    assert_eq!(c.content(&file), b"content");
    c.rename((&b, "moved"), (&dir, "file")).ok();
    c.rename((&a, "dir"), (&b, "dir")).ok();
    assert_eq!(c.content(&file), b"content");
    c.rename((&root, "b"), (&root, "c")).ok();
    assert_eq!(c.content(&file), b"content");
    assert_eq!(c.find(&dir, ".."), b);
    for again in [Server::restart, Server::crash_and_restart] {
        again(&mut s);
        let mut c = s.client();
        assert_eq!(c.content(&file), b"content");
        assert_eq!(c.find(&dir, "file"), file);
        assert_eq!(c.names(&b, 4096), [b"dir"]);
        assert_eq!(c.find(&dir, ".."), b);
    }
}

#[test]
fn a_handle_survives_a_restart_in_a_directory_that_cannot_be_listed() {
    let (mut s, mut c, root) = start();
    let closed: Vec<_> = [0o311, 0o300, 0o400, 0o000]
        .map(|bits| {
            let dir = c.dir(&root, format!("{bits:o}"));
            let file = c.file_of(&dir, "file", b"content");
            c.setattr(&dir, mode(bits)).ok();
            (bits, dir, file)
        })
        .into();
    s.restart();
    let mut c = s.client();
    for (bits, dir, file) in &closed {
        assert_eq!(c.content(file), b"content", "{bits:o}");
        assert_eq!(c.attrs(dir).mode & 0o7777, *bits);
        c.setattr(dir, mode(0o700)).ok(); // so that it can be removed
    }
}

#[test]
fn a_file_replaced_by_rename_is_stale() {
    let (mut s, mut c, root) = start();
    let (old, new) = (c.file_of(&root, "old", b"old"), c.file_of(&root, "new", b"new"));
    c.rename((&root, "new"), (&root, "old")).ok();
    s.restart();
    let mut c = s.client();
    assert_eq!(c.content(&new), b"new");
    c.getattr(&old).fails(NFS3ERR_STALE);
}

#[test]
fn a_handle_stays_valid_while_another_link_remains() {
    let (mut s, mut c, root) = start();
    let dir = c.dir(&root, "dir");
    let file = c.file_of(&root, "first", b"content");
    c.link(&file, &dir, "second").ok();
    c.remove(&root, "first").ok();
    assert_eq!(c.content(&file), b"content");
    s.restart();
    assert_eq!(s.client().content(&file), b"content");
}

#[test]
fn a_removed_file_is_stale_for_every_procedure() {
    let (mut s, mut c, root) = start();
    let file = c.file(&root, "file");
    let dir = c.dir(&root, "dir");
    let link = c.symlink_to(&root, "link", "x");
    c.remove(&root, "file").ok();
    c.remove(&root, "link").ok();
    c.rmdir(&root, "dir").ok();
    for _ in 0..2 {
        let mut c = s.client();
        for gone in [&file, &dir, &link] {
            for (procedure, status) in every_use(&mut c, gone, &root) {
                assert_eq!(status, NFS3ERR_STALE, "{procedure}");
            }
        }
        s.restart();
    }
    assert_eq!(s.client().names(&root, 4096), [b"kept"]);
}

#[test]
fn a_reused_inode_number_does_not_revive_a_handle() {
    let (s, mut c, root) = start();
    // File systems reuse the inode numbers of removed files.
    let mut gone = Vec::new();
    for round in 0..50 {
        let name = format!("file{round}");
        let file = c.file(&root, &name);
        gone.push(file);
        c.remove(&root, &name).ok();
    }
    c.file_of(&root, "last", b"secret");
    for old in &gone {
        c.getattr(old).fails(NFS3ERR_STALE);
        c.read(old, 0, 10).fails(NFS3ERR_STALE);
    }
    drop(s);
}

#[test]
fn a_locally_removed_file_is_stale() {
    let (s, mut c, root) = start();
    let file = c.file(&root, "file");
    fs::remove_file(s.dir.join("file")).unwrap();
    c.getattr(&file).fails(NFS3ERR_STALE);
    c.lookup(&root, "file").fails(NFS3ERR_NOENT);
}

#[test]
fn a_local_rename_is_seen() {
    let (s, mut c, root) = start();
    fs::rename(s.dir.join("kept"), s.dir.join("moved")).unwrap();
    c.lookup(&root, "kept").fails(NFS3ERR_NOENT);
    let moved = c.find(&root, "moved");
    assert_eq!(c.content(&moved), b"content");
}

#[test]
fn forged_handles_are_refused() {
    let (_s, mut c, root) = start();
    let file = c.file(&root, "file");
    let mut made_up: Vec<Fh> = vec![fh(&[])];
    for real in [&root, &file] {
        let bytes = real.data.to_vec();
        assert!(bytes.len() <= 64);
        // Each byte changed, each truncation, and one byte more.
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut forged = bytes.clone();
                forged[at] ^= flip;
                made_up.push(fh(&forged));
            }
            made_up.push(fh(&bytes[..at]));
        }
        if bytes.len() < 64 {
            made_up.push(fh(&[&bytes[..], &[0]].concat()));
        }
    }
    for len in [1, 4, 8, 16, 32, 63, 64] {
        made_up.extend([fh(&vec![0; len]), fh(&vec![0xff; len])]);
    }
    for forged in &made_up {
        // On STALE a client looks the file up again; on BADHANDLE it gives up.
        let has_the_length = LENGTHS.contains(&forged.data.len());
        let status = if has_the_length { NFS3ERR_STALE } else { NFS3ERR_BADHANDLE };
        c.getattr(forged).fails(status);
        c.write(forged, 0, b"x", stable_how::UNSTABLE).fails(status);
    }
    check_dead(&mut c, &made_up[1], &root);
    check_dead(&mut c, &fh(&[]), &root);
    assert_eq!(c.names(&root, 4096).len(), 2);
}

#[test]
fn a_handle_above_64_bytes_is_garbage() {
    let (_s, mut c, root) = start();
    let long = packed(&fh(&[&root.data[..], &[0; 64]].concat()));
    for procedure in 1..=21 {
        match c.raw(NFS, procedure, &long) {
            Reply::Refused(4, _) => {}
            reply => {
                let status = reply.results()[..4].to_vec();
                assert_eq!(status, packed(&NFS3ERR_BADHANDLE), "procedure {procedure}");
            }
        }
    }
}

#[test]
fn handles_of_another_server_are_stale() {
    let (_s, mut c, root) = start();
    let (_other, mut other_c, other_root) = start();
    let other_file = other_c.find(&other_root, "kept");
    check_dead(&mut c, &other_root, &root);
    check_dead(&mut c, &other_file, &root);
    for other in [&other_root, &other_file] {
        c.getattr(other).fails(NFS3ERR_STALE);
    }
}

#[test]
fn handles_of_a_lost_key_are_stale() {
    let (mut s, mut c, root) = start();
    let file = c.find(&root, "kept");
    s.signal(Signal::TERM);
    assert!(s.wait().success());
    fs::remove_dir_all(s.beside("state")).unwrap();
    s.launch_again();
    let mut c = s.client();
    for (procedure, status) in every_use(&mut c, &root, &root) {
        assert_eq!(status, NFS3ERR_STALE, "{procedure}");
    }
    c.getattr(&file).fails(NFS3ERR_STALE);
    let root = c.root();
    assert_eq!(c.find(&root, "kept").data.len(), file.data.len());
}

#[test]
fn a_handle_grants_no_access_in_another_export() {
    let s = Setup::default()
        .exports(
            "{}/open *(rw,no_root_squash,insecure)\n\
             {}/closed 127.0.0.2(rw,no_root_squash,insecure)\n",
        )
        .start_over(|dir| {
            for name in ["open", "closed"] {
                fs::create_dir(dir.join(name)).unwrap();
                fs::write(dir.join(name).join("kept"), b"content").unwrap();
            }
        });
    let dir = s.dir.to_str().unwrap().to_owned();
    let member = |s: &Server| {
        Client::connect_from([127, 0, 0, 2].into(), 0, s.addr, Cred::superuser()).unwrap()
    };
    let mut inside = member(&s);
    let closed = inside.mounted(format!("{dir}/closed"));
    let file = inside.find(&closed, "kept");
    assert_eq!(inside.content(&file), b"content");
    // A host that is not a client of the export gains nothing from its handles.
    let mut outside = s.client();
    let open = outside.mounted(format!("{dir}/open"));
    for object in [&closed, &file] {
        for (procedure, status) in every_use(&mut outside, object, &open) {
            one_of(status, &[NFS3ERR_ACCES, NFS3ERR_STALE, NFS3ERR_BADHANDLE, NFS3ERR_XDEV]);
            assert_ne!(status, NFS3_OK, "{procedure}");
        }
    }
    // The exports are on one file system, yet parts of their handles cannot be combined.
    let (a, b) = (open.data.to_vec(), closed.data.to_vec());
    for cut in 1..a.len().min(b.len()) {
        let crossed = [&a[..cut], &b[cut..]].concat();
        if crossed != a && crossed != b {
            one_of(inside.getattr(&fh(&crossed)).status(), DEAD);
        }
    }
    assert_eq!(outside.names(&open, 4096), [b"kept"]);
}

#[test]
fn a_handle_is_valid_again_when_its_export_returns() {
    let all = "{}/a *(rw,no_root_squash,insecure)\n{}/b *(rw,no_root_squash,insecure)\n";
    let mut s = Setup::default().exports(all).start_over(|dir| {
        for name in ["a", "b"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
    });
    let dir = s.dir.to_str().unwrap().to_owned();
    let mut c = s.client();
    let (a, b) = (c.mounted(format!("{dir}/a")), c.mounted(format!("{dir}/b")));
    s.write_exports("{}/b *(rw,no_root_squash,insecure)\n");
    s.restart();
    let mut c = s.client();
    one_of(c.getattr(&a).status(), DEAD);
    c.getattr(&b).ok();
    s.write_exports(all);
    s.restart();
    s.client().getattr(&a).ok();
}

#[test]
fn files_deep_down_are_found_again_with_few_descriptors() {
    const DEPTH: usize = 300;
    let mut s = Setup::default().descriptors(200).start();
    let mut c = s.client();
    let root = c.root();
    let files = ["one", "other", "third"].map(|name| {
        let below = |dir: Fh, n| c.dir(&dir, if n == 0 { name } else { "d" });
        let dir = (0..DEPTH).fold(root.clone(), below);
        c.file_of(&dir, "file", b"content")
    });
    s.crash_and_restart();
    // All at once: they are looked for while others are.
    let mut c = s.client();
    let asked = files.iter().cycle().take(30).map(packed).collect::<Vec<_>>();
    let asked = c.ask(NFS_PROGRAM::NFSPROC3_GETATTR, &asked);
    for answer in c.answers(&asked).into_values() {
        let status = unpacked::<GETATTR3res>(&answer).status();
        // A client retries a call that found too many searches under way.
        one_of(status, &[NFS3_OK, NFS3ERR_JUKEBOX]);
    }
    for file in &files {
        c.getattr(file).ok();
    }
}
