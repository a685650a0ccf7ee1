//! What users of the server's own machine gain from it: nothing.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nfs3_types::mount::mountres3;
use tempfile::TempDir;

use crate::support::client::{Client, Cred};
use crate::support::server::{Server, Setup};
use crate::support::volumes::Port;
use crate::support::wire::*;
use crate::support::{not_tried, privileged};

/// A client that proves that it is root on its machine, by its port.
fn trusted(s: &Server) -> Client {
    let from = IpAddr::from([127, 0, 0, 1]);
    let connect = |port| Client::connect_from(from, port, s.addr, Cred::superuser()).ok();
    (600..1024).find_map(connect).expect("a privileged port is free")
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_directory_that_root_serves_is_for_root_of_its_clients() {
    let s = Setup::default().secure().start();
    let mut c = s.client();
    if !privileged() {
        c.root(); // all clients are the server's own user
        return;
    }
    let mountres3::Err(why) = c.mnt("/") else { panic!("mounted by whoever claims to be root") };
    assert_eq!(why as u32, 13, "ACCES");
    assert!(s.log().contains("--insecure"), "what to do is said: {}", s.log());
    let root = trusted(&s).root();
    c.getattr(&root).fails(NFS3ERR_ACCES);
    c.create(&root, "program", createhow3::GUARDED(mode(0o4755))).failed();
    trusted(&s).file(&root, "file");
}

#[test]
fn a_warning_is_given_where_users_of_this_machine_or_a_network_gain_power() {
    let temp = TempDir::with_prefix("berth-local-").unwrap();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
    if temp.path().ancestors().any(|dir| mode_of(dir) & 0o001 == 0) {
        return not_tried("the folder for temporary files is open to nobody else");
    }
    let (dir, state) = (temp.path().join("data"), temp.path().join("state"));
    let said = |args: &[&str]| {
        let log = temp.path().join("log");
        let mut child = std::process::Command::new(crate::support::server::program())
            .args(["serve", "--log-format", "json", "--state", state.to_str().unwrap()])
            .arg(&dir)
            .args(args)
            .stdout(fs::File::create(temp.path().join("out")).unwrap())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let read = || fs::read_to_string(&log).unwrap();
        crate::support::eventually("it serves", || read().contains("\"serving\""));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            fs::read_to_string(temp.path().join("out")).unwrap(),
            "",
            "JSON has no greeting"
        );
        read()
    };
    let quiet = said(&["--listen", "127.0.0.1:0"]);
    assert!(!quiet.contains("WARN") || !privileged(), "{quiet}");
    assert!(quiet.contains("clients act as"), "{quiet}");
    assert!(!quiet.contains("None"), "what there is not is left out: {quiet}");
    let open = said(&["--listen", "127.0.0.1:0", "--insecure"]);
    let why = if privileged() { "can enter an exported" } else { "rights of the user who runs" };
    assert!(open.contains("WARN") && open.contains(why), "{open}");
    let network = said(&["--listen", "0.0.0.0:0"]);
    assert!(network.contains("over the network") && network.contains("--exports"), "{network}");
}

#[test]
fn who_can_enter_the_directory_of_the_volumes_finds_no_powers_there() {
    if !privileged() {
        return not_tried("without privileges, clients are no superusers");
    }
    let temp = TempDir::with_prefix("berth-volumes-").unwrap();
    let (socket, volumes) = (temp.path().join("admin.sock"), temp.path().join("volumes"));
    fs::create_dir(&volumes).unwrap();
    for dir in [temp.path(), &volumes] {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    if volumes.ancestors().any(|dir| mode_of(dir) & 0o001 == 0) {
        return not_tried("the folder for temporary files is open to nobody else");
    }
    let port = Port::start_at(temp, socket, volumes);
    let log = port.server.log();
    assert!(log.contains("can enter the directory of the volumes"), "it is warned: {log}");
    for (name, options, kept) in
        [("plain", "", false), ("powerful", " --suid --dev", true), ("kept", " --nosuid", false)]
    {
        port.done(&format!("create {name} --capacity 1Mi{options}"));
        let (program, device) = makes_powers(&port, name);
        assert_eq!(mode_of(&program) & 0o6000 != 0, kept, "{name}");
        assert_eq!(device.is_some_and(|d| d.metadata().is_ok()), kept, "{name}");
    }
}

/// Has a client that says it is root make a program that runs as root, and a device.
fn makes_powers(port: &Port, volume: &str) -> (PathBuf, Option<PathBuf>) {
    let mut c = port.server.client();
    let root = c.mounted(format!("/{volume}"));
    let file = c.file_of(&root, "program", b"#!/bin/sh");
    c.setattr(&file, mode(0o6755)).ok();
    let device =
        devicedata3 { dev_attributes: mode(0o666), spec: specdata3 { specdata1: 1, specdata2: 3 } };
    let made = c.mknod(&root, "null", mknoddata3::NF3CHR(device)).status() == NFS3_OK;
    let at = |name: &str| port.volumes.join(volume).join(name);
    if made {
        assert!(fs::metadata(at("null")).unwrap().file_type().is_char_device());
    }
    (at("program"), made.then(|| at("null")))
}

#[test]
fn nobody_else_can_enter_what_the_server_makes_above_exports_and_volumes() {
    let temp = TempDir::with_prefix("berth-local-").unwrap();
    let (socket, volumes) = (temp.path().join("admin.sock"), temp.path().join("above/volumes"));
    let port = Port::start_at(temp, socket, volumes);
    port.done("create plain --capacity 1Mi");
    port.done("create nested --capacity 1Mi --directory team/app/data");
    let at = |name: &str| port.volumes.join(name);
    for made in ["..", "", ".berth", "team", "team/app"] {
        assert_eq!(mode_of(&at(made)), 0o700, "{made}");
    }
    // Those of the volumes are what their clients see.
    assert_eq!((mode_of(&at("plain")), mode_of(&at("team/app/data"))), (0o777, 0o777));
    if privileged() {
        let (program, device) = makes_powers(&port, "plain");
        assert_eq!((mode_of(&program), device.is_some()), (0o6755, true), "no user can reach them");
        assert!(!port.server.log().contains("directory of the volumes"), "{}", port.server.log());
    }
}

#[test]
fn a_directory_that_is_made_to_be_exported_is_as_its_clients_see_it() {
    let temp = TempDir::with_prefix("berth-local-").unwrap();
    let dir = temp.path().join("a/b/data");
    let state = temp.path().join("state");
    let mut child = std::process::Command::new(crate::support::server::program())
        .args(["serve", "--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()])
        .arg(&dir)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::support::eventually("it is made", || dir.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    let above = [temp.path().join("a"), temp.path().join("a/b")];
    assert_eq!(above.map(|path| mode_of(&path)), [0o700, 0o700]);
    assert_eq!(mode_of(&dir), 0o755);
}
