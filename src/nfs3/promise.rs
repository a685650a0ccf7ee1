//! Answers that wait until what they promise is on the disk.
//!
//! The procedure has done its work then, and its thread goes on to other calls; whoever flushes
//! writes the answer afterwards.

use std::sync::Arc;

use nfsserve::nfs::nfsstat3;

use super::call::Call;
use super::errors::status;
use super::status::Reply;
use crate::fs::flush::Due;
use crate::rpc::Outcome;
use crate::rpc::pending::{Pending, Ready};
use crate::xdr::{Encode, Writer};

/// What a change answers when it is on the disk, and what if it cannot be got there.
pub struct Promise<R, F> {
    /// The results of success. What must be as it is after the flush is looked up as they are
    /// written.
    pub result: R,
    /// What a failure tells besides its status.
    pub otherwise: F,
    /// What has to be on the disk; `None`: nothing more.
    pub due: Option<Due>,
}

/// An answer with its status.
struct Answer<T>(nfsstat3, T);

impl<T: Encode> Encode for Answer<T> {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.0 as u32);
        self.1.encode(w);
    }
}

/// Writes what was promised, now or when it is on the disk.
pub fn keep<R, F>(cx: &Call<'_>, out: &mut Writer<'_>, promise: Promise<R, F>) -> Outcome
where
    R: Encode + Send + 'static,
    F: Encode + Send + 'static,
{
    let Promise { result, otherwise, due } = promise;
    let Some(due) = due else {
        Answer(nfsstat3::NFS3_OK, result).encode(out);
        return Outcome::Done;
    };
    let fs = Arc::clone(&cx.nfs.fs);
    let (peer, procedure) = (cx.rpc.peer, cx.rpc.procedure);
    Outcome::Pending(Pending::new(move |ready: Ready| {
        let then = Box::new(move |flushed| match flushed {
            Ok(()) => ready.write(&Answer(nfsstat3::NFS3_OK, result)),
            Err(errno) => {
                tracing::debug!(%peer, proc = procedure, %errno, "cannot flush a change");
                ready.write(&Answer(status(errno), otherwise));
            }
        });
        fs.settle(due, then);
    }))
}

/// A promise whose failure says the same as its success.
pub fn alike<T: Copy, F>(result: T, due: Option<Due>) -> Reply<Promise<T, T>, F> {
    Ok(Promise { result, otherwise: result, due })
}
