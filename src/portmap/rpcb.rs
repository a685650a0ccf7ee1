//! Versions 3 and 4 (RFC 1833 §2): universal addresses, of IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};

use super::registration::{Netid, Registration};
use super::{Portmap, uaddr};
use crate::rpc::{Call, Outcome};
use crate::xdr::{Encode, Error, Reader, Writer};

/// The standard bounds no string of `rpcb`; clients send tens of bytes.
const STRING_MAX: usize = 256;

/// Who registered the programs. Tools know this name as that of the system itself.
const OWNER: &[u8] = b"superuser";

/// A program, a version, and how they are reached (`rpcb`), without the owner, of whom nothing
/// depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rpcb<'a> {
    program: u32,
    version: u32,
    netid: &'a [u8],
    address: &'a [u8],
}

/// Which versions of a program are an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    Any,
    This,
}

/// Answers one call.
pub fn answer(portmap: &Portmap, call: &Call<'_>, out: &mut Writer<'_>) -> Result<Outcome, Error> {
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

/// GETADDR and GETVERSADDR (§2.2.1): the address of a program; empty if it is not registered.
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

/// `registered` as the caller can reach it, if the program is at all of the machine's addresses:
/// by the one that the caller says it called, which alone is right behind a translation of
/// addresses (containers, virtual machines), or else by the one at which the call arrived. Most
/// clients want no more than the port, so that without either they are told what is registered.
fn reachable(registered: SocketAddr, local: IpAddr, called: &[u8]) -> SocketAddr {
    let usable = |ip: &IpAddr| ip.is_ipv4() == registered.is_ipv4() && !ip.is_unspecified();
    let called = uaddr::parse(called).map(|address| address.ip());
    let mut candidates = [Some(registered.ip()), called, Some(local)].into_iter().flatten();
    let ip = candidates.find(usable).unwrap_or(registered.ip());
    SocketAddr::new(ip, registered.port())
}

/// DUMP (§2.2.1): everything, as it is registered.
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
