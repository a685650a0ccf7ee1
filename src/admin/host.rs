//! Checks the `Host` of a request against the names of this server, as a defence against DNS
//! rebinding.
//!
//! A foreign web page can have its own host name resolve to this server's address; its visitor's
//! browser then lets it read the replies. Such a request still carries the foreign name. The pages
//! are therefore only for requests with one of these hosts: `localhost`, a loopback address, the
//! address at which the connection arrived (a pod's, for the kubelet and Prometheus), the address
//! of the listener, the name of the machine, and the names that `--admin-host` adds.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::{Authority, Uri};

/// The names and addresses of this server.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl AllowedHosts {
    /// Creates the names of a server that listens on `listen` on the machine called `machine`;
    /// `more` has further names and addresses, IPv6 with or without brackets.
    pub fn new(listen: SocketAddr, machine: &str, more: &[String]) -> Self {
        let mut hosts = Self::default();
        hosts.add("localhost");
        hosts.add(machine);
        more.iter().for_each(|more| hosts.add(more));
        hosts.addresses.push(listen.ip().to_canonical());
        hosts
    }

    fn add(&mut self, host: &str) {
        match address(host) {
            Some(address) => self.addresses.push(address),
            None if host.is_empty() => {}
            None => self.names.push(plain(host)),
        }
    }

    /// Whether a request that arrived at the address `local` has a host of this server.
    ///
    /// A request without a host is accepted: only HTTP/1.0 programs send it, and no browser does.
    pub fn include(&self, uri: &Uri, headers: &HeaderMap, local: IpAddr) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next();
        let of_header = host.is_none_or(|host| {
            let authority = Authority::try_from(host.as_bytes());
            authority.is_ok_and(|authority| self.has(&authority, local))
        });
        let of_uri = uri.authority().is_none_or(|authority| self.has(authority, local));
        of_header && of_uri && hosts.next().is_none()
    }

    fn has(&self, authority: &Authority, local: IpAddr) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        match address(authority.host()) {
            Some(ip) => {
                ip.is_loopback() || ip == local.to_canonical() || self.addresses.contains(&ip)
            }
            None => self.names.contains(&plain(authority.host())),
        }
    }
}

/// Parses an address, in brackets or without, and maps IPv4-mapped IPv6 addresses to IPv4.
fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// A name in the form for comparison: lower case, without the dot at the end.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn include(uri: &str, lines: &[&str], local: &str) -> bool {
        let more = ["berth-admin.storage.svc", "10.96.0.9", "[fd00::9]"].map(str::to_owned);
        let hosts = AllowedHosts::new("192.0.2.1:8080".parse().unwrap(), "box", &more);
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HOST, line.parse().unwrap());
        }
        hosts.include(&uri.parse().unwrap(), &headers, local.parse().unwrap())
    }

    #[test]
    fn only_names_and_addresses_of_the_server_are_accepted() {
        let check = |host: &str, expected| {
            assert_eq!(include("/", &[host], "10.244.0.7"), expected, "{host}");
        };
        for ours in [
            "localhost",
            "localhost:8080",
            "LOCALHOST.:1",
            "127.0.0.1:8080",
            "127.0.0.2",
            "[::1]:8080",
            "10.244.0.7:8080",
            "[::ffff:10.244.0.7]:8080",
            "192.0.2.1:8080",
            "box",
            "Box:80",
            "berth-admin.storage.svc:8080",
            "Berth-Admin.Storage.svc.",
            "10.96.0.9",
            "[fd00::9]:8080",
        ] {
            check(ours, true);
        }
        for others in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "box.evil.example",
            "berth-admin.storage.svc.evil.example",
            "evil.example@localhost",
            "localhost@evil.example",
            "10.244.0.8",
            "127.0.0.1.evil.example",
            "localhost evil",
            "[::1",
        ] {
            check(others, false);
        }
    }

    #[test]
    fn all_hosts_of_a_request_are_checked() {
        assert!(include("/", &[], "10.244.0.7"), "HTTP/1.0 has no host");
        assert!(!include("/", &["localhost", "evil.example"], "10.244.0.7"));
        assert!(!include("/", &["localhost", "localhost"], "10.244.0.7"));
        assert!(!include("http://evil.example/", &["localhost"], "10.244.0.7"));
        assert!(!include("http://evil.example/", &[], "10.244.0.7"));
        assert!(include("http://localhost/", &["localhost"], "10.244.0.7"));
    }
}
