//! What a server asks of its process: no mask on modes, many descriptors, few privileges; and what
//! it can know of its threads.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::errno::Result;

/// What serving files as their callers takes (capabilities(7)), and binding port 111.
const NEEDED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Prepares the process; to be called before any other thread is there. Answers how many
/// descriptors it may have.
///
/// # Errors
/// The system refuses to lower privileges.
pub fn prepare() -> Result<usize> {
    umask(Mode::empty()); // clients apply theirs
    // Now, because rustix looks the size of a page up once, and kernels before 6.4 have it in
    // /proc/self/auxv, which is closed to a thread that acts as somebody else: it would panic.
    rustix::param::page_size();
    // A client on this machine must not wait for memory that is freed by writing to us. Only
    // root may ask for that; without it, memory must not run out.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let descriptors = raise_descriptors();
    drop_privileges()?;
    Ok(descriptors)
}

/// How often the calling thread has gone to sleep to wait for something, as a disk or a lock, and
/// not because others had their turn (getrusage(2), `ru_nvcsw`).
pub fn sleeps() -> i64 {
    // SAFETY: all zeros are a value of the type.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one such value. It refuses nothing but bad arguments.
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

/// Among what goes is CAP_SYS_RESOURCE, which would lift disk quotas for all clients.
fn drop_privileges() -> Result<()> {
    let now = capabilities(None)?;
    let kept = CapabilitySets {
        effective: now.effective & NEEDED,
        permitted: now.permitted & NEEDED,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, kept)?)
}
