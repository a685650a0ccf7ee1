//! The server's process: no umask, many descriptors, few privileges; and how often a thread sleeps.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::errno::Result;

/// The capabilities for serving files as their callers, and for binding port 111 (capabilities(7)).
const NEEDED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Prepares the process. To be called before any other thread is started. Returns the number of
/// descriptors that it may have.
///
/// # Errors
/// The privileges cannot be lowered.
pub fn prepare() -> Result<usize> {
    umask(Mode::empty()); // clients apply their own
    // Now, because rustix looks up the page size once, on kernels before 6.4 in /proc/self/auxv. A
    // thread that acts as another user cannot read that file, and would panic.
    rustix::param::page_size();
    // A client on this machine must not wait for memory that is freed only by writing to this
    // server. Only root may request that; otherwise memory must not run out.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let descriptors = raise_descriptors();
    drop_privileges()?;
    Ok(descriptors)
}

/// Returns how often the calling thread has slept to wait, for a disk or a lock (getrusage(2),
/// `ru_nvcsw`).
pub fn sleeps() -> i64 {
    // SAFETY: all zeros are a valid value of the type.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such value. It rejects only invalid arguments.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_nvcsw
}

fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(1 << 20)
}

/// Drops all other capabilities; among them CAP_SYS_RESOURCE, which would lift disk quotas for all
/// clients.
fn drop_privileges() -> Result<()> {
    let now = capabilities(None)?;
    let kept = CapabilitySets {
        effective: now.effective & NEEDED,
        permitted: now.permitted & NEEDED,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, kept)?)
}
