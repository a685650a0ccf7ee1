//! Whether a piece of work may block.

/// Whether a thread may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It serves sockets: an operation that would wait for a disk or a lock fails with `EAGAIN`,
    /// and has changed nothing.
    None,
    /// It may wait.
    Blocking,
}
