//! The largest calls: WRITE and READ of a megabyte, and connections that send one again and again.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use nfs3_types::xdr_codec::Opaque;
use socket2::{Domain, Socket, Type};

use super::client::{Client, NFS, message, record};
use super::server::Server;
use super::wire::*;

pub const MIB: usize = 1 << 20;

/// READ of a file's first megabyte, as a record.
pub fn read_call(c: &Client, file: Fh) -> Vec<u8> {
    let args = READ3args { file, offset: 0, count: 1 << 20 };
    call(c, NFS_PROGRAM::NFSPROC3_READ, &packed(&args))
}

/// WRITE of a file's first megabyte, as a record.
pub fn write_call(c: &Client, file: Fh) -> Vec<u8> {
    let data = vec![7; MIB];
    let args = WRITE3args {
        file,
        offset: 0,
        count: 1 << 20,
        stable: stable_how::UNSTABLE,
        data: Opaque::borrowed(&data),
    };
    call(c, NFS_PROGRAM::NFSPROC3_WRITE, &packed(&args))
}

fn call(c: &Client, procedure: NFS_PROGRAM, args: &[u8]) -> Vec<u8> {
    record(&message(1, NFS, procedure as u32, &c.cred.encoded(), args))
}

/// The same of a file that is made for it, of a megabyte.
pub fn megabytes(c: &mut Client) -> [Vec<u8>; 2] {
    let root = c.root();
    let file = c.file_of(&root, "file", &vec![7; MIB]);
    [write_call(c, file.clone()), read_call(c, file)]
}

/// A connection that sends the same bytes again and again, as far as the server takes them.
pub struct Peer {
    pub stream: TcpStream,
    pub sent: usize,
    pub received: usize,
    pub is_closed: bool,
}

impl Peer {
    /// From an address of this machine, with a small buffer for replies.
    pub fn from(s: &Server, last: u8) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect(&s.addr.into()).unwrap();
        Self::new(socket.into())
    }

    pub fn connect(s: &Server) -> Self {
        Self::new(TcpStream::connect(s.addr).unwrap())
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self { stream, sent: 0, received: 0, is_closed: false }
    }

    /// Sends up to `max` bytes, until `end` bytes are sent in all; returns how many.
    pub fn send(&mut self, call: &[u8], max: usize, end: usize) -> usize {
        let (start, until) = (self.sent, end.min(self.sent + max));
        while self.sent < until && !self.is_closed {
            let at = self.sent % call.len();
            let piece = &call[at..call.len().min(at + until - self.sent)];
            match self.stream.write(piece) {
                Ok(len) => self.sent += len,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.is_closed = true,
            }
        }
        self.sent - start
    }

    /// Takes what there is of replies.
    pub fn receive(&mut self) {
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
