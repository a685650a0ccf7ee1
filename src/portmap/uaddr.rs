//! Universal addresses (RFC 5665 §5.2.3): an address and a port as text.
//!
//! ```text
//!   10.0.0.7.8.1     10.0.0.7, port 8 * 256 + 1 = 2049
//!   fe80::7.8.1      the same port of fe80::7
//! ```

use std::net::{IpAddr, SocketAddr};

/// Formats a universal address. It cannot express an IPv6 scope.
pub fn format(address: SocketAddr) -> String {
    let [high, low] = address.port().to_be_bytes();
    format!("{}.{high}.{low}", address.ip())
}

/// Parses a universal address.
pub fn parse(text: &[u8]) -> Option<SocketAddr> {
    let mut parts = std::str::from_utf8(text).ok()?.rsplitn(3, '.');
    let (low, high) = (octet(parts.next()?)?, octet(parts.next()?)?);
    let ip: IpAddr = parts.next()?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
}

fn octet(text: &str) -> Option<u8> {
    // `u8::from_str` accepts a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn address_and_port_are_separated() {
        let check = |text: &str, address: &str| {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(parse(text.as_bytes()), Some(address), "{text}");
            assert_eq!(format(address), text);
        };
        check("127.0.0.1.0.111", "127.0.0.1:111");
        check("0.0.0.0.8.1", "0.0.0.0:2049");
        check("10.9.8.7.255.255", "10.9.8.7:65535");
        check("::1.0.111", "[::1]:111");
        check("::.8.1", "[::]:2049");
        check("fe80::7.8.1", "[fe80::7]:2049");
        check("::ffff:10.0.0.7.8.1", "[::ffff:10.0.0.7]:2049");
    }

    #[test]
    fn other_texts_are_rejected() {
        let check = |text: &[u8]| assert_eq!(parse(text), None, "{}", text.escape_ascii());
        check(b"");
        check(b"..");
        check(b"8.1");
        check(b"127.0.0.1");
        check(b"127.0.0.1.0");
        check(b"127.0.0.1.0.256");
        check(b"127.0.0.1.0.+1");
        check(b"127.0.0.1.0.");
        check(b"127.0.0.1.0.1 ");
        check(b"127.0.0.1.1.0.1");
        check(b"127.0.0.1\0.0.1");
        check(b"\xff.0.1");
        check(b"/run/rpcbind.sock");
    }

    proptest! {
        #[test]
        fn formatted_addresses_parse_to_the_same_address(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            let text = format(address);
            prop_assert_eq!(parse(text.as_bytes()), Some(address));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(text: Vec<u8>) {
            let _ = parse(&text);
        }
    }
}
