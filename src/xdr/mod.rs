//! XDR (RFC 4506): bytes to values over a slice, values to bytes into a buffer.
//!
//! Reading never allocates: opaque data comes back as a slice of the input, and every read of a
//! variable length names its bound, so no length that a peer chose sizes anything. Writing appends
//! to a `Vec<u8>` that is used again call after call.

mod reader;
mod writer;

pub use reader::Reader;
pub use writer::{Encode, Mark, Writer};

/// Why bytes are not the value that they should be. A call whose arguments have one is answered
/// with GARBAGE_ARGS (RFC 5531 §9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The input ended inside the value.
    #[error("the data ends inside a value")]
    Short,
    /// A length is above the bound of its type.
    #[error("a length is above its bound")]
    TooLong,
    /// A boolean that is neither 0 nor 1, or a value that its enumeration does not have.
    #[error("a value is not in its enumeration")]
    Unknown,
}

/// How many bytes of zero follow `len` bytes, so that all is a multiple of four (RFC 4506 §3).
const fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}
