//! READ, WRITE and COMMIT (RFC 1813 §3.3.6, §3.3.7, §3.3.21).

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::client::{Client, Cred, NFS, someone};
use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{client, not_tried, privileged};

const STABILITIES: [stable_how; 3] =
    [stable_how::UNSTABLE, stable_how::DATA_SYNC, stable_how::FILE_SYNC];

/// The transfer sizes that FSINFO announces.
fn transfer_max(c: &mut Client, root: &Fh) -> (usize, usize) {
    let info = c.fsinfo(root).ok();
    (info.rtmax.try_into().unwrap(), info.wtmax.try_into().unwrap())
}

/// Bytes without short repetitions.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 31 + i / 251) % 256).unwrap()).collect()
}

#[track_caller]
fn check_read(c: &mut Client, file: &Fh, (offset, count): (u64, u32), expected: &[u8], eof: bool) {
    let read = c.read(file, offset, count).ok();
    assert_eq!(read.data.as_ref(), expected, "{count} bytes at {offset}");
    assert_eq!(usize::try_from(read.count).unwrap(), expected.len());
    assert_eq!(read.eof, eof, "{count} bytes at {offset}");
    assert_eq!(given(&read.file_attributes).size, c.attrs(file).size);
}

#[test]
fn read_returns_data_and_end_of_file() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"0123456789");
    check_read(&mut c, &file, (0, 10), b"0123456789", true);
    check_read(&mut c, &file, (0, 100), b"0123456789", true);
    check_read(&mut c, &file, (0, 9), b"012345678", false);
    check_read(&mut c, &file, (3, 4), b"3456", false);
    check_read(&mut c, &file, (7, 4), b"789", true);
    check_read(&mut c, &file, (10, 1), b"", true);
    check_read(&mut c, &file, (1 << 40, 4096), b"", true);
    assert_eq!(c.read(&file, 0, 0).ok().count, 0);
}

#[test]
fn reading_an_empty_file_is_at_end_of_file() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    check_read(&mut c, &file, (0, 4096), b"", true);
}

#[test]
fn a_hole_reads_as_zeros() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    c.write(&file, 1 << 33, b"end", stable_how::UNSTABLE).ok();
    check_read(&mut c, &file, ((1 << 33) - 2, 10), b"\0\0end", true);
    check_read(&mut c, &file, (0, 4), &[0; 4], false);
}

#[test]
fn the_largest_transfers_are_carried_out_completely() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (rtmax, wtmax) = transfer_max(&mut c, &root);
    let file = c.file(&root, "file");
    let content = pattern(wtmax);
    let written = c.write(&file, 0, &content, stable_how::UNSTABLE).ok();
    assert_eq!(usize::try_from(written.count).unwrap(), wtmax);
    assert_eq!(fs::read(s.dir.join("file")).unwrap(), content);
    fs::write(s.dir.join("file"), pattern(rtmax + 1)).unwrap();
    let read = c.read(&file, 0, rtmax.try_into().unwrap()).ok();
    assert!(read.data.as_ref() == pattern(rtmax), "read other bytes than were written");
    assert!(!read.eof);
}

#[test]
fn a_read_above_the_maximum_is_cut_short() {
    let s =
        Setup::default().start_over(|dir| fs::write(dir.join("file"), pattern(8 << 20)).unwrap());
    let mut c = s.client();
    let root = c.root();
    let (rtmax, _) = transfer_max(&mut c, &root);
    let file = c.find(&root, "file");
    for count in [u32::MAX, 1 << 31, u32::try_from(rtmax).unwrap() + 1] {
        let read = c.read(&file, 0, count).ok();
        assert!((1..=rtmax).contains(&read.data.len()), "{}", read.data.len());
        assert!(!read.eof);
    }
}

#[test]
fn reading_at_an_impossible_offset_ends_or_fails() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    for offset in [(1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX] {
        match c.read(&file, offset, 4096) {
            Nfs3Result::Ok(read) => assert_eq!((read.count, read.eof), (0, true)),
            Nfs3Result::Err((status, _)) => one_of(status, &[NFS3ERR_INVAL, NFS3ERR_FBIG]),
        }
    }
}

#[test]
fn only_regular_files_can_be_read_and_written() {
    let s = Setup::default().start_over(|dir| {
        fs::create_dir(dir.join("dir")).unwrap();
        fs::write(dir.join("file"), b"content").unwrap();
        symlink("file", dir.join("symlink")).unwrap();
        // Opening a FIFO would block until its other end is opened.
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o666.into()).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    for name in ["dir", "symlink", "fifo"] {
        let object = c.find(&root, name);
        let allowed = &[NFS3ERR_INVAL, NFS3ERR_ISDIR];
        one_of(c.read(&object, 0, 10).status(), allowed);
        one_of(c.write(&object, 0, b"other", stable_how::FILE_SYNC).status(), allowed);
    }
    assert_eq!(fs::read(s.dir.join("file")).unwrap(), b"content", "the link was not followed");
}

#[test]
fn reading_and_writing_need_permission() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    if !privileged() {
        // The only user owns the file, and an owner may access it.
        c.setattr(&file, mode(0)).ok();
        c.cred = Cred::user(1000);
        assert_eq!(c.content(&file), b"content");
        return;
    }
    c.setattr(&file, mode(0o600)).ok();
    c.with(someone(), |c| {
        let failed = c.read(&file, 0, 10).fails(NFS3ERR_ACCES);
        assert_eq!(given(&failed.file_attributes).size, 7);
        let before = c.attrs(&file);
        let failed = c.write(&file, 0, b"other", stable_how::UNSTABLE).fails(NFS3ERR_ACCES);
        exact_wcc(&failed.file_wcc, &before, &before);
    });
    c.setattr(&file, mode(0o604)).ok();
    c.with(someone(), |c| {
        assert_eq!(c.content(&file), b"content");
        c.write(&file, 0, b"other", stable_how::UNSTABLE).fails(NFS3ERR_ACCES);
    });
    c.setattr(&file, mode(0o602)).ok();
    c.with(someone(), |c| {
        c.write(&file, 0, b"C", stable_how::UNSTABLE).ok();
        c.read(&file, 0, 10).fails(NFS3ERR_ACCES);
    });
}

#[test]
fn execute_permission_allows_reading() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "program", b"content");
    c.setattr(&file, mode(0o711)).ok();
    if privileged() {
        c.cred = someone();
    }
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn the_owner_reads_and_writes_despite_the_mode() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    if privileged() {
        c.setattr(&file, owner(1000)).ok();
        c.cred = someone();
    }
    for bits in [0o444, 0o222, 0] {
        c.setattr(&file, mode(bits)).ok();
        assert_eq!(c.content(&file), b"content");
        c.write(&file, 0, b"content", stable_how::FILE_SYNC).ok();
    }
}

#[test]
fn a_write_is_at_least_as_stable_as_requested() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for (at, stable) in STABILITIES.into_iter().enumerate() {
        let before = c.attrs(&file);
        let written = c.write(&file, 4 * at as u64, b"abcd", stable).ok();
        assert_eq!(written.count, 4);
        assert!(written.committed as u32 >= stable as u32, "{written:?}");
        exact_wcc(&written.file_wcc, &before, &c.attrs(&file));
    }
    assert_eq!(fs::read(s.dir.join("file")).unwrap(), b"abcdabcdabcd");
}

#[test]
fn the_write_verifier_changes_only_when_the_server_restarts() {
    let mut s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (one, two) = (c.file(&root, "one"), c.file(&root, "two"));
    let first = c.write(&one, 0, b"x", stable_how::UNSTABLE).ok().verf;
    assert_eq!(c.write(&two, 0, b"x", stable_how::FILE_SYNC).ok().verf, first);
    assert_eq!(c.commit(&one, 0, 0).ok().verf, first);
    s.crash_and_restart();
    let mut c = s.client();
    assert_ne!(c.commit(&one, 0, 0).ok().verf, first, "the client would not resend lost data");
}

#[test]
fn commit_accepts_any_range_and_changes_nothing() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    let before = c.attrs(&file);
    for (offset, count) in [(0, 0), (3, 2), (1 << 40, 4096), (u64::MAX, u32::MAX)] {
        let wcc = c.commit(&file, offset, count).ok().file_wcc;
        exact_wcc(&wcc, &before, &before);
    }
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn commit_of_a_directory_or_fifo_does_not_block() {
    let s = Setup::default().start_over(|dir| {
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("fifo"), 0o666.into()).unwrap();
    });
    let mut c = s.client();
    let root = c.root();
    let fifo = c.find(&root, "fifo");
    for object in [&root, &fifo] {
        one_of(c.commit(object, 0, 0).status(), &[NFS3_OK, NFS3ERR_INVAL, NFS3ERR_ISDIR]);
    }
}

#[test]
fn an_empty_write_changes_nothing() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    assert_eq!(c.write(&file, 100, b"", stable_how::FILE_SYNC).ok().count, 0);
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn writing_at_an_impossible_offset_fails() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    for offset in [i64::MAX as u64, i64::MAX as u64 - 2, 1 << 63, u64::MAX - 3, u64::MAX] {
        for stable in STABILITIES {
            let status = c.write(&file, offset, b"beyond", stable).status();
            one_of(status, &[NFS3ERR_FBIG, NFS3ERR_INVAL]);
        }
    }
    assert_eq!(c.content(&file), b"content");
}

#[test]
fn a_count_that_differs_from_the_data_writes_no_more_than_was_sent() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for count in [0, 3, 100, u32::MAX] {
        let mut args = packed(&file);
        args.extend(0u64.to_be_bytes());
        args.extend(client::words(&[count, 0, 4]));
        args.extend(b"data");
        c.raw(NFS, 7, &args); // fails, or writes as much as both allow
        assert!(b"data".starts_with(&c.content(&file)), "{count}");
    }
}

#[test]
fn an_unknown_stable_how_is_garbage() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    let mut args = packed(&file);
    args.extend(0u64.to_be_bytes());
    args.extend(client::words(&[4, 3, 4]));
    args.extend(b"data");
    assert_eq!(c.raw(NFS, 7, &args), client::Reply::Refused(4, vec![]));
    assert_eq!(c.content(&file), b"");
}

#[test]
fn a_write_above_the_maximum_reports_what_was_written() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (_, wtmax) = transfer_max(&mut c, &root);
    let file = c.file(&root, "file");
    let data = pattern(wtmax + 4);
    // A server may write a part, fail, or close the connection; it must not report more than it
    // wrote.
    let mut said = 0;
    let mut args = packed(&file);
    args.extend(0u64.to_be_bytes());
    let count = u32::try_from(data.len()).unwrap();
    args.extend(client::words(&[count, 0, count]));
    args.extend(&data);
    let call = client::message(1, NFS, 7, &c.cred.encoded(), &args);
    let mut other = s.client();
    if other.send(&client::record(&call)).is_ok()
        && let Ok(answer) = other.receive()
        && let (_, client::Reply::Success(results)) = client::Reply::decode(&answer)
        && let Nfs3Result::Ok(written) = client::unpacked::<WRITE3res>(&results)
    {
        said = usize::try_from(written.count).unwrap();
    }
    let content = fs::read(s.dir.join("file")).unwrap();
    assert!(content == data[..said], "wrote {} bytes, reported {said}", content.len());
    c.null();
}

#[test]
fn a_write_by_another_user_clears_the_setuid_bit() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    if !privileged() {
        // The kernel clears the bits on a write by anyone but the superuser.
        c.setattr(&file, mode(0o4755)).ok();
        c.write(&file, 0, b"x", stable_how::UNSTABLE).ok();
        return assert_eq!(c.attrs(&file).mode, 0o755);
    }
    c.setattr(&file, mode(0o6777)).ok();
    c.with(someone(), |c| c.write(&file, 0, b"x", stable_how::UNSTABLE).ok());
    assert_eq!(c.attrs(&file).mode, 0o777);
}

#[test]
fn a_full_file_system_is_nospc_and_keeps_earlier_data() {
    if !privileged() {
        return not_tried("mounting a disk needs privileges");
    }
    let s = Setup::default().disk("size=1m").start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    let data = pattern(64 << 10);
    let mut offset = 0;
    let status = loop {
        match c.write(&file, offset, &data, stable_how::UNSTABLE) {
            Nfs3Result::Ok(written) => offset += u64::from(written.count),
            Nfs3Result::Err((status, _)) => break status,
        }
        assert!(offset < 16 << 20, "the disk never fills up");
    };
    assert_eq!(status, NFS3ERR_NOSPC);
    assert!(offset > 0);
    assert_eq!(c.attrs(&file).size, offset);
    c.setattr(&file, size(0)).ok();
    c.write(&file, 0, &data, stable_how::FILE_SYNC).ok();
}
