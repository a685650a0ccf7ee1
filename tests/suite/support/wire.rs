//! Short names for the wire types of a crate that is not ours, and what tests ask of answers.

pub use nfs3_types::nfs3::nfsstat3::*;
pub use nfs3_types::nfs3::*;

use nfs3_types::xdr_codec::{Opaque, Pack};

/// A file handle, as bytes that mean nothing to a client.
pub type Fh = nfs_fh3;

/// What tests ask of an answer.
pub trait Answer<T, E> {
    /// The results of a call that succeeds.
    fn ok(self) -> T;
    /// What comes with the failure that is expected.
    fn fails(self, with: nfsstat3) -> E;
    /// What comes with any failure.
    fn failed(self) -> E;
    /// The status.
    fn status(&self) -> nfsstat3;
}

impl<T: std::fmt::Debug, E: std::fmt::Debug> Answer<T, E> for Nfs3Result<T, E> {
    #[track_caller]
    fn ok(self) -> T {
        match self {
            Self::Ok(results) => results,
            Self::Err((status, _)) => panic!("{status}"),
        }
    }

    #[track_caller]
    fn fails(self, with: nfsstat3) -> E {
        match self {
            Self::Ok(results) => panic!("expected {with}, got {results:?}"),
            Self::Err((status, body)) => {
                assert_eq!(status, with);
                body
            }
        }
    }

    #[track_caller]
    fn failed(self) -> E {
        match self {
            Self::Ok(results) => panic!("it succeeded: {results:?}"),
            Self::Err((_, body)) => body,
        }
    }

    fn status(&self) -> nfsstat3 {
        match self {
            Self::Ok(_) => NFS3_OK,
            Self::Err((status, _)) => *status,
        }
    }
}

/// Fails unless the status is one of those that the standard leaves to the server.
#[track_caller]
pub fn one_of(status: nfsstat3, allowed: &[nfsstat3]) {
    assert!(allowed.contains(&status), "{status} is not one of {allowed:?}");
}

/// A handle of these bytes.
pub fn fh(bytes: &[u8]) -> Fh {
    nfs_fh3 { data: Opaque::owned(bytes.to_vec()) }
}

/// A value as it is on the wire.
pub fn packed(value: &impl Pack) -> Vec<u8> {
    let mut out = Vec::new();
    value.pack(&mut out).unwrap();
    out
}

/// Attributes that set a mode and nothing else.
pub fn mode(mode: u32) -> sattr3 {
    sattr3 { mode: set_mode3::Some(mode), ..sattr3::default() }
}

/// Attributes that set a size and nothing else.
pub fn size(size: u64) -> sattr3 {
    sattr3 { size: set_size3::Some(size), ..sattr3::default() }
}

/// Attributes that set an owner and nothing else.
pub fn owner(uid: u32) -> sattr3 {
    sattr3 { uid: set_uid3::Some(uid), ..sattr3::default() }
}

/// Attributes that set a group and nothing else.
pub fn group(gid: u32) -> sattr3 {
    sattr3 { gid: set_gid3::Some(gid), ..sattr3::default() }
}

/// The arguments of WRITE.
pub fn write_args(file: &Fh, offset: u64, stable: stable_how, data: &[u8]) -> Vec<u8> {
    packed(&WRITE3args {
        file: file.clone(),
        offset,
        count: u32::try_from(data.len()).unwrap(),
        stable,
        data: Opaque::borrowed(data),
    })
}

/// The arguments of CREATE for a file that must not be there.
pub fn create_args(dir: &Fh, name: &str) -> Vec<u8> {
    let place = diropargs3 { dir: dir.clone(), name: name.as_bytes().into() };
    packed(&CREATE3args { where_: place, how: createhow3::GUARDED(mode(0o644)) })
}

/// Fails unless both are the same attributes.
#[track_caller]
pub fn same_attrs(left: &fattr3, right: &fattr3) {
    assert_eq!(format!("{left:?}"), format!("{right:?}"));
}

/// Fails unless the weak cache consistency data of a change says what was before and what is
/// after it: a client that is told otherwise throws its cache away, or worse, keeps it.
#[track_caller]
pub fn exact_wcc(wcc: &wcc_data, before: &fattr3, after: &fattr3) {
    let pre_op_attr::Some(pre) = wcc.before else { panic!("no attributes from before") };
    let post_op_attr::Some(post) = &wcc.after else { panic!("no attributes from after") };
    assert_eq!(
        (pre.size, pre.mtime, pre.ctime),
        (before.size, before.mtime, before.ctime),
        "from before"
    );
    same_attrs(post, after);
}

/// The attributes that came with an answer.
#[track_caller]
pub fn given(attrs: &post_op_attr) -> &fattr3 {
    match attrs {
        post_op_attr::Some(attrs) => attrs,
        post_op_attr::None => panic!("no attributes"),
    }
}

/// The handle that came with an answer.
#[track_caller]
pub fn given_fh(handle: post_op_fh3) -> Fh {
    match handle {
        post_op_fh3::Some(handle) => handle,
        post_op_fh3::None => panic!("no handle"),
    }
}

/// Names that no entry can have, and what a server may answer when it is to make one.
pub fn impossible_names() -> [(Vec<u8>, &'static [nfsstat3]); 6] {
    const BAD: &[nfsstat3] = &[NFS3ERR_ACCES, NFS3ERR_INVAL];
    const LONG: &[nfsstat3] = &[NFS3ERR_NAMETOOLONG];
    [
        (b"".to_vec(), BAD),
        (b"a/b".to_vec(), BAD),
        (b"/".to_vec(), BAD),
        (b"a\0b".to_vec(), BAD),
        (vec![b'n'; 256], LONG),
        (vec![b'n'; 1000], LONG),
    ]
}
