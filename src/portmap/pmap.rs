//! Version 2 (RFC 1833 §3): ports only, IPv4 only.

use super::Portmap;
use super::registration::{Netid, Registration};
use crate::rpc::program::Call;
use crate::xdr::{Encode, Error, Writer};

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// A program version at a port (`mapping`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    program: u32,
    version: u32,
    protocol: u32,
    port: u32,
}

/// SET and UNSET (§3.1): report that nothing was changed.
pub fn refuse(_portmap: &Portmap, call: &Call<'_>, out: &mut Writer<'_>) -> Result<(), Error> {
    Mapping::decode(call)?;
    out.bool(false);
    Ok(())
}

/// GETPORT (§3.1): the port of a program, or 0 if it is not registered.
pub fn get_port(portmap: &Portmap, call: &Call<'_>, out: &mut Writer<'_>) -> Result<(), Error> {
    let wanted = Mapping::decode(call)?;
    let netid = match wanted.protocol {
        IPPROTO_TCP => Some(Netid::Tcp),
        IPPROTO_UDP => Some(Netid::Udp),
        _ => None,
    };
    let found = netid.and_then(|netid| portmap.find(wanted.program, wanted.version, netid));
    out.u32(found.map_or(0, |r| r.address.port().into()));
    Ok(())
}

/// DUMP (§3.1): all registrations that this version can express.
pub fn dump(portmap: &Portmap, _call: &Call<'_>, out: &mut Writer<'_>) -> Result<(), Error> {
    for mapping in portmap.registered.iter().filter_map(Mapping::of) {
        out.bool(true);
        mapping.encode(out);
    }
    out.bool(false);
    Ok(())
}

impl Mapping {
    fn of(registration: &Registration) -> Option<Self> {
        let protocol = match registration.netid {
            Netid::Tcp => IPPROTO_TCP,
            Netid::Udp => IPPROTO_UDP,
            Netid::Tcp6 | Netid::Udp6 => return None,
        };
        let Registration { program, version, address, .. } = *registration;
        Some(Self { program, version, protocol, port: address.port().into() })
    }

    /// Decodes the arguments of a call.
    fn decode(call: &Call<'_>) -> Result<Self, Error> {
        let mut r = call.args;
        let (program, version, protocol, port) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        Ok(Self { program, version, protocol, port })
    }
}

impl Encode for Mapping {
    fn encode(&self, w: &mut Writer<'_>) {
        [self.program, self.version, self.protocol, self.port].into_iter().for_each(|n| w.u32(n));
    }
}
