//! File systems that are away at the start.
//!
//! A directory whose FUSE daemon, or whose server on the network, is away cannot be opened, and is
//! served again as soon as it can: clients that have it mounted wait. The server waits, too, before
//! it serves anything. To serve the rest without it would be to answer for it that its files are
//! gone; to end with an error would need somebody who starts it again. Until then, /readyz says
//! that it is starting.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::exports;
use crate::config::{Config, Source};
use crate::errno::Errno;
use crate::sys::mounts;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Blocks until the file systems of all directories that are served or written can be reached. Other
/// errors are left to the code that opens the directories.
pub fn wait_for(config: &Config) {
    let served = match &config.source {
        Source::Directory(dir, _) => vec![dir.clone()],
        Source::File(file) => exports::directories(file),
        Source::None => Vec::new(),
    };
    let volumes = config.volumes.as_ref().map(|volumes| &volumes.dir);
    for dir in served.iter().chain(volumes).chain([&config.state]) {
        wait_for_one(dir);
    }
}

fn wait_for_one(dir: &Path) {
    let Some(error) = away(dir) else { return };
    // Once it is unmounted, the directory below is there to be seen, and is not what was to be
    // served.
    let point = mounts::point_of(dir);
    tracing::warn!(
        dir = %dir.display(), %error,
        "its file system is away, and nothing is served until it is back: mount it anew (where a \
         daemon has ended, umount it first), or take the directory out of what is served and \
         start again"
    );
    while away(dir).is_some() || mounts::point_of(dir) != point {
        thread::sleep(PAUSE);
    }
    tracing::info!(dir = %dir.display(), "the file system is back");
}

fn away(dir: &Path) -> Option<Errno> {
    fs::metadata(dir).err().map(Errno::from).filter(|errno| errno.is_away())
}
