//! From the result of a procedure to its reply.

use nfsserve::nfs::nfsstat3;

use super::types::Wcc;
use crate::errno::Errno;
use crate::fs;
use crate::fs::guard::Guard;
use crate::nfs::context::{CallContext, Object};
use crate::nfs::durability::{self, Durable};
use crate::nfs::failure::Failure;
use crate::nfs::status::status;
use crate::rpc::pending::Ready;
use crate::rpc::program::Outcome;
use crate::sched::Patience;
use crate::xdr::{Decode, Encode, Error, Reader, Writer};

/// A failure, and the results that are sent with its status (`resfail` in RFC 1813).
#[derive(Clone, Copy, Debug)]
pub struct Fail<F> {
    /// The cause.
    pub failure: Failure,
    /// The results after the status: attributes, as far as they are known.
    pub body: F,
}

/// The result of a procedure.
pub type Reply<R, F> = Result<R, Fail<F>>;

/// A status, and the results after it.
struct WithStatus<T>(nfsstat3, T);

impl<T: Encode> WithStatus<T> {
    /// Writes both.
    fn write(&self, out: &mut Writer<'_>) -> Outcome {
        self.encode(out);
        Outcome::Done { status: self.0 as u32 }
    }

    /// Writes both as the results of a call that waited for them.
    fn write_to(&self, ready: Ready) {
        ready.write(self.0 as u32, self);
    }
}

impl<F: Default> From<Failure> for Fail<F> {
    fn from(failure: Failure) -> Self {
        Self { failure, body: F::default() }
    }
}

impl<F: Default> From<Errno> for Fail<F> {
    fn from(errno: Errno) -> Self {
        Failure::from(errno).into()
    }
}

impl<F: Default> From<fs::error::Error> for Fail<F> {
    fn from(error: fs::error::Error) -> Self {
        Failure::from(error).into()
    }
}

impl Failure {
    /// Adds the results that are sent with the status.
    pub const fn with<F>(self, body: F) -> Fail<F> {
        Fail { failure: self, body }
    }
}

impl<T: Encode> Encode for WithStatus<T> {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.0 as u32);
        self.1.encode(w);
    }
}

/// Decodes the arguments, runs the procedure, and encodes its results.
pub fn reply<'a, A: Decode<'a>, R: Encode, F: Encode + Default>(
    cx: &CallContext<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(&CallContext<'a>, A) -> Reply<R, F>,
) -> Outcome {
    reply_with(cx, out, |cx, args, w| {
        let result = procedure(cx, args)?;
        w.u32(nfsstat3::NFS3_OK as u32);
        result.encode(w);
        Ok(())
    })
}

/// As [`reply`], for a procedure whose reply may have to wait until its changes are on stable
/// storage.
pub fn reply_durable<'a, A: Decode<'a>, R, F>(
    cx: &CallContext<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(&CallContext<'a>, A) -> Reply<Durable<R, F>, F>,
) -> Outcome
where
    R: Encode + Send + 'static,
    F: Encode + Default + Send + 'static,
{
    let mut durable = None;
    let outcome = reply_with(cx, out, |cx, args, _| {
        durable = Some(procedure(cx, args)?);
        Ok(())
    });
    match durable {
        Some(reply) => send(cx, out, reply),
        None => outcome,
    }
}

/// Writes the reply: at once if nothing is due, otherwise after the flush.
fn send<R, F>(cx: &CallContext<'_>, out: &mut Writer<'_>, reply: Durable<R, F>) -> Outcome
where
    R: Encode + Send + 'static,
    F: Encode + Send + 'static,
{
    let Durable { result, failure_body, due } = reply;
    let Some(due) = due else {
        return WithStatus(nfsstat3::NFS3_OK, result).write(out);
    };
    let (peer, procedure) = (cx.rpc.peer, cx.rpc.procedure);
    durability::after_flush(cx.core, due, move |flushed, ready| match flushed {
        Ok(()) => WithStatus(nfsstat3::NFS3_OK, result).write_to(ready),
        Err(errno) => {
            tracing::debug!(%peer, proc = procedure, %errno, "cannot flush a change");
            WithStatus(status(errno), failure_body).write_to(ready);
        }
    })
}

/// As [`reply`], for a procedure that encodes its own successful results, including the status.
pub fn reply_with<'a, A: Decode<'a>, F: Encode + Default>(
    cx: &CallContext<'a>,
    out: &mut Writer<'_>,
    procedure: impl FnOnce(&CallContext<'a>, A, &mut Writer<'_>) -> Reply<(), F>,
) -> Outcome {
    let args = match decode(cx.rpc.args) {
        Ok(args) => args,
        Err(error) => return error.into(),
    };
    let start = out.mark();
    let Err(Fail { failure, body }) = procedure(cx, args, out) else {
        return Outcome::SUCCESS;
    };
    out.rewind(start);
    let status = match failure {
        Failure::WouldBlock if cx.patience() == Patience::None => return Outcome::Later,
        Failure::Full => match cx.wait_for_room() {
            Some(wait) => return wait,
            None => nfsstat3::NFS3ERR_NOSPC,
        },
        failure => failure.into(),
    };
    tracing::debug!(peer = %cx.rpc.peer, proc = cx.rpc.procedure, error = ?status, "call failed");
    WithStatus(status, body).write(out)
}

fn decode<'a, A: Decode<'a>>(mut args: Reader<'a>) -> Result<A, Error> {
    A::decode(&mut args)
}

/// Runs `work`, which changes a directory, under the directory's lock. Returns its result with weak
/// cache consistency data.
pub fn change_directory<T>(
    cx: &CallContext<'_>,
    dir: &Object<'_>,
    work: impl FnOnce(&Guard<'_>) -> Result<T, Failure>,
) -> Result<(T, Wcc), Fail<Wcc>> {
    let (result, transition) = cx.change_directory(dir, work)?;
    let wcc = Wcc::of(dir, transition);
    Ok((result.map_err(|failure| failure.with(wcc))?, wcc))
}
