//! NULL and GETATTR (RFC 1813 §3.3.0, §3.3.1): the current attributes in the backing directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::server::{Server, Setup};
use crate::support::wire::*;

/// Compares attributes from NFS with those in the backing file system.
#[track_caller]
fn check(attrs: &fattr3, path: &Path, kind: ftype3) {
    let meta = fs::symlink_metadata(path).unwrap();
    assert_eq!(attrs.type_, kind);
    assert_eq!(attrs.mode, meta.mode() & 0o7777);
    assert_eq!(u64::from(attrs.nlink), meta.nlink());
    assert_eq!((attrs.uid, attrs.gid), (meta.uid(), meta.gid()));
    assert_eq!(attrs.size, meta.size());
    assert_eq!(attrs.used, meta.blocks() * 512);
    assert_eq!(attrs.fileid, meta.ino());
    let time = |t: nfstime3| (i64::from(t.seconds), i64::from(t.nseconds));
    assert_eq!(time(attrs.atime), (meta.atime(), meta.atime_nsec()));
    assert_eq!(time(attrs.mtime), (meta.mtime(), meta.mtime_nsec()));
    assert_eq!(time(attrs.ctime), (meta.ctime(), meta.ctime_nsec()));
}

#[test]
fn null_does_nothing() {
    Server::start().client().null();
}

#[test]
fn attributes_match_the_backing_file() {
    let s = Setup::default().start_over(|dir| {
        fs::write(dir.join("file"), b"content").unwrap();
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(dir.join("file"), dir.join("link")).unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        symlink("a target", dir.join("symlink")).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    check(&c.attrs(&root), &s.dir, ftype3::NF3DIR);
    for (name, kind) in
        [("file", ftype3::NF3REG), ("dir", ftype3::NF3DIR), ("symlink", ftype3::NF3LNK)]
    {
        let found = c.lookup(&root, name).ok();
        check(given(&found.obj_attributes), &s.dir.join(name), kind);
        check(&c.attrs(&found.object), &s.dir.join(name), kind);
    }
}

#[test]
fn a_sparse_file_reports_allocated_space() {
    let s = Server::start();
    fs::File::create(s.dir.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    let mut c = s.client();
    let root = c.root();
    let file = c.find(&root, "sparse");
    let attrs = c.attrs(&file);
    assert_eq!((attrs.size, attrs.used), (1 << 40, 0));
}

#[test]
fn a_local_change_is_seen_at_once() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"one");
    for size in [1, 1000, 0] {
        fs::write(s.dir.join("file"), vec![b'x'; size]).unwrap();
        assert_eq!(c.attrs(&file).size, u64::try_from(size).unwrap());
    }
    fs::set_permissions(s.dir.join("file"), fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(c.attrs(&file).mode, 0o400);
}

#[test]
fn all_files_of_an_export_have_one_fsid() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let file = c.file(&dir, "file");
    let fsid = c.attrs(&root).fsid;
    assert_eq!([c.attrs(&dir).fsid, c.attrs(&file).fsid], [fsid, fsid]);
}
