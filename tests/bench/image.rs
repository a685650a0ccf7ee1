//! What test files contain: bytes made once, which calls point into and answers are compared with.

use anyhow::{Result, ensure};

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

/// Lives as long as the program, so that outgoing calls may point into it.
#[derive(Clone, Copy)]
pub struct Image(&'static [u8]);

impl Image {
    pub const SIZE: usize = 32 * MIB;

    /// No two words are the same, so data from a wrong place is noticed.
    pub fn new() -> Self {
        let words = (0..Self::SIZE as u64 / 8).flat_map(|word| mixed(word).to_be_bytes());
        Self(Box::leak(words.collect()))
    }

    /// What belongs at an offset; beyond the end the image begins again.
    pub fn at(self, offset: u64, count: usize) -> &'static [u8] {
        let start = index(offset, Self::SIZE);
        &self.0[start..start + count]
    }

    /// Compares the ends of an answer, and now and then all of it: comparing everything would
    /// make this program the slower side.
    pub fn check(self, offset: u64, data: &[u8], all: bool) -> Result<()> {
        let right = self.at(offset, data.len());
        let edge = data.len() - 64;
        let same = if all {
            data == right
        } else {
            data[..64] == right[..64] && data[edge..] == right[edge..]
        };
        ensure!(same, "READ answered wrong data ({} bytes)", data.len());
        Ok(())
    }
}

/// Which of `count` things a number stands for, going round.
pub fn index(number: u64, count: usize) -> usize {
    usize::try_from(number % count as u64).expect("smaller than a usize")
}

/// A bijection of 64-bit words that leaves no pattern (the finisher of splitmix64).
pub fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
