//! The unix socket of the admin API: its creation, and the connections over it.
//!
//! - The socket has the mode 0600 from the moment it exists. Directories that are created for it
//!   have the mode 0700.
//! - A path belongs to one server. An existing socket is tried with connect(2): if that is refused,
//!   the socket is left over from a server that crashed, and is replaced. A lock on the directory
//!   makes servers that start at the same time do this one after the other.
//! - Connections are limited in number, and in the time for which they may be idle. When the server
//!   stops, requests in progress are completed within [`GRACE`], and all connections close.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// Time limit for the header of a request, which is also the limit of an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit of requests in progress when the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Pause before the next attempt when accepting fails, for example for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Attempts to lock the directory, and the pause between two of them. A server holds the lock only
/// while it binds its socket.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why the socket cannot be created.
#[derive(Error, Debug)]
pub enum SocketError {
    /// Another server listens on it.
    #[error("another server listens on {}; give each its own with --admin-socket", .0.display())]
    InUse(PathBuf),
    /// The path is that of another file.
    #[error("{} is not a socket; choose another path with --admin-socket", .0.display())]
    NoSocket(PathBuf),
    /// A system call failed.
    #[error("cannot {what} {}; another path can be chosen with --admin-socket", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// A socket that clients can connect to. Dropping it removes its file.
pub struct ListeningSocket {
    // Dropped first: while the socket still listens, no other server replaces the file, so the file
    // that is removed is our own.
    _file: SocketFile,
    listener: UnixListener,
}

/// The file of the socket, removed when this is dropped.
struct SocketFile {
    path: PathBuf,
    /// Device and inode: an administrator may have put another file there.
    id: (u64, u64),
}

/// Creates the socket and starts to listen. Must be called inside a runtime. Blocks for a few
/// system calls, and for up to two seconds while another server does the same in this directory.
///
/// # Errors
/// When it fails, nothing has changed, except that the directory may have been created.
pub fn listen(path: &Path) -> Result<ListeningSocket, SocketError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("create the directory", folder))?;
    let _one_at_a_time = lock(folder).map_err(failed("lock the directory", folder))?;
    remove_stale(path)?;
    bind(path).map_err(failed("listen on", path))
}

/// Serves `api` over the socket until `stop` is cancelled. When this returns, the socket's file is
/// removed, and the requests in progress are complete or cut off.
pub async fn serve(listening: ListeningSocket, api: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some((stream, slot)) = next(&listening.listener, &slots, &stop).await {
        connections.spawn(connection(stream, slot, api.clone(), stop.clone()));
        while connections.try_join_next().is_some() {} // reaps those that have ended
    }
    drop(listening);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, ended).await.is_err() {
        tracing::warn!(cut_off = connections.len(), "admin connections were cut off at the end");
    }
}

/// Accepts the next connection; `None` once the server stops.
async fn next(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(tokio::net::UnixStream, OwnedSemaphorePermit)> {
    let accept = async {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                Err(error) => tracing::warn!(%error, "cannot accept an admin connection"),
            }
            sleep(ACCEPT_PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        accepted = accept => accepted,
    }
}

/// Serves one connection.
async fn connection(
    stream: tokio::net::UnixStream,
    _slot: OwnedSemaphorePermit,
    api: Router,
    stop: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(api));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection closed");
    }
}

/// Locks a directory; the lock is released when the returned file is dropped. Blocks for at most
/// [`LOCK_TRIES`] times [`LOCK_PAUSE`].
fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    for _ in 1..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(errno.into()),
        }
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Removes the socket of a server that crashed.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("examine", path)(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.into()));
        }
        Ok(_) => (),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a server that crashed");
            fs::remove_file(path).map_err(failed("remove", path))
        }
        Err(error) => Err(failed("connect to", path)(error)),
    }
}

fn bind(path: &Path) -> io::Result<ListeningSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before bind: Linux gives the file the mode of the socket, so there is no moment in which
    // other users could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.into(), id: (found.dev(), found.ino()) };
    socket.set_nonblocking(true)?;
    socket.listen(i32::try_from(CONNECTIONS).unwrap_or(i32::MAX))?;
    Ok(ListeningSocket { _file: file, listener: UnixListener::from_std(socket.into())? })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { what, path, source }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.id;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path); // if it fails, the next server replaces the file
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener as StdListener;

    use tempfile::tempdir;

    use super::*;
    use crate::admin::fake::{FakeServer, FakeVolumes, runtime};

    fn try_to_listen(path: &Path) -> Result<ListeningSocket, SocketError> {
        let runtime = runtime();
        let _inside = runtime.enter();
        listen(path)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_socket_is_private() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("made/anew/admin.sock");
        let runtime = runtime();
        let _inside = runtime.enter();
        let listening = listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(listening);
        assert!(!path.exists());
    }

    #[test]
    fn an_existing_directory_keeps_its_mode() {
        let dir = tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        try_to_listen(&dir.path().join("a")).unwrap();
        assert_eq!(mode(dir.path()), 0o755);
    }

    #[test]
    fn the_socket_of_a_crashed_server_is_replaced() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "the file remains");
        try_to_listen(&path).unwrap();
    }

    #[test]
    fn the_socket_of_a_running_server_is_kept() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _living = StdListener::bind(&path).unwrap();
        let error = try_to_listen(&path).err().expect("it is in use");
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        assert!(error.to_string().contains("--admin-socket"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_not_a_socket_is_kept() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, b"precious").unwrap();
        let error = try_to_listen(&path).err().expect("the path is taken");
        assert!(error.to_string().contains("--admin-socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("x".repeat(150));
        let error = try_to_listen(&path).err().expect("the path is too long for a socket");
        assert!(error.to_string().contains("xxx"), "{error}");
    }

    #[test]
    fn a_file_that_replaced_the_socket_is_not_removed() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let runtime = runtime();
        let _inside = runtime.enter();
        let listening = listen(&path).unwrap();
        fs::rename(&path, dir.path().join("aside")).unwrap();
        fs::write(&path, b"other").unwrap();
        drop(listening);
        assert_eq!(fs::read(&path).unwrap(), b"other");
    }

    #[test]
    fn a_stop_closes_idle_connections_and_removes_the_socket() {
        let served = FakeServer::start(FakeVolumes::with(&["data"]));
        let path = served.path.clone();
        let mut idle = UnixStream::connect(&path).unwrap();
        idle.write_all(b"GET /v1/trash HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        drop(served); // joins the server
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"}"), "the reply is complete");
        assert!(!path.exists());
    }
}
