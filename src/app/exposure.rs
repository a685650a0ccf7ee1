//! Whether users of this machine can enter a directory that is exported.
//!
//! A client whose root is not squashed makes programs there that run as root, and devices. Whoever can
//! enter the directory on the server runs and opens them, past every mount option of the clients. So a
//! way into it that is open to all is told at the start.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{geteuid, getpid};

use crate::export::{Devices, Export, Mode, Options, SetId};

/// Whether users of this machine can enter the directory `dir`, which is absolute and without links, and
/// would gain from it. Blocks.
///
/// Not where the server is no superuser: its clients are none either. And not where it is the first
/// process of a container, which has no users of its own.
pub fn is_open(dir: &Path) -> bool {
    geteuid().is_root() && !getpid().is_init() && !dir.ancestors().any(is_closed)
}

/// Whether only root may search a directory.
fn is_closed(dir: &Path) -> bool {
    // What cannot be looked at keeps nobody out.
    fs::metadata(dir).is_ok_and(|of| keeps_users_out(of.uid(), of.gid(), of.mode()))
}

const fn keeps_users_out(uid: u32, gid: u32, mode: u32) -> bool {
    let others = if gid == 0 { 0o001 } else { 0o011 };
    uid == 0 && mode & others == 0
}

/// Warns of an export in which clients can make what gives power to users of this machine.
pub fn warn_of(export: &Export) {
    let gives_power = |options: &Options| {
        let refuses = options.set_id == SetId::Refused && options.devices == Devices::Refused;
        options.mode == Mode::ReadWrite && !refuses
    };
    if export.clients.iter().any(|client| gives_power(&client.options)) && is_open(&export.dir) {
        tracing::warn!(
            dir = %export.dir.display(),
            "users of this machine can enter an exported directory, and run as root what clients make in \
             it; let only root enter it or a directory above it (chmod 700), or export it with nosuid,nodev"
        );
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
        assert!(is_open(&below), "this wants a temporary folder that all may enter");
        fs::set_permissions(dir.path().join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!is_open(&below));
    }
}
