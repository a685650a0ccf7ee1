//! A load generator for any NFSv3 server, with many calls outstanding on one or more connections.
//!
//! `cargo bench --bench load -- --server 127.0.0.1:2049 --export /srv/data --pid 1234`
//!
//! It creates its own files through the server (`tree`), runs one workload after the other
//! (`workload` over `client`), checks every reply, and removes its files. A wrong reply ends the
//! run with exit code 1. It has its own encoding of the protocol (`wire`, `outbox`, `inbox`,
//! `nfs`), so a mistake in the server's encoding is not repeated here. Each connection has one
//! thread, which uses a few microseconds per call, because the load usually shares the machine with
//! the server.
//!
//! CPU time is that of the server process (`cpu`), per call or per directory entry.

mod client;
mod cpu;
mod image;
mod inbox;
mod listing;
mod nfs;
mod outbox;
mod report;
mod tree;
mod wire;
mod workload;

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rustix::process::{getgid, getuid};
use serde_json::json;

use crate::client::{Client, Outcome, SLOTS_MAX, Work, drive_all};
use crate::cpu::CpuTime;
use crate::listing::Listings;
use crate::outbox::Caller;
use crate::report::Line;
use crate::tree::{Site, Tree};
use crate::workload::{Kind, Op, Steps, Workload};

/// Number of blocks that are read back after writing.
const READ_BACK: u64 = 64;

/// Loads an NFSv3 server over one or more connections, and measures rates, latencies and the
/// server's CPU time.
///
/// Works in a directory of its own below the export and removes it at the end. Every reply is
/// checked; a wrong one ends the run with an error.
#[derive(Parser)]
#[command(name = "load")]
struct Args {
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    server: (String, u16),

    /// Port of the MOUNT program [default: the port of the server]
    #[arg(long, value_name = "PORT")]
    mount_port: Option<u16>,

    /// Path to mount
    #[arg(long, value_name = "PATH")]
    export: String,

    /// Process id of the server on this machine, to measure its CPU time
    #[arg(long)]
    pid: Option<u32>,

    /// Workloads to run, in this order [default: all]
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = workload)]
    workloads: Vec<&'static Workload>,

    /// Calls outstanding at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = outstanding)]
    outstanding: usize,

    /// Connections that share the calls; each has this many calls outstanding
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,

    /// Pin the thread of each connection to one processor, like the packets of a remote client,
    /// which the interrupt of the network card pins
    #[arg(long)]
    pinned: bool,

    /// Number of users that calls alternate between, with consecutive ids from --uid and --gid; if
    /// more than one and without --uid, from 1000
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    users: u32,

    /// Share of the usual number of calls, which takes about half a minute in total
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    scale: u64,

    /// Time limit for a workload; calls not made by then are left out
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,

    /// Files in the large directory
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    entries: u64,

    /// Number of those files that GETATTR, LOOKUP and ACCESS use in turn
    #[arg(long, value_name = "N", default_value_t = 1000)]
    hot: u64,

    /// User id of the calls [default: the current user]
    #[arg(long)]
    uid: Option<u32>,

    /// Group id of the calls [default: the current group]
    #[arg(long)]
    gid: Option<u32>,

    /// Also write the result to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Ignored; cargo passes it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn host_and_port(text: &str) -> Result<(String, u16)> {
    let (host, port) = text.rsplit_once(':').context("no port; use HOST:PORT")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port.parse().context("bad port")?))
}

fn outstanding(text: &str) -> Result<usize> {
    let count = text.parse()?;
    ensure!((1..=SLOTS_MAX).contains(&count), "not in 1..={SLOTS_MAX}");
    Ok(count)
}

fn workload(text: &str) -> Result<&'static Workload> {
    let all = workload::ALL;
    let found = all.iter().find(|workload| workload.name == text);
    found.with_context(|| {
        let names: Vec<_> = all.iter().map(|workload| workload.name).collect();
        format!("no such workload; there are {}", names.join(" "))
    })
}

fn main() -> ExitCode {
    match load(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn load(args: &Args) -> Result<()> {
    let root = args
        .connect_mount()?
        .one(|out| out.mount(&args.export), nfs::mounted)
        .with_context(|| format!("cannot mount {}", args.export))?;
    let mut client = args.connect()?;
    let site = Site::make(&mut client, root)?;
    let lines = run(args, client, &site);
    // On a new connection: after an error, replies may still be arriving on the other.
    let removed = args.connect().and_then(|mut client| site.remove(&mut client));
    let lines = lines?;
    removed.context("cannot remove the test files")?;
    args.connect_mount()?.one(|out| out.unmount(&args.export), nfs::nothing)?;
    args.save(&lines)
}

/// Fills the tree and runs the workloads, printing a line after each.
fn run(args: &Args, mut client: Client, site: &Site) -> Result<Vec<Line>> {
    let tree =
        site.fill(&mut client, args.entries, args.hot).context("cannot prepare the test files")?;
    let others = (1..args.connections).map(|_| args.connect());
    let mut clients = std::iter::once(Ok(client)).chain(others).collect::<Result<Vec<_>>>()?;
    for (number, client) in clients.iter_mut().enumerate() {
        client.take_turns(args.first_user(), args.users);
        if args.pinned {
            client.pin(number)?;
        }
    }
    let mut runner = Runner { args, clients, tree: &tree, made: 0 };
    let chosen: Vec<_> = match args.workloads.as_slice() {
        [] => workload::ALL.iter().collect(),
        some => some.to_vec(),
    };
    println!("{}", report::head());
    let mut lines = Vec::new();
    for workload in chosen {
        let line = runner.line(workload).context(workload.name)?;
        println!("{}", line.text());
        lines.push(line);
    }
    Ok(lines)
}

struct Runner<'a> {
    args: &'a Args,
    clients: Vec<Client>,
    tree: &'a Tree,
    /// Number of files that CREATE has made and REMOVE has not removed.
    made: u64,
}

impl<'a> Runner<'a> {
    fn line(&mut self, workload: &'static Workload) -> Result<Line> {
        let count = self.count(workload);
        let (outcome, cpu) = match workload.kind {
            Kind::Listings => {
                let (tree, outstanding) = (self.tree, self.args.outstanding);
                let shares = self.clients.len() as u64;
                self.unmeasured(|_| Listings::new(tree, 1, outstanding))?;
                let each = count.div_ceil(shares);
                self.measured(|_| Listings::new(tree, each, outstanding))?
            }
            Kind::Steps(pattern) => {
                self.prepare(pattern, count)?;
                let measured = self.measured(self.steps(pattern, 0..count))?;
                self.conclude(pattern, measured.0.calls)?;
                measured
            }
        };
        Ok(Line { workload, outcome, cpu })
    }

    fn count(&self, workload: &Workload) -> u64 {
        (workload.count * self.args.scale).div_ceil(100).max(1)
    }

    /// Brings the files into the state that the calls expect, and warms up the server.
    fn prepare(&mut self, pattern: &[Op], count: u64) -> Result<()> {
        match pattern {
            [Op::Remove] => {
                let missing = self.made.min(count)..count;
                self.made = self.made.max(count);
                self.unmeasured(self.steps(&[Op::Create], missing))
            }
            [Op::Create | Op::CreateExclusively] => self.clear(),
            [Op::GetAttr | Op::Lookup | Op::Access] => {
                // At least once for each file, so that opening files is not measured.
                self.unmeasured(self.steps(pattern, 0..self.args.hot.max(count / 20)))
            }
            _ => self.unmeasured(self.steps(pattern, 0..count / 20)),
        }
    }

    /// Checks what the calls have written, and tracks the files that exist.
    fn conclude(&mut self, pattern: &[Op], calls: u64) -> Result<()> {
        match pattern {
            [Op::Create | Op::CreateExclusively] => self.made = calls,
            [Op::Remove] => {
                self.made -= calls;
                self.clear()?;
            }
            [Op::Write(blocks, _)] => {
                let back = [Op::ReadBack(*blocks)];
                self.unmeasured(self.steps(&back, 0..calls.min(READ_BACK)))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        if self.made > 0 {
            tree::empty(&mut self.clients[0], &self.tree.names)?;
            self.made = 0;
        }
        Ok(())
    }

    fn unmeasured<W: Work + Send>(&mut self, share: impl FnMut(usize) -> W) -> Result<()> {
        drive_all(&mut self.clients, share, self.args.outstanding, tree::LIMIT).map(|_| ())
    }

    fn measured<W: Work + Send>(
        &mut self,
        share: impl FnMut(usize) -> W,
    ) -> Result<(Outcome, Option<Duration>)> {
        let limit = Duration::from_secs(self.args.seconds);
        let before = self.args.pid.map(CpuTime::of).transpose()?;
        let outcome = drive_all(&mut self.clients, share, self.args.outstanding, limit)?;
        let after = self.args.pid.map(CpuTime::of).transpose()?;
        let cpu = after.zip(before).map(|(after, before)| after.since(&before));
        Ok((outcome, cpu))
    }

    /// Divides `numbers` into consecutive parts, one for each connection.
    fn steps<'s>(
        &self,
        pattern: &'s [Op],
        numbers: Range<u64>,
    ) -> impl FnMut(usize) -> Steps<'s> + use<'s>
    where
        'a: 's,
    {
        let (tree, outstanding) = (self.tree, self.args.outstanding);
        let (shares, count) =
            (self.clients.len() as u64, numbers.end.saturating_sub(numbers.start));
        move |share| {
            let border = |share: u64| numbers.start + count * share / shares;
            let part = border(share as u64)..border(share as u64 + 1);
            Steps::new(tree, &tree.names, pattern, part, outstanding)
        }
    }
}

impl Args {
    fn connect(&self) -> Result<Client> {
        Client::connect(&self.server, nfs::NFS, self.caller())
    }

    fn connect_mount(&self) -> Result<Client> {
        let (host, port) = &self.server;
        let mount = (host.clone(), self.mount_port.unwrap_or(*port));
        Client::connect(&mount, nfs::MOUNT, self.caller())
    }

    fn caller(&self) -> Caller {
        Caller {
            uid: self.uid.unwrap_or(getuid().as_raw()),
            gid: self.gid.unwrap_or(getgid().as_raw()),
        }
    }

    fn first_user(&self) -> Caller {
        let caller = self.caller();
        let stranger = Caller { uid: 1000, gid: 1000 };
        if self.users > 1 && self.uid.is_none() { stranger } else { caller }
    }

    fn save(&self, lines: &[Line]) -> Result<()> {
        let Some(file) = &self.json else {
            return Ok(());
        };
        let workloads: Vec<_> = lines.iter().map(Line::json).collect();
        let result = json!({ "outstanding": self.outstanding, "workloads": workloads });
        fs::write(file, format!("{result:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))
    }
}
