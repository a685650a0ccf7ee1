//! The content of test files: bytes generated once, which WRITEs point into and READs are compared
//! with.

use anyhow::{Result, ensure};

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// The content. It is never freed, so outgoing calls can point into it.
#[derive(Clone, Copy)]
pub struct Image(&'static [u8]);

impl Image {
    pub const SIZE: usize = 32 * MIB;

    /// Generates the content. All words differ, so data from a wrong offset is detected.
    pub fn new() -> Self {
        let words = (0..Self::SIZE as u64 / 8).flat_map(|word| mixed(word).to_be_bytes());
        Self(Box::leak(words.collect()))
    }

    /// The `count` bytes at an offset; the image repeats after its end.
    pub fn at(self, offset: u64, count: usize) -> &'static [u8] {
        let start = index(offset, Self::SIZE);
        &self.0[start..start + count]
    }

    /// Compares the first and last 64 bytes of `data`, or all of it: comparing everything every
    /// time would make this program slower than the server.
    pub fn check(self, offset: u64, data: &[u8], all: bool) -> Result<()> {
        let right = self.at(offset, data.len());
        let edge = data.len() - 64;
        let same = if all {
            data == right
        } else {
            data[..64] == right[..64] && data[edge..] == right[edge..]
        };
        ensure!(same, "READ returned wrong data ({} bytes)", data.len());
        Ok(())
    }
}

/// `number` modulo `count`, as an index.
pub fn index(number: u64, count: usize) -> usize {
    usize::try_from(number % count as u64).expect("smaller than a usize")
}

/// A bijection of 64-bit words that looks random (the finalizer of splitmix64).
pub fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
