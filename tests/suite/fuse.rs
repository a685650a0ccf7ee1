//! A backing file system in user space, which may give a handle to another file, go away and come
//! back.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;

use crate::support::client::Client;
use crate::support::fuse::{Disk, Fuse};
use crate::support::server::{Server, Setup, free_port};
use crate::support::wire::*;
use crate::support::{Mode, eventually, not_tried, privileged};

const ENOTCONN: i32 = 107;

/// What a file system says while it is away.
const AWAY: [i32; 4] = [ENOTCONN, 108, 77, 110];

/// A server over such a file system.
fn start() -> Option<(Server, Fuse)> {
    start_with(&[])
}

fn start_with(args: &[&str]) -> Option<(Server, Fuse)> {
    let mut fuse = None;
    if privileged() {
        let server = Setup::default().args(args).start_over(|dir| fuse = Fuse::mount(dir));
        if let Some(fuse) = fuse {
            return Some((server, fuse));
        }
    }
    not_tried("it takes root and /dev/fuse");
    None
}

fn read(c: &mut Client, file: &Fh) -> Result<Vec<u8>, nfsstat3> {
    let read = c.read(file, 0, 100);
    match read.status() {
        NFS3_OK => Ok(read.ok().data.as_ref().to_vec()),
        status => Err(status),
    }
}

#[test]
fn a_handle_that_is_given_to_another_file_leads_to_neither_of_them_or_to_the_right_one() {
    let Some((mut s, mut fuse)) = start() else { return };
    let mut c = s.client();
    let root = c.root();
    let mine = c.file_of(&root, "mine", b"mine");
    c.file_of(&root, "secret", b"secret");
    assert_eq!(read(&mut c, &mine), Ok(b"mine".to_vec()));
    s.signal(Signal::KILL);
    s.wait();
    fuse.kill();
    fuse.unmount();
    assert!(fuse.start());
    s.launch_again();
    let mut c = s.client();
    // The first that is asked for gets the first number, which the other file had.
    let secret = c.find(&root, "secret");
    assert_eq!(read(&mut c, &secret), Ok(b"secret".to_vec()));
    let expected = match Mode::current() {
        Mode::Path => Ok(b"mine".to_vec()),
        Mode::Root | Mode::Rootless => Err(NFS3ERR_STALE),
    };
    assert_eq!(read(&mut c, &mine), expected);
    let written = c.write(&mine, 0, b"MINE", stable_how::FILE_SYNC).status();
    assert_eq!(written == NFS3_OK, expected.is_ok());
    assert_eq!(read(&mut c, &secret), Ok(b"secret".to_vec()));
}

#[test]
fn clients_wait_while_the_file_system_is_away() {
    let Some((s, fuse)) = start() else { return };
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    for errno in AWAY {
        fuse.away(Some(errno));
        c.getattr(&file).fails(NFS3ERR_JUKEBOX);
        c.getattr(&root).fails(NFS3ERR_JUKEBOX);
        c.lookup(&root, "file").fails(NFS3ERR_JUKEBOX);
        c.read(&file, 0, 10).fails(NFS3ERR_JUKEBOX);
        c.write(&file, 0, b"x", stable_how::FILE_SYNC).fails(NFS3ERR_JUKEBOX);
        c.commit(&file, 0, 0).fails(NFS3ERR_JUKEBOX);
        fuse.away(None);
        assert_eq!(read(&mut c, &file), Ok(b"content".to_vec()), "{errno}");
    }
}

#[test]
fn clients_go_on_when_a_daemon_that_ended_is_mounted_anew() {
    let Some((s, mut fuse)) = start() else { return };
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"content");
    let before = c.write(&file, 0, b"CONTENT", stable_how::UNSTABLE).ok().verf;
    fuse.kill();
    c.getattr(&file).fails(NFS3ERR_JUKEBOX);
    c.getattr(&root).fails(NFS3ERR_JUKEBOX);
    fuse.unmount(); // what lies below is another directory
    c.getattr(&root).fails(NFS3ERR_JUKEBOX);
    assert!(fuse.start());
    eventually("the export is opened anew", || c.getattr(&root).status() == NFS3_OK);
    // A daemon keeps no handles; those that are found by path go on.
    let file = if Mode::current() == Mode::Path { file } else { c.find(&root, "file") };
    assert_eq!(read(&mut c, &file), Ok(b"CONTENT".to_vec()));
    let after = c.write(&file, 0, b"again", stable_how::FILE_SYNC).ok().verf;
    assert_ne!(after, before, "what was not flushed may be lost");
    assert_eq!(c.names(&root, 4096), [b"file"]);
}

#[test]
fn what_another_file_system_has_is_not_taken_for_what_was_there() {
    let Some((mut s, mut fuse)) = start() else { return };
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", b"mine");
    fuse.kill();
    c.getattr(&root).fails(NFS3ERR_JUKEBOX);
    fuse.unmount();
    // Its files have the same numbers.
    let mine = fuse.change("other", Disk::with("file", b"secret"));
    assert!(fuse.start());
    eventually("the server has seen it", || s.log().contains("another file system is mounted"));
    for fh in [&root, &file] {
        c.getattr(fh).fails(NFS3ERR_JUKEBOX);
    }
    assert_eq!(read(&mut c, &file), Err(NFS3ERR_JUKEBOX));
    // Neither after a restart, which serves what is there.
    s.restart();
    let mut c = s.client();
    assert_eq!(read(&mut c, &file), Err(NFS3ERR_STALE));
    c.write(&file, 0, b"MINE", stable_how::FILE_SYNC).fails(NFS3ERR_STALE);
    let other = c.root();
    let secret = c.find(&other, "file");
    assert_ne!(other, root);
    assert_eq!(read(&mut c, &secret), Ok(b"secret".to_vec()));
    // What was there first is served again once it is back.
    s.signal(Signal::KILL);
    s.wait();
    fuse.kill();
    fuse.unmount();
    fuse.change("test", mine);
    assert!(fuse.start());
    s.launch_again();
    let mut c = s.client();
    assert_eq!(c.root(), root);
    assert_eq!(read(&mut c, &secret), Err(NFS3ERR_STALE));
    let file = c.find(&root, "file");
    assert_eq!(read(&mut c, &file), Ok(b"mine".to_vec()));
}

#[test]
fn the_end_waits_for_no_file_system_that_hangs() {
    let Some((mut s, fuse)) = start_with(&["--grace", "1"]) else { return };
    let mut c = s.client();
    let root = c.root();
    let files = ["one", "other"].map(|name| c.file(&root, name));
    for file in &files {
        c.write(file, 0, b"content", stable_how::UNSTABLE).ok();
    }
    fuse.hang(true);
    // Something that waits in a thread when the end comes.
    let commit = COMMIT3args { file: files[0].clone(), offset: 0, count: 0 };
    c.ask(NFS_PROGRAM::NFSPROC3_COMMIT, &[packed(&commit)]);
    s.signal(Signal::TERM);
    eventually("it says what it leaves", || s.log().contains("files=2"));
    // The kernel keeps the process until the daemon lets it close its files; others need not wait.
    let lock = File::open(s.beside("state/lock")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(lock);
    fuse.hang(false);
    assert_eq!(s.wait().code(), Some(1));
    s.launch_again();
}

#[test]
fn a_start_waits_for_a_file_system_that_is_away() {
    let admin = format!("127.0.0.1:{}", free_port());
    let Some((mut s, mut fuse)) = start_with(&["--admin", &admin]) else { return };
    s.signal(Signal::TERM);
    assert!(s.wait().success());
    fuse.kill();
    for goes_on in [false, true] {
        s.launch_without_waiting();
        let told = |times| s.log().matches("until it is back: mount it again").count() == times;
        eventually("it says what it waits for", || told(1 + usize::from(goes_on)));
        assert_eq!(http_status(&admin, "/livez"), 200);
        assert_eq!(http_status(&admin, "/readyz"), 503);
        if !goes_on {
            s.signal(Signal::TERM);
            assert!(s.wait().success());
        }
    }
    fuse.unmount();
    // Whatever lies below is not what is served from here on: that would be an empty directory.
    assert!(fuse.start());
    eventually("it serves", || http_status(&admin, "/readyz") == 200);
    s.client().root();
}

fn http_status(admin: &str, path: &str) -> u16 {
    let mut stream = TcpStream::connect(admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    said.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap()
}
