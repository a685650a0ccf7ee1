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

/// A map with keys that no peer can choose, and mostly one entry, which takes no allocation.
#[derive(Clone, Debug, Default)]
pub(super) enum SmallMap<K, V> {
    #[default]
    Empty,
    One(K, V),
    Many(SerialMap<K, V>),
}

impl<K: Copy + Eq + Hash, V> SmallMap<K, V> {
    pub(super) fn get(&self, key: K) -> Option<&V> {
        match self {
            Self::Empty => None,
            Self::One(one, value) => (*one == key).then_some(value),
            Self::Many(map) => map.get(&key),
        }
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        match self {
            Self::Empty => None,
            Self::One(one, value) => (*one == key).then_some(value),
            Self::Many(map) => map.get_mut(&key),
        }
    }

    /// Adds an entry, or replaces it.
    pub(super) fn insert(&mut self, key: K, value: V) {
        *self = match std::mem::take(self) {
            Self::Empty => Self::One(key, value),
            Self::One(one, _) if one == key => Self::One(key, value),
            Self::One(one, first) => Self::Many([(one, first), (key, value)].into_iter().collect()),
            Self::Many(mut map) => {
                map.insert(key, value);
                Self::Many(map)
            }
        }
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        match self {
            Self::Empty => None,
            Self::One(one, _) if *one != key => None,
            Self::One(..) => match std::mem::take(self) {
                Self::One(_, value) => Some(value),
                Self::Empty | Self::Many(_) => None,
            },
            Self::Many(map) => {
                let removed = map.remove(&key);
                shrink(map);
                if map.is_empty() {
                    *self = Self::Empty;
                }
                removed
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        let (one, many) = match self {
            Self::Empty => (None, None),
            Self::One(key, value) => (Some((*key, value)), None),
            Self::Many(map) => (None, Some(map)),
        };
        one.into_iter().chain(many.into_iter().flatten().map(|(key, value)| (*key, value)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(..) => 1,
            Self::Many(map) => map.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// For tests: bytes of memory beside its own.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        match self {
            Self::Empty | Self::One(..) => 0,
            Self::Many(map) => super::table::map::<(K, V)>(map.capacity()),
        }
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
