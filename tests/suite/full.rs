//! A volume that is full only with what is held for its files until they are flushed: who waits for
//! that, and who does not.

use crate::support::client::{Client, unpacked};
use crate::support::eventually;
use crate::support::server::Setup;
use crate::support::volumes::{Port, du};
use crate::support::wire::*;

const MIB: u64 = 1 << 20;

/// Writes of a block to each of `files` in turn. They lie so far apart that as much is held for
/// finding each of them.
fn scattered(files: [&Fh; 2], numbers: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    let write = |number: u64| {
        let (file, at) = (files[(number % 2) as usize], (number + 1) * MIB);
        write_args(file, at, stable_how::UNSTABLE, &[7; 4096])
    };
    numbers.map(write).collect()
}

/// Asks for more than fits before a flush, and for less than fits after it; answers when that has
/// begun, and there is room for nothing.
fn overfill(port: &Port, c: &mut Client, root: &Fh, files: [&Fh; 2]) -> Vec<u32> {
    let small = c.file(root, "small");
    let disk = port.server.faults();
    let before = disk.flushes();
    disk.hold_after(before);
    let asked = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &scattered(files, 0..200));
    eventually("a file of the full volume is flushed", || disk.flushes() == before + 1);
    port.server.until_calls_rest();
    // Blocks that need no more than themselves.
    let write = |n: u64| write_args(&small, n * 4096, stable_how::UNSTABLE, &[7; 4096]);
    let rest = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &(0..4).map(write).collect::<Vec<_>>());
    port.server.until_calls_rest();
    [asked, rest].concat()
}

#[test]
fn a_full_volume_is_flushed_while_its_files_are_used_and_has_room_then() {
    let port = Port::start_as(Setup::faults);
    port.done("create a --capacity 1Mi");
    let (mut c, mut other) = (port.server.client(), port.server.client());
    let root = c.mounted("/a");
    let files = [c.file(&root, "one"), c.file(&root, "two")];
    let asked = overfill(&port, &mut c, &root, [&files[0], &files[1]]);

    // All of them need the lock of the file or directory.
    for (file, at) in [(&files[0], MIB), (&files[1], 2 * MIB)] {
        assert_eq!(other.write(file, at, &[8; 4096], stable_how::UNSTABLE).ok().count, 4096);
    }
    other.create(&root, "one", createhow3::GUARDED(mode(0o600))).fails(NFS3ERR_EXIST);
    // This one waits as well, and for nobody if its client is gone.
    let mut gone = port.server.client();
    gone.ask(NFS_PROGRAM::NFSPROC3_WRITE, &scattered([&files[0], &files[1]], 300..301));
    gone.ask(NFS_PROGRAM::NFSPROC3_CREATE, &[create_args(&root, "late")]);
    port.server.until_calls_rest();
    drop(gone);

    port.server.faults().release();
    for answer in c.answers(&asked).into_values() {
        assert_eq!(unpacked::<WRITE3res>(&answer).ok().count, 4096);
    }
    eventually("the file of a client that is gone is made", || {
        other.names(&root, 4096).contains(&b"late".to_vec())
    });
    c.commit(&files[0], 0, 0).ok();
    c.commit(&files[1], 0, 0).ok();
    let (bytes, _) = du(&port.volumes.join("a"));
    assert!(bytes <= MIB && bytes > 200 * 4096, "{bytes} bytes");
    assert_eq!(port.number("a", "used"), bytes);
}

#[test]
fn calls_that_wait_for_a_full_volume_hold_no_thread() {
    let port = Port::start_as(Setup::faults);
    port.done("create a --capacity 1Mi");
    let mut c = port.server.client();
    let root = c.mounted("/a");
    let files = [c.file(&root, "one"), c.file(&root, "two")];
    let asked = overfill(&port, &mut c, &root, [&files[0], &files[1]]);
    // More than there are threads.
    let mut others: Vec<_> = (0..64).map(|_| port.server.client()).collect();
    let waiting: Vec<_> = others
        .iter_mut()
        .enumerate()
        .map(|(n, other)| {
            let name = format!("new{n}");
            other.ask(NFS_PROGRAM::NFSPROC3_CREATE, &[create_args(&root, &name)])
        })
        .collect();
    port.server.until_calls_rest();
    let mut client = port.server.client();
    assert_eq!(client.names(&root, 4096).len(), 3, "a listing needs a thread");
    port.server.faults().release();
    c.answers(&asked);
    for (other, asked) in others.iter_mut().zip(waiting) {
        for answer in other.answers(&asked).into_values() {
            unpacked::<CREATE3res>(&answer).ok();
        }
    }
}

#[test]
fn whoever_waits_for_room_that_does_not_come_is_told_so() {
    let port = Port::start();
    port.done("create a --capacity 1Mi");
    let mut c = port.server.client();
    let root = c.mounted("/a");
    let files = [c.file(&root, "one"), c.file(&root, "two")];
    let calls = scattered([&files[0], &files[1]], 0..280); // a block each, of 256 that there are
    let asked = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &calls);
    let answers = c.answers(&asked).into_values();
    let written = answers.filter(|answer| match unpacked::<WRITE3res>(answer) {
        Nfs3Result::Ok(ok) => ok.count == 4096,
        Nfs3Result::Err((status, _)) => {
            assert_eq!(status, NFS3ERR_NOSPC);
            false
        }
    });
    let written = written.count();
    assert!((240..256).contains(&written), "{written} blocks fitted");
    c.commit(&files[0], 0, 0).ok();
    c.commit(&files[1], 0, 0).ok();
    let (bytes, _) = du(&port.volumes.join("a"));
    assert!(bytes <= MIB, "{bytes} bytes");
}
