//! Calls whose thread is needed elsewhere: of those that were carried out, the results come later;
//! others are carried out later.

use std::fmt;

use crate::xdr::Encode;

/// Begins to wait for what a call's results need.
pub struct Pending(Box<dyn FnOnce(Ready) + Send>);

/// Where the results of a call go, from any thread. Dropped without any, the call is given up, and
/// its client has to ask again.
pub struct Ready(Take);

type Take = Box<dyn FnOnce(&dyn Encode) + Send>;

/// Begins to wait for what a call needs before it can be carried out.
pub struct Delay(Box<dyn FnOnce(Wake) + Send>);

/// Has a call carried out again, from any thread, and does not block. Dropped, the call is given
/// up, and its client has to ask again.
pub type Wake = Box<dyn FnOnce() + Send>;

impl Delay {
    /// A wait that `begin` sees to. It must not block for long, and may call what it is given at
    /// once.
    pub fn new(begin: impl FnOnce(Wake) + Send + 'static) -> Self {
        Self(Box::new(begin))
    }

    /// Begins to wait.
    pub fn begin(self, wake: Wake) {
        (self.0)(wake);
    }
}

impl Pending {
    /// Results that `begin` sees to. It must not block for long.
    pub fn new(begin: impl FnOnce(Ready) + Send + 'static) -> Self {
        Self(Box::new(begin))
    }

    /// Begins to wait.
    pub fn begin(self, ready: Ready) {
        (self.0)(ready);
    }
}

impl Ready {
    /// Results that are taken by `write`. It must not block.
    pub fn new(write: impl FnOnce(&dyn Encode) + Send + 'static) -> Self {
        Self(Box::new(write))
    }

    /// Answers the call.
    pub fn write(self, results: &dyn Encode) {
        (self.0)(results);
    }
}

/// No two are the same; so that what else a call can answer can be compared.
impl PartialEq for Pending {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

/// No two are the same, as of [`Pending`].
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
