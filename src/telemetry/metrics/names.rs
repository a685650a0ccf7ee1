//! The closed sets of labels: procedures and statuses, as small numbers that a call carries.
//!
//! Whatever a peer sends becomes one of these, so that nobody can make up labels.

/// NFS version 3, by procedure number (RFC 1813 §3.3).
const NFS: [&str; 22] = [
    "NULL",
    "GETATTR",
    "SETATTR",
    "LOOKUP",
    "ACCESS",
    "READLINK",
    "READ",
    "WRITE",
    "CREATE",
    "MKDIR",
    "SYMLINK",
    "MKNOD",
    "REMOVE",
    "RMDIR",
    "RENAME",
    "LINK",
    "READDIR",
    "READDIRPLUS",
    "FSSTAT",
    "FSINFO",
    "PATHCONF",
    "COMMIT",
];

/// MOUNT, by procedure number (RFC 1813 §5.2).
const MOUNT: [&str; 6] = ["NULL", "MNT", "DUMP", "UMNT", "UMNTALL", "EXPORT"];

/// Portmap and rpcbind (RFC 1833): numbers 0 to 4, and 9. Version 2 calls GETADDR GETPORT.
const PORTMAP: [&str; 6] = ["NULL", "SET", "UNSET", "GETADDR", "DUMP", "GETVERSADDR"];

/// How many procedures are told apart, [`Procedure::OTHER`] included.
pub const PROCEDURES: usize = NFS.len() + MOUNT.len() + PORTMAP.len() + 1;

/// How many statuses are, [`Status::OK`] included.
pub const STATUSES: usize = NUMBERED.len() + UNNUMBERED.len();

/// The statuses of NFS and MOUNT that have a number (RFC 1813 §2.6, §5.1.2), without `NFS3ERR_`.
const NUMBERED: [(u32, &str); 29] = [
    (0, "OK"),
    (1, "PERM"),
    (2, "NOENT"),
    (5, "IO"),
    (6, "NXIO"),
    (13, "ACCES"),
    (17, "EXIST"),
    (18, "XDEV"),
    (19, "NODEV"),
    (20, "NOTDIR"),
    (21, "ISDIR"),
    (22, "INVAL"),
    (27, "FBIG"),
    (28, "NOSPC"),
    (30, "ROFS"),
    (31, "MLINK"),
    (63, "NAMETOOLONG"),
    (66, "NOTEMPTY"),
    (69, "DQUOT"),
    (70, "STALE"),
    (71, "REMOTE"),
    (10001, "BADHANDLE"),
    (10002, "NOT_SYNC"),
    (10003, "BAD_COOKIE"),
    (10004, "NOTSUPP"),
    (10005, "TOOSMALL"),
    (10006, "SERVERFAULT"),
    (10007, "BADTYPE"),
    (10008, "JUKEBOX"),
];

/// The rest: other numbers, and why a call reached no program (RFC 5531 §9).
const UNNUMBERED: [&str; 8] = [
    "OTHER",
    "RPC_MISMATCH",
    "AUTH_ERROR",
    "PROG_UNAVAIL",
    "PROG_MISMATCH",
    "PROC_UNAVAIL",
    "GARBAGE_ARGS",
    "SYSTEM_ERR",
];

/// A procedure of a program that is served, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Procedure(u8);

/// How a call ended, as its caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u8);

impl Procedure {
    /// Whatever is not served.
    pub const OTHER: Self = Self(small(PROCEDURES - 1));

    /// READ of NFS.
    pub const READ: Self = Self(6);

    /// WRITE of NFS.
    pub const WRITE: Self = Self(7);

    /// The procedure of these numbers, whatever the version of its program.
    pub fn of(program: u32, procedure: u32) -> Self {
        const MOUNT_AT: usize = NFS.len();
        const PORTMAP_AT: usize = MOUNT_AT + MOUNT.len();
        let number = procedure as usize;
        match (program, number) {
            (100_003, 0..=21) => Self(small(number)),
            (100_005, 0..=5) => Self(small(MOUNT_AT + number)),
            (100_000, 0..=4) => Self(small(PORTMAP_AT + number)),
            (100_000, 9) => Self(small(PORTMAP_AT + 5)),
            _ => Self::OTHER,
        }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PROCEDURES).map(|index| Self(small(index)))
    }

    /// All of NFS.
    pub fn nfs() -> impl Iterator<Item = Self> {
        (0..NFS.len()).map(|index| Self(small(index)))
    }

    /// Its place among all.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The names of its program and of itself.
    pub fn names(self) -> (&'static str, &'static str) {
        let programs = [("nfs", &NFS[..]), ("mount", &MOUNT), ("portmap", &PORTMAP)];
        let mut index = self.index();
        for (program, procedures) in programs {
            match procedures.get(index) {
                Some(name) => return (program, name),
                None => index -= procedures.len(),
            }
        }
        ("other", "OTHER")
    }
}

impl Status {
    /// Success.
    pub const OK: Self = Self(0);
    /// The RPC version is not served.
    pub const RPC_MISMATCH: Self = Self::unnumbered(1);
    /// The credentials are refused.
    pub const AUTH_ERROR: Self = Self::unnumbered(2);
    /// The program is not served.
    pub const PROG_UNAVAIL: Self = Self::unnumbered(3);
    /// The program's version is not.
    pub const PROG_MISMATCH: Self = Self::unnumbered(4);
    /// The version has no such procedure.
    pub const PROC_UNAVAIL: Self = Self::unnumbered(5);
    /// The arguments cannot be decoded.
    pub const GARBAGE_ARGS: Self = Self::unnumbered(6);
    /// The server failed.
    pub const SYSTEM_ERR: Self = Self::unnumbered(7);

    /// The status that results begin with.
    pub fn of(number: u32) -> Self {
        // The commonest failure, NOENT, stands near the front.
        let known = NUMBERED.iter().position(|(known, _)| *known == number);
        known.map_or(Self::unnumbered(0), |index| Self(small(index)))
    }

    /// All but success.
    pub fn failures() -> impl Iterator<Item = Self> {
        (1..STATUSES).map(|index| Self(small(index)))
    }

    /// Its place among all.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let numbered = NUMBERED.get(self.index()).map(|(_, name)| *name);
        numbered.unwrap_or_else(|| UNNUMBERED[self.index() - NUMBERED.len()])
    }

    const fn unnumbered(index: usize) -> Self {
        Self(small(NUMBERED.len() + index))
    }
}

/// The tables have fewer than 256 rows.
#[allow(clippy::cast_possible_truncation)]
const fn small(index: usize) -> u8 {
    index as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_find_their_names() {
        let names = |program, procedure| Procedure::of(program, procedure).names();
        assert_eq!(names(100_003, 0), ("nfs", "NULL"));
        assert_eq!(names(100_003, 21), ("nfs", "COMMIT"));
        assert_eq!(names(100_005, 1), ("mount", "MNT"));
        assert_eq!(names(100_005, 5), ("mount", "EXPORT"));
        assert_eq!(names(100_000, 3), ("portmap", "GETADDR"));
        assert_eq!(names(100_000, 9), ("portmap", "GETVERSADDR"));
        for (program, procedure) in [(100_003, 22), (100_005, 6), (100_000, 5), (7, 0)] {
            assert_eq!(names(program, procedure), ("other", "OTHER"));
        }
        assert_eq!(Procedure::READ.names(), ("nfs", "READ"));
        assert_eq!(Procedure::WRITE.names(), ("nfs", "WRITE"));
    }

    #[test]
    fn statuses_find_their_names() {
        let name = |number| Status::of(number).name();
        assert_eq!([name(0), name(2), name(10008)], ["OK", "NOENT", "JUKEBOX"]);
        assert_eq!([name(3), name(u32::MAX)], ["OTHER", "OTHER"]);
        assert_eq!(Status::SYSTEM_ERR.name(), "SYSTEM_ERR");
        assert_eq!(Status::RPC_MISMATCH.name(), "RPC_MISMATCH");
    }

    #[test]
    fn no_two_have_the_same_names() {
        assert_eq!(
            Procedure::all().map(Procedure::names).collect::<HashSet<_>>().len(),
            PROCEDURES
        );
        assert_eq!(
            Status::failures().map(Status::name).collect::<HashSet<_>>().len(),
            STATUSES - 1
        );
        assert!(Procedure::all().all(|procedure| procedure.index() < PROCEDURES));
        assert!(Status::failures().all(|status| status.index() < STATUSES));
    }
}
