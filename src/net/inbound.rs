//! The reading half of a packet connection.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::is_timeout;
use crate::packet::Dialect;
use crate::packet::frame::{FrameError, FrameReader};

/// The timeout of a frame, from its first byte to its delimiter. Between frames a connection may be idle.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames from a socket. Once a frame has begun, it must end within [`FRAME_TIMEOUT`].
#[derive(Debug)]
pub struct Inbound {
    frames: FrameReader<Socket>,
    timer: FrameTimer,
}

/// The socket. It shares one descriptor with the writing half.
#[derive(Debug)]
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// Limits the time of the current frame.
#[derive(Debug)]
struct FrameTimer {
    stream: Arc<TcpStream>,
    began: Option<Instant>,
    /// The socket has a read timeout.
    is_armed: bool,
}

impl Inbound {
    /// Reads frames of up to `max_frame_bytes` from a connection to a node of this dialect.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>, max_frame_bytes: usize, dialect: Dialect) -> Self {
        let frames = FrameReader::new(Socket(stream.clone()), max_frame_bytes, dialect);
        Self { frames, timer: FrameTimer { stream, began: None, is_armed: false } }
    }

    /// Sets the dialect of the sender, from the next frame on.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.frames.set_dialect(dialect);
    }

    /// Waits for the next frame without a timeout. `None` means that the peer closed between frames.
    ///
    /// # Errors
    /// A frame broke the rules of the wire, or the connection failed. The caller then closes it.
    pub fn next_frame(&mut self) -> Result<Option<&str>, FrameError> {
        // The last frame has ended, so the next one gets its full time.
        self.timer.began = None;
        self.frames.next_frame_with(|frames| self.timer.fill(frames))
    }

    /// True if another whole frame is buffered. If so, answers may wait and leave in one write.
    #[must_use]
    pub fn has_frame(&mut self) -> bool {
        self.frames.has_frame()
    }
}

impl FrameTimer {
    fn fill(&mut self, frames: &mut FrameReader<Socket>) -> Result<usize, FrameError> {
        loop {
            if frames.mid_frame() {
                let began = *self.began.get_or_insert_with(Instant::now);
                if began.elapsed() >= FRAME_TIMEOUT {
                    return Err(FrameError::Stalled(frames.unfinished()));
                }
            }
            // Also set the timeout on a connection that may have become idle, so that it frees its buffer.
            if frames.holds_buffer() {
                self.arm(true)?;
            }
            match frames.fill() {
                Ok(count) => return Ok(count),
                Err(error) if is_timeout(&error) && frames.mid_frame() => {
                    return Err(FrameError::Stalled(frames.unfinished()));
                }
                Err(error) if is_timeout(&error) => {
                    frames.release();
                    self.arm(false)?;
                }
                Err(error) => return Err(FrameError::Io(error)),
            }
        }
    }

    /// Sets or clears the read timeout of the socket. It stays set over many frames and is cleared only when the
    /// connection has been idle. So a busy connection makes no system call for it.
    fn arm(&mut self, is_armed: bool) -> Result<(), FrameError> {
        if self.is_armed != is_armed {
            self.stream.set_read_timeout(is_armed.then_some(FRAME_TIMEOUT)).map_err(FrameError::Io)?;
            self.is_armed = is_armed;
        }
        Ok(())
    }
}
