//! Trails: how a file is found again by number and path (see [`super::locate`]).

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use super::attr::Attr;
use super::handle::{BODY_MAX, Stamp};
use super::root::Root;

/// Directories that a trail remembers; below that every directory is looked into.
pub(super) const HINTS_MAX: usize = BODY_MAX - 12;

/// What a handle of this kind says of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trail {
    pub(super) fileid: u64,
    pub(super) generation: u32,
    len: u8,
    hints: [u8; HINTS_MAX],
}

impl Trail {
    /// The trail of an export's root.
    pub(super) fn root(attr: &Attr) -> Self {
        let generation = generation(attr);
        Self { fileid: attr.fileid, generation, len: 0, hints: [0; HINTS_MAX] }
    }

    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let (fileid, rest) = body.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let mut hints = [0; HINTS_MAX];
        hints.get_mut(..rest.len())?.copy_from_slice(rest);
        Some(Self {
            fileid: u64::from_be_bytes(*fileid),
            generation: u32::from_be_bytes(*generation),
            len: u8::try_from(rest.len()).ok()?,
            hints,
        })
    }

    /// What goes into a handle.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut body = self.fileid.to_be_bytes().to_vec();
        body.extend(self.generation.to_be_bytes());
        body.extend(self.hints());
        body
    }

    pub(super) fn hints(&self) -> &[u8] {
        &self.hints[..usize::from(self.len)]
    }

    /// The trail of a file of `root` that lies in the directory with this trail.
    pub(super) fn below(&self, root: &Root, attr: &Attr) -> Self {
        let mut trail = Self { fileid: attr.fileid, generation: generation(attr), ..*self };
        if self.fileid != root.fileid && usize::from(self.len) < HINTS_MAX {
            trail.hints[usize::from(self.len)] = hint(self.fileid);
            trail.len += 1;
        }
        trail
    }

    pub(super) fn is(&self, attr: &Attr) -> bool {
        attr.fileid == self.fileid && generation(attr) == self.generation
    }
}

/// Tells a file from an earlier one with the same number, if the file system knows when it was
/// made.
pub(super) fn generation(attr: &Attr) -> u32 {
    Stamp::of(attr).generation
}

pub(super) fn hint(fileid: u64) -> u8 {
    let mut hasher = SipHasher13::new();
    fileid.hash(&mut hasher);
    hasher.finish().to_be_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Result;
    use crate::export::ExportId;

    /// The trail of a file in directories one below the other, each called `d`.
    fn at_depth(depth: usize) -> Result<Trail> {
        let top = tempfile::tempdir().unwrap();
        let root = Root::open(ExportId(1), top.path(), None, None)?;
        let mut trail = Trail::root(&Attr::of(&root)?);
        let mut path = top.path().to_path_buf();
        for _ in 0..depth {
            path.push("d");
            std::fs::create_dir(&path).unwrap();
            trail = trail.below(&root, &Attr::of(std::fs::File::open(&path).unwrap())?);
        }
        Ok(trail)
    }

    #[test]
    fn a_trail_survives_the_wire_at_every_depth() {
        for depth in [0, 1, 2, HINTS_MAX, HINTS_MAX + 1, HINTS_MAX + 2] {
            let trail = at_depth(depth).unwrap();
            assert_eq!(trail.hints().len(), depth.saturating_sub(1).min(HINTS_MAX));
            assert_eq!(Trail::parse(&trail.to_bytes()), Some(trail), "depth {depth}");
        }
    }

    #[test]
    fn what_is_no_trail_is_not_taken_for_one() {
        for len in (0..12).chain(13 + HINTS_MAX..80) {
            assert_eq!(Trail::parse(&vec![7; len]), None, "{len} bytes");
        }
    }
}
