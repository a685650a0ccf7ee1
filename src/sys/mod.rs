//! System calls, thin and safe: the only module with `unsafe`.
//!
//! What rustix offers is called directly. Here are the calls that it lacks, and those that write
//! into uninitialized memory.
#![allow(unsafe_code)]

pub mod dir;
pub mod disk;
pub mod durable;
mod fault;
pub mod file;
pub mod filesystem;
pub mod handle;
pub mod making;
pub mod memory;
pub mod mounts;
pub mod process;
pub mod processor;
pub mod socket;
#[cfg(test)]
pub mod testing;
pub mod user;

/// Converts the result of a system call that returns -1 and sets errno.
fn check<T: Copy + PartialEq + From<i8>>(answer: T) -> crate::errno::Result<T> {
    if answer == T::from(-1) { Err(std::io::Error::last_os_error().into()) } else { Ok(answer) }
}
