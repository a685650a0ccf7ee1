//! Who the caller is decides what it may do and whose its files are: AUTH_SYS, the groups, the
//! kernel's rules for directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::support::client::{Client, Cred, NFS, Reply, auth, message, own_gid, someone, words};
use crate::support::privileged;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

/// Files that each need another reason to be read: their owner, their group.
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
fn owner_group_and_others_are_told_apart() {
    let s = library();
    let mut c = s.client();
    if !privileged() {
        // Everything is the one user's, and an owner may.
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
fn one_connection_carries_calls_of_many_users() {
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
fn users_do_not_mix_when_many_call_at_once() {
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
    assert_eq!((attrs.gid, attrs.mode & 0o2000), (expected, 0o2000), "it is handed down");
    let link = c.symlink_to(&dir, "link", "x");
    assert_eq!(c.attrs(&link).gid, expected);
}

#[test]
fn not_being_the_owner_is_another_error_than_not_being_allowed() {
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
fn a_caller_without_credentials_is_nobody() {
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
fn credentials_that_make_no_sense_are_refused_and_harm_nothing() {
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
        (99, vec![]),                 // nothing that exists
        (1, vec![]),                  // no user
        (1, user(17)),                // one group more than there can be
        (1, words(&[0, 0, 1, 1, 5])), // five groups, none given
        (1, words(&[0, 300])),        // a machine with a name too long
    ] {
        let call = message(11, NFS, 1, &auth(flavor, &body), &packed(&root));
        let Reply::Denied(1, why) = c.exchange(&call) else { panic!("flavor {flavor} is let in") };
        assert!([1, 5].contains(&why[3]), "AUTH_BADCRED or AUTH_TOOWEAK, not {why:?}");
    }
    c.exchange(&message(12, NFS, 1, &auth(1, &user(16)), &packed(&root))).results();
}

#[test]
fn nobody_asks_for_null() {
    // Probes come with AUTH_NONE, and some clients mount with it.
    let s = Server::start();
    let mut c = s.client();
    c.exchange(&message(1, NFS, 0, &auth(0, &[]), &[])).results();
    c.exchange(&message(2, (100_005, 3), 0, &auth(0, &[]), &[])).results();
}

#[test]
fn the_server_itself_stays_who_it_is() {
    // A thread that forgot to become itself again would fail at the next handle.
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
    // Only the file-system ids may differ: by the others a thread could be signalled and traced.
    let own = Cred::superuser().uid.to_string();
    let pid = s.pid().as_raw_nonzero();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap();
        assert!(uids.split_whitespace().take(3).all(|uid| uid == own), "{uids}");
    }
}
