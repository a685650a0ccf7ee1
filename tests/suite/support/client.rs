//! A small RPC client: one connection, blocking, and able to send what no proper client would.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};
use socket2::{Domain, Socket, Type};

use super::wire::*;
use super::{PATIENCE, privileged};

/// Program and version of a call.
pub type Target = (u32, u32);

/// NFS version 3.
pub const NFS: Target = (100_003, 3);
/// MOUNT version 3.
pub const MOUNT: Target = (100_005, 3);

/// The header of a record's last fragment.
pub const LAST: u32 = 0x8000_0000;

/// The user that a call is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Cred {
    /// A user in one group of the same number.
    pub const fn user(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Vec::new() }
    }

    /// Who may do most: root, or the server's own user if it has no privileges.
    pub fn superuser() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), ..Self::user(own_gid()) }
    }

    /// Adds groups.
    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.groups.extend(groups);
        self
    }

    /// AUTH_SYS and an empty verifier.
    pub fn encoded(&self) -> Vec<u8> {
        let mut body = packed(&0u32);
        Opaque::borrowed(b"client").pack(&mut body).unwrap();
        self.uid.pack(&mut body).unwrap();
        self.gid.pack(&mut body).unwrap();
        self.groups.pack(&mut body).unwrap();
        auth(1, &body)
    }
}

/// The group of this process, and so of a server without privileges.
pub fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// A credential of any flavor, and an empty verifier.
pub fn auth(flavor: u32, body: &[u8]) -> Vec<u8> {
    let mut out = packed(&flavor);
    Opaque::borrowed(body).pack(&mut out).unwrap();
    out.extend([0; 8]);
    out
}

/// A call without its record mark. `auth` is the credential and the verifier.
pub fn message(xid: u32, to: Target, procedure: u32, auth: &[u8], args: &[u8]) -> Vec<u8> {
    let mut out = words(&[xid, 0, 2, to.0, to.1, procedure]);
    out.extend(auth);
    out.extend(args);
    out
}

/// Words as they are on the wire.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

/// A message as a record of one fragment.
pub fn record(message: &[u8]) -> Vec<u8> {
    let mut out = words(&[LAST | u32::try_from(message.len()).unwrap()]);
    out.extend(message);
    out
}

/// How a call was answered below its program's own status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The results.
    Success(Vec<u8>),
    /// `accept_stat`, and what follows it.
    Refused(u32, Vec<u8>),
    /// `reject_stat`, and what follows it.
    Denied(u32, Vec<u8>),
}

impl Reply {
    /// The results of a call that its program has carried out.
    #[track_caller]
    pub fn results(self) -> Vec<u8> {
        match self {
            Self::Success(results) => results,
            other => panic!("the call was not carried out: {other:?}"),
        }
    }

    /// Reads a reply, and the transaction that it belongs to.
    pub fn decode(message: &[u8]) -> (u32, Self) {
        let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 1, "not a reply: {message:02x?}");
        let reply = match word(8) {
            0 => {
                let verifier = usize::try_from(word(16)).unwrap().next_multiple_of(4);
                let rest = message[24 + verifier..].to_vec();
                match word(20 + verifier) {
                    0 => Self::Success(rest),
                    why => Self::Refused(why, rest),
                }
            }
            1 => Self::Denied(word(12), message[16..].to_vec()),
            other => panic!("no such reply_stat: {other}"),
        };
        (word(0), reply)
    }
}

/// Reads a value that must be all there is.
#[track_caller]
pub fn unpacked<R: Unpack>(bytes: &[u8]) -> R {
    let mut rest = bytes;
    let (value, _) = R::unpack(&mut rest).unwrap_or_else(|e| panic!("{e:?} in {bytes:02x?}"));
    assert!(rest.is_empty(), "{} bytes follow the results: {bytes:02x?}", rest.len());
    value
}

/// A connection.
pub struct Client {
    /// The user of the calls that follow.
    pub cred: Cred,
    /// The size of the last results.
    pub last_size: usize,
    stream: TcpStream,
    xid: u32,
}

impl Client {
    /// Connects from any port.
    pub fn connect(to: SocketAddr, cred: Cred) -> Self {
        Self::over(TcpStream::connect(to).unwrap(), cred)
    }

    /// Connects from an address; port 0 is any port.
    pub fn connect_from(from: IpAddr, port: u16, to: SocketAddr, cred: Cred) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(from, port).into())?;
        socket.connect(&to.into())?;
        Ok(Self::over(socket.into(), cred))
    }

    fn over(stream: TcpStream, cred: Cred) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // Connections of one test differ in their transactions, as those of two clients do.
        let port = stream.local_addr().unwrap().port();
        Self { cred, last_size: 0, stream, xid: u32::from(port) << 16 }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Takes one record off the stream.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.stream.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            let start = message.len();
            message.resize(start + usize::try_from(mark & !LAST).unwrap(), 0);
            self.stream.read_exact(&mut message[start..])?;
            if mark & LAST != 0 {
                return Ok(message);
            }
        }
    }

    /// Whether the server answers.
    pub fn try_null(&mut self) -> bool {
        let xid = self.next_xid();
        let call = record(&message(xid, NFS, 0, &self.cred.encoded(), &[]));
        self.send(&call).is_ok() && self.receive().is_ok()
    }

    /// Whether the server has closed the connection; waits until it has, or has sent something.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(len) => len == 0,
            Err(e) => {
                matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
        }
    }

    /// The stream itself.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A transaction that this connection has not used.
    pub const fn next_xid(&mut self) -> u32 {
        self.xid = self.xid.wrapping_add(1);
        self.xid
    }

    /// Sends one message and takes the answer to it.
    #[track_caller]
    pub fn exchange(&mut self, message: &[u8]) -> Reply {
        self.send(&record(message)).unwrap();
        let answer = self.receive().unwrap();
        let (xid, reply) = Reply::decode(&answer);
        assert_eq!(xid.to_be_bytes(), message[..4], "the answer to another call");
        reply
    }

    /// Calls with arguments that are bytes.
    #[track_caller]
    pub fn raw(&mut self, to: Target, procedure: u32, args: &[u8]) -> Reply {
        let xid = self.next_xid();
        let auth = self.cred.encoded();
        self.exchange(&message(xid, to, procedure, &auth, args))
    }

    /// Calls a procedure of any program.
    #[track_caller]
    pub fn call<R: Unpack>(&mut self, to: Target, procedure: u32, args: &impl Pack) -> R {
        let results = self.raw(to, procedure, &packed(args)).results();
        self.last_size = results.len();
        unpacked(&results)
    }

    /// Calls a procedure of NFS.
    #[track_caller]
    pub fn nfs<R: Unpack>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> R {
        self.call(NFS, procedure as u32, args)
    }

    /// Sends calls without waiting for their answers; returns their numbers.
    pub fn ask(&mut self, procedure: NFS_PROGRAM, args: &[Vec<u8>]) -> Vec<u32> {
        let auth = self.cred.encoded();
        let numbered: Vec<_> = args.iter().map(|args| (self.next_xid(), args)).collect();
        let calls = numbered
            .iter()
            .flat_map(|(xid, args)| record(&message(*xid, NFS, procedure as u32, &auth, args)));
        let calls: Vec<_> = calls.collect();
        self.send(&calls).unwrap();
        numbered.into_iter().map(|(xid, _)| xid).collect()
    }

    /// Takes the answers to as many calls, in any order.
    #[track_caller]
    pub fn answers(&mut self, asked: &[u32]) -> BTreeMap<u32, Vec<u8>> {
        let answers = asked.iter().map(|_| Reply::decode(&self.receive().unwrap()));
        let answers: BTreeMap<_, _> = answers.map(|(xid, reply)| (xid, reply.results())).collect();
        for xid in asked {
            assert!(answers.contains_key(xid), "another call was answered before");
        }
        answers
    }
}

/// A user without privileges; without privileges of its own the server treats all users alike.
pub fn someone() -> Cred {
    assert!(privileged(), "there is only one user without privileges");
    Cred::user(1000)
}

/// The arguments of MNT and UMNT.
pub fn packed_path(path: impl AsRef<[u8]>) -> Vec<u8> {
    packed(&Opaque::borrowed(path.as_ref()))
}
