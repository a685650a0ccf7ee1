//! Which calls wait for the files of a full volume, and which do not.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use super::*;
use crate::fs::flush::Extent;
use crate::fs::handle::{KEY_LEN, Key};
use crate::fs::testing::{Files, VOLUME, Volume, errno, volume};
use crate::quota::ledger::Ledger;
use crate::quota::{LimitRule, QuotaLimits, Usage};
use crate::sched::Patience;

const LONG: Duration = Duration::from_secs(60);
const WAIT: Patience = Patience::Blocking;

/// A volume that is full with the room that is held for its file until a flush.
fn full() -> (Volume, Arc<Node>) {
    let volume = volume(60 * 1024, None);
    let root = volume.files().root();
    let file = volume.files().create(&root, "file").unwrap();
    for n in 1..7 {
        volume.files().write(&file, n << 20, 4096).unwrap();
    }
    assert!(volume.account.left() < 2 * 4096 && volume.account.late() > 6 * 4096);
    (volume, file)
}

/// Writes four blocks once. Returns whether they may fit later if they do not.
fn write(volume: &Volume, file: &Node) -> (Result<usize>, bool) {
    let guard = volume.fs.lock(file, WAIT).unwrap();
    let (attr, data) = (file.attr().unwrap(), (9 << 20, &[1; 4 * 4096][..]));
    let written = volume.fs.write(file, &attr, &volume.files().who, data, WAIT, &guard);
    (written.map(|written| written.count).map_err(errno), guard.may_have_room_later())
}

/// Flushes a volume. Returns where the end is reported.
fn settled(fs: &Fs, id: ExportId) -> Receiver<Result<()>> {
    let (told, settled) = channel();
    fs.flush_volume(id, Box::new(move |settled| told.send(settled).unwrap()));
    settled
}

#[test]
fn no_call_waits_for_a_flush_with_a_lock() {
    let (volume, file) = full();
    let hangs = file.flushing.lock();
    let settled = thread::scope(|scope| {
        // If a call waited, the test would wait for it.
        let (done, ends) = channel();
        let (volume, file) = (&volume, &file);
        scope.spawn(move || {
            let directory = volume.files().root();
            let guard = volume.fs.lock(&directory, WAIT).unwrap();
            let room = volume.fs.hold_birth(&directory, b"new", 1 << 15, &guard);
            let refused = (room.map(drop).map_err(errno), guard.may_have_room_later());
            drop(guard);
            let settled = settled(&volume.fs, VOLUME);
            done.send((refused, write(volume, file), settled)).unwrap();
        });
        let ended = ends.recv_timeout(LONG);
        let is_flushed = ended.as_ref().is_ok_and(|(.., settled)| settled.try_recv().is_ok());
        drop(hangs);
        let (birth, write, settled) = ended.expect("it waits for the flush");
        assert_eq!((birth, write), ((Err(Errno::NOSPC), true), (Err(Errno::NOSPC), true)));
        assert!(!is_flushed);
        settled
    });
    settled.recv_timeout(LONG).unwrap().unwrap();
    assert_eq!((file.charge.delayed(), volume.account.late()), (0, 0));
    assert_eq!(write(&volume, &file).0, Ok(4 * 4096));
}

#[test]
fn a_volume_that_is_really_full_is_reported_as_full() {
    let (volume, file) = full();
    let other = volume.files().create(&volume.files().root(), "other").unwrap();
    let sizes = (0..).map_while(|n| volume.files().write(&other, n * 4096, 4096).ok());
    assert!(sizes.count() > 0);
    assert_eq!(write(&volume, &file), (Err(Errno::NOSPC), false), "nothing is held");
}

#[test]
fn a_call_during_the_flush_of_a_volume_waits_for_the_next_one() {
    let (volume, file) = full();
    let hangs = file.flushing.lock();
    let first = settled(&volume.fs, VOLUME);
    let others = [settled(&volume.fs, VOLUME), settled(&volume.fs, VOLUME)];
    assert!(first.try_recv().is_err());
    drop(hangs);
    for told in [first].into_iter().chain(others) {
        told.recv_timeout(LONG).unwrap().unwrap();
    }
    assert_eq!(volume.account.late(), 0);
}

#[test]
fn full_volumes_leave_threads_to_other_flushes() {
    const MANY: u64 = 12;
    let dir = tempfile::tempdir().unwrap();
    let fs = Fs::new(Key::new([1; KEY_LEN]), 4096, dir.path()).unwrap();
    let ledger = Ledger::open(dir.path().join("ledger"), || Ok(()));
    let limits = QuotaLimits { bytes: 1 << 20, inodes: None, rule: LimitRule::Enforce };
    let ids = (1..=MANY).map(ExportId);
    let all: Vec<_> = ids
        .map(|id| {
            let below = dir.path().join(id.0.to_string());
            std::fs::create_dir(&below).unwrap();
            let account = ledger.fresh(&id.0.to_string(), limits, Usage::default());
            fs.attach(id, &below, None, Some(account)).unwrap();
            let files = Files::of(&fs, id);
            let file = files.create(&files.root(), "file").unwrap();
            files.write(&file, 1 << 19, 4096).unwrap();
            assert!(file.charge.delayed() > 0);
            (id, file)
        })
        .collect();
    let hang: Vec<_> = all.iter().map(|(_, file)| file.flushing.lock()).collect();
    let settled: Vec<_> = all.iter().map(|(id, _)| settled(&fs, *id)).collect();
    let files = Files::of(&fs, all[0].0);
    let other = files.create(&files.root(), "other").unwrap();
    let (flushed, ends) = channel();
    thread::scope(|scope| {
        scope.spawn(|| flushed.send(fs.flush(&other, Extent::All)).unwrap());
        let ended = ends.recv_timeout(LONG);
        drop(hang);
        ended.expect("a thread is left").unwrap();
    });
    for told in settled {
        told.recv_timeout(LONG).unwrap().unwrap();
    }
}
