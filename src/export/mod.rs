//! Placeholder with the interface that MOUNT uses.
#![allow(missing_docs)] // a placeholder

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExportId(pub u64);

#[derive(Debug)]
pub struct Export {
    pub id: ExportId,
    pub path: Vec<u8>,
    pub dir: PathBuf,
    pub clients: Vec<Client>,
}

#[derive(Debug)]
pub struct Client {
    pub who: Who,
    pub options: Options,
}

#[derive(Debug)]
pub enum Who {
    Anyone,
    Host { name: Option<String>, addresses: Vec<IpAddr> },
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub ports: Ports,
}

#[derive(Clone, Copy, Debug, Default)]
pub enum Ports {
    #[default]
    Privileged,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("client is not listed for the export")]
    NotListed,
    #[error("client calls from an unprivileged port")]
    InsecurePort,
}

#[derive(Debug, Default)]
pub struct Table(Vec<Arc<Export>>);

impl Export {
    pub fn access(&self, peer: SocketAddr) -> Result<Options, Refused> {
        let ip = peer.ip().to_canonical();
        let client = self.clients.iter().find(|client| match &client.who {
            Who::Anyone => true,
            Who::Host { addresses, .. } => addresses.contains(&ip),
        });
        match client.ok_or(Refused::NotListed)?.options {
            Options { ports: Ports::Privileged } if peer.port() >= 1024 => {
                Err(Refused::InsecurePort)
            }
            options => Ok(options),
        }
    }

    pub fn names(&self) -> impl ExactSizeIterator<Item = &Who> {
        self.clients.iter().map(|client| &client.who)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::Host { addresses, .. } => addresses[0].fmt(f),
        }
    }
}

impl Table {
    pub fn new<E: Into<Arc<Export>>>(
        exports: impl IntoIterator<Item = E>,
    ) -> Result<Self, fmt::Error> {
        Ok(Self(exports.into_iter().map(Into::into).collect()))
    }

    pub fn locate<'p>(&self, path: &'p [u8]) -> Option<(&Arc<Export>, &'p [u8])> {
        self.0.iter().find_map(|e| path.strip_prefix(&e.path[..]).map(|rest| (e, rest)))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Export>> {
        self.0.iter()
    }
}
