//! Warnings about exports that give users of this machine, or of the network, power over it.
//!
//! Root on a client, unless it is squashed, can create set-id programs and devices in an export. A
//! user of this machine who can enter the exported directory can run and open them, whatever the
//! mount options of clients. The server therefore warns at its start about such directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{geteuid, getpid};

use crate::export::{Devices, Export, ExportMode, ExportOptions, Ports, SetId};

/// Whether users of this machine can enter `dir` and gain privileges there. `dir` is absolute and
/// has no symbolic links. Blocks.
///
/// False if the server does not run as root, because its clients then cannot create such files.
/// Also false if it is the first process of a container, which has no other users.
pub fn is_open(dir: &Path) -> bool {
    geteuid().is_root() && !getpid().is_init() && !dir.ancestors().any(is_closed)
}

/// Whether only root can search a directory.
fn is_closed(dir: &Path) -> bool {
    // A directory that cannot be examined is taken for an open one.
    fs::metadata(dir).is_ok_and(|of| keeps_users_out(of.uid(), of.gid(), of.mode()))
}

const fn keeps_users_out(uid: u32, gid: u32, mode: u32) -> bool {
    let others = if gid == 0 { 0o001 } else { 0o011 };
    uid == 0 && mode & others == 0
}

/// Logs as which users clients act.
pub fn log_identity(acts_as_callers: bool) {
    if acts_as_callers {
        tracing::info!("clients act as the users that they name");
    } else {
        let uid = geteuid().as_raw();
        tracing::info!(uid, "without root, all clients act as the user of the server");
    }
}

/// Warns that a directory is exported to a network without restrictions.
pub fn warn_of_network(dir: &Path) {
    tracing::warn!(
        dir = %dir.display(),
        "every machine that can connect over the network can read and change the directory as any \
         user, also as root; list the clients with --exports FILE, or listen on 127.0.0.1 only"
    );
}

/// Which clients can connect, and as which users they act.
#[derive(Clone, Copy)]
pub struct Audience {
    /// Whether only this machine can connect.
    pub is_local: bool,
    /// Whether clients act as the users that they name.
    pub acts_as_callers: bool,
}

impl Audience {
    /// Warns of an export by which users of this machine gain privileges.
    pub fn warn_of(self, export: &Export) {
        let has = |gains: fn(Self, &ExportOptions) -> bool| {
            export.clients.iter().any(|client| gains(self, &client.options))
        };
        if has(Self::creates_privileged) && is_open(&export.dir) {
            tracing::warn!(
                dir = %export.dir.display(),
                "users of this machine can enter an exported directory, and run as root what \
                 clients create in it; let only root enter it or a directory above it (chmod \
                 700), or export it with nosuid,nodev"
            );
        }
        if has(Self::lends_user) {
            let (dir, uid) = (export.dir.display(), geteuid().as_raw());
            tracing::warn!(
                %dir, uid,
                "every user of this machine can use an exported directory with the rights of the \
                 user who runs the server; export it with `secure` in an exports file \
                 (--exports), or run the server as root"
            );
        }
    }

    /// Warns of volumes that users of this machine can use as the server's user.
    pub fn warn_of_volumes(self, dir: &Path) {
        if !self.acts_as_callers && !getpid().is_init() {
            let (dir, uid) = (dir.display(), geteuid().as_raw());
            tracing::warn!(
                %dir, uid,
                "every user of this machine can use volumes with the rights of the user who runs \
                 the server; create them with --secure, or run the server as root"
            );
        }
    }

    /// Whether clients can create set-id programs or devices. If only root on this machine can be a
    /// client, nothing is gained: only root can use ports below 1024.
    fn creates_privileged(self, options: &ExportOptions) -> bool {
        let refuses = options.set_id == SetId::Refused && options.devices == Devices::Refused;
        let is_roots = self.is_local && options.ports == Ports::Privileged;
        options.mode == ExportMode::ReadWrite && !refuses && !is_roots
    }

    /// Whether users of this machine act as the server's user. A container has no other users.
    fn lends_user(self, options: &ExportOptions) -> bool {
        !self.acts_as_callers && options.ports == Ports::Any && !getpid().is_init()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_roots_own_directories_keep_users_out() {
        let check = |uid, gid, mode, expected| {
            assert_eq!(keeps_users_out(uid, gid, mode), expected, "{uid} {gid} {mode:o}");
        };
        check(0, 0, 0o40700, true);
        check(0, 0, 0o40750, true);
        check(0, 0, 0o40744, true);
        check(0, 0, 0o40755, false);
        check(0, 0, 0o41777, false);
        check(0, 1000, 0o40750, false);
        check(0, 1000, 0o40740, true);
        check(1000, 0, 0o40700, false);
    }

    #[test]
    fn users_of_this_machine_gain_by_ports_that_they_may_use() {
        let options = |ports| ExportOptions {
            mode: ExportMode::ReadWrite,
            ports,
            ..ExportOptions::default()
        };
        let check = |is_local, acts_as_callers, ports, expected| {
            let audience = Audience { is_local, acts_as_callers };
            let options = options(ports);
            let found = (audience.creates_privileged(&options), audience.lends_user(&options));
            assert_eq!(found, expected, "{is_local} {acts_as_callers} {ports:?}");
        };
        check(true, true, Ports::Privileged, (false, false));
        check(true, true, Ports::Any, (true, false));
        check(false, true, Ports::Privileged, (true, false));
        check(true, false, Ports::Privileged, (false, false));
        check(true, false, Ports::Any, (true, true));
    }

    #[test]
    fn one_directory_on_the_way_is_enough() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_open(&below));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_open(&below), "this test needs a temporary folder that all users can enter");
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_open(&below));
    }
}
