//! A slow disk: who waits for it, who shares its flushes, and who is not held up.
//!
//! What must not happen is shown by an order of replies, never by how long something took.

use std::fs;

use crate::support::client::{Client, unpacked};
use crate::support::eventually;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

/// Calls that are outstanding at a time.
const MANY: usize = 64;

/// Fails if any answer has come. A call that is made afterwards and answered first is the proof.
#[track_caller]
fn nothing_is_answered(c: &mut Client) {
    let null = c.ask(NFS_PROGRAM::NFSPROC3_NULL, &[Vec::new()]);
    c.answers(&null);
}

fn creates(dir: &Fh, numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(|number| create_args(dir, &format!("file{number}"))).collect()
}

/// What is written by the call of this number: no zeros, which a hole has too.
fn data(number: usize) -> [u8; 512] {
    [u8::try_from(number % 255 + 1).unwrap(); 512]
}

fn writes(file: &Fh, count: usize, stable: stable_how) -> Vec<Vec<u8>> {
    (0..count).map(|number| write_args(file, number as u64 * 512, stable, &data(number))).collect()
}

fn names(s: &Server) -> usize {
    fs::read_dir(&s.dir).unwrap().count()
}

#[test]
fn creates_that_wait_together_share_a_few_flushes() {
    let s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    disk.hold_after(0);
    let first = c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &creates(&root, 0..1));
    eventually("the first flush has begun", || disk.flushes() == 1);
    let others = c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &creates(&root, 1..MANY));
    eventually("all files are made", || names(&s) == MANY);
    s.until_calls_rest();
    nothing_is_answered(&mut c);
    disk.release();
    for answer in c.answers(&[first, others].concat()).into_values() {
        unpacked::<CREATE3res>(&answer).ok();
    }
    // Those of the first; then one of the file system, and one of the directory for its errors.
    assert!(disk.flushes() <= 4, "{} flushes for {MANY} files", disk.flushes());
}

#[test]
fn a_change_is_answered_after_a_flush_that_began_after_it() {
    let s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let before = disk.flushes();
    c.file(&root, "before");
    let each = disk.flushes() - before;
    disk.hold_after(disk.flushes());
    let mut last = Vec::new();
    for made in 0..3 {
        let begun = disk.flushes();
        let next = c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &creates(&root, made..made + 1));
        eventually("the file is made", || names(&s) == 2 + made);
        if last.is_empty() {
            eventually("a flush has begun", || disk.flushes() > begun);
        } else {
            // The flush that is running began before: it answers the call before this one only.
            disk.hold_after(disk.flushes() - 1 + each);
            c.answers(&last);
            eventually("the next flush has begun", || disk.flushes() == begun + each);
        }
        nothing_is_answered(&mut c);
        last = next;
    }
    disk.release();
    c.answers(&last);
}

#[test]
fn durable_writes_that_wait_together_share_a_flush() {
    for stable in [stable_how::DATA_SYNC, stable_how::FILE_SYNC] {
        let s = Setup::default().faults().start();
        let (mut c, disk) = (s.client(), s.faults());
        let root = c.root();
        let file = c.file(&root, "file");
        let before = disk.flushes();
        disk.hold_after(before);
        let mut args = writes(&file, MANY, stable);
        let others = args.split_off(1);
        let first = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &args);
        eventually("the first flush has begun", || disk.flushes() == before + 1);
        let others = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &others);
        let all: Vec<_> = (0..MANY).flat_map(data).collect();
        eventually("all is written", || fs::read(s.dir.join("file")).unwrap() == all);
        s.until_calls_rest();
        nothing_is_answered(&mut c);
        disk.release();
        for answer in c.answers(&[first, others].concat()).into_values() {
            let written = unpacked::<WRITE3res>(&answer).ok();
            assert_eq!((written.count, written.committed), (512, stable));
        }
        assert_eq!(disk.flushes() - before, 2, "that of the first, and one for the others");
    }
}

#[test]
fn a_flush_that_fails_fails_for_all_who_waited_and_changes_the_verifier() {
    let s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let file = c.file(&root, "file");
    let before = c.commit(&file, 0, 0).ok().verf;
    disk.fail(true);
    let asked = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &writes(&file, MANY, stable_how::FILE_SYNC));
    for answer in c.answers(&asked).into_values() {
        unpacked::<WRITE3res>(&answer).fails(NFS3ERR_IO);
    }
    let asked = c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &creates(&root, 0..MANY));
    for answer in c.answers(&asked).into_values() {
        unpacked::<CREATE3res>(&answer).fails(NFS3ERR_IO);
    }
    c.commit(&file, 0, 0).fails(NFS3ERR_IO);
    disk.fail(false);
    assert_ne!(c.commit(&file, 0, 0).ok().verf, before);
}

#[test]
fn reads_that_wait_for_the_disk_hold_up_no_other_call() {
    let s =
        Setup::default().faults().start_over(|dir| fs::write(dir.join("file"), [7; 4096]).unwrap());
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let file = c.find(&root, "file");
    c.content(&file); // it is open, and read where calls arrive
    disk.cold();
    disk.hold_after(0);
    let read = packed(&READ3args { file: file.clone(), offset: 0, count: 4096 });
    let slow = c.ask(NFS_PROGRAM::NFSPROC3_READ, &vec![read; 16]);
    let quick = c.ask(NFS_PROGRAM::NFSPROC3_GETATTR, &vec![packed(&file); 500]);
    c.answers(&quick);
    assert_eq!(c.names(&root, 4096), [b"file"], "nor one that needs a thread");
    disk.release();
    for answer in c.answers(&slow).into_values() {
        assert_eq!(unpacked::<READ3res<'_>>(&answer).ok().data.as_ref(), [7; 4096]);
    }
}

#[test]
fn calls_that_wait_for_flushes_hold_no_thread() {
    let s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let file = c.file(&root, "file");
    disk.hold_after(0);
    // More than the pool has threads, fewer than one connection may have outstanding.
    let slow = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &writes(&file, 100, stable_how::FILE_SYNC));
    let more = c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &creates(&root, 0..100));
    eventually("all files are made", || names(&s) == 101);
    assert_eq!(c.names(&root, 1 << 16).len(), 101);
    disk.release();
    c.answers(&[slow, more].concat());
}

#[test]
fn a_file_that_hangs_leaves_the_threads_to_others() {
    let s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let file = c.file(&root, "file");
    disk.stuck(true);
    // Larger than what is written where calls arrive; more than the pool has threads.
    let args = write_args(&file, 0, stable_how::UNSTABLE, &vec![7; 80 << 10]);
    let slow = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &vec![args; MANY]);
    nothing_is_answered(&mut c);
    assert_eq!(c.names(&root, 4096), [b"file"], "a listing needs a thread");
    disk.stuck(false);
    for answer in c.answers(&slow).into_values() {
        assert_eq!(unpacked::<WRITE3res>(&answer).ok().count, 80 << 10);
    }
}
