//! The command line: what it accepts, what it refuses, and its messages.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::eventually;
use crate::support::server::{Server, Setup, berth};

/// Checks the exit code, and returns all output.
#[track_caller]
fn output_of(output: &Output, code: i32) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn help_and_version_are_printed() {
    assert!(output_of(&berth(&["--help"]), 0).contains("serve"));
    let help = output_of(&berth(&["serve", "--help"]), 0);
    for flag in ["--listen", "--state", "--exports", "--portmap", "--log-format"] {
        assert!(help.contains(flag), "{flag} is not explained");
    }
    assert!(output_of(&berth(&["--version"]), 0).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn errors_name_the_option() {
    for (args, word) in [
        (&["serve", "--no-such-flag"][..], "--no-such-flag"),
        (&["serve", "/tmp", "--listen", "nowhere"], "--listen"),
        (&["serve", "/tmp", "--log-format", "xml"], "--log-format"),
        (&["serve", "/tmp", "--max-connections", "many"], "--max-connections"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let text = output_of(&berth(args), 2);
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

#[test]
fn errors_name_the_directory_that_cannot_be_served() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, b"").unwrap();
    let state = temp.path().join("state");
    for dir in [&file, &file.join("below")] {
        let dir = dir.to_str().unwrap();
        let state = state.to_str().unwrap();
        let output = berth(&["serve", dir, "--listen", "127.0.0.1:0", "--state", state]);
        let text = output_of(&output, 1);
        assert!(text.contains(dir), "{text}");
    }
}

#[test]
fn exports_check_accepts_a_valid_file_and_names_errors() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("exports");
    let dir = temp.path().to_str().unwrap();
    let check = |lines: &str| {
        fs::write(&path, lines).unwrap();
        berth(&["exports", "check", path.to_str().unwrap()])
    };
    let good = format!("# a comment\n{dir} 10.0.0.0/8(rw,no_root_squash) *(ro)\n");
    output_of(&check(&good), 0);
    for (lines, word) in [
        (format!("{dir} *(rw,no_such_option)\n"), "no_such_option"),
        (format!("\n{dir} *(rw\n"), "2"),
        ("relative *(rw)\n".to_owned(), "absolute"),
        (format!("{dir} 10.0.0.0/99(rw)\n"), "10.0.0.0/99"),
    ] {
        let text = output_of(&check(&lines), 1);
        assert!(text.contains(word), "{lines:?}: {text}");
    }
    fs::remove_file(&path).unwrap();
    let text = output_of(&berth(&["exports", "check", path.to_str().unwrap()]), 1);
    assert!(text.contains(path.to_str().unwrap()), "{text}");
}

#[test]
fn a_faulty_exports_file_is_not_served() {
    let text = Setup::default().exports("{} *(rw,no_such_option)\n").refused(|_| ());
    assert!(text.contains("no_such_option"), "{text}");
    let text = Setup::default().exports("{}/nothing *(rw)\n").refused(|_| ());
    assert!(text.contains("nothing"), "{text}");
}

#[test]
fn the_log_is_text_or_json() {
    let s = Server::start();
    s.client().root();
    assert!(!s.log().is_empty(), "the start is logged");
    let s = Setup::default().args(&["--log-format", "json"]).start();
    s.client().root();
    let log = s.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value.get("level").is_some(), "{line}");
    }
}

/// An API server that answers nothing, and what it does when it is told to be there: every object
/// is missing then.
struct ApiServer {
    url: String,
    asked: Arc<AtomicUsize>,
    is_there: Arc<AtomicBool>,
}

impl ApiServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, is_there) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, there) = (Arc::clone(&asked), Arc::clone(&is_there));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                if there.load(Ordering::SeqCst) {
                    let body =
                        r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":404}"#;
                    let _ = stream.read(&mut [0; 8192]);
                    let _ = write!(
                        stream,
                        "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n\
                         content-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                }
            }
        });
        Self { url, asked, is_there }
    }
}

#[test]
fn an_api_server_that_is_away_is_told_once_by_its_address() {
    let cluster = ApiServer::start();
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    let url = &cluster.url;
    let config = format!(
        "{{apiVersion: v1, kind: Config, current-context: x, clusters: [{{name: c, cluster: {{server: \
         '{url}'}}}}], users: [{{name: u, user: {{}}}}], contexts: [{{name: x, context: {{cluster: c, \
         user: u}}}}]}}"
    );
    fs::write(at("config"), config).unwrap();
    let (volumes, socket, config) = (at("volumes"), at("socket"), at("config"));
    let s = Setup::default()
        .args(&["--volumes", &volumes, "--admin-socket", &socket, "--kubeconfig", &config])
        .args(&["--provisioner", "example.org/berth", "--nfs-server", "10.0.0.1"])
        .start();
    let lines = |of: &str| s.log().lines().filter(|line| line.contains(of)).count();
    eventually("it is tried again", || cluster.asked.load(Ordering::SeqCst) >= 12);
    let log = s.log();
    let tells = |line: &&str| line.contains("API server") || line.contains("with error");
    let told: Vec<_> = log.lines().filter(tells).collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("is away") && told[0].contains(url), "{log}");
    cluster.is_there.store(true, Ordering::SeqCst);
    eventually("it is told that it is back", || lines("answers again") == 1);
    assert_eq!(lines("is away"), 1, "{}", s.log());
}

#[test]
fn the_log_has_the_address_and_the_kind_of_handles() {
    let s = Server::start();
    // The server replies to clients a little before it writes this.
    eventually("the address is in the log", || s.log().contains(&s.addr.to_string()));
    let log = s.log();
    assert!(log.contains("kernel") || log.contains("path"), "{log}");
}
