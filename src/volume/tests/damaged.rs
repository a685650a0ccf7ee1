//! Registries and directories that were changed outside of Berth: only what is faulty is left
//! alone.

use std::fs;
use std::path::Path;

use super::*;

/// Whether the file system has extended attributes, so the directory of "a" is marked.
fn has_marks(place: &VolumesDirectory) -> bool {
    rustix::fs::lgetxattr(place.path("a"), "user.berth", &mut [0; 16]) == Ok(16)
}

#[test]
fn a_damaged_registry_file_is_left_alone_and_the_others_go_on() {
    let place = VolumesDirectory::new();
    let run = place.open();
    for of in ["a", "b", "c"] {
        run.create(of).unwrap();
        fs::write(place.path(of).join("file"), of).unwrap();
    }
    drop(run);
    let file = |of: &str| place.path(&format!(".berth/volumes/id-{of}.json"));
    let whole = fs::read(file("a")).unwrap();
    let half = &whole[..whole.len() / 2];
    fs::write(file("a"), half).unwrap();
    let text = fs::read_to_string(file("b")).unwrap();
    fs::write(file("b"), text.replace("\"format\": 1", "\"format\": 99")).unwrap();
    let run = place.open();
    assert_eq!(run.names(), ["c"]);
    let faults = run.volumes.faults().join("\n");
    assert!(faults.contains("id-a.json") && faults.contains("format is 99"), "{faults}");
    assert_eq!(fs::read(file("a")).unwrap(), half);
    assert!(run.create("a").is_err() && run.create("b").is_err());
    assert_eq!((&*place.content()["a/file"], &*place.content()["b/file"]), ("a", "b"));
    drop(run);
    fs::write(file("a"), whole).unwrap();
    assert_eq!(place.open().names(), ["a", "c"]);
}

#[test]
fn nothing_is_put_into_the_directory_of_a_record_that_cannot_be_read() {
    let (place, run) = tampered(|file, _| fs::write(file, "{").unwrap());
    if !has_marks(&place) {
        return;
    }
    fs::create_dir_all(place.path("a/x/adopted")).unwrap();
    for (at, origin) in [
        ("a/new", VolumeOrigin::Fresh),
        ("a/x/y/new", VolumeOrigin::Fresh),
        ("a/copy", VolumeOrigin::Clone(name("b"))),
        ("a/x/adopted", VolumeOrigin::Adopt),
    ] {
        let directory = Some(VolumeDirectory::new(at).unwrap());
        let put = run.volumes.create(Spec { directory, ..spec("d") }, origin);
        let Err(Error::Faulty(why)) = put else { panic!("{at}: {put:?}") };
        assert!(why.contains("setfattr -x user.berth /"), "{why}");
    }
    assert_eq!(run.names(), names(["b", "c"]));
    assert!(!place.path("a/new").exists() && !place.path("a/x/y").exists());
    // A directory without a mark belongs to no volume.
    rustix::fs::lremovexattr(place.path("a"), "user.berth").unwrap();
    let directory = Some(VolumeDirectory::new("a/new").unwrap());
    run.volumes.create(Spec { directory, ..spec("d") }, VolumeOrigin::Fresh).unwrap();
}

/// Opens the volumes "a", "b" and "c" after `change` of the record of "a".
fn tampered(change: impl Fn(&Path, &str)) -> (VolumesDirectory, TestRun) {
    let place = VolumesDirectory::new();
    let run = place.open();
    for of in ["a", "b", "c"] {
        run.create(of).unwrap();
        fs::write(place.path(of).join("file"), of).unwrap();
    }
    drop(run);
    let file = place.path(".berth/volumes/id-a.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    change(&file, &text);
    let run = place.open();
    (place, run)
}

/// Checks that "a" is a fault, that "b" and "c" are served, and that no content is lost.
fn only_a_is_faulty((place, run): &(VolumesDirectory, TestRun), why: &str) {
    let faults = run.volumes.faults().join("\n");
    assert!(faults.contains("id-a.json") && faults.contains(why), "{why}: {faults}");
    assert_eq!((run.names(), run.exported()), (names(["b", "c"]), names(["/b", "/c"])), "{why}");
    assert!(run.volumes.reclaim(&name("a"), Some(OnDelete::Delete)).is_err());
    assert!(run.create("a").is_err());
    for of in ["a", "b", "c"] {
        assert_eq!(place.content()[&format!("{of}/file")], of, "{why}");
    }
}

#[test]
fn of_two_records_with_one_directory_export_or_name_only_the_true_one_is_served() {
    let edited = |from: &str, to: &str| {
        tampered(|file, text| {
            assert!(text.contains(from), "{text}");
            fs::write(file, text.replace(from, to)).unwrap();
        })
    };
    let directory = |to: &str| {
        edited("\"name\": \"a\",", &format!("\"name\": \"a\", \"directory\": \"{to}\","))
    };
    only_a_is_faulty(&directory("b"), "overlaps");
    only_a_is_faulty(&directory("b/below"), "overlaps");
    only_a_is_faulty(&edited("\"name\": \"a\",", "\"name\": \"b\","), "the volume b has");
    let copied = tampered(|file, text| {
        let other = fs::read_to_string(file.with_file_name("id-b.json")).unwrap();
        let export = |text: &str| text.split("\"export\": \"").nth(1).unwrap()[..16].to_owned();
        fs::write(file, text.replace(&export(text), &export(&other))).unwrap();
    });
    only_a_is_faulty(&copied, "its export");
    // It cannot be adopted by another name either: the directory stays with its record.
    let other = Spec { directory: Some(VolumeDirectory::new("a").unwrap()), ..spec("d") };
    let adopted = copied.1.volumes.create(other, VolumeOrigin::Adopt);
    assert!(matches!(adopted, Err(Error::Faulty(_))), "{adopted:?}");
    // Without marks, as after an earlier version or without extended attributes.
    let unmarked = tampered(|file, text| {
        for of in ["a", "b"] {
            let dir = file.parent().unwrap().join("../..").join(of);
            let _ = rustix::fs::lremovexattr(dir, "user.berth");
        }
        fs::write(file, text.replace("\"name\": \"a\",", "\"name\": \"a\", \"directory\": \"b\","))
            .unwrap();
    });
    only_a_is_faulty(&unmarked, "overlaps");
}

#[test]
fn a_record_that_is_no_file_is_neither_waited_for_nor_followed() {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let fifo = |file: &Path, _: &str| {
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, file, fifo, mode, 0).unwrap();
    };
    only_a_is_faulty(&tampered(fifo), "not a regular file");
    only_a_is_faulty(&tampered(|file, _| fs::create_dir(file).unwrap()), "not a regular file");
    let link = |file: &Path, text: &str| {
        fs::write(file.with_extension("text"), text).unwrap();
        std::os::unix::fs::symlink("id-a.text", file).unwrap();
    };
    only_a_is_faulty(&tampered(link), "not a regular file");
    let large = |file: &Path, text: &str| {
        fs::write(file, format!("{text}{}", " ".repeat(300_000))).unwrap();
    };
    only_a_is_faulty(&tampered(large), "larger than");
    let outside = |file: &Path, text: &str| {
        let text = text.replace("\"ready\"", "{\"archiving\": \"../archived-a\"}");
        fs::write(file, text).unwrap();
    };
    only_a_is_faulty(&tampered(outside), "archived as");
}

#[test]
fn what_stands_for_a_folder_of_leftovers_is_set_aside_and_all_volumes_are_served() {
    for folder in ["making", "leaving", "trash"] {
        let place = VolumesDirectory::new();
        let run = place.open();
        run.create("a").unwrap();
        drop(run);
        let path = place.path(".berth").join(folder);
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/", &path).unwrap();
        let run = place.open();
        assert_eq!(run.exported(), ["/a"]);
        assert!(path.symlink_metadata().unwrap().is_dir(), "{folder}");
    }
}

#[test]
fn a_volume_without_its_directory_is_lost_and_can_be_deleted() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    drop(run);
    fs::rename(place.path("a"), place.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", place.path("a")).unwrap();
    let run = place.open();
    assert!(matches!(run.settled("a").phase, VolumePhase::Lost { .. }), "a link was followed");
    assert!(run.create("a").is_err(), "what cannot be used is no success");
    assert!(run.volumes.is_lost(&name("a")) && run.volumes.at_path("/a").is_some());
    fs::remove_file(place.path("a")).unwrap();
    fs::rename(place.path("elsewhere"), place.path("a")).unwrap();
    assert!(
        !matches!(run.create("a").unwrap().phase, VolumePhase::Lost { .. }),
        "it is not served again"
    );
    assert!(!run.volumes.is_lost(&name("a")) && !run.volumes.is_lost(&name("none")));
    assert_eq!(run.exported(), ["/a"]);
    drop(run);
    fs::rename(place.path("a"), place.path("elsewhere")).unwrap();
    let run = place.open();
    assert!(matches!(
        run.volumes.reclaim(&name("a"), Some(OnDelete::Recycle)),
        Err(Error::Lost { .. })
    ));
    assert_eq!(run.volumes.reclaim(&name("a"), None).unwrap(), Reclaimed::Deleted);
    assert!(place.path("elsewhere").exists() && run.names().is_empty());
}

#[test]
fn what_took_the_place_of_a_volume_is_left_alone_at_its_end() {
    let place = VolumesDirectory::new();
    let run = place.open();
    let deep = Spec { directory: Some(VolumeDirectory::new("team/b").unwrap()), ..spec("b") };
    run.create("a").unwrap();
    run.volumes.create(deep, VolumeOrigin::Fresh).unwrap();
    drop(run);
    fs::create_dir_all(place.path("precious/b")).unwrap();
    for (of, link) in [("a", "a"), ("team", "team")] {
        fs::rename(place.path(of), place.path(&format!("kept-{of}"))).unwrap();
        std::os::unix::fs::symlink("precious", place.path(link)).unwrap();
    }
    let run = place.open();
    for of in ["a", "b"] {
        let recycled = run.volumes.reclaim(&name(of), Some(OnDelete::Recycle));
        assert!(matches!(recycled, Err(Error::Lost { .. })), "{recycled:?}");
        assert_eq!(
            run.volumes.reclaim(&name(of), Some(OnDelete::Delete)).unwrap(),
            Reclaimed::Deleted
        );
    }
    assert!(place.path("precious/b").exists() && place.path("kept-team/b").exists());
    assert!(place.path("a").is_symlink() && place.path("team").is_symlink());
}

#[test]
fn what_is_mounted_among_the_volumes_is_not_adopted() {
    crate::sys::mounts::with_own(|| {
        let place = VolumesDirectory::new();
        let run = place.open();
        run.create("a").unwrap();
        fs::create_dir_all(place.path("bound")).unwrap();
        rustix::mount::mount_bind(place.path("a"), place.path("bound")).unwrap();
        let adopted = run.volumes.create(spec("bound"), VolumeOrigin::Adopt);
        assert!(matches!(adopted, Err(Error::Invalid(_))), "{adopted:?}");
        assert_eq!(run.names(), ["a"]);
    });
}

#[test]
fn what_is_left_of_an_earlier_end_does_not_stand_for_the_next_one() {
    for how in [OnDelete::Recycle, OnDelete::Delete, OnDelete::Archive] {
        let place = VolumesDirectory::new();
        let run = place.open();
        run.create("a").unwrap();
        let left = place.path(".berth/leaving/id-a");
        fs::create_dir(&left).unwrap();
        fs::write(place.path("a/file"), "content").unwrap();
        run.volumes.reclaim(&name("a"), Some(how)).unwrap();
        assert!(!place.path("a/file").exists(), "{how:?} leaves the content to the next claim");
        assert!(!left.exists(), "{how:?}");
        assert_eq!(place.path("a").exists(), how == OnDelete::Recycle);
    }
}

#[test]
fn an_end_that_goes_on_tells_the_old_directory_from_the_new_one() {
    for (how, step) in [(OnDelete::Recycle, 4), (OnDelete::Delete, 2)] {
        let place = VolumesDirectory::new();
        let run = place.open();
        run.create("a").unwrap();
        if !has_marks(&place) {
            return;
        }
        fs::write(place.path("a/file"), "content").unwrap();
        // The record is written, and nothing else has happened.
        run.volumes.layout.crash.after(step);
        run.volumes.reclaim(&name("a"), Some(how)).unwrap_err();
        assert!(place.path("a/file").exists());
        let record = fs::read_to_string(place.path(".berth/volumes/id-a.json")).unwrap();
        assert!(!record.contains("ready"), "{record}");
        drop(run);
        fs::create_dir(place.path(".berth/leaving/id-a")).unwrap();
        let run = place.open();
        assert!(!place.path("a/file").exists(), "{how:?}");
        assert_eq!(run.exported().is_empty(), how == OnDelete::Delete);
        assert_eq!(place.path("a").exists(), how == OnDelete::Recycle);
    }
}
