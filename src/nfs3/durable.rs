//! Replies that are sent once their changes are on stable storage.
//!
//! The procedure has made its changes, and its thread continues with other calls. A flusher thread
//! writes the reply after the flush.

use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::context::CallContext;
use super::errors::status;
use super::status::Reply;
use crate::fs::flush::Due;
use crate::rpc::Outcome;
use crate::rpc::pending::{Pending, Ready};
use crate::xdr::{Encode, Writer};

/// The reply to a change, for both outcomes of the flush.
pub struct Durable<R, F> {
    /// The results on success. Values that must be read after the flush are read by their `Encode`.
    pub result: R,
    /// The results after the status, if the flush fails.
    pub failure_body: F,
    /// What to flush first, or `None` to reply at once.
    pub due: Option<Due>,
}

/// A status, and the results after it.
struct WithStatus<T>(nfsstat3, T);

impl<T: Encode> Encode for WithStatus<T> {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.0 as u32);
        self.1.encode(w);
    }
}

/// Writes the reply: at once if nothing is due, otherwise after the flush.
pub fn send<R, F>(cx: &CallContext<'_>, out: &mut Writer<'_>, reply: Durable<R, F>) -> Outcome
where
    R: Encode + Send + 'static,
    F: Encode + Send + 'static,
{
    let Durable { result, failure_body, due } = reply;
    let Some(due) = due else {
        WithStatus(nfsstat3::NFS3_OK, result).encode(out);
        return Outcome::Done;
    };
    let fs = Arc::clone(&cx.nfs.fs);
    let (peer, procedure) = (cx.rpc.peer, cx.rpc.procedure);
    Outcome::Pending(Pending::new(move |ready: Ready| {
        let then = Box::new(move |flushed| match flushed {
            Ok(()) => ready.write(&WithStatus(nfsstat3::NFS3_OK, result)),
            Err(errno) => {
                tracing::debug!(%peer, proc = procedure, %errno, "cannot flush a change");
                ready.write(&WithStatus(status(errno), failure_body));
            }
        });
        fs.make_durable(due, then);
    }))
}

/// A reply with the same results for success and failure.
pub fn same_body<T: Copy, F>(result: T, due: Option<Due>) -> Reply<Durable<T, T>, F> {
    Ok(Durable { result, failure_body: result, due })
}
