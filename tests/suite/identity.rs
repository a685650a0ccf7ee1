//! Identities: AUTH_SYS credentials and groups decide what a caller may do and who owns its files.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::support::client::{Client, Cred, NFS, Reply, auth, message, own_gid, someone, words};
use crate::support::privileged;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

/// A server with files that are readable by their owner, by their group, or by others.
fn library() -> Server {
    Setup::default().start_over(|dir| {
        let make = |name: &str, bits, uid, gid| {
            let path = dir.join(name);
            fs::write(&path, b"content").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
            if privileged() {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
        };
        make("owner", 0o600, 1000, 1);
        make("group", 0o060, 1, 500);
        make("other", 0o006, 1, 1);
    })
}

#[track_caller]
fn reads(c: &mut Client, cred: Cred, name: &str) -> bool {
    let root = c.root();
    let file = c.find(&root, name);
    match c.with(cred, |c| c.read(&file, 0, 10).status()) {
        NFS3_OK => true,
        NFS3ERR_ACCES => false,
        other => panic!("{other}"),
    }
}

#[test]
fn owner_group_and_others_have_their_own_rights() {
    let s = library();
    let mut c = s.client();
    if !privileged() {
        // All files belong to the only user, and an owner may read.
        for (name, uid) in [("owner", 0), ("group", 1000), ("other", 65534)] {
            assert!(reads(&mut c, Cred::user(uid), name), "{name}");
        }
        return;
    }
    let groups: Vec<u32> = (485..=500).collect();
    assert_eq!(groups.len(), 16);
    for (cred, name, expected) in [
        (Cred::user(1000), "owner", true),
        (Cred::user(1001), "owner", false),
        (Cred { uid: 1001, gid: 500, groups: vec![] }, "group", true),
        (Cred::user(1001).groups(&[500]), "group", true),
        (Cred::user(1001).groups(&groups), "group", true),
        (Cred::user(1001).groups(&groups[..15]), "group", false),
        (Cred::user(1001), "other", true),
        (Cred { uid: 1001, gid: 1, groups: vec![] }, "other", false),
        (Cred::user(0), "owner", true),
        (Cred::user(0), "other", true),
    ] {
        assert_eq!(reads(&mut c, cred.clone(), name), expected, "{name} as {cred:?}");
    }
}

#[test]
fn one_connection_serves_several_users() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o1777)).ok();
    for round in 0..10u32 {
        for uid in [0, 1000, 2000, 3000] {
            let cred = Cred { uid, gid: uid + 1, groups: vec![uid + 2] };
            let file = c.with(cred, |c| c.file(&root, format!("{uid}-{round}")));
            let attrs = c.attrs(&file);
            let expected =
                if privileged() { (uid, uid + 1) } else { (Cred::superuser().uid, own_gid()) };
            assert_eq!((attrs.uid, attrs.gid), expected);
        }
    }
}

#[test]
fn concurrent_users_keep_their_identities() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o1777)).ok();
    std::thread::scope(|scope| {
        for uid in 1000..1008 {
            let (s, root) = (&s, &root);
            scope.spawn(move || {
                let mut c = s.client_as(Cred::user(uid));
                let dir = given_fh(c.mkdir(root, format!("{uid}"), mode(0o700)).ok().obj);
                for round in 0..20 {
                    let file = c.file_of(&dir, format!("{round}"), b"content");
                    let attrs = c.attrs(&file);
                    let expected = if privileged() { uid } else { Cred::superuser().uid };
                    assert_eq!(attrs.uid, expected);
                    if privileged() {
                        let other = Cred::user(1000 + (uid + 1) % 8);
                        c.with(other, |c| c.lookup(&dir, "0").fails(NFS3ERR_ACCES));
                    }
                }
            });
        }
    });
}

#[test]
fn a_new_entry_takes_the_group_of_a_setgid_directory() {
    let s = Setup::default().start_over(|dir| fs::create_dir(dir.join("dir")).unwrap());
    let dir_path = s.dir.join("dir");
    if privileged() {
        chown(&dir_path, Some(1000), Some(500)).unwrap();
    }
    fs::set_permissions(&dir_path, fs::Permissions::from_mode(0o2777)).unwrap();
    let expected = fs::metadata(&dir_path).unwrap().gid();
    let mut c = s.client();
    let root = c.root();
    let dir = c.find(&root, "dir");
    c.cred = Cred::user(2000);
    let file = c.file(&dir, "file");
    assert_eq!(c.attrs(&file).gid, expected);
    let inner = c.dir(&dir, "inner");
    let attrs = c.attrs(&inner);
    assert_eq!((attrs.gid, attrs.mode & 0o2000), (expected, 0o2000), "subdirectories inherit");
    let link = c.symlink_to(&dir, "link", "x");
    assert_eq!(c.attrs(&link).gid, expected);
}

#[test]
fn owner_only_operations_are_perm_and_missing_permission_is_acces() {
    if !privileged() {
        let s = Server::start();
        let mut c = s.client_as(Cred::user(0));
        let root = c.root();
        let file = c.file(&root, "file");
        c.setattr(&file, owner(4711)).fails(NFS3ERR_PERM);
        c.setattr(&root, mode(0o500)).ok();
        c.remove(&root, "file").fails(NFS3ERR_ACCES);
        c.setattr(&root, mode(0o700)).ok();
        return;
    }
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.with(someone(), |c| {
        c.setattr(&file, mode(0o777)).fails(NFS3ERR_PERM);
        c.remove(&root, "file").fails(NFS3ERR_ACCES);
        c.write(&file, 0, b"x", stable_how::UNSTABLE).fails(NFS3ERR_ACCES);
    });
}

#[test]
fn a_caller_without_credentials_is_anonymous() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    c.setattr(&file, mode(0o600)).ok();
    c.setattr(&root, mode(0o777)).ok();
    let args = packed(&READ3args { file, offset: 0, count: 10 });
    let results = c.exchange(&message(9, NFS, 6, &auth(0, &[]), &args)).results();
    let expected = if privileged() { NFS3ERR_ACCES } else { NFS3_OK };
    assert_eq!(results[..4], packed(&expected));
    let how = createhow3::UNCHECKED(mode(0o644));
    let where_ = diropargs3 { dir: root.clone(), name: filename3::from(&b"nobodys"[..]) };
    let args = packed(&CREATE3args { where_, how });
    c.exchange(&message(10, NFS, 8, &auth(0, &[]), &args)).results();
    let made = c.find(&root, "nobodys");
    let uid = if privileged() { 65534 } else { Cred::superuser().uid };
    assert_eq!(c.attrs(&made).uid, uid);
}

#[test]
fn invalid_credentials_are_rejected() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let user = |groups: u32| {
        let mut body = words(&[0, 0, 1000, 1000, groups]);
        body.extend(words(&vec![1; groups as usize]));
        body
    };
    for (flavor, body) in [
        (6, vec![0; 20]),             // RPCSEC_GSS
        (99, vec![]),                 // an unknown flavor
        (1, vec![]),                  // an empty body
        (1, user(17)),                // more groups than AUTH_SYS allows
        (1, words(&[0, 0, 1, 1, 5])), // five groups announced, none sent
        (1, words(&[0, 300])),        // a machine name that is too long
    ] {
        let call = message(11, NFS, 1, &auth(flavor, &body), &packed(&root));
        let Reply::Denied(1, why) = c.exchange(&call) else { panic!("accepted flavor {flavor}") };
        assert!([1, 5].contains(&why[3]), "neither AUTH_BADCRED nor AUTH_TOOWEAK: {why:?}");
    }
    c.exchange(&message(12, NFS, 1, &auth(1, &user(16)), &packed(&root))).results();
}

#[test]
fn null_accepts_auth_none() {
    // Probes use AUTH_NONE, and some clients mount with it.
    let s = Server::start();
    let mut c = s.client();
    c.exchange(&message(1, NFS, 0, &auth(0, &[]), &[])).results();
    c.exchange(&message(2, (100_005, 3), 0, &auth(0, &[]), &[])).results();
}

#[test]
fn the_server_keeps_its_own_identity() {
    // A thread that kept a caller's identity would fail to open the next handle.
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o777)).ok();
    for round in 0..60u32 {
        c.with(Cred::user(1000 + round), |c| {
            let file = c.file(&root, format!("{round}"));
            c.getattr(&file).ok();
            c.setattr(&file, mode(0o600)).ok();
        });
    }
    // Only the file-system ids may differ: other ids would let callers signal and trace the thread.
    let own = Cred::superuser().uid.to_string();
    let pid = s.pid().as_raw_nonzero();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
        assert!(uids.split_whitespace().take(3).all(|uid| uid == own), "{uids}");
    }
}
