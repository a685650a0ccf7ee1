//! The workloads: which calls, how many, and what a right answer to each is (for READDIRPLUS, whose
//! calls depend on each other, see `listing`).

use std::ops::Range;

use anyhow::{Result, bail};

use crate::client::Work;
use crate::image::{Image, KIB, MIB, index};
use crate::nfs::{self, Handle, Stable};
use crate::outbox::Outbox;
use crate::tree::{Tree, name};
use crate::wire::Reader;

/// Names that are soon removed again are numbered from here, apart from those that stay.
const PASSING: u64 = 500_000_000_000;

/// One line of the table.
pub struct Workload {
    pub name: &'static str,
    /// How many at `--scale 100`: enough for about a second of a server's CPU time.
    pub count: u64,
    pub kind: Kind,
    pub unit: Unit,
}

#[derive(Clone, Copy)]
pub enum Kind {
    /// These calls, again and again.
    Steps(&'static [Op]),
    /// The large directory from front to back, by each slot; the count is of listings.
    Listings,
}

/// What is counted in a second.
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
    Write(Place, Stable),
    /// Not measured: reads what `Write` wrote.
    ReadBack(Place),
    Create,
    /// CREATE with a verifier.
    CreateExclusively,
    Remove,
    /// CREATE, and the next time REMOVE of the same name.
    CreateThenRemove,
}

/// What is written where: in pieces of `size`, the image moved by `shift`, so that what is
/// written differs from what was there.
#[derive(Clone, Copy)]
pub struct Place {
    pub size: usize,
    pub shift: u64,
}

const fn place(size: usize, megabytes: usize) -> Place {
    let shift = (megabytes * MIB) as u64;
    Place { size, shift }
}

/// Of each kind of writing; no two with the same shift.
const SMALL: Place = place(4 * KIB, 1);
const LARGE: Place = place(MIB, 2);
const DURABLE: Place = place(4 * KIB, 3);
const SOME: Place = place(4 * KIB, 4);

/// What a file server sees of programs that build and run: mostly questions, some data, few names.
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
    // Files are removed last: ext4 without a journal passes over an inode for minutes after it has
    // been freed, and a CREATE that meets thousands of them is slow, whoever serves it.
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

/// Calls after a pattern; the number of the call decides which file or which place it is about.
pub struct Steps<'t> {
    tree: &'t Tree,
    dir: &'t Handle,
    pattern: &'t [Op],
    numbers: Range<u64>,
    slots: Vec<Step>,
}

/// What a slot has asked for.
#[derive(Clone, Copy)]
struct Step {
    op: Op,
    number: u64,
    /// The name to remove next, where the pattern makes and removes.
    made: Option<u64>,
}

impl<'t> Steps<'t> {
    /// `dir` is where names are made and removed.
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
            Op::Write(place, stable) => {
                let offset = offset(step.number, place.size);
                let data = tree.image.at(offset + place.shift, place.size);
                out.write(&tree.written, offset, data, stable);
            }
            Op::ReadBack(place) => {
                out.read(&tree.written, offset(step.number, place.size), place.size);
            }
            Op::Create => out.create(self.dir, &name(step.number)),
            Op::CreateExclusively => {
                out.create_exclusively(self.dir, &name(step.number), step.number);
            }
            Op::Remove => out.remove(self.dir, &name(step.number)),
            Op::CreateThenRemove => {
                let number = PASSING + step.made.unwrap_or(step.number);
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
            Op::Write(place, stable) => nfs::written(reply, place.size, stable),
            Op::ReadBack(place) => {
                let data = nfs::read(reply, place.size)?;
                image.check(offset(number, place.size) + place.shift, data, true)
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

    /// The answer is about the file that was asked for. LOOKUP may leave attributes out.
    fn is_hot(&self, number: u64, found: Option<nfs::Attributes>) -> Result<()> {
        let asked = self.tree.hot[self.hot(number)].1;
        match found {
            Some(found) if found.fileid != asked.fileid || found.kind != asked.kind => {
                bail!("an answer is about file {}, not {}", found.fileid, asked.fileid)
            }
            _ => Ok(()),
        }
    }
}

/// Goes round all places of a file in an order that is not the file's.
fn offset(number: u64, size: usize) -> u64 {
    let places = (Image::SIZE / size) as u64;
    number * 40_503 % places * size as u64
}

impl Work for Steps<'_> {
    fn call(&mut self, slot: usize, out: &mut Outbox) -> bool {
        let made = self.slots[slot].made;
        let (op, number) = match self.numbers.next() {
            Some(number) => (self.pattern[index(number, self.pattern.len())], number),
            // A name made is a name removed, also at the end.
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
            Op::Read(size) | Op::Write(Place { size, .. }, _) => size as u64,
            _ => 1,
        })
    }
}
