//! CREATE_SESSION (RFC 8881 section 18.36): confirms a client, and gives it a session.

use std::sync::Arc;

use parking_lot::Mutex;

use super::client::{ClientStage, SessionClient};
use super::memory::{Need, SlotCharge};
use super::slots::SessionSlots;
use super::{
    Backchannel, Caller, ChannelAttrs, ClientId, ClientRecord, Session, SessionError, SessionId,
    SessionTable, Uptime,
};

/// CREATE_SESSION4_FLAG_CONN_BACK_CHAN.
const CONN_BACK_CHAN: u32 = 2;
/// That, CREATE_SESSION4_FLAG_PERSIST and CREATE_SESSION4_FLAG_CONN_RDMA.
const DEFINED: u32 = 7;

/// What a session is charged besides its slots: itself, and its entries in tables.
const SESSION_BYTES: usize = 1024;

/// Arguments of CREATE_SESSION. Security parameters of the back channel do not matter: callbacks
/// use AUTH_NONE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateSession {
    /// csa_clientid.
    pub client: ClientId,
    /// csa_sequence.
    pub sequence: u32,
    /// csa_flags.
    pub flags: u32,
    /// csa_fore_chan_attrs.
    pub fore: ChannelAttrs,
    /// csa_back_chan_attrs.
    pub back: ChannelAttrs,
    /// csa_cb_program.
    pub callback_program: u32,
}

/// Results of CREATE_SESSION.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedSession {
    /// csr_sessionid.
    pub session: SessionId,
    /// csr_sequence.
    pub sequence: u32,
    /// csr_flags.
    pub flags: u32,
    /// csr_fore_chan_attrs.
    pub fore: ChannelAttrs,
    /// csr_back_chan_attrs.
    pub back: ChannelAttrs,
}

/// A client that is about to be confirmed.
#[derive(Clone, Copy, Debug)]
pub struct Confirmation<'a> {
    /// The client.
    pub client: ClientId,
    /// What identifies it.
    pub record: &'a ClientRecord,
    /// The client that it replaces, which has restarted, and its record: remove its state. Remove
    /// the record too, or the next grace period waits for it.
    pub replaces: Option<(ClientId, &'a ClientRecord)>,
}

impl SessionTable {
    /// CREATE_SESSION. Binds the connection to the session.
    ///
    /// If this confirms a client, `confirm` adds it to the lock table, and removes the one that it
    /// replaces. It is the last step: after its error, nothing has changed here.
    ///
    /// # Errors
    /// `Inval`, `Toosmall`, `StaleClientid`, `SeqMisordered`, `ClidInuse`, `Nospc`; `Delay` if
    /// there is no room for the client or the session; what `confirm` returns.
    pub fn create_session(
        &mut self,
        request: &CreateSession,
        caller: Caller,
        now: Uptime,
        confirm: impl FnOnce(Confirmation<'_>) -> Result<(), SessionError>,
    ) -> Result<CreatedSession, SessionError> {
        //= RFC 8881 18.36.3: a flag that is not defined gets INVAL
        if request.flags & !DEFINED != 0 {
            return Err(SessionError::Inval);
        }
        let back = request.back.negotiate_back()?;
        let fore = request.fore.negotiate_fore(&self.settings.limits)?;
        self.expire_unconfirmed(now);
        //= RFC 8881 18.36.4: an unknown client id gets STALE_CLIENTID
        let id = request.client;
        let client = self.clients.get(&id).ok_or(SessionError::StaleClientid)?;
        if let Some(reply) = client.replayed(request.sequence)? {
            // The connection of the first request may be lost by now.
            if self.sessions.contains_key(&reply.session) {
                self.bindings.bind(reply.session, caller.connection);
            }
            return Ok(reply);
        }
        let is_new = client.stage != ClientStage::Confirmed;
        //= RFC 8881 18.36.4: only the principal of EXCHANGE_ID confirms a client: else CLID_INUSE
        if is_new && client.record.principal != caller.principal {
            return Err(SessionError::ClidInuse);
        }
        self.check_room(client)?;
        let address = client.address;
        let session = self.new_session(request, fore).inspect_err(|_| {
            self.addresses.release(address);
        })?;
        if is_new {
            self.confirm(id, confirm).inspect_err(|_| self.addresses.release(address))?;
        }
        let reply = CreatedSession {
            session: session.id,
            sequence: request.sequence,
            //= RFC 8881 18.36.3: flags of the reply are those that are granted: no PERSIST, no RDMA
            flags: session.callback.map_or(0, |_| CONN_BACK_CHAN),
            fore: session.fore,
            back,
        };
        if let Some(client) = self.clients.get_mut(&id) {
            client.create.sequence = request.sequence;
            client.create.reply = Some(reply);
        }
        self.insert_session(Arc::new(session), caller.connection);
        Ok(reply)
    }

    /// Checks whether a client may have another session.
    fn check_room(&self, client: &SessionClient) -> Result<(), SessionError> {
        let limits = &self.settings.limits;
        if client.sessions.len() >= limits.sessions_of_client {
            return Err(SessionError::Nospc);
        }
        let (address, least) = (client.address, limits.clients_of_address);
        if client.stage != ClientStage::Confirmed
            && !self.addresses.may_add_client(address, least, limits.clients)
        {
            return Err(SessionError::Delay);
        }
        Ok(())
    }

    /// Takes the memory for a session.
    fn new_session(
        &mut self,
        request: &CreateSession,
        mut fore: ChannelAttrs,
    ) -> Result<Session, SessionError> {
        let client = self.clients.get(&request.client).ok_or(SessionError::StaleClientid)?;
        let mut charge: SlotCharge = self.addresses.charge(client.address);
        if !charge.grow(SESSION_BYTES, Need::Must) {
            return Err(SessionError::Delay);
        }
        let slots = SessionSlots::new(fore.max_requests, fore.max_cached_reply as usize, charge);
        let slots = slots.ok_or(SessionError::Delay)?;
        fore.max_requests = slots.count();
        let has_back = request.flags & CONN_BACK_CHAN != 0
            && self.settings.backchannel == Backchannel::Available;
        Ok(Session {
            id: self.ids.next_session(request.client),
            client: request.client,
            fore,
            callback: has_back.then_some(request.callback_program),
            slots: Mutex::new(slots),
        })
    }

    /// Makes an unconfirmed client a confirmed one.
    fn confirm(
        &mut self,
        id: ClientId,
        confirm: impl FnOnce(Confirmation<'_>) -> Result<(), SessionError>,
    ) -> Result<(), SessionError> {
        let client = self.clients.get(&id).ok_or(SessionError::StaleClientid)?;
        let owner = self.owners.get(&client.record.owner).copied().unwrap_or_default();
        let old = owner.confirmed.and_then(|old| Some((old, &self.clients.get(&old)?.record)));
        confirm(Confirmation { client: id, record: &client.record, replaces: old })?;
        //= RFC 8881 18.36.4: the earlier instance of a client goes when the new one is confirmed
        if let Some(old) = owner.confirmed {
            self.take_client(old);
        }
        if let Some(mut client) = self.take_client(id) {
            client.stage = ClientStage::Confirmed;
            self.addresses.add_client(client.address);
            self.insert_client(id, client);
        }
        Ok(())
    }
}

impl SessionClient {
    /// Returns the reply to a CREATE_SESSION that is sent again, `None` for the next one.
    fn replayed(&self, sequence: u32) -> Result<Option<CreatedSession>, SessionError> {
        //= RFC 8881 18.36.4: the next number is a new request, the last one gets its reply again
        if sequence == self.create.sequence.wrapping_add(1) {
            return Ok(None);
        }
        //= RFC 8881 18.36.4: any other number gets SEQ_MISORDERED, as the first one less one does
        let reply = self.create.reply.filter(|_| sequence == self.create.sequence);
        reply.map(Some).ok_or(SessionError::SeqMisordered)
    }
}
