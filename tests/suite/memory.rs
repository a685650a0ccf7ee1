//! What clients that want too much cost: memory stays within bounds.

use crate::support::eventually;
use crate::support::large::{MIB, Peer, megabytes};
use crate::support::server::{Setup, raise_descriptors};

/// What the server may hold for its clients, and what it grows by then.
const MEMORY: &str = "128Mi";
const GROWS: u64 = 160 << 10;

#[test]
fn a_thousand_writers_take_turns_with_the_memory() {
    const CONNECTIONS: usize = 1000;
    raise_descriptors();
    let s = Setup::default().args(&["--memory", MEMORY]).start();
    let mut c = s.client();
    let [call, _] = megabytes(&mut c);
    let before = s.status_kib("VmHWM:");
    let mut writers: Vec<_> = (0..CONNECTIONS).map(|_| Peer::connect(&s)).collect();
    let mut sent = 0;
    eventually("three megabytes of each are taken", || {
        sent += writers.iter_mut().map(|writer| writer.send(&call, MIB, usize::MAX)).sum::<usize>();
        sent > 3 * CONNECTIONS * MIB
    });
    c.null();
    let grown = s.status_kib("VmHWM:") - before;
    assert!(grown < GROWS, "{} MiB for {} MiB", grown >> 10, sent / MIB);
}

#[test]
fn writers_whose_disk_is_stuck_share_the_memory_and_go_on_afterwards() {
    const CONNECTIONS: usize = 200;
    raise_descriptors();
    let s = Setup::default().faults().args(&["--memory", MEMORY]).start();
    let (mut c, disk) = (s.client(), s.faults());
    let [call, _] = megabytes(&mut c);
    let before = s.status_kib("VmHWM:");
    disk.stuck(true);
    let mut writers: Vec<_> = (0..CONNECTIONS).map(|_| Peer::connect(&s)).collect();
    let mut sweep =
        || -> usize { writers.iter_mut().map(|w| w.send(&call, 16 * MIB, usize::MAX)).sum() };
    let mut quiet = 0;
    // The kernel may look for room in its own buffers for a moment.
    eventually("the server takes no more", || {
        quiet = if sweep() == 0 { quiet + 1 } else { 0 };
        quiet == 20
    });
    c.null();
    let grown = s.status_kib("VmHWM:") - before;
    assert!(grown < GROWS, "{} MiB", grown >> 10);
    disk.stuck(false);
    let mut taken = 0;
    eventually("the server takes everything again", || {
        taken += sweep();
        taken > CONNECTIONS * 16 * MIB
    });
}
