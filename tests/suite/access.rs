//! ACCESS (RFC 1813 §3.3.4): rights follow from the current mode and the caller's identity.

use crate::support::client::{Client, Cred};
use crate::support::privileged;
use crate::support::server::Server;
use crate::support::wire::*;

const ALL: u32 = 0x3f;
const CHANGE: u32 = ACCESS3_MODIFY | ACCESS3_EXTEND;

#[track_caller]
fn granted(c: &mut Client, object: &Fh, asked: u32) -> u32 {
    let answer = c.access(object, asked).ok();
    same_attrs(given(&answer.obj_attributes), &c.attrs(object));
    assert_eq!(answer.access & !asked, 0, "rights that were not requested");
    answer.access
}

/// The rights that three mode bits of a file grant. DELETE and LOOKUP do not apply to files.
fn of_file(bits: u32) -> u32 {
    let mut allowed = 0;
    for (bit, access) in [(4, ACCESS3_READ), (2, CHANGE), (1, ACCESS3_EXECUTE)] {
        if bits & bit != 0 {
            allowed |= access;
        }
    }
    allowed
}

/// The rights that three mode bits of a directory grant. EXECUTE does not apply to directories.
fn of_dir(bits: u32) -> u32 {
    let mut allowed = 0;
    let change = CHANGE | ACCESS3_DELETE;
    for (needed, access) in [(4, ACCESS3_READ), (2, change), (1, ACCESS3_LOOKUP)] {
        if bits & needed != 0 {
            allowed |= access;
        }
    }
    allowed
}

#[track_caller]
fn check(c: &mut Client, file: &Fh, dir: &Fh, bits: u32, who: &str) {
    let on_file = granted(c, file, ALL) & !(ACCESS3_DELETE | ACCESS3_LOOKUP);
    assert_eq!(on_file, of_file(bits), "{bits:o} of a file as {who}");
    // Servers differ on whether a directory without search permission can be changed.
    let open = if bits & 3 == 2 { CHANGE | ACCESS3_DELETE } else { 0 } | ACCESS3_EXECUTE;
    let on_dir = granted(c, dir, ALL) & !open;
    assert_eq!(on_dir, of_dir(bits) & !open, "{bits:o} of a directory as {who}");
}

#[test]
fn each_mode_bit_grants_its_rights() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (file, dir) = (c.file(&root, "file"), c.dir(&root, "dir"));
    if privileged() {
        for object in [&file, &dir] {
            c.setattr(object, sattr3 { gid: set_gid3::Some(500), ..owner(1000) }).ok();
        }
    }
    for bits in 0..8 {
        let set = |c: &mut Client, shift: u32| {
            for object in [&file, &dir] {
                // The other classes have the opposite bits, so that use of the wrong class is
                // detected.
                c.setattr(object, mode((bits << shift) | (0o777 & !(7 << shift)))).ok();
            }
        };
        set(&mut c, 6);
        if privileged() {
            c.with(Cred::user(1000), |c| check(c, &file, &dir, bits, "the owner"));
            set(&mut c, 3);
            let member = Cred { uid: 2000, gid: 500, groups: Vec::new() };
            c.with(member, |c| check(c, &file, &dir, bits, "a member of the primary group"));
            let member = Cred::user(2000).groups(&[1, 2, 500]);
            c.with(member, |c| check(c, &file, &dir, bits, "a member of a supplementary group"));
            set(&mut c, 0);
            c.with(Cred::user(2000), |c| check(c, &file, &dir, bits, "another user"));
        } else {
            check(&mut c, &file, &dir, bits, "the server's user");
            c.with(Cred::user(0), |c| check(c, &file, &dir, bits, "any user"));
        }
    }
}

#[test]
fn the_superuser_may_do_all_but_execute_files_without_an_execute_bit() {
    if !privileged() {
        // Root credentials grant nothing that the server's own user does not have.
        let s = Server::start();
        let mut c = s.client_as(Cred::user(0));
        let root = c.root();
        let file = c.file(&root, "file");
        c.setattr(&file, mode(0)).ok();
        return assert_eq!(granted(&mut c, &file, ALL), 0);
    }
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    let (file, dir) = (c.file(&root, "file"), c.dir(&root, "dir"));
    for object in [&file, &dir] {
        c.setattr(object, sattr3 { mode: set_mode3::Some(0), ..owner(1000) }).ok();
    }
    let on_file = granted(&mut c, &file, ALL) & !(ACCESS3_DELETE | ACCESS3_LOOKUP);
    assert_eq!(on_file, of_file(6));
    assert_eq!(granted(&mut c, &dir, ALL) & !ACCESS3_EXECUTE, of_dir(7));
    c.setattr(&file, mode(0o001)).ok();
    let on_file = granted(&mut c, &file, ALL) & !(ACCESS3_DELETE | ACCESS3_LOOKUP);
    assert_eq!(on_file, of_file(7));
}

#[test]
fn only_requested_rights_are_granted() {
    let s = Server::start();
    let mut c = s.client();
    let root = c.root();
    for asked in 0..=ALL {
        granted(&mut c, &root, asked);
    }
    assert_eq!(granted(&mut c, &root, ACCESS3_READ), ACCESS3_READ);
    assert_eq!(granted(&mut c, &root, 0), 0);
    // Bits that the RFC does not define are not granted.
    assert_eq!(c.access(&root, u32::MAX).ok().access & !ALL, 0);
}
