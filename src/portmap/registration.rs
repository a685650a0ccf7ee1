//! Registrations: the address of each version of each program.

use std::net::SocketAddr;

/// The transport protocol that carries calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP: a stream of records.
    Tcp,
    /// UDP: one datagram for each call.
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

/// One program version at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The program number.
    pub program: u32,
    /// The version.
    pub version: u32,
    /// The transport and the IP version.
    pub netid: Netid,
    /// The address and port. The address may be unspecified, which means all addresses of the host.
    pub address: SocketAddr,
}

impl Netid {
    /// Returns the netid of `address` over `transport`.
    pub fn new(transport: Transport, address: SocketAddr) -> Self {
        match (transport, address) {
            (Transport::Tcp, SocketAddr::V4(_)) => Self::Tcp,
            (Transport::Udp, SocketAddr::V4(_)) => Self::Udp,
            (Transport::Tcp, SocketAddr::V6(_)) => Self::Tcp6,
            (Transport::Udp, SocketAddr::V6(_)) => Self::Udp6,
        }
    }

    /// Returns the netid with this name.
    pub fn named(name: &[u8]) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Tcp6, Self::Udp6]
            .into_iter()
            .find(|netid| netid.name().as_bytes() == name)
    }

    /// Returns the name (RFC 5665 §5.1).
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Tcp6 => "tcp6",
            Self::Udp6 => "udp6",
        }
    }
}
