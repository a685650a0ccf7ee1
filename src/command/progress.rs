//! ProgressDisplay of a long operation: a bar on a terminal, a line from time to time elsewhere.
//!
//! It goes to standard error, because standard output is for the result.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines, where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the progress of one operation, until it is dropped.
pub struct ProgressDisplay {
    what: String,
    shown: ProgressOutput,
}

enum ProgressOutput {
    Bar(ProgressBar),
    Lines { last: Instant, every: Duration },
}

impl ProgressDisplay {
    /// Starts to show the progress of `what`.
    pub fn new(what: impl Into<String>) -> Self {
        let shown = match io::stderr().is_terminal() {
            true => ProgressOutput::Bar(bar()),
            false => ProgressOutput::Lines { last: Instant::now(), every: LINE_INTERVAL },
        };
        Self { what: what.into(), shown }
    }

    /// Shows that `done` of `total` units are done; `text` describes the same.
    pub fn at(&mut self, done: u64, total: u64, text: &str) {
        match &mut self.shown {
            ProgressOutput::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done.min(total));
                bar.set_message(format!("{}: {text}", self.what));
            }
            ProgressOutput::Lines { last, every } => {
                if last.elapsed() >= *every {
                    *last = Instant::now();
                    eprintln!("{}: {text}", self.what);
                }
            }
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let ProgressOutput::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:30}] {percent:>3}%  {wide_msg}");
    let style = style.expect("the template is well-formed").progress_chars("=> ");
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.with_style(style)
}
