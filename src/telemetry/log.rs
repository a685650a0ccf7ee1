//! The log on standard error, as text or JSON, filtered by `RUST_LOG`.

use std::env;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::bounded::{BoundedFormat, LogLimiter};
use super::panics;

/// Formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The filter that turns off a target of the Kubernetes client, which logs every call that fails as
/// an error, without its address. The callers log such errors once.
const CLIENT_QUIET: &str = "kube_client::client::builder=off";

/// Whether `RUST_LOG` has a filter for the Kubernetes client.
fn filters_client(filter: &str) -> bool {
    filter.contains("kube")
}

/// Starts the log of the process, which includes panics, and returns the limiter of lines that
/// peers can cause. Invalid filters in `RUST_LOG` are ignored. Must be called once.
pub fn start(format: LogFormat) -> Arc<LogLimiter> {
    let limiter = Arc::<LogLimiter>::default();
    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let filter = if filters_client(&env::var("RUST_LOG").unwrap_or_default()) {
        filter
    } else {
        filter.add_directive(CLIENT_QUIET.parse().expect("the directive is well-formed"))
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => {
            let log = log.with_target(false);
            log.map_event_format(|format| BoundedFormat::new(format, Arc::clone(&limiter))).init();
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true);
            log.map_event_format(|format| BoundedFormat::new(format, Arc::clone(&limiter))).init();
        }
    }
    panics::log();
    limiter
}

/// Displays an error with its causes in one line, separated by colons.
pub struct Chain<'a>(pub &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
