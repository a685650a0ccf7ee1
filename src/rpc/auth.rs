//! The credentials of a call (RFC 5531 §8.2, AUTH_SYS in appendix A).

use crate::xdr::{Error, Reader};

/// Longest body of a credential or verifier, in bytes (RFC 5531 §8.2).
pub const BODY_MAX: usize = 400;

/// Most groups in AUTH_SYS, besides the first.
pub const GROUPS_MAX: usize = 16;

/// Longest machine name, in bytes (RFC 5531 appendix A).
const MACHINE_MAX: usize = 255;

const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;

/// Why credentials are not accepted (RFC 5531 §9, `auth_stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AuthStat {
    /// The credential cannot be decoded, or its flavor is not supported.
    BadCred = 1,
    /// A stronger flavor is required.
    TooWeak = 5,
}

/// The user for whom a call is made, as claimed by the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// No user (AUTH_NONE).
    None,
    /// A Unix user (AUTH_SYS), without proof.
    Sys(AuthSys),
}

/// AUTH_SYS (RFC 5531 appendix A), without the stamp and the machine name, which are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthSys {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    groups: [u32; GROUPS_MAX],
    count: usize,
}

impl AuthSys {
    /// Creates the credential of a user.
    ///
    /// # Panics
    /// If there are more groups than [`GROUPS_MAX`].
    pub fn new(uid: u32, gid: u32, groups: &[u32]) -> Self {
        let mut all = [0; GROUPS_MAX];
        all[..groups.len()].copy_from_slice(groups);
        Self { uid, gid, groups: all, count: groups.len() }
    }

    /// Returns the user's other groups.
    pub fn groups(&self) -> &[u32] {
        &self.groups[..self.count]
    }

    fn decode(body: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(body);
        let _stamp = r.u32()?;
        let _machine = r.opaque(MACHINE_MAX)?;
        let (uid, gid) = (r.u32()?, r.u32()?);
        let count = r.count(GROUPS_MAX)?;
        let mut groups = [0; GROUPS_MAX];
        for group in &mut groups[..count] {
            *group = r.u32()?;
        }
        Ok(Self { uid, gid, groups, count })
    }
}

impl Credentials {
    /// Decodes a credential and a verifier. The inner error is the reason for a rejection.
    ///
    /// # Errors
    /// The call is malformed.
    pub fn decode(r: &mut Reader<'_>) -> Result<Result<Self, AuthStat>, Error> {
        let (flavor, body) = (r.u32()?, r.opaque(BODY_MAX)?);
        // The verifiers of both flavors are empty by definition, so there is nothing to check.
        let _verifier = (r.u32()?, r.opaque(BODY_MAX)?);
        Ok(match flavor {
            AUTH_NONE => Ok(Self::None),
            AUTH_SYS => AuthSys::decode(body).map(Self::Sys).map_err(|_| AuthStat::BadCred),
            _ => Err(AuthStat::BadCred),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::Writer;

    fn encoded(flavor: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.u32(flavor);
        w.opaque(body);
        w.u32(0);
        w.opaque(&[]);
        out
    }

    fn sys_body(groups: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut w = Writer::new(&mut out);
        w.u32(0);
        w.opaque(b"machine");
        w.u32(1000);
        w.u32(100);
        w.length(groups.len());
        groups.iter().for_each(|&g| w.u32(g));
        out
    }

    fn check(bytes: &[u8], expected: Result<Result<Credentials, AuthStat>, Error>) {
        assert_eq!(Credentials::decode(&mut Reader::new(bytes)), expected);
    }

    #[test]
    fn a_user_and_its_groups_are_read() {
        let groups: Vec<u32> = (1..=16).collect();
        let user = AuthSys::new(1000, 100, &groups);
        check(&encoded(1, &sys_body(&groups)), Ok(Ok(Credentials::Sys(user))));
        check(&encoded(0, &[]), Ok(Ok(Credentials::None)));
    }

    #[test]
    fn a_seventeenth_group_is_a_bad_credential() {
        check(&encoded(1, &sys_body(&[7; 17])), Ok(Err(AuthStat::BadCred)));
    }

    #[test]
    fn other_flavors_are_bad_credentials() {
        check(&encoded(6, &[0; 20]), Ok(Err(AuthStat::BadCred)));
    }

    #[test]
    fn a_body_above_400_bytes_is_no_call() {
        check(&encoded(1, &[0; 404]), Err(Error::TooLong));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = encoded(1, &sys_body(&[5]));
        for len in 0..whole.len() {
            check(&whole[..len], Err(Error::Short));
        }
        let body = sys_body(&[5]);
        for len in 0..body.len() {
            check(&encoded(1, &body[..len]), Ok(Err(AuthStat::BadCred)));
        }
    }
}
