//! Clients and sessions: SEQUENCE, EXCHANGE_ID, CREATE_SESSION, BIND_CONN_TO_SESSION,
//! DESTROY_SESSION, DESTROY_CLIENTID (RFC 8881 sections 18.46, 18.35, 18.36, 18.34, 18.37, 18.50).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::super::compound::{Compound, OpResult, Results, Start, Stop};
use super::super::server::Server;
use super::super::session::store::ServerOwner;
use super::super::session::{
    BindRequest, Caller, ChannelAttrs, ClientId, ClientRecord, Confirmation, ConnectionId,
    CreateSession, DirectionRequest, ExchangeId, Principal, RemovedClient, SequenceOutcome,
    SequenceReply, SequenceRequest, SessionError, SessionId, StateProtection,
};
use super::super::status::Status;
use super::super::types::OWNER_MAX;
use super::SEQUENCE;
use crate::locks::{RecordedClient, SequenceFlags};
use crate::nfs::context::CallContext;
use crate::telemetry::log::Chain;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// Bytes of an RPC call before its arguments, about: they count for the largest request.
const CALL_HEADER: usize = 128;

/// Security flavors of a back channel that are read. None is used.
const FLAVORS_MAX: usize = 16;

/// Implementations in EXCHANGE_ID: one at most.
const IMPLEMENTATIONS_MAX: usize = 1;

impl From<SessionError> for Stop {
    fn from(error: SessionError) -> Self {
        Self::Status(Status(error.status()))
    }
}

impl Encode for SessionId {
    fn encode(&self, w: &mut Writer<'_>) {
        w.fixed(&self.0);
    }
}

impl Decode<'_> for SessionId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self(r.fixed()?))
    }
}

impl Decode<'_> for ChannelAttrs {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Error> {
        let attrs = Self {
            header_pad: r.u32()?,
            max_request: r.u32()?,
            max_reply: r.u32()?,
            max_cached_reply: r.u32()?,
            max_operations: r.u32()?,
            max_requests: r.u32()?,
        };
        for _ in 0..r.count(1)? {
            r.u32()?; // ca_rdma_ird
        }
        Ok(attrs)
    }
}

impl Encode for ChannelAttrs {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.header_pad);
        w.u32(self.max_request);
        w.u32(self.max_reply);
        w.u32(self.max_cached_reply);
        w.u32(self.max_operations);
        w.u32(self.max_requests);
        w.u32(0);
    }
}

/// The results of SEQUENCE.
struct SequenceOk(SequenceReply, SequenceFlags);

impl Encode for SequenceOk {
    fn encode(&self, w: &mut Writer<'_>) {
        let Self(reply, flags) = self;
        reply.session.encode(w);
        w.u32(reply.sequence);
        w.u32(reply.slot);
        w.u32(reply.highest_slot);
        w.u32(reply.target_highest_slot);
        w.u32(flags.bits());
    }
}

/// Returns the connection of a call. Its address identifies it: a later connection with the same
/// address and port replaces it.
fn connection(cx: &CallContext<'_>) -> ConnectionId {
    let mut hasher = DefaultHasher::new();
    (cx.rpc.peer, cx.rpc.local).hash(&mut hasher);
    ConnectionId(hasher.finish())
}

fn caller(cx: &CallContext<'_>) -> Caller {
    Caller {
        principal: Principal::from(&cx.rpc.credentials),
        address: cx.rpc.peer.ip().to_canonical(),
        connection: connection(cx),
    }
}

/// SEQUENCE, the first operation of a compound. Leaves `args` at the next one, or where a compound
/// goes on that was suspended.
pub fn sequence<'a>(
    c: &mut Compound<'a>,
    args: &mut Reader<'a>,
    results: &mut Results<'_, '_>,
) -> Start {
    let decoded = |r: &mut Reader<'_>| -> Result<_, Error> {
        let session = SessionId::decode(r)?;
        Ok((session, r.u32()?, r.u32()?, r.u32()?, r.bool()?))
    };
    let Ok((session, sequence, slot, highest_slot, cache_this)) = decoded(args) else {
        return results.only(SEQUENCE, Status::BADXDR);
    };
    let request = SequenceRequest {
        session,
        sequence,
        slot,
        highest_slot,
        cache_this,
        length: c.cx.rpc.args.rest().len() + CALL_HEADER,
        operations: c.operations as usize,
        checksum: c.checksum(),
    };
    let begun = c.server.sessions().sequence(&request, connection(&c.cx));
    let (running, kept) = match begun {
        Ok(SequenceOutcome::New(running)) => (running, None),
        Ok(SequenceOutcome::Resumed(running, kept)) => (running, Some(kept)),
        Ok(SequenceOutcome::Replay(reply)) => return Start::Replay(reply),
        Err(error) => return results.only(SEQUENCE, Status(error.status())),
    };
    let renewed = c.server.locks().renew(running.session().client(), c.server.now());
    let Ok(flags) = renewed else {
        running.abandon();
        return results.only(SEQUENCE, Status::BADSESSION);
    };
    let reply = *running.reply();
    c.request = Some(running);
    match kept {
        Some(kept) => c.resume(kept, args, results),
        None => {
            results.first(SEQUENCE, &SequenceOk(reply, flags));
            Start::At(1)
        }
    }
}

/// EXCHANGE_ID: makes a client known.
pub fn exchange_id<'a>(c: &mut Compound<'a>, r: &mut Reader<'a>, w: &mut Writer<'_>) -> OpResult {
    c.check_patience()?; // for the disk
    let verifier = r.fixed()?;
    let (owner, flags) = (r.opaque(OWNER_MAX)?, r.u32()?);
    let protection = match r.u32()? {
        0 => StateProtection::None,
        1 => StateProtection::MachCred,
        2 => StateProtection::Ssv,
        _ => return Err(Error::Unknown.into()),
    };
    let mut implementation: &[u8] = &[];
    if protection == StateProtection::None {
        for _ in 0..r.count(IMPLEMENTATIONS_MAX)? {
            r.opaque(OWNER_MAX)?; // nii_domain
            implementation = r.opaque(OWNER_MAX)?;
            r.u64()?; // nii_date
            r.u32()?;
        }
    }
    let minor_version = c.minor;
    let request = ExchangeId { owner, verifier, flags, protection, implementation, minor_version };
    let server = c.server;
    let exchanged = server
        .sessions()
        .exchange_id(&request, caller(&c.cx), server.now(), |id| server.held(id))?;
    forget(c, exchanged.removed.as_ref())?;
    w.u64(exchanged.client.0);
    w.u32(exchanged.sequence);
    w.u32(exchanged.flags);
    w.u32(0); // SP4_NONE
    let ServerOwner(identity) = server.store().identity();
    w.u64(0); // so_minor_id
    w.opaque(&identity); // so_major_id
    w.opaque(&identity); // eir_server_scope
    w.length(0); // eir_server_impl_id
    Ok(())
}

/// CREATE_SESSION: confirms a client, and gives it a session.
pub fn create_session<'a>(
    c: &mut Compound<'a>,
    r: &mut Reader<'a>,
    w: &mut Writer<'_>,
) -> OpResult {
    c.check_patience()?;
    let (client, sequence, flags) = (ClientId(r.u64()?), r.u32()?, r.u32()?);
    let (fore, back) = (ChannelAttrs::decode(r)?, ChannelAttrs::decode(r)?);
    let callback_program = r.u32()?;
    for _ in 0..r.count(FLAVORS_MAX)? {
        skip_callback_security(r)?;
    }
    let request = CreateSession { client, sequence, flags, fore, back, callback_program };
    let (server, now) = (c.server, c.server.now());
    let mut replaced = None;
    let created =
        server.sessions().create_session(&request, caller(&c.cx), now, |confirmation| {
            replaced = confirmation.replaces.map(|(_, record)| record.clone());
            confirm(c, &confirmation)
        })?;
    if let Some(record) = replaced {
        forget_record(server, &record)?;
    }
    created.session.encode(w);
    w.u32(created.sequence);
    w.u32(created.flags);
    created.fore.encode(w);
    created.back.encode(w);
    Ok(())
}

/// Adds a client that is confirmed to the lock table, and removes the one that it replaces.
fn confirm(c: &Compound<'_>, confirmation: &Confirmation<'_>) -> Result<(), SessionError> {
    let record = RecordedClient {
        name: Arc::clone(&confirmation.record.owner),
        principal: confirmation.record.principal.to_bytes().as_slice().into(),
        verifier: confirmation.record.verifier,
    };
    let mut locks = c.server.locks();
    if let Some((old, _)) = confirmation.replaces {
        locks.remove_client(old);
    }
    let added = locks.add_client(confirmation.client, &record, c.server.now());
    added.map(drop).map_err(|_| SessionError::Delay)
}

/// `callback_sec_parms4`
fn skip_callback_security(r: &mut Reader<'_>) -> Result<(), Error> {
    const NONE: u32 = 0;
    const SYS: u32 = 1;
    const GSS: u32 = 6;
    match r.u32()? {
        NONE => {}
        SYS => {
            r.u32()?; // stamp
            r.opaque(255)?; // machine name
            r.u64()?; // uid, gid
            for _ in 0..r.count(16)? {
                r.u32()?;
            }
        }
        GSS => {
            r.u32()?; // service
            for _ in ["handle from server", "handle from client"] {
                r.opaque(OWNER_MAX)?;
            }
        }
        _ => return Err(Error::Unknown),
    }
    Ok(())
}

/// BIND_CONN_TO_SESSION: binds the connection of the call to a session.
pub fn bind_conn_to_session<'a>(
    c: &mut Compound<'a>,
    r: &mut Reader<'a>,
    w: &mut Writer<'_>,
) -> OpResult {
    let (session, direction) = (SessionId::decode(r)?, r.u32()?);
    let _rdma = r.bool()?;
    let direction = DirectionRequest::from_wire(direction).ok_or(Error::Unknown)?;
    let request = BindRequest { session, direction };
    let bound = c.server.sessions().bind_connection(request, connection(&c.cx))?;
    session.encode(w);
    w.u32(bound as u32);
    w.bool(false); // RDMA
    Ok(())
}

/// DESTROY_SESSION: ends a session. Its client stays.
pub fn destroy_session<'a>(
    c: &mut Compound<'a>,
    r: &mut Reader<'a>,
    _: &mut Writer<'_>,
) -> OpResult {
    let session = SessionId::decode(r)?;
    let own = c.request.as_ref().is_some_and(|request| request.session().id() == session);
    //= RFC 8881 18.37.3: the own session is destroyed by the last operation only
    if own && !r.rest().is_empty() {
        return Err(Status::NOT_ONLY_OP.into());
    }
    let within = c.request.as_ref();
    c.server.sessions().destroy_session(session, connection(&c.cx), within)?;
    Ok(())
}

/// DESTROY_CLIENTID: ends a client that has no sessions and holds nothing.
pub fn destroy_clientid<'a>(
    c: &mut Compound<'a>,
    r: &mut Reader<'a>,
    _: &mut Writer<'_>,
) -> OpResult {
    c.check_patience()?;
    let (client, server) = (ClientId(r.u64()?), c.server);
    let removed = server.sessions().destroy_client(client, |id| server.held(id))?;
    forget(c, Some(&removed))
}

/// Removes what a client holds that is gone, and its record on the disk.
fn forget(c: &Compound<'_>, removed: Option<&RemovedClient>) -> OpResult {
    let Some(removed) = removed.filter(|removed| removed.was_confirmed) else { return Ok(()) };
    c.server.locks().remove_client(removed.client);
    forget_record(c.server, &removed.record)
}

/// Removes the record of a client from the disk. A client that it cannot be removed for retries.
fn forget_record(server: &Server, record: &ClientRecord) -> OpResult {
    server.store().forget(record).map_err(|error| {
        tracing::warn!(error = %Chain(&error), "cannot remove the record of a client");
        Stop::Status(Status::DELAY)
    })
}
