//! Every procedure as a method of the client, and what tests do so often that it has a name.

use nfs3_types::mount;
use nfs3_types::xdr_codec::{Opaque, Void};

use super::client::{Client, Cred, MOUNT, packed_path, unpacked};
use super::wire::*;

fn at<'a>(dir: &Fh, name: &'a (impl AsRef<[u8]> + ?Sized)) -> diropargs3<'a> {
    diropargs3 { dir: dir.clone(), name: name.as_ref().into() }
}

type Name = [u8];

/// The procedures, one by one.
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
    pub fn symlink(
        &mut self,
        dir: &Fh,
        name: impl AsRef<Name>,
        to: impl AsRef<Name>,
    ) -> SYMLINK3res {
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
        let entry = |e: mount::export_node<'_, '_>| {
            (e.ex_dir.0.to_vec(), e.ex_groups.0.iter().map(|group| group.0.to_vec()).collect())
        };
        list.0.into_iter().map(entry).collect()
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
