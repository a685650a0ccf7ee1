//! Random operations on one file, each checked against a copy in memory.
//!
//! `exerciser FILE SEED COUNT MODEL` reads, writes, truncates, extends, maps, flushes and reopens
//! FILE in an order that only the seed decides, so a failure can be repeated. The first wrong byte
//! ends the run and prints the last operations; otherwise the expected content is written to MODEL.
//!
//! Compiled by rustc as a single file without crates: the four calls that std lacks are declared
//! here.

use std::collections::VecDeque;
use std::ffi::{c_int, c_long, c_void};
use std::fs::{File, OpenOptions};
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::exit;

const MAX_SIZE: u64 = 256 << 10;
const MAX_PIECE: u64 = 24 << 10;
const PAGE: u64 = 4096;
const HISTORY: usize = 40;

const PROT_READ: c_int = 1;
const PROT_WRITE: c_int = 2;
const MAP_SHARED: c_int = 1;
const MS_SYNC: c_int = 4;
const POSIX_FADV_DONTNEED: c_int = 4;

unsafe extern "C" {
    fn mmap(
        at: *mut c_void,
        len: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: c_long,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, len: usize) -> c_int;
    fn msync(at: *mut c_void, len: usize, flags: c_int) -> c_int;
    fn posix_fadvise(fd: c_int, offset: c_long, len: c_long, advice: c_int) -> c_int;
}

/// A shared mapping of the whole file, unmapped on drop. It is never longer than the file.
struct Mapping {
    start: *mut c_void,
    len: usize,
}

impl Mapping {
    fn of(file: &File, len: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address chosen by the kernel overlaps no memory in use.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                PROT_READ | PROT_WRITE,
                MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start.addr() == usize::MAX {
            Err(Error::last_os_error())
        } else {
            Ok(Self { start, len })
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has `len` bytes and lives as long as self; no other process changes
        // the file.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }

    fn flush(&self) -> Result<()> {
        // SAFETY: the range is exactly our mapping.
        check(unsafe { msync(self.start, self.len, MS_SYNC) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly our mapping, and no slice of it outlives self.
        unsafe { munmap(self.start, self.len) };
    }
}

fn check(result: c_int) -> Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}

/// xorshift64*, which is good enough for test data.
struct Random(u64);

impl Random {
    fn seeded(seed: u64) -> Self {
        let mut random = Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1));
        (0..8).for_each(|_| _ = random.next()); // seeds that differ in one bit start alike
        random
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            0
        } else {
            (self.next() >> 16) % limit
        }
    }

    /// A position up to `limit`. One in three lies within a byte of a page boundary, where bugs are
    /// likely.
    fn position(&mut self, limit: u64) -> u64 {
        let any = self.below(limit + 1);
        if self.below(3) > 0 {
            return any;
        }
        (any / PAGE * PAGE + self.below(3))
            .saturating_sub(1)
            .min(limit)
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len as usize + 8);
        while (bytes.len() as u64) < len {
            bytes.extend(self.next().to_ne_bytes());
        }
        bytes.truncate(len as usize);
        bytes
    }
}

struct Exerciser {
    path: String,
    seed: u64,
    file: File,
    model: Vec<u8>,
    random: Random,
    history: VecDeque<String>,
    done: u64,
}

impl Exerciser {
    fn new(path: String, seed: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        let random = Random::seeded(seed);
        Ok(Self {
            path,
            seed,
            file,
            model: Vec::new(),
            random,
            history: VecDeque::new(),
            done: 0,
        })
    }

    fn note(&mut self, what: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(format!("{}: {what}", self.done));
    }

    fn step(&mut self) -> Result<()> {
        self.done += 1;
        match self.random.below(100) {
            0..25 => self.read(),
            25..55 => self.write(),
            55..62 => self.append(),
            62..67 => self.shorten(),
            67..72 => self.lengthen(),
            72..80 => self.read_mapped(),
            80..88 => self.write_mapped(),
            88..93 => self.flush(),
            93..97 => self.reopen(),
            _ => self.read_from_server(),
        }?;
        self.check_size()
    }

    fn size(&self) -> u64 {
        self.model.len() as u64
    }

    /// A range inside the file.
    fn range(&mut self) -> (u64, u64) {
        let offset = self.random.position(self.size());
        let len = self.random.below(MAX_PIECE.min(self.size() - offset) + 1);
        (offset, len)
    }

    fn read(&mut self) -> Result<()> {
        let offset = self.random.position(self.size());
        let len = self.random.below(MAX_PIECE); // also beyond the end
        self.note(format!("read {len} at {offset}"));
        let mut found = vec![0; len as usize];
        let mut filled = 0;
        while filled < found.len() {
            match self
                .file
                .read_at(&mut found[filled..], offset + filled as u64)?
            {
                0 => break,
                more => filled += more,
            }
        }
        found.truncate(filled);
        let end = (offset + len).min(self.size());
        self.compare("read", offset, end, &found);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        // Up to a page beyond the end, which leaves a hole.
        let offset = self.random.position((self.size() + PAGE).min(MAX_SIZE - 1));
        let len = 1 + self.random.below(MAX_PIECE.min(MAX_SIZE - offset));
        self.note(format!("write {len} at {offset}"));
        self.put(offset, len)
    }

    fn append(&mut self) -> Result<()> {
        let len = self.random.below(2 * PAGE).min(MAX_SIZE - self.size());
        self.note(format!("append {len} at {}", self.size()));
        self.put(self.size(), len)
    }

    fn put(&mut self, offset: u64, len: u64) -> Result<()> {
        let data = self.random.bytes(len);
        self.file.write_all_at(&data, offset)?;
        let end = (offset + len) as usize;
        if len > 0 && self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[offset as usize..end].copy_from_slice(&data);
        Ok(())
    }

    fn shorten(&mut self) -> Result<()> {
        let size = self.random.position(self.size());
        self.resize(size)
    }

    fn lengthen(&mut self) -> Result<()> {
        let size = self.size()
            + self
                .random
                .below((4 * PAGE).min(MAX_SIZE - self.size()) + 1);
        self.resize(size)
    }

    fn resize(&mut self, size: u64) -> Result<()> {
        self.note(format!("truncate {} to {size}", self.size()));
        self.model.resize(size as usize, 0);
        self.file.set_len(size)
    }

    fn read_mapped(&mut self) -> Result<()> {
        let (offset, len) = self.range();
        self.note(format!("mapped read {len} at {offset}"));
        if len > 0 {
            let mut mapping = Mapping::of(&self.file, self.model.len())?;
            let found = mapping.bytes()[offset as usize..][..len as usize].to_vec();
            self.compare("mapped read", offset, offset + len, &found);
        }
        Ok(())
    }

    fn write_mapped(&mut self) -> Result<()> {
        let (offset, len) = self.range();
        self.note(format!("mapped write {len} at {offset}, msync"));
        if len > 0 {
            let data = self.random.bytes(len);
            let mut mapping = Mapping::of(&self.file, self.model.len())?;
            mapping.bytes()[offset as usize..][..data.len()].copy_from_slice(&data);
            mapping.flush()?;
            self.model[offset as usize..][..data.len()].copy_from_slice(&data);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.note("fsync".into());
        self.file.sync_all()
    }

    fn reopen(&mut self) -> Result<()> {
        self.note("close, open".into());
        self.file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        Ok(())
    }

    /// Drops the cached pages and compares the whole file, as the server returns it.
    fn read_from_server(&mut self) -> Result<()> {
        self.note(format!("fsync, drop cache, read all {}", self.size()));
        self.file.sync_all()?;
        // SAFETY: the call passes no pointers.
        check(unsafe { posix_fadvise(self.file.as_raw_fd(), 0, 0, POSIX_FADV_DONTNEED) })?;
        let found = std::fs::read(&self.path)?;
        self.compare("read from the server", 0, self.size(), &found);
        Ok(())
    }

    fn check_size(&mut self) -> Result<()> {
        let found = self.file.metadata()?.size();
        if found != self.size() {
            self.give_up(&format!("size is {found}, not {}", self.size()));
        }
        Ok(())
    }

    fn compare(&self, what: &str, offset: u64, end: u64, found: &[u8]) {
        let expected = &self.model[offset as usize..end as usize];
        if expected == found {
            return;
        }
        let both = expected.iter().zip(found);
        let wrong = both.clone().filter(|(a, b)| a != b).count();
        let first = both.take_while(|(a, b)| a == b).count();
        let around = |bytes: &[u8]| format!("{:02x?}", &bytes[first..bytes.len().min(first + 16)]);
        self.give_up(&format!(
            "{what}: {} bytes expected, {} found, {wrong} of them wrong, the first at {} ({:#x})\n  expected {}\n  found    {}",
            expected.len(), found.len(), offset + first as u64, offset + first as u64,
            around(expected), around(found),
        ));
    }

    fn give_up(&self, why: &str) -> ! {
        eprintln!("last operations:");
        self.history.iter().for_each(|line| eprintln!("  {line}"));
        eprintln!(
            "fail: {} with seed {}, operation {}: {why}",
            self.path, self.seed, self.done
        );
        exit(1);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, seed, count, model] = args.as_slice() else {
        eprintln!("usage: exerciser FILE SEED COUNT MODEL");
        exit(2);
    };
    let number = |text: &String| text.parse::<u64>().expect("SEED and COUNT are numbers");
    let mut exerciser = Exerciser::new(path.clone(), number(seed)).expect("FILE can be created");
    for _ in 0..number(count) {
        if let Err(error) = exerciser.step() {
            exerciser.give_up(&error.to_string());
        }
    }
    std::fs::write(model, &exerciser.model).expect("MODEL can be written");
}
