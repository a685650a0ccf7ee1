//! Volumes as clients see them: the capacity holds, no client reaches another volume, and a crash
//! leaves no volume half done.

mod killed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use nfs3_types::mount::{mountres3, mountstat3};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::server::{Setup, run};
use crate::support::volumes::{Port, du};
use crate::support::wire::*;
use crate::support::{eventually, not_tried, privileged};

const MIB: u64 = 1 << 20;

/// One mebibyte to write.
fn piece() -> Vec<u8> {
    vec![1; 1 << 20]
}

fn fill(client: &mut Client, file: &Fh, piece: usize) -> u64 {
    let mut at = 0;
    loop {
        match client.write(file, at, &vec![7; piece], stable_how::UNSTABLE) {
            Nfs3Result::Ok(ok) => at += u64::from(ok.count),
            Nfs3Result::Err((status, _)) => {
                assert_eq!(status, NFS3ERR_NOSPC);
                return at;
            }
        }
    }
}

#[track_caller]
fn refused(client: &mut Client, path: &str, expected: mountstat3) {
    match client.mnt(path) {
        mountres3::Ok(_) => panic!("{path} was mounted"),
        mountres3::Err(status) => assert_eq!(status as u32, expected as u32, "{path}"),
    }
}

#[test]
fn fsstat_is_the_volume() {
    let port = Port::start();
    port.done("create a --capacity 16Mi --inodes 100");
    port.done("create b --capacity 1Mi --quota off");
    port.done("create c --capacity 16Mi --quota report");
    port.done("create d --capacity 256Mi");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let before = client.fsstat(&root).ok();
    assert_eq!((before.tbytes, before.tfiles), (16 * MIB, 100));
    assert_eq!((before.fbytes, before.ffiles), (16 * MIB - du(&port.volumes.join("a")).0, 99));
    let file = client.file(&root, "file");
    client.write(&file, 0, &piece(), stable_how::FILE_SYNC).ok();
    let after = client.fsstat(&root).ok();
    assert_eq!((before.abytes - after.abytes, before.afiles - after.afiles), (MIB, 1));
    client.remove(&root, "file").ok();
    assert_eq!(client.fsstat(&root).ok().abytes, before.abytes);
    let usual = client.mounted("/d");
    assert_eq!(client.fsstat(&usual).ok().tfiles, 16384);
    port.done("expand d --capacity 512Mi");
    assert_eq!(client.fsstat(&usual).ok().tfiles, 32768);
    let disk = rustix::fs::statvfs(&port.volumes).unwrap();
    let off = client.mounted("/b");
    assert_eq!(client.fsstat(&off).ok().tbytes, disk.f_blocks * disk.f_frsize);
    let report = client.mounted("/c");
    let file = client.file(&report, "file");
    for at in 0..20 {
        client.write(&file, at * MIB, &piece(), stable_how::UNSTABLE).ok();
    }
    let stat = client.fsstat(&report).ok();
    assert_eq!((stat.tbytes, stat.fbytes), (16 * MIB, 0));
}

#[test]
fn sixteen_clients_fill_a_volume_and_no_more() {
    let port = Port::start();
    port.done("create a --capacity 24Mi");
    // A full volume has no room for files that are made later.
    let all_are_made = Barrier::new(16);
    let written: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|n| {
                let (port, all_are_made) = (&port, &all_are_made);
                scope.spawn(move || {
                    let mut client = port.server.client();
                    let root = client.mounted("/a");
                    let file = client.file(&root, format!("f{n}"));
                    all_are_made.wait();
                    fill(&mut client, &file, 100_000 + n)
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let (bytes, files) = du(&port.volumes.join("a"));
    assert!(bytes <= 24 * MIB && files == 17, "{bytes} bytes, {files} files");
    assert!(written > 23 * MIB, "{written} bytes fitted");
    assert_eq!((port.number("a", "used"), port.number("a", "inodesUsed")), (bytes, files));
}

#[test]
fn a_full_volume_can_be_used_but_not_grown() {
    let port = Port::start();
    port.done("create a --capacity 1Mi");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let file = client.file_of(&root, "file", b"first");
    let size = fill(&mut client, &file, 65536);
    assert_eq!(client.attrs(&file).size, size, "what was answered is what is there");
    client.write(&file, 100, &[1; 1000], stable_how::FILE_SYNC).ok();
    client.commit(&file, 0, 0).ok();
    assert_eq!(client.read(&file, 0, 10).ok().data.len(), 10);
    client.create(&root, "new", createhow3::GUARDED(mode(0o644))).fails(NFS3ERR_NOSPC);
    client.create(&root, "new", createhow3::EXCLUSIVE(createverf3([1; 8]))).fails(NFS3ERR_NOSPC);
    client.mkdir(&root, "new", mode(0o755)).fails(NFS3ERR_NOSPC);
    client.symlink(&root, "new", "target").fails(NFS3ERR_NOSPC);
    client.create(&root, "file", createhow3::GUARDED(mode(0o644))).fails(NFS3ERR_EXIST);
    client.create(&root, "file", createhow3::UNCHECKED(mode(0o644))).ok();
    client.rename((&root, "file"), (&root, "renamed")).ok();
    client.setattr(&file, self::size(1000)).ok();
    client.write(&file, 1000, &[2; 65536], stable_how::UNSTABLE).ok();
    client.remove(&root, "renamed").ok();
    assert_eq!(port.number("a", "inodesUsed"), 1);
}

#[test]
fn inodes_are_limited_too() {
    let port = Port::start();
    port.done("create a --capacity 16Mi --inodes 4");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    client.file(&root, "one");
    client.dir(&root, "two");
    let three = client.symlink_to(&root, "three", "x");
    client.create(&root, "four", createhow3::GUARDED(mode(0o644))).fails(NFS3ERR_NOSPC);
    client.mknod(&root, "four", mknoddata3::NF3FIFO(mode(0o644))).fails(NFS3ERR_NOSPC);
    client.link(&three, &root, "four").ok(); // the same inode
    client.remove(&root, "three").ok();
    client.create(&root, "five", createhow3::GUARDED(mode(0o644))).fails(NFS3ERR_NOSPC);
    client.remove(&root, "four").ok();
    client.file(&root, "five");
    port.done("expand a --inodes 5");
    client.file(&root, "six");
    client.create(&root, "seven", createhow3::GUARDED(mode(0o644))).fails(NFS3ERR_NOSPC);
}

#[test]
fn after_a_crash_the_count_is_right_again() {
    let mut port = Port::start();
    port.done("create a --capacity 64Mi");
    port.done("create b --capacity 1Mi");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let dir = client.dir(&root, "dir");
    for n in 0..50 {
        client.file_of(&dir, format!("f{n}"), &vec![1; 1000 * n]);
    }
    let full = client.mounted("/b");
    let file = client.file(&full, "file");
    fill(&mut client, &file, 65536);
    port.server.crash_and_restart();
    let mut client = port.server.client();
    // Not refused, because the usage is unknown, and not allowed: once it is counted, the volume is
    // full.
    let mut status = NFS3ERR_JUKEBOX;
    while status == NFS3ERR_JUKEBOX {
        status = client.write(&file, 8 * MIB, &[1; 8192], stable_how::UNSTABLE).status();
    }
    assert_eq!(status, NFS3ERR_NOSPC);
    for name in ["a", "b"] {
        port.wait_until_counted(name);
        let counted = (port.number(name, "used"), port.number(name, "inodesUsed"));
        assert_eq!(counted, du(&port.volumes.join(name)), "{name}");
    }
    client.remove(&full, "file").ok();
    client.file_of(&full, "file", &vec![1; 500_000]);
}

#[test]
fn what_was_written_back_only_after_a_crash_is_counted() {
    let mut port = Port::start();
    port.done("create a --capacity 64Mi");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let file = client.file(&root, "scattered");
    // The blocks lie apart, so the file system needs many extents for them.
    for n in 0..1000 {
        client.write(&file, n * 3 * 4096, &[1; 4096], stable_how::UNSTABLE).ok();
    }
    port.server.crash_and_restart();
    port.wait_until_counted("a");
    rustix::fs::syncfs(fs::File::open(&port.volumes).unwrap()).unwrap();
    let counted = (port.number("a", "used"), port.number("a", "inodesUsed"));
    assert_eq!(counted, du(&port.volumes.join("a")));
}

#[test]
fn a_clean_stop_needs_no_count() {
    let mut port = Port::start();
    port.done("create a --capacity 64Mi");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    client.file_of(&root, "file", &vec![1; 100_000]);
    port.server.signal(Signal::TERM);
    assert!(port.server.wait().success());
    let ledger = fs::read_to_string(port.volumes.join(".berth/ledger")).unwrap();
    assert!(ledger.contains("\"exact\":true") && !ledger.contains("\"exact\":false"), "{ledger}");
}

#[test]
fn what_is_changed_beside_the_server_is_found_by_a_recount() {
    let port = Port::start();
    port.done("create a --capacity 64Mi");
    fs::write(port.volumes.join("a/beside"), vec![1; 300_000]).unwrap();
    fs::hard_link(port.volumes.join("a/beside"), port.volumes.join("a/link")).unwrap();
    port.done("recount a");
    eventually("it is counted", || port.number("a", "inodesUsed") == 2);
    assert_eq!(port.number("a", "used"), du(&port.volumes.join("a")).0);
}

#[test]
fn a_volume_ends_where_it_ends() {
    let port = Port::start();
    port.done("create a --capacity 1Mi");
    port.done("create b --capacity 1Mi");
    let mut client = port.server.client();
    let (a, b) = (client.mounted("/a"), client.mounted("/b"));
    let secret = client.file_of(&b, "secret", b"of b");
    // Upwards, from the root.
    assert_eq!(client.find(&a, ".."), a);
    client.symlink_to(&a, "link", "../b");
    client.symlink_to(&a, "absolute", port.volumes.join("b").to_str().unwrap());
    // By another path.
    for path in ["/a/../b", "/a/..", "/a/./../b", "/.berth", "/a/../.berth/volumes"] {
        match client.mnt(path) {
            mountres3::Ok(ok) => assert_ne!(ok.fhandle.0.as_ref(), b.data.as_ref(), "{path}"),
            mountres3::Err(_) => {}
        }
        refused(&mut client, path, mountstat3::MNT3ERR_NOENT);
    }
    // Symbolic links lead to a path inside the volume, where there is no such file.
    refused(&mut client, "/a/link", mountstat3::MNT3ERR_NOENT);
    refused(&mut client, "/a/absolute", mountstat3::MNT3ERR_NOENT);
    for name in ["../b", "/", "..", "../.berth"] {
        let found = client.lookup(&a, name);
        assert!(found.status() != NFS3_OK || name == "..", "{name}");
    }
    // Across, from one volume to the other.
    client.file_of(&a, "mine", b"of a");
    client.rename((&a, "mine"), (&b, "mine")).fails(NFS3ERR_XDEV);
    client.rename((&b, "secret"), (&a, "secret")).fails(NFS3ERR_XDEV);
    client.link(&secret, &a, "secret").fails(NFS3ERR_XDEV);
    assert_eq!(client.content(&secret), b"of b");
    assert_eq!(client.names(&b, 4096), [b"secret"]);
}

#[test]
fn a_handle_cannot_be_carried_into_another_volume() {
    let port = Port::start();
    port.done("create a --capacity 1Mi");
    port.done("create b --capacity 1Mi");
    let mut client = port.server.client();
    let (a, b) = (client.mounted("/a"), client.mounted("/b"));
    let secret = client.file_of(&b, "secret", b"of b");
    let id = 2..10; // of the export, in the handle
    let mut forged = secret.data.as_ref().to_vec();
    forged[id.clone()].copy_from_slice(&a.data.as_ref()[id]);
    client.getattr(&fh(&forged)).fails(NFS3ERR_STALE);
    client.read(&fh(&forged), 0, 10).fails(NFS3ERR_STALE);
    // A handle is invalid for ever after its volume was reclaimed.
    port.done("recycle b --yes");
    client.read(&secret, 0, 10).fails(NFS3ERR_STALE);
    client.getattr(&b).fails(NFS3ERR_STALE);
    port.done("delete b --yes");
    port.done("create b --capacity 1Mi --id another");
    client.read(&secret, 0, 10).fails(NFS3ERR_STALE);
    client.write(&secret, 0, b"x", stable_how::UNSTABLE).fails(NFS3ERR_STALE);
    client.getattr(&b).fails(NFS3ERR_STALE);
}

#[test]
fn clients_are_checked_at_mount_and_at_every_call() {
    let mut port = Port::start();
    port.done("create a --capacity 1Mi --client 127.0.0.0/8");
    port.done("create b --capacity 1Mi --client 10.9.8.7");
    let mut client = port.server.client();
    refused(&mut client, "/b", mountstat3::MNT3ERR_ACCES);
    let root = client.mounted("/a");
    let file = client.file_of(&root, "file", b"content");
    // The list of clients changes, and the client keeps its handles.
    port.server.signal(Signal::TERM);
    assert!(port.server.wait().success());
    let record = port.volumes.join(".berth/volumes/a.json");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("127.0.0.0/8", "10.9.8.7")).unwrap();
    port.server.launch_again();
    let mut client = port.server.client();
    client.getattr(&root).fails(NFS3ERR_ACCES);
    client.read(&file, 0, 10).fails(NFS3ERR_ACCES);
    client.remove(&root, "file").fails(NFS3ERR_ACCES);
    refused(&mut client, "/a", mountstat3::MNT3ERR_ACCES);
}

#[test]
fn the_root_belongs_to_whom_it_was_made_for() {
    if !privileged() {
        return not_tried("giving directories away takes privileges");
    }
    let port = Port::start();
    port.done("create a --capacity 1Mi --uid 1000 --gid 2000 --mode 2770");
    port.done("create b --capacity 1Mi --squash all_squash --anon-uid 1000 --anon-gid 1000");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let attr = client.attrs(&root);
    assert_eq!((attr.uid, attr.gid, attr.mode), (1000, 2000, 0o2770));
    let user = crate::support::client::Cred::user;
    client.with(user(1000), |c| c.file_of(&root, "mine", b"x"));
    client.with(user(1001), |c| {
        c.create(&root, "theirs", createhow3::GUARDED(mode(0o644))).fails(NFS3ERR_ACCES);
        c.lookup(&root, "mine").fails(NFS3ERR_ACCES);
    });
    let squashed = client.mounted("/b");
    let file = client.with(user(55), |c| c.file(&squashed, "file"));
    assert_eq!(client.attrs(&file).uid, 1000);
}

#[test]
fn a_full_disk_makes_no_volumes_and_loses_none() {
    if !privileged() {
        return not_tried("a disk of its own takes privileges");
    }
    let disk = TempDir::with_prefix("berth-disk-").unwrap();
    let options = ["-t", "tmpfs", "-o", "size=2m", "tmpfs"];
    run(Command::new("mount").args(options).arg(disk.path()));
    let temp = TempDir::with_prefix("berth-volumes-").unwrap();
    let (socket, volumes) = (temp.path().join("admin.sock"), disk.path().join("volumes"));
    let mut port = Port::start_at(temp, socket, volumes);
    port.done("create before --capacity 1Mi");
    port.done("create other --capacity 1Mi");
    let full = fs::write(disk.path().join("filler"), vec![1; 4 << 20]);
    assert!(full.is_err(), "the disk is larger than it should be");
    port.failed("create after --capacity 1Mi", 5);
    port.failed("expand before --capacity 2Mi", 5);
    assert_eq!(port.number("before", "free"), 0);
    port.done("recycle before --yes");
    port.done("delete other --yes");
    assert_eq!(port.done("list -o name"), "before\n");
    port.server.crash_and_restart();
    assert_eq!(port.done("list -o name"), "before\n");
    fs::remove_file(disk.path().join("filler")).unwrap();
    port.done("create after --capacity 1Mi");
    port.done("expand before --capacity 2Mi");
    drop(port);
    run(Command::new("umount").arg(disk.path()));
}

#[test]
fn capacities_are_bounded_together_and_told() {
    let port = Port::start_with(&["--overcommit", "1"]);
    let disk = rustix::fs::statvfs(&port.volumes).unwrap();
    let fifth = disk.f_blocks * disk.f_frsize / 5;
    let refused = port.failed(&format!("create a --capacity {fifth}"), 5);
    assert!(refused.contains("--overcommit"), "{refused}");
    port.done("create a --capacity 1Mi");
    port.failed(&format!("expand a --capacity {fifth}"), 5);
    let told = port.done("list");
    assert!(told.contains("\nAll capacities: 1Mi, 0% of the disk ("), "{told}");
    assert!(told.ends_with("the limit is 1% (--overcommit)\n"), "{told}");
}

#[test]
fn names_and_sizes_that_cannot_be_are_refused() {
    let port = Port::start();
    let refused = |args: &[&str]| {
        let socket = port.socket.to_str().unwrap();
        let args = [&["volume", "--admin-socket", socket, "create"], args].concat();
        let output = crate::support::server::berth(&args);
        assert!(matches!(output.status.code(), Some(2 | 5)), "{args:?}: {output:?}");
        assert!(!output.stderr.contains(&7) && !output.stderr.contains(&27), "{output:?}");
    };
    let long = "n".repeat(256);
    for name in
        ["", ".", "..", "../a", "a/b", "/a", ".berth", "a\nb", "a\u{7}b", "\u{1b}[31m", &long]
    {
        refused(&[name, "--capacity", "1Mi"]);
    }
    for capacity in ["0", "-1", "9999999Ti", "1e30", "ten", ""] {
        refused(&["a", &format!("--capacity={capacity}")]);
    }
    assert_eq!(port.done("list -o name"), "");
    assert_eq!(fs::read_dir(&port.volumes).unwrap().count(), 1, "only Berth's own folder");
}

#[test]
fn volumes_and_their_registry_are_in_no_other_export() {
    let temp = TempDir::with_prefix("berth-volumes-").unwrap();
    let socket = temp.path().join("admin.sock");
    let inside = |dir: &Path| fs::create_dir(dir.join("volumes")).unwrap();
    let server = Setup::default();
    let refused = with_volumes_inside(server, &socket).refused(inside);
    assert!(refused.contains("lie in the export"), "{refused}");
}

#[test]
fn an_export_by_a_second_path_is_the_same_directory() {
    if !privileged() {
        return not_tried("mounting takes privileges");
    }
    let temp = TempDir::with_prefix("berth-volumes-").unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["parent/volumes/inside", "second"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    let text = |name: &str| at(name).into_os_string().into_string().unwrap();
    let refused = |shown: &str, args: [&str; 4]| {
        let _bound = Bound::new(&at(shown), &at("second"));
        let lines = format!("{} *(rw)\n", text("second"));
        Setup::default().exports(&lines).args(&args).refused(|_| ())
    };
    let (volumes, socket) = (text("parent/volumes"), text("socket"));
    for (shown, why) in [
        ("parent", "lie in the export"),
        ("parent/volumes", "lie in the export"),
        ("parent/volumes/inside", "among the volumes"),
    ] {
        let said = refused(shown, ["--volumes", &volumes, "--admin-socket", &socket]);
        assert!(said.contains(why), "{shown}: {said}");
    }
}

/// A bind mount of a directory at a second path, for as long as this lives.
struct Bound(PathBuf);

impl Bound {
    fn new(shown: &Path, at: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(shown).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Starts a server whose volumes lie inside an exported directory.
fn with_volumes_inside(setup: Setup, socket: &Path) -> Setup {
    setup.args(&["--volumes", "{}/volumes", "--admin-socket", socket.to_str().unwrap()])
}

#[test]
fn ten_thousand_volumes_start_soon() {
    const COUNT: usize = 10_000;
    let temp = TempDir::with_prefix("berth-volumes-").unwrap();
    let (socket, volumes) = (temp.path().join("admin.sock"), temp.path().join("volumes"));
    fs::create_dir_all(volumes.join(".berth/volumes")).unwrap();
    for n in 0..COUNT {
        let record = format!(
            "{{\"format\":1,\"spec\":{{\"name\":\"v{n}\",\"id\":\"id{n}\",\"capacity\":1048576}},\
             \"export\":\"{n:016x}\",\"created\":\"2026-01-01T00:00:00Z\"}}"
        );
        fs::write(volumes.join(format!(".berth/volumes/id{n}.json")), record).unwrap();
        fs::create_dir(volumes.join(format!("v{n}"))).unwrap();
    }
    let port = Port::start_at(temp, socket, volumes);
    // Processor time, because others use this machine, and of a build without optimization.
    let took = port.server.cpu_time();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(port.done("list -o name").lines().count(), COUNT);
    let mut client = port.server.client();
    let root = client.mounted("/v9999");
    // Without a ledger it must be counted first, like all other volumes.
    eventually("the volume can be used", || {
        client.mkdir(&root, "dir", mode(0o755)).status() == NFS3_OK
    });
}
