//! Writes to a socket: one that never waits, and one with a deadline.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::is_timeout;

/// Writes once. Fails without waiting if the socket has no room.
#[cfg(target_os = "linux")]
pub(super) fn send_at_once(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    const DONT_WAIT: i32 = 0x40;
    const NO_SIGNAL: i32 = 0x4000;
    socket2::SockRef::from(stream).send_with_flags(bytes, DONT_WAIT | NO_SIGNAL)
}

/// Writes once. On this system, a write waits for room, at most [`WRITE_TIMEOUT`].
#[cfg(not(target_os = "linux"))]
pub(super) fn send_at_once(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.write(bytes)
}

/// Writes all of `bytes` before `deadline`. The write timeout of the stream limits each single wait. The deadline
/// limits their sum, because a peer that reads one byte a second could otherwise hold the writer forever.
pub(crate) fn write_by(mut stream: &TcpStream, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The kernel also drops a peer that accepts no bytes for long. Either timeout may come first.
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::TimedOut => {
                return Err(not_read());
            }
            Err(error) => return Err(error),
        }
        if !rest.is_empty() && Instant::now() >= deadline {
            return Err(not_read());
        }
    }
    Ok(())
}

/// The error for a peer that does not read for too long.
pub(crate) fn not_read() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what it is sent")
}
