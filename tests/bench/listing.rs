//! The READDIRPLUS workload: lists the large directory repeatedly.
//!
//! Each page of a listing needs the cookie of the one before, so each slot has a listing of its
//! own.

use anyhow::{Context, Result, ensure};

use crate::client::Work;
use crate::image::mixed;
use crate::nfs;
use crate::outbox::Outbox;
use crate::tree::Tree;
use crate::wire::Reader;

/// Maximum size of a READDIRPLUS reply.
pub const PAGE: u32 = 64 << 10;

/// A number of complete listings, shared by all slots.
pub struct Listings<'t> {
    tree: &'t Tree,
    left: u64,
    slots: Vec<Listing>,
}

#[derive(Clone, Copy, Default)]
struct Listing {
    begun: bool,
    cookie: u64,
    verifier: u64,
    names: u64,
    /// The sum of the mixed numbers of all names, which detects duplicates and missing names.
    sum: u64,
}

impl<'t> Listings<'t> {
    pub fn new(tree: &'t Tree, count: u64, outstanding: usize) -> Self {
        let slots = vec![Listing::default(); outstanding];
        Self { tree, left: count, slots }
    }
}

impl Work for Listings<'_> {
    fn call(&mut self, slot: usize, out: &mut Outbox) -> bool {
        let listing = &mut self.slots[slot];
        if !listing.begun {
            if self.left == 0 {
                return false;
            }
            self.left -= 1;
            listing.begun = true;
        }
        out.readdirplus(&self.tree.many, listing.cookie, listing.verifier, PAGE);
        true
    }

    fn reply(&mut self, slot: usize, reply: &mut Reader<'_>) -> Result<u64> {
        let listing = &mut self.slots[slot];
        let before = *listing;
        let page = nfs::listed(reply, |name, cookie| listing.add(name, cookie))?;
        let found = listing.names - before.names;
        if page.end {
            let right = (0..self.tree.entries).map(mixed).fold(0, u64::wrapping_add);
            ensure!(
                listing.names == self.tree.entries && listing.sum == right,
                "a listing of {} names does not have each of the {} entries once",
                listing.names,
                self.tree.entries
            );
            *listing = Listing::default();
        } else {
            ensure!(listing.cookie != before.cookie, "a page of a listing is empty");
            listing.verifier = page.verifier;
        }
        Ok(found)
    }
}

impl Listing {
    fn add(&mut self, name: &[u8], cookie: u64) -> Result<()> {
        self.cookie = cookie;
        if name == b"." || name == b".." {
            return Ok(());
        }
        let number = name
            .strip_prefix(b"file")
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .context("a listing has a name that was never created")?;
        self.names += 1;
        self.sum = self.sum.wrapping_add(mixed(number));
        Ok(())
    }
}
