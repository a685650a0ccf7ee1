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

/// An entry of either procedure. Only READDIRPLUS returns attributes and handles.
struct Entry {
    name: Vec<u8>,
    fileid: u64,
    cookie: cookie3,
    attrs: post_op_attr,
    handle: post_op_fh3,
}

/// A page: its entries, the cookie verifier, and whether it is the last.
type Page = (Vec<Entry>, cookieverf3, bool);
type Lister = fn(&mut Client, &Fh, (cookie3, cookieverf3), u32) -> Page;

fn plain(c: &mut Client, dir: &Fh, position: (cookie3, cookieverf3), count: u32) -> Page {
    let page = c.readdir(dir, position, count).ok();
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

fn plus(c: &mut Client, dir: &Fh, position: (cookie3, cookieverf3), count: u32) -> Page {
    let page = c.readdirplus(dir, position, (count, count)).ok();
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

/// Lists a directory completely, and calls `between` between two pages.
fn all(
    c: &mut Client,
    dir: &Fh,
    (list, count): (Lister, u32),
    mut between: impl FnMut(&mut Client),
) -> Vec<Entry> {
    let mut position = START;
    let mut found = Vec::new();
    loop {
        let (entries, verifier, eof) = list(c, dir, position, count);
        assert!(eof || !entries.is_empty(), "an empty page before the end");
        found.extend(entries);
        if eof {
            return found;
        }
        position = (found.last().unwrap().cookie, verifier);
        between(c);
    }
}

fn once_each(found: Vec<Entry>) -> BTreeMap<Vec<u8>, Entry> {
    let count = found.len();
    let map: BTreeMap<_, _> = found.into_iter().map(|e| (e.name.clone(), e)).collect();
    assert_eq!(map.len(), count, "an entry was listed twice");
    map
}

/// A server with a directory of many files, and the handles of the root and of the directory. The
/// export is `async`, because the tests make thousands of changes.
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
fn every_entry_is_listed_once_for_any_page_size() {
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
fn changes_between_pages_do_not_affect_other_entries() {
    for (what, list) in LISTERS {
        let (_s, mut c, _root, dir) = crowded();
        let mut step = 0;
        let found = all(&mut c, &dir, (list, 4096), |c| {
            // Remove odd entries from both ends, and add as many new ones.
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
            assert!(found.contains_key(&name), "{what}: {number} is missing");
        }
    }
}

#[test]
fn a_listing_continues_after_all_its_entries_are_removed() {
    // As `rm -r` does.
    for (what, list) in LISTERS {
        let (_s, mut c, root, dir) = crowded();
        let mut position = START;
        let mut removed = 0;
        loop {
            let (entries, verifier, eof) = list(&mut c, &dir, position, 8192);
            for entry in &entries {
                position = (entry.cookie, verifier);
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
fn a_listing_continues_after_a_restart() {
    let (mut s, mut c, _root, dir) = crowded();
    for (what, list) in LISTERS {
        let (mut found, verifier, eof) = list(&mut c, &dir, START, 8192);
        assert!(!eof);
        s.restart();
        c = s.client();
        let mut position = (found.last().unwrap().cookie, verifier);
        loop {
            let (entries, verifier, eof) = list(&mut c, &dir, position, 65536);
            found.extend(entries);
            position = (found.last().unwrap().cookie, verifier);
            if eof {
                break;
            }
        }
        assert_eq!(once_each(found).len(), MANY + 2, "{what}");
    }
}

#[test]
fn a_listing_can_continue_after_any_entry() {
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
fn the_cost_of_a_page_does_not_depend_on_its_position() {
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
    // Reading from the start each time would make the last pages some hundred times as expensive.
    assert!(last < 10 * first, "{first:?} for the first pages, {last:?} for the last");
}

#[test]
fn an_empty_directory_lists_itself_and_its_parent() {
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
fn dot_dot_of_an_export_root_is_listed_as_the_root() {
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
fn readdirplus_returns_what_lookup_returns() {
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
fn dircount_limits_names_and_maxcount_the_reply() {
    let (_s, mut c, _root, dir) = crowded();
    // dircount counts the file id, name and cookie of each entry.
    let page = c.readdirplus(&dir, START, (512, 1 << 20)).ok();
    let names = page.reply.entries.0.len();
    assert!((1..=512 / 24).contains(&names), "{names} entries for a dircount of 512");
    let page = c.readdirplus(&dir, START, (1 << 20, 2048)).ok();
    assert!(c.last_size <= 4 + 2048, "{} bytes for a maxcount of 2048", c.last_size);
    assert!(!page.reply.entries.0.is_empty());
    // A small page must not be nearly empty.
    c.readdirplus(&dir, START, (32 << 10, 32 << 10)).ok();
    assert!(c.last_size > 16 << 10, "{} bytes for a maxcount of 32 KiB", c.last_size);
    c.readdir(&dir, START, 32 << 10).ok();
    assert!(c.last_size > 16 << 10, "{} bytes for a count of 32 KiB", c.last_size);
}

#[test]
fn a_count_too_small_for_an_entry_is_toosmall() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, [b'n'; 255]);
    for count in [0, 1, 50, 100] {
        c.readdir(&root, START, count).fails(NFS3ERR_TOOSMALL);
        c.readdirplus(&root, START, (count, count)).fails(NFS3ERR_TOOSMALL);
    }
    // Some entries fit, the long one never does: an empty page would make the client loop.
    let mut position = START;
    for _ in 0..4 {
        match c.readdir(&root, position, 256) {
            Nfs3Result::Ok(page) => {
                assert!(!page.reply.eof, "the long name is missing");
                position = (page.reply.entries.0.last().expect("an entry").cookie, page.cookieverf);
            }
            Nfs3Result::Err((status, _)) => return assert_eq!(status, NFS3ERR_TOOSMALL),
        }
    }
    panic!("the listing does not end");
}

#[test]
fn excessive_counts_are_limited() {
    let (_s, mut c, _root, dir) = crowded();
    for count in [u32::MAX, 1 << 31] {
        assert!(!c.readdir(&dir, START, count).ok().reply.entries.0.is_empty());
        assert!(c.last_size < 2 << 20, "{}", c.last_size);
        assert!(!c.readdirplus(&dir, START, (count, count)).ok().reply.entries.0.is_empty());
        assert!(c.last_size < 2 << 20, "{}", c.last_size);
    }
}

#[test]
fn an_invented_cookie_is_harmless() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    c.file(&root, "file");
    for cookie in [3, 12345, (1 << 62) + 1, i64::MAX as u64, 1 << 63, u64::MAX] {
        let position = (cookie, START.1);
        for status in [
            c.readdir(&root, position, 4096).status(),
            c.readdirplus(&root, position, (4096, 4096)).status(),
        ] {
            one_of(status, &[NFS3_OK, NFS3ERR_BAD_COOKIE, NFS3ERR_INVAL]);
        }
    }
    assert_eq!(c.names(&root, 4096), [b"file"]);
}

#[test]
fn listing_a_file_is_notdir() {
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
fn listing_needs_read_permission() {
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
fn each_hard_link_is_an_entry() {
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
fn names_that_are_not_utf8_are_listed_unchanged() {
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
