//! Support for tests of trees: private mounts, and running without privilege.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::sys::mounts::with_own;

/// The unprivileged user.
const NOBODY: u32 = 65534;

/// Runs a test in a directory and a private mount namespace, on a thread of its own: its mounts
/// disappear with the thread, before the directory is removed.
pub(in crate::volume) fn with_own_mounts(test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    with_own(|| test(dir.path()));
}

/// The environment variable that names the prepared directory, in a test that runs as nobody.
const PREPARED: &str = "BERTH_TEST_PREPARED";

/// Runs a test without privilege, in a directory that root has filled with `prepare`. As root, it
/// runs the test called `name` again, as nobody; other users cannot prepare it.
pub(in crate::volume) fn as_nobody(name: &str, prepare: fn(&Path), test: fn(&Path)) {
    if !rustix::process::geteuid().is_root() {
        return match std::env::var_os(PREPARED) {
            Some(dir) => test(Path::new(&dir)),
            None => crate::sys::testing::not_tried("files of root, beside those of nobody"),
        };
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    prepare(dir.path());
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name]).env("TMPDIR", dir.path()).env(PREPARED, dir.path());
    again.uid(NOBODY).gid(NOBODY);
    match again.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        Err(error) => {
            crate::sys::testing::not_tried(&format!("nobody cannot run the tests: {error}"));
        }
    }
}
