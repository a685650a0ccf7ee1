//! What all calls of the version share.
//!
//! Locks are taken in this order: sessions, locks. The store blocks, and is used without them.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::pseudo::PseudoTree;
use super::session::store::{ClientStore, OpenedStore, StoreError, random_secret};
use super::session::{
    Backchannel, ClientId, HeldState, SessionLimits, SessionSettings, SessionTable, Uptime,
};
use crate::export::ExportTable;
use crate::locks::{Event, LockLimits, LockSettings, LockTable, RecordedClient};
use crate::telemetry::log::Chain;

/// Lease time: how long a silent client keeps what it holds in any case.
pub const LEASE: Duration = Duration::from_secs(60);

/// How long the state of a silent client is kept after its lease if no other client needs it gone:
/// as long as knfsd keeps it.
const COURTESY: Duration = Duration::from_secs(24 * 60 * 60);

/// A file, whichever export it was reached through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// The device number of its file system.
    pub filesystem: (u32, u32),
    /// The inode number.
    pub fileid: u64,
}

/// The clients, what they hold, and the pseudo file system.
pub struct Server {
    sessions: Mutex<SessionTable>,
    locks: Mutex<LockTable<FileKey>>,
    store: ClientStore,
    pseudo: ArcSwap<PseudoView>,
    started: Timespec,
    minors: (u32, u32),
}

/// The pseudo file system of one table of exports.
pub struct PseudoView {
    table: Arc<ExportTable>,
    /// Its directories.
    pub tree: PseudoTree,
    /// The change attribute of all of them.
    pub change: u64,
}

impl Server {
    /// Opens the records of clients in a state folder, and serves these minor versions. Blocks.
    ///
    /// # Errors
    /// The state folder cannot be used.
    pub fn open(state: &std::path::Path, minors: (u32, u32)) -> Result<Self, StoreError> {
        let OpenedStore { store, may_reclaim } = ClientStore::open(state)?;
        let sessions = SessionTable::new(SessionSettings {
            epoch: store.epoch(),
            secret: random_secret()?,
            lease: LEASE,
            backchannel: Backchannel::Unavailable,
            limits: SessionLimits::default(),
        });
        let recorded = may_reclaim.iter().map(|record| RecordedClient {
            name: Arc::clone(&record.owner),
            principal: record.principal.to_bytes().as_slice().into(),
            verifier: record.verifier,
        });
        let settings = LockSettings {
            epoch: store.epoch(),
            lease: LEASE,
            courtesy: COURTESY,
            grace: LEASE,
            limits: LockLimits::default(),
        };
        let locks = LockTable::new(settings, recorded, Uptime::ZERO);
        Ok(Self {
            sessions: Mutex::new(sessions),
            locks: Mutex::new(locks),
            store,
            pseudo: ArcSwap::from_pointee(PseudoView::new(Arc::default(), 0)),
            started: clock_gettime(ClockId::Boottime),
            minors,
        })
    }

    /// Whether a minor version is served.
    pub fn serves_minor(&self, minor: u32) -> bool {
        (self.minors.0..=self.minors.1).contains(&minor)
    }

    /// Returns the time since the start, by a clock that does not stop while the machine sleeps.
    pub fn now(&self) -> Uptime {
        let now = clock_gettime(ClockId::Boottime) - self.started;
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    /// Locks the clients and sessions.
    pub fn sessions(&self) -> MutexGuard<'_, SessionTable> {
        self.sessions.lock()
    }

    /// Locks what clients hold.
    pub fn locks(&self) -> MutexGuard<'_, LockTable<FileKey>> {
        self.locks.lock()
    }

    /// Returns the records of clients on the disk.
    pub const fn store(&self) -> &ClientStore {
        &self.store
    }

    /// Returns what a client holds.
    pub fn held(&self, client: ClientId) -> HeldState {
        let locks = self.locks();
        if !locks.has_state(client) {
            HeldState::Nothing
        } else if locks.is_expired(client, self.now()) {
            HeldState::Expired
        } else {
            HeldState::Live
        }
    }

    /// Carries out what the lock table demands after a request, before the reply is sent: sessions
    /// and records of clients that are gone, and the end of the grace period. Blocks.
    ///
    /// A record that cannot be removed is reported. Its client could then reclaim after a restart
    /// what another client holds by now.
    pub fn settle(&self) {
        let events = self.locks().take_events();
        for event in events {
            let done = match event {
                Event::Unopened(_) => Ok(()), // no descriptor is kept for it
                Event::Forget(client) => {
                    let record = self.sessions().record(client).cloned();
                    record.map_or(Ok(()), |record| self.store.forget(&record))
                }
                Event::Removed(client) => {
                    let removed = self.sessions().remove_client(client);
                    removed.map_or(Ok(()), |removed| self.store.forget(&removed.record))
                }
                Event::GraceEnded { .. } => self.store.end_grace(),
            };
            if let Err(error) = done {
                tracing::warn!(
                    error = %Chain(&error),
                    "cannot remove the record of a client; check the disk of the state folder"
                );
            }
        }
    }

    /// Returns the pseudo file system for a table of exports. Builds it anew when the table has
    /// changed.
    pub fn pseudo(&self, table: &Arc<ExportTable>) -> Arc<PseudoView> {
        let view = self.pseudo.load_full();
        if Arc::ptr_eq(&view.table, table) {
            return view;
        }
        let view = Arc::new(PseudoView::new(Arc::clone(table), view.change));
        self.pseudo.store(Arc::clone(&view));
        view
    }
}

impl PseudoView {
    /// `before` is the change attribute of the view before this one.
    fn new(table: Arc<ExportTable>, before: u64) -> Self {
        let now = clock_gettime(ClockId::Realtime);
        let now = now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000);
        Self { tree: PseudoTree::new(&table), change: now.max(before + 1), table }
    }
}
