//! EXCHANGE_ID (RFC 8881 section 18.35): a client makes itself known.

use std::sync::Arc;

use super::client::{ClientStage, CreateSlot, SessionClient};
use super::destroy::RemovedClient;
use super::{
    Caller, ClientId, ClientRecord, HeldState, Principal, SessionError, SessionTable, Uptime,
};
use crate::rpc::address::Address;

/// EXCHGID4_FLAG_SUPP_FENCE_OPS, of minor version 2.
const SUPP_FENCE_OPS: u32 = 0x4;
/// EXCHGID4_FLAG_USE_NON_PNFS.
const USE_NON_PNFS: u32 = 0x1_0000;
/// EXCHGID4_FLAG_UPD_CONFIRMED_REC_A.
const UPD_CONFIRMED_REC_A: u32 = 0x4000_0000;
/// EXCHGID4_FLAG_CONFIRMED_R.
const CONFIRMED_R: u32 = 0x8000_0000;
/// What a client may set: SUPP_MOVED_REFER, SUPP_MOVED_MIGR, BIND_PRINC_STATEID, the three
/// USE flags and UPD_CONFIRMED_REC_A.
const DEFINED: u32 = 0x4007_0103;

/// Bytes of an implementation's name that are kept.
const IMPLEMENTATION_MAX: usize = 128;

/// Arguments of EXCHANGE_ID. The caller has checked that the owner has at most 1024 bytes.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeId<'a> {
    /// co_ownerid.
    pub owner: &'a [u8],
    /// co_verifier.
    pub verifier: [u8; 8],
    /// eia_flags.
    pub flags: u32,
    /// Kind of eia_state_protect.
    pub protection: StateProtection,
    /// nii_name of eia_client_impl_id; empty if there is none.
    pub implementation: &'a [u8],
    /// Minor version of the compound.
    pub minor_version: u32,
}

/// How the client wants its state to be protected (state_protect_how4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateProtection {
    /// SP4_NONE.
    None,
    /// SP4_MACH_CRED.
    MachCred,
    /// SP4_SSV.
    Ssv,
}

/// Results of EXCHANGE_ID. spr_how is SP4_NONE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangedId {
    /// eir_clientid.
    pub client: ClientId,
    /// eir_sequenceid: the number of the next CREATE_SESSION.
    pub sequence: u32,
    /// eir_flags.
    pub flags: u32,
    /// A confirmed client that had to go: remove its state and its record on the disk, before the
    /// reply.
    pub removed: Option<RemovedClient>,
}

impl SessionTable {
    /// EXCHANGE_ID. `held` returns what a confirmed client holds.
    ///
    /// # Errors
    /// `Inval`, `EncrAlgUnsupp`, `ClidInuse`, `Noent`, `NotSame`, `Perm`.
    pub fn exchange_id(
        &mut self,
        request: &ExchangeId<'_>,
        caller: Caller,
        now: Uptime,
        held: impl FnOnce(ClientId) -> HeldState,
    ) -> Result<ExchangedId, SessionError> {
        request.check()?;
        self.expire_unconfirmed(now);
        let confirmed = self.owners.get(request.owner).and_then(|owner| owner.confirmed);
        if request.flags & UPD_CONFIRMED_REC_A != 0 {
            return self.update(confirmed, request, caller.principal);
        }
        let mut removed = None;
        if let Some((id, client)) = confirmed.and_then(|id| Some((id, self.clients.get(&id)?))) {
            if client.record.principal != caller.principal {
                client.check_replaceable(held(id))?;
                removed = self.take_client(id).map(|client| RemovedClient::of(id, client));
            } else if client.record.verifier == request.verifier {
                //= RFC 8881 18.35.4: the same owner, verifier and principal: the client as it is
                return Ok(client.exchanged(id));
            }
            //= RFC 8881 18.35.4: another verifier: a restarted client, beside the old one for now
        }
        Ok(self.add_unconfirmed(request, caller, now, removed))
    }

    fn update(
        &mut self,
        confirmed: Option<ClientId>,
        request: &ExchangeId<'_>,
        principal: Principal,
    ) -> Result<ExchangedId, SessionError> {
        //= RFC 8881 18.35.4: an update of a client that is not confirmed gets NOENT
        let id = confirmed.ok_or(SessionError::Noent)?;
        let client = self.clients.get_mut(&id).ok_or(SessionError::Noent)?;
        //= RFC 8881 18.35.4: an update with another verifier gets NOT_SAME
        if client.record.verifier != request.verifier {
            return Err(SessionError::NotSame);
        }
        //= RFC 8881 18.35.4: an update by another principal gets PERM
        if client.record.principal != principal {
            return Err(SessionError::Perm);
        }
        client.implementation = request.implementation_cut();
        client.minor_version = request.minor_version;
        Ok(client.exchanged(id))
    }

    fn add_unconfirmed(
        &mut self,
        request: &ExchangeId<'_>,
        caller: Caller,
        now: Uptime,
        removed: Option<RemovedClient>,
    ) -> ExchangedId {
        //= RFC 8881 18.35.4: a new unconfirmed client takes the place of an unconfirmed one
        if let Some(old) = self.owners.get(request.owner).and_then(|owner| owner.unconfirmed) {
            self.take_client(old);
        }
        let (address, limits) = (Address::of(caller.address), self.settings.limits);
        let (own, all) = (limits.unconfirmed_of_address, limits.unconfirmed);
        while let Some(oldest) = self.unconfirmed.surplus(address, own, all) {
            self.take_client(oldest);
        }
        let id = self.ids.next_client(|id| self.clients.contains_key(&id));
        let owner = match self.owners.get_key_value(request.owner) {
            Some((owner, _)) => owner.clone(),
            None => Arc::from(request.owner),
        };
        let client = SessionClient {
            record: ClientRecord { owner, principal: caller.principal, verifier: request.verifier },
            stage: ClientStage::Unconfirmed(self.unconfirmed.push(id, address, now)),
            peer: caller.address,
            address,
            create: CreateSlot::default(),
            sessions: Vec::new(),
            implementation: request.implementation_cut(),
            minor_version: request.minor_version,
        };
        let exchanged = ExchangedId { removed, ..client.exchanged(id) };
        self.insert_client(id, client);
        exchanged
    }
}

impl ExchangeId<'_> {
    /// Checks what depends on no client.
    fn check(&self) -> Result<(), SessionError> {
        //= RFC 8881 18.35.3: a flag that is not defined for requests gets INVAL
        let defined = if self.minor_version >= 2 { DEFINED | SUPP_FENCE_OPS } else { DEFINED };
        if self.flags & !defined != 0 {
            return Err(SessionError::Inval);
        }
        match self.protection {
            StateProtection::None => Ok(()),
            //= RFC 8881 18.35.3: SP4_MACH_CRED without RPCSEC_GSS integrity or privacy gets INVAL
            StateProtection::MachCred => Err(SessionError::Inval),
            //= RFC 8881 18.35.3: SP4_SSV without a known algorithm gets ENCR_ALG_UNSUPP
            StateProtection::Ssv => Err(SessionError::EncrAlgUnsupp),
        }
    }

    fn implementation_cut(&self) -> Box<[u8]> {
        self.implementation[..self.implementation.len().min(IMPLEMENTATION_MAX)].into()
    }
}

impl SessionClient {
    /// Checks whether a client of another principal may take the place of this confirmed client.
    fn check_replaceable(&self, held: HeldState) -> Result<(), SessionError> {
        //= RFC 8881 18.35.4: another principal gets CLID_INUSE while the client has state and lease
        match held {
            HeldState::Live => Err(SessionError::ClidInuse),
            HeldState::Nothing if !self.sessions.is_empty() => Err(SessionError::ClidInuse),
            HeldState::Nothing | HeldState::Expired => Ok(()),
        }
    }

    /// Returns the results of EXCHANGE_ID for this client.
    fn exchanged(&self, id: ClientId) -> ExchangedId {
        //= RFC 8881 18.35.3: a reply has one of the USE flags; CONFIRMED_R if there was a session
        let flags = match self.stage {
            ClientStage::Unconfirmed(_) => USE_NON_PNFS,
            ClientStage::Confirmed => USE_NON_PNFS | CONFIRMED_R,
        };
        let sequence = self.create.sequence.wrapping_add(1);
        ExchangedId { client: id, sequence, flags, removed: None }
    }
}
