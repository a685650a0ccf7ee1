//! Receiving from a socket, and what the kernel keeps of what was sent.

use std::os::fd::{AsFd, AsRawFd};

use rustix::net::{RecvFlags, recv};

use crate::errno::Result;

/// Receives into `buffer` without waiting; 0 is the end of the stream.
///
/// # Errors
/// `EAGAIN` if there is nothing.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    Ok(recv(fd, buffer, RecvFlags::DONTWAIT)?.0)
}

/// Appends at most `max` received bytes to `buffer`, within its capacity, without waiting; 0 is
/// the end of the stream.
///
/// # Errors
/// `EAGAIN` if there is nothing.
pub fn receive(fd: impl AsFd, buffer: &mut Vec<u8>, max: usize) -> Result<usize> {
    let free = buffer.spare_capacity_mut();
    let room = free.len().min(max);
    let received = recv(fd, &mut free[..room], RecvFlags::DONTWAIT)?.1;
    let len = buffer.len() + received;
    // SAFETY: the first `received` bytes behind the old length are initialised by the kernel, and
    // they lie within the capacity.
    unsafe { buffer.set_len(len) };
    Ok(received)
}

/// How many bytes were sent that the peer has not acknowledged (tcp(7), `SIOCOUTQ`).
///
/// # Errors
/// It is no socket of a connection.
pub fn unacknowledged(fd: impl AsFd) -> Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed, and the kernel writes one integer.
    let answer = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    super::check(answer)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
