//! Peers that send or take a little now and then, so that a deadline for each byte never comes.

use std::io::Read;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::sockets;
use crate::support::client::{Reply, unpacked};
use crate::support::eventually;
use crate::support::large::megabytes;
use crate::support::server::Setup;
use crate::support::wire::*;

#[test]
fn a_byte_now_and_then_does_not_keep_a_record_open() {
    let s = Setup::default().args(&["--stall-timeout", "2"]).start();
    let mut c = s.client();
    let [call, _] = megabytes(&mut c);
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
    let [call, _] = megabytes(&mut c);
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
    // The server's socket takes more whenever a third of its buffer is free: of a small one, by
    // segments of this size, 20 KB or so.
    const SEGMENT: u32 = 1000;
    const PIECE: usize = 500;
    let s = Setup::default().args(&["--stall-timeout", "5"]).start();
    let mut c = s.client();
    let [_, call] = megabytes(&mut c);
    let before = sockets(&s);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.set_tcp_mss(SEGMENT).unwrap();
    socket.connect(&s.addr.into()).unwrap();
    let mut slow = TcpStream::from(socket);
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
