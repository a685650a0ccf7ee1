//! Connections of sessions: BIND_CONN_TO_SESSION (RFC 8881 section 18.34).
//!
//! A connection is bound to the sessions that were created over it, that BIND_CONN_TO_SESSION
//! names, or that have had a SEQUENCE over it. Which connections serve a back channel is not kept
//! while there is none.

use std::collections::HashMap;

use super::{ConnectionId, SessionError, SessionId, SessionTable};

/// Arguments of BIND_CONN_TO_SESSION. RDMA is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindRequest {
    /// bctsa_sessid.
    pub session: SessionId,
    /// bctsa_dir.
    pub direction: DirectionRequest,
}

/// The channels that a client wants a connection to serve (channel_dir_from_client4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectionRequest {
    /// CDFC4_FORE.
    Fore,
    /// CDFC4_BACK.
    Back,
    /// CDFC4_FORE_OR_BOTH.
    ForeOrBoth,
    /// CDFC4_BACK_OR_BOTH.
    BackOrBoth,
}

/// The channels that a connection serves (channel_dir_from_server4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BoundDirection {
    /// CDFS4_FORE.
    Fore = 1,
    /// CDFS4_BACK.
    Back = 2,
    /// CDFS4_BOTH.
    Both = 3,
}

impl DirectionRequest {
    /// Returns the direction with this number on the wire.
    pub const fn from_wire(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Fore,
            2 => Self::Back,
            3 => Self::ForeOrBoth,
            7 => Self::BackOrBoth,
            _ => return None,
        })
    }
}

/// Which connections are bound to which sessions.
#[derive(Debug)]
pub(super) struct Bindings {
    max: usize,
    sessions: HashMap<SessionId, Vec<ConnectionId>>,
    connections: HashMap<ConnectionId, Vec<SessionId>>,
}

impl Bindings {
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), sessions: HashMap::new(), connections: HashMap::new() }
    }

    pub(super) fn is_bound(&self, session: SessionId, connection: ConnectionId) -> bool {
        self.of(session).contains(&connection)
    }

    /// Returns the connections of a session, the oldest binding first.
    pub(super) fn of(&self, session: SessionId) -> &[ConnectionId] {
        self.sessions.get(&session).map_or(&[], Vec::as_slice)
    }

    /// Binds a connection. The binding of the oldest is forgotten if there are too many: one that
    /// is in use is bound again by its next SEQUENCE.
    pub(super) fn bind(&mut self, session: SessionId, connection: ConnectionId) {
        if self.is_bound(session, connection) {
            return;
        }
        if self.of(session).len() >= self.max
            && let Some(oldest) = self.of(session).first().copied()
        {
            self.unbind(session, oldest);
        }
        self.sessions.entry(session).or_default().push(connection);
        self.connections.entry(connection).or_default().push(session);
    }

    pub(super) fn remove_session(&mut self, session: SessionId) {
        for connection in self.sessions.remove(&session).unwrap_or_default() {
            remove(&mut self.connections, connection, session);
        }
    }

    pub(super) fn remove_connection(&mut self, connection: ConnectionId) {
        for session in self.connections.remove(&connection).unwrap_or_default() {
            remove(&mut self.sessions, session, connection);
        }
    }

    /// Returns how many connections have bindings.
    #[cfg(test)]
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    fn unbind(&mut self, session: SessionId, connection: ConnectionId) {
        remove(&mut self.sessions, session, connection);
        remove(&mut self.connections, connection, session);
    }
}

/// Removes a value of a key, and the key with its last value.
fn remove<K: Eq + std::hash::Hash, V: Eq>(map: &mut HashMap<K, Vec<V>>, key: K, value: V) {
    if let Some(values) = map.get_mut(&key) {
        values.retain(|other| *other != value);
        if values.is_empty() {
            map.remove(&key);
        }
    }
}

impl SessionTable {
    /// BIND_CONN_TO_SESSION. May be repeated. Returns what the connection serves.
    ///
    /// # Errors
    /// `Badsession`; `Inval` if it is to serve a back channel only, and the session has none.
    pub fn bind_connection(
        &mut self,
        request: BindRequest,
        connection: ConnectionId,
    ) -> Result<BoundDirection, SessionError> {
        //= RFC 8881 18.34.3: an unknown session gets BADSESSION
        let session = self.sessions.get(&request.session).ok_or(SessionError::Badsession)?;
        let has_back = session.callback.is_some();
        //= RFC 8881 18.34.3: FORE and BACK are granted as they are, the server chooses for OR_BOTH
        let bound = match request.direction {
            DirectionRequest::Fore => BoundDirection::Fore,
            DirectionRequest::ForeOrBoth if has_back => BoundDirection::Both,
            DirectionRequest::ForeOrBoth => BoundDirection::Fore,
            DirectionRequest::Back if has_back => BoundDirection::Back,
            DirectionRequest::BackOrBoth if has_back => BoundDirection::Both,
            DirectionRequest::Back | DirectionRequest::BackOrBoth => {
                return Err(SessionError::Inval);
            }
        };
        self.bindings.bind(request.session, connection);
        Ok(bound)
    }

    /// Forgets a connection that is closed. Its sessions stay: the client binds another one.
    pub fn connection_lost(&mut self, connection: ConnectionId) {
        //= RFC 8881 2.10.3: a session outlives its connections, also the last one
        self.bindings.remove_connection(connection);
    }
}
