//! Clones of volumes: complete, or shown as failed.

use std::fs;

use super::*;

#[test]
fn a_crash_while_cloning_leaves_a_whole_copy_or_a_failure_that_is_shown() {
    let acknowledged = std::cell::Cell::new(false);
    let clone = |run: &TestRun| {
        acknowledged.set(false);
        run.volumes.create(spec("b"), VolumeOrigin::Clone(name("a")))?;
        acknowledged.set(true);
        match run.settled("b").phase {
            VolumePhase::Failed { message } => Err(Error::Invalid(message)),
            // The crash has hit the note, for which no thread waits.
            _ if run.volumes.layout.crash.reached() => Err(Error::Invalid("crashed".into())),
            _ => Ok(()),
        }
    };
    crash_everywhere(with_a_file, clone, |run, place, done| {
        other_is_whole(run, place);
        assert_eq!(place.content()["a/file"], "content");
        let found = run.volumes.show(&name("b")).map(|_| run.settled("b"));
        match found.map(|status| (status.phase, status.inodes_used)) {
            Ok((VolumePhase::Failed { .. }, _)) => {
                assert!(!done && !place.content().contains_key("b"));
                assert_eq!(place.own("cloning"), ["id-b.json"]);
            }
            Ok(ready) => {
                assert_eq!(ready, (VolumePhase::Ready, 2));
                assert_eq!(place.content()["b/file"], "content");
                assert!(place.own("cloning").is_empty());
            }
            Err(_) => assert!(!done && !acknowledged.get() && !place.content().contains_key("b")),
        }
    });
}

/// Returns a directory in which an earlier run was interrupted while it cloned "a" to "b".
fn cut_off() -> VolumesDirectory {
    let place = VolumesDirectory::new();
    let run = place.open();
    with_a_file(&run, &place);
    let note = clone_note::CloneNote {
        spec: spec("b"),
        from: name("a"),
        began: registry::now(),
        failed: None,
    };
    run.volumes.layout.note(&note).unwrap();
    place
}

fn failure(run: &TestRun, of: &str) -> String {
    match run.volumes.show(&name(of)).unwrap().phase {
        VolumePhase::Failed { message } => message,
        phase => panic!("{phase:?}"),
    }
}

#[test]
fn a_clone_that_was_cut_off_can_be_deleted_or_made_again() {
    let place = cut_off();
    let run = place.open();
    assert!(failure(&run, "b").contains("create it again, or delete it"));
    assert_eq!(run.exported(), names(["/a", "/other"]));
    run.volumes.reclaim(&name("b"), Some(OnDelete::Delete)).unwrap();
    drop(run);
    assert_eq!(place.open().names(), names(["a", "other"]));

    for again in [spec("b"), Spec { id: VolumeId::new("id-c").unwrap(), ..spec("b") }] {
        for origin in [VolumeOrigin::Clone(name("a")), VolumeOrigin::Fresh] {
            let place = cut_off();
            let run = place.open();
            run.volumes.create(again.clone(), origin).unwrap();
            assert_eq!(run.settled("b").phase, VolumePhase::Ready);
            assert!(place.own("cloning").is_empty());
            // The id that it does not have is free.
            let other = if again.id == spec("b").id { "id-c" } else { "id-b" };
            let other = Spec { id: VolumeId::new(other).unwrap(), ..spec("c") };
            run.volumes.create(other, VolumeOrigin::Fresh).unwrap();
            drop(run);
            assert_eq!(place.open().names(), names(["a", "b", "c", "other"]));
        }
    }
}

#[test]
fn why_a_clone_has_failed_is_known_after_a_restart() {
    let place = VolumesDirectory::new();
    let run = place.open();
    with_a_file(&run, &place);
    fs::write(place.path("a/large"), vec![1; 300_000]).unwrap();
    let small = Spec { capacity: 100_000, ..spec("b") };
    run.volumes.create(small, VolumeOrigin::Clone(name("a"))).unwrap();
    assert!(matches!(run.settled("b").phase, VolumePhase::Failed { .. }));
    let why = failure(&run, "b");
    drop(run);
    assert_eq!(failure(&place.open(), "b"), why);
}

#[test]
fn notes_of_clones_are_not_believed_against_volumes() {
    let place = cut_off();
    let note = |of: &str| place.path(&format!(".berth/cloning/{of}.json"));
    let text = fs::read_to_string(note("id-b")).unwrap();
    let edited = |of: &str, to: &str| fs::write(note(of), text.replace("id-b", to)).unwrap();
    edited("id-a", "id-a"); // a volume's id
    fs::write(note("id-x"), text.replace("id-b", "id-x").replace("\"b\"", "\"other\"")).unwrap();
    edited("id-y", "id-z"); // another's note
    fs::write(note("id-v"), "{").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, note("id-w"), 0o600.into()).unwrap();
    let run = place.open();
    assert_eq!(run.names(), names(["a", "b", "other"]));
    other_is_whole(&run, &place);
    assert_eq!(place.content()["a/file"], "content");
    let mut left = place.own("cloning");
    left.sort();
    assert_eq!(left, ["id-b.json", "id-v.json", "id-w.json", "id-y.json"]);
}

#[test]
fn a_clone_must_fit_and_its_source_must_stay() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    fs::write(place.path("a/file"), vec![1; 1 << 20]).unwrap();
    let small = Spec { capacity: 64 * 1024, ..spec("b") };
    let clone = |spec: Spec| run.volumes.create(spec, VolumeOrigin::Clone(name("a")));
    clone(small.clone()).unwrap();
    let failed = run.settled("b");
    assert!(
        matches!(&failed.phase, VolumePhase::Failed { message } if message.contains("65536")),
        "{failed:?}"
    );
    assert!(!place.path("b").exists());
    // Repeated with a larger capacity, or without a limit, it succeeds.
    clone(Spec { capacity: 2 * MIB, ..small.clone() }).unwrap();
    assert_eq!(run.settled("b").phase, VolumePhase::Ready);
    let off = Spec {
        name: name("c"),
        id: VolumeId::new("id-c").unwrap(),
        quota: QuotaMode::Off,
        ..small
    };
    clone(off).unwrap();
    assert_eq!(run.settled("c").phase, VolumePhase::Ready);
    let missing = run.volumes.create(spec("d"), VolumeOrigin::Clone(name("nothing")));
    assert!(matches!(missing, Err(Error::NotFound(_))));
}

#[test]
fn copies_wait_for_their_turn_and_all_are_made() {
    let place = VolumesDirectory::new();
    let run = place.open();
    with_a_file(&run, &place);
    let count = |run: &TestRun, is: fn(&VolumePhase) -> bool| {
        run.volumes.list().iter().filter(|status| is(&status.phase)).count()
    };
    run.volumes.copies.set_limit(0);
    for n in 0..20 {
        run.volumes.create(spec(&format!("c{n}")), VolumeOrigin::Clone(name("a"))).unwrap();
    }
    assert_eq!(count(&run, |phase| matches!(phase, VolumePhase::Cloning { .. })), 20);
    // None of them has a thread yet.
    run.volumes.copies.set_limit(2);
    run.volumes.begin_copies();
    for n in 0..20 {
        assert_eq!(run.settled(&format!("c{n}")).phase, VolumePhase::Ready);
        assert_eq!(fs::read_to_string(place.path(&format!("c{n}/file"))).unwrap(), "content");
    }
}

#[test]
fn a_copy_that_is_given_up_ends_at_once_and_its_source_can_go() {
    let place = VolumesDirectory::new();
    let run = place.open();
    with_a_file(&run, &place);
    run.volumes.copies.set_limit(0);
    run.volumes.create(spec("b"), VolumeOrigin::Clone(name("a"))).unwrap();
    let end = |of: &str| run.volumes.reclaim(&name(of), Some(OnDelete::Delete));
    assert!(matches!(end("b"), Err(Error::Cloning(_))));
    assert!(matches!(end("a"), Err(Error::Source { .. })));
    // Another volume of this name is not cancelled.
    run.volumes.give_up(&name("b"), &VolumeId::new("id-c").unwrap());
    assert!(matches!(end("b"), Err(Error::Cloning(_))));
    run.volumes.give_up(&name("b"), &spec("b").id);
    assert!(matches!(run.volumes.show(&name("b")).unwrap().phase, VolumePhase::Failed { .. }));
    end("b").unwrap();
    end("a").unwrap();
    run.volumes.copies.set_limit(2);
    run.volumes.begin_copies();
    assert_eq!(run.names(), ["other"]);
    assert!(place.own("cloning").is_empty());
}

#[test]
fn a_copy_that_is_under_way_ends_early_when_it_is_given_up() {
    let place = VolumesDirectory::new();
    let run = place.open();
    with_a_file(&run, &place);
    // Makes the copy take a while.
    let large = fs::File::create(place.path("a/large")).unwrap();
    for n in 0..200_u64 {
        std::os::unix::fs::FileExt::write_all_at(&large, &[1; 64 * 1024], n * 65536).unwrap();
    }
    run.volumes.create(spec("b"), VolumeOrigin::Clone(name("a"))).unwrap();
    run.volumes.give_up(&name("b"), &spec("b").id);
    match run.settled("b").phase {
        // The copy was complete before it was cancelled.
        VolumePhase::Ready => {}
        VolumePhase::Failed { message } => assert!(message.contains("cancel"), "{message}"),
        phase => panic!("{phase:?}"),
    }
    run.volumes.reclaim(&name("b"), Some(OnDelete::Delete)).unwrap();
    run.volumes.reclaim(&name("a"), Some(OnDelete::Delete)).unwrap();
}
