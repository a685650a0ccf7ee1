//! SETATTR (RFC 1813 §3.3.2).

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::support::client::{Client, Cred, own_gid, someone};
use crate::support::privileged;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

const EARLY: nfstime3 = nfstime3 { seconds: 1_000_000_000, nseconds: 123_456_789 };
const LATE: nfstime3 = nfstime3 { seconds: 2_000_000_000, nseconds: 1 };

fn times(atime: set_atime, mtime: set_mtime) -> sattr3 {
    sattr3 { atime, mtime, ..sattr3::default() }
}

fn one_file(content: &[u8]) -> (Server, Client, Fh) {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", content);
    (s, c, file)
}

/// Sets attributes, checks the weak cache consistency data, and returns the new attributes.
#[track_caller]
fn changed(c: &mut Client, object: &Fh, to: sattr3) -> fattr3 {
    let before = c.attrs(object);
    let wcc = c.setattr(object, to).ok().obj_wcc;
    let after = c.attrs(object);
    exact_wcc(&wcc, &before, &after);
    after
}

#[test]
fn the_mode_is_set_with_its_special_bits() {
    let (s, mut c, file) = one_file(b"");
    for bits in [0o600, 0o4711, 0o1000, 0o2750, 0] {
        assert_eq!(changed(&mut c, &file, mode(bits)).mode, bits);
        assert_eq!(fs::metadata(s.dir.join("file")).unwrap().mode() & 0o7777, bits);
    }
}

#[test]
fn only_the_superuser_can_change_the_owner() {
    let (_s, mut c, file) = one_file(b"");
    if privileged() {
        let after = changed(&mut c, &file, sattr3 { gid: set_gid3::Some(8), ..owner(7) });
        assert_eq!((after.uid, after.gid), (7, 8));
        c.with(Cred::user(7), |c| {
            c.setattr(&file, owner(9)).fails(NFS3ERR_PERM);
            c.setattr(&file, group(9)).fails(NFS3ERR_PERM);
        });
        c.with(Cred::user(7).groups(&[9]), |c| {
            assert_eq!(changed(c, &file, group(9)).gid, 9, "into a group of the owner");
        });
    } else {
        c.setattr(&file, owner(7)).fails(NFS3ERR_PERM);
        assert_eq!(changed(&mut c, &file, group(own_gid())).gid, own_gid());
    }
}

#[test]
fn setting_the_size_truncates_and_extends() {
    let (_s, mut c, file) = one_file(b"0123456789");
    assert_eq!(changed(&mut c, &file, size(4)).size, 4);
    assert_eq!(changed(&mut c, &file, size(6)).size, 6);
    assert_eq!(c.content(&file), b"0123\0\0");
}

#[test]
fn times_are_set_to_client_or_server_time() {
    let (_s, mut c, file) = one_file(b"");
    let client = times(set_atime::SET_TO_CLIENT_TIME(EARLY), set_mtime::SET_TO_CLIENT_TIME(EARLY));
    let after = changed(&mut c, &file, client);
    assert_eq!((after.atime, after.mtime), (EARLY, EARLY));
    let server = times(set_atime::DONT_CHANGE, set_mtime::SET_TO_SERVER_TIME);
    let after = changed(&mut c, &file, server);
    assert_eq!(after.atime, EARLY, "DONT_CHANGE");
    assert!(after.mtime.seconds > EARLY.seconds, "{after:?}");
}

#[test]
fn a_time_set_together_with_the_size_is_kept() {
    let (_s, mut c, file) = one_file(b"0123456789");
    let both = sattr3 {
        mode: set_mode3::Some(0o640),
        mtime: set_mtime::SET_TO_CLIENT_TIME(EARLY),
        ..size(3)
    };
    let after = changed(&mut c, &file, both);
    assert_eq!((after.size, after.mode, after.mtime), (3, 0o640, EARLY));
}

#[test]
fn an_empty_sattr3_changes_nothing() {
    let (_s, mut c, file) = one_file(b"content");
    let before = c.attrs(&file);
    let after = changed(&mut c, &file, sattr3::default());
    assert_eq!((after.mode, after.size, after.mtime), (before.mode, before.size, before.mtime));
}

#[test]
fn a_guard_with_another_ctime_is_not_sync() {
    let (_s, mut c, file) = one_file(b"content");
    let before = c.attrs(&file);
    let other = nfstime3 { nseconds: before.ctime.nseconds ^ 1, ..before.ctime };
    let wcc = c.setattr_if(&file, size(1), sattrguard3::Some(other)).fails(NFS3ERR_NOT_SYNC);
    exact_wcc(&wcc.obj_wcc, &before, &before);
    assert_eq!(c.content(&file), b"content");
    c.setattr_if(&file, size(1), sattrguard3::Some(before.ctime)).ok();
    assert_eq!(c.content(&file), b"c");
    let late = sattrguard3::Some(before.ctime);
    c.setattr_if(&file, size(0), late).fails(NFS3ERR_NOT_SYNC);
}

#[test]
fn only_a_regular_file_has_a_size_to_set() {
    let s = Setup::default().start_over(|dir| {
        fs::create_dir(dir.join("dir")).unwrap();
        fs::write(dir.join("file"), b"content").unwrap();
        symlink("file", dir.join("symlink")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o666.into()).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    for name in ["dir", "symlink", "fifo"] {
        let object = c.find(&root, name);
        let status = c.setattr(&object, size(0)).status();
        one_of(status, &[NFS3ERR_INVAL, NFS3ERR_ISDIR]);
    }
    let file = c.find(&root, "file");
    assert_eq!(c.content(&file), b"content", "the link was not followed");
}

#[test]
fn a_symbolic_link_has_its_own_owner_and_times() {
    let s = Setup::default().start_over(|dir| {
        fs::write(dir.join("target"), b"").unwrap();
        symlink("target", dir.join("symlink")).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    let (link, target) = (c.find(&root, "symlink"), c.find(&root, "target"));
    let before = c.attrs(&target);
    let early = times(set_atime::DONT_CHANGE, set_mtime::SET_TO_CLIENT_TIME(EARLY));
    assert_eq!(changed(&mut c, &link, early).mtime, EARLY);
    if privileged() {
        assert_eq!(changed(&mut c, &link, owner(7)).uid, 7);
    }
    same_attrs(&c.attrs(&target), &before);
}

#[test]
fn attributes_of_a_fifo_are_set_without_opening_it() {
    let s = Setup::default().start_over(|dir| {
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o600.into()).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    let fifo = c.find(&root, "fifo");
    assert_eq!(changed(&mut c, &fifo, mode(0o644)).mode, 0o644);
    let early = times(set_atime::DONT_CHANGE, set_mtime::SET_TO_CLIENT_TIME(EARLY));
    assert_eq!(changed(&mut c, &fifo, early).mtime, EARLY);
}

#[test]
fn impossible_sizes_are_refused() {
    let (_s, mut c, file) = one_file(b"content");
    for impossible in [1 << 63, u64::MAX] {
        let status = c.setattr(&file, size(impossible)).status();
        one_of(status, &[NFS3ERR_FBIG, NFS3ERR_INVAL]);
    }
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn other_users_cannot_set_attributes() {
    if !privileged() {
        return only_one_user();
    }
    let (_s, mut c, file) = one_file(b"content");
    c.setattr(&file, mode(0o644)).ok();
    c.with(someone(), |c| {
        c.setattr(&file, mode(0o777)).fails(NFS3ERR_PERM);
        c.setattr(&file, owner(1000)).fails(NFS3ERR_PERM);
        c.setattr(&file, size(0)).fails(NFS3ERR_ACCES);
        let client = times(set_atime::DONT_CHANGE, set_mtime::SET_TO_CLIENT_TIME(EARLY));
        c.setattr(&file, client).fails(NFS3ERR_PERM);
        let server = times(set_atime::SET_TO_SERVER_TIME, set_mtime::SET_TO_SERVER_TIME);
        c.setattr(&file, server.clone()).fails(NFS3ERR_ACCES);
        c.with(Cred::superuser(), |c| c.setattr(&file, mode(0o666)).ok());
        c.setattr(&file, server).ok();
        c.setattr(&file, size(0)).ok();
    });
}

/// Without privileges all callers act as the server's user.
fn only_one_user() {
    let (_s, mut c, file) = one_file(b"content");
    c.with(Cred::user(12345), |c| assert_eq!(changed(c, &file, mode(0o600)).mode, 0o600));
}

#[test]
fn the_owner_may_truncate_despite_the_mode() {
    let (_s, mut c, file) = one_file(b"content");
    if privileged() {
        c.setattr(&file, owner(1000)).ok();
        c.cred = someone();
    }
    c.setattr(&file, mode(0o444)).ok();
    assert_eq!(changed(&mut c, &file, size(0)).size, 0);
}

#[test]
fn changing_the_owner_clears_the_setuid_bit() {
    if !privileged() {
        // Without privileges the owner cannot change, so the bit cannot reach another owner.
        let (_s, mut c, file) = one_file(b"");
        c.setattr(&file, mode(0o4755)).ok();
        c.setattr(&file, owner(7)).fails(NFS3ERR_PERM);
        return;
    }
    let (_s, mut c, file) = one_file(b"");
    c.setattr(&file, mode(0o6755)).ok();
    assert_eq!(changed(&mut c, &file, owner(7)).mode, 0o755);
}

#[test]
fn the_mode_of_a_symbolic_link_is_ignored_and_the_rest_is_set() {
    let s = Setup::default().start_over(|dir| {
        fs::write(dir.join("target"), b"").unwrap();
        symlink("target", dir.join("symlink")).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    let (link, target) = (c.find(&root, "symlink"), c.find(&root, "target"));
    let before = (c.attrs(&link), c.attrs(&target));
    assert_eq!(changed(&mut c, &link, mode(0o755)).mode, before.0.mode);
    let client = set_mtime::SET_TO_CLIENT_TIME(EARLY);
    let mut all = sattr3 { mtime: client, ..mode(0o700) };
    if privileged() {
        (all.uid, all.gid) = (set_uid3::Some(7), set_gid3::Some(8));
    }
    let after = changed(&mut c, &link, all);
    assert_eq!((after.mode, after.mtime), (before.0.mode, EARLY));
    assert!(!privileged() || (after.uid, after.gid) == (7, 8));
    same_attrs(&c.attrs(&target), &before.1);
}

#[test]
fn the_size_is_unchanged_if_other_attributes_are_refused() {
    let (_s, mut c, file) = one_file(b"content");
    let mut request = sattr3 { mode: set_mode3::Some(0o600), ..owner(7) };
    if privileged() {
        c.setattr(&file, sattr3 { gid: set_gid3::Some(1000), ..owner(1000) }).ok();
        c.cred = someone();
    }
    for (size, gid) in [(0, set_gid3::None), (3, set_gid3::Some(8)), (1000, set_gid3::None)] {
        (request.size, request.gid) = (set_size3::Some(size), gid);
        unchanged(&mut c, &file, &request, NFS3ERR_PERM);
    }
    assert_eq!(c.content(&file), b"content");
}

/// Checks that setting attributes fails and changes nothing but the ctime.
#[track_caller]
fn unchanged(c: &mut Client, object: &Fh, to: &sattr3, expected: nfsstat3) {
    let before = c.attrs(object);
    let wcc = c.setattr(object, to.clone()).fails(expected).obj_wcc;
    let after = c.attrs(object);
    exact_wcc(&wcc, &before, &after);
    same_attrs(&fattr3 { ctime: before.ctime, ..after }, &before);
}

/// The attributes to set: one for each set bit.
fn some_of(bits: u32, (uid, gid): (u32, u32), by_client: bool) -> sattr3 {
    let has = |bit: u32| bits & (1 << bit) != 0;
    let mut request = sattr3::default();
    if has(0) {
        request.mode = set_mode3::Some(0o4751);
    }
    if has(1) {
        request.uid = set_uid3::Some(uid);
    }
    if has(2) {
        request.gid = set_gid3::Some(gid);
    }
    if has(3) {
        request.size = set_size3::Some(3);
    }
    if has(4) {
        request.atime = set_atime::SET_TO_SERVER_TIME;
    }
    if has(5) {
        request.mtime = set_mtime::SET_TO_SERVER_TIME;
    }
    if by_client {
        request.atime = set_atime::SET_TO_CLIENT_TIME(EARLY);
        request.mtime = set_mtime::SET_TO_CLIENT_TIME(LATE);
    }
    request
}

/// Checks that `now` has all requested attributes.
#[track_caller]
fn has_all(now: &fattr3, request: &sattr3) {
    if let (set_mode3::Some(mode), true) = (&request.mode, now.type_ != ftype3::NF3LNK) {
        assert_eq!(now.mode, *mode);
    }
    if let set_uid3::Some(uid) = request.uid {
        assert_eq!(now.uid, uid);
    }
    if let set_gid3::Some(gid) = request.gid {
        assert_eq!(now.gid, gid);
    }
    if let set_size3::Some(size) = request.size {
        assert_eq!(now.size, size);
    }
    if let set_atime::SET_TO_CLIENT_TIME(time) = &request.atime {
        assert_eq!(now.atime, *time);
    }
    if let set_mtime::SET_TO_CLIENT_TIME(time) = &request.mtime {
        assert_eq!(now.mtime, *time);
    }
}

/// Recreates the file of this kind.
fn recreate(kind: &str, path: &Path, uid: u32) {
    match kind {
        "dir" => drop(fs::remove_dir(path)),
        _ => drop(fs::remove_file(path)),
    }
    match kind {
        "file" => fs::write(path, b"0123456789").unwrap(),
        "dir" => fs::create_dir(path).unwrap(),
        "symlink" => symlink("target", path).unwrap(),
        _ => rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o666.into()).unwrap(),
    }
    if kind != "symlink" {
        rustix::fs::chmod(path, 0o666.into()).unwrap();
    }
    if privileged() {
        std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
    }
}

#[test]
fn every_combination_is_set_completely_or_not_at_all() {
    let s = Setup::default().exports("{} *(rw,async,no_root_squash,insecure)").start();
    let mut c = s.client();
    let root = c.mounted(s.dir.to_str().unwrap());
    let (mut set, mut refused) = (0, 0);
    // The callers, and the owner and group that they request.
    let mine = (c.cred.uid, c.cred.gid);
    let callers = if privileged() {
        let (owner, other) = (Cred::user(1000).groups(&[9]), Cred::user(2000));
        vec![
            (Cred::superuser(), (7, 8)),
            (owner.clone(), (1000, 9)),
            (owner.clone(), (7, 9)),
            (owner, (1000, 8)),
            (other, (2000, 2000)),
        ]
    } else {
        vec![(c.cred.clone(), mine), (c.cred.clone(), (mine.0 + 1, mine.1))]
    };
    for kind in ["file", "dir", "symlink", "fifo"] {
        for (cred, requested) in &callers {
            for bits in 0..128 {
                recreate(kind, &s.dir.join(kind), 1000);
                let object = c.find(&root, kind);
                let before = c.attrs(&object);
                let request = some_of(bits & 63, *requested, bits & 64 != 0);
                let answer = c.with(cred.clone(), |c| c.setattr(&object, request.clone()));
                let now = c.attrs(&object);
                if answer.status() == NFS3_OK {
                    exact_wcc(&answer.ok().obj_wcc, &before, &now);
                    has_all(&now, &request);
                    set += 1;
                } else {
                    exact_wcc(&answer.failed().obj_wcc, &before, &now);
                    same_attrs(&fattr3 { ctime: before.ctime, ..now }, &before);
                    refused += 1;
                }
            }
        }
    }
    assert!(set > 400 && refused > 200, "{set} succeeded, {refused} failed");
}
