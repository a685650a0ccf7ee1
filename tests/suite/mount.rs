//! MOUNT version 3 (RFC 1813 §5), over TCP and UDP.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use nfs3_types::mount::{mountres3, mountstat3};

use crate::support::PATIENCE;
use crate::support::client::{
    Client, Cred, MOUNT, NFS, Reply, Target, auth, message, packed_path, unpacked, words,
};
use crate::support::server::{Server, Setup, free_port};
use crate::support::wire::*;

#[track_caller]
fn refused(answer: mountres3<'_>, allowed: &[u32]) {
    match answer {
        mountres3::Ok(_) => panic!("mounted"),
        mountres3::Err(why) => assert!(allowed.contains(&(why as u32)), "{why}"),
    }
}

const NOENT: &[u32] = &[mountstat3::MNT3ERR_NOENT as u32, mountstat3::MNT3ERR_ACCES as u32];
const ACCES: &[u32] = &[mountstat3::MNT3ERR_ACCES as u32];

#[test]
fn mnt_returns_the_root_handle_and_the_flavors() {
    let s = Server::start();
    let mut c = s.client();
    c.raw(MOUNT, 0, &[]).results();
    let mountres3::Ok(ok) = c.mnt("/") else { panic!("not mounted") };
    assert!((1..=64).contains(&ok.fhandle.0.len()));
    assert!(ok.auth_flavors.contains(&1), "AUTH_SYS: {:?}", ok.auth_flavors);
    assert_eq!(c.attrs(&fh(&ok.fhandle.0)).type_, ftype3::NF3DIR);
}

#[test]
fn mnt_works_over_udp_but_datagrams_do_not_change_the_list() {
    let s = Server::start();
    fs::create_dir(s.dir.join("dir")).unwrap();
    let mut c = s.client();
    c.mounted("/dir");
    let before = c.dump();
    assert_eq!(before.len(), 1);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(s.addr).unwrap();
    let call = message(7, MOUNT, 1, &Cred::superuser().encoded(), &packed_path("/"));
    socket.send(&call).unwrap();
    let mut answer = [0; 2048];
    let len = socket.recv(&mut answer).unwrap();
    let (xid, reply) = Reply::decode(&answer[..len]);
    assert_eq!(xid, 7);
    let mountres3::Ok(ok) = unpacked::<mountres3<'static>>(&reply.results()) else {
        panic!("not mounted")
    };
    // The address of a datagram may be forged.
    for (procedure, args) in [(3, packed_path("/dir")), (4, Vec::new())] {
        socket.send(&message(8, MOUNT, procedure, &Cred::superuser().encoded(), &args)).unwrap();
        socket.recv(&mut answer).unwrap();
    }
    assert_eq!(c.dump(), before);
    assert_eq!(fh(&ok.fhandle.0), s.client().root());
}

/// Sends a call over UDP. Returns the reply, and the lengths of the call and the reply.
fn datagram(to: SocketAddr, target: Target, procedure: u32, args: &[u8]) -> (Reply, [usize; 2]) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    // AUTH_NONE makes the shortest call.
    let call = message(7, target, procedure, &auth(0, &[]), args);
    socket.send(&call).unwrap();
    let mut answer = [0; 65536];
    let len = socket.recv(&mut answer).unwrap();
    let (xid, reply) = Reply::decode(&answer[..len]);
    assert_eq!(xid, 7);
    (reply, [call.len(), len])
}

#[test]
fn udp_replies_are_never_missing_or_much_longer_than_their_calls() {
    const EXPORTS: u32 = 400;
    let lines: String = (0..EXPORTS).map(|n| format!("{{}}/{n} *(ro,insecure)\n")).collect();
    let portmap = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let s = Setup::default().args(&["--portmap", &portmap.to_string()]).exports(&lines).start_over(
        |dir| (0..EXPORTS).for_each(|n| fs::create_dir(dir.join(n.to_string())).unwrap()),
    );
    let mut c = s.client();
    for n in 0..50 {
        c.mounted(s.dir.join(n.to_string()).as_os_str().as_bytes());
    }
    let path = packed_path(s.dir.join("0").as_os_str().as_bytes());
    let mut refused = Vec::new();
    let mut ask = |to, target: Target, procedure, args: &[u8]| {
        let (reply, [call, len]) = datagram(to, target, procedure, args);
        assert!(len <= 4 * call, "{target:?} {procedure}: {len} bytes to {call}");
        if reply == Reply::Refused(5, vec![]) {
            refused.push((target, procedure));
        }
    };
    for version in 1..=3 {
        for procedure in [0, 1, 2, 5] {
            ask(s.addr, (MOUNT.0, version), procedure, &path);
        }
    }
    for version in 2..=4 {
        for procedure in 0..14 {
            ask(portmap, (100_000, version), procedure, &words(&[100_003, 3, 6, 0, 0]));
        }
    }
    // Replies that are too long for UDP are SYSTEM_ERR; the client gets them over TCP.
    let mount = (1..=3).flat_map(|version| [((MOUNT.0, version), 2), ((MOUNT.0, version), 5)]);
    let expected: Vec<_> = mount.chain((2..=4).map(|version| ((100_000, version), 4))).collect();
    assert_eq!(refused, expected);
    assert_eq!(c.export().len(), 400);
}

#[test]
fn a_directory_below_an_export_can_be_mounted() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let inner = c.dir(&dir, "inner");
    for path in ["/dir/inner", "/dir/inner/", "//dir//inner", "/dir/./inner"] {
        let mounted = c.mounted(path);
        assert_eq!(c.attrs(&mounted).fileid, c.attrs(&inner).fileid, "{path}");
    }
}

#[test]
fn an_empty_path_is_the_root() {
    // Clients send this for a URL without a path.
    let s = Server::start();
    let mut c = s.client();
    assert_eq!(c.mounted(""), c.root());
}

#[test]
fn a_path_that_is_no_directory_of_an_export_is_not_mounted() {
    let s = Setup::default().start_over(|dir| {
        fs::write(dir.join("file"), b"").unwrap();
        fs::create_dir(dir.join("dir")).unwrap();
        symlink("/", dir.join("up")).unwrap();
        symlink("round", dir.join("round")).unwrap();
        symlink("file", dir.join("to-file")).unwrap();
    });
    let mut c = s.client();
    refused(c.mnt("/nothing"), NOENT);
    refused(c.mnt("relative"), &[NOENT, &[mountstat3::MNT3ERR_INVAL as u32]].concat());
    let not_a_directory = [NOENT, &[mountstat3::MNT3ERR_NOTDIR as u32]].concat();
    refused(c.mnt("/file"), &not_a_directory);
    for path in ["/up/etc", "/etc", "/round", "/to-file", "/dir/../..", "/../etc"] {
        refused(c.mnt(path), &[&not_a_directory[..], &[22, 1]].concat());
    }
}

#[test]
fn symbolic_links_are_followed_within_the_export() {
    let s = Setup::default().start_over(|dir| {
        fs::create_dir_all(dir.join("dir/inner")).unwrap();
        for (name, target) in [
            ("plain", "dir"),
            ("absolute", "/dir/inner"),
            ("dir/back", "../dir/inner"),
            ("chain", "plain/back"),
            ("above", "../../../../dir"),
            ("root", "/"),
            ("host", "/tmp"),
        ] {
            symlink(target, dir.join(name)).unwrap();
        }
    });
    let mut c = s.client();
    let root = c.root();
    let dir = c.find(&root, "dir");
    let inner = c.find(&dir, "inner");
    for (path, expected) in [
        ("/plain", &dir),
        ("/plain/", &dir),
        ("/plain/inner", &inner),
        ("/absolute", &inner),
        ("/dir/back", &inner),
        ("/chain", &inner),
        ("/above", &dir),
        ("/root", &root),
        ("/root/dir/inner", &inner),
    ] {
        let mounted = c.mounted(path);
        assert_eq!(mounted, *expected, "{path}");
        assert_eq!(c.attrs(&mounted).fileid, c.attrs(expected).fileid, "{path}");
    }
    refused(c.mnt("/host"), NOENT); // resolves to the export's own /tmp
}

#[test]
fn long_paths_are_refused() {
    let s = Server::start();
    let mut c = s.client();
    let too_long = mountstat3::MNT3ERR_NAMETOOLONG as u32;
    refused(c.mnt([&b"/"[..], &[b'n'; 300]].concat()), &[NOENT, &[too_long]].concat());
    // MNTPATHLEN is 1024.
    match c.raw(MOUNT, 1, &packed_path([b'/'; 1025])) {
        Reply::Refused(4, _) => {}
        reply => refused(unpacked(&reply.results()), &[NOENT, &[too_long]].concat()),
    }
}

#[test]
fn exports_are_listed_with_their_clients() {
    let s = Setup::default()
        .exports("{}/a 127.0.0.1(rw,insecure) 10.0.0.0/8(ro)\n{}/b *(ro,insecure)\n")
        .start_over(|dir| {
            for name in ["a", "b"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
        });
    let dir = s.dir.to_str().unwrap().as_bytes();
    let mut listed = s.client().export();
    listed.sort();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(listed[0].0, [dir, b"/a"].concat());
    assert_eq!(listed[0].1, [b"127.0.0.1"], "entries that match the caller");
    assert_eq!(listed[1].0, [dir, b"/b"].concat());
    // Every client: an empty list, or a *.
    assert!(listed[1].1.is_empty() || listed[1].1 == [b"*"], "{listed:?}");
}

#[test]
fn a_client_sees_only_its_exports_and_its_mounts() {
    let s = Setup::default()
        .exports(
            "{}/ours 127.0.0.1(rw,insecure) 127.0.0.3(ro,insecure)\n\
             {}/theirs 127.0.0.2(rw,insecure)\n{}/open *(ro,insecure)\n",
        )
        .start_over(|dir| {
            for name in ["ours", "theirs", "open"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
        });
    let path = |name: &str| s.dir.join(name).into_os_string().into_encoded_bytes();
    let from = |last| {
        let ip = IpAddr::from([127, 0, 0, last]);
        Client::connect_from(ip, 0, s.addr, Cred::superuser()).unwrap()
    };
    let shown = |last| {
        let mut list: Vec<_> = from(last).export();
        list.sort();
        list
    };
    let open = (path("open"), vec![b"*".to_vec()]);
    assert_eq!(shown(1), [open.clone(), (path("ours"), vec![b"127.0.0.1".to_vec()])]);
    assert_eq!(shown(2), [open.clone(), (path("theirs"), vec![b"127.0.0.2".to_vec()])]);
    assert_eq!(shown(9), [open]);

    s.client().mounted(path("ours"));
    from(2).mounted(path("theirs"));
    assert_eq!(s.client().dump(), [(b"127.0.0.1".to_vec(), path("ours"))]);
    assert_eq!(from(2).dump(), [(b"127.0.0.2".to_vec(), path("theirs"))]);
    assert_eq!(from(9).dump(), []);
}

#[test]
fn mounts_are_listed_until_unmounted() {
    let s = Server::start();
    let mut c = s.client();
    assert_eq!(c.dump(), []);
    let root = c.root();
    c.dir(&root, "dir");
    c.mounted("/dir");
    let mut paths: Vec<_> = c.dump().into_iter().map(|(_, path)| path).collect();
    paths.sort();
    assert_eq!(paths, [&b"/"[..], b"/dir"]);
    assert_eq!(c.dump()[0].0, b"127.0.0.1");
    c.umnt("/dir");
    assert_eq!(c.dump().len(), 1);
    c.umnt("/dir"); // unmounting twice is not an error
    c.mounted("/");
    assert_eq!(c.dump().len(), 1, "a repeated mount is listed once");
    c.umntall();
    assert_eq!(c.dump(), []);
    c.getattr(&root).ok(); // handles do not depend on the list
}

#[test]
fn a_client_cannot_remove_the_mounts_of_another() {
    let s = Server::start();
    let mut c = s.client();
    c.root();
    let from = IpAddr::from([127, 0, 0, 2]);
    let mut other = Client::connect_from(from, 0, s.addr, Cred::superuser()).unwrap();
    other.root();
    other.umntall();
    assert_eq!(c.dump(), [(b"127.0.0.1".to_vec(), b"/".to_vec())]);
}

#[test]
fn a_client_without_access_cannot_mount() {
    let s = Setup::default().exports("{} 127.0.0.2(rw,insecure)\n").start();
    let dir = s.dir.to_str().unwrap();
    refused(s.client().mnt(dir), ACCES);
    let from = IpAddr::from([127, 0, 0, 2]);
    Client::connect_from(from, 0, s.addr, Cred::superuser()).unwrap().mounted(dir);
}

#[test]
fn other_versions_get_the_supported_range() {
    let s = Server::start();
    let mut c = s.client();
    for version in [0, 2, 4] {
        let Reply::Refused(2, range) = c.raw((NFS.0, version), 0, &[]) else {
            panic!("version {version} of NFS is served")
        };
        assert_eq!(range, words(&[3, 3]));
    }
    for version in [0, 4] {
        let Reply::Refused(2, _) = c.raw((MOUNT.0, version), 0, &[]) else {
            panic!("version {version} of MOUNT is served")
        };
    }
}
