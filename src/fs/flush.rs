//! Flushing: on threads of their own, which notify the callers.
//!
//! A call that waits for a flush holds no thread, and calls that wait for the same flush share it
//! ([`super::group_commit`]): for the content of a file, or for the metadata (names and attributes)
//! of an export.
//!
//! ```text
//!   WRITE, COMMIT --> group of the file ---+                                +--> reply
//!                                          +--> queue --> threads: fsync ---+--> reply
//!   CREATE, ... ----> group of the export -+                                +--> reply
//! ```
//!
//! A few files and directories whose metadata changed are flushed one by one. If there are many,
//! the whole file system is flushed, where that is known to work ([`Discipline`]); it costs less,
//! but also writes what others have not flushed. Flushing on the thread that received the call
//! would save little, and block all other calls of that thread.
//!
//! The kernel reports a failed write-back once to each open file description, and drops the data. A
//! file is therefore flushed by one thread at a time, a failure changes the write verifier before
//! any caller hears of it, and a caller passes the number of failures that it read before its
//! change: a flush that failed in between may have lost that change, although the next one
//! succeeds.
//!
//! ```text
//!   flusher            threads and their queue
//!   content_request    what the next flush of a file covers
//!   metadata_request   what the next flush of an export's metadata covers
//!   full_volume        flushing the files of a full volume
//! ```

mod chain;
pub(super) mod content_request;
pub(super) mod flusher;
mod full_volume;
pub(super) mod metadata_request;
mod round_robin;

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use super::Fs;
use super::attr::FileKind;
use super::group_commit::Waiter;
use super::node::Node;
use crate::errno::{Errno, Result};
use crate::sys::disk::Discipline;
use crate::telemetry::bounded::OFTEN;
pub use content_request::Extent;
use flusher::Job;
use metadata_request::MetadataRequest;

/// The number of flushes of a file that have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failures(u64);

/// What must be on stable storage before a change is acknowledged.
pub enum Due {
    /// The content of a file, which was changed after this number of failed flushes.
    Content(Arc<Node>, Extent, Failures),
    /// The metadata of these files and directories of one export.
    Metadata(Vec<Arc<Node>>),
}

impl Node {
    /// Returns the number of flushes that have failed; to be read before a change that is to be
    /// flushed.
    pub fn failures(&self) -> Failures {
        Failures(self.failures.load(Ordering::SeqCst))
    }

    /// Whether flushes of the content are for one caller at a time, and none is running.
    pub fn is_seldom_flushed(&self) -> bool {
        self.flush.is_quiet()
    }

    /// Whether a flush of this directory puts its new files on stable storage, too.
    pub fn flushes_new_files(&self) -> bool {
        self.root.discipline == Discipline::Journal
    }

    /// Whether data is written to the kernel's memory first, not to a daemon or a server.
    pub fn is_written_to_memory(&self) -> bool {
        self.root.discipline != Discipline::Each
    }

    const fn has_content(&self) -> bool {
        matches!(self.kind, FileKind::Regular | FileKind::Directory)
    }
}

impl Fs {
    /// Calls `then` when all that is due is on stable storage, or cannot be. Blocks only while a
    /// file has to be opened.
    pub fn make_durable(&self, due: Due, then: Waiter) {
        match due {
            Due::Content(node, extent, since) => {
                let kept = match self.readable(&node) {
                    Ok(content) => content.keep(),
                    Err(errno) => return then(Err(errno)),
                };
                let file = Arc::clone(&node);
                let then = Box::new(move |flushed: Result<()>| {
                    let lost = flushed.is_ok() && file.failures() != since;
                    then(if lost { Err(Errno::IO) } else { flushed });
                });
                let next = node.flush.join(|request| request.add(extent, kept), then);
                self.flusher.begin_if_due(next, || Job::Content(node));
            }
            Due::Metadata(nodes) => {
                let Some(root) = nodes.first().map(|node| Arc::clone(&node.root)) else {
                    return then(Ok(()));
                };
                let opened = nodes.into_iter().map(|node| self.metadata_request(node));
                let opened = match opened.collect::<Result<Vec<_>>>() {
                    Ok(opened) => opened,
                    Err(errno) => return then(Err(errno)),
                };
                let add = |requests: &mut Vec<_>| metadata_request::merge(requests, opened);
                let next = root.metadata.join(add, then);
                self.flusher.begin_if_due(next, || Job::Metadata(Arc::clone(&root)));
            }
        }
    }

    /// Opens `node` for a flush, if it can be opened. Blocks.
    fn metadata_request(&self, node: Arc<Node>) -> Result<MetadataRequest> {
        let kept = match node.has_content() {
            true => self.readable(&node)?.keep(),
            false => None,
        };
        Ok(MetadataRequest { node, kept })
    }

    /// Flushes the content of `node`, as far as `extent` says. Blocks.
    ///
    /// # Errors
    /// It may not be on stable storage, and data that was written without a flush before may be
    /// lost. The write verifier has changed then.
    pub fn flush(&self, node: &Arc<Node>, extent: Extent) -> Result<()> {
        let (told, flushed) = mpsc::channel();
        let due = Due::Content(Arc::clone(node), extent, node.failures());
        self.make_durable(
            due,
            Box::new(move |flushed| {
                let _ = told.send(flushed); // it is received below
            }),
        );
        flushed.recv().unwrap_or(Err(Errno::IO))
    }

    /// Flushes a file for which no client waits. Blocks.
    pub(super) fn flush_in_background(&self, node: &Arc<Node>) {
        if let Err(error) = self.flush(node, Extent::All) {
            log_failure(node, error);
        }
    }

    /// Whether [`Fs::make_durable`] for the content of `node` would not block.
    pub fn is_open(&self, node: &Node) -> bool {
        node.opened().is_some()
    }

    /// Returns the write verifier. It changes whenever data that was acknowledged without a flush
    /// may be lost: at every start, and after every flush that failed. Clients compare it, and send
    /// the data again (RFC 1813 §3.3.7). To be read before a WRITE is made, and after the flush of
    /// a COMMIT.
    pub fn verifier(&self) -> u64 {
        self.flusher.verifier()
    }

    /// Notes that `node` has content that no flush covers.
    pub(super) fn mark_dirty(&self, node: &Node) {
        if !node.dirty.swap(true, Ordering::SeqCst) {
            node.root.unflushed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the write descriptors of flushed files that nobody writes.
    pub(super) fn close_written(&self, nodes: &[Arc<Node>]) {
        for node in nodes {
            self.flusher.close_written(node);
        }
    }
}

/// Logs that a flush has failed for which no client waits.
pub(super) fn log_failure(node: &Node, error: Errno) {
    tracing::error!(
        name: OFTEN, %error, fileid = node.fileid, "cannot flush a file; clients send again"
    );
}

#[cfg(test)]
mod tests;
