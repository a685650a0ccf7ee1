//! Flushing: those who wait for the same file at the same time share one flush.
//!
//! ```text
//!   caller A: starts flush 1 ------------------- done
//!   caller B:        waits for flush 2            starts flush 2 -------- done
//!   caller C:           waits for flush 2         .......................  done
//! ```
//!
//! A flush covers what was written before it began, so that whoever comes while one is running
//! needs the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::errno::{Errno, Result};

/// How much of a file must be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// The content, and what is needed to read it again (fdatasync(2)).
    Data,
    /// All of it (fsync(2)).
    All,
}

/// The flushes of one file.
#[derive(Debug, Default)]
pub(super) struct Flush {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Flushes that have begun, and whether the last of them is still running.
    begun: u64,
    running: bool,
    /// What the next one has to cover.
    wanted: Option<Extent>,
    /// The last flush that failed, and how.
    failed: Option<(u64, Errno)>,
}

impl Flush {
    /// Flushes through `flush`, or lets another caller do it. Blocks.
    ///
    /// # Errors
    /// What `flush` answered to whoever called it.
    pub(super) fn run(&self, extent: Extent, flush: impl Fn(Extent) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.begun + 1;
        state.wanted = state.wanted.max(Some(extent));
        while state.running && state.begun < mine {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.begun < mine {
            state.begun = mine;
            state.running = true;
            let extent = state.wanted.take().unwrap_or(extent);
            drop(state);
            let result = flush(extent);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.running = false;
            if let Err(errno) = result {
                state.failed = Some((mine, errno));
            }
            self.ended.notify_all();
            return result;
        }
        while state.running && state.begun == mine {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A later failure counts, too: one that was overwritten by it must not look like success.
        match state.failed {
            Some((failed, errno)) if failed >= mine => Err(errno),
            _ => Ok(()),
        }
    }
}

/// Changes whenever data that was acknowledged without a flush may be lost: at every start, and
/// after every flush that failed. Clients compare it and send again (RFC 1813 §3.3.7).
#[derive(Debug)]
pub(super) struct Verifier(AtomicU64);

impl Verifier {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(AtomicU64::new(random()?)))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn change(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Eight random bytes.
fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::thread;

    /// Starts `callers` threads while a flush is running; answers how many flushes ran in all.
    fn flushes(callers: usize, result: Result<()>) -> (usize, Vec<Result<()>>) {
        let (flush, count) = (Flush::default(), AtomicUsize::new(0));
        let (started, begun) = mpsc::channel();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let results = thread::scope(|scope| {
            let first = scope.spawn(|| {
                flush.run(Extent::Data, |_| {
                    count.fetch_add(1, Ordering::SeqCst);
                    started.send(()).unwrap();
                    gate.lock().unwrap().recv().unwrap();
                    Ok(())
                })
            });
            begun.recv().unwrap();
            let others: Vec<_> = (0..callers)
                .map(|_| {
                    scope.spawn(|| {
                        flush.run(Extent::All, |extent| {
                            assert_eq!(extent, Extent::All);
                            count.fetch_add(1, Ordering::SeqCst);
                            result
                        })
                    })
                })
                .collect();
            while flush.state.lock().unwrap().wanted != (callers > 0).then_some(Extent::All) {
                thread::yield_now();
            }
            release.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Ok(()));
            others.into_iter().map(|other| other.join().unwrap()).collect()
        });
        (count.into_inner(), results)
    }

    #[test]
    fn whoever_comes_during_a_flush_needs_another() {
        assert_eq!(flushes(1, Ok(())), (2, vec![Ok(())]));
    }

    #[test]
    fn those_who_wait_share_one() {
        let (count, results) = flushes(12, Ok(()));
        assert!(count < 13, "{count} flushes for 13 callers");
        assert_eq!(results, vec![Ok(()); 12]);
    }

    #[test]
    fn a_failure_reaches_all_who_shared_it() {
        let (_, results) = flushes(12, Err(Errno::IO));
        assert_eq!(results, vec![Err(Errno::IO); 12]);
    }
}
