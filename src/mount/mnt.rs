//! MNT (RFC 1813 §5.2.1): the file handle of a directory to mount.

use std::fmt;
use std::net::SocketAddr;

use super::types::{MountStatus, PATH_MAX};
use super::{MountContext, SourceAddress};
use crate::errno::Errno;
use crate::export::{AccessDenied, Export, ExportTable};
use crate::fs::handle::Handle;
use crate::sched::Patience;
use crate::telemetry::bounded::Cut;

/// Why MNT fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum MountFailure {
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
    #[error("no such export")]
    NoExport,
    #[error(transparent)]
    Client(#[from] AccessDenied),
    #[error(transparent)]
    Directory(Errno),
}

/// Returns the file handle of the directory `path`, if the client has access to its export. Adds a
/// client with a verified address to the list of mounts.
///
/// Returns `None` if it would have to access the disk, but the call must not block.
pub fn mnt(cx: &MountContext<'_>, path: &[u8]) -> Option<Result<Handle, MountStatus>> {
    let (mount, peer) = (cx.mount, cx.rpc.peer);
    let table = mount.exports.load();
    let located = match permitted(&table, path, peer) {
        Ok(_) if cx.rpc.patience == Patience::None => return None,
        Ok((export, below)) => match mount.fs.locate(export.id, below) {
            Ok(handle) => Ok((export, handle)),
            Err(errno) => Err(MountFailure::Directory(errno)),
        },
        Err(failure) => Err(failure),
    };
    let shown = LogPath { table: &table, path };
    Some(match located {
        Ok((export, handle)) => {
            tracing::info!(%peer, path = %shown, export = %export.public_path(), "mount granted");
            if cx.source == SourceAddress::Verified {
                mount.mounts().add(cx.client(), path, export.hidden);
            }
            Ok(handle)
        }
        Err(error) => {
            tracing::info!(%peer, path = %shown, %error, "mount refused");
            Err(error.into())
        }
    })
}

/// Returns the export that contains `path`, and the path below it. The client is checked before the
/// directory, so a client without access learns nothing about what exists.
fn permitted<'t, 'p>(
    table: &'t ExportTable,
    path: &'p [u8],
    peer: SocketAddr,
) -> Result<(&'t Export, &'p [u8]), MountFailure> {
    if path.len() > PATH_MAX {
        return Err(MountFailure::TooLong);
    }
    // libnfs sends an empty path for the root.
    let path = if path.is_empty() { b"/" } else { path };
    let (export, below) = table.locate(path).ok_or(MountFailure::NoExport)?;
    export.access(peer)?;
    Ok((export, below))
}

/// A requested path for the log: truncated, and without the secret component of the export that
/// contains it.
struct LogPath<'a> {
    table: &'a ExportTable,
    path: &'a [u8],
}

impl fmt::Display for LogPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table.locate(self.path) {
            Some((export, _)) if export.hidden => write!(f, "{}...", export.public_path()),
            _ => Cut(self.path).fmt(f),
        }
    }
}

impl From<MountFailure> for MountStatus {
    fn from(failure: MountFailure) -> Self {
        match failure {
            MountFailure::TooLong => Self::NameTooLong,
            MountFailure::NoExport => Self::NoEnt,
            MountFailure::Client(AccessDenied::NotListed | AccessDenied::InsecurePort) => {
                Self::Acces
            }
            MountFailure::Directory(errno) => errno.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{ExportId, Ports};

    #[test]
    fn secret_components_are_not_logged() {
        let sole = Export::sole(ExportId(1), "/srv".into(), Ports::Any);
        let hidden =
            Export { id: ExportId(2), path: b"/a/secret".into(), hidden: true, ..sole.clone() };
        let table = ExportTable::new([sole, hidden]).unwrap();
        let check = |path: &str, expected: &str| {
            let shown = LogPath { table: &table, path: path.as_bytes() };
            assert_eq!(shown.to_string(), expected, "{path}");
        };
        check("/a/secret", "/a/...");
        check("//a/./secret/below", "/a/...");
        check("/a/other", "/a/other");
        check("/b", "/b");
        check(&"x".repeat(999), &format!("{}... (999 bytes)", "x".repeat(128)));
    }
}
