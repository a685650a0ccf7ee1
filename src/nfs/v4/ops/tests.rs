//! Operations, one conversation each.

use std::collections::BTreeMap;

use super::super::attr::{Bitmap, number};
use super::super::status::Status;
use super::super::testing::*;
use crate::rpc::program::Outcome;
use crate::sched::Patience;
use crate::xdr::{Decode, Encode, Reader, Writer};

const MARKER: [u32; 5] =
    [number::TYPE, number::FSID, number::RDATTR_ERROR, number::FILEID, number::MOUNTED_ON_FILEID];

/// What [`MARKER`] asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Marker {
    kind: u32,
    fsid: u64,
    fileid: u64,
    mounted_on: u64,
}

fn marker(r: &mut Reader<'_>) -> Marker {
    assert_eq!(Bitmap::decode(r), Ok(Bitmap::of(&MARKER)));
    let mut values = Reader::new(r.opaque(1000).unwrap());
    let (kind, fsid) = (values.u32().unwrap(), values.u64().unwrap());
    let (_minor, _error) = (values.u64().unwrap(), values.u32().unwrap());
    Marker { kind, fsid, fileid: values.u64().unwrap(), mounted_on: values.u64().unwrap() }
}

fn getattr(request: Request, attributes: &[u32]) -> Request {
    request.op(GETATTR, |w| Bitmap::of(attributes).encode(w))
}

fn readdir(request: Request, cookie: u64, max: u32) -> Request {
    request.op(READDIR, |w| {
        w.u64(cookie);
        w.u64(0);
        w.u32(0);
        w.u32(max);
        Bitmap::of(&MARKER).encode(w);
    })
}

/// The entries of a page with their cookies, and whether the directory ends.
fn entries(results: &[u8]) -> (Vec<(u64, String, Marker)>, bool) {
    let mut r = Reader::new(results);
    r.u64().unwrap();
    let mut found = Vec::new();
    while r.bool().unwrap() {
        let (cookie, name) = (r.u64().unwrap(), r.opaque(255).unwrap());
        found.push((cookie, String::from_utf8(name.to_vec()).unwrap(), marker(&mut r)));
    }
    (found, r.bool().unwrap())
}

#[test]
fn each_export_is_a_file_system_of_its_own() {
    let served = Served::new(&["/data", "/vol/a"]);
    let session = served.session();
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    let of = |request: Request| marker(&mut Reader::new(&served.done(&getattr(request, &MARKER))));
    let (top, vol) = (of(root(1)), of(root(2).lookup("vol")));
    assert_eq!((top.kind, top.fsid, vol.fsid), (2, 0, 0));
    assert_ne!(top.fileid, vol.fileid);
    let (a, sub) =
        (of(root(3).lookup("vol").lookup("a")), of(root(4).lookup("data").lookup("sub")));
    assert_eq!((a.fsid, sub.fsid), (2, 1));
    assert_ne!(a.fileid, a.mounted_on, "a client sees that it crosses");
    assert_eq!(sub.fileid, sub.mounted_on);
}

#[test]
fn directories_are_listed_in_pages() {
    let served = Served::new(&["/data", "/vol/a", "/vol/b"]);
    for n in 0..50 {
        std::fs::write(served.dirs[0].path().join(format!("file{n}")), "").unwrap();
    }
    let session = served.session();
    let mut sequence = 0;
    let mut list = |path: &[&str], max: u32| {
        let (mut all, mut cookie, mut pages) = (BTreeMap::new(), 0, 0);
        loop {
            sequence += 1;
            let start = in_session(session, sequence).plain(PUTROOTFH);
            let dir = path.iter().fold(start, |request, name| request.lookup(name));
            let (page, ended) = entries(&served.done(&readdir(dir, cookie, max)));
            cookie = page.last().map_or(cookie, |(cookie, ..)| *cookie);
            let before = all.len() + page.len();
            all.extend(page.into_iter().map(|(_, name, marker)| (name, marker)));
            assert_eq!(all.len(), before, "an entry came twice");
            pages += 1;
            if ended {
                return (all, pages);
            }
        }
    };
    let (top, _) = list(&[], 4096);
    assert_eq!(top.keys().collect::<Vec<_>>(), ["data", "vol"]);
    assert_eq!((top["data"].fsid, top["vol"].fsid), (1, 0));
    let (vol, pages) = list(&["vol"], 130);
    assert_eq!((vol.keys().map(String::as_str).collect::<Vec<_>>(), pages), (vec!["a", "b"], 2));
    let (data, pages) = list(&["data"], 1000);
    assert_eq!(data.len(), 51);
    assert!(pages > 4 && data["sub"].kind == 2 && data["file7"].kind == 1);
    let start = in_session(session, sequence + 1).plain(PUTROOTFH);
    assert_eq!(served.send(&readdir(start, 0, 40)).status, Status::TOOSMALL);
}

#[test]
fn a_caller_has_rights() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let access = |request: Request, wanted: u32| {
        let results = served.done(&request.op(ACCESS, |w| w.u32(wanted)));
        let mut r = Reader::new(&results);
        (r.u32().unwrap(), r.u32().unwrap())
    };
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    assert_eq!(access(root(1), 0x3f), (0x3f, 0x03), "nothing is changed at the root");
    let (supported, granted) = access(root(2).lookup("data"), 0x1f);
    assert_eq!(supported, 0x1f);
    assert_eq!(granted & 0x03, 0x03);
    let reply = served.send(&root(3).op(ACCESS, |w| w.u32(0x40)));
    assert_eq!(reply.status, Status::INVAL);
}

#[test]
fn attributes_are_compared() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let values = |kind: u32| {
        move |w: &mut Writer<'_>| {
            Bitmap::of(&[number::TYPE]).encode(w);
            w.length(4);
            w.u32(kind);
        }
    };
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    let status = |request: Request| served.send(&request).status;
    assert_eq!(status(root(1).op(VERIFY, values(2))), Status::OK);
    assert_eq!(status(root(2).op(VERIFY, values(1))), Status::NOT_SAME);
    assert_eq!(status(root(3).op(NVERIFY, values(2))), Status::SAME);
    assert_eq!(status(root(4).op(NVERIFY, values(1))), Status::OK);
    let asked = |attribute: u32| {
        move |w: &mut Writer<'_>| {
            Bitmap::of(&[attribute]).encode(w);
            w.length(0);
        }
    };
    assert_eq!(status(root(5).op(VERIFY, asked(number::RDATTR_ERROR))), Status::INVAL);
    assert_eq!(status(root(6).op(VERIFY, asked(number::TIME_MODIFY_SET))), Status::INVAL);
    assert_eq!(status(root(7).op(VERIFY, asked(12))), Status::ATTRNOTSUPP);
    assert_eq!(status(getattr(root(8), &[number::TIME_ACCESS_SET])), Status::INVAL);
}

#[test]
fn a_link_has_a_target() {
    let served = Served::new(&["/data"]);
    std::os::unix::fs::symlink("some/where", served.dirs[0].path().join("link")).unwrap();
    let session = served.session();
    let data = |n| in_session(session, n).plain(PUTROOTFH).lookup("data");
    let target = served.done(&data(1).lookup("link").plain(READLINK));
    assert_eq!(handle(&target), b"some/where");
    assert_eq!(served.send(&data(2).lookup("sub").plain(READLINK)).status, Status::WRONG_TYPE);
    let below = served.send(&data(3).lookup("link").lookup("sub"));
    assert_eq!(below.status, Status::SYMLINK);
}

#[test]
fn a_client_says_once_that_it_has_reclaimed() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let complete = |n, one: bool| in_session(session, n).op(RECLAIM_COMPLETE, move |w| w.bool(one));
    assert_eq!(served.send(&complete(1, true)).status, Status::NOFILEHANDLE);
    served.done(&complete(2, false));
    assert_eq!(served.send(&complete(3, false)).status, Status::COMPLETE_ALREADY);
}

#[test]
fn stateids_that_stand_for_nothing_are_told() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let test = in_session(session, 1).op(TEST_STATEID, |w| {
        w.length(2);
        w.fixed(&[7; 16]);
        w.fixed(&[0; 16]);
    });
    let results = served.done(&test);
    let mut r = Reader::new(&results);
    let bad = Status::BAD_STATEID.0;
    assert_eq!((r.u32(), r.u32(), r.u32()), (Ok(2), Ok(bad), Ok(bad)));
    let free = in_session(session, 2).op(FREE_STATEID, |w| w.fixed(&[7; 16]));
    assert_eq!(served.send(&free).status, Status::BAD_STATEID);
}

#[test]
fn security_is_by_user_ids() {
    let served = Served::new(&["/data"]);
    let session = served.session();
    let root = |n| in_session(session, n).plain(PUTROOTFH);
    let flavors = [0, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(served.done(&root(1).op(SECINFO, |w| w.opaque(b"data"))), flavors);
    assert_eq!(served.done(&root(2).op(SECINFO_NO_NAME, |w| w.u32(0))), flavors);
    let up = root(3).lookup("data").op(SECINFO_NO_NAME, |w| w.u32(1));
    assert_eq!(served.done(&up), flavors);
    let used_up = root(4).op(SECINFO_NO_NAME, |w| w.u32(0)).plain(GETFH);
    let (outcome, out) = served.call(&used_up.bytes(), Patience::Blocking);
    assert_eq!(outcome, Outcome::Done { status: Status::NOFILEHANDLE.0 });
    assert!(out.ends_with(&Status::NOFILEHANDLE.0.to_be_bytes()));
}
