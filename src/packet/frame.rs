//! Cutting a stream of bytes into frames.
//!
//! TCP delivers bytes, not packets: one packet may arrive in many pieces, even cut between the two bytes of `¶`,
//! and many packets may arrive in one piece. [`FrameReader`] hides that. It never holds more than one frame of
//! the permitted length, and notices a longer one before its end has arrived.

use std::io::{self, Read};
use std::ops::Range;

pub use super::bad_frame::{BadFrame, FrameError};
use super::course::CourseSearch;
use super::{DELIMITER, Dialect};

/// How much room a reader makes before it reads, in bytes: most packets by far fit, several at a time.
const READ_BYTES: usize = 16 * 1024;

/// How much of the first packet after a pause is read before there is a buffer.
const FIRST_BYTES: usize = 512;

/// Reads frames from anything that yields bytes.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// The bytes that are read and not yet handed out.
    filled: Range<usize>,
    /// How much of the first frame here has been searched for its delimiter.
    searched: usize,
    /// The same for frames of a course node, in whose strings a `¶` is text.
    course: Option<CourseSearch>,
    /// The length of the first frame here, once its delimiter has been found.
    found: Option<usize>,
    max_frame_bytes: usize,
}

impl<R: Read> FrameReader<R> {
    /// A reader that takes frames of up to `max_frame_bytes` bytes, delimiter not counted, from a node of this dialect.
    pub fn new(inner: R, max_frame_bytes: usize, dialect: Dialect) -> Self {
        let course = (dialect == Dialect::Course).then(CourseSearch::default);
        Self { inner, buffer: Vec::new(), filled: 0..0, searched: 0, course, found: None, max_frame_bytes }
    }

    /// From the next frame on, the other side is a node of this dialect.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.course = (dialect == Dialect::Course).then(CourseSearch::default);
        self.begin_search();
    }

    /// The next frame, waiting for it if need be; `None` when the stream ended between two frames.
    ///
    /// # Errors
    /// A frame that is too long or is not UTF-8, the reader's own errors, and an end inside a frame.
    pub fn next_frame(&mut self) -> Result<Option<&str>, FrameError> {
        loop {
            if let Some(range) = self.find_frame()? {
                return self.text(range).map(Some);
            }
            if self.fill().map_err(FrameError::Io)? == 0 {
                return if self.mid_frame() {
                    Err(FrameError::Truncated(self.unfinished()))
                } else {
                    Ok(None)
                };
            }
        }
    }

    /// Whether a whole frame is already here, so that reading on costs no system call.
    #[must_use]
    pub fn has_frame(&mut self) -> bool {
        self.find_delimiter().is_some()
    }

    /// Reads once; the number of bytes that came, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the reader. A time-out is one of them, and nothing is lost by it: call again.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.is_empty() {
            return self.fill_first();
        }
        self.make_room();
        let count = read_once(&mut self.inner, &mut self.buffer[self.filled.end..])?;
        self.filled.end += count;
        Ok(count)
    }

    /// A read that may take long holds no buffer while it waits: the first bytes are read beside it.
    fn fill_first(&mut self) -> io::Result<usize> {
        let mut first = [0; FIRST_BYTES];
        let count = read_once(&mut self.inner, &mut first)?;
        self.make_room();
        self.buffer[..count].copy_from_slice(&first[..count]);
        self.filled = 0..count;
        Ok(count)
    }

    /// Whether a buffer is held that [`release`](Self::release) would give back.
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// How much memory the buffer takes, in bytes: what the tests hold against the limit.
    #[cfg(any(test, fuzzing))]
    #[doc(hidden)]
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether the beginning of a frame is here and its end is not.
    #[must_use]
    pub fn mid_frame(&self) -> bool {
        self.buffer[self.filled.clone()].iter().any(|byte| !is_space(*byte))
    }

    /// What is known of the frame that is here in part.
    #[must_use]
    pub fn unfinished(&self) -> BadFrame {
        BadFrame::unfinished(&self.buffer[self.filled.clone()], self.max_frame_bytes)
    }

    /// Gives the buffer back; for connections that have fallen idle. Does nothing in the middle of a frame.
    pub fn release(&mut self) {
        self.skip_empty();
        if self.filled.is_empty() {
            self.buffer = Vec::new();
            self.filled = 0..0;
        }
    }

    /// Where the next frame lies in the buffer, if it is here whole. From then on it counts as read.
    pub(crate) fn find_frame(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        let Some(length) = self.find_delimiter() else {
            // A last C2 may be the first half of the delimiter, which does not count.
            let half = usize::from(self.buffer[self.filled.clone()].last() == Some(&DELIMITER[0]));
            if self.filled.len() - half > self.max_frame_bytes {
                return Err(FrameError::TooLong(self.unfinished()));
            }
            return Ok(None);
        };
        let frame = self.filled.start..self.filled.start + length;
        if length > self.max_frame_bytes {
            return Err(FrameError::TooLong(BadFrame::of(&self.buffer[frame], self.max_frame_bytes)));
        }
        self.filled.start = frame.end + DELIMITER.len();
        self.begin_search();
        Ok(Some(frame))
    }

    /// The text of a frame that [`find_frame`](Self::find_frame) found.
    pub(crate) fn text(&self, range: Range<usize>) -> Result<&str, FrameError> {
        let bytes = &self.buffer[range];
        std::str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8(BadFrame::of(bytes, self.max_frame_bytes)))
    }

    /// Where the first frame here ends, if it is here whole.
    fn find_delimiter(&mut self) -> Option<usize> {
        self.skip_empty();
        if self.found.is_none() {
            let frame = &self.buffer[self.filled.clone()];
            self.found = match &mut self.course {
                Some(search) => search.find_end(frame),
                None => find_delimiter(frame, &mut self.searched),
            };
        }
        self.found
    }

    fn begin_search(&mut self) {
        self.searched = 0;
        self.found = None;
        if let Some(search) = &mut self.course {
            *search = CourseSearch::default();
        }
    }

    /// Passes over white space and empty frames, which mean nothing.
    fn skip_empty(&mut self) {
        let before = self.filled.start;
        loop {
            let rest = &self.buffer[self.filled.clone()];
            let space = rest.iter().take_while(|byte| is_space(**byte)).count();
            let empty = rest[space..].starts_with(&DELIMITER);
            self.filled.start += space + if empty { DELIMITER.len() } else { 0 };
            if !empty {
                break;
            }
        }
        if self.filled.start != before {
            self.begin_search();
        }
    }

    fn make_room(&mut self) {
        if self.filled.is_empty() {
            self.filled = 0..0;
        }
        if self.buffer.len() - self.filled.end >= READ_BYTES / 4 {
            return;
        }
        if self.filled.start > 0 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        // Doubling keeps the cost of a long frame in proportion to its length.
        let wanted = (self.filled.end * 2).clamp(READ_BYTES, self.max_frame_bytes.saturating_add(READ_BYTES));
        if wanted > self.buffer.len() {
            // Left to itself, the vector would double once more, and hold two frames of the permitted length.
            self.buffer.reserve_exact(wanted - self.buffer.len());
            self.buffer.resize(wanted, 0);
        }
    }
}

/// The place of the first delimiter in `frame`, of which `searched` bytes have been searched before.
pub(super) fn find_delimiter(frame: &[u8], searched: &mut usize) -> Option<usize> {
    // The delimiter may have been cut in two, so the last byte searched is looked at again.
    let from = searched.saturating_sub(1);
    *searched = frame.len();
    memchr::memmem::find(&frame[from..], &DELIMITER).map(|at| from + at)
}

fn read_once(inner: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match inner.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}
