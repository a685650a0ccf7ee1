//! What is said of volumes and directories that are not what they are taken for.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::server::{berth, program};
use crate::support::volumes::{Port, with};

const MIB: usize = 1 << 20;

#[test]
fn volumes_are_served_as_volumes_only() {
    let mut port = Port::start();
    port.done("create data --capacity 1Mi");
    let dir = port.volumes.to_str().unwrap().to_owned();
    let state = port.server.beside("other-state");
    let try_it = |args: &[&str]| {
        let more = ["--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()];
        let output = berth(&[&["serve"], args, &more].concat());
        let why = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {why}");
        assert!(why.contains(&format!("{dir}/.berth")), "{args:?}: {why}");
        why
    };
    let exports = port.server.beside("other-exports");
    fs::write(&exports, format!("{dir}/data *(rw)\n")).unwrap();
    let check = || {
        for at in [dir.clone(), format!("{dir}/data"), format!("{dir}/.berth/state")] {
            assert!(try_it(&[&at]).contains(&format!("--volumes {dir}")));
        }
        try_it(&["--exports", exports.to_str().unwrap()]);
        try_it(&["--volumes", &format!("{dir}/data")]);
    };
    check();
    // Nor are they one of the volumes of a server above.
    let above = port.server.beside("above");
    fs::create_dir(&above).unwrap();
    let other = with(&port.server.beside("above.sock"), &above).start();
    let socket = port.server.beside("above.sock");
    port.server.signal(Signal::TERM);
    assert!(port.server.wait().success());
    check();
    fs::rename(&port.volumes, above.join("inner")).unwrap();
    let words = ["volume", "--admin-socket", socket.to_str().unwrap(), "adopt", "inner"];
    let output = berth(&[&words[..], &["--capacity", "1Mi"]].concat());
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && why.contains("volumes of its own"), "{why}");
    drop(other);
}

#[test]
fn the_root_directory_is_no_place_for_volumes() {
    let state = TempDir::new().unwrap();
    let args = ["serve", "--volumes", "/", "--listen", "127.0.0.1:0", "--state"];
    let output = berth(&[&args[..], &[state.path().to_str().unwrap()]].concat());
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && why.contains("root directory"), "{why}");
    assert!(!std::path::Path::new("/.berth").exists());
}

#[test]
fn what_became_of_a_volume_is_told() {
    let port = Port::start();
    port.done("create k --capacity 1Mi --on-delete retain");
    let told = port.done("delete k --yes");
    assert!(
        told.contains("k is retained (its --on-delete)") && told.contains("nothing was"),
        "{told}"
    );
    assert_eq!(port.done("list -o name"), "k\n");
    let told = port.done("delete k --on-delete recycle --yes");
    assert!(told.contains("k is recycled"), "{told}");
    let told = port.done("delete --on-delete delete --yes k");
    assert!(told.contains("k is deleted"), "{told}");
}

#[test]
fn a_damaged_record_is_shown_where_its_volume_is_looked_for() {
    let mut port = Port::start();
    for name in ["c", "d", "e"] {
        port.done(&format!("create {name} --capacity 1Mi"));
    }
    let record = |name: &str| port.volumes.join(format!(".berth/volumes/{name}.json"));
    fs::write(record("d"), "{").unwrap();
    let newer = fs::read_to_string(record("e")).unwrap().replace("\"format\": 1", "\"format\": 9");
    fs::write(record("e"), newer).unwrap();
    let path = record("d").to_str().unwrap().to_owned();
    port.server.restart();
    let table = port.done("list");
    assert!(
        table.contains("c ") && table.contains("d is damaged") && table.contains(&path),
        "{table}"
    );
    assert!(table.contains("format is 9"), "{table}");
    let listed = port.json("list -o json");
    let is_e = |of: &Value| of["id"] == "e" && of["name"] == "e";
    assert!(listed["damaged"].as_array().unwrap().iter().any(is_e), "{listed}");
    for words in ["show d", "create d --capacity 1Mi", "delete d --yes", "expand d --capacity 2Mi"]
    {
        let why = port.failed(words, 1);
        assert!(why.contains(&path) && why.contains("restore"), "{words}: {why}");
    }
    port.failed("show none", 3);
}

#[test]
fn a_capacity_that_can_hold_nothing_is_refused() {
    let port = Port::start();
    let why = port.ran("create a --capacity 10");
    assert!(why.0 == 2 && why.2.contains("10 bytes") && why.2.contains("10Gi"), "{why:?}");
    port.done("create a --capacity 64Ki");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    client.file_of(&root, "file", &[1; 4096]);
    assert_eq!(port.ran("expand a --capacity 1Ki --shrink").0, 2);
}

#[test]
fn an_adopted_directory_is_shown_as_it_is() {
    let port = Port::start();
    let dir = port.volumes.join("old");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
    fs::write(dir.join("file"), vec![1; 2 * MIB]).unwrap();
    port.done("adopt old --capacity 1Mi");
    port.wait_until_counted("old");
    let shown = port.done("show old");
    let owner = rustix::process::geteuid().as_raw();
    assert!(shown.contains(&format!("Owner:       {owner}:")), "{shown}");
    assert!(shown.contains("Mode:        0750"), "{shown}");
    assert!(shown.contains("more than its capacity"), "{shown}");
    let log = port.server.log();
    assert!(log.contains("uses more than its capacity"), "{log}");
}

#[test]
fn without_a_home_the_option_that_helps_is_named() {
    let output = std::process::Command::new(program())
        .args(["volume", "list"])
        .env_clear()
        .output()
        .unwrap();
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && why.contains("--admin-socket"), "{why}");
}
