//! `berth volume` and `berth health` against a running server, and their effect on an NFS client.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{berth, free_port, program};
use crate::support::volumes::{Port, with};
use crate::support::wire::*;

const MIB: usize = 1 << 20;

#[test]
fn a_volume_is_created_used_expanded_and_deleted() {
    let port = Port::start();
    assert_eq!(port.done("create data --capacity 2Mi --label team=blue"), "");
    assert_eq!(port.done("create data --capacity 2Mi --label team=blue"), "", "again");
    assert_eq!(port.done("list -o name"), "data\n");
    let mut client = port.server.client();
    let root = client.mounted("/data");
    let file = client.file(&root, "file");
    client.write(&file, 0, &vec![1; MIB], stable_how::FILE_SYNC).ok();
    let more = |client: &mut Client, at: usize| {
        client.write(&file, (at * MIB) as u64, &vec![1; MIB], stable_how::FILE_SYNC)
    };
    more(&mut client, 1).ok(); // a short write, of what fits
    more(&mut client, 2).fails(NFS3ERR_NOSPC);
    port.done("expand data --capacity 8Mi");
    assert_eq!(more(&mut client, 2).ok().count as usize, MIB);
    let shown = port.json("show data -o json");
    assert_eq!(shown["spec"]["capacity"], 8 * MIB);
    assert!(shown["used"].as_u64().unwrap() >= 2 * MIB as u64, "{shown}");
    assert_eq!(shown["mountedBy"].as_array().unwrap().len(), 1, "{shown}");
    let table = port.done("list");
    assert!(table.contains("data") && table.contains("8Mi"), "{table}");
    let refused = port.failed("delete data", 2);
    assert!(refused.contains("--yes"), "{refused}");
    let deleted = port.done("delete data --yes");
    assert!(deleted.starts_with("volume data is deleted"), "{deleted}");
    client.getattr(&root).fails(NFS3ERR_STALE);
    assert_eq!(port.done("trash --wait"), "");
    assert!(!port.volumes.join("data").exists());
    assert!(port.failed("show data", 3).contains("data"));
}

#[test]
fn exit_codes_tell_the_kind_of_error() {
    let port = Port::start();
    port.done("create data --capacity 1Mi");
    let way = port.volumes.join("way");
    fs::create_dir(&way).unwrap();
    port.failed("create other --capacity 1Ei", 5);
    assert!(port.failed("create way --capacity 1Mi", 4).contains("--adopt"));
    assert!(port.failed("create data --capacity 2Mi", 4).contains("capacity"));
    port.failed("create data --capacity 1Mi --id other", 4);
    assert!(port.failed("expand data --capacity 512Ki", 2).contains("--shrink"));
    port.failed("adopt nothing --capacity 1Mi", 3);
    port.failed("recount nothing", 3);
    port.failed("clone nothing copy", 3);
    assert!(port.failed("pv data --server a/b", 2).contains("--server"));
    assert_eq!(port.ran("create data").0, 2, "without a capacity");
    assert_eq!(port.done("list -o name"), "data\n");
}

#[test]
fn a_recycled_volume_is_empty_and_its_old_handles_are_stale() {
    let port = Port::start();
    port.done("create scratch --capacity 1Mi");
    let mut client = port.server.client();
    let old = client.mounted("/scratch");
    client.file_of(&old, "file", b"old");
    port.done("recycle scratch --yes");
    client.getattr(&old).fails(NFS3ERR_STALE);
    let new = client.mounted("/scratch");
    assert!(client.names(&new, 4096).iter().all(|name| name == b"." || name == b".."));
}

#[test]
fn an_archived_volume_can_be_adopted_again() {
    let port = Port::start();
    port.done("create data --capacity 1Mi");
    let mut client = port.server.client();
    let root = client.mounted("/data");
    client.file_of(&root, "file", b"precious");
    let aside = port.done("archive data --yes");
    let aside = port.volumes.join(aside.strip_suffix('\n').unwrap());
    assert_eq!(fs::read(aside.join("file")).unwrap(), b"precious");
    assert_eq!(port.done("list -o name"), "");
    fs::rename(&aside, port.volumes.join("again")).unwrap();
    port.done("adopt again --capacity 1Mi");
    let root = client.mounted("/again");
    let file = client.find(&root, "file");
    assert_eq!(client.content(&file), b"precious");
}

#[test]
fn a_clone_is_complete_when_the_command_returns() {
    let port = Port::start();
    port.done("create source --capacity 4Mi --mode 0750 --label team=blue");
    let mut client = port.server.client();
    let root = client.mounted("/source");
    let dir = client.dir(&root, "dir");
    client.file_of(&dir, "file", &[7; 50_000]);
    client.file_of(&dir, "other", &[8; 50_000]);
    port.done("clone source copy --label tier=gold");
    let copy = client.mounted("/copy");
    let dir = client.find(&copy, "dir");
    let file = client.find(&dir, "file");
    assert_eq!(client.content(&file), [7; 50_000]);
    let spec = port.json("show copy -o json")["spec"].clone();
    assert_eq!((spec["mode"].as_str(), spec["capacity"].as_u64()), (Some("0750"), Some(4 << 20)));
    assert_eq!(spec["labels"], serde_json::json!({ "team": "blue", "tier": "gold" }));
    let full = port.failed("clone source small --capacity 64Ki", 4);
    assert!(full.contains("used"), "{full}");
}

#[test]
fn a_copy_is_not_reported_where_nothing_was_copied() {
    let port = Port::start();
    for name in ["a", "b", "d"] {
        port.done(&format!("create {name} --capacity 4Mi"));
    }
    let mut client = port.server.client();
    let root = client.mounted("/a");
    client.file_of(&root, "file", b"first");
    for words in ["clone a b", "create b --capacity 4Mi --from a", "clone d d"] {
        let refused = port.failed(words, 4);
        assert!(refused.contains("nothing was copied"), "{words}: {refused}");
    }
    port.done("clone a c");
    assert!(port.failed("clone b c", 4).contains("not a copy of b"));
    client.file_of(&root, "later", b"second");
    let (code, out, error) = port.ran("clone a c");
    assert_eq!((code, out.as_str()), (0, ""), "the command may be repeated after a lost reply");
    assert!(error.contains("volume c already exists, copied from a at 2"), "{error}");
    assert!(error.contains("nothing was copied") && error.lines().count() == 1, "{error}");
    assert_eq!(port.json("show c -o json")["copyOf"], "a");
    assert!(port.done("show c").contains("as a copy of a"));
    // A recycled volume is no longer a copy.
    port.done("recycle c --yes");
    port.failed("clone a c", 4);
}

#[test]
fn a_manifest_has_the_port_of_the_server() {
    let port = Port::start();
    port.done("create data --capacity 1536Mi --label team=blue");
    let manifest = port.done("pv data --server nas.example.org");
    let pv: Value = serde_saphyr::from_str(&manifest).unwrap();
    let option = format!("port={}", port.server.addr.port());
    assert!(pv["spec"]["mountOptions"].as_array().unwrap().contains(&option.into()), "{pv}");
    assert_eq!(pv["spec"]["nfs"]["path"], "/data");
    assert_eq!(pv["spec"]["capacity"]["storage"], "1536Mi");
    assert_eq!(pv["metadata"]["labels"]["team"], "blue");
    let annotations =
        serde_json::json!({ "berth.io/volume-id": "data", "berth.io/volume": "data" });
    assert_eq!(pv["metadata"]["annotations"], annotations, "the server has no provisioner");
}

#[test]
fn the_admin_socket_is_private_and_removed_at_the_end() {
    let mut port = Port::start();
    port.done("create data --capacity 1Mi");
    assert_eq!(fs::metadata(&port.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let second = with(&port.socket, &port.volumes.with_file_name("others")).refused(|_| ());
    assert!(second.contains("--admin-socket"), "{second}");
    assert_eq!(port.done("list -o name"), "data\n", "the first server still serves it");
    port.server.crash_and_restart();
    assert_eq!(port.done("list -o name"), "data\n");
    port.server.signal(Signal::TERM);
    assert!(port.server.wait().success());
    assert!(!port.socket.exists());
    let error = port.failed("list", 7);
    assert!(error.contains("berth serve --volumes") && error.contains("--admin-socket"), "{error}");
}

#[test]
fn without_volumes_there_is_no_socket() {
    let temp = TempDir::with_prefix("berth-volumes-").unwrap();
    let socket = temp.path().join("admin.sock");
    let (dir, state) = (temp.path().join("data"), temp.path().join("state"));
    let listen = format!("127.0.0.1:{}", free_port());
    let args = [&["serve", dir.to_str().unwrap(), "--listen", &listen][..]];
    let args = [args.concat(), vec!["--state", state.to_str().unwrap()]].concat();
    let output = berth(&[&args[..], &["--admin-socket", socket.to_str().unwrap()]].concat());
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && why.contains("--volumes"), "{why}");
    // An image sets it in the environment, whatever is served then.
    let mut server = std::process::Command::new(program())
        .args(&args)
        .env("BERTH_ADMIN_SOCKET", &socket)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("it serves", || TcpStream::connect(&listen).is_ok());
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(!socket.exists());
}

#[test]
fn health_checks_nfs_and_the_admin_socket() {
    let port = Port::start();
    let address = port.server.addr.to_string();
    let quiet = |args: &[&str]| {
        let output = berth(args);
        assert!(output.stdout.is_empty());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let check = |args: &[&str]| quiet(&[&["health"], args].concat());
    assert_eq!(check(&["--nfs", &address]), (0, String::new()));
    let socket = port.socket.to_str().unwrap().to_owned();
    assert_eq!(check(&["--admin-socket", &socket]), (0, String::new()));
    drop(port);
    let (code, why) = check(&["--nfs", &address]);
    assert!(code == 1 && why.contains(&address), "{why}");
    let (code, why) = check(&["--admin-socket", &socket]);
    assert!(code == 1 && why.contains(&socket), "{why}");
}

#[test]
fn a_server_that_is_not_nfs_is_unhealthy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 100]); // and then closes
    });
    let output = berth(&["health", "--nfs", &address]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let commands = [
        "create", "list", "show", "expand", "clone", "recycle", "archive", "delete", "adopt",
        "recount", "trash", "pv",
    ];
    for command in commands {
        let output = berth(&["volume", command, "--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(&format!("berth volume {command} ")), "{text}");
    }
    let help = String::from_utf8(berth(&["volume", "--help"]).stdout).unwrap();
    assert!(help.contains("Exit codes"), "{help}");
    commands.iter().for_each(|command| assert!(help.contains(command), "{command}"));
}
