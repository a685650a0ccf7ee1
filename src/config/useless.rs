//! Refuses options that have no effect without another option.
//!
//! An option on the command line is meant to have an effect. In the environment such options are
//! allowed, because an image sets them whatever is served.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// Options, the option that they need, and that option as it is written.
const NEEDS: [(&[&str], &str, &str); 3] = [
    (&["purge_rate", "recount", "overcommit", "admin_socket"], "volumes", "--volumes DIR"),
    (&["admin_host"], "admin", "--admin ADDR:PORT"),
    (
        &["nfs_server", "nfs_service", "kubeconfig", "namespaces", "lease_name", "lease_namespace"],
        "provisioner",
        "--provisioner NAME",
    ),
];

/// Checks the options of `berth serve` that were given on the command line.
///
/// # Errors
/// One of them has no effect; the error names it and what it needs.
pub fn check(command: &mut Command, serve: &ArgMatches) -> Result<(), clap::Error> {
    for (options, needed, written) in NEEDS {
        if serve.contains_id(needed) {
            continue;
        }
        let is_given = |id: &&&str| serve.value_source(id) == Some(ValueSource::CommandLine);
        if let Some(id) = options.iter().find(is_given) {
            let option = id.replace('_', "-");
            let message = format!("--{option} has no effect without {written}");
            return Err(command.error(ErrorKind::MissingRequiredArgument, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::CommandLine;

    #[test]
    fn an_option_without_effect_is_refused_with_what_it_needs() {
        let said = |words: &str| {
            let mut command = CommandLine::command();
            let matches = command.try_get_matches_from_mut(words.split(' ')).unwrap();
            let (_, serve) = matches.subcommand().unwrap();
            check(&mut command, serve).map_err(|error| error.to_string())
        };
        let check = |options: &str, needed: &str| {
            let error = said(&format!("berth serve d {options}")).unwrap_err();
            let (option, _) = options.split_once(' ').unwrap();
            assert!(error.contains(option) && error.contains(needed), "{error}");
        };
        check("--overcommit 100", "--volumes");
        check("--purge-rate 5", "--volumes");
        check("--recount 5", "--volumes");
        check("--admin-socket s", "--volumes");
        check("--admin-host a", "--admin ");
        for option in ["nfs-server", "nfs-service", "kubeconfig", "namespaces", "lease-name"] {
            check(&format!("--{option} a"), "--provisioner");
        }
        said("berth serve d").unwrap();
        said("berth serve d --volumes v --overcommit 100 --recount 0 --admin-socket s").unwrap();
        said("berth serve d --admin 127.0.0.1:1 --admin-host a").unwrap();
    }
}
