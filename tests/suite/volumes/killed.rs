//! A server that is killed in the middle of operations on volumes.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::volumes::Port;

/// The commands of an administrator in one round.
fn deeds(round: usize) -> Vec<String> {
    let name = |n: usize| format!("v{}", n % 5);
    (0..8)
        .map(|n| {
            let k = round * 7 + n * 3;
            match (round + n) % 6 {
                0 | 1 => format!("create {} --capacity 1Mi --id i{}", name(k), k % 5),
                2 => format!("recycle {} --yes", name(k)),
                3 => format!("delete {} --yes", name(k)),
                4 => format!("archive {} --yes", name(k)),
                _ => format!("expand {} --capacity {}Mi", name(k), 2 + k % 5),
            }
        })
        .collect()
}

#[test]
fn a_server_that_is_killed_again_and_again_keeps_its_volumes() {
    const ROUNDS: usize = 200;
    let mut port = Port::start();
    port.done("create kept --capacity 1Mi");
    let mut client = port.server.client();
    let root = client.mounted("/kept");
    client.file_of(&root, "file", b"precious");
    for round in 0..ROUNDS {
        let begun = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (port, begun) = (&port, &begun);
            scope.spawn(move || {
                for deed in deeds(round) {
                    begun.fetch_add(1, Ordering::SeqCst);
                    port.ran(&deed); // it may be refused, or cut off
                }
            });
            // At some point in the middle of one of them.
            while begun.load(Ordering::SeqCst) <= round % 8 {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_micros((round as u64 * 379) % 9000));
            port.server.signal(Signal::KILL);
        });
        port.server.wait();
        port.server.launch_again();
        check_whole(&port, round);
    }
    assert_eq!(fs::read(port.volumes.join("kept/file")).unwrap(), b"precious");
}

/// Checks that each volume has its directory, and that each other directory is an archived one.
fn check_whole(port: &Port, round: usize) {
    let names: BTreeSet<String> = port.done("list -o name").lines().map(str::to_owned).collect();
    let entries = fs::read_dir(&port.volumes).unwrap();
    let entries = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let folders: BTreeSet<String> =
        entries.filter(|name| name != ".berth" && !name.starts_with("archived-")).collect();
    assert_eq!(names, folders, "round {round}");
    for folder in ["making", "leaving"] {
        let left = fs::read_dir(port.volumes.join(".berth").join(folder)).unwrap().count();
        assert_eq!(left, 0, "round {round}: {folder}");
    }
    let mut client = port.server.client();
    for name in names {
        client.mounted(format!("/{name}"));
    }
}
