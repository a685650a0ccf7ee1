//! What the owner of a file lacks for a moment, where all files are one user's.
//!
//! Without privileges, modes keep even the owner out, although a client that has a file open may go
//! on: a program that creates a file with mode 0444 and fills it, or one that works in a directory
//! which nobody may list. The owner can change the mode, so that it is lent the bits for the moment
//! of opening.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::attr::Attr;
use super::change::set_mode;
use crate::errno::{Errno, Result};

/// Lends bits of modes, one at a time.
pub(super) struct Lender {
    /// Whether all files are one user's.
    lends: bool,
    modes: Mutex<()>,
}

impl Lender {
    pub(super) const fn new(lends: bool) -> Self {
        Self { lends, modes: Mutex::new(()) }
    }

    /// Keeps others from setting or lending a mode.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.modes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a mode by `set`, while nobody lends one: what is older than the client's mode could be put
    /// back otherwise.
    pub(super) fn keeping<T>(&self, set: impl FnOnce() -> T) -> T {
        let _modes = self.lends.then(|| self.lock());
        set()
    }

    /// Opens something; if that is refused, once more while the mode of `file` has the `bits`. All
    /// exports wait for each other here, so that nothing but opening is done meanwhile.
    ///
    /// # Errors
    /// Those of `open`; `EACCES` too if the mode cannot be set.
    pub(super) fn lend(
        &self,
        file: impl AsFd,
        bits: u32,
        open: impl Fn() -> Result<OwnedFd>,
    ) -> Result<OwnedFd> {
        match open() {
            Err(Errno::ACCES) if self.lends => {
                let _modes = self.lock();
                let mode = Attr::of(&file)?.mode;
                set_mode(&file, mode | bits).map_err(|_| Errno::ACCES)?;
                let result = open();
                set_mode(&file, mode)?;
                result
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &std::path::Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn bits_are_lent_for_as_long_as_it_takes_and_only_if_they_lack() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        set_mode(&file, 0o311).unwrap();
        let seen = Cell::new(Vec::new());
        let refused_at_first = || {
            seen.set([seen.take(), vec![mode(dir.path())]].concat());
            if mode(dir.path()) & 0o400 == 0 {
                return Err(Errno::ACCES);
            }
            Ok(file.try_clone()?.into())
        };
        let lend = |lends| Lender::new(lends).lend(&file, 0o500, refused_at_first).map(drop);
        assert_eq!(lend(false), Err(Errno::ACCES));
        assert_eq!(lend(true), Ok(()));
        assert_eq!(seen.take(), [0o311, 0o311, 0o711]);
        assert_eq!(mode(dir.path()), 0o311);
    }
}
