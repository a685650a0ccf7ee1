//! `bitmap4`: a set of attribute numbers (RFC 8881 section 3.3.7).

use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// Words that are kept. Attributes beyond them do not exist.
const WORDS: usize = 3;

/// Words that are read. More of them are an error, although any number could be empty.
const WORDS_MAX: usize = 64;

/// A set of attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: [u32; WORDS],
    /// Whether it has attributes that do not exist.
    has_others: bool,
}

impl Bitmap {
    /// The set of these attributes, which are below 96.
    pub const fn of(attributes: &[u32]) -> Self {
        let mut words = [0; WORDS];
        let mut index = 0;
        while index < attributes.len() {
            words[attributes[index] as usize / 32] |= 1 << (attributes[index] % 32);
            index += 1;
        }
        Self { words, has_others: false }
    }

    /// Whether it has an attribute.
    pub const fn has(&self, attribute: u32) -> bool {
        let word = attribute as usize / 32;
        word < WORDS && self.words[word] & 1 << (attribute % 32) != 0
    }

    /// Adds an attribute, which is below 96.
    pub const fn add(&mut self, attribute: u32) {
        self.words[attribute as usize / 32] |= 1 << (attribute % 32);
    }

    /// Whether it has any attribute.
    pub const fn is_empty(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && !self.has_others
    }

    /// Returns the attributes that both have.
    pub const fn and(self, other: Self) -> Self {
        let [a, b, c] = self.words;
        let [x, y, z] = other.words;
        Self { words: [a & x, b & y, c & z], has_others: false }
    }

    /// Whether `other` has all attributes of this one.
    pub fn is_within(&self, other: Self) -> bool {
        !self.has_others && self.and(other).words == self.words
    }

    /// Whether the two have an attribute in common.
    pub fn intersects(&self, other: Self) -> bool {
        self.and(other).words != [0; WORDS]
    }

    /// Returns the attributes in the order of their numbers, as their values are encoded.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..u32::try_from(WORDS).unwrap_or(0) * 32).filter(move |attribute| self.has(*attribute))
    }
}

impl Decode<'_> for Bitmap {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Error> {
        let mut bitmap = Self::default();
        for index in 0..r.count(WORDS_MAX)? {
            let word = r.u32()?;
            match bitmap.words.get_mut(index) {
                Some(kept) => *kept = word,
                None => bitmap.has_others |= word != 0,
            }
        }
        Ok(bitmap)
    }
}

impl Encode for Bitmap {
    /// Without empty words at the end.
    fn encode(&self, w: &mut Writer<'_>) {
        let len = self.words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1);
        w.length(len);
        self.words[..len].iter().for_each(|word| w.u32(*word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(words: &[u32]) -> Result<Bitmap, Error> {
        let mut bytes = Vec::new();
        let mut w = Writer::new(&mut bytes);
        w.length(words.len());
        words.iter().for_each(|word| w.u32(*word));
        Bitmap::decode(&mut Reader::new(&bytes))
    }

    #[test]
    fn attributes_are_bits_of_words() {
        let bitmap = decoded(&[0b1010, 1, 1 << 31]).unwrap();
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [1, 3, 32, 95]);
        assert_eq!(bitmap, Bitmap::of(&[1, 3, 32, 95]));
        assert!(!bitmap.has(96) && !bitmap.is_empty());
    }

    #[test]
    fn attributes_that_do_not_exist_are_in_no_set() {
        let bitmap = decoded(&[2, 0, 0, 1]).unwrap();
        assert!(!bitmap.is_within(Bitmap::of(&[1])));
        assert_eq!(bitmap.and(Bitmap::of(&[1])), Bitmap::of(&[1]));
        assert!(decoded(&[2, 0, 0, 0]).unwrap().is_within(Bitmap::of(&[1])));
        assert!(!decoded(&[0, 0, 0, 1]).unwrap().is_empty());
    }

    #[test]
    fn a_bitmap_is_bounded() {
        assert!(decoded(&[0; WORDS_MAX]).unwrap().is_empty());
        assert_eq!(decoded(&[0; WORDS_MAX + 1]), Err(Error::TooLong));
    }

    #[test]
    fn empty_words_at_the_end_are_not_written() {
        for (attributes, len) in [(&[][..], 4), (&[3], 8), (&[3, 64], 16)] {
            let mut bytes = Vec::new();
            Bitmap::of(attributes).encode(&mut Writer::new(&mut bytes));
            assert_eq!(bytes.len(), len);
            assert_eq!(Bitmap::decode(&mut Reader::new(&bytes)), Ok(Bitmap::of(attributes)));
        }
    }
}
