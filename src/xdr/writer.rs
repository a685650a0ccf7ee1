//! Encoding: values appended to a buffer.

use super::padding;

/// A value with an XDR encoding.
pub trait Encode {
    /// Appends the encoded value.
    fn encode(&self, w: &mut Writer<'_>);
}

impl Encode for () {
    fn encode(&self, _w: &mut Writer<'_>) {}
}

/// A position in the output, to rewind to or to fill in later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

/// Appends values to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to the contents of `out`.
    pub const fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Returns the position of the next byte.
    pub const fn mark(&self) -> Mark {
        Mark(self.out.len())
    }

    /// Returns the number of bytes written since `mark`.
    pub const fn since(&self, mark: Mark) -> usize {
        self.out.len() - mark.0
    }

    /// Returns the data written since `mark`.
    pub fn written(&self, mark: Mark) -> &[u8] {
        &self.out[mark.0..]
    }

    /// Discards everything written since `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        self.out.truncate(mark.0);
    }

    /// Appends an unsigned integer (RFC 4506 §4.2).
    pub fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends an unsigned hyper integer (§4.5).
    pub fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends a boolean (§4.4).
    pub fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    /// Appends a length or a count, which is bounded by the size of a reply, far below 2^32.
    pub fn length(&mut self, len: usize) {
        self.u32(u32::try_from(len).expect("a reply is smaller than 4 GiB"));
    }

    /// Appends fixed-length opaque data with its padding (§4.9).
    pub fn fixed(&mut self, data: &[u8]) {
        self.out.extend_from_slice(data);
        self.pad(data.len());
    }

    /// Appends variable-length opaque data or a string with its padding (§4.10).
    pub fn opaque(&mut self, data: &[u8]) {
        self.length(data.len());
        self.fixed(data);
    }

    /// Appends an optional value (§4.19).
    pub fn option<T: Encode>(&mut self, value: Option<&T>) {
        self.bool(value.is_some());
        if let Some(value) = value {
            value.encode(self);
        }
    }

    /// Appends the padding that `len` bytes of data need.
    pub fn pad(&mut self, len: usize) {
        self.out.extend_from_slice(&[0; 3][..padding(len)]);
    }

    /// Reserves an integer that [`Writer::fill`] writes later.
    pub fn hole(&mut self) -> Mark {
        let mark = self.mark();
        self.u32(0);
        mark
    }

    /// Writes the integer that `hole` reserved.
    pub fn fill(&mut self, hole: Mark, value: u32) {
        self.out[hole.0..hole.0 + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Returns the underlying buffer, for data that a system call appends. The caller pads it.
    pub const fn buffer(&mut self) -> &mut Vec<u8> {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hole_is_filled_in_place() {
        let mut out = vec![9];
        let mut w = Writer::new(&mut out);
        let hole = w.hole();
        w.opaque(b"abc");
        assert_eq!(w.since(hole), 12);
        w.fill(hole, 7);
        assert_eq!(out, b"\x09\0\0\0\x07\0\0\0\x03abc\0");
    }

    proptest! {
        #[test]
        fn written_values_read_back(a: u32, b: u64, c: bool, data: Vec<u8>, d: Option<u8>) {
            let mut out = Vec::new();
            let mut w = Writer::new(&mut out);
            w.u32(a);
            w.u64(b);
            w.bool(c);
            w.opaque(&data);
            w.bool(d.is_some());
            if let Some(d) = d {
                w.u32(d.into());
            }
            let mut r = Reader::new(&out);
            prop_assert_eq!(r.u32(), Ok(a));
            prop_assert_eq!(r.u64(), Ok(b));
            prop_assert_eq!(r.bool(), Ok(c));
            prop_assert_eq!(r.opaque(data.len()), Ok(&data[..]));
            prop_assert_eq!(r.option(Reader::u32), Ok(d.map(u32::from)));
            prop_assert!(r.rest().is_empty());
        }
    }
}
