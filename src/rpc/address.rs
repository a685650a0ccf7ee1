//! The unit by which peers are counted when they share a resource.

use std::net::IpAddr;

use crate::telemetry::bounded::network;

/// An IPv4 address, or the 64-bit network of an IPv6 address, because a host may use any address of
/// its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(IpAddr);

impl Address {
    /// Returns the address or network by which `ip` is counted.
    pub const fn of(ip: IpAddr) -> Self {
        Self(network(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ipv6_are_counted_by_their_network() {
        let of = |ip: &str| Address::of(ip.parse().unwrap());
        assert_eq!(of("fd00::1"), of("fd00::ffff:0:0:1"));
        assert_ne!(of("fd00::1"), of("fd00:0:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
    }
}
