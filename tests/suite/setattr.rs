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

/// Sets attributes, checks the cache consistency data, and returns the attributes that follow.
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
fn the_owner_is_given_away_by_the_superuser_alone() {
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
fn the_size_truncates_and_extends() {
    let (_s, mut c, file) = one_file(b"0123456789");
    assert_eq!(changed(&mut c, &file, size(4)).size, 4);
    assert_eq!(changed(&mut c, &file, size(6)).size, 6);
    assert_eq!(c.content(&file), b"0123\0\0");
}

#[test]
fn times_are_the_clients_or_the_servers() {
    let (_s, mut c, file) = one_file(b"");
    let client = times(set_atime::SET_TO_CLIENT_TIME(EARLY), set_mtime::SET_TO_CLIENT_TIME(EARLY));
    let after = changed(&mut c, &file, client);
    assert_eq!((after.atime, after.mtime), (EARLY, EARLY));
    let server = times(set_atime::DONT_CHANGE, set_mtime::SET_TO_SERVER_TIME);
    let after = changed(&mut c, &file, server);
    assert_eq!(after.atime, EARLY, "not to be changed");
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
fn nothing_to_set_changes_nothing() {
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
fn a_symbolic_link_has_an_owner_and_times_of_its_own() {
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
fn a_fifo_has_attributes_to_set_and_is_not_opened() {
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
fn sizes_that_no_file_can_have_are_refused() {
    let (_s, mut c, file) = one_file(b"content");
    for impossible in [1 << 63, u64::MAX] {
        let status = c.setattr(&file, size(impossible)).status();
        one_of(status, &[NFS3ERR_FBIG, NFS3ERR_INVAL]);
    }
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn who_does_not_own_a_file_may_not_set_its_attributes() {
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

/// Without privileges all callers are the server's own user, whatever they say.
fn only_one_user() {
    let (_s, mut c, file) = one_file(b"content");
    c.with(Cred::user(12345), |c| assert_eq!(changed(c, &file, mode(0o600)).mode, 0o600));
}

#[test]
fn the_owner_may_truncate_what_its_mode_forbids() {
    let (_s, mut c, file) = one_file(b"content");
    if privileged() {
        c.setattr(&file, owner(1000)).ok();
        c.cred = someone();
    }
    c.setattr(&file, mode(0o444)).ok();
    assert_eq!(changed(&mut c, &file, size(0)).size, 0);
}

#[test]
fn changing_the_owner_takes_the_setuid_bit_away() {
    if !privileged() {
        // Nobody can give a file away, so that the bit cannot end up with another owner.
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
fn a_mode_means_nothing_to_a_symbolic_link_and_the_rest_is_set() {
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
fn a_size_is_not_set_if_the_rest_is_refused() {
    let (_s, mut c, file) = one_file(b"content");
    let mut wish = sattr3 { mode: set_mode3::Some(0o600), ..owner(7) };
    if privileged() {
        c.setattr(&file, sattr3 { gid: set_gid3::Some(1000), ..owner(1000) }).ok();
        c.cred = someone();
    }
    for (size, gid) in [(0, set_gid3::None), (3, set_gid3::Some(8)), (1000, set_gid3::None)] {
        (wish.size, wish.gid) = (set_size3::Some(size), gid);
        unchanged(&mut c, &file, &wish, NFS3ERR_PERM);
    }
    assert_eq!(c.content(&file), b"content");
}

/// Sets attributes, which is refused; but for its ctime, the object stays as it was.
#[track_caller]
fn unchanged(c: &mut Client, object: &Fh, to: &sattr3, expected: nfsstat3) {
    let before = c.attrs(object);
    let wcc = c.setattr(object, to.clone()).fails(expected).obj_wcc;
    let after = c.attrs(object);
    exact_wcc(&wcc, &before, &after);
    same_attrs(&fattr3 { ctime: before.ctime, ..after }, &before);
}

/// What a call may set: all of it if every bit is set.
fn some_of(bits: u32, (uid, gid): (u32, u32), by_client: bool) -> sattr3 {
    let has = |bit: u32| bits & (1 << bit) != 0;
    let mut wish = sattr3::default();
    if has(0) {
        wish.mode = set_mode3::Some(0o4751);
    }
    if has(1) {
        wish.uid = set_uid3::Some(uid);
    }
    if has(2) {
        wish.gid = set_gid3::Some(gid);
    }
    if has(3) {
        wish.size = set_size3::Some(3);
    }
    if has(4) {
        wish.atime = set_atime::SET_TO_SERVER_TIME;
    }
    if has(5) {
        wish.mtime = set_mtime::SET_TO_SERVER_TIME;
    }
    if by_client {
        wish.atime = set_atime::SET_TO_CLIENT_TIME(EARLY);
        wish.mtime = set_mtime::SET_TO_CLIENT_TIME(LATE);
    }
    wish
}

/// Fails unless `now` has all that `wish` sets.
#[track_caller]
fn has_all(now: &fattr3, wish: &sattr3) {
    if let (set_mode3::Some(mode), true) = (&wish.mode, now.type_ != ftype3::NF3LNK) {
        assert_eq!(now.mode, *mode);
    }
    if let set_uid3::Some(uid) = wish.uid {
        assert_eq!(now.uid, uid);
    }
    if let set_gid3::Some(gid) = wish.gid {
        assert_eq!(now.gid, gid);
    }
    if let set_size3::Some(size) = wish.size {
        assert_eq!(now.size, size);
    }
    if let set_atime::SET_TO_CLIENT_TIME(time) = &wish.atime {
        assert_eq!(now.atime, *time);
    }
    if let set_mtime::SET_TO_CLIENT_TIME(time) = &wish.mtime {
        assert_eq!(now.mtime, *time);
    }
}

/// Makes an object of each kind, anew.
fn make_anew(kind: &str, path: &Path, uid: u32) {
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
fn every_combination_is_set_as_a_whole_or_not_at_all() {
    let s = Setup::default().exports("{} *(rw,async,no_root_squash,insecure)").start();
    let mut c = s.client();
    let root = c.mounted(s.dir.to_str().unwrap());
    let (mut set, mut refused) = (0, 0);
    // Who asks, and what owner is wished for.
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
        for (cred, wished) in &callers {
            for bits in 0..128 {
                make_anew(kind, &s.dir.join(kind), 1000);
                let object = c.find(&root, kind);
                let before = c.attrs(&object);
                let wish = some_of(bits & 63, *wished, bits & 64 != 0);
                let answer = c.with(cred.clone(), |c| c.setattr(&object, wish.clone()));
                let now = c.attrs(&object);
                if answer.status() == NFS3_OK {
                    exact_wcc(&answer.ok().obj_wcc, &before, &now);
                    has_all(&now, &wish);
                    set += 1;
                } else {
                    exact_wcc(&answer.failed().obj_wcc, &before, &now);
                    same_attrs(&fattr3 { ctime: before.ctime, ..now }, &before);
                    refused += 1;
                }
            }
        }
    }
    assert!(set > 400 && refused > 200, "{set} were set, {refused} refused");
}
