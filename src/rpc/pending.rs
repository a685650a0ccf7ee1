//! Calls that wait without holding a thread: for their results ([`Pending`]), or until they can be
//! carried out ([`Delay`]).

use std::fmt;

use crate::xdr::Encode;

/// A call that was carried out, and whose results must be written later.
pub struct Pending(Box<dyn FnOnce(Ready) + Send>);

/// Takes the results of a pending call, on any thread. If it is dropped without results, the call
/// is given up and the client has to send it again.
pub struct Ready(Take);

type Take = Box<dyn FnOnce(u32, &dyn Encode) + Send>;

/// A call that cannot be carried out before something becomes available.
pub struct Delay(Box<dyn FnOnce(Wake) + Send>);

/// Has a delayed call carried out again. May be called on any thread; does not block. If it is
/// dropped, the call is given up and the client has to send it again.
pub type Wake = Box<dyn FnOnce() + Send>;

impl Delay {
    /// Creates a delay. `begin` must not block for long; it may call the given [`Wake`] at once.
    pub fn new(begin: impl FnOnce(Wake) + Send + 'static) -> Self {
        Self(Box::new(begin))
    }

    /// Begins to wait.
    pub fn begin(self, wake: Wake) {
        (self.0)(wake);
    }
}

impl Pending {
    /// Creates a pending call. `begin` must not block for long.
    pub fn new(begin: impl FnOnce(Ready) + Send + 'static) -> Self {
        Self(Box::new(begin))
    }

    /// Begins to wait.
    pub fn begin(self, ready: Ready) {
        (self.0)(ready);
    }
}

impl Ready {
    /// Creates a taker that passes the status and the results to `write`, which must not block.
    pub fn new(write: impl FnOnce(u32, &dyn Encode) + Send + 'static) -> Self {
        Self(Box::new(write))
    }

    /// Writes the results. `status` is the status in them, as in
    /// [`Outcome::Done`](super::program::Outcome::Done).
    pub fn write(self, status: u32, results: &dyn Encode) {
        (self.0)(status, results);
    }
}

/// No two are equal. Implemented so that the other outcomes of a call can be compared.
impl PartialEq for Pending {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

/// No two are equal, as for [`Pending`].
impl PartialEq for Delay {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Delay")
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}
