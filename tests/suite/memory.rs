//! What clients that want too much cost: memory stays within bounds.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use nfs3_types::xdr_codec::Opaque;

use crate::support::client::{Client, NFS, message, record};
use crate::support::eventually;
use crate::support::server::{Server, Setup, raise_descriptors};
use crate::support::wire::*;

const MIB: usize = 1 << 20;

/// A connection that sends the same WRITE of a megabyte again and again and takes no answers.
struct Writer {
    stream: TcpStream,
    sent: usize,
}

impl Writer {
    fn connect(s: &Server) -> Self {
        let stream = TcpStream::connect(s.addr).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, sent: 0 }
    }

    /// Sends up to `max` bytes, as far as the server takes them; returns how many.
    fn send(&mut self, call: &[u8], max: usize) -> usize {
        let start = self.sent;
        while self.sent - start < max {
            match self.stream.write(&call[self.sent % call.len()..]) {
                Ok(len) => self.sent += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        self.sent - start
    }
}

fn megabyte(c: &mut Client) -> Vec<u8> {
    let root = c.root();
    let data = vec![7; MIB];
    let args = WRITE3args {
        file: c.file(&root, "file"),
        offset: 0,
        count: 1 << 20,
        stable: stable_how::UNSTABLE,
        data: Opaque::borrowed(&data),
    };
    record(&message(1, NFS, 7, &c.cred.encoded(), &packed(&args)))
}

/// What the server may hold for its clients, and what it grows by then.
const MEMORY: &str = "128Mi";
const GROWS: u64 = 160 << 10;

#[test]
fn a_thousand_writers_take_turns_with_the_memory() {
    const CONNECTIONS: usize = 1000;
    raise_descriptors();
    let s = Setup::default().args(&["--memory", MEMORY]).start();
    let mut c = s.client();
    let call = megabyte(&mut c);
    let before = s.status_kib("VmHWM:");
    let mut writers: Vec<_> = (0..CONNECTIONS).map(|_| Writer::connect(&s)).collect();
    let mut sent = 0;
    eventually("three megabytes of each are taken", || {
        sent += writers.iter_mut().map(|writer| writer.send(&call, MIB)).sum::<usize>();
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
    let call = megabyte(&mut c);
    let before = s.status_kib("VmHWM:");
    disk.stuck(true);
    let mut writers: Vec<_> = (0..CONNECTIONS).map(|_| Writer::connect(&s)).collect();
    let mut sweep = || -> usize { writers.iter_mut().map(|w| w.send(&call, 16 * MIB)).sum() };
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
