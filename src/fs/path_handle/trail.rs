//! Trails: what a path handle holds to find its file again (see [`super`]).

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;

use crate::fs::attr::Attr;
use crate::fs::handle::{BODY_MAX, Stamp};
use crate::fs::root::Root;

/// Directories that a trail holds. Below them, every directory is searched.
pub(super) const HINTS_MAX: usize = BODY_MAX - 12;

/// An inode number, a generation, and a byte for each directory on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::fs) struct Trail {
    pub(super) fileid: u64,
    pub(super) generation: u32,
    len: u8,
    hints: [u8; HINTS_MAX],
}

impl Trail {
    /// Returns the trail of an export's root.
    pub(in crate::fs) fn root(attr: &Attr) -> Self {
        let generation = generation(attr);
        Self { fileid: attr.fileid, generation, len: 0, hints: [0; HINTS_MAX] }
    }

    /// Parses the body of a handle.
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

    /// Returns the body of a handle.
    pub(in crate::fs) fn to_bytes(self) -> Vec<u8> {
        let mut body = self.fileid.to_be_bytes().to_vec();
        body.extend(self.generation.to_be_bytes());
        body.extend(self.hints());
        body
    }

    pub(super) fn hints(&self) -> &[u8] {
        &self.hints[..usize::from(self.len)]
    }

    /// Returns the trail of a file of `root` in the directory with this trail.
    pub(super) fn below(&self, root: &Root, attr: &Attr) -> Self {
        let mut trail = Self { fileid: attr.fileid, generation: generation(attr), ..*self };
        if self.fileid != root.fileid && usize::from(self.len) < HINTS_MAX {
            trail.hints[usize::from(self.len)] = hint(self.fileid);
            trail.len += 1;
        }
        trail
    }

    /// Whether it is the trail of the file that has `attr`.
    pub(super) fn is(&self, attr: &Attr) -> bool {
        attr.fileid == self.fileid && generation(attr) == self.generation
    }
}

/// Returns what tells a file from an earlier one with the same number, if the file system records
/// birth times.
pub(super) fn generation(attr: &Attr) -> u32 {
    Stamp::of(attr).generation
}

/// Returns the byte that stands for a directory in the trails of its content.
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
