//! The procedures (RFC 1833 §2.2.1, §3.1): for each its number, the versions that have it, its
//! name, and the function that carries it out.

use std::ops::RangeInclusive;

use super::{Portmap, pmap, rpcb};
use crate::rpc::program::{Call, Outcome, ProcedureNames};
use crate::xdr::{Error, Writer};

/// A procedure. A retransmission runs again: no procedure changes anything.
struct Procedure {
    number: u32,
    versions: RangeInclusive<u32>,
    name: &'static str,
    run: Run,
}

/// Decodes the arguments, carries out the call, and writes the results.
type Run = fn(&Portmap, &Call<'_>, &mut Writer<'_>) -> Result<(), Error>;

const PROCEDURES: [Procedure; 10] = [
    row(0, 2..=4, "NULL", |_, _, _| Ok(())),
    row(1, 2..=2, "SET", pmap::refuse),
    row(1, 3..=4, "SET", rpcb::refuse),
    row(2, 2..=2, "UNSET", pmap::refuse),
    row(2, 3..=4, "UNSET", rpcb::refuse),
    row(3, 2..=2, "GETPORT", pmap::get_port),
    row(3, 3..=4, "GETADDR", rpcb::get_addr),
    row(4, 2..=2, "DUMP", pmap::dump),
    row(4, 3..=4, "DUMP", rpcb::dump),
    row(9, 4..=4, "GETVERSADDR", rpcb::get_version_addr),
];

const fn row(
    number: u32,
    versions: RangeInclusive<u32>,
    name: &'static str,
    run: Run,
) -> Procedure {
    Procedure { number, versions, name, run }
}

/// Returns the names of a version's procedures.
pub fn names(version: u32) -> ProcedureNames {
    let present = PROCEDURES.iter().filter(|procedure| procedure.versions.contains(&version));
    let procedures = present.map(|procedure| (procedure.number, procedure.name)).collect();
    ProcedureNames { program: "portmap", procedures }
}

/// Carries out a call.
pub fn run(portmap: &Portmap, call: &Call<'_>, out: &mut Writer<'_>) -> Outcome {
    let is_called = |procedure: &&Procedure| {
        procedure.number == call.procedure && procedure.versions.contains(&call.version)
    };
    match PROCEDURES.iter().find(is_called) {
        Some(procedure) => match (procedure.run)(portmap, call, out) {
            Ok(()) => Outcome::SUCCESS,
            Err(error) => error.into(),
        },
        None => Outcome::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_their_own_procedures() {
        let names = |version| names(version).procedures;
        let two = [(0, "NULL"), (1, "SET"), (2, "UNSET"), (3, "GETPORT"), (4, "DUMP")];
        let three = [(0, "NULL"), (1, "SET"), (2, "UNSET"), (3, "GETADDR"), (4, "DUMP")];
        assert_eq!(names(2), two);
        assert_eq!(names(3), three);
        assert_eq!(names(4), [&three[..], &[(9, "GETVERSADDR")]].concat());
    }
}
