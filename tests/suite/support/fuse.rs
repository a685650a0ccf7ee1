//! A file system in user space whose daemon is a thread of the test: files in one directory, in
//! memory.
//!
//! It does what FUSE daemons may do and disks do not: it calls its files by the lowest number that
//! is free, whoever had it before; it says that what it gets the files from is away; and it ends
//! under those who have files open. The messages are those of fuse(4), as `linux/fuse.h` lays them
//! out.
#![allow(clippy::cast_possible_truncation)] // the files are small

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// The number of the directory.
const TOP: u64 = 1;

/// What is on the disk, whichever daemon has it.
#[derive(Default)]
pub struct Disk {
    files: BTreeMap<Vec<u8>, Stored>,
    born: u64,
    /// What everything is answered with while the disk is away.
    away: Option<i32>,
    /// Whether nothing is taken up.
    hangs: bool,
}

#[derive(Clone, Default)]
struct Stored {
    ino: u64,
    content: Vec<u8>,
}

/// A file system that is mounted, or was, or will be again.
pub struct Fuse {
    dir: PathBuf,
    disk: Arc<Mutex<Disk>>,
    /// What is mounted, as the list of mounts has it.
    source: &'static str,
    daemon: Option<Daemon>,
}

struct Daemon {
    thread: JoinHandle<()>,
    stop: Arc<Mutex<bool>>,
}

/// What one daemon calls the files: by their place in this list.
struct Session {
    device: File,
    disk: Arc<Mutex<Disk>>,
    named: Vec<Option<(u64, u64)>>,
}

impl Fuse {
    /// Mounts it at `dir`; `None` where that cannot be.
    pub fn mount(dir: &Path) -> Option<Self> {
        let mut fuse = Self { dir: dir.into(), disk: Arc::default(), source: "test", daemon: None };
        fuse.start().then_some(fuse)
    }

    /// Starts a daemon that knows no names yet; whether it is mounted.
    pub fn start(&mut self) -> bool {
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            return false;
        };
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other\0", device.as_raw_fd());
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).unwrap();
        if mount(self.source, &self.dir, "fuse", MountFlags::empty(), options).is_err() {
            return false;
        }
        let stop = Arc::new(Mutex::new(false));
        let (told, disk) = (Arc::clone(&stop), Arc::clone(&self.disk));
        let session = Session { device, disk, named: Vec::new() };
        self.daemon = Some(Daemon { thread: thread::spawn(move || session.run(&told)), stop });
        true
    }

    /// Ends the daemon, as a crash does: what was open is dead.
    pub fn kill(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        *daemon.stop.lock() = true;
        daemon.thread.join().unwrap();
    }

    /// Takes the mount away that a daemon has left behind.
    pub fn unmount(&self) {
        unmount(&self.dir, UnmountFlags::DETACH).unwrap();
    }

    /// Takes another disk, under another name, for the daemon that is started next; returns the one
    /// that it had.
    pub fn change(&mut self, source: &'static str, disk: Disk) -> Disk {
        self.source = source;
        std::mem::replace(&mut self.disk.lock(), disk)
    }

    /// Takes nothing up from now on, as a daemon that was stopped, or goes on.
    pub fn hang(&self, hangs: bool) {
        self.disk.lock().hangs = hangs;
    }

    /// Answers everything with this error from now on, or nothing any more.
    pub fn away(&self, errno: Option<i32>) {
        self.disk.lock().away = errno;
    }
}

impl Disk {
    /// One with a file.
    pub fn with(name: &str, content: &[u8]) -> Self {
        let stored = Stored { ino: TOP + 1, content: content.to_vec() };
        Self { files: [(name.into(), stored)].into(), born: 1, ..Self::default() }
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        self.kill();
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|long| long.to_ne_bytes()).collect()
}

/// `struct fuse_attr`
fn attr(ino: u64, content: &[u8]) -> Vec<u8> {
    let mode = if ino == TOP { 0o40_777 } else { 0o100_666 };
    let len = content.len() as u64;
    let sizes = longs(&[ino, len, len.div_ceil(512), 0, 0, 0]);
    [sizes, words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0])].concat()
}

fn name(body: &[u8]) -> Vec<u8> {
    body.iter().copied().take_while(|byte| *byte != 0).collect()
}

impl Session {
    fn run(mut self, stop: &Mutex<bool>) {
        let mut request = vec![0; 1 << 20];
        let soon = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        while !*stop.lock() {
            if self.disk().hangs {
                thread::sleep(std::time::Duration::from_millis(10));
                continue;
            }
            let mut waiting = [PollFd::new(&self.device, PollFlags::IN)];
            if poll(&mut waiting, Some(&soon)).unwrap() == 0 {
                continue;
            }
            // It fails when the mount is gone.
            let Ok(len) = self.device.read(&mut request) else { return };
            self.reply(&request[..len]);
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock()
    }

    fn reply(&mut self, request: &[u8]) {
        let (opcode, unique) = (u32_at(request, 4), u64_at(request, 8));
        let (node, body) = (u64_at(request, 16), &request[40..]);
        let away = self.disk().away.filter(|_| opcode != 26);
        let answer = match opcode {
            2 => return self.forget(node, u64_at(body, 0)),
            42 => {
                for one in body[8..].chunks_exact(16).take(u32_at(body, 0) as usize) {
                    self.forget(u64_at(one, 0), u64_at(one, 8));
                }
                return;
            }
            _ => away.map_or_else(|| self.answer(opcode, node, body), Err),
        };
        let (error, results) = match answer {
            Ok(results) => (0, results),
            Err(errno) => (-errno, Vec::new()),
        };
        let len = u32::try_from(16 + results.len()).unwrap();
        let head = [&len.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()].concat();
        let _ = self.device.write_all(&[head, results].concat()); // who asked may be gone
    }

    fn answer(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        match opcode {
            26 => Ok([words(&[7, 31, 0, 0, 0, 1 << 16, 1, 0]), vec![0; 32]].concat()), // INIT
            1 => self.entry(&name(body)),                                              // LOOKUP
            35 => {
                // CREATE
                let name = name(&body[16..]);
                let mut disk = self.disk();
                disk.born += 1;
                let stored = Stored { ino: TOP + disk.born, content: Vec::new() };
                disk.files.insert(name.clone(), stored);
                drop(disk);
                Ok([self.entry(&name)?, vec![0; 16]].concat())
            }
            3 | 4 => {
                Ok([vec![0; 16], self.with(node, |file| attr(file.ino, &file.content))?].concat())
            }
            14 | 27 => Ok(vec![0; 16]), // OPEN, OPENDIR
            15 => {
                // READ
                let (at, len) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
                self.with(node, |file| file.content.iter().copied().skip(at).take(len).collect())
            }
            16 => {
                // WRITE
                let (at, len) = (u64_at(body, 8) as usize, u32_at(body, 16) as usize);
                self.with(node, |file| {
                    let end = file.content.len().max(at + len);
                    file.content.resize(end, 0);
                    file.content[at..at + len].copy_from_slice(&body[40..40 + len]);
                })?;
                Ok(words(&[u32_at(body, 16), 0]))
            }
            17 => Ok([
                longs(&[1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19]),
                words(&[4096, 255, 4096]),
                vec![0; 28],
            ]
            .concat()),
            18 | 20 | 25 | 29 | 30 => Ok(Vec::new()), // RELEASE, FSYNC, FLUSH, ...
            28 => Ok(self.list(u64_at(body, 8) as usize)),
            _ => Err(ENOSYS),
        }
    }

    /// Does something with the file of a number.
    fn with<T>(&self, node: u64, work: impl FnOnce(&mut Stored) -> T) -> Result<T, i32> {
        if node == TOP {
            return Ok(work(&mut Stored { ino: TOP, content: Vec::new() }));
        }
        let place = usize::try_from(node - TOP - 1).unwrap();
        let ino = self.named.get(place).copied().flatten().ok_or(ENOENT)?.0;
        self.disk().files.values_mut().find(|file| file.ino == ino).map(work).ok_or(ENOENT)
    }

    /// `struct fuse_entry_out`, with the number that the file has or gets.
    fn entry(&mut self, name: &[u8]) -> Result<Vec<u8>, i32> {
        let stored = self.disk().files.get(name).cloned().ok_or(ENOENT)?;
        let is_it = |slot: &Option<(u64, u64)>| slot.is_some_and(|(ino, _)| ino == stored.ino);
        let place = self.named.iter().position(is_it);
        let place = place.or_else(|| self.named.iter().position(Option::is_none));
        let place = place.unwrap_or_else(|| {
            self.named.push(None);
            self.named.len() - 1
        });
        let times = self.named[place].map_or(0, |(_, times)| times);
        self.named[place] = Some((stored.ino, times + 1));
        let node = TOP + 1 + place as u64;
        Ok([longs(&[node, 0, 0, 0, 0]), attr(stored.ino, &stored.content)].concat())
    }

    fn forget(&mut self, node: u64, times: u64) {
        let Some(place) = node.checked_sub(TOP + 1) else { return };
        if let Some(slot) = self.named.get_mut(usize::try_from(place).unwrap())
            && let Some((_, known)) = slot
        {
            *known = known.saturating_sub(times);
            if *known == 0 {
                *slot = None;
            }
        }
    }

    fn list(&self, from: usize) -> Vec<u8> {
        let disk = self.disk();
        let mut all = Vec::new();
        for (n, (name, file)) in disk.files.iter().enumerate().skip(from) {
            all.extend(longs(&[file.ino, n as u64 + 1]));
            all.extend(words(&[u32::try_from(name.len()).unwrap(), 8]));
            all.extend(name);
            all.resize(all.len().next_multiple_of(8), 0);
        }
        all
    }
}
