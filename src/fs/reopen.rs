//! Reopens exports whose file system went away (its daemon or server), and came back.
//!
//! While it is away, calls fail with an errno for which [`Errno::is_away`] is true, and clients
//! wait. After a remount, old descriptors do not work again: those of a FUSE daemon that ended
//! return `ENOTCONN` for ever. Once a call has failed in this way, the directory of its export is
//! opened every second, by its path, until that succeeds and it is the same directory
//! ([`super::fingerprint`]). The directory below the mount point is another one, and so is another
//! file system that is mounted there.
//!
//! Then all files of the export are closed, and opened again by their handles when they are used.
//! Data that was written without a flush may be lost with the daemon. The write verifier therefore
//! changes, and clients send the data again. A WRITE to the old file system must not return the new
//! verifier, and a COMMIT on the new one must not return the old verifier. The old root is
//! therefore marked first, then the verifier changes, and then the new root becomes visible. A
//! WRITE reads the verifier before it reads the mark.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fs;
use super::error::Error;
use super::fingerprint::Fingerprint;
use super::node::Node;
use super::root::Root;
use crate::errno::{Errno, Result};
use crate::telemetry::bounded::OFTEN;

impl Root {
    /// Notes an error of a system call on its files.
    pub(super) fn note(&self, errno: Errno) {
        if errno.is_away() && !self.away.swap(true, Ordering::Relaxed) {
            let path = self.path.display();
            tracing::warn!(
                name: OFTEN, %path, error = %errno, "the file system is away; clients wait until it is back"
            );
        }
    }

    /// As [`Root::note`], if it is the error of a system call.
    pub(super) fn note_error(&self, error: Error) {
        if let Error::Errno(errno) = error {
            self.note(errno);
        }
    }

    /// Checks that it was not reopened. If it was, the caller has to find its files again.
    ///
    /// # Errors
    /// `ENOTCONN`, on which clients retry.
    pub(super) fn check_current(&self) -> Result<()> {
        if self.replaced.load(Ordering::SeqCst) { Err(Errno::NOTCONN) } else { Ok(()) }
    }

    /// Opens the same directory again. Blocks.
    ///
    /// # Errors
    /// It cannot be opened; `ESTALE` if another directory is there.
    fn reopened(&self) -> Result<Self> {
        let account = self.account.clone();
        let fresh = Self::open(self.id, &self.path, Some(self.handles), account)?;
        if fresh.fingerprint.is_still(&self.fingerprint) {
            return Ok(fresh);
        }
        self.warn_of_rival(&fresh.fingerprint);
        Err(Errno::STALE)
    }

    /// Logs once that another file system is mounted in place of this one.
    fn warn_of_rival(&self, rival: &Fingerprint) {
        let is_rival = rival.is_rival_of(&self.fingerprint);
        if is_rival && !self.warned_of_rival.swap(true, Ordering::Relaxed) {
            let (path, expected) = (self.path.display(), &self.fingerprint);
            tracing::error!(
                name: OFTEN, %path, %expected, found = %rival,
                "another file system is mounted in place of the one that is served; clients wait \
                 until that is back: mount it there, or restart the server to serve the other one"
            );
        }
    }
}

impl Fs {
    /// Reopens the exports whose file systems were away and are back, if `may` returns that this
    /// server may still serve their directory. Blocks for as long as one of them hangs. To be
    /// called once a second, by one thread.
    pub fn reopen_exports(&self, may: impl Fn(&Path) -> bool) {
        let roots = self.roots.load();
        for root in roots.values().filter(|root| root.away.load(Ordering::Relaxed)) {
            let fresh = root.reopened();
            // After opening: only a file system that is back can hold a lock file.
            match fresh.and_then(|fresh| may(&root.path).then_some(fresh).ok_or(Errno::BUSY)) {
                Ok(fresh) => self.replace_root(root, fresh),
                Err(error) => {
                    tracing::debug!(%error, path = %root.path.display(), "still away");
                }
            }
        }
    }

    /// Adds a node to the cache, unless its export was reopened since its root was looked up: the
    /// node would not work, and stay for as long as clients use it.
    ///
    /// # Errors
    /// `ENOTCONN`, on which clients retry.
    pub(super) fn keep(&self, node: Arc<Node>) -> Result<Arc<Node>> {
        let node = self.nodes.add(node);
        // After adding: a node that is added before the mark is forgotten with the others.
        node.root.check_current().inspect_err(|_| self.nodes.forget(&node.root))?;
        Ok(node)
    }

    fn replace_root(&self, old: &Arc<Root>, fresh: Root) {
        old.replaced.store(true, Ordering::SeqCst);
        self.flusher.change_verifier();
        let fresh = self.attached(fresh);
        self.roots.rcu(|roots| {
            let mut roots = HashMap::clone(roots);
            // It may have been detached, or attached again, meanwhile.
            if let Some(root) = roots.get_mut(&old.id)
                && Arc::ptr_eq(root, old)
            {
                *root = Arc::clone(&fresh);
            }
            roots
        });
        self.close_orphans_of(old);
        self.nodes.forget(old);
        tracing::info!(name: OFTEN, path = %old.path.display(), "the file system is back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ExportId;
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::fs::testing::Files;
    use crate::sched::Patience;
    use std::fs::{create_dir, rename};

    const EXPORT: ExportId = ExportId(1);

    #[test]
    fn an_export_is_reopened_once_the_same_directory_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let [export, elsewhere, other] =
            ["export", "elsewhere", "other"].map(|name| dir.path().join(name));
        create_dir(&export).unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, &export, None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let file = files.create(&files.root(), "file").unwrap();
        let before = (fs.root(EXPORT).unwrap(), fs.verifier());
        let is_as_before =
            || Arc::ptr_eq(&fs.root(EXPORT).unwrap(), &before.0) && fs.verifier() == before.1;
        before.0.note(Errno::IO);
        fs.reopen_exports(|_| true);
        assert!(is_as_before(), "a disk that fails is not away");

        before.0.note(Errno::NOTCONN);
        rename(&export, &elsewhere).unwrap();
        fs.reopen_exports(|_| true);
        assert!(is_as_before(), "nothing is there");
        create_dir(&export).unwrap();
        fs.reopen_exports(|_| true);
        assert!(is_as_before(), "the directory below the mount point is another one");

        rename(&export, &other).unwrap();
        rename(&elsewhere, &export).unwrap();
        fs.reopen_exports(|dir| dir != export);
        assert!(is_as_before(), "it is another server's");
        fs.reopen_exports(|dir| dir == export);
        assert!(!is_as_before());
        assert_ne!(fs.verifier(), before.1, "what was not flushed may be lost");
        let again = fs.node(file.handle(), Patience::Blocking).unwrap();
        assert!(!Arc::ptr_eq(&again, &file), "it is reopened");
        assert_eq!(again.fileid, file.fileid);
        let renewed = fs.verifier();
        fs.reopen_exports(|_| true);
        assert_eq!(fs.verifier(), renewed, "once is enough");
    }

    #[test]
    fn a_root_that_was_replaced_is_neither_written_nor_searched() {
        let dir = tempfile::tempdir().unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let (dir, old) = (files.root(), fs.root(EXPORT).unwrap());
        let file = files.create(&dir, "file").unwrap();
        files.write(&file, 0, 1).unwrap();
        old.note(Errno::NOTCONN);
        fs.reopen_exports(|_| true);
        // Calls that were under way, with the files that they had found before.
        assert_eq!(files.write(&file, 0, 1), Err(Errno::NOTCONN), "under the new verifier");
        assert_eq!(fs.root_node(&old).err(), Some(Errno::NOTCONN));
        assert_eq!(files.find(&dir, "file").err(), Some(Errno::NOTCONN));
        for handle in [dir.handle(), file.handle()] {
            assert!(fs.nodes.peek(handle).is_none(), "it would be found for ever");
            fs.node(handle, Patience::Blocking).unwrap();
        }
    }

    #[test]
    fn an_export_that_was_detached_while_away_stays_detached() {
        let dir = tempfile::tempdir().unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let root = fs.root(EXPORT).unwrap();
        let fresh = root.reopened().unwrap();
        fs.detach(EXPORT);
        fs.replace_root(&root, fresh);
        assert_eq!(fs.root(EXPORT).err(), Some(Errno::STALE));
    }
}
