//! Durability: the changes of a call are on stable storage when its reply is sent.
//!
//! A procedure makes its changes and returns what must be flushed. Its thread continues with other
//! calls, and a flusher thread writes the reply after the flush. In an `async` export, changes of
//! names and attributes need no flush.

use std::sync::Arc;

use super::context::Object;
use super::core::Core;
use crate::errno::Errno;
use crate::export::Durability;
use crate::fs::flush::Due;
use crate::fs::node::Node;
use crate::rpc::pending::{Pending, Ready};
use crate::rpc::program::Outcome;

/// The results of a change, for both outcomes of the flush.
pub struct Durable<R, F> {
    /// The results on success. Values that must be read after the flush are read by their `Encode`.
    pub result: R,
    /// The results after the status, if the flush fails.
    pub failure_body: F,
    /// What to flush first, or `None` to reply at once.
    pub due: Option<Due>,
}

/// What must be flushed after a change of a file and its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushScope {
    /// The file is committed with its new name, if the file system guarantees that.
    WithDirectory,
    /// The file has other changes and must be flushed by itself.
    Separate,
}

impl<T: Copy> Durable<T, T> {
    /// Creates a result with the same body for success and failure.
    pub const fn same_body(result: T, due: Option<Due>) -> Self {
        Self { result, failure_body: result, due }
    }
}

impl Object<'_> {
    /// Returns what must be on stable storage before the reply to a change of the names and
    /// attributes of `nodes` is sent; `None` if the export is `async`.
    pub fn due<const N: usize>(&self, nodes: [&Arc<Node>; N]) -> Option<Due> {
        match self.options.durability {
            Durability::Sync => Some(Due::Metadata(nodes.map(Arc::clone).to_vec())),
            Durability::Async => None,
        }
    }

    /// As [`Self::due`], for this directory and a file that was made, found or linked in it.
    pub fn due_with(&self, file: &Arc<Node>, scope: FlushScope) -> Option<Due> {
        match scope {
            FlushScope::WithDirectory if self.node.flushes_new_files() => self.due([&self.node]),
            // The file first: a crash must not leave a name without its file.
            _ => self.due([file, &self.node]),
        }
    }
}

/// Flushes what is due, and then calls `write` with the result and the place for the results of the
/// call. Does not block.
pub fn after_flush(
    core: &Core,
    due: Due,
    write: impl FnOnce(Result<(), Errno>, Ready) + Send + 'static,
) -> Outcome {
    let fs = Arc::clone(&core.fs);
    Outcome::Pending(Pending::new(move |ready: Ready| {
        fs.make_durable(due, Box::new(move |flushed| write(flushed, ready)));
    }))
}
