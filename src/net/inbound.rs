//! The reading half of a packet connection.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::is_timeout;
use crate::packet::Dialect;
use crate::packet::frame::{FrameError, FrameReader};

/// How long a frame may take from its first byte to its delimiter. Between frames a connection may be idle.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames from a socket, with the rule that a frame, once begun, ends within [`FRAME_TIMEOUT`].
#[derive(Debug)]
pub struct Inbound {
    frames: FrameReader<Socket>,
    timer: FrameTimer,
}

/// The socket shared with the writing half: one descriptor for both.
#[derive(Debug)]
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

/// Limits the time of the frame that is being read.
#[derive(Debug)]
struct FrameTimer {
    stream: Arc<TcpStream>,
    began: Option<Instant>,
    /// The socket has a read timeout.
    is_armed: bool,
}

impl Inbound {
    /// Reads frames of up to `max_frame_bytes` from this connection, of which a node of this dialect has the other end.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>, max_frame_bytes: usize, dialect: Dialect) -> Self {
        let frames = FrameReader::new(Socket(stream.clone()), max_frame_bytes, dialect);
        Self { frames, timer: FrameTimer { stream, began: None, is_armed: false } }
    }

    /// From the next frame on, the other side is a node of this dialect.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.frames.set_dialect(dialect);
    }

    /// The next frame, waiting as long as it takes; `None` when the peer closed between frames.
    ///
    /// # Errors
    /// A frame that breaks the rules of the wire, and failures of the connection. The caller then closes it.
    pub fn next_frame(&mut self) -> Result<Option<&str>, FrameError> {
        // The last frame has ended; the next one has all of its time.
        self.timer.began = None;
        self.frames.next_frame_with(|frames| self.timer.fill(frames))
    }

    /// Whether another whole frame is here already. While there is, answers may wait to be written together.
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
            // Armed also for a connection that may have fallen idle: it then gives its buffer back.
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

    /// Sets or clears the read timeout of the socket. It stays set over many frames and is cleared only once the
    /// connection has been idle, so that a busy connection pays no system call for it.
    fn arm(&mut self, is_armed: bool) -> Result<(), FrameError> {
        if self.is_armed != is_armed {
            self.stream.set_read_timeout(is_armed.then_some(FRAME_TIMEOUT)).map_err(FrameError::Io)?;
            self.is_armed = is_armed;
        }
        Ok(())
    }
}
