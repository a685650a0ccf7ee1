//! Logs panics, within the bound for lines that peers can cause ([`OFTEN`]).
//!
//! A call that panics closes its connection and nothing else, so a peer that knows such a call can
//! repeat it at the speed of the network. Rust's default hook would write to standard error each
//! time.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use super::bounded::{Cut, OFTEN};

/// Installs the panic hook of the process. `RUST_BACKTRACE` adds a backtrace, as usual.
pub fn log() {
    panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        name: OFTEN,
        thread,
        place,
        error = %Cut(message.as_bytes()),
        backtrace = backtrace.map(tracing::field::display),
        "a thread panicked; this is a fault of Berth: please report it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::bounded::tests::{count, written};

    #[test]
    fn repeated_panics_are_bounded() {
        let before = panic::take_hook();
        log();
        let lines = written(|limiter| {
            for n in 0..500 {
                let panics = || panic!("number {n} {}", "x".repeat(10_000));
                panic::catch_unwind(panics).unwrap_err();
            }
            limiter.report_all();
        });
        panic::set_hook(before);
        let kind = "a thread panicked";
        assert_eq!(count(&lines, "number"), 100);
        assert!(lines[0].contains(kind) && lines[0].contains(file!()), "{}", lines[0]);
        assert_eq!(count(&lines, "left_out=400"), 1);
    }
}
