//! The exports file: clients, options and squash; and that SIGHUP reads it again.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use nfs3_types::mount::mountres3;
use rustix::process::Signal;

use crate::support::client::{Client, Cred, own_gid};
use crate::support::server::{Server, Setup, run};
use crate::support::wire::*;
use crate::support::{eventually, not_tried, privileged};

const REFUSED: &[nfsstat3] = &[NFS3ERR_ACCES, NFS3ERR_PERM, NFS3ERR_STALE, NFS3ERR_BADHANDLE];

/// A server that exports its world-writable directory with these options.
fn with_options(options: &str) -> Server {
    Setup::default().exports(&format!("{{}} *({options})\n")).start_over(|dir| {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.join("file"), b"content").unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
    })
}

fn mounted(s: &Server, c: &mut Client) -> Fh {
    c.mounted(s.dir.to_str().unwrap())
}

/// The owner and group of a file that the caller makes.
fn made_as(s: &Server, cred: Cred) -> (u32, u32) {
    let mut c = s.client_as(cred);
    let root = mounted(s, &mut c);
    let file = c.file(&root, "made");
    let attrs = c.attrs(&file);
    c.remove(&root, "made").ok();
    (attrs.uid, attrs.gid)
}

#[track_caller]
fn check_identity(s: &Server, cred: Cred, expected: (u32, u32)) {
    let own = (Cred::superuser().uid, own_gid());
    let expected = if privileged() { expected } else { own };
    assert_eq!(made_as(s, cred.clone()), expected, "{cred:?}");
}

#[test]
fn changes_in_a_read_only_export_are_rofs() {
    let s = with_options("ro,insecure,no_root_squash");
    let mut c = s.client();
    let root = mounted(&s, &mut c);
    let file = c.find(&root, "file");
    assert_eq!(c.content(&file), b"content");
    assert_eq!(c.names(&root, 4096).len(), 2);
    let granted = c.access(&root, 0x3f).ok().access;
    assert_eq!(granted & (ACCESS3_MODIFY | ACCESS3_EXTEND | ACCESS3_DELETE), 0);
    assert_ne!(granted & ACCESS3_READ, 0);
    let fifo = mknoddata3::NF3FIFO(mode(0o644));
    for (procedure, status) in [
        ("SETATTR", c.setattr(&file, mode(0o600)).status()),
        ("WRITE", c.write(&file, 0, b"x", stable_how::UNSTABLE).status()),
        ("CREATE", c.create(&root, "x", createhow3::UNCHECKED(mode(0o644))).status()),
        ("CREATE of a file", c.create(&root, "file", createhow3::UNCHECKED(size(0))).status()),
        (
            "CREATE EXCLUSIVE",
            c.create(&root, "x", createhow3::EXCLUSIVE(createverf3([1; 8]))).status(),
        ),
        ("MKDIR", c.mkdir(&root, "x", mode(0o755)).status()),
        ("SYMLINK", c.symlink(&root, "x", "y").status()),
        ("MKNOD", c.mknod(&root, "x", fifo).status()),
        ("REMOVE", c.remove(&root, "file").status()),
        ("RMDIR", c.rmdir(&root, "dir").status()),
        ("RENAME", c.rename((&root, "file"), (&root, "x")).status()),
        ("LINK", c.link(&file, &root, "x").status()),
    ] {
        assert_eq!(status, NFS3ERR_ROFS, "{procedure}");
    }
    assert_eq!(fs::read(s.dir.join("file")).unwrap(), b"content");
}

#[test]
fn an_export_is_read_only_by_default() {
    let s = with_options("insecure");
    let mut c = s.client();
    let root = mounted(&s, &mut c);
    c.remove(&root, "file").fails(NFS3ERR_ROFS);
}

#[test]
fn only_root_is_squashed_by_default() {
    let s = with_options("rw,insecure");
    check_identity(&s, Cred::user(0), (65534, 65534));
    check_identity(&s, Cred { uid: 0, gid: 500, groups: vec![] }, (65534, 500));
    check_identity(&s, Cred { uid: 1000, gid: 500, groups: vec![] }, (1000, 500));
    let s = with_options("rw,insecure,root_squash,anonuid=7,anongid=8");
    check_identity(&s, Cred::user(0), (7, 8));
    check_identity(&s, Cred::user(1000), (1000, 1000));
}

#[test]
fn squashed_root_has_no_privileges() {
    let s = with_options("rw,insecure");
    fs::set_permissions(s.dir.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut c = s.client_as(Cred::user(0).groups(&[0]));
    let root = mounted(&s, &mut c);
    let file = c.find(&root, "file");
    if privileged() {
        c.read(&file, 0, 10).fails(NFS3ERR_ACCES);
        c.setattr(&file, owner(65534)).fails(NFS3ERR_PERM);
    } else {
        assert_eq!(c.content(&file), b"content", "all callers act as the server's user");
    }
}

#[test]
fn group_0_is_squashed_too() {
    if !privileged() {
        return not_tried("needs privileges to act as another user");
    }
    let s = with_options("rw,insecure");
    fs::set_permissions(s.dir.join("file"), fs::Permissions::from_mode(0o060)).unwrap();
    assert_eq!(fs::metadata(s.dir.join("file")).unwrap().gid(), 0);
    // The file belongs to group 0, of which no client may claim to be a member.
    for cred in [Cred { uid: 1000, gid: 0, groups: vec![] }, Cred::user(1000).groups(&[5, 0])] {
        let mut c = s.client_as(cred);
        let root = mounted(&s, &mut c);
        let file = c.find(&root, "file");
        c.read(&file, 0, 10).fails(NFS3ERR_ACCES);
    }
}

#[test]
fn all_squash_and_no_root_squash_apply() {
    let s = with_options("rw,insecure,all_squash,anonuid=7,anongid=8");
    check_identity(&s, Cred::user(0), (7, 8));
    check_identity(&s, Cred::user(1000), (7, 8));
    let s = with_options("rw,insecure,no_root_squash");
    check_identity(&s, Cred::user(0), (0, 0));
}

#[test]
fn a_secure_export_requires_privileged_ports() {
    for options in ["rw", "rw,secure"] {
        let s = with_options(options);
        let dir = s.dir.to_str().unwrap();
        let mut c = s.client();
        let mountres3::Err(why) = c.mnt(dir) else { panic!("mounted from an unprivileged port") };
        assert!([1, 13].contains(&(why as u32)), "{why}");
        if privileged() {
            let mut trusted = privileged_client(&s);
            let root = trusted.mounted(dir);
            trusted.getattr(&root).ok();
            // A handle alone grants no access.
            one_of(c.getattr(&root).status(), REFUSED);
            one_of(c.read(&root, 0, 1).status(), REFUSED);
        }
    }
}

fn privileged_client(s: &Server) -> Client {
    (600..1024)
        .find_map(|port| {
            Client::connect_from(IpAddr::from([127, 0, 0, 1]), port, s.addr, Cred::superuser()).ok()
        })
        .expect("a privileged port is free")
}

fn from(s: &Server, last: u8) -> Client {
    Client::connect_from(IpAddr::from([127, 0, 0, last]), 0, s.addr, Cred::superuser()).unwrap()
}

#[test]
fn the_most_specific_client_entry_applies() {
    let s = Setup::default()
        .exports(
            "{} *(ro,insecure,no_root_squash) 127.0.0.0/29(rw,insecure,no_root_squash) \
             127.0.0.2(ro,insecure,no_root_squash)\n",
        )
        .start_over(|dir| fs::write(dir.join("file"), b"content").unwrap());
    for (last, may_write) in [(1, true), (2, false), (7, true), (8, false)] {
        let mut c = from(&s, last);
        let root = mounted(&s, &mut c);
        let file = c.find(&root, "file");
        let expected = if may_write { NFS3_OK } else { NFS3ERR_ROFS };
        assert_eq!(c.setattr(&file, mode(0o644)).status(), expected, "127.0.0.{last}");
    }
}

#[test]
fn an_unlisted_client_is_refused_at_every_call() {
    let s = Setup::default()
        .exports("{} 127.0.0.1(rw,insecure,no_root_squash)\n")
        .start_over(|dir| fs::write(dir.join("file"), b"content").unwrap());
    let mut c = s.client();
    let root = mounted(&s, &mut c);
    let file = c.find(&root, "file");
    let mut other = from(&s, 9);
    for status in [
        other.getattr(&root).status(),
        other.lookup(&root, "file").status(),
        other.read(&file, 0, 10).status(),
        other.write(&file, 0, b"x", stable_how::UNSTABLE).status(),
        other.remove(&root, "file").status(),
        other.fsinfo(&root).status(),
        other.readdir(&root, (0, cookieverf3::default()), 4096).status(),
    ] {
        one_of(status, REFUSED);
    }
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn sighup_reads_the_file_again() {
    let s = Setup::default().exports("{}/a *(rw,insecure,no_root_squash)\n").start_over(|dir| {
        for name in ["a", "b"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
    });
    let dir = s.dir.to_str().unwrap().to_owned();
    let mut c = s.client();
    let a = c.mounted(format!("{dir}/a"));
    let file = c.file_of(&a, "file", b"content");
    assert_eq!(c.export().len(), 1);

    s.write_exports("{}/a *(ro,insecure,no_root_squash)\n{}/b *(rw,insecure,no_root_squash)\n");
    s.signal(Signal::HUP);
    eventually("the new export is listed", || c.export().len() == 2);
    let b = c.mounted(format!("{dir}/b"));
    c.file(&b, "file");
    c.setattr(&file, mode(0o600)).fails(NFS3ERR_ROFS);
    assert_eq!(c.content(&file), b"content", "with the old connection and handle");

    s.write_exports("{}/b *(rw,insecure,no_root_squash)\n");
    s.signal(Signal::HUP);
    eventually("the old export is gone", || c.export().len() == 1);
    one_of(c.getattr(&a).status(), &[NFS3ERR_STALE, NFS3ERR_BADHANDLE]);
    one_of(c.getattr(&file).status(), &[NFS3ERR_STALE, NFS3ERR_BADHANDLE]);
    c.getattr(&b).ok();
}

#[test]
fn sighup_exports_a_recreated_directory() {
    let s = Setup::default().exports("{}/a *(rw,insecure,no_root_squash)\n").start_over(|dir| {
        fs::create_dir(dir.join("a")).unwrap();
    });
    let path = format!("{}/a", s.dir.to_str().unwrap());
    let mut c = s.client();
    let old = c.mounted(path.clone());
    fs::remove_dir(s.dir.join("a")).unwrap();
    fs::create_dir(s.dir.join("a")).unwrap();
    one_of(c.getattr(&old).status(), &[NFS3ERR_STALE]);
    s.signal(Signal::HUP);
    eventually("the new directory is exported", || s.log().contains("exports read again"));
    let new = c.mounted(path);
    c.file(&new, "file");
    assert!(s.dir.join("a/file").exists());
}

#[test]
fn a_faulty_file_changes_nothing_and_is_logged() {
    let s = Setup::default().exports("{} *(rw,insecure,no_root_squash)\n").start();
    let mut c = s.client();
    let root = mounted(&s, &mut c);
    for (lines, word) in [
        ("{} *(rw,no_such_option)\n", "no_such_option"),
        ("{} *(ro,insecure)\n{}/missing *(rw)\n", "missing"),
    ] {
        s.write_exports(lines);
        s.signal(Signal::HUP);
        eventually("the fault is logged", || s.log().contains(word));
        c.setattr(&root, mode(0o755)).ok();
        assert_eq!(c.export().len(), 1);
    }
    fs::remove_file(s.beside("exports")).unwrap();
    let before = s.log().len();
    s.signal(Signal::HUP);
    eventually("the missing file is logged", || s.log().len() > before);
    c.setattr(&root, mode(0o755)).ok();
}

#[test]
fn set_id_bits_and_devices_can_be_refused() {
    if !privileged() {
        return not_tried("making devices needs privileges");
    }
    let prepare = |dir: &Path| {
        fs::write(dir.join("old"), b"program").unwrap();
        fs::set_permissions(dir.join("old"), fs::Permissions::from_mode(0o6755)).unwrap();
        run(Command::new("mknod").arg(dir.join("null")).args(["c", "1", "3"]));
    };
    let options = "rw,insecure,no_root_squash,nosuid,nodev";
    let s = Setup::default().exports(&format!("{{}} *({options})\n")).start_over(prepare);
    let mut c = s.client();
    let root = mounted(&s, &mut c);
    let on_disk = |name: &str| fs::metadata(s.dir.join(name)).unwrap().mode() & 0o7777;

    // Existing bits and device numbers are hidden, so clients do not honour them.
    let (old, null) = (c.find(&root, "old"), c.find(&root, "null"));
    assert_eq!((c.attrs(&old).mode, on_disk("old")), (0o755, 0o6755));
    let device = c.attrs(&null);
    assert_eq!(
        (device.type_, device.rdev.specdata1, device.rdev.specdata2),
        (ftype3::NF3CHR, 0, 0)
    );
    let page = c.readdirplus(&root, (0, cookieverf3::default()), (8192, 8192)).ok();
    for entry in page.reply.entries.0 {
        if let post_op_attr::Some(attrs) = &entry.name_attributes {
            let hidden = attrs.mode & 0o6000 == 0 && attrs.rdev.specdata1 == 0;
            assert!(hidden, "{}: {attrs:?}", entry.name.0.escape_ascii());
        }
    }

    // No procedure can set them.
    let made = given_fh(c.create(&root, "guarded", createhow3::GUARDED(mode(0o6755))).ok().obj);
    c.create(&root, "unchecked", createhow3::UNCHECKED(mode(0o4711))).ok();
    c.mknod(&root, "fifo", mknoddata3::NF3FIFO(mode(0o2644))).ok();
    c.setattr(&made, mode(0o4755)).ok();
    c.write(&made, 0, b"#!/bin/sh", stable_how::FILE_SYNC).ok();
    assert_eq!(c.commit(&made, 0, 0).status(), NFS3_OK);
    for (name, expected) in [("guarded", 0o755), ("unchecked", 0o711), ("fifo", 0o644)] {
        assert_eq!(on_disk(name), expected, "{name}");
    }
    let spec = || devicedata3 {
        dev_attributes: mode(0o666),
        spec: specdata3 { specdata1: 1, specdata2: 3 },
    };
    c.mknod(&root, "char", mknoddata3::NF3CHR(spec())).fails(NFS3ERR_PERM);
    c.mknod(&root, "block", mknoddata3::NF3BLK(spec())).fails(NFS3ERR_PERM);

    // The bits of a directory are kept: they only pass its group on.
    let dir = given_fh(c.mkdir(&root, "dir", mode(0o2775)).ok().obj);
    c.setattr(&dir, mode(0o3775)).ok();
    assert_eq!((c.attrs(&dir).mode, on_disk("dir")), (0o3775, 0o3775));
}
