//! Interoperability with other programs: libnfs, showmount, rpcinfo, and a Rust client.
//!
//! Tests whose programs are not installed are skipped with a message; with `REQUIRE_E2E=1` they
//! fail.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use nfs3_client::tokio::TokioConnector;
use nfs3_client::{
    Nfs3ConnectionBuilder,
    nfs3_types::rpc::{auth_unix, opaque_auth},
};

use crate::support::client::Cred;
use crate::support::server::{Server, Setup, run};
use crate::support::wire::*;
use crate::support::{not_tried, privileged};

/// Reports that a test is skipped, or fails if all tests are required.
fn missing(what: &str) {
    assert!(std::env::var_os("REQUIRE_E2E").is_none_or(|v| v != "1"), "missing: {what}");
    not_tried(what);
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin".into(), "/sbin".into()];
    std::env::split_paths(&path).chain(more).any(|dir: PathBuf| dir.join(program).exists())
}

/// Whether all these programs are installed.
fn all_installed(programs: &[&str]) -> bool {
    let lacking: Vec<_> = programs.iter().filter(|p| !installed(p)).collect();
    if !lacking.is_empty() {
        missing(&format!("{lacking:?} (packages libnfs-utils, nfs-common, rpcbind)"));
    }
    lacking.is_empty()
}

fn url(s: &Server, path: &str) -> String {
    let (port, uid) = (s.addr.port(), Cred::superuser().uid);
    format!("nfs://127.0.0.1{path}?nfsport={port}&mountport={port}&version=3&uid={uid}")
}

/// More than one transfer of bytes without short repetitions.
fn content() -> Vec<u8> {
    (0..600_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_be_bytes()[3]).collect()
}

#[test]
fn libnfs_lists_reads_and_copies() {
    if !all_installed(&["nfs-ls", "nfs-cat", "nfs-cp"]) {
        return;
    }
    let s = Setup::default().start_over(|dir| {
        fs::create_dir(dir.join("dir")).unwrap();
        fs::write(dir.join("dir/file"), content()).unwrap();
    });
    let listed = run(Command::new("nfs-ls").arg(url(&s, "/dir")));
    let line = listed.lines().find(|l| l.ends_with("file")).unwrap_or_else(|| panic!("{listed}"));
    assert!(line.starts_with("-rw") && line.contains("600001"), "{line}");
    let recursive = run(Command::new("nfs-ls").arg("-R").arg(url(&s, "/")));
    assert!(recursive.contains("dir/file") || recursive.contains("file"), "{recursive}");

    let read = Command::new("nfs-cat").arg(url(&s, "/dir/file")).output().unwrap();
    assert!(read.status.success() && read.stdout == content(), "{}", read.stdout.len());

    let (up, down) = (s.beside("up"), s.beside("down"));
    fs::write(&up, content()).unwrap();
    run(Command::new("nfs-cp").arg(&up).arg(url(&s, "/dir/copy")));
    assert!(fs::read(s.dir.join("dir/copy")).unwrap() == content());
    run(Command::new("nfs-cp").arg(url(&s, "/dir/copy")).arg(&down));
    assert!(fs::read(down).unwrap() == content());
}

/// Whether a server can be the portmapper, which needs privileges and a free port 111.
fn may_be_portmapper() -> bool {
    if !privileged() {
        not_tried("binding port 111 needs privileges");
        return false;
    }
    let address = (Ipv4Addr::LOCALHOST, 111);
    let free = TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
    if !free {
        missing(
            "a free port 111 (is rpcbind running?); tests/check.sh uses its own network namespace",
        );
    }
    free
}

/// One test for the portmapper, because there is only one port 111.
#[test]
fn showmount_and_rpcinfo_work_with_the_portmapper() {
    if !all_installed(&["showmount", "rpcinfo"]) || !may_be_portmapper() {
        return;
    }
    let s = Setup::default().args(&["--portmap", "127.0.0.1"]).start();
    let port = s.addr.port().to_string();
    let listed = run(Command::new("rpcinfo").args(["-p", "127.0.0.1"]));
    let has = |program: &str, transport: &str, port: &str| {
        listed.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.len() >= 4 && (words[0], words[2], words[3]) == (program, transport, port)
        })
    };
    assert!(has("100003", "tcp", &port), "{listed}");
    assert!(has("100005", "tcp", &port) && has("100005", "udp", &port), "{listed}");
    assert!(has("100000", "tcp", "111") && has("100000", "udp", "111"), "{listed}");
    run(Command::new("rpcinfo").args(["-t", "127.0.0.1", "nfs", "3"]));
    run(Command::new("rpcinfo").args(["-t", "127.0.0.1", "mountd", "3"]));
    run(Command::new("rpcinfo").args(["-u", "127.0.0.1", "mountd", "3"]));

    let exports = run(Command::new("showmount").args(["--no-headers", "-e", "127.0.0.1"]));
    assert!(exports.trim_start().starts_with('/'), "{exports}");
    s.client().root();
    let mounts = run(Command::new("showmount").args(["--no-headers", "-a", "127.0.0.1"]));
    assert_eq!(mounts.trim(), "127.0.0.1:/", "{mounts}");
    mount_through_the_portmapper(&s);
}

/// Mounts with a Rust client that looks up both ports.
fn mount_through_the_portmapper(s: &Server) {
    conversation(Nfs3ConnectionBuilder::new(TokioConnector, "127.0.0.1", "/"), &s.dir);
}

#[test]
fn a_rust_client_mounts_writes_and_reads() {
    let s = Server::start();
    let builder = Nfs3ConnectionBuilder::new(TokioConnector, "127.0.0.1", "/")
        .mount_port(s.addr.port())
        .nfs3_port(s.addr.port());
    conversation(builder, &s.dir);
}

fn conversation<S>(builder: Nfs3ConnectionBuilder<TokioConnector>, dir: &Path)
where
    TokioConnector: nfs3_client::net::Connector<Connection = S>,
    S: nfs3_client::io::AsyncRead + nfs3_client::io::AsyncWrite + Send,
{
    let cred = Cred::superuser();
    let user = auth_unix { uid: cred.uid, gid: cred.gid, ..auth_unix::default() };
    let builder =
        builder.connect_from_privileged_port(false).credential(opaque_auth::auth_unix(&user));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut c = builder.mount().await.unwrap();
        let root = c.root_nfs_fh3();
        let where_ = diropargs3 { dir: root, name: filename3::from(&b"by rust"[..]) };
        let how = createhow3::GUARDED(mode(0o644));
        let made = c.create(&CREATE3args { where_, how }).await.unwrap().ok();
        let file = given_fh(made.obj);
        let args = WRITE3args {
            file: file.clone(),
            offset: 0,
            count: 7,
            stable: stable_how::FILE_SYNC,
            data: (&b"content"[..]).into(),
        };
        assert_eq!(c.write(&args).await.unwrap().ok().count, 7);
        let read = c.read(&READ3args { file, offset: 0, count: 100 }).await.unwrap().ok();
        assert_eq!(read.data.as_ref(), b"content");
        c.unmount().await.unwrap();
    });
    assert_eq!(fs::read(dir.join("by rust")).unwrap(), b"content");
    fs::remove_file(dir.join("by rust")).unwrap();
}
