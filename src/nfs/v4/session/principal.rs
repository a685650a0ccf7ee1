//! The principal of a request.

use serde::{Deserialize, Serialize};

use crate::rpc::auth::Credentials;

/// The principal that RPC credentials state. Nothing proves it, so it only tells apart clients that
/// use the same owner by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Principal {
    /// AUTH_NONE.
    None,
    /// AUTH_SYS. Other groups do not count, because they may change while a client runs.
    Sys {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Principal {
    /// Returns bytes that are the same for the same principal only.
    pub fn to_bytes(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        if let Self::Sys { uid, gid } = self {
            bytes[0] = 1;
            bytes[1..5].copy_from_slice(&uid.to_be_bytes());
            bytes[5..].copy_from_slice(&gid.to_be_bytes());
        }
        bytes
    }
}

impl From<&Credentials> for Principal {
    fn from(credentials: &Credentials) -> Self {
        match credentials {
            Credentials::None => Self::None,
            Credentials::Sys(sys) => Self::Sys { uid: sys.uid, gid: sys.gid },
        }
    }
}
