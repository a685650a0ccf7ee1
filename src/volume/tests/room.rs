//! Capacities and inodes of volumes, and a full disk.

use std::fs;
use std::path::Path;

use super::*;
use crate::volume::spec::CAPACITY_MIN;

#[test]
fn inodes_are_in_proportion_to_the_capacity_unless_others_are_wanted() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let create = |of: &str, inodes, origin| {
        let spec = Spec { inodes, capacity: 128 * MIB, ..spec(of) };
        run.volumes.create(spec, origin).unwrap();
        run.settled(of).spec.inodes
    };
    fs::create_dir(place.path("adopted")).unwrap();
    assert_eq!(create("a", None, VolumeOrigin::Fresh), Some(8192));
    assert_eq!(run.create("small").unwrap().spec.inodes, Some(4096));
    assert_eq!(create("none", Some(0), VolumeOrigin::Fresh), None);
    assert_eq!(create("few", Some(7), VolumeOrigin::Fresh), Some(7));
    assert_eq!(create("adopted", None, VolumeOrigin::Adopt), None);
    assert_eq!(create("of-a", None, VolumeOrigin::Clone(name("a"))), Some(8192));
    assert_eq!(create("of-few", None, VolumeOrigin::Clone(name("few"))), Some(8192));
    assert_eq!(create("of-none", None, VolumeOrigin::Clone(name("none"))), None);
    let to = |of: &str, mib: u64, inodes| {
        let growth = CapacityChange { capacity: Some(mib * MIB), inodes, shrink: true };
        run.volumes.expand(&name(of), growth).unwrap().spec.inodes
    };
    assert_eq!((to("a", 256, None), to("a", 128, None)), (Some(16384), Some(8192)));
    assert_eq!((to("few", 256, None), to("few", 256, Some(9))), (Some(7), Some(9)));
    assert_eq!((to("none", 256, None), to("a", 256, Some(0))), (None, None));
    assert_eq!(to("a", 512, None), None, "what was lifted comes back");
    // A volume of an earlier version has no limit, and gets none.
    drop(run);
    let run = place.open();
    assert_eq!(run.settled("none").spec.inodes, None);
}

#[test]
fn capacities_are_not_promised_beyond_what_is_allowed() {
    let place = VolumesDirectory::new();
    let disk = place.open().volumes.disk().unwrap().size_bytes;
    // Other processes may use the disk, too, so both sides stay far from the limit.
    let wish = |of: &str, share: u64| Spec { capacity: disk / 10 * share, ..spec(of) };
    let run = place.try_open_with(Some(150)).unwrap();
    let create = |of: &str, share, origin| run.volumes.create(wish(of, share), origin);
    create("a", 9, VolumeOrigin::Fresh).unwrap();
    let refused = create("b", 7, VolumeOrigin::Fresh).unwrap_err();
    assert!(matches!(refused, Error::Overcommitted { percent: 150, .. }), "{refused}");
    assert_eq!(refused.kind(), VolumeErrorKind::NoSpace);
    assert!(refused.to_string().contains("--overcommit"), "{refused}");
    assert!(create("b", 7, VolumeOrigin::Clone(name("a"))).is_err() && !place.path("b").exists());
    create("off", 7, VolumeOrigin::Fresh).unwrap_err();
    let off = Spec { quota: QuotaMode::Off, ..wish("off", 9) };
    run.volumes.create(off, VolumeOrigin::Fresh).unwrap();
    create("b", 5, VolumeOrigin::Fresh).unwrap();
    let to = |of: &str, share| {
        let growth = CapacityChange {
            capacity: Some(disk / 10 * share),
            shrink: true,
            ..CapacityChange::default()
        };
        run.volumes.expand(&name(of), growth)
    };
    assert!(matches!(to("b", 7), Err(Error::Overcommitted { .. })));
    assert_eq!(run.settled("b").spec.capacity, disk / 10 * 5, "it has changed all the same");
    to("a", 5).unwrap();
    to("b", 7).unwrap();
    drop(run);
    // A limit that is set later takes nothing away, and a smaller capacity is always accepted.
    let run = place.try_open_with(Some(10)).unwrap();
    assert_eq!(run.exported(), ["/a", "/b", "/off"]);
    assert_eq!(run.volumes.committed_capacity().promised, disk / 10 * 5 + disk / 10 * 7);
    run.settled("b");
    let less =
        CapacityChange { capacity: Some(disk / 10), shrink: true, ..CapacityChange::default() };
    run.volumes.expand(&name("b"), less).unwrap();
    assert!(run.create("c").is_err());
}

#[test]
fn a_volume_shrinks_only_by_explicit_wish_and_never_below_what_is_used() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    let to = |capacity, shrink| {
        let growth =
            CapacityChange { capacity: Some(capacity), shrink, ..CapacityChange::default() };
        run.volumes.expand(&name("a"), growth).map(|status| status.spec.capacity)
    };
    assert!(matches!(to(8 * MIB, false), Err(Error::WouldShrink { .. })));
    assert_eq!(to(8 * MIB, true).unwrap(), 8 * MIB);
    assert!(matches!(to(1024, true), Err(Error::Invalid(_))), "nothing fits into that");
    fs::write(place.path("a/file"), vec![1; 128 << 10]).unwrap();
    run.volumes.recount(&name("a")).unwrap();
    run.eventually("it is counted", || run.settled("a").used > CAPACITY_MIN);
    assert!(matches!(to(CAPACITY_MIN, true), Err(Error::InUse { .. })), "so much is used");
    assert_eq!(run.settled("a").spec.capacity, 8 * MIB);
    assert!(matches!(to(u64::MAX / 2, false), Err(Error::TooLarge { .. })));
}

#[test]
fn a_copy_for_which_the_disk_has_no_room_is_told_from_one_that_fails() {
    crate::sys::mounts::with_own(|| {
        let place = small_disk();
        let run = place.open();
        run.create("a").unwrap();
        fs::write(place.path("a/file"), vec![1; 12 << 20]).unwrap();
        run.volumes.create(spec("copy"), VolumeOrigin::Clone(name("a"))).unwrap();
        let status = run.settled("copy");
        assert!(matches!(status.phase, VolumePhase::Failed { .. }) && status.full, "{status:?}");
        assert!(!run.settled("a").full);
    });
}

/// Fills a disk: all its blocks, or also all its inodes.
fn take_all(dir: &Path, inodes: bool) {
    let mut hog = fs::File::create(dir.join("hog")).unwrap();
    for size in [65536, 1] {
        while std::io::Write::write_all(&mut hog, &vec![1; size]).is_ok() {}
    }
    if inodes {
        while fs::File::create(dir.join(format!("{}", rand()))).is_ok() {}
    }
}

fn rand() -> u64 {
    registry::fresh_id().unwrap().0
}

/// Returns a directory with volumes on a small disk.
fn small_disk() -> VolumesDirectory {
    let place = VolumesDirectory::new();
    let options = c"size=20m,nr_inodes=100";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", place.dir.path(), "tmpfs", flags, options).unwrap();
    place
}

#[test]
fn volumes_are_given_back_when_the_disk_has_nothing_left() {
    let full = |inodes: bool| {
        let place = small_disk();
        let run = place.open();
        for of in ["hog", "a", "b", "c", "d", "e", "f"] {
            run.create(of).unwrap();
        }
        fs::write(place.path("a/file"), "content").unwrap();
        take_all(&place.path("hog"), inodes);
        assert!(run.create("g").is_err(), "there is room");
        let end = |run: &TestRun, of: &str, how| run.volumes.reclaim(&name(of), Some(how)).unwrap();
        assert!(matches!(end(&run, "a", OnDelete::Archive), Reclaimed::Archived(_)));
        for of in ["b", "c", "d"] {
            assert!(matches!(end(&run, of, OnDelete::Recycle), Reclaimed::Recycled(_)));
            take_all(&place.path("hog"), inodes); // a client that takes what was given back
        }
        let less =
            CapacityChange { capacity: Some(8 * MIB), shrink: true, ..CapacityChange::default() };
        run.volumes.expand(&name("e"), less).unwrap();
        // The owner of a volume must be recorded before it is reclaimed.
        let id = run.settled("f").spec.id;
        run.volumes.set_labels(&name("f"), &id, &[("example.org/whose", Some("x"))]).unwrap();
        drop(run);
        let run = place.open();
        assert_eq!(run.names(), names(["b", "c", "d", "e", "f", "hog"]));
        assert_eq!(run.settled("e").spec.capacity, 8 * MIB);
        end(&run, "f", OnDelete::Delete);
        take_all(&place.path("hog"), inodes);
        end(&run, "b", OnDelete::Recycle);
        end(&run, "hog", OnDelete::Delete);
        run.eventually("the trash is emptied", || run.trash_is_empty());
        run.create("g").unwrap();
        end(&run, "g", OnDelete::Delete);
        assert_eq!(place.own("spare").len(), 12, "the reserve is whole again");
        drop(run);
    };
    crate::sys::mounts::with_own(|| {
        full(false);
        full(true);
    });
}

#[test]
fn a_disk_that_an_earlier_version_has_filled_is_served_and_given_back() {
    let full = |inodes: bool| {
        let place = small_disk();
        let run = place.open();
        for of in ["hog", "a", "b"] {
            run.create(of).unwrap();
        }
        drop(run);
        for folder in ["cloning", "spare"] {
            fs::remove_dir_all(place.path(".berth").join(folder)).unwrap();
        }
        take_all(&place.path("hog"), inodes);
        let run = place.open();
        assert_eq!(run.exported(), ["/a", "/b", "/hog"]);
        let had_nothing = !place.path(".berth/spare").exists();
        run.volumes.reclaim(&name("a"), Some(OnDelete::Delete)).unwrap();
        take_all(&place.path("hog"), inodes);
        drop(run);
        let run = place.open();
        assert_eq!(run.names(), names(["b", "hog"]));
        run.volumes.reclaim(&name("hog"), Some(OnDelete::Delete)).unwrap();
        run.eventually("the trash is emptied", || run.trash_is_empty());
        run.settled("b"); // a copy needs to know what it takes
        run.volumes.create(spec("copy"), VolumeOrigin::Clone(name("b"))).unwrap();
        assert_eq!(run.settled("copy").phase, VolumePhase::Ready);
        run.volumes.reclaim(&name("copy"), Some(OnDelete::Delete)).unwrap();
        assert_eq!(place.own("spare").len(), 12);
        drop(run);
        had_nothing
    };
    crate::sys::mounts::with_own(|| {
        full(false);
        // The kernel may free an inode late that was removed before the disk was filled.
        assert!((0..10).any(|_| full(true)), "an inode was left each time");
    });
}
