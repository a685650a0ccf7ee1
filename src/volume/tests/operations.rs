//! The results of the operations, and what they refuse.

use super::*;

#[test]
fn creating_again_is_a_success_with_the_same_id_only() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let first = run.create("a").unwrap();
    assert_eq!(run.create("a").unwrap(), first);
    let other = Spec { id: VolumeId::new("id-b").unwrap(), ..spec("a") };
    assert!(matches!(run.volumes.create(other, VolumeOrigin::Fresh), Err(Error::OtherId { .. })));
    let other = Spec { name: name("b"), ..spec("a") };
    assert!(matches!(run.volumes.create(other, VolumeOrigin::Fresh), Err(Error::OtherName { .. })));
    assert_eq!(run.names(), ["a"]);
}

#[test]
fn what_is_in_the_way_stays_as_it_is() {
    let place = VolumesDirectory::new();
    let run = place.open();
    fs::create_dir(place.path("a")).unwrap();
    fs::write(place.path("b"), "a file").unwrap();
    std::os::unix::fs::symlink("/", place.path("c")).unwrap();
    for of in ["a", "b", "c"] {
        assert!(matches!(run.create(of), Err(Error::InTheWay(_))), "{of}");
    }
    for of in ["b", "c"] {
        let adopted = run.volumes.create(spec(of), VolumeOrigin::Adopt);
        assert!(matches!(adopted, Err(Error::InTheWay(_))), "{of}: {adopted:?}");
    }
    let missing = run.volumes.create(spec("d"), VolumeOrigin::Adopt);
    assert!(matches!(missing, Err(Error::NothingToAdopt(_))));
    assert!(run.names().is_empty() && place.own("volumes").is_empty());
    assert_eq!(fs::read_to_string(place.path("b")).unwrap(), "a file");
}

#[test]
fn wishes_that_make_no_sense_are_refused() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let refused = |change: fn(&mut Spec), kind: VolumeErrorKind| {
        let mut spec = spec("a");
        change(&mut spec);
        let error = run.volumes.create(spec, VolumeOrigin::Fresh).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    };
    refused(|spec| spec.capacity = 0, VolumeErrorKind::Invalid);
    refused(|spec| spec.capacity = u64::MAX, VolumeErrorKind::NoSpace);
    refused(|spec| spec.clients.clear(), VolumeErrorKind::Invalid);
    assert!(run.names().is_empty() && place.content().is_empty());
}

#[test]
fn the_end_of_a_volume_is_the_one_that_it_asks_for() {
    let place = VolumesDirectory::new();
    let run = place.open();
    for (of, on_delete) in [
        ("d", OnDelete::Delete),
        ("a", OnDelete::Archive),
        ("r", OnDelete::Recycle),
        ("k", OnDelete::Retain),
    ] {
        let spec = Spec { on_delete, ..spec(of) };
        run.volumes.create(spec, VolumeOrigin::Fresh).unwrap();
        fs::write(place.path(of).join("file"), "").unwrap();
    }
    let end = |of| run.volumes.reclaim(&name(of), None).unwrap();
    assert_eq!(end("d"), Reclaimed::Deleted);
    assert!(matches!(end("a"), Reclaimed::Archived(to) if place.path(&to).join("file").exists()));
    assert!(matches!(end("r"), Reclaimed::Recycled(_)));
    assert!(matches!(end("k"), Reclaimed::Retained(_)));
    assert_eq!(run.names(), ["k", "r"]);
    assert!(place.path("k/file").exists() && !place.path("r/file").exists());
    assert!(matches!(run.volumes.reclaim(&name("d"), None), Err(Error::NotFound(_))));
}

#[test]
fn a_volume_may_be_deeper_and_no_two_are_in_each_other() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let at = |of: &str, path: &str| {
        let directory = Some(VolumeDirectory::new(path).unwrap());
        run.volumes.create(Spec { directory, ..spec(of) }, VolumeOrigin::Fresh)
    };
    at("a", "team/app/data").unwrap();
    at("b", "team/other").unwrap();
    fs::write(place.path("team/app/data/file"), "content").unwrap();
    for inside in ["team/app/data", "team/app/data/below", "team/app", "team"] {
        let overlaps =
            matches!(at("c", inside), Err(Error::Overlaps { name, .. }) if name.as_str() == "a");
        assert!(inside == "team" || overlaps, "{inside}");
        assert!(matches!(at("c", inside), Err(Error::Overlaps { .. })), "{inside}");
    }
    fs::create_dir(place.path("team/free")).unwrap();
    assert!(matches!(at("c", "team/free"), Err(Error::InTheWay(_))), "it is no volume's");
    fs::remove_dir(place.path("team/free")).unwrap();
    std::os::unix::fs::symlink("/tmp", place.path("link")).unwrap();
    assert!(matches!(at("c", "link/c"), Err(Error::InTheWay(_))));
    drop(run);
    let run = place.open();
    assert_eq!(run.exported(), ["/a", "/b"]);
    run.volumes.reclaim(&name("a"), Some(OnDelete::Recycle)).unwrap();
    assert!(!place.path("team/app/data/file").exists() && place.path("team/app/data").exists());
    run.volumes.reclaim(&name("a"), Some(OnDelete::Delete)).unwrap();
    assert!(!place.path("team/app").exists(), "what was made for it is left");
    assert!(place.path("team/other").exists());
    let archived = run.volumes.reclaim(&name("b"), Some(OnDelete::Archive)).unwrap();
    assert!(!place.path("team").exists());
    let Reclaimed::Archived(to) = archived else { panic!("{archived:?}") };
    assert!(to.starts_with("archived-team-other-b-"), "{to}");
}

#[test]
fn a_secret_path_stays_and_leads_to_its_name() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let token = Some(MountToken::new("0123456789abcdef").unwrap());
    let made = run.volumes.create(Spec { token, ..spec("a") }, VolumeOrigin::Fresh).unwrap();
    assert_eq!(made.path, "/a/0123456789abcdef");
    assert!(place.path("a").exists(), "the directory says nothing of it");
    let mounted = "/a//./0123456789abcdef/";
    run.volumes.set_mounts(Box::new(|| vec![([10, 0, 0, 1].into(), mounted.into())]));
    assert_eq!(run.volumes.show(&name("a")).unwrap().mounted_by.len(), 1);
    run.volumes.reclaim(&name("a"), Some(OnDelete::Recycle)).unwrap();
    // A repeated request, with another token or none, leaves it at its path.
    let again = run.volumes.create(spec("a"), VolumeOrigin::Fresh).unwrap();
    assert_eq!(again.path, made.path);
    // The path of a copy has a token, too.
    run.volumes.create(spec("copy"), VolumeOrigin::Clone(name("a"))).unwrap();
    let copy = run.settled("copy");
    assert_eq!(copy.path.len(), "/copy/".len() + 32);
    drop(run);
    let run = place.open();
    assert_eq!(run.exported(), [made.path, copy.path]);
    assert!(run.exports.load().iter().all(|export| export.hidden));
}

#[test]
fn a_volume_that_somebody_has_is_not_taken_away() {
    let place = VolumesDirectory::new();
    let run = place.open();
    for of in ["held", "free"] {
        run.create(of).unwrap();
    }
    let may = |of: &str, how| run.volumes.check_not_held(&name(of), how).map_err(|e| e.to_string());
    assert_eq!(may("held", None), Ok(()), "nobody knows of anybody");
    run.volumes.set_holders(Box::new(|spec| {
        (spec.name.as_str() == "held").then(|| "the claim default/data".to_owned())
    }));
    for how in [None, Some(OnDelete::Delete), Some(OnDelete::Archive), Some(OnDelete::Recycle)] {
        let why = may("held", how).unwrap_err();
        assert!(why.contains("the claim default/data") && why.contains("--force"), "{why}");
        assert_eq!(may("free", how), Ok(()));
    }
    assert_eq!(may("held", Some(OnDelete::Retain)), Ok(()), "nothing happens to it");
    assert!(may("nothing", None).unwrap_err().contains("there is no volume"));
}

#[test]
fn archiving_twice_in_a_second_keeps_both() {
    let place = VolumesDirectory::new();
    let run = place.open();
    for content in ["one", "two", "three"] {
        run.create("a").unwrap();
        fs::write(place.path("a/file"), content).unwrap();
        run.volumes.reclaim(&name("a"), Some(OnDelete::Archive)).unwrap();
    }
    let mut kept: Vec<_> = place.content().into_values().filter(|c| !c.is_empty()).collect();
    kept.sort();
    assert_eq!(kept, ["one", "three", "two"]);
}

#[test]
fn a_recycled_volume_has_new_handles_and_an_empty_account() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    let export = |run: &TestRun| run.exports.load().iter().next().unwrap().id;
    let before = export(&run);
    let handle = run.fs.locate(before, b"").unwrap();
    fs::write(place.path("a/file"), vec![1; 100_000]).unwrap();
    run.fs.count(before, &AtomicBool::new(false)).unwrap();
    assert!(run.settled("a").used > 100_000);
    run.volumes.reclaim(&name("a"), Some(OnDelete::Recycle)).unwrap();
    assert_ne!(export(&run), before);
    assert_eq!(run.fs.locate(before, b"").err(), Some(Errno::STALE));
    assert!(run.fs.node(&handle, crate::sched::Patience::Blocking).is_err());
    assert_eq!(run.settled("a").inodes_used, 1);
    assert!(run.settled("a").used < 10_000);
}

#[test]
fn a_directory_has_one_server() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let second = place.try_open().err().unwrap();
    assert!(second.to_string().contains("in use"), "{second}");
    drop(run);
    place.open();
}

#[test]
fn ten_thousand_volumes_start_in_bulk() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    drop(run);
    let file = |of: &str| place.path(&format!(".berth/volumes/id-{of}.json"));
    let text = fs::read_to_string(file("a")).unwrap();
    let export = text.split("\"export\": \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    for n in 0..1000_u32 {
        let of = format!("n{n}");
        let record = text
            .replace("\"name\": \"a\"", &format!("\"name\": \"{of}\""))
            .replace("id-a", &format!("id-{of}"))
            .replace(&export, &format!("{n:016x}"));
        fs::write(file(&of), record).unwrap();
        fs::create_dir(Path::new(&place.path(&of))).unwrap();
    }
    let run = place.open();
    assert_eq!(run.exported().len(), 1001);
}
