//! All that peers can make the server hold, at once: it stays within its budget, honest clients are
//! served, and memory is given back afterwards.

use crate::support::eventually;
use crate::support::large::{MIB, Peer, megabytes};
use crate::support::server::{Server, Setup, raise_descriptors};
use crate::support::wire::*;

/// Replies to WRITE are shorter.
const REPLY_MAX: usize = 256;

struct Attack {
    unfinished: Vec<Peer>,
    greedy: Vec<Peer>,
    dribbling: Vec<Peer>,
    writers: Vec<Peer>,
    _idle: Vec<Peer>,
    calls: [Vec<u8>; 2],
}

impl Attack {
    fn begin(s: &Server) -> Self {
        let calls = megabytes(&mut s.client());
        let peers = |last, count| (0..count).map(|_| Peer::from(s, last)).collect();
        Self {
            unfinished: peers(11, 300),
            greedy: peers(12, 200),
            dribbling: peers(13, 100),
            writers: peers(14, 200),
            _idle: peers(15, 200),
            calls,
        }
    }

    fn go_on(&mut self) {
        let [write, read] = &self.calls;
        for peer in &mut self.unfinished {
            peer.send(write, MIB, write.len() - 1);
        }
        for peer in &mut self.greedy {
            peer.send(&read.repeat(50), MIB, usize::MAX);
        }
        for peer in &mut self.dribbling {
            peer.send(write, 1, write.len() - 1);
        }
        for writer in &mut self.writers {
            writer.receive();
            // One call at a time, as a client that waits for its answers.
            let calls = 1 + writer.received / (REPLY_MAX / 2);
            writer.send(write, MIB / 4, calls * write.len());
        }
    }
}

#[test]
fn all_that_peers_can_hold_at_once_is_bounded_and_given_back() {
    const WRITES: usize = 3;
    raise_descriptors();
    let s = Setup::default().address_space(1536 << 20).args(&["--memory", "64Mi"]).start();
    let (mut honest, before) = (s.client(), s.status_kib("VmRSS:"));
    let root = honest.root();
    let file = honest.file(&root, "honest");
    let mut attack = Attack::begin(&s);
    let data = vec![9; MIB];
    eventually("the honest writers get everything done", || {
        attack.go_on();
        honest.attrs(&file);
        honest.write(&file, 0, &data, stable_how::UNSTABLE).ok();
        assert_eq!(honest.read(&file, 0, 1 << 20).ok().data.as_ref(), data);
        attack.writers.iter().all(|writer| writer.received >= WRITES * REPLY_MAX / 2)
    });
    assert!(attack.writers.iter().all(|writer| !writer.is_closed), "they were cut off");
    let most = s.status_kib("VmHWM:");
    assert!(most < 200 << 10, "{} MiB", most >> 10);
    s.client().null();
    drop(attack);
    eventually("the memory is given back", || s.status_kib("VmRSS:") < before + (12 << 10));
    honest.attrs(&file);
}
