//! MNT (RFC 1813 §5.2.1): the file handle of a directory to mount.

use std::fmt;
use std::net::SocketAddr;

use super::types::{PATH_MAX, Status};
use super::{Mount, Sender};
use crate::errno::Errno;
use crate::export::{Export, ExportTable, Refused};
use crate::fs::handle::Handle;
use crate::rpc::Call;
use crate::sched::Patience;
use crate::telemetry::bounded::Cut;

/// Why MNT fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error("the path is longer than {PATH_MAX} bytes")]
    TooLong,
    #[error("no such export")]
    NoExport,
    #[error(transparent)]
    Client(#[from] Refused),
    #[error(transparent)]
    Directory(Errno),
}

/// Returns the file handle of the directory `path`, if `call`'s client has access to its export.
/// Adds a verified `sender` to the list of mounts.
///
/// Returns `None` if it would have to access the disk, but the call must not block.
pub fn mnt(
    mount: &Mount,
    path: &[u8],
    call: &Call<'_>,
    sender: Sender,
) -> Option<Result<Handle, Status>> {
    let table = mount.exports.load();
    let located = match permitted(&table, path, call.peer) {
        Ok(_) if call.patience == Patience::None => return None,
        Ok((export, below)) => match mount.fs.locate(export.id, below) {
            Ok(handle) => Ok((export, handle)),
            Err(errno) => Err(Failure::Directory(errno)),
        },
        Err(failure) => Err(failure),
    };
    let (peer, shown) = (call.peer, LogPath { table: &table, path });
    Some(match located {
        Ok((export, handle)) => {
            tracing::info!(%peer, path = %shown, export = %export.public_path(), "mount granted");
            if sender == Sender::Verified {
                mount.mounts().add(peer.ip().to_canonical(), path, export.hidden);
            }
            Ok(handle)
        }
        Err(error) => {
            tracing::info!(%peer, path = %shown, %error, "mount refused");
            Err(error.into())
        }
    })
}

/// The export that contains `path`, and the path below it. The client is checked before the
/// directory, so a client without access learns nothing about what exists.
fn permitted<'t, 'p>(
    table: &'t ExportTable,
    path: &'p [u8],
    peer: SocketAddr,
) -> Result<(&'t Export, &'p [u8]), Failure> {
    if path.len() > PATH_MAX {
        return Err(Failure::TooLong);
    }
    // libnfs sends an empty path for the root.
    let path = if path.is_empty() { b"/" } else { path };
    let (export, below) = table.locate(path).ok_or(Failure::NoExport)?;
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

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TooLong => Self::NameTooLong,
            Failure::NoExport => Self::NoEnt,
            Failure::Client(Refused::NotListed | Refused::InsecurePort) => Self::Acces,
            Failure::Directory(errno) => errno.into(),
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
