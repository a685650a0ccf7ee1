//! The procedures (RFC 1813 §3.3): for each its name, how it is treated before it runs, and the
//! function that carries it out.

use super::reply::{reply, reply_durable, reply_with};
use super::{attr, create, data, info, lookup, readdir, remove, rename};
use crate::fs::handle;
use crate::nfs::context::CallContext;
use crate::nfs::core::{Core, LaneKind, TRANSFER_MAX};
use crate::rpc::program::Retransmission::{self, Replayed, Runs};
use crate::rpc::program::{CallClass, Outcome, ProcedureNames};
use crate::xdr::{Error, Reader, Writer};
use LaneKind::{Changes, Listings};

/// A procedure.
struct Procedure {
    name: &'static str,
    /// A retransmitted WRITE has the same effect, so it runs again.
    retransmission: Retransmission,
    /// The lane of the file or directory with whose handle the arguments begin.
    lane: Option<LaneKind>,
    /// For a procedure with large replies: the words of the arguments between the handle and the
    /// number of bytes that the call requests.
    requested_after: Option<u8>,
    run: Run,
}

/// Decodes the arguments, carries out the call, and writes the results.
type Run = fn(&CallContext<'_>, &mut Writer<'_>) -> Outcome;

/// The procedures by their numbers.
const PROCEDURES: [Procedure; 22] = [
    row("NULL", Runs, None, |_, _| Outcome::SUCCESS),
    row("GETATTR", Runs, None, |cx, out| reply(cx, out, attr::getattr)),
    row("SETATTR", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, attr::setattr)),
    row("LOOKUP", Runs, None, |cx, out| reply(cx, out, lookup::lookup)),
    row("ACCESS", Runs, None, |cx, out| reply(cx, out, attr::access)),
    row("READLINK", Runs, None, |cx, out| reply(cx, out, lookup::readlink)),
    // Behind the handle: offset.
    row("READ", Runs, None, |cx, out| reply_with(cx, out, data::read)).requests_after(2),
    row("WRITE", Runs, Some(Changes), |cx, out| reply_durable(cx, out, data::write)),
    row("CREATE", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, create::create)),
    row("MKDIR", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, create::mkdir)),
    row("SYMLINK", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, create::symlink)),
    row("MKNOD", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, create::mknod)),
    row("REMOVE", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, remove::remove)),
    row("RMDIR", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, remove::rmdir)),
    row("RENAME", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, rename::rename)),
    row("LINK", Replayed, Some(Changes), |cx, out| reply_durable(cx, out, rename::link)),
    // Behind the handle: cookie, cookie verifier.
    row("READDIR", Runs, Some(Listings), |cx, out| reply_with(cx, out, readdir::readdir))
        .requests_after(4),
    // Behind the handle: cookie, cookie verifier, size of the names.
    row("READDIRPLUS", Runs, Some(Listings), |cx, out| reply_with(cx, out, readdir::readdirplus))
        .requests_after(5),
    row("FSSTAT", Runs, None, |cx, out| reply(cx, out, info::fsstat)),
    row("FSINFO", Runs, None, |cx, out| reply(cx, out, info::fsinfo)),
    row("PATHCONF", Runs, None, |cx, out| reply(cx, out, info::pathconf)),
    row("COMMIT", Runs, None, |cx, out| reply_durable(cx, out, data::commit)),
];

const fn row(
    name: &'static str,
    retransmission: Retransmission,
    lane: Option<LaneKind>,
    run: Run,
) -> Procedure {
    Procedure { name, retransmission, lane, requested_after: None, run }
}

impl Procedure {
    const fn requests_after(self, words: u8) -> Self {
        Self { requested_after: Some(words), ..self }
    }

    fn classify(&self, core: &Core, mut args: Reader<'_>) -> CallClass {
        let retransmission = self.retransmission;
        let class = CallClass { retransmission, ..CallClass::default() };
        if self.lane.is_none() && self.requested_after.is_none() {
            return class;
        }
        let Ok(handle) = args.opaque(handle::MAX) else { return class };
        let lane = self.lane.map(|kind| core.lane(kind, handle));
        let requested = self.requested_after.map_or(Ok(0), |words| requested(args, words));
        let reply_size = requested.map_or(0, |bytes| bytes.min(TRANSFER_MAX) as usize);
        CallClass { lane, reply_size, ..class }
    }
}

/// Decodes the number of bytes that a call requests, which stands after so many words.
fn requested(mut args: Reader<'_>, words: u8) -> Result<u32, Error> {
    args.skip(words)?;
    args.u32()
}

fn procedure(number: u32) -> Option<&'static Procedure> {
    PROCEDURES.get(number as usize)
}

/// Returns the names of the procedures.
pub fn names() -> ProcedureNames {
    let procedures = (0..).zip(PROCEDURES.iter().map(|procedure| procedure.name)).collect();
    ProcedureNames { program: "nfs", procedures }
}

/// Classifies a call ([`Program::classify`](crate::rpc::program::Program::classify)).
pub fn classify(core: &Core, number: u32, args: Reader<'_>) -> CallClass {
    procedure(number).map_or_else(CallClass::default, |procedure| procedure.classify(core, args))
}

/// Carries out the call of `cx`.
pub fn run(cx: &CallContext<'_>, out: &mut Writer<'_>) -> Outcome {
    match procedure(cx.rpc.procedure) {
        Some(procedure) => (procedure.run)(cx, out),
        None => Outcome::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Fs;
    use crate::fs::handle::{KEY_LEN, Key};
    use std::sync::Arc;
    use tempfile::TempDir;

    /// A handle, and words from 100 on.
    fn args() -> Vec<u8> {
        let mut args = Vec::new();
        let mut w = Writer::new(&mut args);
        w.opaque(b"a handle");
        (100..106).for_each(|word| w.u32(word));
        args
    }

    fn core() -> (Core, TempDir) {
        let dir = TempDir::new().unwrap();
        let fs = Fs::new(Key::new([7; KEY_LEN]), 64, dir.path()).unwrap();
        (Core::new(Arc::new(fs), Arc::default()), dir)
    }

    #[test]
    fn procedures_stand_at_their_numbers() {
        let names = names().procedures;
        for expected in [(0, "NULL"), (6, "READ"), (12, "REMOVE"), (16, "READDIR"), (21, "COMMIT")]
        {
            assert!(names.contains(&expected), "{expected:?}");
        }
    }

    #[test]
    fn calls_are_classified() {
        let (core, _dir) = core();
        for number in 0..30 {
            let lane = match number {
                2 | 7..=15 => Some(core.lane(Changes, b"a handle")),
                16 | 17 => Some(core.lane(Listings, b"a handle")),
                _ => None,
            };
            let reply_size = match number {
                6 => 102,
                16 => 104,
                17 => 105,
                _ => 0,
            };
            let retransmission = if matches!(number, 2 | 8..=15) { Replayed } else { Runs };
            let class = classify(&core, number, Reader::new(&args()));
            assert_eq!(class, CallClass { retransmission, reply_size, lane }, "{number}");
        }
    }

    #[test]
    fn a_reply_is_at_most_the_largest_transfer() {
        let (core, _dir) = core();
        let mut args = args();
        args[20..24].fill(0xff);
        let class = classify(&core, 6, Reader::new(&args));
        assert_eq!(class.reply_size, TRANSFER_MAX as usize);
    }

    #[test]
    fn truncated_arguments_have_no_size_and_no_lane() {
        let (core, _dir) = core();
        let short = &args()[..11];
        for number in 0..22 {
            let class = classify(&core, number, Reader::new(short));
            assert_eq!((class.reply_size, class.lane), (0, None), "{number}");
        }
    }
}
