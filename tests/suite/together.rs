//! Several connections change the same directory and the same file at the same time: they stand in line
//! for it, on whichever thread, and each is carried out once, whole, and answered.

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
const PIECE: usize = 512;

/// What a connection was told: the names that it made, and the sizes before and after each write.
type Told = (Vec<String>, Vec<(u64, u64)>);

/// Where the file is written to in a call that nobody else makes, and what.
fn part(connection: usize, call: usize) -> (u64, [u8; PIECE]) {
    let piece = call * CONNECTIONS + connection;
    ((piece * PIECE) as u64, [u8::try_from(piece % 251 + 1).unwrap(); PIECE])
}

/// Makes files, and writes pieces of the file that all share.
fn work(c: &mut Client, dir: &Fh, file: &Fh, connection: usize) -> Told {
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
            let pre_op_attr::Some(before) = wcc.before else { panic!("no size from before") };
            sizes.push((before.size, given(&wcc.after).size));
        }
    }
    (names, sizes)
}

#[test]
fn changes_of_several_connections_are_made_one_after_the_other() {
    let port = Port::start();
    port.done("create a --capacity 64Mi --async");
    let mut client = port.server.client();
    let root = client.mounted("/a");
    let (dir, file) = (client.dir(&root, "dir"), client.file(&root, "file"));
    let all_are_there = Barrier::new(CONNECTIONS);
    let before = calls(&port);
    let told: Vec<Told> = thread::scope(|scope| {
        let start = |n| {
            let (port, dir, file, all_are_there) = (&port, &dir, &file, &all_are_there);
            scope.spawn(move || {
                let mut client = port.server.client();
                all_are_there.wait();
                work(&mut client, dir, file, n)
            })
        };
        let workers: Vec<_> = (0..CONNECTIONS).map(start).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let counted = calls(&port) - before;
    assert_eq!(counted, (CONNECTIONS * ROUNDS * CALLS * 2) as u64, "each is counted once");

    // What each write was told of the size before and after it fits what the others were told.
    let mut sizes: Vec<_> = told.iter().flat_map(|(_, sizes)| sizes).collect();
    sizes.sort_unstable();
    let fit = sizes.windows(2).all(|pair| pair[0].1 <= pair[1].0);
    assert!(fit, "no two writes began from the same file: {sizes:?}");

    let made: BTreeSet<_> = told.into_iter().flat_map(|(names, _)| names).collect();
    let listed = client.names(&dir, 8192).into_iter().filter(|name| !name.starts_with(b"."));
    let listed: BTreeSet<_> = listed.map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(listed, made);
    let content = std::fs::read(port.volumes.join("a/file")).unwrap();
    let all = (0..CONNECTIONS).flat_map(|n| (0..ROUNDS * CALLS).map(move |call| (n, call)));
    for (connection, call) in all {
        let (offset, data) = part(connection, call);
        let there = &content[usize::try_from(offset).unwrap()..][..PIECE];
        assert_eq!(there, data, "{connection}, {call}");
    }
}

fn calls(port: &Port) -> u64 {
    port.json("show a -o json")["traffic"]["calls"].as_u64().unwrap()
}
