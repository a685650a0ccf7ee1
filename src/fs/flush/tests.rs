//! What callers are told of a flush, and what stays open until then.

use super::flusher::Job;
use super::*;
use crate::export::ExportId;
use crate::fs::group_commit::Next;
use crate::fs::handle::{KEY_LEN, Key};
use crate::fs::root::Root;
use crate::fs::testing::Files;
use std::path::Path;

fn served(dir: &Path) -> (Fs, Arc<Node>) {
    let fs = Fs::new(Key::new([1; KEY_LEN]), 64, dir).unwrap();
    let root = Arc::new(Root::open(ExportId(1), dir, None, None).unwrap());
    let node = fs.root_node(&root).unwrap();
    (fs, node)
}

/// Makes the flushes of `node` fail: a pipe stands for a broken disk.
fn broken(node: &Node) {
    let (_, pipe) = std::io::pipe().unwrap();
    node.write.set(pipe.into(), 0);
}

#[test]
fn a_flush_that_fails_changes_the_verifier() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, node) = served(dir.path());
    broken(&node);
    fs.mark_dirty(&node);
    let before = fs.verifier();
    assert_eq!(fs.flush(&node, Extent::All), Err(Errno::INVAL));
    assert_ne!(fs.verifier(), before);
}

#[test]
fn a_flush_that_succeeds_leaves_the_verifier() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, node) = served(dir.path());
    let before = fs.verifier();
    fs.flush(&node, Extent::All).unwrap();
    assert_eq!(fs.verifier(), before);
}

#[test]
fn a_flush_that_failed_since_the_change_is_a_failure_although_the_next_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, node) = served(dir.path());
    let since = node.failures();
    node.failures.fetch_add(1, Ordering::SeqCst);
    let (told, flushed) = mpsc::channel();
    let due = Due::Content(Arc::clone(&node), Extent::Data, since);
    fs.make_durable(due, Box::new(move |flushed| told.send(flushed).unwrap()));
    assert_eq!(flushed.recv().unwrap(), Err(Errno::IO));
    assert_eq!(fs.flush(&node, Extent::Data), Ok(()));
}

/// An export whose files are attached, and a file in it that was created and never read.
fn with_file(dir: &Path) -> (Fs, Arc<Node>) {
    let (fs, export) = (Fs::new(Key::new([1; KEY_LEN]), 64, dir).unwrap(), ExportId(1));
    fs.attach(export, dir, None, None).unwrap();
    let files = Files::of(&fs, export);
    let file = files.create(&files.root(), "file").unwrap();
    assert!(file.write.is_open() && file.read.get().is_none());
    (fs, file)
}

#[test]
fn a_flush_succeeds_although_the_one_before_closes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, file) = with_file(dir.path());
    let shared = &fs.flusher.shared;
    // The first caller waits, and its flush begins.
    let first = file.flush.join(|request| request.add(Extent::All, None), Box::new(drop));
    assert_eq!(first, Next::Begin);
    drop(file.flush.begin());
    let (told, flushed) = mpsc::channel();
    let due = Due::Content(Arc::clone(&file), Extent::All, file.failures());
    fs.make_durable(due, Box::new(move |flushed| told.send(flushed).unwrap()));
    shared.flush_one(&file, Extent::All, None).unwrap();
    assert!(!file.write.is_open(), "nothing is left to be flushed");
    assert_eq!(file.flush.end(), Next::Begin);
    shared.push(Job::Content(Arc::clone(&file)));
    assert_eq!(flushed.recv().unwrap(), Ok(()));
}

#[test]
fn metadata_is_flushed_although_a_sweep_closed_the_file_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, file) = with_file(dir.path());
    let root = &file.root;
    assert_eq!(root.metadata.join(|_| (), Box::new(drop)), Next::Begin);
    drop(root.metadata.begin());
    let (told, flushed) = mpsc::channel();
    let then = Box::new(move |flushed| told.send(flushed).unwrap());
    fs.make_durable(Due::Metadata(vec![Arc::clone(&file)]), then);
    (0..2).for_each(|_| fs.sweep());
    assert!(!file.write.is_open() && file.read.get().is_none());
    assert_eq!(root.metadata.end(), Next::Begin);
    fs.flusher.shared.push(Job::Metadata(Arc::clone(root)));
    assert_eq!(flushed.recv().unwrap(), Ok(()));
}

#[test]
fn the_queue_is_flushed_before_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (fs, node) = served(dir.path());
    let (told, flushed) = mpsc::channel();
    for _ in 0..100 {
        let told = told.clone();
        let then = Box::new(move |flushed| told.send(flushed).unwrap());
        fs.make_durable(Due::Metadata(vec![Arc::clone(&node)]), then);
    }
    drop((fs, told));
    assert_eq!(flushed.iter().collect::<Vec<_>>(), [Ok(()); 100]);
}
