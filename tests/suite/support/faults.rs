//! A disk that waits or fails as a test says (the server's `sys::fault`).

use std::fs;
use std::path::PathBuf;

/// What the disk does.
pub struct Faults(PathBuf);

impl Faults {
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Has every READ ask the disk.
    pub fn cold(&self) {
        self.set("cold", "");
    }

    /// Lets whatever asks the disk wait, but for the first `flushes` flushes since the start.
    pub fn hold_after(&self, flushes: u64) {
        self.set("hold", &flushes.to_string());
    }

    /// Lets whatever writes wait, or no longer.
    pub fn stuck(&self, waits: bool) {
        if waits {
            self.set("stuck", "");
        } else {
            fs::remove_file(self.0.join("stuck")).unwrap();
        }
    }

    /// Lets nobody wait any longer.
    pub fn release(&self) {
        fs::remove_file(self.0.join("hold")).unwrap();
    }

    /// Has flushes fail, or no longer.
    pub fn fail(&self, fails: bool) {
        if fails {
            self.set("fail", "");
        } else {
            fs::remove_file(self.0.join("fail")).unwrap();
        }
    }

    /// Ends the server at this step of making files, as counted from its start; 0 is none.
    pub fn crash(&self, step: u64) {
        self.set("crash", &step.to_string());
    }

    /// Has the file system lack something: what an `old` one lacks, or a `bare` one.
    pub fn lack(&self, what: &str) {
        self.set(what, "");
    }

    /// Flushes that have begun since the start.
    pub fn flushes(&self) -> u64 {
        fs::metadata(self.0.join("flushes")).map_or(0, |log| log.len())
    }

    /// In one step, so that the server never reads half of it.
    fn set(&self, name: &str, content: &str) {
        fs::write(self.0.join("new"), content).unwrap();
        fs::rename(self.0.join("new"), self.0.join(name)).unwrap();
    }
}
