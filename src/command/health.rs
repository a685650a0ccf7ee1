//! `berth health`: whether a server answers, for the health checks of containers.
//!
//! Over NFS it is asked what every client asks first, NULL of NFS version 3; nothing behind it has
//! to work for the answer but the server itself. Plain sockets, no runtime: it is started every
//! few seconds.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use thiserror::Error;

use crate::admin::client::{self, Client};
use crate::nfs3;
use crate::rpc::message;
use crate::rpc::record::Header;
use crate::xdr::Writer;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The transaction of the only call.
const XID: u32 = 0x4845_4154;

/// Length of the answer, its header included.
const ANSWER: usize = 28;

/// Options of `berth health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Ask this admin socket (of a server with --volumes) instead of NFS
    #[arg(long, value_name = "PATH", conflicts_with = "nfs")]
    pub admin_socket: Option<PathBuf>,
    /// Ask NFS at this address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:2049")]
    pub nfs: SocketAddr,
}

/// Why the server is not well.
#[derive(Error, Debug)]
pub enum Unwell {
    /// Nobody answers, or not in time.
    #[error("no NFS server answers at {address}")]
    Silent {
        /// Who was asked.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// What answers is no NFS server, or refuses.
    #[error("what answers at {0} does not serve NFS version 3")]
    Strange(SocketAddr),
    /// The admin socket does not answer.
    #[error("cannot ask the server")]
    Admin(#[from] client::Error),
}

/// Asks the server. Blocks for some seconds at most.
///
/// # Errors
/// It does not answer, or not well.
pub fn check(args: &HealthArgs) -> Result<(), Unwell> {
    match &args.admin_socket {
        Some(path) => Ok(Client::new(path)?.patience(PATIENCE).server().map(|_| ())?),
        None => ask(args.nfs, PATIENCE),
    }
}

fn ask(address: SocketAddr, patience: Duration) -> Result<(), Unwell> {
    let answer = exchange(address, Instant::now() + patience);
    match answer.map_err(|source| Unwell::Silent { address, source })? {
        answer if answer == expected() => Ok(()),
        _ => Err(Unwell::Strange(address)),
    }
}

/// Sends the call, and returns as many bytes as the answer should have, or fewer.
fn exchange(address: SocketAddr, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(&call())?;
    let mut answer = Vec::with_capacity(ANSWER);
    while answer.len() < ANSWER {
        stream.set_read_timeout(Some(left()?))?;
        let mut part = [0; ANSWER];
        match stream.read(&mut part[answer.len()..])? {
            0 => break,
            n => answer.extend_from_slice(&part[answer.len()..][..n]),
        }
    }
    Ok(answer)
}

/// NULL of NFS version 3, without credentials (RFC 5531 §9).
fn call() -> Vec<u8> {
    const CALL: u32 = 0;
    const RPC_VERSION: u32 = 2;
    record(|w| {
        let header = [XID, CALL, RPC_VERSION, nfs3::PROGRAM, nfs3::VERSION, 0];
        header.into_iter().for_each(|word| w.u32(word));
        w.fixed(&[0; 16]); // AUTH_NONE, as credentials and as verifier
    })
}

fn expected() -> Vec<u8> {
    record(|w| message::success(XID, w))
}

fn record(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut body = Vec::new();
    write(&mut Writer::new(&mut body));
    let mut record = Header::whole(body.len()).to_be_bytes().to_vec();
    record.append(&mut body);
    record
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::rpc::message::Reject;

    /// Asks a server that reads the call and answers `answer`.
    fn asked(answer: Vec<u8>) -> Result<(), Unwell> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut call = [0; 44];
            stream.read_exact(&mut call).unwrap();
            for byte in answer {
                let _ = stream.write_all(&[byte]); // it may hear enough before the end
            }
            call
        });
        let outcome = ask(address, PATIENCE);
        let call = server.join().unwrap();
        assert_eq!(call[..4], 0x8000_0028_u32.to_be_bytes());
        let header = message::Header::decode(&call[4..]).unwrap();
        assert_eq!((header.program, header.version, header.procedure), (100_003, 3, 0));
        outcome
    }

    #[test]
    fn an_answer_is_all_it_takes() {
        assert_eq!(expected().len(), ANSWER);
        asked(expected()).unwrap();
    }

    #[test]
    fn other_answers_are_none() {
        let refusal = record(|w| Reject::ProgramUnavailable.encode(XID, w));
        assert!(matches!(asked(refusal), Err(Unwell::Strange(_))));
        let other = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        assert!(matches!(asked(other), Err(Unwell::Strange(_))));
        assert!(matches!(asked(Vec::new()), Err(Unwell::Strange(_))));
        assert!(matches!(asked(expected()[..20].to_vec()), Err(Unwell::Strange(_))));
    }

    #[test]
    fn silence_has_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let silent = ask(address, Duration::from_millis(30));
        assert!(matches!(silent, Err(Unwell::Silent { .. })));
        drop(listener);
        let error = ask(address, PATIENCE).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
