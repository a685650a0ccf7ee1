//! Processors: where a socket's packets arrive, and where and how long a thread runs.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::net::sockopt::socket_incoming_cpu;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::errno::{Errno, Result};

/// Returns the processor on which the kernel received the last packet of `socket` (socket(7),
/// SO_INCOMING_CPU).
///
/// # Errors
/// The kernel does not know.
pub fn of_packets(socket: impl AsFd) -> Result<usize> {
    usize::try_from(socket_incoming_cpu(socket)?).map_err(|_| Errno::OVERFLOW)
}

/// The calling thread, pinned to one of the processors on which it may run.
pub struct Kept {
    before: CpuSet,
    on: usize,
}

impl Kept {
    /// Pins the calling thread to a processor.
    ///
    /// # Errors
    /// `EINVAL` if it may not run there, or has no other choice.
    pub fn on(processor: usize) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        if processor >= CpuSet::MAX_CPU || !before.is_set(processor) || before.count() < 2 {
            return Err(Errno::INVAL);
        }
        sched_setaffinity(None, &only(processor))?;
        Ok(Self { before, on: processor })
    }

    /// The processor.
    pub const fn processor(&self) -> usize {
        self.on
    }

    /// Restores the former affinity of the calling thread, which must be the pinned one, unless the
    /// affinity was changed meanwhile.
    pub fn release(self) {
        if sched_getaffinity(None).is_ok_and(|now| now == only(self.on)) {
            // The former affinity may be forbidden by now. Then the thread stays where it is.
            let _ = sched_setaffinity(None, &self.before);
        }
    }
}

fn only(processor: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(processor);
    set
}

/// The times of one thread, as the kernel counts them (Documentation/scheduler/sched-stats.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Nanoseconds on a processor.
    pub running: u64,
    /// Nanoseconds for which it was runnable, but other threads ran.
    pub waiting: u64,
    /// The number of times it was put on a processor.
    pub times: u64,
}

/// The file with the times of a thread.
pub struct SchedStat(File);

impl SchedStat {
    /// Opens the file of the calling thread.
    ///
    /// # Errors
    /// The kernel does not count.
    pub fn of_this_thread() -> io::Result<Self> {
        File::open("/proc/thread-self/schedstat").map(Self)
    }

    /// Returns the times until now.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn spent(&self) -> io::Result<Spent> {
        let mut text = [0; 64]; // three numbers of at most 20 digits
        let len = self.0.read_at(&mut text, 0)?;
        let numbers = std::str::from_utf8(&text[..len]).unwrap_or_default();
        let mut numbers = numbers.split_whitespace().map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten().ok_or(io::ErrorKind::InvalidData);
        Ok(Spent { running: next()?, waiting: next()?, times: next()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::{Duration, Instant};

    /// Where the calling thread may run.
    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect()
    }

    #[test]
    fn a_thread_is_kept_and_let_go() {
        let before = allowed();
        for processor in &before {
            let Ok(kept) = Kept::on(*processor) else {
                assert_eq!(before.len(), 1, "refused");
                continue;
            };
            assert_eq!((kept.processor(), allowed()), (*processor, vec![*processor]));
            kept.release();
            assert_eq!(allowed(), before);
        }
        assert_eq!(Kept::on(CpuSet::MAX_CPU).err(), Some(Errno::INVAL));
    }

    #[test]
    fn what_somebody_else_decided_meanwhile_stands() {
        let all = allowed();
        let [first, second, ..] = all[..] else { return }; // there is nothing to decide
        let kept = Kept::on(first).unwrap();
        sched_setaffinity(None, &only(second)).unwrap();
        kept.release();
        assert_eq!(allowed(), [second]);
    }

    #[test]
    fn packets_on_the_loopback_come_to_the_sender() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        for processor in allowed() {
            let kept = Kept::on(processor);
            io::Write::write_all(&mut sender, b"a").unwrap();
            io::Read::read_exact(&mut receiver, &mut [0]).unwrap();
            assert_eq!(of_packets(&receiver), Ok(processor));
            kept.map(Kept::release).ok();
        }
    }

    #[test]
    fn work_and_sleep_are_counted() {
        let account = SchedStat::of_this_thread().unwrap();
        let (before, begin) = (account.spent().unwrap(), Instant::now());
        thread::sleep(Duration::from_millis(20));
        let slept = begin.elapsed();
        while begin.elapsed() < slept + Duration::from_millis(20) {}
        let (after, all) = (account.spent().unwrap(), begin.elapsed());
        assert!(after.times > before.times, "it slept");
        let spent = after.running + after.waiting - before.running - before.waiting;
        let spent = Duration::from_nanos(spent);
        // The time of the present turn is brought up to date at every tick only.
        let least = Duration::from_millis(10);
        assert!(least < spent && spent < all - least, "{spent:?} of {all:?}");
    }
}
