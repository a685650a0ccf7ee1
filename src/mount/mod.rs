//! MOUNT version 3, program 100005 (RFC 1813 §5): from the path of an export to its file handle.
//!
//! MNT grants no access by itself. It checks the client list to refuse a client early; every NFS
//! call checks the list again.
//!
//! Versions 1 and 2 belong to NFS version 2, which is not served, so they have no MNT. Their other
//! procedures are the same, and `showmount` of the BSDs uses version 1.

mod list;
mod mnt;
mod table;
mod types;

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use crate::export::table::Exports;
use crate::fs::Fs;
use crate::rpc::program::{Call, CallClass, Outcome, ProcedureNames, Program};
use crate::xdr::{Reader, Writer};
use list::MountList;

/// The program number.
pub const PROGRAM: u32 = 100_005;

/// The lowest and highest version served.
pub const VERSIONS: (u32, u32) = (1, 3);

/// Returns the names of the procedures of each version.
pub fn names() -> impl Iterator<Item = ProcedureNames> {
    (VERSIONS.0..=VERSIONS.1).map(table::names)
}

/// Whether the source address of a call is known to be the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceAddress {
    /// The call arrived on a connection.
    Verified,
    /// The call arrived in a datagram, whose source address may be forged.
    Unverified,
}

/// The program over UDP. It leaves the list of mounts unchanged: the server recognises known
/// clients by that list, and a datagram's sender is not verified.
pub struct Datagrams(pub Arc<Mount>);

/// The MOUNT program.
pub struct Mount {
    exports: Arc<Exports>,
    fs: Arc<Fs>,
    mounts: Mutex<MountList>,
}

/// A call, and what it needs to be carried out.
struct MountContext<'a> {
    mount: &'a Mount,
    rpc: &'a Call<'a>,
    source: SourceAddress,
}

impl Mount {
    /// Serves the directories that are exported at the time of each call.
    pub fn new(exports: Arc<Exports>, fs: Arc<Fs>) -> Self {
        Self { exports, fs, mounts: Mutex::default() }
    }

    /// Returns the listed mounts: client addresses and paths. The list may have mounts that no
    /// longer exist, and lacks those that were dropped when it was full.
    pub fn list(&self) -> Vec<(IpAddr, Vec<u8>)> {
        self.mounts().list()
    }

    /// Whether `client` has a mount in the list.
    pub fn has_mounted(&self, client: IpAddr) -> bool {
        self.mounts().has(client)
    }

    fn mounts(&self) -> MutexGuard<'_, MountList> {
        self.mounts.lock()
    }
}

impl MountContext<'_> {
    fn args(&self) -> Reader<'_> {
        self.rpc.args
    }

    /// Returns the address by which the client is listed.
    fn client(&self) -> IpAddr {
        self.rpc.peer.ip().to_canonical()
    }
}

impl Program for Mount {
    fn number(&self) -> u32 {
        PROGRAM
    }

    fn versions(&self) -> (u32, u32) {
        VERSIONS
    }

    fn names(&self, version: u32) -> ProcedureNames {
        table::names(version)
    }

    fn classify(&self, version: u32, procedure: u32, _args: Reader<'_>) -> CallClass {
        table::classify(version, procedure)
    }

    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
        let cx = MountContext { mount: self, rpc: call, source: SourceAddress::Verified };
        table::run(&cx, out)
    }
}

impl Program for Datagrams {
    fn number(&self) -> u32 {
        self.0.number()
    }

    fn versions(&self) -> (u32, u32) {
        self.0.versions()
    }

    fn names(&self, version: u32) -> ProcedureNames {
        self.0.names(version)
    }

    fn classify(&self, version: u32, procedure: u32, args: Reader<'_>) -> CallClass {
        self.0.classify(version, procedure, args)
    }

    fn call(&self, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
        let cx = MountContext { mount: &self.0, rpc: call, source: SourceAddress::Unverified };
        table::run(&cx, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{ClientEntry, ClientPattern, Export, ExportId, ExportOptions};
    use crate::fs::handle::{KEY_LEN, Key};
    use crate::rpc::auth::Credentials;
    use crate::sched::Patience;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use tempfile::TempDir;

    const LISTED: &str = "10.0.0.1:700";

    /// A server with one export, `/data`, for 10.0.0.1 and ports below 1024.
    struct Served {
        mount: Mount,
        _dir: TempDir,
    }

    fn served() -> Served {
        let dir = TempDir::new().unwrap();
        std::fs::create_dir_all(dir.path().join("sub/deep")).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (name, target) in [("link", "sub"), ("lost", "/etc"), ("round", "round")] {
            std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
        }
        let pattern =
            ClientPattern::Host { name: None, addresses: vec!["10.0.0.1".parse().unwrap()] };
        let export = Export {
            id: ExportId(7),
            path: b"/data".to_vec(),
            dir: dir.path().into(),
            clients: vec![ClientEntry { pattern, options: ExportOptions::default() }],
            traffic: Default::default(),
            hidden: false,
        };
        let fs = Fs::new(Key::new([7; KEY_LEN]), 64, dir.path()).unwrap();
        fs.attach(export.id, &export.dir, None, None).unwrap();
        let fs = Arc::new(fs);
        let exports = Arc::<Exports>::default();
        exports.change(&[], [Arc::new(export)]).unwrap();
        Served { mount: Mount::new(exports, fs), _dir: dir }
    }

    impl Served {
        fn call(
            &self,
            (version, procedure): (u32, u32),
            args: &[u8],
            peer: &str,
            patience: Patience,
        ) -> (Outcome, Vec<u8>) {
            let mut out = Vec::new();
            let call = Call {
                version,
                procedure,
                args: Reader::new(args),
                credentials: Credentials::None,
                peer: peer.parse().unwrap(),
                local: SocketAddr::from(([10, 0, 0, 9], 2049)),
                patience,
                may_wait: false,
            };
            let outcome = self.mount.call(&call, &mut Writer::new(&mut out));
            (outcome, out)
        }

        /// The results of a call that does not block.
        #[track_caller]
        fn results(&self, procedure: u32, args: &[u8], peer: &str) -> Vec<u8> {
            let (outcome, results) = self.call((3, procedure), args, peer, Patience::None);
            assert_eq!(outcome, Outcome::SUCCESS);
            results
        }

        /// The status and the handle length that MNT returns.
        fn mnt(&self, path: &[u8], peer: &str) -> (u32, usize) {
            let (outcome, results) = self.call((3, 1), &opaque(path), peer, Patience::Blocking);
            let mut r = Reader::new(&results);
            let status = r.u32().unwrap();
            assert_eq!(outcome, Outcome::Done { status });
            let handle = if status == 0 { r.opaque(64).unwrap() } else { &[] };
            (status, handle.len())
        }

        #[track_caller]
        fn refused(&self, path: &[u8], peer: &str, status: u32) {
            assert_eq!(self.mnt(path, peer), (status, 0));
            assert_eq!(self.results(2, &[], peer), [0; 4], "a refused mount is listed");
        }
    }

    fn opaque(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Writer::new(&mut out).opaque(data);
        out
    }

    #[test]
    fn a_listed_client_gets_the_handle_of_a_directory() {
        let served = served();
        for path in ["/data", "/data/", "/data/sub", "/data/sub/deep", "/data/link/deep"] {
            let (status, handle) = served.mnt(path.as_bytes(), LISTED);
            assert!(status == 0 && (10..=64).contains(&handle), "{path}: {status}");
        }
        assert_eq!(served.mnt(b"/data", "[::ffff:10.0.0.1]:700").0, 0);
    }

    #[test]
    fn other_clients_and_ports_have_no_access() {
        served().refused(b"/data", "10.0.0.2:700", 13);
        served().refused(b"/data", "10.0.0.1:1024", 13);
        // The status does not tell whether the directory exists.
        served().refused(b"/data/missing", "10.0.0.2:700", 13);
    }

    #[test]
    fn a_path_that_is_no_directory_of_an_export_fails() {
        let served = served();
        served.refused(b"/other", LISTED, 2);
        served.refused(b"", LISTED, 2);
        served.refused(b"/data/missing", LISTED, 2);
        served.refused(b"/data/file", LISTED, 20);
        served.refused(b"/data/lost", LISTED, 2);
        served.refused(b"/data/round", LISTED, 20);
        served.refused(&[b"/data/", &[b'n'; 256][..]].concat(), LISTED, 63);
        served.refused(&[b"/data", &[b'/'; 1020][..]].concat(), LISTED, 63);
        assert_eq!(served.mnt(&[b"/data", &[b'/'; 1019][..]].concat(), LISTED).0, 0);
    }

    #[test]
    fn only_calls_that_access_the_disk_are_deferred() {
        let served = served();
        let mnt = |path: &[u8], peer| served.call((3, 1), &opaque(path), peer, Patience::None);
        assert_eq!(mnt(b"/data", LISTED), (Outcome::Later, Vec::new()));
        assert_eq!(served.results(2, &[], LISTED), [0; 4], "a deferred mount is listed");
        assert_eq!(mnt(b"/data", "10.0.0.2:700").0, Outcome::Done { status: 13 });
        assert_eq!(mnt(b"/other", LISTED).0, Outcome::Done { status: 2 });
    }

    #[test]
    fn mounts_are_listed_until_they_are_removed() {
        let served = served();
        served.mnt(b"/data", LISTED);
        served.mnt(b"/data/sub", LISTED);
        served.mnt(b"/data", "[::ffff:10.0.0.1]:701");
        let dump = || served.results(2, &[], "10.0.0.1:5000");
        let others = || served.results(2, &[], "10.0.0.3:5000");
        let sub = b"\0\0\0\x01\0\0\0\x0810.0.0.1\0\0\0\x09/data/sub\0\0\0";
        let root = b"\0\0\0\x01\0\0\0\x0810.0.0.1\0\0\0\x05/data\0\0\0";
        assert_eq!(dump(), [&sub[..], root, &[0; 4]].concat());
        assert_eq!(others(), [0; 4], "another client sees the mounts");
        assert_eq!(served.results(3, &opaque(b"/data"), "10.0.0.2:700"), [0_u8; 0]);
        assert_eq!(dump(), [&sub[..], root, &[0; 4]].concat(), "another client removed a mount");
        assert_eq!(served.results(3, &opaque(b"/data"), LISTED), [0_u8; 0]);
        assert_eq!(dump(), [&sub[..], &[0; 4]].concat());
        assert_eq!(served.results(4, &[], LISTED), [0_u8; 0]);
        assert_eq!(dump(), [0; 4]);
    }

    #[test]
    fn exports_are_listed_for_their_clients_only() {
        let list = b"\0\0\0\x01\0\0\0\x05/data\0\0\0\0\0\0\x01\0\0\0\x0810.0.0.1\0\0\0\0\0\0\0\0";
        let served = served();
        assert_eq!(served.results(5, &[], "10.0.0.1:5000"), list);
        assert_eq!(served.results(5, &[], "[::ffff:10.0.0.1]:5000"), list);
        assert_eq!(served.results(5, &[], "10.0.0.3:5000"), [0; 4]);
    }

    #[test]
    fn older_versions_have_all_procedures_but_mnt() {
        let served = served();
        for version in [1, 2] {
            for procedure in 0..8 {
                let args = opaque(b"/data");
                let call = served.call((version, procedure), &args, LISTED, Patience::Blocking);
                let is_there = matches!(procedure, 0 | 2..=5);
                let expected = if is_there { Outcome::SUCCESS } else { Outcome::Unavailable };
                assert_eq!(call.0, expected, "{version} {procedure}");
            }
        }
    }

    #[test]
    fn every_truncation_is_garbage() {
        let served = served();
        let args = opaque(b"/data");
        for procedure in [1, 3] {
            for len in 0..args.len() {
                let call = served.call((3, procedure), &args[..len], LISTED, Patience::Blocking);
                assert_eq!(call.0, Outcome::Garbage, "{procedure} {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_calls_do_not_panic(version in 1u32..4, procedure in 0u32..8, args: Vec<u8>) {
            served().call((version, procedure), &args, LISTED, Patience::Blocking);
        }

        #[test]
        fn arbitrary_paths_do_not_panic(path: Vec<u8>) {
            let path = [b"/data/", &path[..]].concat();
            served().mnt(&path, LISTED);
        }
    }
}
