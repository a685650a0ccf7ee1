//! Decoding: a cursor over bytes received from a peer.

use super::{Error, padding};

/// A value with an XDR encoding that a peer sends.
pub trait Decode<'a>: Sized {
    /// Decodes the value. Opaque data in it is a part of the input.
    ///
    /// # Errors
    /// The input is not an encoding of such a value.
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error>;
}

impl Decode<'_> for () {
    fn decode(_r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(())
    }
}

/// Decodes values from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the bytes not yet consumed.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes exactly `len` bytes. `len` is chosen by the program, never by a peer.
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Error::Short)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Skips `words` units of four bytes.
    pub fn skip(&mut self, words: u8) -> Result<(), Error> {
        self.take(usize::from(words) * 4).map(|_| ())
    }

    /// Takes `N` bytes of fixed-length opaque data with their padding (§4.9).
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Short)?;
        self.rest = rest;
        self.take(padding(N))?;
        Ok(*taken)
    }

    /// Takes an unsigned integer (§4.2).
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.fixed().map(u32::from_be_bytes)
    }

    /// Takes an unsigned hyper integer (§4.5).
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.fixed().map(u64::from_be_bytes)
    }

    /// Takes a boolean (§4.4): 0 or 1, nothing else.
    pub fn bool(&mut self) -> Result<bool, Error> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Unknown),
        }
    }

    /// Takes variable-length opaque data or a string of at most `max` bytes (§4.10, §4.11).
    ///
    /// The padding's content is not checked: RFC 4506 asks senders for zeros, and some do not.
    pub fn opaque(&mut self, max: usize) -> Result<&'a [u8], Error> {
        let len = usize::try_from(self.u32()?).map_err(|_| Error::TooLong)?;
        if len > max {
            return Err(Error::TooLong);
        }
        let data = self.take(len)?;
        self.take(padding(len))?;
        Ok(data)
    }

    /// Takes the count of an array of at most `max` elements (§4.13).
    pub fn count(&mut self, max: usize) -> Result<usize, Error> {
        let count = usize::try_from(self.u32()?).map_err(|_| Error::TooLong)?;
        if count > max { Err(Error::TooLong) } else { Ok(count) }
    }

    /// Takes an optional value (§4.19): a boolean, and the value if it is true.
    pub fn option<T>(
        &mut self,
        value: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        if self.bool()? { value(self).map(Some) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_big_endian() {
        let mut r = Reader::new(&[0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(r.u32(), Ok(0x102));
        assert_eq!(r.u64(), Ok(9));
        assert_eq!(r.u32(), Err(Error::Short));
    }

    #[test]
    fn a_boolean_is_zero_or_one() {
        assert_eq!(Reader::new(&[0, 0, 0, 0]).bool(), Ok(false));
        assert_eq!(Reader::new(&[0, 0, 0, 1]).bool(), Ok(true));
        assert_eq!(Reader::new(&[0, 0, 0, 2]).bool(), Err(Error::Unknown));
    }

    #[test]
    fn opaque_data_is_read_with_its_padding() {
        let mut r = Reader::new(b"\0\0\0\x05hello\0\0\0\0\0\0\x07");
        assert_eq!(r.opaque(5), Ok(&b"hello"[..]));
        assert_eq!(r.u32(), Ok(7));
    }

    #[test]
    fn a_length_above_its_bound_is_too_long_even_if_the_data_is_short() {
        assert_eq!(Reader::new(&[0xff; 64]).opaque(255), Err(Error::TooLong));
        assert_eq!(Reader::new(&[0xff; 64]).count(16), Err(Error::TooLong));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = b"\0\0\0\x05hello\0\0\0";
        for len in 0..whole.len() {
            assert_eq!(Reader::new(&whole[..len]).opaque(64), Err(Error::Short), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_within_bounds(bytes: Vec<u8>, max in 0usize..64) {
            let mut r = Reader::new(&bytes);
            while let Ok(data) = r.opaque(max) {
                prop_assert!(data.len() <= max);
            }
            prop_assert!(r.rest().len() <= bytes.len());
        }
    }
}
