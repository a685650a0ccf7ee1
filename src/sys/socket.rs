//! Receiving from a socket.

use std::os::fd::AsFd;

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
