//! Versions 3 and 4 (RFC 1833 §2): universal addresses, IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};

use super::registration::{Netid, Registration};
use super::{Portmap, uaddr};
use crate::rpc::{Call, Outcome};
use crate::xdr::{Encode, Error, Reader, Writer};

/// Longest string that is accepted, in bytes. The RFC sets no bound; clients send tens of bytes.
const STRING_MAX: usize = 256;

/// The owner of all registrations: the name that rpcbind uses for root.
const OWNER: &[u8] = b"superuser";

/// A program, a version, a netid and an address (`rpcb`). The owner is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rpcb<'a> {
    program: u32,
    version: u32,
    netid: &'a [u8],
    address: &'a [u8],
}

/// Which registered versions match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    Any,
    This,
}

/// Carries out one call.
pub fn dispatch(
    portmap: &Portmap,
    call: &Call<'_>,
    out: &mut Writer<'_>,
) -> Result<Outcome, Error> {
    let mut args = call.args;
    let local = call.local.ip().to_canonical();
    match (call.version, call.procedure) {
        (_, 0) => {}
        (_, 1 | 2) => {
            // SET, UNSET
            Rpcb::decode(&mut args)?;
            out.bool(false);
        }
        (_, 3) => get_addr(portmap, Rpcb::decode(&mut args)?, Versions::Any, local, out),
        (_, 4) => dump(portmap, out),
        (4, 9) => get_addr(portmap, Rpcb::decode(&mut args)?, Versions::This, local, out),
        _ => return Ok(Outcome::Unavailable),
    }
    Ok(Outcome::Done)
}

/// GETADDR and GETVERSADDR (§2.2.1): the address of a program, or an empty string if it is not
/// registered.
fn get_addr(
    portmap: &Portmap,
    wanted: Rpcb<'_>,
    versions: Versions,
    local: IpAddr,
    out: &mut Writer<'_>,
) {
    let found = Netid::named(wanted.netid)
        .and_then(|netid| portmap.find(wanted.program, wanted.version, netid))
        .filter(|r| versions == Versions::Any || r.version == wanted.version);
    let address = found.map(|r| uaddr::format(reachable(r.address, local, wanted.address)));
    out.opaque(address.unwrap_or_default().as_bytes());
}

/// Returns `registered` with an address that the caller can reach. A specified address is kept.
///
/// An unspecified address is replaced by the one that the caller says it used, which is the only
/// right one behind address translation (containers, virtual machines), or else by the one at which
/// the call arrived. If neither is usable it stays unspecified: most clients need only the port.
fn reachable(registered: SocketAddr, local: IpAddr, called: &[u8]) -> SocketAddr {
    let usable = |ip: &IpAddr| ip.is_ipv4() == registered.is_ipv4() && !ip.is_unspecified();
    let called = uaddr::parse(called).map(|address| address.ip());
    let mut candidates = [Some(registered.ip()), called, Some(local)].into_iter().flatten();
    let ip = candidates.find(usable).unwrap_or(registered.ip());
    SocketAddr::new(ip, registered.port())
}

/// DUMP (§2.2.1): all registrations.
fn dump(portmap: &Portmap, out: &mut Writer<'_>) {
    for registration in &portmap.registered {
        out.bool(true);
        registration.encode(out);
    }
    out.bool(false);
}

impl<'a> Rpcb<'a> {
    fn decode(r: &mut Reader<'a>) -> Result<Self, Error> {
        let (program, version) = (r.u32()?, r.u32()?);
        let (netid, address) = (r.opaque(STRING_MAX)?, r.opaque(STRING_MAX)?);
        let _owner = r.opaque(STRING_MAX)?;
        Ok(Self { program, version, netid, address })
    }
}

impl Encode for Registration {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.program);
        w.u32(self.version);
        w.opaque(self.netid.name().as_bytes());
        w.opaque(uaddr::format(self.address).as_bytes());
        w.opaque(OWNER);
    }
}
