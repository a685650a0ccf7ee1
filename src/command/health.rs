//! `berth health`: checks whether a server replies, for the health checks of containers.
//!
//! Over NFS it calls NULL of NFS version 3, which touches no file system. It uses blocking sockets
//! and no async runtime, because it is started every few seconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use thiserror::Error;

use crate::admin::client::{AdminClient, AdminClientError};
use crate::nfs::{self, v3};
use crate::rpc::message;
use crate::rpc::record::FragmentHeader;
use crate::xdr::Writer;

/// Time limit of the whole check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Transaction id of the only call.
const XID: u32 = 0x4845_4154;

/// Length of the expected reply in bytes, with its record header.
const REPLY: usize = 28;

/// Options of `berth health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Check over this admin socket (of a server with --volumes) instead of NFS
    #[arg(long, value_name = "PATH", conflicts_with = "nfs")]
    pub admin_socket: Option<PathBuf>,
    /// Check NFS at this address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2049")]
    pub nfs: SocketAddr,
}

/// Why a check failed.
#[derive(Error, Debug)]
pub enum HealthError {
    /// There is no connection, or no reply in time.
    #[error("no NFS server replies at {address}")]
    NoReply {
        /// The address that was checked.
        address: SocketAddr,
        /// The error of the socket.
        source: io::Error,
    },
    /// The reply is not that of an NFS server, or is an error.
    #[error("the server at {0} does not serve NFS version 3")]
    NotNfs(SocketAddr),
    /// The check over the admin socket failed.
    #[error("the check over the admin socket failed")]
    Admin(#[from] AdminClientError),
}

/// Checks the server. Blocks for at most a few seconds.
///
/// # Errors
/// The server does not reply in time, or replies with an error.
pub fn check(args: &HealthArgs) -> Result<(), HealthError> {
    match &args.admin_socket {
        Some(path) => Ok(AdminClient::new(path)?.timeout(TIMEOUT).server().map(|_| ())?),
        None => check_nfs(args.nfs, TIMEOUT),
    }
}

fn check_nfs(address: SocketAddr, timeout: Duration) -> Result<(), HealthError> {
    let reply = exchange(address, Instant::now() + timeout);
    match reply.map_err(|source| HealthError::NoReply { address, source })? {
        reply if reply == expected() => Ok(()),
        _ => Err(HealthError::NotNfs(address)),
    }
}

/// Sends the call, and returns the reply, cut off at the length of the expected one.
fn exchange(address: SocketAddr, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(&call())?;
    let mut reply = Vec::with_capacity(REPLY);
    while reply.len() < REPLY {
        stream.set_read_timeout(Some(left()?))?;
        let mut part = [0; REPLY];
        match stream.read(&mut part[reply.len()..])? {
            0 => break,
            n => reply.extend_from_slice(&part[reply.len()..][..n]),
        }
    }
    Ok(reply)
}

/// The NULL call of NFS version 3 as a record (RFC 5531 §9), without credentials.
fn call() -> Vec<u8> {
    const CALL: u32 = 0;
    const RPC_VERSION: u32 = 2;
    record(|w| {
        let header = [XID, CALL, RPC_VERSION, nfs::PROGRAM, v3::VERSION, 0];
        header.into_iter().for_each(|word| w.u32(word));
        w.fixed(&[0; 16]); // AUTH_NONE, as credential and as verifier
    })
}

fn expected() -> Vec<u8> {
    record(|w| message::success(XID, w))
}

fn record(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut body = Vec::new();
    write(&mut Writer::new(&mut body));
    let mut record = FragmentHeader::whole(body.len()).to_be_bytes().to_vec();
    record.append(&mut body);
    record
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::rpc::message::Rejection;

    /// Checks a server that reads the call and replies with `reply`.
    fn checked(reply: Vec<u8>) -> Result<(), HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut call = [0; 44];
            stream.read_exact(&mut call).unwrap();
            for byte in reply {
                let _ = stream.write_all(&[byte]); // the check may close before the last byte
            }
            call
        });
        let outcome = check_nfs(address, TIMEOUT);
        let call = server.join().unwrap();
        assert_eq!(call[..4], 0x8000_0028_u32.to_be_bytes());
        let header = message::CallHeader::decode(&call[4..]).unwrap();
        assert_eq!((header.program, header.version, header.procedure), (100_003, 3, 0));
        outcome
    }

    #[test]
    fn a_successful_reply_is_healthy() {
        assert_eq!(expected().len(), REPLY);
        checked(expected()).unwrap();
    }

    #[test]
    fn any_other_reply_is_unhealthy() {
        let refusal = record(|w| Rejection::ProgramUnavailable.encode(XID, w));
        assert!(matches!(checked(refusal), Err(HealthError::NotNfs(_))));
        let other = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        assert!(matches!(checked(other), Err(HealthError::NotNfs(_))));
        assert!(matches!(checked(Vec::new()), Err(HealthError::NotNfs(_))));
        assert!(matches!(checked(expected()[..20].to_vec()), Err(HealthError::NotNfs(_))));
    }

    #[test]
    fn a_silent_server_is_unhealthy_after_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = check_nfs(address, Duration::from_millis(30));
        assert!(matches!(silent, Err(HealthError::NoReply { .. })));
        drop(listener);
        let error = check_nfs(address, TIMEOUT).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
