//! The unix socket of the admin API: who may open it, and the conversations over it.
//!
//! - The socket has the mode 0600 from its first moment, and so has its folder 0700 if it is made
//!   here.
//! - The path belongs to one server. Whether another one lives is asked by connecting to it: what
//!   refuses was left behind by one that died, and is replaced. Servers that start at the same
//!   time do this one after the other, by a lock of the folder.
//! - Connections have bounds in number and in time, and end when the server stops; what they have
//!   begun is answered before, within [`GRACE`].

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

/// How long a request's header may take to arrive, and how long a connection may ask for nothing.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);

/// How long what was begun may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// Between two attempts to accept, when the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// How often the folder's lock is tried, and how long it is waited in between. Others have it for
/// no longer than it takes to bind.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no socket.
#[derive(Error, Debug)]
pub enum Error {
    /// Another server has it.
    #[error("another server listens on {}; give each its own with --admin-socket", .0.display())]
    InUse(PathBuf),
    /// Something else has its name.
    #[error("{} is no socket; choose another path with --admin-socket", .0.display())]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error("cannot {what} {}; another path can be chosen with --admin-socket", path.display())]
    Io {
        /// What could not be done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket that others can connect to. Dropping it takes its name away.
pub struct Listening {
    // The name goes first: as long as somebody listens, nobody else takes it, so that what is
    // removed is our own.
    _name: Claimed,
    listener: UnixListener,
}

/// The socket's name, as long as it is ours.
struct Claimed {
    path: PathBuf,
    /// Device and inode: an administrator may have put something else there.
    file: (u64, u64),
}

/// Binds the socket. Blocks for the time of a few system calls, and up to two seconds while
/// another server binds in the same folder. To be called inside a runtime.
///
/// # Errors
/// [`Error`]; nothing has changed then, but for a folder that may have been made.
pub fn listen(path: &Path) -> Result<Listening, Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("create the folder", folder))?;
    let _one_at_a_time = lock(folder).map_err(failed("lock the folder", folder))?;
    make_room(path)?;
    bind(path).map_err(failed("listen on", path))
}

/// Answers over the socket with `api` until `stop`. Its name is gone when this returns.
pub async fn serve(listening: Listening, api: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut conversations = JoinSet::new();
    while let Some((stream, slot)) = next(&listening.listener, &slots, &stop).await {
        conversations.spawn(converse(stream, slot, api.clone(), stop.clone()));
        while conversations.try_join_next().is_some() {} // those that have ended
    }
    drop(listening);
    let ended = async { while conversations.join_next().await.is_some() {} };
    if timeout(GRACE, ended).await.is_err() {
        tracing::warn!(cut_off = conversations.len(), "admin connections were cut off at the end");
    }
}

/// The next connection; nothing once the server stops.
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
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        accepted = accept => accepted,
    }
}

/// One connection, to its end.
async fn converse(
    stream: tokio::net::UnixStream,
    _slot: OwnedSemaphorePermit,
    api: Router,
    stop: CancellationToken,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
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
        tracing::debug!(%error, "an admin connection broke off");
    }
}

/// Waits for the lock of a folder. It ends with what is returned, and leaves nothing behind.
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

/// Takes away the socket of a server that died.
fn make_room(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(Error::NoSocket(path.into())),
        Ok(_) => (),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(Error::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the socket of a server that died");
            fs::remove_file(path).map_err(failed("remove", path))
        }
        Err(error) => Err(failed("connect to", path)(error)),
    }
}

fn bind(path: &Path) -> io::Result<Listening> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before it has a name: Linux gives the file the mode that the socket has, so that there is
    // no moment in which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let found = fs::symlink_metadata(path)?;
    let name = Claimed { path: path.into(), file: (found.dev(), found.ino()) };
    socket.set_nonblocking(true)?;
    socket.listen(i32::try_from(CONNECTIONS).unwrap_or(i32::MAX))?;
    Ok(Listening { _name: name, listener: UnixListener::from_std(socket.into())? })
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path); // the next server would replace it
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
    use crate::admin::double::{Double, Served, runtime};

    fn try_to_listen(path: &Path) -> Result<Listening, Error> {
        let runtime = runtime();
        let _inside = runtime.enter();
        listen(path)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn nobody_else_may_open_it() {
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
    fn a_folder_that_is_there_is_left_as_it_is() {
        let dir = tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        try_to_listen(&dir.path().join("a")).unwrap();
        assert_eq!(mode(dir.path()), 0o755);
    }

    #[test]
    fn what_a_dead_server_left_is_replaced() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists(), "it is left behind");
        try_to_listen(&path).unwrap();
    }

    #[test]
    fn the_socket_of_a_living_server_stays_his() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let _living = StdListener::bind(&path).unwrap();
        let error = try_to_listen(&path).err().expect("it is in use");
        assert!(matches!(error, Error::InUse(_)), "{error}");
        assert!(error.to_string().contains("--admin-socket"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn what_is_no_socket_is_not_touched() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("data");
        fs::write(&path, b"precious").unwrap();
        let error = try_to_listen(&path).err().expect("it is in the way");
        assert!(error.to_string().contains("--admin-socket"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_path_that_is_too_long_is_named() {
        let dir = tempdir().unwrap();
        let path = dir.path().join("x".repeat(150));
        let error = try_to_listen(&path).err().expect("there is no room for it");
        assert!(error.to_string().contains("xxx"), "{error}");
    }

    #[test]
    fn what_was_put_in_its_place_is_not_removed() {
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
    fn a_stop_ends_idle_connections_and_takes_the_name() {
        let served = Served::start(Double::with(&["data"]));
        let path = served.path.clone();
        let mut idle = UnixStream::connect(&path).unwrap();
        idle.write_all(b"GET /v1/trash HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        drop(served); // joins the server
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"}"), "the answer came whole, then the end");
        assert!(!path.exists());
    }
}
