//! All that peers can make the server hold, at once: it stays within its budget, honest clients are
//! served, and memory is given back afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use nfs3_types::xdr_codec::Opaque;
use socket2::{Domain, Socket, Type};

use crate::support::client::{Client, NFS, message, record};
use crate::support::eventually;
use crate::support::server::{Server, Setup, raise_descriptors};
use crate::support::wire::*;

const MIB: usize = 1 << 20;

/// Connects from an address of this machine, with a small buffer for replies.
fn connect(s: &Server, last: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    socket.bind(&std::net::SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&s.addr.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

/// A connection that sends the same bytes again and again.
struct Peer {
    stream: TcpStream,
    sent: usize,
    received: usize,
    is_closed: bool,
}

impl Peer {
    fn new(s: &Server, last: u8) -> Self {
        Self { stream: connect(s, last), sent: 0, received: 0, is_closed: false }
    }

    /// Sends up to `max` bytes, until `end` bytes are sent in all.
    fn send(&mut self, call: &[u8], max: usize, end: usize) {
        let until = end.min(self.sent + max);
        while self.sent < until && !self.is_closed {
            let at = self.sent % call.len();
            let piece = &call[at..call.len().min(at + until - self.sent)];
            match self.stream.write(piece) {
                Ok(len) => self.sent += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_closed = true,
            }
        }
    }

    /// Takes what there is of replies.
    fn receive(&mut self) {
        let mut piece = [0; 4096];
        while !self.is_closed {
            match self.stream.read(&mut piece) {
                Ok(0) => self.is_closed = true,
                Ok(len) => self.received += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_closed = true,
            }
        }
    }
}

/// WRITE and READ of a megabyte, as records.
fn megabytes(c: &mut Client) -> [Vec<u8>; 2] {
    let (root, data) = (c.root(), vec![7; MIB]);
    let file = c.file_of(&root, "file", &data);
    let write = WRITE3args {
        file: file.clone(),
        offset: 0,
        count: 1 << 20,
        stable: stable_how::UNSTABLE,
        data: Opaque::borrowed(&data),
    };
    let read = READ3args { file, offset: 0, count: 1 << 20 };
    let auth = c.cred.encoded();
    let write = record(&message(1, NFS, 7, &auth, &packed(&write)));
    [write, record(&message(1, NFS, 6, &auth, &packed(&read)))]
}

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
        let peers = |last, count| (0..count).map(|_| Peer::new(s, last)).collect();
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
        self.unfinished.iter_mut().for_each(|peer| peer.send(write, MIB, write.len() - 1));
        self.greedy.iter_mut().for_each(|peer| peer.send(&read.repeat(50), MIB, usize::MAX));
        self.dribbling.iter_mut().for_each(|peer| peer.send(write, 1, write.len() - 1));
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
