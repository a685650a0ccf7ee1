//! What the disk keeps, over restarts and with damage.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::tempdir;

use super::store::{ClientStore, OpenedStore, StoreError};
use super::*;

fn record(owner: &[u8]) -> ClientRecord {
    ClientRecord { owner: owner.into(), principal: ROOT, verifier: [1; 8] }
}

fn open(state: &Path) -> OpenedStore {
    ClientStore::open(state).unwrap()
}

/// The clients that may reclaim, in order.
fn owners(opened: &OpenedStore) -> Vec<&[u8]> {
    let mut owners: Vec<_> = opened.may_reclaim.iter().map(|record| &*record.owner).collect();
    owners.sort_unstable();
    owners
}

/// The files of recorded clients.
fn files(state: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.join("nfs4/clients")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The file of the only recorded client.
fn file(state: &Path) -> PathBuf {
    match files(state).as_slice() {
        [file] => file.clone(),
        files => panic!("not one file: {files:?}"),
    }
}

#[test]
fn identity_stays_and_epochs_grow() {
    let dir = tempdir().unwrap();
    let first = open(dir.path());
    assert_eq!(first.store.epoch(), 1);
    for epoch in 2..5 {
        let again = open(dir.path());
        assert_eq!(again.store.identity(), first.store.identity());
        assert_eq!(again.store.epoch(), epoch);
        assert!(again.may_reclaim.is_empty());
    }
    let other = tempdir().unwrap();
    assert_ne!(open(other.path()).store.identity(), first.store.identity());
}

#[test]
fn recorded_clients_may_reclaim_after_a_restart() {
    //= test RFC 8881 8.4.2.1
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    let other =
        ClientRecord { principal: Principal::None, verifier: [2; 8], ..record(&[0xff; 1024]) };
    for record in [record(b"a"), record(b""), other.clone()] {
        assert!(!store.is_recorded(&record));
        store.record(&record).unwrap();
        assert!(store.is_recorded(&record));
        store.record(&record).unwrap();
    }
    assert_eq!(store.len(), 3);
    let opened = open(dir.path());
    assert_eq!(owners(&opened), [&b""[..], b"a", &[0xff; 1024]]);
    assert!(opened.may_reclaim.contains(&other));
}

#[test]
fn a_new_instance_of_a_client_replaces_its_record() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"a")).unwrap();
    let restarted = ClientRecord { verifier: [2; 8], ..record(b"a") };
    assert!(!store.is_recorded(&restarted));
    store.record(&restarted).unwrap();
    assert!(!store.is_recorded(&record(b"a")));
    assert_eq!(open(dir.path()).may_reclaim, [restarted]);
}

#[test]
fn a_forgotten_client_does_not_reclaim() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"a")).unwrap();
    store.forget(&ClientRecord { verifier: [2; 8], ..record(b"a") }).unwrap();
    assert!(store.is_recorded(&record(b"a")), "another instance was forgotten");
    store.forget(&record(b"a")).unwrap();
    store.forget(&record(b"a")).unwrap();
    assert!(store.is_empty() && !store.is_recorded(&record(b"a")));
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    assert!(open(dir.path()).may_reclaim.is_empty());
}

#[test]
fn a_client_that_did_not_reclaim_does_not_in_the_next_epoch() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"back")).unwrap();
    store.record(&record(b"silent")).unwrap();

    let opened = open(dir.path());
    assert_eq!(owners(&opened), [&b"back"[..], b"silent"]);
    assert!(!opened.store.is_recorded(&record(b"back")), "it was in another epoch");
    opened.store.record(&record(b"back")).unwrap();
    opened.store.end_grace().unwrap();
    opened.store.end_grace().unwrap();
    assert_eq!(opened.store.len(), 1);
    assert_eq!(files(dir.path()).len(), 1);
    // One that comes too late is recorded as any other client.
    opened.store.record(&record(b"late")).unwrap();

    assert_eq!(owners(&open(dir.path())), [&b"back"[..], b"late"]);
}

#[test]
fn a_restart_within_the_grace_period_continues_it() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"back")).unwrap();
    store.record(&record(b"silent")).unwrap();
    for _ in 0..3 {
        let opened = open(dir.path());
        assert_eq!(owners(&opened), [&b"back"[..], b"silent"]);
        opened.store.record(&record(b"back")).unwrap();
    }
    let opened = open(dir.path());
    opened.store.end_grace().unwrap();
    assert!(open(dir.path()).may_reclaim.is_empty(), "nobody was recorded since");
}

#[test]
fn void_records_that_a_crash_left_do_not_count() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"silent")).unwrap();
    let file = file(dir.path());
    let text = fs::read(&file).unwrap();
    open(dir.path()).store.end_grace().unwrap();
    assert!(!file.exists());
    fs::write(&file, text).unwrap();
    fs::write(file.with_extension("json.new"), "half").unwrap();
    assert!(open(dir.path()).may_reclaim.is_empty());
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[test]
fn the_folder_may_be_an_older_copy() {
    let dir = tempdir().unwrap();
    let epoch = dir.path().join("nfs4/epoch");
    open(dir.path());
    let old = fs::read(&epoch).unwrap();
    (0..5).for_each(|_| drop(open(dir.path())));
    let store = open(dir.path()).store;
    store.record(&record(b"a")).unwrap();
    fs::write(&epoch, old).unwrap();
    let opened = open(dir.path());
    assert!(opened.store.epoch() > store.epoch());
    assert_eq!(owners(&opened), [b"a"]);
}

/// What may be in the place of a file.
fn damage(path: &Path, kind: usize) -> bool {
    let text = fs::read(path).unwrap_or_default();
    match kind {
        0 => fs::write(path, "").unwrap(),
        1 => fs::write(path, &text[..text.len() / 2]).unwrap(),
        2 => fs::write(path, vec![b'x'; 1 << 20]).unwrap(),
        3 => fs::write(path, r#"{"format":2}"#).unwrap(),
        4 => fs::write(path, r#"{"format":1,"id":"zz","epoch":-1}"#).unwrap(),
        5 => {
            let text = String::from_utf8(text).unwrap();
            fs::write(path, text.replace(r#""epoch":1"#, r#""epoch":4294967295"#)).unwrap();
        }
        6 => {
            fs::remove_file(path).unwrap();
            fs::create_dir_all(path.join("full")).unwrap();
        }
        7 => {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        }
        8 => {
            fs::remove_file(path).unwrap();
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, fifo, mode, 0).unwrap();
        }
        _ => return false,
    }
    true
}

#[test]
fn a_damaged_record_is_left_alone_until_its_client_comes() {
    for kind in 0..9 {
        let dir = tempdir().unwrap();
        let store = open(dir.path()).store;
        store.record(&record(b"a")).unwrap();
        let path = file(dir.path());
        store.record(&record(b"b")).unwrap();
        assert!(damage(&path, kind));
        let opened = open(dir.path());
        assert_eq!(owners(&opened), [b"b"], "kind {kind}");
        assert!(path.symlink_metadata().is_ok(), "kind {kind}");
        opened.store.record(&record(b"a")).unwrap();
        let mut aside = path.clone().into_os_string();
        aside.push(".damaged");
        assert!(Path::new(&aside).symlink_metadata().is_ok(), "kind {kind}");
        assert_eq!(owners(&open(dir.path())), [b"a", b"b"], "kind {kind}");
    }
}

#[test]
fn a_damaged_epoch_is_replaced_by_a_larger_one_and_nothing_is_reclaimed() {
    for kind in 0..9 {
        let dir = tempdir().unwrap();
        let store = open(dir.path()).store;
        store.record(&record(b"a")).unwrap();
        assert!(damage(&dir.path().join("nfs4/epoch"), kind));
        let opened = open(dir.path());
        assert!(opened.store.epoch() > 1_000_000, "kind {kind}");
        assert!(opened.may_reclaim.is_empty(), "kind {kind}");
        assert_eq!(opened.store.identity(), store.identity());
        assert!(open(dir.path()).store.epoch() > opened.store.epoch());
    }
}

#[test]
fn a_damaged_identity_is_replaced() {
    for kind in (0..9).filter(|kind| *kind != 5) {
        let dir = tempdir().unwrap();
        let store = open(dir.path()).store;
        assert!(damage(&dir.path().join("nfs4/identity"), kind));
        let again = open(dir.path()).store;
        assert_ne!(again.identity(), store.identity(), "kind {kind}");
        assert_eq!(open(dir.path()).store.identity(), again.identity());
    }
}

#[test]
fn a_record_under_the_name_of_another_client_is_not_used() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"a")).unwrap();
    let path = file(dir.path());
    fs::rename(&path, path.with_file_name("0.json")).unwrap();
    assert!(open(dir.path()).may_reclaim.is_empty());
}

#[test]
fn a_client_that_cannot_be_recorded_is_not_recorded() {
    let dir = tempdir().unwrap();
    let store = open(dir.path()).store;
    store.record(&record(b"a")).unwrap();
    fs::remove_dir_all(dir.path().join("nfs4/clients")).unwrap();
    let failed = store.record(&record(b"b")).unwrap_err();
    assert!(matches!(failed, StoreError::Write { .. }), "{failed}");
    assert!(!store.is_recorded(&record(b"b")));
    assert!(store.forget(&record(b"a")).is_err());
}

#[test]
fn many_threads_record_and_forget() {
    let dir = tempdir().unwrap();
    let store = &open(dir.path()).store;
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                for n in 0..8 {
                    store.record(&record(&[thread, n])).unwrap();
                    store.record(&record(b"shared")).unwrap();
                    if n % 2 == 0 {
                        store.forget(&record(&[thread, n])).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.len(), 17);
    assert_eq!(open(dir.path()).may_reclaim.len(), 17);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_bytes_in_any_file_are_survived(
        name in prop_oneof![Just("identity"), Just("epoch"), Just("record")],
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let dir = tempdir().unwrap();
        let store = open(dir.path()).store;
        store.record(&record(b"a")).unwrap();
        let path = match name {
            "record" => file(dir.path()),
            name => dir.path().join("nfs4").join(name),
        };
        let mut text = fs::read(&path).unwrap();
        let at = cut.index(text.len());
        text.truncate(at);
        text.extend(&noise);
        fs::write(&path, &text).unwrap();
        let opened = open(dir.path());
        prop_assert!(opened.store.epoch() > store.epoch());
        opened.store.record(&record(b"a")).unwrap();
        let opened = open(dir.path());
        prop_assert_eq!(owners(&opened), [b"a"]);
    }
}
