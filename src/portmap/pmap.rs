//! Version 2 (RFC 1833 §3): ports only, IPv4 only.

use super::Portmap;
use super::registration::{Netid, Registration};
use crate::rpc::{Call, Outcome};
use crate::xdr::{Encode, Error, Reader, Writer};

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

/// Carries out one call.
pub fn dispatch(
    portmap: &Portmap,
    call: &Call<'_>,
    out: &mut Writer<'_>,
) -> Result<Outcome, Error> {
    let mut args = call.args;
    match call.procedure {
        0 => {}
        1 | 2 => {
            // SET, UNSET
            Mapping::decode(&mut args)?;
            out.bool(false);
        }
        3 => out.u32(get_port(portmap, Mapping::decode(&mut args)?)),
        4 => dump(portmap, out),
        _ => return Ok(Outcome::Unavailable),
    }
    Ok(Outcome::Done)
}

/// GETPORT (§3.1): the port of a program, or 0 if it is not registered.
fn get_port(portmap: &Portmap, wanted: Mapping) -> u32 {
    let netid = match wanted.protocol {
        IPPROTO_TCP => Netid::Tcp,
        IPPROTO_UDP => Netid::Udp,
        _ => return 0,
    };
    let found = portmap.find(wanted.program, wanted.version, netid);
    found.map_or(0, |r| r.address.port().into())
}

/// DUMP (§3.1): all registrations that this version can express.
fn dump(portmap: &Portmap, out: &mut Writer<'_>) {
    for mapping in portmap.registered.iter().filter_map(Mapping::of) {
        out.bool(true);
        mapping.encode(out);
    }
    out.bool(false);
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

    fn decode(r: &mut Reader<'_>) -> Result<Self, Error> {
        let (program, version, protocol, port) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        Ok(Self { program, version, protocol, port })
    }
}

impl Encode for Mapping {
    fn encode(&self, w: &mut Writer<'_>) {
        [self.program, self.version, self.protocol, self.port].into_iter().for_each(|n| w.u32(n));
    }
}
