//! The ledger: an upper bound of what each volume uses, on the disk.
//!
//! One JSON file with an entry for each account. While the server runs, an entry is a ceiling, some
//! way above what is used. A thread raises the ceilings in advance, so a change seldom waits for
//! the disk. At a clean stop the entries are exact. After a crash, only the slack in them is
//! unknown until the files are counted.
//!
//! ```text
//!   used ....... alarm ............... ceiling (on the disk)
//!        nothing waits | the thread is woken |  changes wait for the thread
//! ```
//!
//! The file is replaced atomically ([`durable`]): a crash leaves the old one or the new one, and
//! both are true, because a ceiling counts only once it is on the disk, and is lowered in memory
//! before it is on the disk.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{Account, Delta, HoldError, InitialUsage, QuotaLimits, Usage};
use crate::errno::{Errno, Result};
use crate::sys::durable;

/// The format of the file.
const FORMAT: u32 = 1;

/// Largest file that is read, in bytes: 100,000 volumes take about a sixth of it.
const FILE_MAX: u64 = 64 << 20;

/// Least distance of the ceiling from what is taken: a burst of all threads fits in between.
const BYTES_SLACK: i64 = 64 << 20;

/// The same for inodes.
const INODES_SLACK: i64 = 4096;

/// The accounts, and their file.
pub struct Ledger {
    shared: Arc<LedgerFile>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The file, and the accounts that it has entries for.
struct LedgerFile {
    path: PathBuf,
    check: Box<WriteCheck>,
    accounts: Mutex<HashMap<String, Arc<Account>>>,
    /// Entries of the file at the start whose accounts have not been opened.
    unclaimed: Mutex<HashMap<String, LedgerEntry>>,
    requests: Arc<SaveRequests>,
}

/// Returns an error if the file must not be written: it may belong to another server by now.
type WriteCheck = dyn Fn() -> io::Result<()> + Send + Sync;

/// Requests to write the file, and to count a volume; callers can wait for a write.
#[derive(Default)]
pub(super) struct SaveRequests {
    state: Mutex<SaveState>,
    changed: Condvar,
    counts: Condvar,
}

#[derive(Default)]
struct SaveState {
    requested: bool,
    /// Number of saves that have begun.
    begun: u64,
    /// Whether the last of them is still running.
    running: bool,
    /// The error of the last one that ended.
    failed: Option<Errno>,
    closed: bool,
    count_requested: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LedgerContent {
    format: u32,
    volumes: HashMap<String, LedgerEntry>,
}

/// The usage of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LedgerEntry {
    bytes: u64,
    inodes: u64,
    /// Whether the numbers are exact, or upper bounds.
    exact: bool,
}

impl Ledger {
    /// Reads the file. One that cannot be read is set aside, and no usage is known then. `check`
    /// runs before each write.
    pub fn open(path: PathBuf, check: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        let entries = match durable::read(&path, FILE_MAX) {
            Ok(text) => read(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashMap::new()),
            Err(error) => Err(error),
        };
        let entries = entries.inspect_err(|error| set_aside(&path, error)).unwrap_or_default();
        let (accounts, requests) = (Mutex::default(), Arc::default());
        let (check, unclaimed) = (Box::new(check), Mutex::new(entries));
        let shared = LedgerFile { path, check, accounts, unclaimed, requests };
        Self { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Opens the account `id` with the usage that the file has for it.
    pub fn account(&self, id: &str, limits: QuotaLimits) -> Arc<Account> {
        let entry = self.shared.unclaimed.lock().remove(id);
        self.enter(id, limits, entry.map_or(InitialUsage::Unknown, LedgerEntry::initial))
    }

    /// Opens the account of something new, whose usage is known.
    pub fn fresh(&self, id: &str, limits: QuotaLimits, usage: Usage) -> Arc<Account> {
        self.enter(id, limits, InitialUsage::Exact(usage))
    }

    fn enter(&self, id: &str, limits: QuotaLimits, initial: InitialUsage) -> Arc<Account> {
        let account = Arc::new(Account::new(limits, initial, Arc::clone(&self.shared.requests)));
        self.shared.accounts.lock().insert(id.to_owned(), Arc::clone(&account));
        account
    }

    /// Forgets an account.
    pub fn forget(&self, id: &str) {
        self.shared.accounts.lock().remove(id);
    }

    /// Writes the file, and starts the thread that keeps it true. To be called when all existing
    /// accounts are open: entries of others are dropped.
    ///
    /// If the file cannot be written because the disk is full, it is removed for now: after a crash
    /// without a file, no usage is known.
    ///
    /// # Errors
    /// The file can neither be written nor removed.
    pub fn begin(&self) -> io::Result<()> {
        self.shared.unclaimed.lock().clear();
        if let Err(error) = self.shared.save(false) {
            tracing::error!(%error, "cannot write the ledger; volumes are counted after a crash");
            durable::remove(&self.shared.path)?;
            self.shared.requests.request();
        }
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("berth-ledger".into());
        *self.thread.lock() = Some(thread.spawn(move || shared.run())?);
        Ok(())
    }

    /// Waits until a count is requested, for at most `limit`: by an account
    /// ([`Account::wants_count`]) or by [`Ledger::wake`].
    pub fn wait_for_count_request(&self, limit: std::time::Duration) {
        let requests = &self.shared.requests;
        let mut state = requests.state.lock();
        let waits = |state: &mut SaveState| !state.count_requested && !state.closed;
        requests.counts.wait_while_for(&mut state, waits, limit);
        state.count_requested = false;
    }

    /// Ends [`Ledger::wait_for_count_request`].
    pub fn wake(&self) {
        self.shared.requests.request_count();
    }

    /// Ends the thread. Returns whether it ran.
    fn stop(&self) -> bool {
        let Some(thread) = self.thread.lock().take() else { return false };
        self.shared.requests.close();
        let _ = thread.join();
        true
    }

    /// Ends the thread, and writes the exact usage. To be called when nothing changes any more.
    ///
    /// # Errors
    /// The file cannot be written; its entries remain upper bounds.
    pub fn close(&self) -> io::Result<()> {
        if self.stop() { self.shared.save(true) } else { Ok(()) }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LedgerFile {
    /// The body of the thread.
    fn run(&self) {
        while self.requests.begin() {
            let saved = self.save(false);
            if let Err(error) = &saved {
                tracing::error!(%error, path = %self.path.display(), "cannot write the ledger");
            }
            self.requests.end(saved.map_err(Errno::from).err());
        }
    }

    fn save(&self, at_the_end: bool) -> io::Result<()> {
        let accounts: Vec<_> =
            self.accounts.lock().iter().map(|(id, a)| (id.clone(), Arc::clone(a))).collect();
        let mut raised = Vec::new();
        let volumes = accounts.iter().map(|(id, account)| {
            let ceiling = Delta {
                bytes: account.bytes.next_ceiling(BYTES_SLACK),
                inodes: account.inodes.next_ceiling(INODES_SLACK),
            };
            raised.push((account, ceiling));
            (id.clone(), LedgerEntry::of(account, ceiling, at_the_end))
        });
        let content = LedgerContent { format: FORMAT, volumes: volumes.collect() };
        let json = serde_json::to_vec(&content)?;
        (self.check)()?;
        durable::replace(&self.path, &json)?;
        for (account, ceiling) in raised {
            account.bytes.raise_ceiling(ceiling.bytes, BYTES_SLACK);
            account.inodes.raise_ceiling(ceiling.inodes, INODES_SLACK);
        }
        Ok(())
    }
}

impl SaveRequests {
    /// Requests a save. Does not wait for it.
    pub(super) fn request(&self) {
        let mut state = self.state.lock();
        if !state.requested {
            state.requested = true;
            self.changed.notify_all();
        }
    }

    /// Waits until a save that begins after this call has ended.
    ///
    /// # Errors
    /// The save failed.
    pub(super) fn wait_for_save(&self) -> Result<(), HoldError> {
        let mut state = self.state.lock();
        state.requested = true;
        self.changed.notify_all();
        let mine = state.begun + 1;
        while (state.begun < mine || state.begun == mine && state.running) && !state.closed {
            self.changed.wait(&mut state);
        }
        match state.failed {
            Some(errno) => Err(HoldError::Errno(errno)),
            None if state.closed => Err(HoldError::Closed),
            None => Ok(()),
        }
    }

    /// Requests a count.
    pub(super) fn request_count(&self) {
        self.state.lock().count_requested = true;
        self.counts.notify_all();
    }

    /// Waits until a save is requested, and begins it. Returns `false` once the ledger is closed.
    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        while !state.requested && !state.closed {
            self.changed.wait(&mut state);
        }
        state.requested = false;
        state.begun += 1;
        state.running = !state.closed;
        state.running
    }

    fn end(&self, failed: Option<Errno>) {
        let mut state = self.state.lock();
        state.running = false;
        state.failed = failed;
        self.changed.notify_all();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
        self.counts.notify_all();
    }
}

impl LedgerEntry {
    fn of(account: &Account, ceiling: Delta, at_the_end: bool) -> Self {
        if at_the_end && account.is_exact() {
            let Usage { bytes, inodes } = account.usage();
            return Self { bytes, inodes, exact: true };
        }
        let most = |ceiling: i64| ceiling.max(0).unsigned_abs();
        Self { bytes: most(ceiling.bytes), inodes: most(ceiling.inodes), exact: false }
    }

    fn initial(self) -> InitialUsage {
        let usage = Usage { bytes: self.bytes, inodes: self.inodes };
        if self.exact { InitialUsage::Exact(usage) } else { InitialUsage::AtMost(usage) }
    }
}

fn read(text: &[u8]) -> serde_json::Result<HashMap<String, LedgerEntry>> {
    let content: LedgerContent = serde_json::from_slice(text)?;
    if content.format != FORMAT {
        return Err(serde::de::Error::custom("another format"));
    }
    Ok(content.volumes)
}

/// Renames a file that cannot be read, to keep it for an inspection.
fn set_aside(path: &Path, error: &io::Error) {
    let aside = durable::set_aside(path);
    let aside = aside.map_or_else(|error| error.to_string(), |aside| aside.display().to_string());
    tracing::warn!(path = %path.display(), aside, %error,
        "the ledger is damaged; all volumes are counted anew");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::tests::room;
    use crate::quota::{Change, LimitRule};
    use crate::sched::Patience;
    use std::fs;

    const LIMITS: QuotaLimits =
        QuotaLimits { bytes: 1 << 40, inodes: None, rule: LimitRule::Enforce };

    fn opened(dir: &Path) -> (Ledger, Arc<Account>) {
        let ledger = Ledger::open(dir.join("ledger"), || Ok(()));
        let account = ledger.account("a", LIMITS);
        ledger.begin().unwrap();
        (ledger, account)
    }

    /// A folder with the ledger of an empty account "a".
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path().join("ledger"), || Ok(()));
        ledger.fresh("a", LIMITS, Usage { bytes: 0, inodes: 1 });
        ledger.begin().unwrap();
        ledger.close().unwrap();
        dir
    }

    fn grow(account: &Account, bytes: u64) {
        let hold = account.hold(room(bytes, 0), Patience::Blocking).unwrap();
        hold.settle(1, Change::Resized(bytes.try_into().unwrap()));
    }

    #[test]
    fn a_clean_stop_keeps_what_is_used() {
        let dir = folder();
        let (ledger, account) = opened(dir.path());
        grow(&account, 12345);
        ledger.close().unwrap();
        let (_ledger, account) = opened(dir.path());
        assert!(account.is_exact());
        assert_eq!(account.usage(), Usage { bytes: 12345, inodes: 1 });
    }

    #[test]
    fn a_crash_leaves_an_upper_bound() {
        let dir = folder();
        let (ledger, account) = opened(dir.path());
        // In steps, each of which goes beyond the ceiling and so waits for the disk.
        for _ in 0..20 {
            grow(&account, 100 << 20);
        }
        let used = account.usage().bytes;
        std::mem::forget(ledger); // no clean stop
        let (_ledger, account) = opened(dir.path());
        assert!(!account.is_exact());
        let bound = account.usage().bytes;
        assert!(bound >= used && bound <= used + (200 << 20), "{bound} for {used}");
    }

    #[test]
    fn whoever_may_not_wait_is_put_off_until_the_file_is_written() {
        let dir = folder();
        let (_ledger, account) = opened(dir.path());
        let first = account.hold(room(1 << 30, 0), Patience::None);
        assert_eq!(first.err(), Some(HoldError::WouldBlock));
        assert!(account.hold(room(1 << 25, 0), Patience::Blocking).is_ok());
    }

    #[test]
    fn a_ledger_that_cannot_be_written_holds_changes_up() {
        let dir = folder();
        let (_ledger, account) = opened(dir.path());
        fs::create_dir(dir.path().join("ledger.new")).unwrap();
        assert!(account.hold(room(1 << 30, 0), Patience::Blocking).is_err());
        fs::remove_dir(dir.path().join("ledger.new")).unwrap();
        grow(&account, 1 << 20);
    }

    #[test]
    fn without_an_entry_nothing_is_known() {
        let dir = folder();
        let ledger = Ledger::open(dir.path().join("ledger"), || Ok(()));
        let other = ledger.account("b", LIMITS);
        ledger.begin().unwrap();
        assert!(!other.is_exact());
        assert_eq!(other.hold(room(1, 0), Patience::Blocking).err(), Some(HoldError::NotCounted));
        ledger.close().unwrap();
        let (_, account) = opened(dir.path());
        assert!(!account.is_exact(), "the entry of an account that nobody asked for was kept");
    }

    #[test]
    fn a_ledger_that_is_no_file_is_set_aside() {
        let dir = folder();
        let path = dir.path().join("ledger");
        for n in 0..2 {
            fs::remove_file(&path).unwrap();
            fs::create_dir_all(path.join("full")).unwrap();
            let (_ledger, account) = opened(dir.path());
            assert!(!account.is_exact() && path.is_file(), "round {n}");
        }
    }

    #[test]
    fn a_damaged_ledger_is_set_aside_and_nothing_is_known() {
        let dir = folder();
        let path = dir.path().join("ledger");
        for damaged in [b"{\"format\":1,\"vol".as_slice(), b"{\"format\":2,\"volumes\":{}}", b""] {
            fs::write(&path, damaged).unwrap();
            let (_ledger, account) = opened(dir.path());
            assert!(!account.is_exact());
            assert_eq!(fs::read(dir.path().join("ledger.damaged")).unwrap(), damaged);
        }
    }
}
