//! The command line: what it accepts, what it refuses, and that it says why.

use std::fs;
use std::process::Output;

use crate::support::eventually;
use crate::support::server::{Server, Setup, berth};

#[track_caller]
fn said(output: &Output, code: i32) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

#[test]
fn help_and_version_are_there() {
    assert!(said(&berth(&["--help"]), 0).contains("serve"));
    let help = said(&berth(&["serve", "--help"]), 0);
    for flag in ["--listen", "--state", "--exports", "--portmap", "--log-format"] {
        assert!(help.contains(flag), "{flag} is not explained");
    }
    assert!(said(&berth(&["--version"]), 0).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn mistakes_are_told_with_the_flags_name() {
    for (args, word) in [
        (&["serve", "--no-such-flag"][..], "--no-such-flag"),
        (&["serve", "/tmp", "--listen", "nowhere"], "--listen"),
        (&["serve", "/tmp", "--log-format", "xml"], "--log-format"),
        (&["serve", "/tmp", "--max-connections", "many"], "--max-connections"),
        (&["no-such-command"], "no-such-command"),
    ] {
        let text = said(&berth(args), 2);
        assert!(text.contains(word), "{args:?}: {text}");
    }
}

#[test]
fn a_directory_that_cannot_be_served_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, b"").unwrap();
    let state = temp.path().join("state");
    for dir in [&file, &file.join("below")] {
        let dir = dir.to_str().unwrap();
        let state = state.to_str().unwrap();
        let output = berth(&["serve", dir, "--listen", "127.0.0.1:0", "--state", state]);
        let text = said(&output, 1);
        assert!(text.contains(dir), "{text}");
    }
}

#[test]
fn exports_check_reads_a_file_and_says_which_line_is_wrong() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("exports");
    let dir = temp.path().to_str().unwrap();
    let check = |lines: &str| {
        fs::write(&path, lines).unwrap();
        berth(&["exports", "check", path.to_str().unwrap()])
    };
    let good = format!("# a comment\n{dir} 10.0.0.0/8(rw,no_root_squash) *(ro)\n");
    said(&check(&good), 0);
    for (lines, word) in [
        (format!("{dir} *(rw,no_such_option)\n"), "no_such_option"),
        (format!("\n{dir} *(rw\n"), "2"),
        ("relative *(rw)\n".to_owned(), "absolute"),
        (format!("{dir} 10.0.0.0/99(rw)\n"), "10.0.0.0/99"),
    ] {
        let text = said(&check(&lines), 1);
        assert!(text.contains(word), "{lines:?}: {text}");
    }
    fs::remove_file(&path).unwrap();
    let text = said(&berth(&["exports", "check", path.to_str().unwrap()]), 1);
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
    assert!(!s.log().is_empty(), "a start is worth a line");
    let s = Setup::default().args(&["--log-format", "json"]).start();
    s.client().root();
    let log = s.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value.get("level").is_some(), "{line}");
    }
}

#[test]
fn the_log_says_where_it_listens_and_which_handles_it_makes() {
    let s = Server::start();
    // Clients are answered a little earlier.
    eventually("the address is in the log", || s.log().contains(&s.addr.to_string()));
    let log = s.log();
    assert!(log.contains("kernel") || log.contains("path"), "{log}");
}
