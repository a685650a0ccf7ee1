//! RENAME and LINK (RFC 1813 §3.3.14, §3.3.15).

use std::fs;

use crate::support::client::{Client, Cred, someone};
use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{not_tried, privileged};

fn names(c: &mut Client, dir: &Fh) -> Vec<String> {
    let mut names: Vec<_> =
        c.names(dir, 4096).into_iter().map(|n| String::from_utf8(n).unwrap()).collect();
    names.sort();
    names
}

#[test]
fn rename_between_directories_keeps_the_handle() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (from, to) = (c.dir(&root, "from"), c.dir(&root, "to"));
    let file = c.file_of(&from, "old", b"content");
    let before = (c.attrs(&from), c.attrs(&to));
    let wcc = c.rename((&from, "old"), (&to, "new")).ok();
    exact_wcc(&wcc.fromdir_wcc, &before.0, &c.attrs(&from));
    exact_wcc(&wcc.todir_wcc, &before.1, &c.attrs(&to));
    c.lookup(&from, "old").fails(NFS3ERR_NOENT);
    assert_eq!(c.find(&to, "new"), file);
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn rename_within_a_directory() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "old", b"content");
    let before = c.attrs(&root);
    let wcc = c.rename((&root, "old"), (&root, "new")).ok();
    let after = c.attrs(&root);
    exact_wcc(&wcc.fromdir_wcc, &before, &after);
    exact_wcc(&wcc.todir_wcc, &before, &after);
    assert_eq!(names(&mut c, &root), ["new"]);
}

#[test]
fn rename_over_a_file_replaces_it() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    let other = c.file_of(&root, "other", b"gone");
    c.rename((&root, "file"), (&root, "other")).ok();
    assert_eq!(c.find(&root, "other"), file);
    assert_eq!(c.content(&file), b"content");
    c.getattr(&other).fails(NFS3ERR_STALE);
}

#[test]
fn rename_over_an_empty_directory_replaces_it() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.file(&dir, "file");
    let other = c.dir(&root, "other");
    c.rename((&root, "dir"), (&root, "other")).ok();
    assert_eq!(c.find(&root, "other"), dir);
    c.lookup(&dir, "file").ok();
    c.getattr(&other).fails(NFS3ERR_STALE);
}

#[test]
fn rename_over_a_directory_with_entries_is_refused() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.dir(&root, "dir");
    let full = c.dir(&root, "full");
    c.file(&full, "file");
    let before = c.attrs(&root);
    let answer = c.rename((&root, "dir"), (&root, "full"));
    one_of(answer.status(), &[NFS3ERR_NOTEMPTY, NFS3ERR_EXIST]);
    let failed = answer.failed();
    exact_wcc(&failed.fromdir_wcc, &before, &before);
    exact_wcc(&failed.todir_wcc, &before, &before);
    assert_eq!(names(&mut c, &root), ["dir", "full"]);
}

#[test]
fn rename_over_another_type_is_refused() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "file");
    c.dir(&root, "dir");
    let kinds = &[NFS3ERR_EXIST, NFS3ERR_ISDIR, NFS3ERR_NOTDIR];
    one_of(c.rename((&root, "file"), (&root, "dir")).status(), kinds);
    one_of(c.rename((&root, "dir"), (&root, "file")).status(), kinds);
    assert_eq!(names(&mut c, &root), ["dir", "file"]);
}

#[test]
fn a_directory_cannot_move_into_itself() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let inner = c.dir(&dir, "inner");
    c.rename((&root, "dir"), (&dir, "x")).fails(NFS3ERR_INVAL);
    c.rename((&root, "dir"), (&inner, "x")).fails(NFS3ERR_INVAL);
    one_of(
        c.rename((&dir, "inner"), (&root, "dir")).status(),
        &[NFS3ERR_NOTEMPTY, NFS3ERR_EXIST, NFS3ERR_INVAL],
    );
    assert_eq!(c.find(&dir, "inner"), inner);
}

#[test]
fn rename_to_the_same_file_does_nothing() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.link(&file, &root, "link").ok();
    c.rename((&root, "file"), (&root, "file")).ok();
    c.rename((&root, "file"), (&root, "link")).ok();
    assert_eq!(names(&mut c, &root), ["file", "link"]);
    assert_eq!(c.attrs(&file).nlink, 2);
}

#[test]
fn a_missing_source_is_noent() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "file");
    c.rename((&root, "nothing"), (&root, "file")).fails(NFS3ERR_NOENT);
    c.lookup(&root, "file").ok();
}

#[test]
fn rename_refuses_dots_and_invalid_names() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.file(&dir, "file");
    let dots = &[NFS3ERR_INVAL, NFS3ERR_EXIST, NFS3ERR_ISDIR, NFS3ERR_NOTEMPTY, NFS3ERR_ACCES];
    for name in [".", ".."] {
        one_of(c.rename((&dir, name), (&root, "x")).status(), dots);
        one_of(c.rename((&dir, "file"), (&root, name)).status(), dots);
    }
    for (name, allowed) in impossible_names() {
        one_of(c.rename((&dir, "file"), (&root, &name)).status(), allowed);
        let allowed = [allowed, &[NFS3ERR_NOENT]].concat();
        one_of(c.rename((&dir, &name), (&root, "x")).status(), &allowed);
    }
    c.lookup(&dir, "file").ok();
    assert_eq!(names(&mut c, &root), ["dir"]);
}

#[test]
fn renaming_and_linking_in_a_file_is_notdir() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.rename((&file, "x"), (&root, "y")).fails(NFS3ERR_NOTDIR);
    c.rename((&root, "file"), (&file, "y")).fails(NFS3ERR_NOTDIR);
    c.link(&file, &file, "y").fails(NFS3ERR_NOTDIR);
}

#[test]
fn rename_and_link_need_write_permission() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (open, closed) = (c.dir(&root, "open"), c.dir(&root, "closed"));
    let (mine, theirs) = (c.file(&open, "mine"), c.file(&closed, "theirs"));
    if privileged() {
        c.setattr(&open, mode(0o777)).ok();
        c.setattr(&mine, owner(1000)).ok();
        c.cred = someone();
    } else {
        c.setattr(&closed, mode(0o555)).ok();
    }
    c.rename((&open, "mine"), (&closed, "x")).fails(NFS3ERR_ACCES);
    c.rename((&closed, "theirs"), (&open, "x")).fails(NFS3ERR_ACCES);
    c.link(&mine, &closed, "x").fails(NFS3ERR_ACCES);
    assert_eq!(c.find(&closed, "theirs"), theirs);
}

#[test]
fn between_exports_is_xdev() {
    let s = Setup::default()
        .exports("{}/a *(rw,no_root_squash,insecure)\n{}/b *(rw,no_root_squash,insecure)\n")
        .start_over(|dir| {
            for name in ["a", "b"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
        });
    let mut c = s.client();
    let dir = s.dir.to_str().unwrap();
    let (a, b) = (c.mounted(format!("{dir}/a")), c.mounted(format!("{dir}/b")));
    let file = c.file(&a, "file");
    let refused = c.rename((&a, "file"), (&b, "file")).fails(NFS3ERR_XDEV);
    given(&refused.fromdir_wcc.after);
    c.link(&file, &b, "file").fails(NFS3ERR_XDEV);
    assert_eq!(names(&mut c, &a), ["file"]);
    assert_eq!(names(&mut c, &b), [""; 0]);
}

#[test]
fn link_adds_a_name() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let file = c.file_of(&root, "file", b"content");
    let before = c.attrs(&dir);
    let linked = c.link(&file, &dir, "link").ok();
    exact_wcc(&linked.linkdir_wcc, &before, &c.attrs(&dir));
    same_attrs(given(&linked.file_attributes), &c.attrs(&file));
    assert_eq!(c.attrs(&file).nlink, 2);
    let link = c.find(&dir, "link");
    assert_eq!(c.attrs(&link).fileid, c.attrs(&file).fileid);
    assert_eq!(c.content(&link), b"content");
}

#[test]
fn link_does_not_replace() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.file_of(&root, "other", b"content");
    let before = c.attrs(&root);
    let failed = c.link(&file, &root, "other").fails(NFS3ERR_EXIST);
    exact_wcc(&failed.linkdir_wcc, &before, &before);
    assert_eq!(fs::read(s.dir.join("other")).unwrap(), b"content");
}

#[test]
fn directories_cannot_be_linked() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let refused = &[NFS3ERR_ISDIR, NFS3ERR_INVAL, NFS3ERR_PERM, NFS3ERR_ACCES];
    one_of(c.link(&dir, &root, "link").status(), refused);
    one_of(c.link(&root, &dir, "link").status(), refused);
}

#[test]
fn a_symbolic_link_can_be_linked() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "file");
    let symlink = c.symlink_to(&root, "symlink", "file");
    c.link(&symlink, &root, "link").ok();
    let link = c.find(&root, "link");
    assert_eq!(c.attrs(&link).type_, ftype3::NF3LNK);
    assert_eq!(c.readlink(&link).ok().data.0.as_ref(), b"file");
}

#[test]
fn link_refuses_dots_and_invalid_names() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for (name, allowed) in impossible_names() {
        one_of(c.link(&file, &root, &name).status(), allowed);
    }
    for name in [".", ".."] {
        one_of(c.link(&file, &root, name).status(), &[NFS3ERR_EXIST, NFS3ERR_INVAL, NFS3ERR_ACCES]);
    }
    assert_eq!(c.attrs(&file).nlink, 1);
}

#[test]
fn a_removed_file_cannot_be_linked() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.remove(&root, "file").ok();
    c.link(&file, &root, "again").fails(NFS3ERR_STALE);
}

#[test]
fn exceeding_the_maximum_link_count_is_mlink() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    let max = c.pathconf(&file).ok().linkmax;
    if max > 100_000 {
        return not_tried(&format!("too many links: this file system allows {max}"));
    }
    fs::create_dir(s.dir.join("links")).unwrap();
    for number in 1..max {
        fs::hard_link(s.dir.join("file"), s.dir.join(format!("links/{number}"))).unwrap();
    }
    assert_eq!(c.attrs(&file).nlink, max);
    c.link(&file, &root, "one more").fails(NFS3ERR_MLINK);
}

#[test]
fn in_a_sticky_directory_only_owners_rename_and_remove() {
    if !privileged() {
        return not_tried("needs privileges to act as another user");
    }
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.setattr(&dir, mode(0o1777)).ok();
    c.with(someone(), |c| c.file(&dir, "mine"));
    c.cred = Cred::user(2000);
    let refused = &[NFS3ERR_PERM, NFS3ERR_ACCES];
    one_of(c.remove(&dir, "mine").status(), refused);
    one_of(c.rename((&dir, "mine"), (&dir, "yours")).status(), refused);
    c.file(&dir, "yours");
    one_of(c.rename((&dir, "yours"), (&dir, "mine")).status(), refused);
    c.cred = someone();
    c.remove(&dir, "mine").ok();
}

#[test]
fn rename_uses_the_identity_of_its_own_caller() {
    if !privileged() {
        return not_tried("needs privileges to act as another user");
    }
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o1777)).ok();
    let dir = c.with(someone(), |c| c.dir(&root, "private"));
    c.with(someone(), |c| c.setattr(&dir, mode(0o700)).ok());
    c.with(someone(), |c| c.file(&dir, "a"));
    // Calls are distributed over the server's threads, and each thread keeps the identity of its
    // last call. With three calls in a round, every thread serves both users sooner or later.
    for round in 0..64 {
        c.with(Cred::user(2000), |c| c.file(&root, format!("{round}")));
        c.with(someone(), |c| c.rename((&dir, "a"), (&dir, "b")).ok());
        c.with(someone(), |c| c.rename((&dir, "b"), (&dir, "a")).ok());
    }
}
