//! The CPU time of a server process, all threads together.
//!
//! `/proc/PID/task/*/schedstat` counts nanoseconds, but loses a thread when it exits.
//! `/proc/PID/stat` loses none, but counts ticks of 10 ms. The first is used unless the second is
//! larger. Neither includes the work of kernel threads for the server, such as write-back.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

const TICK: Duration = Duration::from_millis(10);

/// The CPU time of a process at one moment.
pub struct CpuTime {
    threads: HashMap<String, u64>,
    process: Duration,
}

impl CpuTime {
    /// Reads the CPU time that a process has used until now.
    pub fn of(pid: u32) -> Result<Self> {
        Self::read(pid).with_context(|| format!("cannot read the CPU time of process {pid}"))
    }

    fn read(pid: u32) -> Result<Self> {
        let mut threads = HashMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?;
            // A thread that has just exited has no file; the count of the process includes it.
            if let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) {
                let on_cpu = text.split(' ').next().context("schedstat is empty")?.parse()?;
                threads.insert(thread.file_name().to_string_lossy().into_owned(), on_cpu);
            }
        }
        let process = process(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        Ok(Self { threads, process })
    }

    /// The CPU time used between two readings.
    pub fn since(&self, before: &Self) -> Duration {
        let grown = self.threads.iter().map(|(thread, now)| {
            let then = before.threads.get(thread).copied().unwrap_or(0);
            now.saturating_sub(then)
        });
        let by_threads = Duration::from_nanos(grown.sum());
        // User and system time are each rounded down to a tick.
        let by_process = self.process.saturating_sub(before.process);
        by_threads.max(by_process.saturating_sub(2 * TICK))
    }
}

/// Returns utime + stime, the 14th and 15th field. The 2nd field, the name, may contain spaces.
fn process(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = 0;
    for _ in 0..2 {
        ticks += fields.next().context("stat is too short")?.parse::<u32>()?;
    }
    Ok(TICK * ticks)
}
