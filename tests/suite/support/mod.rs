//! What every conversation needs: a server of its own, a client that can say anything, short names
//! for the wire types.
//!
//! The suite runs in three modes (`BERTH_TEST_MODE`): `root` and `path` need root and force the
//! kind of file handle; `rootless` runs the suite, and with it every server, as an unprivileged
//! user. Without the variable, the user who runs the suite decides.

mod calls;
pub mod client;
pub mod faults;
pub mod fuse;
pub mod large;
pub mod server;
pub mod volumes;
pub mod wire;

use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing that works takes this long, on a slow machine neither.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Under which privileges the servers run, and which kind of handle they make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Root, with the kernel's handles.
    Root,
    /// Root, with handles found again by inode and path.
    Path,
    /// Nobody in particular: no identity can be taken on, no handle can be opened.
    Rootless,
}

impl Mode {
    /// The mode of this run.
    pub fn current() -> Self {
        static MODE: OnceLock<Mode> = OnceLock::new();
        *MODE.get_or_init(|| {
            let root = rustix::process::geteuid().is_root();
            let named = std::env::var("BERTH_TEST_MODE").ok();
            match (named.as_deref(), root) {
                (Some("root") | None, true) => Self::Root,
                (Some("path"), true) => Self::Path,
                (Some("rootless") | None, false) => Self::Rootless,
                (Some("rootless"), true) => {
                    panic!("run the suite as another user for rootless, as tests/check.sh does")
                }
                (Some("root" | "path"), false) => panic!("the modes root and path need root"),
                (Some(other), _) => panic!("BERTH_TEST_MODE={other} is not root, path or rootless"),
            }
        })
    }

    /// What `--handles` is to be.
    const fn handles(self) -> &'static str {
        match self {
            Self::Root => "kernel",
            Self::Path => "path",
            Self::Rootless => "auto",
        }
    }
}

/// Whether the server can take on its callers' identities.
pub fn privileged() -> bool {
    Mode::current() != Mode::Rootless
}

/// Says that something cannot be tried here, past the capture of a test that passes.
pub fn not_tried(what: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "not tried: {test}: {what}");
}

/// Waits for a condition, and says which one if it does not come true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
