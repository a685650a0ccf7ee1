//! Ids of clients, sessions and connections.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::locks::ClientId;

/// A session id, as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// A connection, by a number of the caller that is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Issues ids.
///
/// ```text
///   client id    epoch (32 bits) | number of the client, permuted with the secret (32 bits)
///   session id   client id (64 bits) | hash of the number of the session with the secret (64 bits)
/// ```
#[derive(Debug)]
pub(super) struct IdSource {
    epoch: u32,
    secret: [u8; 16],
    clients: u32,
    sessions: u64,
}

impl IdSource {
    /// Rounds of the permutation. Four make it as good as a random one (Luby and Rackoff).
    const ROUNDS: u8 = 4;

    pub(super) const fn new(epoch: u32, secret: [u8; 16]) -> Self {
        Self { epoch, secret, clients: 0, sessions: 0 }
    }

    /// Returns a new client id. `is_used` matters only after 2^32 of them.
    pub(super) fn next_client(&mut self, is_used: impl Fn(ClientId) -> bool) -> ClientId {
        //= RFC 8881 2.4: a client id of an earlier server instance is never one of this instance
        loop {
            self.clients = self.clients.wrapping_add(1);
            let low = u64::from(self.permuted(self.clients));
            let id = ClientId(u64::from(self.epoch) << 32 | low);
            if !is_used(id) {
                return id;
            }
        }
    }

    /// Returns a new session id.
    pub(super) fn next_session(&mut self, client: ClientId) -> SessionId {
        self.sessions += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&client.0.to_be_bytes());
        id[8..].copy_from_slice(&self.hash(u8::MAX, self.sessions).to_be_bytes());
        SessionId(id)
    }

    /// A permutation of the 32-bit numbers: a Feistel network.
    fn permuted(&self, n: u32) -> u32 {
        let (mut left, mut right) = (n >> 16, n & 0xffff);
        for round in 0..Self::ROUNDS {
            #[allow(clippy::cast_possible_truncation)] // a hash, of which 16 bits are used
            let mixed = self.hash(round, right.into()) as u32 & 0xffff;
            (left, right) = (right, left ^ mixed);
        }
        left << 16 | right
    }

    fn hash(&self, purpose: u8, n: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write_u8(purpose);
        hasher.write_u32(self.epoch);
        hasher.write_u64(n);
        hasher.finish()
    }
}
