//! Labels of volumes, and the lookups that do not wait for the disk.

use std::fs;
use std::time::Duration;

use super::{TestRun, VolumesDirectory, crash_everywhere, name, spec};
use crate::volume::VolumeOrigin;
use crate::volume::error::VolumeErrorKind;
use crate::volume::name::VolumeId;

#[test]
fn labels_are_on_the_disk_or_as_they_were() {
    let label =
        |run: &TestRun, key: &str| run.volumes.at_path("/a").unwrap().labels.get(key).cloned();
    let set = |run: &TestRun| {
        let (id, gone) = (spec("a").id, ("old", None));
        run.volumes.set_labels(&name("a"), &id, &[("key", Some("value")), gone]).map(drop)
    };
    crash_everywhere(
        |run, _| {
            let mut spec = spec("a");
            spec.labels.insert("old".into(), "x".into());
            run.volumes.create(spec, VolumeOrigin::Fresh).unwrap();
        },
        set,
        |run, _, done| {
            let found = (label(run, "key").is_some(), label(run, "old").is_none());
            assert!(found == (true, true) || !done && found == (false, false), "{found:?}");
        },
    );
}

#[test]
fn labels_are_of_one_volume() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    let other = VolumeId::new("another").unwrap();
    let error = run.volumes.set_labels(&name("a"), &other, &[("key", Some("x"))]).unwrap_err();
    assert_eq!(error.kind(), VolumeErrorKind::NotFound);
    assert_eq!(run.volumes.at_path("/a").unwrap().labels.len(), 0);
    for other in ["/b", "a", "/a/", "/a/b", "//a", "/", ""] {
        assert!(run.volumes.at_path(other).is_none(), "{other}");
    }
    assert_eq!(run.volumes.specs().len(), 1);
}

#[test]
fn a_volume_in_which_something_was_is_not_untouched() {
    let place = VolumesDirectory::new();
    let run = place.open();
    run.create("a").unwrap();
    assert!(run.volumes.is_untouched(&name("a")).unwrap());
    fs::write(place.path("a/file"), "").unwrap();
    assert!(!run.volumes.is_untouched(&name("a")).unwrap());
    fs::remove_file(place.path("a/file")).unwrap();
    // Simulates a change some time later.
    let dir = fs::File::open(place.path("a")).unwrap();
    dir.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).unwrap();
    assert!(!run.volumes.is_untouched(&name("a")).unwrap());
}
