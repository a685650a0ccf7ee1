//! Attributes that clients set: SETATTR, and new files.

use super::super::status::Status;
use super::bitmap::Bitmap;
use super::get::supported;
use super::number as n;
use crate::fs::attr::{Changes, SetTime, Time};
use crate::xdr::{Decode, Error, Reader};

/// Bytes of the values of all attributes in a request: more than any that can be set.
const VALUES_MAX: usize = 64 * 1024;

/// Longest owner that is decoded.
const OWNER_MAX: usize = 1024;

/// The attributes that can be set.
const SETTABLE: Bitmap = Bitmap::of(&[
    n::SIZE,
    n::MODE,
    n::OWNER,
    n::OWNER_GROUP,
    n::TIME_ACCESS_SET,
    n::TIME_MODIFY_SET,
    n::MODE_UMASK,
]);

/// Permissions, set-id and sticky bits.
const MODE_BITS: u32 = 0o7777;

/// Attributes of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewAttrs {
    /// What is to be set.
    pub changes: Changes,
    /// The client's umask, with the mode before it is applied. It does not apply in a directory
    /// whose ACL determines the mode of new files (RFC 8275). Only for new files.
    pub umask: Option<u32>,
    /// The attributes that were named, for the reply.
    pub named: Bitmap,
}

/// Why attributes cannot be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSettable {
    /// They cannot be decoded.
    Xdr(Error),
    /// The status for it.
    Status(Status),
}

impl From<Error> for NotSettable {
    fn from(error: Error) -> Self {
        Self::Xdr(error)
    }
}

impl From<Status> for NotSettable {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Decodes an `fattr4` of attributes to be set, in a minor version.
///
/// # Errors
/// `ATTRNOTSUPP` for an attribute that is not supported, `INVAL` for one that cannot be set or has
/// an impossible value, `BADOWNER` for an owner that is no number.
pub fn decode(r: &mut Reader<'_>, minor: u32) -> Result<NewAttrs, NotSettable> {
    let named = Bitmap::decode(r)?;
    let mut values = Reader::new(r.opaque(VALUES_MAX)?);
    //= RFC 8881 18.30.3: attributes that are not supported get ATTRNOTSUPP
    if !named.is_within(supported(minor)) {
        return Err(Status::ATTRNOTSUPP.into());
    }
    //= RFC 8881 18.30.3: attributes that can only be read get INVAL
    if !named.is_within(SETTABLE) {
        return Err(Status::INVAL.into());
    }
    let mut new = NewAttrs { named, ..NewAttrs::default() };
    for attribute in named.iter() {
        new.decode_value(attribute, &mut values)?;
    }
    //= RFC 8275 3: both the mode and the mode with a umask get INVAL
    if named.has(n::MODE) && named.has(n::MODE_UMASK) {
        return Err(Status::INVAL.into());
    }
    if values.rest().is_empty() { Ok(new) } else { Err(Error::TooLong.into()) }
}

impl NewAttrs {
    fn decode_value(&mut self, attribute: u32, r: &mut Reader<'_>) -> Result<(), NotSettable> {
        let changes = &mut self.changes;
        match attribute {
            n::SIZE => changes.size = Some(r.u64()?),
            n::MODE => changes.mode = Some(mode(r)?),
            n::OWNER => changes.uid = Some(owner(r)?),
            n::OWNER_GROUP => changes.gid = Some(owner(r)?),
            n::TIME_ACCESS_SET => changes.accessed = set_time(r)?,
            n::TIME_MODIFY_SET => changes.modified = set_time(r)?,
            n::MODE_UMASK => {
                changes.mode = Some(mode(r)?);
                self.umask = Some(mode(r)? & 0o777);
            }
            _ => return Err(Status::INVAL.into()),
        }
        Ok(())
    }
}

fn mode(r: &mut Reader<'_>) -> Result<u32, NotSettable> {
    let mode = r.u32()?;
    if mode & !MODE_BITS == 0 { Ok(mode) } else { Err(Status::INVAL.into()) }
}

/// An owner or a group: a number in decimal.
fn owner(r: &mut Reader<'_>) -> Result<u32, NotSettable> {
    let text = r.opaque(OWNER_MAX)?;
    //= RFC 8881 5.9: a name without a known translation gets BADOWNER
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| digits).and_then(|t| t.parse().ok());
    number.filter(|id| *id != u32::MAX).ok_or(NotSettable::Status(Status::BADOWNER))
}

/// `settime4`
fn set_time(r: &mut Reader<'_>) -> Result<SetTime, NotSettable> {
    match r.u32()? {
        0 => Ok(SetTime::Now),
        1 => {
            let time = Time { seconds: r.u64()?.cast_signed(), nanoseconds: r.u32()? };
            if time.nanoseconds < 1_000_000_000 {
                Ok(SetTime::To(time))
            } else {
                Err(Status::INVAL.into())
            }
        }
        _ => Err(Error::Unknown.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{Encode, Writer};

    fn decoded(
        attributes: &[u32],
        values: impl FnOnce(&mut Writer<'_>),
    ) -> Result<NewAttrs, NotSettable> {
        let (mut bytes, mut encoded) = (Vec::new(), Vec::new());
        values(&mut Writer::new(&mut encoded));
        let mut w = Writer::new(&mut bytes);
        Bitmap::of(attributes).encode(&mut w);
        w.opaque(&encoded);
        decode(&mut Reader::new(&bytes), 2)
    }

    #[track_caller]
    fn refused(status: Status, attributes: &[u32], values: impl FnOnce(&mut Writer<'_>)) {
        assert_eq!(decoded(attributes, values), Err(NotSettable::Status(status)));
    }

    #[test]
    fn values_stand_in_the_order_of_the_numbers() {
        let new = decoded(&[n::TIME_MODIFY_SET, n::SIZE, n::MODE, n::OWNER], |w| {
            w.u64(7);
            w.u32(0o640);
            w.opaque(b"1000");
            w.u32(1);
            w.u64(5);
            w.u32(6);
        });
        let modified = SetTime::To(Time { seconds: 5, nanoseconds: 6 });
        let (mode, uid, size) = (Some(0o640), Some(1000), Some(7));
        let changes = Changes { mode, uid, size, modified, ..Changes::default() };
        assert_eq!(new.unwrap().changes, changes);
    }

    #[test]
    fn owners_are_numbers() {
        for name in ["", "root", "-1", "+1", "1@domain", "4294967295", "99999999999", " 1", "1\0"] {
            refused(Status::BADOWNER, &[n::OWNER_GROUP], |w| w.opaque(name.as_bytes()));
        }
        let new = decoded(&[n::OWNER_GROUP], |w| w.opaque(b"4294967294"));
        assert_eq!(new.unwrap().changes.gid, Some(u32::MAX - 1));
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        refused(Status::ATTRNOTSUPP, &[12], |_| ()); // an ACL
        refused(Status::INVAL, &[n::TYPE], |w| w.u32(1));
        refused(Status::INVAL, &[n::MODE], |w| w.u32(0o10000));
        refused(Status::INVAL, &[n::MODE, n::MODE_UMASK], |w| (0..3).for_each(|_| w.u32(0o600)));
        let time = |w: &mut Writer<'_>| {
            w.u32(1);
            w.u64(0);
            w.u32(1_000_000_000);
        };
        refused(Status::INVAL, &[n::TIME_ACCESS_SET], time);
    }

    #[test]
    fn values_are_neither_missing_nor_left_over() {
        let error = |error| Err(NotSettable::Xdr(error));
        assert_eq!(decoded(&[n::SIZE], |w| w.u32(0)), error(Error::Short));
        assert_eq!(decoded(&[n::MODE], |w| w.u64(0)), error(Error::TooLong));
        assert_eq!(decoded(&[n::TIME_ACCESS_SET], |w| w.u32(2)), error(Error::Unknown));
    }
}
