//! Values on the wire that several operations have (RFC 8881 section 3.3).

use crate::locks::Stateid;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// Longest opaque owner of a client, of opens and of locks (NFS4_OPAQUE_LIMIT).
pub const OWNER_MAX: usize = 1024;

/// Longest name and longest link target that are decoded. The file system has its own limits.
pub const TEXT_MAX: usize = 8192;

impl Decode<'_> for Stateid {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { seqid: r.u32()?, other: r.fixed()? })
    }
}

impl Encode for Stateid {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.seqid);
        w.fixed(&self.other);
    }
}

/// `change_info4`: the change attribute of a directory before and after an operation, read under
/// the lock of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeInfo {
    /// The change attribute before.
    pub before: u64,
    /// The change attribute after, if it could be read.
    pub after: Option<u64>,
}

impl Encode for ChangeInfo {
    fn encode(&self, w: &mut Writer<'_>) {
        w.bool(self.after.is_some()); // atomic
        w.u64(self.before);
        w.u64(self.after.unwrap_or(self.before));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: &impl Encode) -> Vec<u8> {
        let mut bytes = Vec::new();
        value.encode(&mut Writer::new(&mut bytes));
        bytes
    }

    #[test]
    fn a_stateid_is_a_number_and_twelve_bytes() {
        let stateid = Stateid { seqid: 3, other: *b"twelve bytes" };
        let bytes = encoded(&stateid);
        assert_eq!(bytes, b"\0\0\0\x03twelve bytes");
        assert_eq!(Stateid::decode(&mut Reader::new(&bytes)), Ok(stateid));
        assert_eq!(Stateid::decode(&mut Reader::new(&bytes[..15])), Err(Error::Short));
    }

    #[test]
    fn a_change_whose_end_is_not_known_is_not_atomic() {
        let change = |after| encoded(&ChangeInfo { before: 1, after });
        assert_eq!(
            change(Some(2)),
            [&[0, 0, 0, 1][..], &1_u64.to_be_bytes(), &2_u64.to_be_bytes()].concat()
        );
        assert_eq!(
            change(None),
            [&[0; 4][..], &1_u64.to_be_bytes(), &1_u64.to_be_bytes()].concat()
        );
    }
}
