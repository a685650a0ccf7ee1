//! Portmap version 2 and rpcbind versions 3 and 4, program 100000 (RFC 1833): the addresses of the
//! other programs.
//!
//! The registrations are made before the program serves calls; SET and UNSET change nothing.
//!
//! The procedures that make the server call on a client's behalf (CALLIT, BCAST, INDIRECT) are left
//! out on purpose: they lend the server's address to any caller and amplify forged datagrams.
//! GETTIME, UADDR2TADDR, TADDR2UADDR, GETADDRLIST (`rpcinfo -l`) and GETSTAT (`rpcinfo -m`) are
//! left out because no client needs them.
//!
//! GETADDR looks up the netid in its arguments. RFC 1833 §2.2.1 says to use the transport of the
//! call instead; for most clients the two are the same, and the others get the address that they
//! asked for.

mod pmap;
pub mod registration;
mod rpcb;
mod table;
mod uaddr;

use std::net::SocketAddr;

use crate::rpc::program::{Call, CallClass, Outcome, ProcedureNames, Program};
use crate::xdr::{Reader, Writer};
use registration::{Netid, Registration, Transport};

/// The program number.
pub const PROGRAM: u32 = 100_000;

/// The lowest and highest version served.
pub const VERSIONS: (u32, u32) = (2, 4);

/// Returns the names of the procedures of each version.
pub fn names() -> impl Iterator<Item = ProcedureNames> {
    (VERSIONS.0..=VERSIONS.1).map(table::names)
}

/// The portmap program.
#[derive(Debug, Default)]
pub struct Portmap {
    registered: Vec<Registration>,
}

impl Portmap {
    /// Registers all `versions` of a program, from the lowest to the highest, at `address`.
    /// Register this program too: `rpcinfo` looks it up first.
    pub fn register(
        &mut self,
        program: u32,
        versions: (u32, u32),
        transport: Transport,
        address: SocketAddr,
    ) {
        let netid = Netid::new(transport, address);
        let entry = |version| Registration { program, version, netid, address };
        self.registered.extend((versions.0..=versions.1).map(entry));
    }

    /// Returns the registration of a version of a program, or of another version if that one is not
    /// registered: a caller that uses it gets PROG_MISMATCH with the versions served.
    fn find(&self, program: u32, version: u32, netid: Netid) -> Option<&Registration> {
        let mut others =
            self.registered.iter().filter(|r| r.program == program && r.netid == netid);
        others.clone().find(|r| r.version == version).or_else(|| others.next())
    }
}

impl Program for Portmap {
    fn number(&self) -> u32 {
        PROGRAM
    }

    fn versions(&self) -> (u32, u32) {
        VERSIONS
    }

    fn names(&self, version: u32) -> ProcedureNames {
        table::names(version)
    }

    fn classify(&self, _version: u32, _procedure: u32, _args: Reader<'_>) -> CallClass {
        CallClass::default()
    }

    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
        table::run(self, call, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::auth::Credentials;
    use crate::sched::Patience;
    use proptest::prelude::*;

    const NFS: u32 = 100_003;
    const MOUNT: u32 = 100_005;
    const TCP: u32 = 6;
    const UDP: u32 = 17;

    fn portmap() -> Portmap {
        let mut portmap = Portmap::default();
        let mut register = |program, versions, transport, address: &str| {
            portmap.register(program, versions, transport, address.parse().unwrap());
        };
        register(PROGRAM, VERSIONS, Transport::Tcp, "0.0.0.0:111");
        register(PROGRAM, VERSIONS, Transport::Udp, "0.0.0.0:111");
        register(NFS, (3, 3), Transport::Tcp, "0.0.0.0:2049");
        register(NFS, (3, 3), Transport::Tcp, "[::]:2050");
        register(MOUNT, (1, 3), Transport::Tcp, "0.0.0.0:2049");
        register(MOUNT, (1, 3), Transport::Udp, "127.0.0.9:20048");
        portmap
    }

    fn ask(local: &str, version: u32, procedure: u32, args: &[u8]) -> (Outcome, Vec<u8>) {
        let mut out = Vec::new();
        let call = Call {
            version,
            procedure,
            args: Reader::new(args),
            credentials: Credentials::None,
            peer: "127.0.0.1:1023".parse().unwrap(),
            local: local.parse().unwrap(),
            patience: Patience::None,
            may_wait: false,
        };
        let outcome = portmap().call(&call, &mut Writer::new(&mut out));
        (outcome, out)
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    fn rpcb(program: u32, version: u32, netid: &str, address: &str) -> Vec<u8> {
        let mut out = words(&[program, version]);
        let mut w = Writer::new(&mut out);
        [netid, address, "libtirpc"].into_iter().for_each(|s| w.opaque(s.as_bytes()));
        out
    }

    #[track_caller]
    fn port(wanted: [u32; 3], expected: u32) {
        let [program, version, protocol] = wanted;
        let args = words(&[program, version, protocol, 0]);
        assert_eq!(ask("127.0.0.1:111", 2, 3, &args), (Outcome::SUCCESS, words(&[expected])));
    }

    #[test]
    fn getport_returns_the_port_of_the_protocol() {
        port([NFS, 3, TCP], 2049);
        port([MOUNT, 3, TCP], 2049);
        port([MOUNT, 3, UDP], 20048);
        port([PROGRAM, 2, TCP], 111);
    }

    #[test]
    fn getport_of_an_unregistered_program_returns_0() {
        port([NFS, 3, UDP], 0);
        port([100_021, 4, TCP], 0);
        port([NFS, 3, 0], 0);
        port([NFS, 3, 58], 0);
    }

    #[test]
    fn getport_of_an_unregistered_version_returns_a_registered_one() {
        port([NFS, 4, TCP], 2049);
        port([NFS, 0, TCP], 2049);
    }

    /// Checks the results of GETADDR and, with `this`, of GETVERSADDR.
    #[track_caller]
    fn address(local: &str, args: &[u8], expected: &str, this: &str) {
        let reply = |text: &str| {
            let mut out = Vec::new();
            Writer::new(&mut out).opaque(text.as_bytes());
            (Outcome::SUCCESS, out)
        };
        assert_eq!(ask(local, 3, 3, args), reply(expected));
        assert_eq!(ask(local, 4, 3, args), reply(expected));
        assert_eq!(ask(local, 4, 9, args), reply(this));
        assert_eq!(ask(local, 3, 9, args).0, Outcome::Unavailable);
    }

    #[test]
    fn an_unspecified_address_is_replaced_by_the_one_at_which_the_call_arrived() {
        let args = rpcb(NFS, 3, "tcp", "");
        address("10.0.0.7:111", &args, "10.0.0.7.8.1", "10.0.0.7.8.1");
        address("[::ffff:10.0.0.7]:111", &args, "10.0.0.7.8.1", "10.0.0.7.8.1");
        let args = rpcb(NFS, 3, "tcp6", "");
        address("[fd00::7]:111", &args, "fd00::7.8.2", "fd00::7.8.2");
    }

    #[test]
    fn the_address_that_the_caller_used_takes_precedence() {
        let args = rpcb(NFS, 3, "tcp", "10.1.1.1.0.111");
        address("10.0.0.7:111", &args, "10.1.1.1.8.1", "10.1.1.1.8.1");
    }

    #[test]
    fn the_address_of_a_datagram_is_taken_from_its_arguments() {
        let check = |called: &str, expected: &str| {
            let args = rpcb(NFS, 3, "tcp", called);
            address("0.0.0.0:111", &args, expected, expected);
        };
        check("10.1.1.1.0.111", "10.1.1.1.8.1");
        check("0.0.0.0.0.111", "0.0.0.0.8.1");
        check("::1.0.111", "0.0.0.0.8.1");
        check("nonsense", "0.0.0.0.8.1");
        check("", "0.0.0.0.8.1");
    }

    #[test]
    fn a_specified_address_is_returned_unchanged() {
        let args = rpcb(MOUNT, 3, "udp", "10.1.1.1.0.111");
        address("10.0.0.7:111", &args, "127.0.0.9.78.80", "127.0.0.9.78.80");
    }

    #[test]
    fn only_getversaddr_requires_the_version() {
        address("10.0.0.7:111", &rpcb(NFS, 4, "tcp", ""), "10.0.0.7.8.1", "");
    }

    #[test]
    fn getaddr_of_an_unregistered_program_returns_an_empty_address() {
        address("10.0.0.7:111", &rpcb(NFS, 3, "udp", ""), "", "");
        address("10.0.0.7:111", &rpcb(NFS, 3, "local", ""), "", "");
        address("10.0.0.7:111", &rpcb(100_021, 4, "tcp", ""), "", "");
    }

    #[test]
    fn getaddr_matches_a_captured_exchange() {
        // Captured from `rpcinfo -T udp 127.0.0.1 100000 3` and rpcbind 1.2.6.
        let asked = b"\0\x01\x86\xa0\0\0\0\x03\0\0\0\x03udp\0\0\0\0\x0f127.0.0.1.0.111\0\
            \0\0\0\x08libtirpc";
        let answered = b"\0\0\0\x0f127.0.0.1.0.111\0";
        assert_eq!(ask("0.0.0.0:111", 4, 3, asked), (Outcome::SUCCESS, answered.to_vec()));
    }

    #[test]
    fn dump_of_version_2_lists_ports_of_ipv4() {
        let entry = |program, version, protocol, port| [1, program, version, protocol, port];
        let list = [
            entry(PROGRAM, 2, TCP, 111),
            entry(PROGRAM, 3, TCP, 111),
            entry(PROGRAM, 4, TCP, 111),
            entry(PROGRAM, 2, UDP, 111),
            entry(PROGRAM, 3, UDP, 111),
            entry(PROGRAM, 4, UDP, 111),
            entry(NFS, 3, TCP, 2049),
            entry(MOUNT, 1, TCP, 2049),
            entry(MOUNT, 2, TCP, 2049),
            entry(MOUNT, 3, TCP, 2049),
            entry(MOUNT, 1, UDP, 20048),
            entry(MOUNT, 2, UDP, 20048),
            entry(MOUNT, 3, UDP, 20048),
        ];
        let expected = words(&[list.as_flattened(), &[0]].concat());
        assert_eq!(ask("127.0.0.1:111", 2, 4, &[]), (Outcome::SUCCESS, expected));
    }

    #[test]
    fn dump_of_versions_3_and_4_lists_universal_addresses() {
        let (outcome, list) = ask("127.0.0.1:111", 4, 4, &[]);
        assert_eq!(outcome, Outcome::SUCCESS);
        assert_eq!(ask("127.0.0.1:111", 3, 4, &[]).1, list);
        let mut r = Reader::new(&list);
        let mut entries = Vec::new();
        while r.bool().unwrap() {
            let number = (r.u32().unwrap(), r.u32().unwrap());
            let text = [(); 3].map(|()| String::from_utf8_lossy(r.opaque(64).unwrap()));
            entries.push(format!("{number:?} {}", text.join(" ")));
        }
        assert!(r.rest().is_empty());
        assert_eq!(entries.len(), 14);
        assert_eq!(entries[0], "(100000, 2) tcp 0.0.0.0.0.111 superuser");
        assert_eq!(entries[7], "(100003, 3) tcp6 ::.8.2 superuser");
        assert_eq!(entries[13], "(100005, 3) udp 127.0.0.9.78.80 superuser");
    }

    #[test]
    fn calls_cannot_register_or_unregister() {
        let no = (Outcome::SUCCESS, words(&[0]));
        for procedure in [1, 2] {
            assert_eq!(ask("127.0.0.1:111", 2, procedure, &words(&[NFS, 3, TCP, 9])), no);
            let args = rpcb(NFS, 3, "tcp", "127.0.0.1.0.9");
            assert_eq!(ask("127.0.0.1:111", 3, procedure, &args), no);
            assert_eq!(ask("127.0.0.1:111", 4, procedure, &args), no);
        }
    }

    #[test]
    fn calls_on_behalf_of_others_are_unavailable() {
        for (version, procedure) in [(2, 5), (3, 5), (4, 5), (4, 10)] {
            let args = words(&[NFS, 3, 0, 0]);
            assert_eq!(ask("127.0.0.1:111", version, procedure, &args).0, Outcome::Unavailable);
        }
    }

    #[test]
    fn every_truncation_is_garbage() {
        let check = |version, procedure, args: &[u8]| {
            assert_eq!(ask("127.0.0.1:111", version, procedure, args).0, Outcome::SUCCESS);
            for len in 0..args.len() {
                let (outcome, _) = ask("127.0.0.1:111", version, procedure, &args[..len]);
                assert_eq!(outcome, Outcome::Garbage, "{version} {procedure} {len}");
            }
        };
        for procedure in [1, 2, 3] {
            check(2, procedure, &words(&[NFS, 3, TCP, 0]));
            check(3, procedure, &rpcb(NFS, 3, "tcp", "127.0.0.1.0.111"));
        }
        check(4, 9, &rpcb(NFS, 3, "tcp", "127.0.0.1.0.111"));
    }

    proptest! {
        #[test]
        fn arbitrary_calls_do_not_panic_or_block(
            version in 2u32..5,
            procedure in 0u32..14,
            start in prop::collection::vec(0u32..8, 0..3),
            rest: Vec<u8>,
        ) {
            let args = [words(&start), rest].concat();
            let (outcome, _) = ask("[::]:111", version, procedure, &args);
            prop_assert_ne!(outcome, Outcome::Later);
        }
    }
}
