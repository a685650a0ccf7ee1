//! XDR (RFC 4506): decoding from a byte slice, encoding into a buffer.
//!
//! Decoding never allocates: opaque data is returned as a slice of the input, and every
//! variable-length read states its bound, so no length chosen by a peer sizes an allocation.
//! Encoding appends to a `Vec<u8>` that is reused across calls.

mod reader;
mod writer;

pub use reader::{Decode, Reader};
pub use writer::{Encode, Mark, Writer};

/// Why bytes do not decode. A call whose arguments fail to decode is answered with GARBAGE_ARGS
/// (RFC 5531 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input ends inside the value.
    #[error("the data ends inside a value")]
    Short,
    /// A length exceeds the bound of its type.
    #[error("a length exceeds its bound")]
    TooLong,
    /// A boolean that is neither 0 nor 1, or a value outside its enumeration.
    #[error("a value is not in its enumeration")]
    Unknown,
}

/// Returns the number of zero bytes that pad `len` bytes to a multiple of four (RFC 4506 §3).
const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}
