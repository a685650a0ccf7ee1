//! The workloads: their calls, the number of calls, and the check of each reply. For READDIRPLUS,
//! whose calls depend on each other, see `listing`.

use std::ops::Range;

use anyhow::{Result, bail};

use crate::client::Work;
use crate::image::{Image, KIB, MIB, index};
use crate::nfs::{self, Handle, Stable};
use crate::outbox::Outbox;
use crate::tree::{Tree, name};
use crate::wire::Reader;

/// Numbers of names that a mix creates and removes; they differ from those of lasting files.
const TRANSIENT: u64 = 500_000_000_000;

/// One line of the table.
pub struct Workload {
    pub name: &'static str,
    /// Number of calls at `--scale 100`: enough for about a second of the server's CPU time.
    pub count: u64,
    pub kind: Kind,
    pub unit: Unit,
}

#[derive(Clone, Copy)]
pub enum Kind {
    /// These calls, in turn.
    Steps(&'static [Op]),
    /// Listings of the large directory; the count is the number of listings.
    Listings,
}

/// The unit of the rate.
#[derive(Clone, Copy)]
pub enum Unit {
    Calls,
    Bytes,
    Entries,
}

#[derive(Clone, Copy)]
pub enum Op {
    Null,
    GetAttr,
    Lookup,
    Access,
    Read(usize),
    Write(Blocks, Stable),
    /// Reads what `Write` wrote; not measured.
    ReadBack(Blocks),
    Create,
    /// CREATE with a verifier.
    CreateExclusively,
    Remove,
    /// CREATE, and at the next use REMOVE of the same name.
    CreateThenRemove,
}

/// What WRITE writes: blocks of `size` bytes of the image, shifted by `shift` bytes, so that the
/// data differs from the previous content.
#[derive(Clone, Copy)]
pub struct Blocks {
    pub size: usize,
    pub shift: u64,
}

const fn blocks(size: usize, megabytes: usize) -> Blocks {
    let shift = (megabytes * MIB) as u64;
    Blocks { size, shift }
}

/// The data of each workload that writes; all shifts differ.
const SMALL: Blocks = blocks(4 * KIB, 1);
const LARGE: Blocks = blocks(MIB, 2);
const DURABLE: Blocks = blocks(4 * KIB, 3);
const SOME: Blocks = blocks(4 * KIB, 4);

/// A mix like that of builds and applications: 65 % attributes and names, 25 % data, 10 % changes
/// of names.
#[rustfmt::skip] // four lines, not twenty
const MIXED: &[Op] = &[
    Op::GetAttr, Op::Lookup, Op::Access, Op::Read(4 * KIB), Op::GetAttr,
    Op::Write(SOME, Stable::Unstable), Op::Lookup, Op::GetAttr, Op::Access, Op::CreateThenRemove,
    Op::GetAttr, Op::Lookup, Op::Read(4 * KIB), Op::GetAttr, Op::Write(SOME, Stable::Unstable),
    Op::Access, Op::Lookup, Op::GetAttr, Op::Read(4 * KIB), Op::CreateThenRemove,
];

#[rustfmt::skip] // a table
pub const ALL: &[Workload] = &[
    steps("null",         160_000, &[Op::Null]),
    steps("getattr",      160_000, &[Op::GetAttr]),
    steps("lookup",        60_000, &[Op::Lookup]),
    steps("access",        60_000, &[Op::Access]),
    steps("read_4k",       60_000, &[Op::Read(4 * KIB)]),
    bytes("read_1m",        3_000, &[Op::Read(MIB)]),
    steps("write_4k",      40_000, &[Op::Write(SMALL, Stable::Unstable)]),
    bytes("write_1m",       3_000, &[Op::Write(LARGE, Stable::Unstable)]),
    steps("write_4k_sync",  8_000, &[Op::Write(DURABLE, Stable::FileSync)]),
    Workload { name: "readdirplus", count: 160, kind: Kind::Listings, unit: Unit::Entries },
    // REMOVE comes last: ext4 without a journal does not reuse an inode for minutes after it has
    // been freed, and CREATE is slow when it has to skip thousands of such inodes.
    steps("create",        20_000, &[Op::Create]),
    steps("exclusive",     20_000, &[Op::CreateExclusively]),
    steps("mixed",         40_000, MIXED),
    steps("remove",        20_000, &[Op::Remove]),
];

const fn steps(name: &'static str, count: u64, ops: &'static [Op]) -> Workload {
    let kind = Kind::Steps(ops);
    Workload { name, count, kind, unit: Unit::Calls }
}

const fn bytes(name: &'static str, count: u64, ops: &'static [Op]) -> Workload {
    let kind = Kind::Steps(ops);
    Workload { name, count, kind, unit: Unit::Bytes }
}

/// Calls that follow a pattern; the number of a call determines its file or offset.
pub struct Steps<'t> {
    tree: &'t Tree,
    dir: &'t Handle,
    pattern: &'t [Op],
    numbers: Range<u64>,
    slots: Vec<Step>,
}

/// The outstanding call of a slot.
#[derive(Clone, Copy)]
struct Step {
    op: Op,
    number: u64,
    /// The number of the name to remove next, for `CreateThenRemove`.
    made: Option<u64>,
}

impl<'t> Steps<'t> {
    /// `dir` is the directory of CREATE and REMOVE.
    pub fn new(
        tree: &'t Tree,
        dir: &'t Handle,
        pattern: &'t [Op],
        numbers: Range<u64>,
        outstanding: usize,
    ) -> Self {
        let idle = Step { op: Op::Null, number: 0, made: None };
        let slots = vec![idle; outstanding];
        Self { tree, dir, pattern, numbers, slots }
    }

    fn ask(&self, step: Step, out: &mut Outbox) {
        let tree = self.tree;
        match step.op {
            Op::Null => out.null(),
            Op::GetAttr => out.getattr(&tree.hot[self.hot(step.number)].0),
            Op::Lookup => out.lookup(&tree.many, &name(self.hot(step.number) as u64)),
            Op::Access => out.access(&tree.hot[self.hot(step.number)].0),
            Op::Read(size) => out.read(&tree.data, offset(step.number, size), size),
            Op::Write(blocks, stable) => {
                let offset = offset(step.number, blocks.size);
                let data = tree.image.at(offset + blocks.shift, blocks.size);
                out.write(&tree.written, offset, data, stable);
            }
            Op::ReadBack(blocks) => {
                out.read(&tree.written, offset(step.number, blocks.size), blocks.size);
            }
            Op::Create => out.create(self.dir, &name(step.number)),
            Op::CreateExclusively => {
                out.create_exclusively(self.dir, &name(step.number), step.number);
            }
            Op::Remove => out.remove(self.dir, &name(step.number)),
            Op::CreateThenRemove => {
                let number = TRANSIENT + step.made.unwrap_or(step.number);
                match step.made {
                    None => out.create(self.dir, &name(number)),
                    Some(_) => out.remove(self.dir, &name(number)),
                }
            }
        }
    }

    fn check(&self, step: Step, reply: &mut Reader<'_>) -> Result<()> {
        let image = self.tree.image;
        let number = step.number;
        match step.op {
            Op::Null => nfs::nothing(reply),
            Op::GetAttr => self.is_hot(number, Some(nfs::got_attributes(reply)?)),
            Op::Lookup => self.is_hot(number, nfs::looked_up(reply)?.1),
            Op::Access => nfs::access_granted(reply),
            Op::Read(size) => {
                let data = nfs::read(reply, size)?;
                image.check(offset(number, size), data, number.is_multiple_of(16))
            }
            Op::Write(blocks, stable) => nfs::written(reply, blocks.size, stable),
            Op::ReadBack(blocks) => {
                let data = nfs::read(reply, blocks.size)?;
                image.check(offset(number, blocks.size) + blocks.shift, data, true)
            }
            Op::Create | Op::CreateExclusively => nfs::created("CREATE", reply),
            Op::Remove => nfs::removed("REMOVE", reply),
            Op::CreateThenRemove if step.made.is_none() => nfs::created("CREATE", reply),
            Op::CreateThenRemove => nfs::removed("REMOVE", reply),
        }
    }

    fn hot(&self, number: u64) -> usize {
        index(number * 7919, self.tree.hot.len())
    }

    /// Checks that a reply is about the requested file. LOOKUP may omit the attributes.
    fn is_hot(&self, number: u64, found: Option<nfs::Attributes>) -> Result<()> {
        let asked = self.tree.hot[self.hot(number)].1;
        match found {
            Some(found) if found.fileid != asked.fileid || found.kind != asked.kind => {
                bail!("a reply is about file {}, not {}", found.fileid, asked.fileid)
            }
            _ => Ok(()),
        }
    }
}

/// The offset of a numbered call: cycles through all blocks of the file in a scattered order.
fn offset(number: u64, size: usize) -> u64 {
    let places = (Image::SIZE / size) as u64;
    number * 40_503 % places * size as u64
}

impl Work for Steps<'_> {
    fn call(&mut self, slot: usize, out: &mut Outbox) -> bool {
        let made = self.slots[slot].made;
        let (op, number) = match self.numbers.next() {
            Some(number) => (self.pattern[index(number, self.pattern.len())], number),
            // Every created name is removed, also at the end.
            None if made.is_some() => (Op::CreateThenRemove, 0),
            None => return false,
        };
        self.slots[slot] = Step { op, number, made };
        self.ask(self.slots[slot], out);
        true
    }

    fn reply(&mut self, slot: usize, reply: &mut Reader<'_>) -> Result<u64> {
        let step = self.slots[slot];
        self.check(step, reply)?;
        if matches!(step.op, Op::CreateThenRemove) {
            self.slots[slot].made = step.made.is_none().then_some(step.number);
        }
        Ok(match step.op {
            Op::Read(size) | Op::Write(Blocks { size, .. }, _) => size as u64,
            _ => 1,
        })
    }
}
