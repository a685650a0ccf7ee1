//! Maps whose keys are numbers that the server has issued.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};

/// A map with keys that no peer can choose.
pub(super) type SerialMap<K, V> = HashMap<K, V, BuildHasherDefault<SerialHasher>>;

/// A set of keys that no peer can choose.
pub(super) type SerialSet<K> = HashSet<K, BuildHasherDefault<SerialHasher>>;

/// Smallest capacity that is given back.
const SHRINK_FROM: usize = 64;

/// Hashes numbers that count up. Peers do not choose them, so a keyed hash would gain nothing.
#[derive(Default)]
pub(super) struct SerialHasher(u64);

impl Hasher for SerialHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        // The map takes the highest and the lowest bits, so the product is folded.
        let product = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = product ^ (product >> 32);
    }
}

/// Gives memory back when a map has become sparse. Amortized: the map has lost three of four
/// entries since it was last resized.
pub(super) fn shrink<K: Eq + Hash, V, S: std::hash::BuildHasher>(map: &mut HashMap<K, V, S>) {
    if map.capacity() > SHRINK_FROM && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

/// As [`shrink`], of a set.
pub(super) fn shrink_set<K: Eq + Hash, S: std::hash::BuildHasher>(set: &mut HashSet<K, S>) {
    if set.capacity() > SHRINK_FROM && set.len() < set.capacity() / 4 {
        set.shrink_to(set.len() * 2);
    }
}
