//! The `berth` program: parses the command line and runs the command.

use std::process::ExitCode;

use berth::app;
use berth::command::{health, manual, volume};
use berth::config::{self, BerthCommand, CommandLine, ExportsCommand};
use berth::telemetry::log;

fn main() -> ExitCode {
    let is_root = rustix::process::geteuid().is_root();
    let result = match CommandLine::read().command {
        BerthCommand::Serve(args) => {
            let limiter = log::start(args.log_format);
            args.check(is_root).and_then(|config| app::serve(config, limiter))
        }
        BerthCommand::Exports(ExportsCommand::Check { file }) => app::exports::check(&file),
        BerthCommand::Volume(args) => match config::admin_socket_of(&args, is_root) {
            Ok(socket) => return volume::run(&socket, &args),
            Err(error) => Err(error),
        },
        BerthCommand::Health(args) => health::check(&args).map_err(Into::into),
        BerthCommand::Manual(args) => manual::print(&args).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth: {error:#}");
            ExitCode::FAILURE
        }
    }
}
