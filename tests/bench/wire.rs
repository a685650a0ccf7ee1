//! XDR, as far as this program needs it: big-endian words, opaque data padded to four bytes.
//!
//! It is independent of the server's encoding, so a mistake there is not repeated here. Every
//! length from the server is bounded before it is used.

use anyhow::{Result, bail, ensure};

/// Reads one reply from front to back.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    /// Takes the next `count` bytes as they are, without padding.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            bail!("a reply ends {} bytes too early", count - self.rest.len());
        };
        self.rest = rest;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32> {
        let mut word = [0; 4];
        word.copy_from_slice(self.bytes(4)?);
        Ok(u32::from_be_bytes(word))
    }

    pub fn u64(&mut self) -> Result<u64> {
        let mut words = [0; 8];
        words.copy_from_slice(self.bytes(8)?);
        Ok(u64::from_be_bytes(words))
    }

    pub fn flag(&mut self) -> Result<bool> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            other => bail!("a reply has {other} in place of a boolean"),
        }
    }

    /// Takes variable-length data of at most `max` bytes, and its padding.
    pub fn opaque(&mut self, max: usize) -> Result<&'a [u8]> {
        let length = self.u32()? as usize;
        ensure!(length <= max, "a reply has {length} bytes where at most {max} are allowed");
        let data = self.bytes(length)?;
        self.bytes(length.next_multiple_of(4) - length)?;
        Ok(data)
    }

    /// Fails unless everything has been read.
    pub fn end(&self) -> Result<()> {
        ensure!(self.rest.is_empty(), "a reply has {} bytes after its end", self.rest.len());
        Ok(())
    }
}

/// Encodes the arguments of a call.
pub trait Put {
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_opaque(&mut self, data: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_opaque(&mut self, data: &[u8]) {
        self.put_u32(wire_length(data.len()));
        self.extend_from_slice(data);
        self.resize(self.len().next_multiple_of(4), 0);
    }
}

/// A length as a 32-bit word; this program sends nothing that exceeds it.
pub fn wire_length(length: usize) -> u32 {
    u32::try_from(length).expect("what this program sends is far below 4 GiB")
}
