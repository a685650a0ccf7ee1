//! A client as text: `*`, an address, a network or a host name.
//!
//! A host name is resolved once, when it is parsed, by the caller's resolver. A look-up during an
//! NFS call would make the call wait for a name server, and would let that server decide who has
//! access. Wildcards and netgroups are therefore refused: they need the client's name at every
//! call.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use crate::export::ClientPattern;
use crate::export::options::number;

/// Longest host name (RFC 1035).
const NAME_MAX: usize = 255;

/// Resolves a host name to its addresses.
pub type Resolve<'r> = &'r mut dyn FnMut(&str) -> io::Result<Vec<IpAddr>>;

/// Why a text is not a client.
#[derive(Error, Debug)]
pub enum ClientError {
    /// A form of exports(5) that Berth does not support.
    #[error("client {client:?} is not supported: {reason}")]
    Unsupported {
        /// The text.
        client: String,
        /// Why it is not supported, and what to write instead.
        reason: &'static str,
    },
    /// None of the known forms.
    #[error("client {0:?} is not an address, a network or a host name")]
    Malformed(String),
    /// The resolver failed.
    #[error("cannot resolve client {name}")]
    Resolve {
        /// The host name.
        name: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The host has no address.
    #[error("client {0} has no address")]
    NoAddress(String),
}

impl ClientPattern {
    /// Parses a client. Blocks while `resolve` resolves a host name.
    ///
    /// # Errors
    /// The text has none of the forms, or its host name does not resolve.
    pub fn parse(text: &str, resolve: Resolve<'_>) -> Result<Self, ClientError> {
        if text == "*" {
            return Ok(Self::Anyone);
        }
        if let Some(address) = address(text) {
            return Ok(Self::Host { name: None, addresses: vec![address.to_canonical()] });
        }
        if let Some(net) = text.split_once('/').and_then(|(address, mask)| net(address, mask)) {
            return Ok(Self::Net(net));
        }
        if let Some(reason) = unsupported(text) {
            return Err(ClientError::Unsupported { client: text.to_owned(), reason });
        }
        if !is_name(text) {
            return Err(ClientError::Malformed(text.to_owned()));
        }
        host(text.to_ascii_lowercase(), resolve)
    }
}

impl fmt::Display for ClientPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("*"),
            Self::Host { name: Some(name), .. } => f.write_str(name),
            Self::Host { name: None, addresses } => {
                for (i, address) in addresses.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{address}")?;
                }
                Ok(())
            }
            Self::Net(net) => write!(f, "{net}"),
        }
    }
}

/// Parses an address. An IPv6 address may stand in brackets.
fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

/// Parses a network. Host bits are cleared, as nfs-utils does.
fn net(address_text: &str, mask: &str) -> Option<IpNet> {
    let net = match (address(address_text)?, mask.parse()) {
        (IpAddr::V4(address), Ok(mask)) => Ipv4Net::with_netmask(address, mask).ok()?.into(),
        (address, _) => IpNet::new(address, number(mask)?).ok()?,
    };
    Some(unmapped(net.trunc()))
}

/// Converts a network of IPv4-mapped addresses to the IPv4 network: client addresses are compared
/// in their canonical form.
fn unmapped(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(length)) if net.addr().is_ipv6() => {
            Ipv4Net::new(address, length).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

fn unsupported(text: &str) -> Option<&'static str> {
    if text.starts_with('@') {
        Some("it is a netgroup; list the hosts or their network")
    } else if text.starts_with("gss/") {
        Some("Kerberos is not implemented; list the hosts and use sec=sys")
    } else if text.contains(['*', '?', '[']) {
        Some("the only wildcard is * by itself; list the hosts or their network")
    } else {
        None
    }
}

fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(fits)
        && !ends_in_a_number(text)
}

/// Whether a resolver might read the text as an address: getaddrinfo(3) takes `10.1` for 10.0.0.1
/// and `0x7f.1` for 127.0.0.1. No top-level domain is a number.
fn ends_in_a_number(text: &str) -> bool {
    let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn host(name: String, resolve: Resolve<'_>) -> Result<ClientPattern, ClientError> {
    match resolve(&name) {
        Err(source) => Err(ClientError::Resolve { name, source }),
        Ok(addresses) if addresses.is_empty() => Err(ClientError::NoAddress(name)),
        Ok(mut addresses) => {
            for address in &mut addresses {
                *address = address.to_canonical();
            }
            Ok(ClientPattern::Host { name: Some(name), addresses })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ClientPattern, ClientError> {
        ClientPattern::parse(text, &mut |name| match name {
            "pc1" => Ok(vec!["10.0.0.1".parse().unwrap(), "::ffff:10.0.0.2".parse().unwrap()]),
            "empty" => Ok(Vec::new()),
            _ => Err(io::Error::other("unknown host")),
        })
    }

    #[test]
    fn every_form_of_client_parses() {
        let check = |text: &str, expected: &str| {
            assert_eq!(parse(text).unwrap().to_string(), expected, "{text}");
        };
        check("*", "*");
        check("10.0.0.1", "10.0.0.1");
        check("2001:DB8::1", "2001:db8::1");
        check("[2001:db8::1]", "2001:db8::1");
        check("::ffff:10.0.0.1", "10.0.0.1");
        check("10.0.0.0/8", "10.0.0.0/8");
        check("10.1.2.3/8", "10.0.0.0/8");
        check("10.0.0.1/32", "10.0.0.1/32");
        check("0.0.0.0/0", "0.0.0.0/0");
        check("10.0.0.0/255.255.252.0", "10.0.0.0/22");
        check("2001:db8::/32", "2001:db8::/32");
        check("[2001:db8::]/32", "2001:db8::/32");
        check("::ffff:10.0.0.0/104", "10.0.0.0/8");
        check("::/0", "::/0");
        check("PC1", "pc1");
    }

    #[test]
    fn a_host_name_matches_all_its_addresses() {
        let addresses = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let expected = ClientPattern::Host { name: Some("pc1".to_owned()), addresses };
        assert_eq!(parse("pc1").unwrap(), expected);
    }

    #[test]
    fn other_texts_are_refused() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("@trusted", "netgroup");
        check("gss/krb5i", "Kerberos");
        check("*.example.org", "the only wildcard");
        check("build[0-9].example.org", "the only wildcard");
        check("pc?", "the only wildcard");
        check("10.0.*", "the only wildcard");
        check("pc2", "cannot resolve client pc2");
        check("empty", "client empty has no address");
        let malformed = ";.;-pc1;a b;a/b;pc1/24;pc\u{e9};a:b;host);fe80::1%eth0;10.1;10.0.0.256;\
            010.0.0.1;2130706433;0x7f000001;127.0x1;1.;10.0.0.0/33;10.0.0.0/;10.0.0.0/+8;\
            10.0.0.0/8/8;10.0.0.0/255.0.255.0;10.0.0.0/::;::/129;::/255.0.0.0;::/ffff::";
        for text in malformed.split(';') {
            check(text, "is not an address");
        }
        check(&"a".repeat(256), "is not an address");
    }
}
