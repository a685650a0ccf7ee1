//! Tests of clients, sessions and slots: each rule by itself, the slots against a model, and what
//! hostile clients and disks can do.
//!
//! For more steps of the model: `PROPTEST_CASES=20000 cargo test --lib -- session::tests::model`.

mod bind;
mod bounds;
mod charges;
mod create;
mod destroy;
mod exchange;
mod ids;
mod model;
mod naive;
mod records;
mod rules;
mod sequence;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;

/// Lease time of these tests.
const LEASE: Duration = Duration::from_secs(90);

/// Epoch of these tests.
const EPOCH: u32 = 7;

const ROOT: Principal = Principal::Sys { uid: 0, gid: 0 };
const OTHER: Principal = Principal::Sys { uid: 1000, gid: 0 };

/// EXCHGID4_FLAG_UPD_CONFIRMED_REC_A.
const UPDATE: u32 = 0x4000_0000;
/// EXCHGID4_FLAG_USE_NON_PNFS.
const NON_PNFS: u32 = 0x1_0000;
/// EXCHGID4_FLAG_CONFIRMED_R.
const CONFIRMED: u32 = 0x8000_0000;

/// What the Linux client asks for.
const ATTRS: ChannelAttrs = ChannelAttrs {
    header_pad: 0,
    max_request: 1_049_620,
    max_reply: 1_049_480,
    max_cached_reply: 7584,
    max_operations: 8,
    max_requests: 64,
};

fn settings() -> SessionSettings {
    SessionSettings {
        epoch: EPOCH,
        secret: [3; 16],
        lease: LEASE,
        backchannel: Backchannel::Unavailable,
        limits: SessionLimits::default(),
    }
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// Arguments of EXCHANGE_ID.
fn owner(owner: &[u8]) -> ExchangeId<'_> {
    ExchangeId {
        owner,
        verifier: [1; 8],
        flags: 0x101,
        protection: StateProtection::None,
        implementation: b"Linux 6.1",
        minor_version: 1,
    }
}

/// A table, its clock, a caller, and shorter calls.
struct World {
    table: SessionTable,
    now: Uptime,
    caller: Caller,
    /// What every client holds.
    held: HeldState,
    /// Clients that were confirmed, and what they replaced.
    confirmed: Vec<(ClientId, Option<ClientId>)>,
}

impl World {
    fn new() -> Self {
        Self::with(settings())
    }

    fn with(settings: SessionSettings) -> Self {
        let caller = Caller { principal: ROOT, address: address(1), connection: ConnectionId(1) };
        Self {
            table: SessionTable::new(settings),
            now: Duration::from_secs(1),
            caller,
            held: HeldState::Nothing,
            confirmed: Vec::new(),
        }
    }

    fn limited(limits: SessionLimits) -> Self {
        Self::with(SessionSettings { limits, ..settings() })
    }

    fn exchange(&mut self, request: &ExchangeId<'_>) -> Result<ExchangedId, SessionError> {
        let held = self.held;
        self.table.exchange_id(request, self.caller, self.now, |_| held)
    }

    /// EXCHANGE_ID by another principal.
    fn exchange_as(
        &mut self,
        principal: Principal,
        request: &ExchangeId<'_>,
    ) -> Result<ExchangedId, SessionError> {
        let caller = std::mem::replace(&mut self.caller.principal, principal);
        let exchanged = self.exchange(request);
        self.caller.principal = caller;
        exchanged
    }

    fn create(&mut self, request: &CreateSession) -> Result<CreatedSession, SessionError> {
        let confirmed = &mut self.confirmed;
        self.table.create_session(request, self.caller, self.now, |confirmation| {
            let replaces = confirmation.replaces.map(|(old, _)| old);
            confirmed.push((confirmation.client, replaces));
            Ok(())
        })
    }

    /// A confirmed client with a session.
    fn client(&mut self, name: &[u8]) -> (ClientId, SessionId) {
        let exchanged = self.exchange(&owner(name)).unwrap();
        let created = self.create(&create(exchanged.client, exchanged.sequence)).unwrap();
        (exchanged.client, created.session)
    }

    fn sequence(&mut self, request: &SequenceRequest) -> Result<SequenceOutcome, SessionError> {
        self.table.sequence(request, self.caller.connection)
    }

    /// A new request, which must be one.
    fn begin(&mut self, request: &SequenceRequest) -> RunningRequest {
        match self.sequence(request) {
            Ok(SequenceOutcome::New(running)) => running,
            other => panic!("not a new request: {other:?}"),
        }
    }

    /// The kept reply to a request that is sent again.
    fn replay(&mut self, request: &SequenceRequest) -> Vec<u8> {
        match self.sequence(request) {
            Ok(SequenceOutcome::Replay(reply)) => reply.into(),
            other => panic!("no reply: {other:?}"),
        }
    }

    /// The error of a SEQUENCE.
    fn refused(&mut self, request: &SequenceRequest) -> SessionError {
        self.sequence(request).map(drop).unwrap_err()
    }
}

/// Arguments of CREATE_SESSION.
fn create(client: ClientId, sequence: u32) -> CreateSession {
    // Linux asks for PERSIST and CONN_BACK_CHAN.
    let back = ChannelAttrs { max_request: 4096, max_reply: 4096, max_cached_reply: 0, ..ATTRS };
    let back = ChannelAttrs { max_operations: 2, max_requests: 16, ..back };
    let callback_program = 0x4000_0000;
    CreateSession { client, sequence, flags: 3, fore: ATTRS, back, callback_program }
}

/// Arguments of SEQUENCE for slot 0, of a request without sa_cachethis.
fn request(session: SessionId, sequence: u32) -> SequenceRequest {
    SequenceRequest {
        session,
        sequence,
        slot: 0,
        highest_slot: 0,
        cache_this: false,
        length: 200,
        operations: 3,
        checksum: 42,
    }
}

/// The same, with sa_cachethis.
fn cached(session: SessionId, sequence: u32) -> SequenceRequest {
    SequenceRequest { cache_this: true, ..request(session, sequence) }
}

/// A charge of a memory of its own.
fn charge(limit: usize) -> memory::SlotCharge {
    let memory = Arc::new(memory::SlotMemory::new(limit));
    memory::SlotCharge::new(Arc::new(memory::AddressShare::new(memory)))
}
