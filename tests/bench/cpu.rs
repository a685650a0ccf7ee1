//! How much CPU time a server has used, its threads together.
//!
//! `/proc/PID/task/*/schedstat` counts nanoseconds, but forgets a thread when it ends.
//! `/proc/PID/stat` forgets nothing, but counts in ticks of 10 ms. So the first is believed unless
//! the second knows of more. Both leave out what the kernel's own threads do on a server's behalf,
//! such as writing back pages.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

const TICK: Duration = Duration::from_millis(10);

pub struct Used {
    threads: HashMap<String, u64>,
    process: Duration,
}

impl Used {
    pub fn until_now(pid: u32) -> Result<Self> {
        Self::read(pid).with_context(|| format!("cannot read the CPU time of process {pid}"))
    }

    fn read(pid: u32) -> Result<Self> {
        let mut threads = HashMap::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?;
            // A thread that ends just now has no file any more: the process' own count has it.
            if let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) {
                let on_cpu = text.split(' ').next().context("schedstat is empty")?.parse()?;
                threads.insert(thread.file_name().to_string_lossy().into_owned(), on_cpu);
            }
        }
        let process = process(&fs::read_to_string(format!("/proc/{pid}/stat"))?)?;
        Ok(Self { threads, process })
    }

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

/// utime and stime, the 14th and 15th field; the second, the name, may contain blanks.
fn process(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = 0;
    for _ in 0..2 {
        ticks += fields.next().context("stat is too short")?.parse::<u32>()?;
    }
    Ok(TICK * ticks)
}
