//! The procedures (RFC 1813 §5.2): for each its name, the versions that have it, the size of its
//! reply, and the function that carries it out.

use super::types::{MountReply, PATH_MAX, any_path};
use super::{MountContext, SourceAddress, list, mnt};
use crate::rpc::program::{CallClass, Outcome, ProcedureNames};
use crate::xdr::{Error, Writer};

/// Assumed size of a DUMP or EXPORT reply, in bytes; most lists are shorter.
const LIST_SIZE: usize = 64 * 1024;

/// A procedure. A retransmission runs again: every procedure is idempotent.
struct Procedure {
    name: &'static str,
    /// The lowest version that has the procedure; all higher ones have it.
    since: u32,
    /// The assumed size of the reply, in bytes, or 0 if it is small.
    reply_size: usize,
    run: Run,
}

/// Decodes the arguments, carries out the call, and writes the results.
type Run = fn(&MountContext<'_>, &mut Writer<'_>) -> Result<Outcome, Error>;

/// The procedures by their numbers.
const PROCEDURES: [Procedure; 6] = [
    Procedure { name: "NULL", since: 1, reply_size: 0, run: |_, _| Ok(Outcome::SUCCESS) },
    Procedure { name: "MNT", since: 3, reply_size: 0, run: mnt },
    Procedure { name: "DUMP", since: 1, reply_size: LIST_SIZE, run: dump },
    Procedure { name: "UMNT", since: 1, reply_size: 0, run: umnt },
    Procedure { name: "UMNTALL", since: 1, reply_size: 0, run: umnt_all },
    Procedure { name: "EXPORT", since: 1, reply_size: LIST_SIZE, run: export },
];

fn procedure(version: u32, number: u32) -> Option<&'static Procedure> {
    PROCEDURES.get(number as usize).filter(|procedure| procedure.since <= version)
}

/// Returns the names of a version's procedures.
pub fn names(version: u32) -> ProcedureNames {
    let present = (0..).zip(&PROCEDURES).filter(|(_, procedure)| procedure.since <= version);
    let procedures = present.map(|(number, procedure)| (number, procedure.name)).collect();
    ProcedureNames { program: "mount", procedures }
}

/// Classifies a call ([`Program::classify`](crate::rpc::program::Program::classify)).
pub fn classify(version: u32, number: u32) -> CallClass {
    let reply_size = procedure(version, number).map_or(0, |procedure| procedure.reply_size);
    CallClass { reply_size, ..CallClass::default() }
}

/// Carries out the call of `cx`.
pub fn run(cx: &MountContext<'_>, out: &mut Writer<'_>) -> Outcome {
    match procedure(cx.rpc.version, cx.rpc.procedure) {
        Some(procedure) => (procedure.run)(cx, out).unwrap_or_else(Outcome::from),
        None => Outcome::Unavailable,
    }
}

fn mnt(cx: &MountContext<'_>, out: &mut Writer<'_>) -> Result<Outcome, Error> {
    let mounted = mnt::mnt(cx, any_path(&mut cx.args())?);
    Ok(mounted.map_or(Outcome::Later, |mounted| MountReply(mounted).write(out)))
}

fn dump(cx: &MountContext<'_>, out: &mut Writer<'_>) -> Result<Outcome, Error> {
    list::dump(&cx.mount.mounts(), cx.client(), out);
    Ok(Outcome::SUCCESS)
}

fn umnt(cx: &MountContext<'_>, _out: &mut Writer<'_>) -> Result<Outcome, Error> {
    let path = cx.args().opaque(PATH_MAX)?;
    if cx.source == SourceAddress::Verified {
        cx.mount.mounts().remove(cx.client(), path);
    }
    Ok(Outcome::SUCCESS)
}

fn umnt_all(cx: &MountContext<'_>, _out: &mut Writer<'_>) -> Result<Outcome, Error> {
    if cx.source == SourceAddress::Verified {
        cx.mount.mounts().remove_all(cx.client());
    }
    Ok(Outcome::SUCCESS)
}

fn export(cx: &MountContext<'_>, out: &mut Writer<'_>) -> Result<Outcome, Error> {
    list::export(&cx.mount.exports.load(), cx.client(), out);
    Ok(Outcome::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnt_is_new_in_version_3() {
        let has_mnt = |version| names(version).procedures.contains(&(1, "MNT"));
        assert_eq!([1, 2, 3].map(has_mnt), [false, false, true]);
        assert_eq!(names(3).procedures.len(), PROCEDURES.len());
    }

    #[test]
    fn lists_are_large() {
        let large = (0..8).filter(|number| classify(3, *number).reply_size > 0);
        assert_eq!(large.collect::<Vec<_>>(), [2, 5]);
    }
}
