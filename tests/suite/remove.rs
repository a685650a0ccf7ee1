//! REMOVE and RMDIR (RFC 1813 §3.3.12, §3.3.13).

use std::fs;

use crate::support::client::someone;
use crate::support::privileged;
use crate::support::server::Server;
use crate::support::wire::*;

#[test]
fn remove_removes_a_name_and_returns_exact_wcc_data() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    let before = c.attrs(&root);
    let wcc = c.remove(&root, "file").ok().dir_wcc;
    exact_wcc(&wcc, &before, &c.attrs(&root));
    c.lookup(&root, "file").fails(NFS3ERR_NOENT);
    c.getattr(&file).fails(NFS3ERR_STALE);
}

#[test]
fn remove_of_a_link_keeps_the_file() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    c.link(&file, &root, "link").ok();
    c.symlink_to(&root, "symlink", "link");
    c.remove(&root, "symlink").ok();
    assert_eq!(c.attrs(&file).nlink, 2, "the symbolic link was not followed");
    c.remove(&root, "file").ok();
    let other = c.find(&root, "link");
    assert_eq!(c.attrs(&other).nlink, 1);
    assert_eq!(c.content(&other), b"content");
}

#[test]
fn rmdir_removes_an_empty_directory() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let before = c.attrs(&root);
    let wcc = c.rmdir(&root, "dir").ok().dir_wcc;
    exact_wcc(&wcc, &before, &c.attrs(&root));
    c.getattr(&dir).fails(NFS3ERR_STALE);
    c.readdir(&dir, (0, cookieverf3::default()), 4096).fails(NFS3ERR_STALE);
    c.create(&dir, "file", createhow3::UNCHECKED(mode(0o644))).fails(NFS3ERR_STALE);
    c.lookup(&dir, ".").fails(NFS3ERR_STALE);
}

#[test]
fn remove_of_a_directory_is_isdir() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.dir(&root, "dir");
    c.remove(&root, "dir").fails(NFS3ERR_ISDIR);
    c.lookup(&root, "dir").ok();
}

#[test]
fn rmdir_of_a_directory_with_entries_is_notempty() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.file(&dir, "file");
    let before = c.attrs(&root);
    let failed = c.rmdir(&root, "dir").fails(NFS3ERR_NOTEMPTY);
    exact_wcc(&failed.dir_wcc, &before, &before);
    c.lookup(&dir, "file").ok();
}

#[test]
fn rmdir_of_other_types_is_notdir() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "file");
    c.dir(&root, "dir");
    c.symlink_to(&root, "symlink", "dir");
    for name in ["file", "symlink"] {
        c.rmdir(&root, name).fails(NFS3ERR_NOTDIR);
    }
    assert_eq!(fs::read_dir(&s.dir).unwrap().count(), 3);
}

#[test]
fn dot_and_dot_dot_cannot_be_removed() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let inner = c.dir(&dir, "inner");
    c.rmdir(&inner, ".").fails(NFS3ERR_INVAL);
    one_of(c.rmdir(&inner, "..").status(), &[NFS3ERR_EXIST, NFS3ERR_INVAL, NFS3ERR_NOTEMPTY]);
    for name in [".", ".."] {
        let refused = &[NFS3ERR_ISDIR, NFS3ERR_INVAL, NFS3ERR_EXIST, NFS3ERR_PERM, NFS3ERR_ACCES];
        one_of(c.remove(&inner, name).status(), refused);
        one_of(c.rmdir(&root, name).status(), &[NFS3ERR_EXIST, NFS3ERR_INVAL, NFS3ERR_NOTEMPTY]);
    }
    c.getattr(&inner).ok();
}

#[test]
fn a_missing_name_is_noent() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let before = c.attrs(&root);
    let failed = c.remove(&root, "nothing").fails(NFS3ERR_NOENT);
    exact_wcc(&failed.dir_wcc, &before, &before);
    let failed = c.rmdir(&root, "nothing").fails(NFS3ERR_NOENT);
    exact_wcc(&failed.dir_wcc, &before, &before);
}

#[test]
fn invalid_names_are_refused() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for (name, allowed) in impossible_names() {
        let allowed = [allowed, &[NFS3ERR_NOENT]].concat();
        one_of(c.remove(&root, &name).status(), &allowed);
        one_of(c.rmdir(&root, &name).status(), &allowed);
    }
    assert!(s.dir.exists());
}

#[test]
fn removing_an_entry_of_a_file_is_notdir() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.remove(&file, "name").fails(NFS3ERR_NOTDIR);
    c.rmdir(&file, "name").fails(NFS3ERR_NOTDIR);
}

#[test]
fn removing_needs_write_permission_on_the_directory() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.file(&dir, "file");
    c.dir(&dir, "inner");
    if privileged() {
        c.cred = someone();
    } else {
        c.setattr(&dir, mode(0o555)).ok();
    }
    let before = c.attrs(&dir);
    let failed = c.remove(&dir, "file").fails(NFS3ERR_ACCES);
    exact_wcc(&failed.dir_wcc, &before, &before);
    c.rmdir(&dir, "inner").fails(NFS3ERR_ACCES);
    c.lookup(&dir, "file").ok();
}

#[test]
fn no_descriptor_keeps_a_removed_file_allocated() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", &[7; 1 << 16]);
    c.content(&file);
    let kept_open = || {
        let fds = format!("/proc/{}/fd", s.pid().as_raw_nonzero());
        fs::read_dir(fds).unwrap().flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().ends_with("(deleted)"))
        })
    };
    c.remove(&root, "file").ok();
    crate::support::eventually("no descriptor of a removed file is open", || !kept_open());
}
