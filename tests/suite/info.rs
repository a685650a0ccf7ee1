//! FSSTAT, FSINFO and PATHCONF (RFC 1813 §3.3.18 to §3.3.20).

use std::fs;

use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{client, not_tried, privileged};

#[test]
fn fsstat_matches_statvfs() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let stat = c.fsstat(&root).ok();
    let disk = rustix::fs::statvfs(&s.dir).unwrap();
    assert_eq!(stat.tbytes, disk.f_blocks * disk.f_frsize);
    assert_eq!(stat.tfiles, disk.f_files);
    assert!(stat.abytes <= stat.fbytes && stat.fbytes <= stat.tbytes, "{stat:?}");
    assert!(stat.afiles <= stat.ffiles && stat.ffiles <= stat.tfiles, "{stat:?}");
    same_attrs(given(&stat.obj_attributes), &c.attrs(&root));
}

#[test]
fn fsstat_tracks_usage() {
    if !privileged() {
        return not_tried("mounting a disk needs privileges");
    }
    let s = Setup::default().disk("size=8m,nr_inodes=100").start();
    let mut c = s.client();
    let root = c.root();
    let before = c.fsstat(&root).ok();
    assert_eq!((before.tbytes, before.tfiles), (8 << 20, 100));
    fs::write(s.dir.join("file"), vec![1; 1 << 20]).unwrap();
    let after = c.fsstat(&root).ok();
    assert_eq!(before.fbytes - after.fbytes, 1 << 20);
    assert_eq!(before.ffiles - after.ffiles, 1);
    c.remove(&root, "file").ok();
    assert_eq!(c.fsstat(&root).ok().fbytes, before.fbytes);
}

#[test]
fn fsinfo_has_transfer_sizes_and_capabilities() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let info = c.fsinfo(&root).ok();
    for (max, preferred, multiple) in
        [(info.rtmax, info.rtpref, info.rtmult), (info.wtmax, info.wtpref, info.wtmult)]
    {
        assert!(max >= 1 << 20, "{info:?}");
        assert!(preferred <= max && preferred % 4096 == 0, "{info:?}");
        assert!(multiple > 0 && preferred % multiple == 0, "{info:?}");
    }
    assert!(info.dtpref >= 4096, "{info:?}");
    assert!(info.maxfilesize >= 1 << 40, "{info:?}");
    assert_eq!(info.time_delta, nfstime3 { seconds: 0, nseconds: 1 });
    let all = FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS | FSF3_CANSETTIME;
    assert_eq!(info.properties, all);
    same_attrs(given(&info.obj_attributes), &c.attrs(&root));
}

#[test]
fn pathconf_has_the_limits_of_names() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let conf = c.pathconf(&root).ok();
    assert_eq!(conf.name_max, 255);
    assert!(conf.linkmax > 1, "{conf:?}");
    assert!(conf.no_trunc && conf.chown_restricted, "{conf:?}");
    assert!(!conf.case_insensitive && conf.case_preserving, "{conf:?}");
    same_attrs(given(&conf.obj_attributes), &c.attrs(&root));
}

#[test]
fn any_type_of_file_is_accepted() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let objects = [c.dir(&root, "dir"), c.file(&root, "file"), c.symlink_to(&root, "link", "x")];
    for object in objects {
        assert_eq!(c.fsstat(&object).ok().tbytes, c.fsstat(&root).ok().tbytes);
        c.fsinfo(&object).ok();
        c.pathconf(&object).ok();
    }
}

#[test]
fn no_permission_on_the_file_is_needed() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o700)).ok();
    c.cred = client::Cred::user(4321);
    c.fsstat(&root).ok();
    c.fsinfo(&root).ok();
    c.pathconf(&root).ok();
    c.getattr(&root).ok();
}
