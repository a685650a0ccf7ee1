//! DESTROY_SESSION and DESTROY_CLIENTID (RFC 8881 sections 18.37 and 18.50).

use super::client::{ClientStage, SessionClient};
use super::{
    ClientId, ClientRecord, ConnectionId, HeldState, RunningRequest, SessionError, SessionId,
    SessionTable,
};

/// A client that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedClient {
    /// The client.
    pub client: ClientId,
    /// What identifies it: remove it from the disk, if it was confirmed.
    pub record: ClientRecord,
    /// Whether it was confirmed. Only then may there be state or a record.
    pub was_confirmed: bool,
}

impl RemovedClient {
    pub(super) fn of(id: ClientId, client: SessionClient) -> Self {
        let was_confirmed = client.stage == ClientStage::Confirmed;
        Self { client: id, record: client.record, was_confirmed }
    }
}

impl SessionTable {
    /// DESTROY_SESSION. `within` is the request that it is part of, if its compound begins with
    /// SEQUENCE. Whether it is the last operation then is up to the caller.
    ///
    /// # Errors
    /// `Badsession`, `ConnNotBoundToSession`; `Delay` while another request runs in the session.
    pub fn destroy_session(
        &mut self,
        id: SessionId,
        connection: ConnectionId,
        within: Option<&RunningRequest>,
    ) -> Result<(), SessionError> {
        //= RFC 8881 18.37.3: an unknown session gets BADSESSION
        let session = self.sessions.get(&id).ok_or(SessionError::Badsession)?;
        //= RFC 8881 18.37.3: only a connection of the session destroys it
        if !self.bindings.is_bound(id, connection) {
            return Err(SessionError::ConnNotBoundToSession);
        }
        let own = within.map_or(0, |request| u32::from(request.session().id == id));
        if session.slots.lock().running() > own {
            return Err(SessionError::Delay);
        }
        self.take_session(id);
        Ok(())
    }

    /// DESTROY_CLIENTID. `held` returns what a confirmed client holds. The caller removes its
    /// record on the disk.
    ///
    /// # Errors
    /// `StaleClientid`, `ClientidBusy`.
    pub fn destroy_client(
        &mut self,
        id: ClientId,
        held: impl FnOnce(ClientId) -> HeldState,
    ) -> Result<RemovedClient, SessionError> {
        //= RFC 8881 18.50.3: an unknown client id gets STALE_CLIENTID
        let client = self.clients.get(&id).ok_or(SessionError::StaleClientid)?;
        //= RFC 8881 18.50.3: a client with sessions or state gets CLIENTID_BUSY
        if !client.sessions.is_empty() {
            return Err(SessionError::ClientidBusy);
        }
        if client.stage == ClientStage::Confirmed && held(id) == HeldState::Live {
            return Err(SessionError::ClientidBusy);
        }
        let client = self.take_client(id).ok_or(SessionError::StaleClientid)?;
        Ok(RemovedClient::of(id, client))
    }
}
