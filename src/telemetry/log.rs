//! The log: to standard error, as text or JSON, as detailed as `RUST_LOG` says.

use std::env;
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::bounded::{Bounded, Limiter};
use super::panics;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The client of Kubernetes logs each call that fails as an error, without the address; its callers
/// report it, once.
const CLIENT_QUIET: &str = "kube_client::client::builder=off";

/// Whether somebody wants to see what that client logs.
fn asks_for_client(filter: &str) -> bool {
    filter.contains("kube")
}

/// Starts logging, for the whole process, panics too. Filters that make no sense in `RUST_LOG` are
/// left out. Returns what bounds the lines that peers cause.
pub fn start(format: Format) -> Arc<Limiter> {
    let limiter = Arc::<Limiter>::default();
    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let filter = if asks_for_client(&env::var("RUST_LOG").unwrap_or_default()) {
        filter
    } else {
        filter.add_directive(CLIENT_QUIET.parse().expect("the directive is well-formed"))
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        Format::Text => {
            let log = log.with_target(false);
            log.map_event_format(|format| Bounded::new(format, Arc::clone(&limiter))).init();
        }
        Format::Json => {
            let log = log.json().flatten_event(true);
            log.map_event_format(|format| Bounded::new(format, Arc::clone(&limiter))).init();
        }
    }
    panics::log();
    limiter
}

/// An error with all that caused it, in one line.
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
