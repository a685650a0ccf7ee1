//! File systems that cannot be reached when the server starts.
//!
//! A directory cannot be opened while its FUSE daemon or its network server is away. The server
//! waits for it before it serves anything, and its clients wait too. If it served the other
//! directories meanwhile, handles of this one would be reported as stale; if it exited, something
//! would have to start it again. While it waits, `/readyz` reports that it is starting.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::exports;
use crate::config::{Config, ExportSource};
use crate::errno::Errno;
use crate::sys::mounts;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Blocks until the file systems of all directories that are served or written can be reached.
/// Other errors are left to the code that opens the directories.
pub fn wait_for(config: &Config) {
    let served = match &config.source {
        ExportSource::Directory(dir, _) => vec![dir.clone()],
        ExportSource::File(file) => exports::directories(file),
        ExportSource::None => Vec::new(),
    };
    let volumes = config.volumes.as_ref().map(|volumes| &volumes.dir);
    for dir in served.iter().chain(volumes).chain([&config.state]) {
        wait_for_one(dir);
    }
}

fn wait_for_one(dir: &Path) {
    let Some(error) = away(dir) else { return };
    // After an unmount, the path leads to the directory below the mount point, which is not the one
    // to serve.
    let point = mounts::point_of(dir);
    tracing::warn!(
        dir = %dir.display(), %error,
        "its file system is away, and nothing is served until it is back: mount it again (if its \
         daemon has ended, unmount it first), or remove the directory from the configuration and \
         restart"
    );
    while away(dir).is_some() || mounts::point_of(dir) != point {
        thread::sleep(PAUSE);
    }
    tracing::info!(dir = %dir.display(), "the file system is back");
}

/// The error by which a directory cannot be reached for now, if there is one.
fn away(dir: &Path) -> Option<Errno> {
    fs::metadata(dir).err().map(Errno::from).filter(|errno| errno.is_away())
}
