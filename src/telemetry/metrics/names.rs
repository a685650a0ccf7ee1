//! The closed sets of labels: procedures and statuses, as small numbers that a call carries.
//!
//! The procedures come from the tables of the programs. Every other number that a peer sends has
//! the label "other", so peers cannot add labels.

/// The number of statuses, [`StatusLabel::OK`] included.
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

/// The procedures that are told apart: the pairs of labels, the program and the procedure.
#[derive(Clone, Debug)]
pub struct ProcedureLabels(Box<[(&'static str, &'static str)]>);

/// The index of a pair in [`ProcedureLabels`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcedureLabel(u16);

/// The status of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLabel(u8);

impl ProcedureLabels {
    /// Creates the set of the procedures with these labels, and one procedure for all other calls.
    /// A pair that occurs again is the same procedure.
    pub fn new(labels: impl IntoIterator<Item = (&'static str, &'static str)>) -> Self {
        let mut all = vec![("other", "OTHER")];
        for pair in labels {
            if !all.contains(&pair) {
                all.push(pair);
            }
        }
        assert!(all.len() <= usize::from(u16::MAX), "tables of programs are small");
        Self(all.into())
    }

    /// Returns the number of procedures.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the procedure with these labels, or [`ProcedureLabel::OTHER`].
    pub fn find(&self, program: &str, procedure: &str) -> ProcedureLabel {
        let found = self.0.iter().position(|pair| *pair == (program, procedure));
        found.map_or(ProcedureLabel::OTHER, ProcedureLabel::at)
    }

    /// Iterates over the procedures and their labels.
    pub fn iter(&self) -> impl Iterator<Item = (ProcedureLabel, (&'static str, &'static str))> {
        self.0.iter().enumerate().map(|(index, pair)| (ProcedureLabel::at(index), *pair))
    }
}

impl ProcedureLabel {
    /// A procedure that is not served.
    pub const OTHER: Self = Self(0);

    /// Returns the index among all procedures.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    #[allow(clippy::cast_possible_truncation)] // ProcedureLabels::new checks their number
    const fn at(index: usize) -> Self {
        Self(index as u16)
    }
}

impl StatusLabel {
    /// Success.
    pub const OK: Self = Self(0);
    /// The RPC version is not served.
    pub const RPC_MISMATCH: Self = Self::unnumbered(1);
    /// The credentials are refused.
    pub const AUTH_ERROR: Self = Self::unnumbered(2);
    /// The program is not served.
    pub const PROG_UNAVAIL: Self = Self::unnumbered(3);
    /// The version of the program is not served.
    pub const PROG_MISMATCH: Self = Self::unnumbered(4);
    /// The version has no such procedure.
    pub const PROC_UNAVAIL: Self = Self::unnumbered(5);
    /// The arguments cannot be decoded.
    pub const GARBAGE_ARGS: Self = Self::unnumbered(6);
    /// The server failed.
    pub const SYSTEM_ERR: Self = Self::unnumbered(7);

    /// Returns the label of the status in results.
    pub fn of(number: u32) -> Self {
        // The commonest failure, NOENT, stands near the front.
        let known = NUMBERED.iter().position(|(known, _)| *known == number);
        known.map_or(Self::unnumbered(0), |index| Self(small(index)))
    }

    /// Iterates over all statuses but success.
    pub fn failures() -> impl Iterator<Item = Self> {
        (1..STATUSES).map(|index| Self(small(index)))
    }

    /// Returns the index among all statuses.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the name.
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
    fn equal_labels_are_one_procedure() {
        let labels = ProcedureLabels::new([("nfs", "NULL"), ("nfs", "READ"), ("nfs", "NULL")]);
        assert_eq!(labels.count(), 3);
        let found = |program, procedure| labels.find(program, procedure).index();
        assert_eq!([found("nfs", "NULL"), found("nfs", "READ")], [1, 2]);
        assert_eq!(labels.find("nfs", "WRITE"), ProcedureLabel::OTHER);
        assert_eq!(labels.find("mount", "NULL"), ProcedureLabel::OTHER);
        let names: Vec<_> = labels.iter().map(|(_, pair)| pair).collect();
        assert_eq!(names, [("other", "OTHER"), ("nfs", "NULL"), ("nfs", "READ")]);
    }

    #[test]
    fn statuses_find_their_names() {
        let name = |number| StatusLabel::of(number).name();
        assert_eq!([name(0), name(2), name(10008)], ["OK", "NOENT", "JUKEBOX"]);
        assert_eq!([name(3), name(u32::MAX)], ["OTHER", "OTHER"]);
        assert_eq!(StatusLabel::SYSTEM_ERR.name(), "SYSTEM_ERR");
        assert_eq!(StatusLabel::RPC_MISMATCH.name(), "RPC_MISMATCH");
    }

    #[test]
    fn no_two_have_the_same_names() {
        assert_eq!(
            StatusLabel::failures().map(StatusLabel::name).collect::<HashSet<_>>().len(),
            STATUSES - 1
        );
        assert!(StatusLabel::failures().all(|status| status.index() < STATUSES));
    }
}
