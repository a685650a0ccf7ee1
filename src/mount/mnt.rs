//! MNT (RFC 1813 §5.2.1): the handle with which a client starts.

use std::net::SocketAddr;

use super::Mount;
use super::types::{PATH_MAX, Status};
use crate::errno::Errno;
use crate::export::{Export, Refused, Table};
use crate::fs::handle::Handle;
use crate::rpc::Call;
use crate::sys::Patience;
use crate::telemetry::bounded::Cut;

/// Why a client gets no handle.
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

/// Gives the handle of the directory `path` to a client for which it is exported, and remembers
/// that the client has it. `None`: the disk has to be asked, for which the call has no patience.
pub fn mnt(mount: &Mount, path: &[u8], call: &Call<'_>) -> Option<Result<Handle, Status>> {
    let table = mount.exports.load();
    let located = match permitted(&table, path, call.peer) {
        Ok(_) if call.patience == Patience::None => return None,
        Ok((export, below)) => match mount.fs.locate(export.id, below) {
            Ok(handle) => Ok((export, handle)),
            Err(errno) => Err(Failure::Directory(errno)),
        },
        Err(failure) => Err(failure),
    };
    let (peer, shown) = (call.peer, Cut(path));
    Some(match located {
        Ok((export, handle)) => {
            let name = export.shown();
            match export.hidden {
                true => tracing::info!(%peer, export = %name, "mount granted"),
                false => tracing::info!(%peer, path = %shown, export = %name, "mount granted"),
            }
            mount.mounts().add(peer.ip().to_canonical(), path, export.hidden);
            Ok(handle)
        }
        Err(error) => {
            tracing::info!(%peer, path = %shown, %error, "mount refused");
            Err(error.into())
        }
    })
}

/// The export that `path` is in, and the path below it. The client is looked at before the
/// directory, so that one that is refused learns nothing of what is there.
fn permitted<'t, 'p>(
    table: &'t Table,
    path: &'p [u8],
    peer: SocketAddr,
) -> Result<(&'t Export, &'p [u8]), Failure> {
    if path.len() > PATH_MAX {
        return Err(Failure::TooLong);
    }
    // libnfs asks for nothing where it means the root.
    let path = if path.is_empty() { b"/" } else { path };
    let (export, below) = table.locate(path).ok_or(Failure::NoExport)?;
    export.access(peer)?;
    Ok((export, below))
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
