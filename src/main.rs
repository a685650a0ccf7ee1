//! The `berth` program: reads the command line, and does what it says.

use std::process::ExitCode;

use berth::app;
use berth::config::{Args, Command, ExportsCommand};
use berth::telemetry::log;
use clap::Parser;

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Serve(args) => {
            log::start(args.log_format);
            args.check(rustix::process::geteuid().is_root()).and_then(app::serve)
        }
        Command::Exports(ExportsCommand::Check { file }) => app::check_exports(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth: {error:#}");
            ExitCode::FAILURE
        }
    }
}
