//! A server with volumes of a test's own, and `berth volume` as its administrator runs it.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::eventually;
use super::server::{Server, Setup, berth};

/// A server with volumes, and where they and its admin socket are.
pub struct Port {
    /// The server, which exports a directory as `/` besides.
    pub server: Server,
    /// The admin socket.
    pub socket: PathBuf,
    /// The directory with the volumes.
    pub volumes: PathBuf,
    _temp: TempDir,
}

impl Port {
    /// Starts a server without volumes.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server without volumes, with more arguments.
    pub fn start_with(args: &[&str]) -> Self {
        Self::start_as(|setup| setup.args(args))
    }

    /// Starts a server without volumes, set up by `more` besides.
    pub fn start_as(more: impl FnOnce(Setup) -> Setup) -> Self {
        let temp = TempDir::with_prefix("berth-volumes-").unwrap();
        let (socket, volumes) = (temp.path().join("admin.sock"), temp.path().join("volumes"));
        let server = more(with(&socket, &volumes)).start();
        Self { server, socket, volumes, _temp: temp }
    }

    /// Starts it over a directory that may have volumes already.
    pub fn start_at(temp: TempDir, socket: PathBuf, volumes: PathBuf) -> Self {
        let server = with(&socket, &volumes).start();
        Self { server, socket, volumes, _temp: temp }
    }

    /// Runs `berth volume`; returns the exit code, and what went to the two outputs.
    pub fn ran(&self, words: &str) -> (i32, String, String) {
        let socket = self.socket.to_str().unwrap();
        let args = ["volume", "--admin-socket", socket].into_iter().chain(words.split(' '));
        let output = berth(&args.collect::<Vec<_>>());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Runs a command that succeeds without a word to the side.
    #[track_caller]
    pub fn done(&self, words: &str) -> String {
        let (code, out, err) = self.ran(words);
        assert_eq!((code, err.as_str()), (0, ""), "{words}: {out}");
        out
    }

    /// Runs a command that fails, and returns why.
    #[track_caller]
    pub fn failed(&self, words: &str, expected: i32) -> String {
        let (code, out, err) = self.ran(words);
        assert_eq!((code, out.as_str()), (expected, ""), "{words}: {err}");
        assert!(err.starts_with("berth: ") && err.lines().count() == 1, "{err}");
        err
    }

    /// What a command answers, as JSON.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.done(words)).unwrap()
    }
}

/// How a server with volumes is started.
pub fn with(socket: &Path, volumes: &Path) -> Setup {
    let (socket, volumes) = (socket.to_str().unwrap(), volumes.to_str().unwrap());
    Setup::default().args(&["--volumes", volumes, "--admin-socket", socket])
}

impl Port {
    /// A number of a volume's status.
    #[track_caller]
    pub fn number(&self, name: &str, field: &str) -> u64 {
        let status = self.json(&format!("show {name} -o json"));
        status[field].as_u64().unwrap_or_else(|| panic!("{field} in {status}"))
    }

    /// Waits until it is known exactly what a volume uses.
    pub fn wait_until_counted(&self, name: &str) {
        eventually("the volume is counted", || {
            self.json(&format!("show {name} -o json"))["phase"]["name"] == "ready"
        });
    }
}

/// What du(1) finds in a directory: bytes on the disk, and files.
pub fn du(dir: &Path) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir) {
        let meta = entry.unwrap().path().symlink_metadata().unwrap();
        seen.insert(meta.ino(), meta.blocks() * 512);
    }
    (seen.values().sum(), seen.len() as u64)
}
