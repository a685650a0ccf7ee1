//! A small RPC client: one connection, blocking, and able to send what no proper client would.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use nfs3_types::mount;
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack, Void};
use socket2::{Domain, Socket, Type};

use super::wire::*;
use super::{PATIENCE, privileged};

/// Program and version of a call.
pub type Target = (u32, u32);

/// NFS version 3.
pub const NFS: Target = (100_003, 3);
/// MOUNT version 3.
pub const MOUNT: Target = (100_005, 3);

/// The header of a record's last fragment.
pub const LAST: u32 = 0x8000_0000;

/// The user that a call is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

impl Cred {
    /// A user in one group of the same number.
    pub const fn user(uid: u32) -> Self {
        Self { uid, gid: uid, groups: Vec::new() }
    }

    /// Who may do most: root, or the server's own user if it has no privileges.
    pub fn superuser() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), ..Self::user(own_gid()) }
    }

    /// Adds groups.
    pub fn groups(mut self, groups: &[u32]) -> Self {
        self.groups.extend(groups);
        self
    }

    /// AUTH_SYS and an empty verifier.
    pub fn encoded(&self) -> Vec<u8> {
        let mut body = packed(&0u32);
        Opaque::borrowed(b"client").pack(&mut body).unwrap();
        self.uid.pack(&mut body).unwrap();
        self.gid.pack(&mut body).unwrap();
        self.groups.pack(&mut body).unwrap();
        auth(1, &body)
    }
}

/// The group of this process, and so of a server without privileges.
pub fn own_gid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// A credential of any flavor, and an empty verifier.
pub fn auth(flavor: u32, body: &[u8]) -> Vec<u8> {
    let mut out = packed(&flavor);
    Opaque::borrowed(body).pack(&mut out).unwrap();
    out.extend([0; 8]);
    out
}

/// A call without its record mark. `auth` is the credential and the verifier.
pub fn message(xid: u32, to: Target, procedure: u32, auth: &[u8], args: &[u8]) -> Vec<u8> {
    let mut out = words(&[xid, 0, 2, to.0, to.1, procedure]);
    out.extend(auth);
    out.extend(args);
    out
}

/// Words as they are on the wire.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

/// A message as a record of one fragment.
pub fn record(message: &[u8]) -> Vec<u8> {
    let mut out = words(&[LAST | u32::try_from(message.len()).unwrap()]);
    out.extend(message);
    out
}

/// How a call was answered below its program's own status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The results.
    Success(Vec<u8>),
    /// `accept_stat`, and what follows it.
    Refused(u32, Vec<u8>),
    /// `reject_stat`, and what follows it.
    Denied(u32, Vec<u8>),
}

impl Reply {
    /// The results of a call that its program has carried out.
    #[track_caller]
    pub fn results(self) -> Vec<u8> {
        match self {
            Self::Success(results) => results,
            other => panic!("the call was not carried out: {other:?}"),
        }
    }

    /// Reads a reply, and the transaction that it belongs to.
    pub fn decode(message: &[u8]) -> (u32, Self) {
        let word = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 1, "not a reply: {message:02x?}");
        let reply = match word(8) {
            0 => {
                let verifier = usize::try_from(word(16)).unwrap().next_multiple_of(4);
                let rest = message[24 + verifier..].to_vec();
                match word(20 + verifier) {
                    0 => Self::Success(rest),
                    why => Self::Refused(why, rest),
                }
            }
            1 => Self::Denied(word(12), message[16..].to_vec()),
            other => panic!("no such reply_stat: {other}"),
        };
        (word(0), reply)
    }
}

/// Reads a value that must be all there is.
#[track_caller]
pub fn unpacked<R: Unpack>(bytes: &[u8]) -> R {
    let mut rest = bytes;
    let (value, _) = R::unpack(&mut rest).unwrap_or_else(|e| panic!("{e:?} in {bytes:02x?}"));
    assert!(rest.is_empty(), "{} bytes follow the results: {bytes:02x?}", rest.len());
    value
}

/// A connection.
pub struct Client {
    /// The user of the calls that follow.
    pub cred: Cred,
    /// The size of the last results.
    pub last_size: usize,
    stream: TcpStream,
    xid: u32,
}

impl Client {
    /// Connects from any port.
    pub fn connect(to: SocketAddr, cred: Cred) -> Self {
        Self::over(TcpStream::connect(to).unwrap(), cred)
    }

    /// Connects from an address; port 0 is any port.
    pub fn connect_from(from: IpAddr, port: u16, to: SocketAddr, cred: Cred) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(from, port).into())?;
        socket.connect(&to.into())?;
        Ok(Self::over(socket.into(), cred))
    }

    fn over(stream: TcpStream, cred: Cred) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // Connections of one test differ in their transactions, as those of two clients do.
        let port = stream.local_addr().unwrap().port();
        Self { cred, last_size: 0, stream, xid: u32::from(port) << 16 }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Takes one record off the stream.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        loop {
            let mut mark = [0; 4];
            self.stream.read_exact(&mut mark)?;
            let mark = u32::from_be_bytes(mark);
            let start = message.len();
            message.resize(start + usize::try_from(mark & !LAST).unwrap(), 0);
            self.stream.read_exact(&mut message[start..])?;
            if mark & LAST != 0 {
                return Ok(message);
            }
        }
    }

    /// Whether the server has closed the connection; waits until it has, or has sent something.
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(len) => len == 0,
            Err(e) => {
                matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
        }
    }

    /// The stream itself.
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// A transaction that this connection has not used.
    pub const fn next_xid(&mut self) -> u32 {
        self.xid = self.xid.wrapping_add(1);
        self.xid
    }

    /// Sends one message and takes the answer to it.
    #[track_caller]
    pub fn exchange(&mut self, message: &[u8]) -> Reply {
        self.send(&record(message)).unwrap();
        let answer = self.receive().unwrap();
        let (xid, reply) = Reply::decode(&answer);
        assert_eq!(xid.to_be_bytes(), message[..4], "the answer to another call");
        reply
    }

    /// Calls with arguments that are bytes.
    #[track_caller]
    pub fn raw(&mut self, to: Target, procedure: u32, args: &[u8]) -> Reply {
        let xid = self.next_xid();
        let auth = self.cred.encoded();
        self.exchange(&message(xid, to, procedure, &auth, args))
    }

    #[track_caller]
    fn call<R: Unpack>(&mut self, to: Target, procedure: u32, args: &impl Pack) -> R {
        let results = self.raw(to, procedure, &packed(args)).results();
        self.last_size = results.len();
        unpacked(&results)
    }

    #[track_caller]
    fn nfs<R: Unpack>(&mut self, procedure: NFS_PROGRAM, args: &impl Pack) -> R {
        self.call(NFS, procedure as u32, args)
    }
}

fn at<'a>(dir: &Fh, name: &'a (impl AsRef<[u8]> + ?Sized)) -> diropargs3<'a> {
    diropargs3 { dir: dir.clone(), name: name.as_ref().into() }
}

/// The arguments of MNT and UMNT.
pub fn packed_path(path: impl AsRef<[u8]>) -> Vec<u8> {
    packed(&Opaque::borrowed(path.as_ref()))
}

type Name = [u8];

/// The procedures, one by one.
#[rustfmt::skip]
impl Client {
    #[track_caller]
    pub fn null(&mut self) {
        self.nfs::<Void>(NFS_PROGRAM::NFSPROC3_NULL, &Void);
    }

    #[track_caller]
    pub fn getattr(&mut self, object: &Fh) -> GETATTR3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_GETATTR, object)
    }

    #[track_caller]
    pub fn setattr(&mut self, object: &Fh, to: sattr3) -> SETATTR3res {
        self.setattr_if(object, to, sattrguard3::None)
    }

    #[track_caller]
    pub fn setattr_if(&mut self, object: &Fh, to: sattr3, guard: sattrguard3) -> SETATTR3res {
        let args = SETATTR3args { object: object.clone(), new_attributes: to, guard };
        self.nfs(NFS_PROGRAM::NFSPROC3_SETATTR, &args)
    }

    #[track_caller]
    pub fn lookup(&mut self, dir: &Fh, name: impl AsRef<Name>) -> LOOKUP3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_LOOKUP, &at(dir, &name))
    }

    #[track_caller]
    pub fn access(&mut self, object: &Fh, access: u32) -> ACCESS3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_ACCESS, &ACCESS3args { object: object.clone(), access })
    }

    #[track_caller]
    pub fn readlink(&mut self, symlink: &Fh) -> READLINK3res<'static> {
        self.nfs(NFS_PROGRAM::NFSPROC3_READLINK, symlink)
    }

    #[track_caller]
    pub fn read(&mut self, file: &Fh, offset: u64, count: u32) -> READ3res<'static> {
        self.nfs(NFS_PROGRAM::NFSPROC3_READ, &READ3args { file: file.clone(), offset, count })
    }

    #[track_caller]
    pub fn write(&mut self, file: &Fh, offset: u64, data: &[u8], stable: stable_how) -> WRITE3res {
        let count = u32::try_from(data.len()).unwrap();
        let data = Opaque::borrowed(data);
        let args = WRITE3args { file: file.clone(), offset, count, stable, data };
        self.nfs(NFS_PROGRAM::NFSPROC3_WRITE, &args)
    }

    #[track_caller]
    pub fn create(&mut self, dir: &Fh, name: impl AsRef<Name>, how: createhow3) -> CREATE3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_CREATE, &CREATE3args { where_: at(dir, &name), how })
    }

    #[track_caller]
    pub fn mkdir(&mut self, dir: &Fh, name: impl AsRef<Name>, attributes: sattr3) -> MKDIR3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_MKDIR, &MKDIR3args { where_: at(dir, &name), attributes })
    }

    #[track_caller]
    pub fn symlink(&mut self, dir: &Fh, name: impl AsRef<Name>, to: impl AsRef<Name>) -> SYMLINK3res {
        let symlink = symlinkdata3 {
            symlink_attributes: sattr3::default(),
            symlink_data: to.as_ref().into(),
        };
        self.nfs(NFS_PROGRAM::NFSPROC3_SYMLINK, &SYMLINK3args { where_: at(dir, &name), symlink })
    }

    #[track_caller]
    pub fn mknod(&mut self, dir: &Fh, name: impl AsRef<Name>, what: mknoddata3) -> MKNOD3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_MKNOD, &MKNOD3args { where_: at(dir, &name), what })
    }

    #[track_caller]
    pub fn remove(&mut self, dir: &Fh, name: impl AsRef<Name>) -> REMOVE3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_REMOVE, &at(dir, &name))
    }

    #[track_caller]
    pub fn rmdir(&mut self, dir: &Fh, name: impl AsRef<Name>) -> RMDIR3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_RMDIR, &at(dir, &name))
    }

    #[track_caller]
    pub fn rename(
        &mut self,
        from: (&Fh, impl AsRef<Name>),
        to: (&Fh, impl AsRef<Name>),
    ) -> RENAME3res {
        let args = RENAME3args { from: at(from.0, &from.1), to: at(to.0, &to.1) };
        self.nfs(NFS_PROGRAM::NFSPROC3_RENAME, &args)
    }

    #[track_caller]
    pub fn link(&mut self, file: &Fh, dir: &Fh, name: impl AsRef<Name>) -> LINK3res {
        let args = LINK3args { file: file.clone(), link: at(dir, &name) };
        self.nfs(NFS_PROGRAM::NFSPROC3_LINK, &args)
    }

    #[track_caller]
    pub fn readdir(
        &mut self,
        dir: &Fh,
        (cookie, cookieverf): (cookie3, cookieverf3),
        count: u32,
    ) -> READDIR3res<'static> {
        let args = READDIR3args { dir: dir.clone(), cookie, cookieverf, count };
        self.nfs(NFS_PROGRAM::NFSPROC3_READDIR, &args)
    }

    #[track_caller]
    pub fn readdirplus(
        &mut self,
        dir: &Fh,
        (cookie, cookieverf): (cookie3, cookieverf3),
        (dircount, maxcount): (u32, u32),
    ) -> READDIRPLUS3res<'static> {
        let args = READDIRPLUS3args { dir: dir.clone(), cookie, cookieverf, dircount, maxcount };
        self.nfs(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &args)
    }

    #[track_caller]
    pub fn fsstat(&mut self, object: &Fh) -> FSSTAT3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_FSSTAT, object)
    }

    #[track_caller]
    pub fn fsinfo(&mut self, object: &Fh) -> FSINFO3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_FSINFO, object)
    }

    #[track_caller]
    pub fn pathconf(&mut self, object: &Fh) -> PATHCONF3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_PATHCONF, object)
    }

    #[track_caller]
    pub fn commit(&mut self, file: &Fh, offset: u64, count: u32) -> COMMIT3res {
        self.nfs(NFS_PROGRAM::NFSPROC3_COMMIT, &COMMIT3args { file: file.clone(), offset, count })
    }

    #[track_caller]
    pub fn mnt(&mut self, path: impl AsRef<Name>) -> mount::mountres3<'static> {
        unpacked(&self.raw(MOUNT, 1, &packed_path(path)).results())
    }

    #[track_caller]
    pub fn dump(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let list: mount::mountlist<'static, 'static> = self.call(MOUNT, 2, &Void);
        list.0.into_iter().map(|b| (b.ml_hostname.0.to_vec(), b.ml_directory.0.to_vec())).collect()
    }

    #[track_caller]
    pub fn umnt(&mut self, path: impl AsRef<Name>) {
        unpacked::<Void>(&self.raw(MOUNT, 3, &packed_path(path)).results());
    }

    #[track_caller]
    pub fn umntall(&mut self) {
        self.call::<Void>(MOUNT, 4, &Void);
    }

    #[track_caller]
    pub fn export(&mut self) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
        let list: mount::exports<'static, 'static> = self.call(MOUNT, 5, &Void);
        let groups = |e: &mount::export_node<'_, '_>| e.ex_groups.0.iter().map(|g| g.0.to_vec()).collect();
        list.0.into_iter().map(|e| (e.ex_dir.0.to_vec(), groups(&e))).collect()
    }
}

/// What tests do so often that it has a name.
impl Client {
    /// The root of an export.
    #[track_caller]
    pub fn mounted(&mut self, path: impl AsRef<[u8]>) -> Fh {
        match self.mnt(path) {
            mount::mountres3::Ok(ok) => fh(&ok.fhandle.0),
            mount::mountres3::Err(why) => panic!("cannot mount: {why}"),
        }
    }

    /// The root of the only export.
    #[track_caller]
    pub fn root(&mut self) -> Fh {
        self.mounted("/")
    }

    /// The attributes of what exists.
    #[track_caller]
    pub fn attrs(&mut self, object: &Fh) -> fattr3 {
        self.getattr(object).ok().obj_attributes
    }

    /// The handle of what exists.
    #[track_caller]
    pub fn find(&mut self, dir: &Fh, name: impl AsRef<[u8]>) -> Fh {
        self.lookup(dir, name).ok().object
    }

    /// Makes a file that nobody had before, with mode 0644.
    #[track_caller]
    pub fn file(&mut self, dir: &Fh, name: impl AsRef<[u8]>) -> Fh {
        given_fh(self.create(dir, name, createhow3::GUARDED(mode(0o644))).ok().obj)
    }

    /// Makes a file with content.
    #[track_caller]
    pub fn file_of(&mut self, dir: &Fh, name: impl AsRef<[u8]>, content: &[u8]) -> Fh {
        let file = self.file(dir, name);
        let written = self.write(&file, 0, content, stable_how::UNSTABLE).ok();
        assert_eq!(usize::try_from(written.count).unwrap(), content.len());
        file
    }

    /// Makes a directory with mode 0755.
    #[track_caller]
    pub fn dir(&mut self, dir: &Fh, name: impl AsRef<[u8]>) -> Fh {
        given_fh(self.mkdir(dir, name, mode(0o755)).ok().obj)
    }

    /// Makes a symbolic link.
    #[track_caller]
    pub fn symlink_to(&mut self, dir: &Fh, name: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Fh {
        given_fh(self.symlink(dir, name, to).ok().obj)
    }

    /// The content of a small file.
    #[track_caller]
    pub fn content(&mut self, file: &Fh) -> Vec<u8> {
        let read = self.read(file, 0, 1 << 16).ok();
        assert!(read.eof);
        read.data.to_vec()
    }

    /// The names in a directory but for `.` and `..`, read in pages of `count` bytes.
    #[track_caller]
    pub fn names(&mut self, dir: &Fh, count: u32) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut place = (0, cookieverf3::default());
        loop {
            let page = self.readdir(dir, place, count).ok();
            place.1 = page.cookieverf;
            for entry in page.reply.entries.0 {
                place.0 = entry.cookie;
                names.push(entry.name.0.to_vec());
            }
            if page.reply.eof {
                names.retain(|name| name != b"." && name != b"..");
                return names;
            }
        }
    }

    /// Does something as another user on the same connection.
    pub fn with<R>(&mut self, cred: Cred, deed: impl FnOnce(&mut Self) -> R) -> R {
        let before = std::mem::replace(&mut self.cred, cred);
        let result = deed(self);
        self.cred = before;
        result
    }
}

/// A user without privileges; without privileges of its own the server treats all users alike.
pub fn someone() -> Cred {
    assert!(privileged(), "there is only one user without privileges");
    Cred::user(1000)
}
