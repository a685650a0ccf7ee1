//! Concurrent changes of one directory and one file over several connections: they run one after
//! the other, on any thread, and each is carried out once, completely, and answered.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use crate::support::client::{Client, unpacked};
use crate::support::volumes::Port;
use crate::support::wire::*;

const CONNECTIONS: usize = 8;
const ROUNDS: usize = 12;
/// Calls of each kind that a connection has outstanding in a round.
const CALLS: usize = 12;
const PART: usize = 512;

/// The results of a connection: the names that it made, and the sizes before and after each write.
type Results = (Vec<String>, Vec<(u64, u64)>);

/// The offset and the data of a write that no other call makes.
fn part(connection: usize, call: usize) -> (u64, [u8; PART]) {
    let index = call * CONNECTIONS + connection;
    ((index * PART) as u64, [u8::try_from(index % 251 + 1).unwrap(); PART])
}

/// Makes files, and writes to the shared file.
fn work(c: &mut Client, dir: &Fh, file: &Fh, connection: usize) -> Results {
    let (mut names, mut sizes) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let calls = round * CALLS..(round + 1) * CALLS;
        let new: Vec<_> = calls.clone().map(|call| format!("{connection}-{call}")).collect();
        let creates: Vec<_> = new.iter().map(|name| create_args(dir, name)).collect();
        let writes = calls.map(|call| part(connection, call));
        let writes: Vec<_> = writes
            .map(|(offset, data)| write_args(file, offset, stable_how::UNSTABLE, &data))
            .collect();
        let made = c.ask(NFS_PROGRAM::NFSPROC3_CREATE, &creates);
        let written = c.ask(NFS_PROGRAM::NFSPROC3_WRITE, &writes);
        let mut answers = c.answers(&[made.clone(), written].concat());
        for xid in made {
            unpacked::<CREATE3res>(&answers.remove(&xid).unwrap()).ok();
        }
        names.extend(new);
        for answer in answers.into_values() {
            let wcc = unpacked::<WRITE3res>(&answer).ok().file_wcc;
            let pre_op_attr::Some(before) = wcc.before else {
                panic!("no pre-operation attributes")
            };
            sizes.push((before.size, given(&wcc.after).size));
        }
    }
    (names, sizes)
}

#[test]
fn changes_over_several_connections_are_serialized() {
    let port = Port::start();
    port.done("create a --capacity 64Mi --async");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let (dir, file) = (client.dir(&root, "dir"), client.file(&root, "file"));
    let all_connected = Barrier::new(CONNECTIONS);
    let before = calls(&port);
    let results: Vec<Results> = thread::scope(|scope| {
        let start = |n| {
            let (port, dir, file, all_connected) = (&port, &dir, &file, &all_connected);
            scope.spawn(move || {
                let mut client = port.server.client();
                all_connected.wait();
                work(&mut client, dir, file, n)
            })
        };
        let workers: Vec<_> = (0..CONNECTIONS).map(start).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let counted = calls(&port) - before;
    assert_eq!(counted, (CONNECTIONS * ROUNDS * CALLS * 2) as u64, "each call counts once");

    // The sizes before and after each write are consistent with those of all other writes.
    let mut sizes: Vec<_> = results.iter().flat_map(|(_, sizes)| sizes).collect();
    sizes.sort_unstable();
    let consistent = sizes.windows(2).all(|pair| pair[0].1 <= pair[1].0);
    assert!(consistent, "two writes began from the same size: {sizes:?}");

    let made: BTreeSet<_> = results.into_iter().flat_map(|(names, _)| names).collect();
    let listed = client.names(&dir, 8192).into_iter().filter(|name| !name.starts_with(b"."));
    let listed: BTreeSet<_> = listed.map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(listed, made);
    let content = std::fs::read(port.volumes.join("a/file")).unwrap();
    let all = (0..CONNECTIONS).flat_map(|n| (0..ROUNDS * CALLS).map(move |call| (n, call)));
    for (connection, call) in all {
        let (offset, data) = part(connection, call);
        let there = &content[usize::try_from(offset).unwrap()..][..PART];
        assert_eq!(there, data, "{connection}, {call}");
    }
}

fn calls(port: &Port) -> u64 {
    port.json("show a -o json")["traffic"]["calls"].as_u64().unwrap()
}
