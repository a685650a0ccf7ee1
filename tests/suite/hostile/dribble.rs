//! Peers that send or take a little now and then, so that a deadline for each byte never comes.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nfs3_types::xdr_codec::Opaque;
use socket2::{Domain, Socket, Type};

use crate::support::client::{Client, NFS, Reply, message, record, unpacked};
use crate::support::eventually;
use crate::support::server::{Server, Setup};
use crate::support::wire::*;

const MIB: usize = 1 << 20;

/// How many sockets the server has open.
fn sockets(s: &Server) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", s.pid().as_raw_nonzero())).unwrap();
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    open.flatten()
        .filter_map(target)
        .filter(|to| to.to_string_lossy().starts_with("socket:"))
        .count()
}

/// WRITE of a megabyte, as a record.
fn megabyte(c: &mut Client) -> Vec<u8> {
    let (root, data) = (c.root(), vec![7; MIB]);
    let args = WRITE3args {
        file: c.file(&root, "file"),
        offset: 0,
        count: 1 << 20,
        stable: stable_how::UNSTABLE,
        data: Opaque::borrowed(&data),
    };
    record(&message(1, NFS, 7, &c.cred.encoded(), &packed(&args)))
}

#[test]
fn a_byte_now_and_then_does_not_keep_a_record_open() {
    let s = Setup::default().args(&["--stall-timeout", "2"]).start();
    let mut c = s.client();
    let call = megabyte(&mut c);
    let large = {
        let mut slow = s.client();
        slow.send(&call[..100_000]).unwrap();
        slow
    };
    let mut slow = [large, s.client()];
    let mut at = [100_000, 0];
    for (slow, at) in slow.iter_mut().zip(&mut at) {
        eventually("it is cut off", || {
            *at += 1;
            sleep(Duration::from_millis(20));
            slow.send(&call[*at - 1..*at]).is_err()
        });
    }
    c.null();
}

#[test]
fn a_slow_line_gets_through() {
    const STALLED: Duration = Duration::from_secs(2);
    let s = Setup::default().args(&["--stall-timeout", &STALLED.as_secs().to_string()]).start();
    let mut c = s.client();
    let call = megabyte(&mut c);
    let start = Instant::now();
    for piece in call.chunks(call.len() / 64) {
        c.send(piece).unwrap();
        sleep(STALLED / 20);
    }
    assert!(start.elapsed() > STALLED * 2, "it was quick");
    let (_, reply) = Reply::decode(&c.receive().unwrap());
    assert_eq!(unpacked::<WRITE3res>(&reply.results()).ok().count, 1 << 20);
}

#[test]
fn a_little_taken_now_and_then_does_not_keep_replies_waiting() {
    // The server's socket takes more whenever a third of its buffer is free: of a small one, by segments
    // of this size, 20 KB or so.
    const SEGMENT: u32 = 1000;
    const PIECE: usize = 500;
    let s = Setup::default().args(&["--stall-timeout", "5"]).start();
    let mut c = s.client();
    let root = c.root();
    let file = c.file_of(&root, "file", &vec![7; MIB]);
    let before = sockets(&s);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(SEGMENT).unwrap();
    socket.connect(&s.addr.into()).unwrap();
    let mut slow = TcpStream::from(socket);
    let args = packed(&READ3args { file, offset: 0, count: 1 << 20 });
    let call = record(&message(1, NFS, 6, &c.cred.encoded(), &args));
    std::io::Write::write_all(&mut slow, &call.repeat(4)).unwrap();
    eventually("it is connected", || sockets(&s) > before);
    eventually("it is cut off", || {
        sleep(Duration::from_millis(100));
        // It may be cut off with a reset, behind which there is nothing to be read.
        let _ = slow.read(&mut [0; PIECE]);
        sockets(&s) <= before
    });
    c.null();
}
