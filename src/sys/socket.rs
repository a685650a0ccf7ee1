//! Receiving from a socket, and the kernel's socket buffers.

use std::os::fd::{AsFd, AsRawFd};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::net::{RecvFlags, recv};

use crate::errno::Result;

/// Receives into `buffer`. Returns how many bytes, 0 at the end of the stream. Does not block.
///
/// # Errors
/// `EAGAIN` if there is nothing.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    Ok(recv(fd, buffer, RecvFlags::DONTWAIT)?.0)
}

/// Appends at most `max` received bytes to `buffer`, within its capacity. Returns how many, 0 at
/// the end of the stream. Does not block.
///
/// # Errors
/// `EAGAIN` if there is nothing.
pub fn receive(fd: impl AsFd, buffer: &mut Vec<u8>, max: usize) -> Result<usize> {
    let free = buffer.spare_capacity_mut();
    let room = free.len().min(max);
    let received = recv(fd, &mut free[..room], RecvFlags::DONTWAIT)?.1;
    let len = buffer.len() + received;
    // SAFETY: the kernel has initialized `received` bytes behind the old length, within the
    // capacity.
    unsafe { buffer.set_len(len) };
    Ok(received)
}

/// Limits the receive buffer to about [`LIMITED`] bytes, which also limits the window that the peer
/// sees.
///
/// # Errors
/// It is no socket.
pub fn limit_receiving(fd: impl AsFd) -> Result<()> {
    Ok(set_socket_recv_buffer_size(fd, LIMITED / 2)?) // the kernel doubles it (socket(7))
}

/// The kernel's default for a new connection, in bytes.
const LIMITED: usize = 128 * 1024;

/// Lets the kernel size the receive buffer by the speed of the connection again (since Linux 5.14).
///
/// # Errors
/// It is no socket, or the kernel is older.
pub fn unlimit_receiving(fd: impl AsFd) -> Result<()> {
    unlock(fd, SOCK_RCVBUF_LOCK)
}

/// Limits the send buffer to about [`LIMITED`] bytes, which the peer has not acknowledged.
///
/// # Errors
/// It is no socket.
pub fn limit_sending(fd: impl AsFd) -> Result<()> {
    Ok(set_socket_send_buffer_size(fd, LIMITED / 2)?)
}

/// As [`unlimit_receiving`], for the send buffer.
///
/// # Errors
/// It is no socket, or the kernel is older.
pub fn unlimit_sending(fd: impl AsFd) -> Result<()> {
    unlock(fd, SOCK_SNDBUF_LOCK)
}

/// Flags of `SO_BUF_LOCK`: the size of the buffer was set, and the kernel does not change it
/// (linux/socket.h).
const SOCK_SNDBUF_LOCK: libc::c_int = 1;
const SOCK_RCVBUF_LOCK: libc::c_int = 2;

fn unlock(fd: impl AsFd, flag: libc::c_int) -> Result<()> {
    let (fd, mut flags, mut size) = (fd.as_fd().as_raw_fd(), 0, INT_SIZE);
    let (level, option) = (libc::SOL_SOCKET, libc::SO_BUF_LOCK);
    // SAFETY: the descriptor is borrowed, and the kernel writes one integer and its size.
    let answer =
        unsafe { libc::getsockopt(fd, level, option, (&raw mut flags).cast(), &raw mut size) };
    super::check(answer)?;
    let flags: libc::c_int = flags & !flag;
    // SAFETY: the descriptor is borrowed, and the kernel reads one integer.
    let answer =
        unsafe { libc::setsockopt(fd, level, option, (&raw const flags).cast(), INT_SIZE) };
    super::check(answer)?;
    Ok(())
}

#[allow(clippy::cast_possible_truncation)] // it is 4
const INT_SIZE: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// Returns the number of sent bytes that the peer has not acknowledged (tcp(7), `SIOCOUTQ`).
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt::{socket_recv_buffer_size, socket_send_buffer_size};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn buffers_have_the_requested_size() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        limit_receiving(&other).unwrap();
        assert_eq!(socket_recv_buffer_size(&other).unwrap(), LIMITED);
        limit_sending(&other).unwrap();
        assert_eq!(socket_send_buffer_size(&other).unwrap(), LIMITED);
        unlimit_receiving(&other).unwrap();
        unlimit_sending(&other).unwrap();
        one.write_all(&[7; 1000]).unwrap();
        let mut got = [0; 2000];
        while read(&other, &mut got).is_err() {
            std::thread::yield_now();
        }
        while unacknowledged(&one).unwrap() > 0 {
            std::thread::yield_now();
        }
    }
}
