//! Placeholder with the interface that MOUNT uses.
#![allow(missing_docs)] // a placeholder

use std::collections::HashMap;
use std::path::PathBuf;

use crate::errno::{Errno, Result};
use crate::export::ExportId;

#[derive(Debug, Default)]
pub struct Fs(pub HashMap<ExportId, PathBuf>);

#[derive(Debug)]
pub struct Handle([u8; 16]);

impl Fs {
    pub fn locate(&self, id: ExportId, below: &[u8]) -> Result<Handle> {
        let mut path = self.0.get(&id).ok_or(Errno::STALE)?.clone();
        let below = str::from_utf8(below).map_err(|_| Errno::NOENT)?;
        for name in below.split('/').filter(|name| !name.is_empty()) {
            path.push(name);
            let kind = path.symlink_metadata()?.file_type();
            if kind.is_symlink() {
                return Err(Errno::LOOP);
            }
            if !kind.is_dir() {
                return Err(Errno::NOTDIR);
            }
        }
        Ok(Handle([7; 16]))
    }
}

impl AsRef<[u8]> for Handle {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
