//! What the unit tests of several modules share.

use std::io::Write as _;

/// Prints that a test, or a part of it, cannot run on this machine, and why.
///
/// It writes to standard error directly, because the test harness discards what a passing test
/// prints.
pub fn not_tried(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "not tried: {test}: {why}");
}
