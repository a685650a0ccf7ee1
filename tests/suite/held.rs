//! What the server keeps open: no file longer than something needs it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::slice;

use crate::support::client::{Client, unpacked};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::support::server::{Server, Setup};
use crate::support::wire::*;
use crate::support::{eventually, not_tried, privileged};

/// The content of a program that does nothing.
fn program() -> Vec<u8> {
    fs::read("/bin/true").unwrap()
}

fn new_program(c: &mut Client, root: &Fh, name: &str) -> Fh {
    let how = createhow3::UNCHECKED(mode(0o755));
    let created = c.create(root, name, how).ok();
    given_handle(&created.obj)
}

fn given_handle(handle: &Nfs3Option<Fh>) -> Fh {
    match handle {
        Nfs3Option::Some(handle) => handle.clone(),
        Nfs3Option::None => panic!("no handle"),
    }
}

/// Runs a program beside the server; whether it could be.
fn runs(program: &Path) -> bool {
    match Command::new(program).status() {
        Ok(status) => status.success(),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(26), "{error}"); // ETXTBSY
            false
        }
    }
}

/// Writes a program in pieces; whether it can be run once that is committed.
#[test]
fn a_program_can_be_run_as_soon_as_it_is_committed() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for stability in [stable_how::UNSTABLE, stable_how::DATA_SYNC, stable_how::FILE_SYNC] {
        let name = format!("{stability:?}");
        let file = new_program(&mut c, &root, &name);
        for (n, piece) in program().chunks(64 * 1024).enumerate() {
            c.write(&file, n as u64 * 64 * 1024, piece, stability).ok();
        }
        if stability == stable_how::UNSTABLE {
            c.commit(&file, 0, 0).ok();
        }
        assert!(runs(&s.dir.join(&name)), "{name}");
    }
}

#[test]
fn a_program_that_nobody_commits_can_be_run_though_somebody_looks_at_it() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = new_program(&mut c, &root, "program");
    c.write(&file, 0, &program(), stable_how::UNSTABLE).ok();
    eventually("the program can be run", || {
        c.getattr(&file).ok();
        c.read(&file, 0, 100).ok();
        runs(&s.dir.join("program"))
    });
}

#[test]
fn a_file_that_is_flushed_again_and_again_is_written_to_the_end_and_then_free() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = new_program(&mut c, &root, "program");
    c.write(&file, 0, &program(), stable_how::UNSTABLE).ok();
    for n in 0..200 {
        let (byte, at) = (&program()[n..=n], n as u64);
        c.write(&file, at, byte, stable_how::UNSTABLE).ok();
        c.commit(&file, 0, 0).ok();
    }
    assert_eq!(c.read(&file, 0, 1 << 20).ok().data.as_ref(), program());
    eventually("the program can be run", || {
        c.getattr(&file).ok();
        runs(&s.dir.join("program"))
    });
}

#[test]
fn a_commit_that_waits_for_the_one_before_is_not_left_without_the_file() {
    let s = Setup::default().faults().start();
    let (mut c, disk) = (s.client(), s.faults());
    let root = c.root();
    let file = new_program(&mut c, &root, "program");
    let verifier = c.write(&file, 0, &program(), stable_how::UNSTABLE).ok().verf;
    let before = disk.flushes();
    disk.hold_after(before);
    let commit = packed(&COMMIT3args { file, offset: 0, count: 0 });
    let first = c.ask(NFS_PROGRAM::NFSPROC3_COMMIT, slice::from_ref(&commit));
    eventually("the first flush has begun", || disk.flushes() == before + 1);
    let second = c.ask(NFS_PROGRAM::NFSPROC3_COMMIT, &[commit]);
    // Where calls arrive, or in the pool: this one is answered when the second waits.
    let null = c.ask(NFS_PROGRAM::NFSPROC3_NULL, &[Vec::new()]);
    c.answers(&null);
    s.until_calls_rest();
    disk.release();
    for answer in c.answers(&[first, second].concat()).into_values() {
        assert_eq!(unpacked::<COMMIT3res>(&answer).ok().verf, verifier);
    }
    assert_eq!(disk.flushes(), before + 2);
    assert!(runs(&s.dir.join("program")));
}

/// The files without a name that the server has open in its export.
fn nameless(s: &Server) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", s.pid().as_raw_nonzero())).unwrap();
    let links = open.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let export = s.dir.to_str().unwrap();
    let gone = |link: &Path| {
        let link = link.to_string_lossy();
        link.starts_with(export) && link.ends_with(" (deleted)")
    };
    links.filter(|link| gone(link)).count()
}

#[test]
fn a_file_removed_beside_the_server_gives_its_space_back_though_a_client_asks_for_it() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for committed in [true, false] {
        let name = format!("committed {committed}");
        let file = c.file_of(&root, &name, b"content");
        c.write(&file, 0, b"content", stable_how::UNSTABLE).ok();
        if committed {
            c.commit(&file, 0, 0).ok();
        }
        c.read(&file, 0, 10).ok();
        fs::remove_file(s.dir.join(&name)).unwrap();
        eventually("the file is closed", || {
            c.getattr(&file).fails(NFS3ERR_STALE);
            c.read(&file, 0, 10).fails(NFS3ERR_STALE);
            c.write(&file, 0, b"x", stable_how::UNSTABLE).fails(NFS3ERR_STALE);
            c.commit(&file, 0, 0).fails(NFS3ERR_STALE);
            nameless(&s) == 0
        });
    }
}

#[test]
fn who_reads_a_file_that_another_client_replaces_or_removes_reads_on() {
    let s = Server::start();
    let (mut reader, mut other) = (s.client(), s.client());
    let root = reader.root();
    let (replaced, removed) = (
        reader.file_of(&root, "replaced", b"the old"),
        reader.file_of(&root, "removed", b"the old"),
    );
    for file in [&replaced, &removed] {
        assert_eq!(reader.read(file, 0, 3).ok().data.as_ref(), b"the");
    }
    other.file_of(&root, "new", b"the new");
    other.rename((&root, "new"), (&root, "replaced")).ok();
    other.remove(&root, "removed").ok();
    for file in [&replaced, &removed] {
        assert_eq!(reader.read(file, 3, 10).ok().data.as_ref(), b" old");
        assert_eq!(reader.attrs(file).nlink, 0, "a client that opens it must see that it is gone");
        assert_eq!(reader.access(file, 1).ok().access, 1);
        reader.write(file, 0, b"x", stable_how::UNSTABLE).fails(NFS3ERR_STALE);
        reader.setattr(file, mode(0o777)).fails(NFS3ERR_STALE);
        reader.link(file, &root, "again").fails(NFS3ERR_STALE);
    }
    let found = reader.find(&root, "replaced");
    assert_eq!(reader.content(&found), b"the new");
    assert_eq!(reader.names(&root, 4096), [b"replaced"]);
    eventually("both are closed", || {
        let status = [&replaced, &removed].map(|file| reader.read(file, 0, 10).status());
        status == [NFS3ERR_STALE; 2] && nameless(&s) == 0
    });
}

/// A program that runs beside the server until the test is over.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn what_is_in_use_is_refused_and_not_put_off() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    fs::copy("/bin/sleep", s.dir.join("program")).unwrap();
    let file = c.find(&root, "program");
    let _running = Running(Command::new(s.dir.join("program")).arg("1000").spawn().unwrap());
    c.write(&file, 0, b"x", stable_how::UNSTABLE).fails(NFS3ERR_ACCES);
    c.setattr(&file, size(0)).fails(NFS3ERR_ACCES);
    c.read(&file, 0, 10).ok();
    // Another file may take its name meanwhile, as at an upgrade.
    c.file_of(&root, "new", b"new");
    c.rename((&root, "new"), (&root, "program")).ok();
}

#[test]
fn a_mount_point_is_refused_and_not_put_off() {
    if !privileged() {
        return not_tried("it takes root to mount");
    }
    let s = Setup::default().disk("size=1m").start();
    let mut c = s.client();
    let root = c.root();
    for name in ["point", "other"] {
        c.dir(&root, name);
    }
    let point = s.dir.join("point");
    rustix::mount::mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
    let statuses = [
        c.rmdir(&root, "point").status(),
        c.rename((&root, "point"), (&root, "moved")).status(),
        c.rename((&root, "other"), (&root, "point")).status(),
    ];
    rustix::mount::unmount(&point, UnmountFlags::DETACH).unwrap();
    for status in statuses {
        one_of(status, &[NFS3ERR_ACCES, NFS3ERR_XDEV]);
    }
    c.rmdir(&root, "point").ok();
}
