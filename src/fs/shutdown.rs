//! The end of the server: what was written without a flush is flushed, as far as the file systems
//! do it.
//!
//! Nothing that was promised depends on it: what was answered as stable was flushed before, and for
//! everything else clients have a write verifier, which is another one after the restart, and send
//! again. So a file system that hangs can be left to itself, and it must not keep others from being
//! flushed: each has a thread of its own here, beside those that flush for clients, which may hang
//! already.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Fs;
use super::flush::log_failure;
use super::node::Node;
use crate::errno::Result;

impl Fs {
    /// Flushes everything that was written. Blocks until that is done, but no longer than
    /// `patience`; returns how many files are not flushed then. To be called when no client is
    /// served any more.
    pub fn flush_all_within(self: &Arc<Self>, patience: Duration) -> usize {
        let until = Instant::now() + patience;
        let mut by_filesystem = HashMap::<_, Vec<_>>::new();
        for node in self.nodes.select(Node::is_unflushed) {
            by_filesystem.entry(node.root.filesystem).or_default().push(node);
        }
        let mut left = by_filesystem.values().map(Vec::len).sum();
        let (done, flushed) = mpsc::channel();
        for nodes in by_filesystem.into_values() {
            let (fs, done) = (Arc::clone(self), done.clone());
            let flush = move || nodes.iter().for_each(|node| fs.flush_last(node, &done));
            if let Err(error) = thread::Builder::new().name("berth-end".into()).spawn(flush) {
                tracing::error!(%error, "cannot start a thread to flush files");
            }
        }
        drop(done);
        let wait = || flushed.recv_timeout(until.saturating_duration_since(Instant::now()));
        while left > 0 && wait().is_ok() {
            left -= 1;
        }
        left
    }

    /// Flushes everything that was written, and closes what has no name. Blocks.
    #[cfg(test)]
    pub(crate) fn flush_all(&self) {
        self.close_orphans();
        for node in self.nodes.select(Node::is_unflushed) {
            self.flush_in_background(&node);
        }
    }

    fn flush_last(&self, node: &Arc<Node>, done: &mpsc::Sender<()>) {
        let flush = || -> Result<()> {
            let kept = self.readable(node)?.keep();
            self.flusher.flush_here(node, kept)
        };
        if let Err(error) = flush() {
            log_failure(node, error);
        }
        let _ = done.send(()); // nobody may wait any more
    }
}
