//! How far something is, for who waits for it: a bar on a terminal, a line now and then elsewhere.
//!
//! All of it goes to standard error, so that it is not among what a script reads.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines, where there is no terminal.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// What is shown of something that takes its time.
pub struct Progress {
    what: String,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Instant, every: Duration },
}

impl Progress {
    /// Begins to show how far `what` is.
    pub fn new(what: impl Into<String>) -> Self {
        let shown = match io::stderr().is_terminal() {
            true => Shown::Bar(bar()),
            false => Shown::Lines { last: Instant::now(), every: NOW_AND_THEN },
        };
        Self { what: what.into(), shown }
    }

    /// Shows that `done` of `total` are done; `text` says so in words.
    pub fn at(&mut self, done: u64, total: u64, text: &str) {
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done.min(total));
                bar.set_message(format!("{}: {text}", self.what));
            }
            Shown::Lines { last, every } => {
                if last.elapsed() >= *every {
                    *last = Instant::now();
                    eprintln!("{}: {text}", self.what);
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
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
