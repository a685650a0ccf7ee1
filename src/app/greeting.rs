//! The text that is printed at the start: what is served, and how to mount it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::export::{Export, ExportTable};

/// Largest number of exports that are listed.
const SHOWN: usize = 20;

/// Prints the text on standard output. `admin` is the address of the status page.
pub fn print(bound: &[SocketAddr], exports: &ExportTable, admin: Option<SocketAddr>) {
    println!("berth {} serves NFSv3", env!("CARGO_PKG_VERSION"));
    for &address in bound {
        println!("on {address}");
        // Secret paths of volumes must not get into a log.
        let shown: Vec<_> = exports.iter().filter(|export| !export.hidden).take(SHOWN).collect();
        for export in &shown {
            println!("  {export}  [{}]", export.dir.display());
            println!("    {}", mount_command(address, export));
        }
        match exports.iter().len() - shown.len() {
            0 => {}
            more => println!("  and {more} more"),
        }
    }
    if bound.iter().all(|address| address.ip().is_loopback()) {
        println!(
            "Only this machine can connect. To serve a network, use --listen 0.0.0.0:2049, and\n\
             list the clients with --exports FILE, because NFS asks for no password."
        );
    }
    if let Some(admin) = admin {
        println!("Status page: http://{}/", reachable(admin));
    }
}

/// Returns the command that mounts an export on a Linux client.
fn mount_command(address: SocketAddr, export: &Export) -> String {
    let host = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => "HOST".into(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let proto = if address.is_ipv6() { "tcp6" } else { "tcp" };
    let (port, path) = (address.port(), String::from_utf8_lossy(&export.path));
    format!(
        "mount -t nfs -o vers=3,proto={proto},nolock,port={port},mountport={port},\
         mountproto={proto} {} /mnt",
        quoted(&format!("{host}:{path}"))
    )
}

/// Quotes a word for a shell: the command is made to be pasted, and names of volumes may contain
/// quotes.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns the address at which this machine reaches a socket that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;
    use crate::export::{ExportId, Ports};

    #[test]
    fn the_command_is_one_for_a_shell_whatever_a_volume_is_called() {
        for name in ["data", "a b c.;'", "x'; echo pwned; '", "$(id) `id` \\", "a\"b"] {
            let mut export = Export::sole(ExportId(1), PathBuf::from("/srv"), Ports::Any);
            export.path = format!("/{name}").into_bytes();
            let command = mount_command("127.0.0.1:2049".parse().unwrap(), &export);
            let script = format!("mount() {{ shift 4; printf '%s\\n' \"$@\"; }}; {command}");
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said, format!("127.0.0.1:/{name}\n/mnt\n"), "{command}");
        }
    }

    #[test]
    fn the_page_has_an_address_that_can_be_opened() {
        let check = |address: &str, expected: &str| {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), expected);
        };
        check("0.0.0.0:8080", "127.0.0.1:8080");
        check("[::]:8080", "[::1]:8080");
        check("10.0.0.1:80", "10.0.0.1:80");
    }
}
