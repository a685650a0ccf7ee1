//! LOOKUP and READLINK (RFC 1813 §3.3.3, §3.3.5).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use crate::support::client::{Cred, someone};
use crate::support::privileged;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

#[test]
fn lookup_returns_handle_and_attributes() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let file = c.file(&dir, "file");
    let found = c.lookup(&dir, "file").ok();
    assert_eq!(found.object, file);
    same_attrs(given(&found.obj_attributes), &c.attrs(&file));
    same_attrs(given(&found.dir_attributes), &c.attrs(&dir));
}

#[test]
fn a_missing_name_is_noent() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let failed = c.lookup(&root, "nothing").fails(NFS3ERR_NOENT);
    same_attrs(given(&failed.dir_attributes), &c.attrs(&root));
}

#[test]
fn dot_is_the_directory_and_dot_dot_its_parent() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let inner = c.dir(&dir, "inner");
    assert_eq!(c.find(&inner, "."), inner);
    assert_eq!(c.find(&inner, ".."), dir);
    assert_eq!(c.find(&dir, ".."), root);
}

#[test]
fn dot_dot_of_an_export_root_is_the_root() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let up = c.lookup(&root, "..").ok();
    assert_eq!(up.object, root);
    same_attrs(given(&up.obj_attributes), &c.attrs(&root));
}

#[test]
fn lookup_in_a_file_is_notdir() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for name in ["x", ".", ".."] {
        c.lookup(&file, name).fails(NFS3ERR_NOTDIR);
    }
    let link = c.symlink_to(&root, "link", ".");
    let status = c.lookup(&link, "file").status();
    one_of(status, &[NFS3ERR_NOTDIR, NFS3ERR_INVAL]);
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let s = Setup::default().start_over(|dir| {
        symlink("/etc", dir.join("out")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    for name in ["out", "dangling"] {
        let found = c.lookup(&root, name).ok();
        assert_eq!(given(&found.obj_attributes).type_, ftype3::NF3LNK);
    }
}

#[test]
fn names_are_arbitrary_bytes() {
    let names: [&[u8]; 4] = [b"\xff\xfe", b" ", b"\n\t\x01", "\u{e9}".as_bytes()];
    let s = Setup::default().start_over(|dir| {
        for name in names {
            fs::write(dir.join(OsStr::from_bytes(name)), b"").unwrap();
        }
    });
    let mut c = s.client();
    let root = c.root();
    for name in names {
        c.lookup(&root, name).ok();
    }
}

#[test]
fn names_have_at_most_255_bytes_and_no_slash() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, [b'n'; 255]);
    c.lookup(&root, [b'n'; 255]).ok();
    for (name, allowed) in impossible_names() {
        let status = c.lookup(&root, &name).status();
        // For a name that no file can have, NOENT is also correct.
        let allowed = [allowed, &[NFS3ERR_NOENT]].concat();
        one_of(status, &allowed);
    }
}

#[test]
fn lookup_needs_search_permission() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.file(&dir, "file");
    c.setattr(&dir, mode(0o600)).ok();
    if privileged() {
        c.with(someone(), |c| c.lookup(&dir, "file").fails(NFS3ERR_ACCES));
        c.lookup(&dir, "file").ok();
        c.setattr(&dir, mode(0o711)).ok();
        c.with(someone(), |c| c.lookup(&dir, "file").ok());
    } else {
        c.with(Cred::user(0), |c| c.lookup(&dir, "file").fails(NFS3ERR_ACCES));
        c.setattr(&dir, mode(0o700)).ok();
        c.lookup(&dir, "file").ok();
    }
}

#[test]
fn readlink_returns_the_target_unchanged() {
    let long = "x/".repeat(2000);
    let targets: [&[u8]; 5] = [b"a", b"/etc/passwd", b"../..", b"\xff\n", long.as_bytes()];
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for (number, target) in targets.into_iter().enumerate() {
        let link = c.symlink_to(&root, format!("link{number}"), target);
        let read = c.readlink(&link).ok();
        assert_eq!(read.data.0.as_ref(), target);
        same_attrs(given(&read.symlink_attributes), &c.attrs(&link));
    }
}

#[test]
fn readlink_of_other_types_is_inval() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for object in [&root, &file] {
        let failed = c.readlink(object).fails(NFS3ERR_INVAL);
        same_attrs(given(&failed.symlink_attributes), &c.attrs(object));
    }
}
