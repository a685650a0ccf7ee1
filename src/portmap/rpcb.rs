//! Versions 3 and 4 (RFC 1833 §2): universal addresses, IPv4 and IPv6.

use std::net::{IpAddr, SocketAddr};

use super::registration::{Netid, Registration};
use super::{Portmap, uaddr};
use crate::rpc::program::Call;
use crate::xdr::{Encode, Error, Writer};

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
enum VersionMatch {
    /// The wanted version, or another one if that is not registered.
    Any,
    /// The wanted version.
    Exact,
}

/// SET and UNSET (§2.2.1): report that nothing was changed.
pub fn refuse(_portmap: &Portmap, call: &Call<'_>, out: &mut Writer<'_>) -> Result<(), Error> {
    Rpcb::decode(call)?;
    out.bool(false);
    Ok(())
}

/// GETADDR (§2.2.1): the address of a program, or an empty string if it is not registered.
pub fn get_addr(portmap: &Portmap, call: &Call<'_>, out: &mut Writer<'_>) -> Result<(), Error> {
    get(portmap, call, VersionMatch::Any, out)
}

/// GETVERSADDR (§2.2.1): as GETADDR, for the wanted version only.
pub fn get_version_addr(
    portmap: &Portmap,
    call: &Call<'_>,
    out: &mut Writer<'_>,
) -> Result<(), Error> {
    get(portmap, call, VersionMatch::Exact, out)
}

fn get(
    portmap: &Portmap,
    call: &Call<'_>,
    versions: VersionMatch,
    out: &mut Writer<'_>,
) -> Result<(), Error> {
    let (wanted, local) = (Rpcb::decode(call)?, call.local.ip().to_canonical());
    let found = Netid::named(wanted.netid)
        .and_then(|netid| portmap.find(wanted.program, wanted.version, netid))
        .filter(|r| versions == VersionMatch::Any || r.version == wanted.version);
    let address = found.map(|r| uaddr::format(reachable(r.address, local, wanted.address)));
    out.opaque(address.unwrap_or_default().as_bytes());
    Ok(())
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
pub fn dump(portmap: &Portmap, _call: &Call<'_>, out: &mut Writer<'_>) -> Result<(), Error> {
    for registration in &portmap.registered {
        out.bool(true);
        registration.encode(out);
    }
    out.bool(false);
    Ok(())
}

impl<'a> Rpcb<'a> {
    /// Decodes the arguments of a call.
    fn decode(call: &Call<'a>) -> Result<Self, Error> {
        let mut r = call.args;
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
