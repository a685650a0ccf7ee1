//! What is registered: which version of which program is reached where.

use std::net::SocketAddr;

/// What carries the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream of records.
    Tcp,
    /// A datagram for each call.
    Udp,
}

/// A transport over one version of the Internet Protocol (RFC 5665 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Netid {
    /// TCP over IPv4.
    Tcp,
    /// UDP over IPv4.
    Udp,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
}

/// One version of a program at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The program's number.
    pub program: u32,
    /// The version.
    pub version: u32,
    /// How it is reached.
    pub netid: Netid,
    /// Where; the address may be unspecified, for all of the machine's.
    pub address: SocketAddr,
}

impl Netid {
    /// The netid of `address` over `transport`.
    pub fn new(transport: Transport, address: SocketAddr) -> Self {
        match (transport, address) {
            (Transport::Tcp, SocketAddr::V4(_)) => Self::Tcp,
            (Transport::Udp, SocketAddr::V4(_)) => Self::Udp,
            (Transport::Tcp, SocketAddr::V6(_)) => Self::Tcp6,
            (Transport::Udp, SocketAddr::V6(_)) => Self::Udp6,
        }
    }

    /// The netid that is called `name`.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Tcp6, Self::Udp6]
            .into_iter()
            .find(|netid| netid.name().as_bytes() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Tcp6 => "tcp6",
            Self::Udp6 => "udp6",
        }
    }
}
