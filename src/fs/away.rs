//! File systems whose daemon or server goes away, and comes back.
//!
//! While it is away, calls fail with what [`Errno::is_away`] knows, and clients wait. What was open
//! does not work again where it was mounted anew: a FUSE daemon that ended leaves every descriptor
//! `ENOTCONN` for ever. So the directory of an export of which a call has said so is opened every
//! second, by its path, until that is possible and it is the same directory ([`super::which`]).
//! What lies at the path while nothing is mounted there is another one, and so is another file
//! system that was mounted there.
//!
//! Then everything that was open is closed, to be opened anew by its handle. What was written
//! without a flush may be lost with the daemon: the write verifier changes, by which clients send
//! it again. Nobody may get the new verifier for what is written to the old file system, nor the
//! old one for a COMMIT on the new one. So the old root is marked first, then the verifier changes,
//! and then the new root is there to be found; a WRITE asks for the verifier before it looks at the
//! mark.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fs;
use super::node::Node;
use super::root::Root;
use super::which::Which;
use crate::errno::{Errno, Result};
use crate::telemetry::bounded::OFTEN;

impl Root {
    /// Notes what a system call on its files said.
    pub(super) fn note(&self, errno: Errno) {
        if errno.is_away() && !self.away.swap(true, Ordering::Relaxed) {
            let path = self.path.display();
            tracing::warn!(
                name: OFTEN, %path, error = %errno, "the file system is away; clients wait until it is back"
            );
        }
    }

    /// Says so if it was opened anew: the caller has to find its files again.
    ///
    /// # Errors
    /// `ENOTCONN`, which clients wait for.
    pub(super) fn check_current(&self) -> Result<()> {
        if self.replaced.load(Ordering::SeqCst) { Err(Errno::NOTCONN) } else { Ok(()) }
    }

    /// Opens the same directory once more.
    ///
    /// # Errors
    /// It cannot be opened; `ESTALE` if another one is there.
    fn reopened(&self) -> Result<Self> {
        let account = self.account.clone();
        let fresh = Self::open(self.id, &self.path, Some(self.handles), account)?;
        if fresh.which.is_still(&self.which) {
            return Ok(fresh);
        }
        self.tell_of(&fresh.which);
        Err(Errno::STALE)
    }

    /// Says once that another file system is mounted in place of this one.
    fn tell_of(&self, rival: &Which) {
        if rival.is_rival_of(&self.which) && !self.told_of_rival.swap(true, Ordering::Relaxed) {
            let (path, expected) = (self.path.display(), &self.which);
            tracing::error!(
                name: OFTEN, %path, %expected, found = %rival,
                "another file system is mounted in place of the one that is served; clients wait \
                 until that is back: mount it there, or restart the server to serve the other one"
            );
        }
    }
}

impl Fs {
    /// Opens the exports anew whose file systems were away and are back, if `may` says of their
    /// directory that it is still this server's to serve. Blocks, for as long as one of them hangs;
    /// to be called once a second, by one thread.
    pub fn renew_roots(&self, may: impl Fn(&Path) -> bool) {
        let roots = self.roots.load();
        for root in roots.values().filter(|root| root.away.load(Ordering::Relaxed)) {
            let fresh = root.reopened();
            // Then, because only what is there again can have a lock.
            match fresh.and_then(|fresh| may(&root.path).then_some(fresh).ok_or(Errno::BUSY)) {
                Ok(fresh) => self.renew(root, fresh),
                Err(error) => {
                    tracing::debug!(%error, path = %root.path.display(), "still away");
                }
            }
        }
    }

    /// Adds a node, unless its export was opened anew since its root was looked up: it would stay,
    /// and never work, for as long as clients ask for it.
    ///
    /// # Errors
    /// `ENOTCONN`, which clients wait for.
    pub(super) fn keep(&self, node: Arc<Node>) -> Result<Arc<Node>> {
        let node = self.nodes.add(node);
        // Afterwards: what is added before the mark is forgotten with the others.
        node.root.check_current().inspect_err(|_| self.nodes.forget(&node.root))?;
        Ok(node)
    }

    fn renew(&self, old: &Arc<Root>, fresh: Root) {
        old.replaced.store(true, Ordering::SeqCst);
        self.flusher.forget_unflushed();
        let fresh = self.attached(fresh);
        self.roots.rcu(|roots| {
            let mut roots = HashMap::clone(roots);
            // It may have been detached, or attached anew, meanwhile.
            if let Some(root) = roots.get_mut(&old.id)
                && Arc::ptr_eq(root, old)
            {
                *root = Arc::clone(&fresh);
            }
            roots
        });
        self.give_back(old);
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
    fn an_export_is_opened_anew_once_the_same_directory_is_there() {
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
        fs.renew_roots(|_| true);
        assert!(is_as_before(), "a disk that fails is not away");

        before.0.note(Errno::NOTCONN);
        rename(&export, &elsewhere).unwrap();
        fs.renew_roots(|_| true);
        assert!(is_as_before(), "nothing is there");
        create_dir(&export).unwrap();
        fs.renew_roots(|_| true);
        assert!(is_as_before(), "what was below the mount is not what was mounted");

        rename(&export, &other).unwrap();
        rename(&elsewhere, &export).unwrap();
        fs.renew_roots(|dir| dir != export);
        assert!(is_as_before(), "it is another server's");
        fs.renew_roots(|dir| dir == export);
        assert!(!is_as_before());
        assert_ne!(fs.verifier(), before.1, "what was not flushed may be lost");
        let again = fs.node(file.handle(), Patience::Blocking).unwrap();
        assert!(!Arc::ptr_eq(&again, &file), "it is opened anew");
        assert_eq!(again.fileid, file.fileid);
        let renewed = fs.verifier();
        fs.renew_roots(|_| true);
        assert_eq!(fs.verifier(), renewed, "once is enough");
    }

    #[test]
    fn nothing_is_written_to_or_found_in_what_was_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let files = Files::of(&fs, EXPORT);
        let (dir, old) = (files.root(), fs.root(EXPORT).unwrap());
        let file = files.create(&dir, "file").unwrap();
        files.write(&file, 0, 1).unwrap();
        old.note(Errno::NOTCONN);
        fs.renew_roots(|_| true);
        // Calls that were under way, with what they had found before.
        assert_eq!(files.write(&file, 0, 1), Err(Errno::NOTCONN), "under the new verifier");
        assert_eq!(fs.root_node(&old).err(), Some(Errno::NOTCONN));
        assert_eq!(files.find(&dir, "file").err(), Some(Errno::NOTCONN));
        for handle in [dir.handle(), file.handle()] {
            assert!(fs.nodes.peek(handle).is_none(), "it would be found for ever");
            fs.node(handle, Patience::Blocking).unwrap();
        }
    }

    #[test]
    fn what_was_detached_while_it_was_away_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(EXPORT, dir.path(), None, None).unwrap();
        let root = fs.root(EXPORT).unwrap();
        let fresh = root.reopened().unwrap();
        fs.detach(EXPORT);
        fs.renew(&root, fresh);
        assert_eq!(fs.root(EXPORT).err(), Some(Errno::STALE));
    }
}
