//! Results that come after their call: the call was carried out, and its thread is needed elsewhere.

use std::fmt;

use crate::xdr::Encode;

/// Begins to wait for what a call's results need.
pub struct Pending(Box<dyn FnOnce(Ready) + Send>);

/// Where the results of a call go, from any thread. Dropped without any, the call is given up, and
/// its client has to ask again.
pub struct Ready(Take);

type Take = Box<dyn FnOnce(&dyn Encode) + Send>;

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

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pending")
    }
}
