//! The files that the load works on, created through the server in a new directory and removed
//! afterwards.
//!
//! ```text
//! EXPORT/load-PID-TIME/
//!     many/    a large directory, for READDIRPLUS; its first files are for GETATTR, LOOKUP, ACCESS
//!     names/   initially empty, for CREATE and REMOVE
//!     data     the image, for READ
//!     written  initially the image, for WRITE
//! ```

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::client::{Client, Work};
use crate::image::{Image, MIB};
use crate::listing::PAGE;
use crate::nfs::{self, Attributes, Handle, Stable};
use crate::outbox::Outbox;
use crate::wire::Reader;
use crate::workload::{Op, Steps};

/// Calls outstanding while the tree is created and removed.
const OUTSTANDING: usize = 16;
/// Time limit for preparation, which is not measured.
pub const LIMIT: Duration = Duration::from_secs(300);

pub struct Tree {
    pub image: Image,
    pub many: Handle,
    pub entries: u64,
    pub names: Handle,
    pub data: Handle,
    pub written: Handle,
    pub hot: Vec<(Handle, Attributes)>,
}

/// The name of a numbered file.
pub fn name(mut number: u64) -> [u8; 16] {
    let mut name = *b"file000000000000";
    for digit in name[4..].iter_mut().rev() {
        *digit = b"0123456789"[(number % 10) as usize];
        number /= 10;
    }
    name
}

/// The directory that contains all files of the load.
pub struct Site {
    root: Handle,
    name: String,
    top: Handle,
}

impl Site {
    pub fn make(client: &mut Client, root: Handle) -> Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let name = format!("load-{}-{}", std::process::id(), now.as_nanos());
        let top = mkdir(client, &root, name.as_bytes())?;
        Ok(Self { root, name, top })
    }

    pub fn fill(&self, client: &mut Client, entries: u64, hot: u64) -> Result<Tree> {
        let image = Image::new();
        let many = mkdir(client, &self.top, b"many")?;
        let names = mkdir(client, &self.top, b"names")?;
        let data = file_with(client, &self.top, b"data", image)?;
        let written = file_with(client, &self.top, b"written", image)?;
        let mut tree = Tree { image, many, entries, names, data, written, hot: Vec::new() };
        let create = Steps::new(&tree, &tree.many, &[Op::Create], 0..entries, OUTSTANDING);
        finish(client, create, entries).context("cannot fill the large directory")?;
        for number in 0..hot.min(entries) {
            let file = client.one(|out| out.lookup(&tree.many, &name(number)), nfs::looked_up)?.0;
            let attributes = client.one(|out| out.getattr(&file), nfs::got_attributes)?;
            ensure!(attributes.kind == nfs::REGULAR, "CREATE did not create a regular file");
            tree.hot.push((file, attributes));
        }
        Ok(tree)
    }

    /// Removes the directory with whatever it contains, also after a failed run.
    pub fn remove(&self, client: &mut Client) -> Result<()> {
        for name in names(client, &self.top)? {
            let file = client.one(|out| out.lookup(&self.top, &name), nfs::looked_up)?.0;
            let kind = client.one(|out| out.getattr(&file), nfs::got_attributes)?.kind;
            if kind == nfs::DIRECTORY {
                empty(client, &file)?;
                rmdir(client, &self.top, &name)?;
            } else {
                client.one(
                    |out| out.remove(&self.top, &name),
                    |reply| nfs::removed("REMOVE", reply),
                )?;
            }
        }
        rmdir(client, &self.root, self.name.as_bytes())
    }
}

/// Removes all files of a directory.
pub fn empty(client: &mut Client, dir: &Handle) -> Result<()> {
    let names = VecDeque::from(names(client, dir)?);
    let count = names.len() as u64;
    finish(client, Sweep { dir, names }, count).context("cannot empty a directory")
}

/// Runs work that is not measured to its end.
pub fn finish(client: &mut Client, mut work: impl Work, calls: u64) -> Result<()> {
    let outcome = client.drive(&mut work, OUTSTANDING, LIMIT)?;
    ensure!(outcome.calls == calls, "not done within {LIMIT:?}");
    Ok(())
}

struct Sweep<'a> {
    dir: &'a Handle,
    names: VecDeque<Vec<u8>>,
}

impl Work for Sweep<'_> {
    fn call(&mut self, _: usize, out: &mut Outbox) -> bool {
        let Some(name) = self.names.pop_front() else {
            return false;
        };
        out.remove(self.dir, &name);
        true
    }

    fn reply(&mut self, _: usize, reply: &mut Reader<'_>) -> Result<u64> {
        nfs::removed("REMOVE", reply).map(|()| 1)
    }
}

fn names(client: &mut Client, dir: &Handle) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let (mut cookie, mut verifier) = (0, 0);
    loop {
        let from = cookie;
        let page = client.one(
            |out| out.readdirplus(dir, from, verifier, PAGE),
            |reply| {
                nfs::listed(reply, |name, next| {
                    if name != b"." && name != b".." {
                        found.push(name.to_vec());
                    }
                    cookie = next;
                    Ok(())
                })
            },
        )?;
        if page.end {
            return Ok(found);
        }
        verifier = page.verifier;
    }
}

fn mkdir(client: &mut Client, dir: &Handle, name: &[u8]) -> Result<Handle> {
    client.one(|out| out.mkdir(dir, name), |reply| nfs::created("MKDIR", reply))?;
    let made = client.one(|out| out.lookup(dir, name), nfs::looked_up)?.0;
    Ok(made)
}

fn rmdir(client: &mut Client, dir: &Handle, name: &[u8]) -> Result<()> {
    client.one(|out| out.rmdir(dir, name), |reply| nfs::removed("RMDIR", reply))
}

/// Creates a file with the image and commits it, so that allocating its blocks is not measured
/// later.
fn file_with(client: &mut Client, dir: &Handle, name: &[u8], image: Image) -> Result<Handle> {
    client.one(|out| out.create(dir, name), |reply| nfs::created("CREATE", reply))?;
    let file = client.one(|out| out.lookup(dir, name), nfs::looked_up)?.0;
    for offset in (0..Image::SIZE as u64).step_by(MIB) {
        client.one(
            |out| out.write(&file, offset, image.at(offset, MIB), Stable::Unstable),
            |reply| nfs::written(reply, MIB, Stable::Unstable),
        )?;
    }
    client.one(|out| out.commit(&file), nfs::committed)?;
    let size = client.one(|out| out.getattr(&file), nfs::got_attributes)?.size;
    ensure!(
        size == Image::SIZE as u64,
        "a file of {size} bytes where {} were written",
        Image::SIZE
    );
    Ok(file)
}
