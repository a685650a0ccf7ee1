//! The ledger: what each volume uses at most, on the disk.
//!
//! One JSON file with an entry for each account. While the server runs it says "at most so much",
//! some way above what is used; a thread raises that in good time, so that a change seldom waits
//! for it. At a clean stop it says exactly how much. So a crash leaves an upper bound, and the
//! slack in it is all that is unknown until the files are counted.
//!
//! ```text
//!   used ....... alarm ....... ceiling (on the disk)
//!        changes are free  |  the thread is told  |  changes wait for the thread
//! ```
//!
//! The file is replaced whole ([`durable`]): a crash leaves the old one or the new one, and both
//! are true, because a ceiling counts only once it is on the disk, and goes down in memory before
//! it does so there.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::{Account, Limits, Opening, Pot, Refusal, Usage};
use crate::errno::{Errno, Result};
use crate::sys::durable;

/// The format of the file.
const FORMAT: u32 = 1;

/// Largest file that is read: some 100,000 volumes take a sixth of it.
const FILE_MAX: u64 = 64 << 20;

/// How far the ceiling is above what is used, at least: a changed limit or a burst of all threads
/// fits in between.
const BYTES_SLACK: i64 = 64 << 20;

/// The same for inodes.
const INODES_SLACK: i64 = 4096;

/// The slack as a share of what is used: large volumes grow in large steps.
const SLACK_SHARE: i64 = 32;

/// The accounts, and the file.
pub struct Ledger {
    books: Arc<Books>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Books {
    path: PathBuf,
    /// Whether the file may be written.
    may: Box<May>,
    accounts: Mutex<HashMap<String, Arc<Account>>>,
    /// What the file said at the start, of accounts that were not asked for yet.
    known: Mutex<HashMap<String, Entry>>,
    keeper: Arc<Keeper>,
}

/// Says why the file may not be written, if so: it may be another server's by now.
type May = dyn Fn() -> io::Result<()> + Send + Sync;

/// Who is told when the file has to be written, and whom those ask who wait for it.
#[derive(Default)]
pub(super) struct Keeper {
    state: Mutex<Saves>,
    changed: Condvar,
    counts: Condvar,
}

#[derive(Default)]
struct Saves {
    wanted: bool,
    /// Saves that have begun, and whether the last of them is still running.
    begun: u64,
    running: bool,
    /// The last one, if it failed.
    failed: Option<Errno>,
    closed: bool,
    counts_wanted: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    format: u32,
    volumes: HashMap<String, Entry>,
}

/// What a volume uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    inodes: u64,
    /// Whether it is that much, or at most.
    exact: bool,
}

impl Ledger {
    /// Reads the file. One that cannot be read is set aside, and nothing is known then. `may` is
    /// asked each time before it is written.
    pub fn open(path: PathBuf, may: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        let known = match durable::read(&path, FILE_MAX) {
            Ok(text) => read(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashMap::new()),
            Err(error) => Err(error),
        };
        let known = known.inspect_err(|error| set_aside(&path, error)).unwrap_or_default();
        let (accounts, keeper) = (Mutex::default(), Arc::default());
        let may = Box::new(may);
        let books = Books { path, may, accounts, known: Mutex::new(known), keeper };
        Self { books: Arc::new(books), thread: Mutex::default() }
    }

    /// The account of what is called `id`, with what the file said of it, if it did.
    pub fn account(&self, id: &str, limits: Limits) -> Arc<Account> {
        let known = self.books.known.lock().remove(id);
        self.enter(id, limits, known.map_or(Opening::Unknown, Entry::opening))
    }

    /// The account of something new, of which it is known what it uses.
    pub fn fresh(&self, id: &str, limits: Limits, usage: Usage) -> Arc<Account> {
        self.enter(id, limits, Opening::Exact(usage))
    }

    fn enter(&self, id: &str, limits: Limits, opening: Opening) -> Arc<Account> {
        let account = Arc::new(Account::new(limits, opening, Arc::clone(&self.books.keeper)));
        self.books.accounts.lock().insert(id.to_owned(), Arc::clone(&account));
        account
    }

    /// Forgets an account.
    pub fn forget(&self, id: &str) {
        self.books.accounts.lock().remove(id);
    }

    /// Writes the file, and keeps it true from now on. To be called when all accounts that exist
    /// have been asked for: what nobody asked for is forgotten.
    ///
    /// Where it cannot be written (the disk is full), there is none for now: without one, it is
    /// known after a crash that nothing is known.
    ///
    /// # Errors
    /// It can neither be written nor removed.
    pub fn begin(&self) -> io::Result<()> {
        self.books.known.lock().clear();
        if let Err(error) = self.books.save(false) {
            tracing::error!(%error, "cannot write the ledger; volumes are counted after a crash");
            durable::remove(&self.books.path)?;
            self.books.keeper.nudge();
        }
        let books = Arc::clone(&self.books);
        let thread = thread::Builder::new().name("berth-ledger".into());
        *self.thread.lock() = Some(thread.spawn(move || books.keep())?);
        Ok(())
    }

    /// Waits until some account wants to be counted ([`Account::wants_count`]), or `limit` is over.
    pub fn wait_for_wish(&self, limit: std::time::Duration) {
        let keeper = &self.books.keeper;
        let mut state = keeper.state.lock();
        let waits = |state: &mut Saves| !state.counts_wanted && !state.closed;
        keeper.counts.wait_while_for(&mut state, waits, limit);
        state.counts_wanted = false;
    }

    /// Ends a wait for wishes.
    pub fn wake(&self) {
        self.books.keeper.want_count();
    }

    /// Ends the thread, if it runs.
    fn stop(&self) -> bool {
        let Some(thread) = self.thread.lock().take() else { return false };
        self.books.keeper.close();
        let _ = thread.join();
        true
    }

    /// Stops the thread and writes what is exactly used. To be called when nothing changes any
    /// more.
    ///
    /// # Errors
    /// It cannot be written; the file says then that everything uses at most so much.
    pub fn close(&self) -> io::Result<()> {
        if self.stop() { self.books.save(true) } else { Ok(()) }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Books {
    /// What the thread does.
    fn keep(&self) {
        while self.keeper.begin() {
            let saved = self.save(false);
            if let Err(error) = &saved {
                tracing::error!(%error, path = %self.path.display(), "cannot write the ledger");
            }
            self.keeper.end(saved.map_err(Errno::from).err());
        }
    }

    fn save(&self, at_the_end: bool) -> io::Result<()> {
        let accounts: Vec<_> =
            self.accounts.lock().iter().map(|(id, a)| (id.clone(), Arc::clone(a))).collect();
        let mut raised = Vec::new();
        let volumes = accounts.iter().map(|(id, account)| {
            let ceilings = (account.bytes.next(BYTES_SLACK), account.inodes.next(INODES_SLACK));
            raised.push((account, ceilings));
            (id.clone(), Entry::of(account, ceilings, at_the_end))
        });
        let content = Content { format: FORMAT, volumes: volumes.collect() };
        let json = serde_json::to_vec(&content)?;
        (self.may)()?;
        durable::replace(&self.path, &json)?;
        for (account, (bytes, inodes)) in raised {
            account.bytes.raise(bytes, BYTES_SLACK);
            account.inodes.raise(inodes, INODES_SLACK);
        }
        Ok(())
    }
}

impl Keeper {
    /// Has the file written soon.
    pub(super) fn nudge(&self) {
        let mut state = self.state.lock();
        if !state.wanted {
            state.wanted = true;
            self.changed.notify_all();
        }
    }

    /// Waits until a save that begins now has ended.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn wait_for_a_save(&self) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        state.wanted = true;
        self.changed.notify_all();
        let mine = state.begun + 1;
        while (state.begun < mine || state.begun == mine && state.running) && !state.closed {
            self.changed.wait(&mut state);
        }
        match state.failed {
            Some(errno) => Err(Refusal::Errno(errno)),
            None if state.closed => Err(Refusal::Closed),
            None => Ok(()),
        }
    }

    /// Somebody waits for a count.
    pub(super) fn want_count(&self) {
        self.state.lock().counts_wanted = true;
        self.counts.notify_all();
    }

    /// Waits until a save is wanted, and begins it. `false`: it is over.
    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        while !state.wanted && !state.closed {
            self.changed.wait(&mut state);
        }
        state.wanted = false;
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

impl Entry {
    fn of(account: &Account, ceilings: (i64, i64), at_the_end: bool) -> Self {
        if at_the_end && account.is_exact() {
            let Usage { bytes, inodes } = account.usage();
            return Self { bytes, inodes, exact: true };
        }
        let most = |ceiling: i64| ceiling.max(0).unsigned_abs();
        Self { bytes: most(ceilings.0), inodes: most(ceilings.1), exact: false }
    }

    fn opening(self) -> Opening {
        let usage = Usage { bytes: self.bytes, inodes: self.inodes };
        if self.exact { Opening::Exact(usage) } else { Opening::AtMost(usage) }
    }
}

impl Pot {
    /// The ceiling that should be on the disk, of which there is one already.
    fn next(&self, least: i64) -> i64 {
        let taken = self.taken.load(Ordering::Relaxed).max(0);
        let wish = self.wish.swap(0, Ordering::Relaxed);
        let wanted = taken.saturating_add(slack(taken, least)).saturating_add(wish);
        let now = self.ceiling.load(Ordering::Relaxed);
        // It goes down only by much, so that no change that is going on can be above it.
        if now > wanted && now < wanted.saturating_add(4 * slack(taken, least)) {
            return now;
        }
        self.ceiling.fetch_min(wanted, Ordering::SeqCst);
        wanted
    }

    /// The ceiling is on the disk.
    fn raise(&self, ceiling: i64, least: i64) {
        self.ceiling.store(ceiling, Ordering::SeqCst);
        let alarm = ceiling - slack(self.taken.load(Ordering::Relaxed), least) / 2;
        self.alarm.store(alarm, Ordering::Relaxed);
    }
}

fn slack(taken: i64, least: i64) -> i64 {
    (taken / SLACK_SHARE).max(least)
}

fn read(text: &[u8]) -> serde_json::Result<HashMap<String, Entry>> {
    let content: Content = serde_json::from_slice(text)?;
    if content.format != FORMAT {
        return Err(serde::de::Error::custom("another format"));
    }
    Ok(content.volumes)
}

/// Keeps a file that cannot be read, for whoever wants to look at it.
fn set_aside(path: &Path, error: &io::Error) {
    let aside = durable::set_aside(path);
    let aside = aside.map_or_else(|error| error.to_string(), |aside| aside.display().to_string());
    tracing::warn!(path = %path.display(), aside, %error,
        "the ledger is damaged; all volumes are counted anew");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::{Change, Rule};
    use crate::sched::Patience;
    use std::fs;

    const LIMITS: Limits = Limits { bytes: 1 << 40, inodes: None, rule: Rule::Enforce };

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
        let hold = account.hold(bytes, 0, Patience::Blocking).unwrap();
        hold.settle(1, Change::By(bytes.try_into().unwrap()));
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
        let first = account.hold(1 << 30, 0, Patience::None);
        assert_eq!(first.err(), Some(Refusal::WouldBlock));
        assert!(account.hold(1 << 25, 0, Patience::Blocking).is_ok());
    }

    #[test]
    fn a_ledger_that_cannot_be_written_holds_changes_up() {
        let dir = folder();
        let (_ledger, account) = opened(dir.path());
        fs::create_dir(dir.path().join("ledger.new")).unwrap();
        assert!(account.hold(1 << 30, 0, Patience::Blocking).is_err());
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
        assert_eq!(other.hold(1, 0, Patience::Blocking).err(), Some(Refusal::NotCounted));
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
