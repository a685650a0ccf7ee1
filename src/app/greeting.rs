//! What is told at the start: what is served, and how to mount it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::export::{Export, Table};

/// Exports that are listed.
const SHOWN: usize = 20;

/// Tells it on standard output. `admin` is where the status page is.
pub fn say(bound: &[SocketAddr], exports: &Table, admin: Option<SocketAddr>) {
    println!("berth {} serves NFSv3", env!("CARGO_PKG_VERSION"));
    for &address in bound {
        println!("on {address}");
        // Whoever reads the log is not to learn secret paths from it.
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
            "Only this machine can connect. For the network: --listen 0.0.0.0:2049, and with\n\
             --exports FILE who may connect, because NFS asks no password."
        );
    }
    if let Some(admin) = admin {
        println!("Status page: http://{admin}/");
    }
}

/// The command with which a Linux client mounts an export.
fn mount_command(address: SocketAddr, export: &Export) -> String {
    let host = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => "HOST".into(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let proto = if address.is_ipv6() { "tcp6" } else { "tcp" };
    let (port, path) = (address.port(), String::from_utf8_lossy(&export.path));
    format!(
        "mount -t nfs -o vers=3,proto={proto},nolock,port={port},mountport={port},mountproto={proto} \
         '{host}:{path}' /mnt"
    )
}
