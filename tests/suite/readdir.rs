//! READDIR and READDIRPLUS (RFC 1813 §3.3.16, §3.3.17).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::support::client::{Client, someone};
use crate::support::privileged;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

const START: (cookie3, cookieverf3) = (0, cookieverf3([0; 8]));

/// Enough for many pages and for a directory of several blocks.
const MANY: usize = 3000;

/// One entry of either procedure; only READDIRPLUS gives more than the first three.
struct Entry {
    name: Vec<u8>,
    fileid: u64,
    cookie: cookie3,
    attrs: post_op_attr,
    handle: post_op_fh3,
}

/// A way to read a page: the entries, the verifier, whether that was the last.
type Page = (Vec<Entry>, cookieverf3, bool);
type Lister = fn(&mut Client, &Fh, (cookie3, cookieverf3), u32) -> Page;

fn plain(c: &mut Client, dir: &Fh, place: (cookie3, cookieverf3), count: u32) -> Page {
    let page = c.readdir(dir, place, count).ok();
    assert!(c.last_size <= 4 + count as usize, "{} bytes for {count}", c.last_size);
    let entries = page.reply.entries.0.into_iter().map(|e| Entry {
        name: e.name.0.to_vec(),
        fileid: e.fileid,
        cookie: e.cookie,
        attrs: post_op_attr::None,
        handle: post_op_fh3::None,
    });
    (entries.collect(), page.cookieverf, page.reply.eof)
}

fn plus(c: &mut Client, dir: &Fh, place: (cookie3, cookieverf3), count: u32) -> Page {
    let page = c.readdirplus(dir, place, (count, count)).ok();
    assert!(c.last_size <= 4 + count as usize, "{} bytes for {count}", c.last_size);
    let entries = page.reply.entries.0.into_iter().map(|e| Entry {
        name: e.name.0.to_vec(),
        fileid: e.fileid,
        cookie: e.cookie,
        attrs: e.name_attributes,
        handle: e.name_handle,
    });
    (entries.collect(), page.cookieverf, page.reply.eof)
}

const LISTERS: [(&str, Lister); 2] = [("READDIR", plain), ("READDIRPLUS", plus)];

/// Reads a directory to its end, and does something between two pages.
fn all(
    c: &mut Client,
    dir: &Fh,
    (list, count): (Lister, u32),
    mut between: impl FnMut(&mut Client),
) -> Vec<Entry> {
    let mut place = START;
    let mut found = Vec::new();
    loop {
        let (entries, verifier, eof) = list(c, dir, place, count);
        assert!(eof || !entries.is_empty(), "a page without an entry and without the end");
        found.extend(entries);
        if eof {
            return found;
        }
        place = (found.last().unwrap().cookie, verifier);
        between(c);
    }
}

fn once_each(found: Vec<Entry>) -> BTreeMap<Vec<u8>, Entry> {
    let count = found.len();
    let map: BTreeMap<_, _> = found.into_iter().map(|e| (e.name.clone(), e)).collect();
    assert_eq!(map.len(), count, "an entry came twice");
    map
}

/// A server with a directory of many files, and the handles of the root and of the directory. Its
/// changes need not be on the disk: there are thousands.
fn crowded() -> (Server, Client, Fh, Fh) {
    let s =
        Setup::default().exports("{} *(rw,async,insecure,no_root_squash)\n").start_over(|dir| {
            fs::create_dir(dir.join("dir")).unwrap();
            for number in 0..MANY {
                fs::write(dir.join(format!("dir/{number:05}")), b"").unwrap();
            }
        });
    let mut c = s.client();
    let root = c.mounted(s.dir.to_str().unwrap());
    let dir = c.find(&root, "dir");
    (s, c, root, dir)
}

#[test]
fn every_entry_comes_once_whatever_the_pages_size() {
    let (_s, mut c, _root, dir) = crowded();
    let mut expected: BTreeSet<Vec<u8>> =
        (0..MANY).map(|number| format!("{number:05}").into_bytes()).collect();
    expected.extend([b".".to_vec(), b"..".to_vec()]);
    for (what, list) in LISTERS {
        for count in [1024, 4096, 32 << 10, 1 << 20] {
            let found = once_each(all(&mut c, &dir, (list, count), |_| ()));
            let names: BTreeSet<_> = found.into_keys().collect();
            assert!(names == expected, "{what} with {count}: {} names", names.len());
        }
    }
}

#[test]
fn entries_made_and_removed_between_pages_disturb_no_others() {
    for (what, list) in LISTERS {
        let (_s, mut c, _root, dir) = crowded();
        let mut step = 0;
        let found = all(&mut c, &dir, (list, 4096), |c| {
            // The odd ones go, from both ends, and as many others come.
            if step < MANY / 2 {
                c.remove(&dir, format!("{:05}", step | 1)).ok();
                c.remove(&dir, format!("{:05}", (MANY - 1 - step) | 1)).ok();
                c.file(&dir, format!("new{step}"));
            }
            step += 2;
        });
        let found = once_each(found);
        for number in (0..MANY).step_by(2) {
            let name = format!("{number:05}").into_bytes();
            assert!(found.contains_key(&name), "{what}: {number} did not come");
        }
    }
}

#[test]
fn a_listing_goes_on_though_all_that_it_saw_is_removed() {
    // What `rm -r` does.
    for (what, list) in LISTERS {
        let (_s, mut c, root, dir) = crowded();
        let mut place = START;
        let mut removed = 0;
        loop {
            let (entries, verifier, eof) = list(&mut c, &dir, place, 8192);
            for entry in &entries {
                place = (entry.cookie, verifier);
                if ![&b"."[..], b".."].contains(&&entry.name[..]) {
                    c.remove(&dir, &entry.name).ok();
                    removed += 1;
                }
            }
            if eof {
                break;
            }
        }
        assert_eq!(removed, MANY, "{what}");
        c.rmdir(&root, "dir").ok();
    }
}

#[test]
fn a_listing_goes_on_after_a_restart() {
    let (mut s, mut c, _root, dir) = crowded();
    for (what, list) in LISTERS {
        let (mut found, verifier, eof) = list(&mut c, &dir, START, 8192);
        assert!(!eof);
        s.restart();
        c = s.client();
        let mut place = (found.last().unwrap().cookie, verifier);
        loop {
            let (entries, verifier, eof) = list(&mut c, &dir, place, 65536);
            found.extend(entries);
            place = (found.last().unwrap().cookie, verifier);
            if eof {
                break;
            }
        }
        assert_eq!(once_each(found).len(), MANY + 2, "{what}");
    }
}

#[test]
fn any_entry_is_a_place_to_go_on_from() {
    let s = Setup::default().start_over(|dir| {
        for number in 0..100 {
            fs::write(dir.join(number.to_string()), b"").unwrap();
        }
    });
    let mut c = s.client();
    let root = c.root();
    for (_, list) in LISTERS {
        let whole = all(&mut c, &root, (list, 65536), |_| ());
        let (_, verifier, _) = list(&mut c, &root, START, 65536);
        for (at, entry) in whole.iter().enumerate() {
            let (rest, _, eof) = list(&mut c, &root, (entry.cookie, verifier), 65536);
            assert!(eof);
            let names =
                |entries: &[Entry]| -> Vec<_> { entries.iter().map(|e| e.name.clone()).collect() };
            assert_eq!(names(&rest), names(&whole[at + 1..]));
        }
    }
}

#[test]
fn a_page_costs_a_page_wherever_it_starts() {
    const FILES: usize = 40_000;
    const PAGES: usize = 30;
    let s = Setup::default().start_over(|dir| {
        for number in 0..FILES {
            fs::write(dir.join(number.to_string()), b"").unwrap();
        }
    });
    let mut c = s.client();
    let root = c.mounted("/");
    let cookies: Vec<_> =
        all(&mut c, &root, (plain, 65536), |_| ()).into_iter().map(|e| e.cookie).collect();
    assert!(cookies.len() > FILES);
    let mut cost = |from: usize| {
        let before = s.cpu_time();
        for page in 0..PAGES {
            let (entries, ..) = plain(&mut c, &root, (cookies[from + page], START.1), 4096);
            assert!(entries.len() > 20);
        }
        s.cpu_time() - before
    };
    let (first, last) = (cost(100), cost(FILES - 1000));
    // From the start each time, the last pages would cost some hundred times as much.
    assert!(last < 10 * first, "{first:?} for the first pages, {last:?} for the last");
}

#[test]
fn an_empty_directory_has_itself_and_its_parent() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    let (inner_id, outer_id) = (c.attrs(&dir).fileid, c.attrs(&root).fileid);
    for (_, list) in LISTERS {
        let found = once_each(all(&mut c, &dir, (list, 4096), |_| ()));
        assert_eq!(found.len(), 2);
        assert_eq!((found[&b"."[..]].fileid, found[&b".."[..]].fileid), (inner_id, outer_id));
    }
}

#[test]
fn above_an_exports_root_nothing_is_shown() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let id = c.attrs(&root).fileid;
    for (what, list) in LISTERS {
        let found = once_each(all(&mut c, &root, (list, 4096), |_| ()));
        let up = &found[&b".."[..]];
        assert_eq!(up.fileid, id, "{what}");
        if let post_op_fh3::Some(handle) = &up.handle {
            assert_eq!(*handle, root);
        }
    }
}

#[test]
fn readdirplus_gives_what_lookup_would() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file_of(&root, "file", b"content");
    c.dir(&root, "dir");
    c.symlink_to(&root, "symlink", "nowhere");
    c.mknod(&root, "fifo", mknoddata3::NF3FIFO(mode(0o600))).ok();
    let found = once_each(all(&mut c, &root, (plus, 65536), |_| ()));
    for name in ["file", "dir", "symlink", "fifo"] {
        let entry = &found[name.as_bytes()];
        let looked_up = c.lookup(&root, name).ok();
        same_attrs(given(&entry.attrs), given(&looked_up.obj_attributes));
        assert_eq!(entry.handle, post_op_fh3::Some(looked_up.object), "{name}");
        assert_eq!(entry.fileid, given(&entry.attrs).fileid);
    }
    let page = c.readdirplus(&root, START, (65536, 65536)).ok();
    same_attrs(given(&page.dir_attributes), &c.attrs(&root));
    let page = c.readdir(&root, START, 65536).ok();
    same_attrs(given(&page.dir_attributes), &c.attrs(&root));
}

#[test]
fn dircount_bounds_the_names_and_maxcount_the_whole() {
    let (_s, mut c, _root, dir) = crowded();
    // An entry's id, name and cookie are what dircount counts.
    let page = c.readdirplus(&dir, START, (512, 1 << 20)).ok();
    let names = page.reply.entries.0.len();
    assert!((1..=512 / 24).contains(&names), "{names} entries for a dircount of 512");
    let page = c.readdirplus(&dir, START, (1 << 20, 2048)).ok();
    assert!(c.last_size <= 4 + 2048, "{} bytes for a maxcount of 2048", c.last_size);
    assert!(!page.reply.entries.0.is_empty());
    // A page that is asked to be small is not a page that is nearly empty.
    c.readdirplus(&dir, START, (32 << 10, 32 << 10)).ok();
    assert!(c.last_size > 16 << 10, "{} bytes for a maxcount of 32 KiB", c.last_size);
    c.readdir(&dir, START, 32 << 10).ok();
    assert!(c.last_size > 16 << 10, "{} bytes for a count of 32 KiB", c.last_size);
}

#[test]
fn no_room_for_an_entry_is_toosmall() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, [b'n'; 255]);
    for count in [0, 1, 50, 100] {
        c.readdir(&root, START, count).fails(NFS3ERR_TOOSMALL);
        c.readdirplus(&root, START, (count, count)).fails(NFS3ERR_TOOSMALL);
    }
    // Some entries fit, the long one never does: an empty page would be asked for for ever.
    let mut place = START;
    for _ in 0..4 {
        match c.readdir(&root, place, 256) {
            Nfs3Result::Ok(page) => {
                assert!(!page.reply.eof, "the long name was left out");
                place = (page.reply.entries.0.last().expect("an entry").cookie, page.cookieverf);
            }
            Nfs3Result::Err((status, _)) => return assert_eq!(status, NFS3ERR_TOOSMALL),
        }
    }
    panic!("the listing does not end");
}

#[test]
fn counts_that_no_reply_can_have_are_cut() {
    let (_s, mut c, _root, dir) = crowded();
    for count in [u32::MAX, 1 << 31] {
        assert!(!c.readdir(&dir, START, count).ok().reply.entries.0.is_empty());
        assert!(c.last_size < 2 << 20, "{}", c.last_size);
        assert!(!c.readdirplus(&dir, START, (count, count)).ok().reply.entries.0.is_empty());
        assert!(c.last_size < 2 << 20, "{}", c.last_size);
    }
}

#[test]
fn a_cookie_that_was_never_given_is_harmless() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "file");
    for cookie in [3, 12345, (1 << 62) + 1, i64::MAX as u64, 1 << 63, u64::MAX] {
        let place = (cookie, START.1);
        for status in [
            c.readdir(&root, place, 4096).status(),
            c.readdirplus(&root, place, (4096, 4096)).status(),
        ] {
            one_of(status, &[NFS3_OK, NFS3ERR_BAD_COOKIE, NFS3ERR_INVAL]);
        }
    }
    assert_eq!(c.names(&root, 4096), [b"file"]);
}

#[test]
fn only_directories_are_listed() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (file, link) = (c.file(&root, "file"), c.symlink_to(&root, "link", "."));
    for object in [file, link] {
        let failed = c.readdir(&object, START, 4096).fails(NFS3ERR_NOTDIR);
        same_attrs(given(&failed.dir_attributes), &c.attrs(&object));
        c.readdirplus(&object, START, (4096, 4096)).fails(NFS3ERR_NOTDIR);
    }
}

#[test]
fn listing_needs_permission() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let dir = c.dir(&root, "dir");
    c.file(&dir, "file");
    c.setattr(&dir, mode(0o711)).ok();
    if privileged() {
        c.cred = someone();
    } else {
        c.setattr(&dir, mode(0o311)).ok();
    }
    c.readdir(&dir, START, 4096).fails(NFS3ERR_ACCES);
    c.readdirplus(&dir, START, (4096, 4096)).fails(NFS3ERR_ACCES);
    c.lookup(&dir, "file").ok();
}

#[test]
fn hard_links_are_entries_of_their_own() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file(&root, "file");
    for number in 0..50 {
        c.link(&file, &root, format!("link{number}")).ok();
    }
    for (_, list) in LISTERS {
        assert_eq!(once_each(all(&mut c, &root, (list, 1024), |_| ())).len(), 53);
    }
}

#[test]
fn names_that_are_not_text_are_listed_as_they_are() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let names = [&b"\xff\xfe"[..], b"a\nb", &[0x80; 255]];
    for name in names {
        c.file(&root, name);
    }
    for (_, list) in LISTERS {
        let found = once_each(all(&mut c, &root, (list, 4096), |_| ()));
        assert!(names.iter().all(|&name| found.contains_key(name)));
    }
}
