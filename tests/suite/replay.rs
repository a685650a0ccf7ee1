//! The reply cache: a retransmitted call gets the reply of the first transmission.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::client::{Client, Cred, NFS, Reply, message, record, unpacked};
use crate::support::server::Server;
use crate::support::wire::*;
use crate::support::{not_tried, privileged};

/// An encoded call, which can be sent repeatedly.
fn call(c: &mut Client, procedure: NFS_PROGRAM, args: &[u8]) -> Vec<u8> {
    let xid = c.next_xid();
    message(xid, NFS, procedure as u32, &c.cred.encoded(), args)
}

fn at(dir: &Fh, name: &str) -> Vec<u8> {
    let mut args = packed(dir);
    args.extend(packed(&filename3::from(name.as_bytes())));
    args
}

/// Sends a call three times, the third time on a new connection, and returns the common reply.
#[track_caller]
fn thrice(s: &Server, c: &mut Client, message: &[u8]) -> Vec<u8> {
    let first = c.exchange(message).results();
    assert_eq!(c.exchange(message).results(), first, "on the same connection");
    assert_eq!(s.client().exchange(message).results(), first, "on a new connection");
    first
}

#[test]
fn retransmitted_calls_get_the_first_reply() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");

    let create = call(&mut c, NFS_PROGRAM::NFSPROC3_CREATE, &create_args(&root, "file"));
    let made: CREATE3res = unpacked(&thrice(&s, &mut c, &create));
    let file = given_fh(made.ok().obj);

    let mut args = at(&root, "made");
    args.extend(packed(&mode(0o755)));
    let mkdir = call(&mut c, NFS_PROGRAM::NFSPROC3_MKDIR, &args);
    unpacked::<MKDIR3res>(&thrice(&s, &mut c, &mkdir)).ok();

    let mut args = at(&root, "symlink");
    args.extend(packed(&sattr3::default()));
    args.extend(packed(&filename3::from(&b"target"[..])));
    let symlink = call(&mut c, NFS_PROGRAM::NFSPROC3_SYMLINK, &args);
    unpacked::<SYMLINK3res>(&thrice(&s, &mut c, &symlink)).ok();

    let mut args = at(&root, "fifo");
    args.extend(packed(&mknoddata3::NF3FIFO(mode(0o600))));
    let mknod = call(&mut c, NFS_PROGRAM::NFSPROC3_MKNOD, &args);
    unpacked::<MKNOD3res>(&thrice(&s, &mut c, &mknod)).ok();

    let mut args = packed(&file);
    args.extend(at(&dir, "link"));
    let link = call(&mut c, NFS_PROGRAM::NFSPROC3_LINK, &args);
    unpacked::<LINK3res>(&thrice(&s, &mut c, &link)).ok();

    let mut args = at(&dir, "link");
    args.extend(at(&dir, "renamed"));
    let rename = call(&mut c, NFS_PROGRAM::NFSPROC3_RENAME, &args);
    unpacked::<RENAME3res>(&thrice(&s, &mut c, &rename)).ok();

    let guard = sattrguard3::Some(c.attrs(&file).ctime);
    let new_attributes = mode(0o600);
    let args = packed(&SETATTR3args { object: file.clone(), new_attributes, guard });
    let setattr = call(&mut c, NFS_PROGRAM::NFSPROC3_SETATTR, &args);
    unpacked::<SETATTR3res>(&thrice(&s, &mut c, &setattr)).ok();

    let remove = call(&mut c, NFS_PROGRAM::NFSPROC3_REMOVE, &at(&root, "file"));
    unpacked::<REMOVE3res>(&thrice(&s, &mut c, &remove)).ok();

    let rmdir = call(&mut c, NFS_PROGRAM::NFSPROC3_RMDIR, &at(&root, "made"));
    unpacked::<RMDIR3res>(&thrice(&s, &mut c, &rmdir)).ok();
}

#[test]
fn the_cached_reply_is_sent_even_if_the_file_has_changed() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let create = call(&mut c, NFS_PROGRAM::NFSPROC3_CREATE, &create_args(&root, "file"));
    let first = c.exchange(&create).results();
    c.remove(&root, "file").ok();
    c.file_of(&root, "file", b"of another");
    assert_eq!(c.exchange(&create).results(), first);
    let remove = call(&mut c, NFS_PROGRAM::NFSPROC3_REMOVE, &at(&root, "file"));
    c.exchange(&remove).results();
    let again = c.file_of(&root, "file", b"new");
    let Reply::Success(_) = c.exchange(&remove) else { panic!() };
    assert_eq!(c.content(&again), b"new", "the old call has removed the new file");
}

#[test]
fn failures_are_cached() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let remove = call(&mut c, NFS_PROGRAM::NFSPROC3_REMOVE, &at(&root, "file"));
    let first: REMOVE3res = unpacked(&c.exchange(&remove).results());
    first.fails(NFS3ERR_NOENT);
    let file = c.file(&root, "file");
    let again: REMOVE3res = unpacked(&c.exchange(&remove).results());
    again.fails(NFS3ERR_NOENT);
    c.getattr(&file).ok();
}

#[test]
fn another_call_with_the_same_xid_is_carried_out() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.setattr(&root, mode(0o777)).ok();
    let auth = c.cred.encoded();
    let create = |name: &str, auth: &[u8]| message(42, NFS, 8, auth, &create_args(&root, name));
    unpacked::<CREATE3res>(&c.exchange(&create("one", &auth)).results()).ok();
    // Other arguments: a restarted client may reuse xids.
    unpacked::<CREATE3res>(&c.exchange(&create("two", &auth)).results()).ok();
    // Another procedure.
    let remove = message(42, NFS, 12, &auth, &at(&root, "two"));
    unpacked::<REMOVE3res>(&c.exchange(&remove).results()).ok();
    // Another user must not get the reply for the first one.
    let other = Cred::user(1000).encoded();
    let answer: CREATE3res = unpacked(&c.exchange(&create("one", &other)).results());
    answer.fails(NFS3ERR_EXIST);
    // Another client.
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    let mut elsewhere = Client::connect_from(from, 0, s.addr, Cred::superuser()).unwrap();
    let answer: CREATE3res = unpacked(&elsewhere.exchange(&create("one", &auth)).results());
    answer.fails(NFS3ERR_EXIST);
}

#[test]
fn a_failure_for_one_user_is_not_sent_to_another() {
    if !privileged() {
        return not_tried("needs privileges to act as another user");
    }
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let create = |cred: Cred| message(7, NFS, 8, &cred.encoded(), &create_args(&root, "file"));
    let answer: CREATE3res = unpacked(&c.exchange(&create(Cred::user(1000))).results());
    answer.fails(NFS3ERR_ACCES);
    unpacked::<CREATE3res>(&c.exchange(&create(Cred::user(0))).results()).ok();
}

#[test]
fn read_only_calls_are_not_cached() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let getattr = call(&mut c, NFS_PROGRAM::NFSPROC3_GETATTR, &packed(&root));
    let before = c.exchange(&getattr).results();
    c.file(&root, "file");
    assert_ne!(c.exchange(&getattr).results(), before);
}

#[test]
fn a_retransmission_of_a_running_call_is_not_carried_out_again() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for round in 0..50 {
        let args = create_args(&root, &format!("file{round}"));
        let create = call(&mut c, NFS_PROGRAM::NFSPROC3_CREATE, &args);
        // Three in one segment, one on another connection: some arrive while the first is running.
        let mut other = s.client();
        let once = record(&create);
        c.send(&[&once[..], &once, &once].concat()).unwrap();
        other.send(&once).unwrap();
        let mut answers: Vec<_> = (0..3).map(|_| c.receive().unwrap()).collect();
        answers.push(other.receive().unwrap());
        for answer in &answers {
            let (_, reply) = Reply::decode(answer);
            unpacked::<CREATE3res>(&reply.results()).ok();
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
