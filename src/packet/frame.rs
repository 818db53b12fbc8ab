//! Cutting a stream of bytes into frames.
//!
//! TCP delivers bytes, not packets: one packet may arrive in many pieces, even cut between the two bytes of `¶`,
//! and many packets may arrive in one piece. [`FrameReader`] hides that. It never holds more than one frame of
//! the permitted length, and notices a longer one before its end has arrived.

use std::io::{self, Read};

pub use super::bad_frame::{BadFrame, FrameError};
use super::course::CourseSearch;
use super::delimiter::find_delimiter;
use super::{DELIMITER, Dialect};
use crate::byte_reader::ByteReader;

/// Reads frames from anything that yields bytes.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: ByteReader<R>,
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
        let reader = ByteReader::new(inner, max_frame_bytes);
        let course = (dialect == Dialect::Course).then(CourseSearch::default);
        Self { reader, searched: 0, course, found: None, max_frame_bytes }
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
        self.next_frame_with(|frames| frames.fill().map_err(FrameError::Io))
    }

    /// As [`next_frame`](Self::next_frame), for callers with their own rules of waiting: `fill` calls
    /// [`fill`](Self::fill) and returns what that returned.
    ///
    /// # Errors
    /// As [`next_frame`](Self::next_frame), and those of `fill`.
    pub fn next_frame_with(
        &mut self,
        mut fill: impl FnMut(&mut Self) -> Result<usize, FrameError>,
    ) -> Result<Option<&str>, FrameError> {
        loop {
            if let Some(length) = self.find_frame()? {
                return self.take_frame(length).map(Some);
            }
            if fill(self)? == 0 {
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
        self.find_end().is_some()
    }

    /// Reads once; the number of bytes that came, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of the reader. After a timeout nothing is lost: call again.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.reader.fill()
    }

    /// Whether a buffer is held that [`release`](Self::release) would give back.
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        self.reader.holds_buffer()
    }

    /// How much memory the buffer takes, in bytes. Tests compare it with the limit.
    #[cfg(any(test, fuzzing))]
    #[doc(hidden)]
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.reader.held_bytes()
    }

    /// Whether the beginning of a frame is here and its end is not.
    #[must_use]
    pub fn mid_frame(&self) -> bool {
        self.reader.bytes().iter().any(|byte| !is_space(*byte))
    }

    /// What is known of the frame that is here in part.
    #[must_use]
    pub fn unfinished(&self) -> BadFrame {
        BadFrame::unfinished(self.reader.bytes(), self.max_frame_bytes)
    }

    /// Gives the buffer back; for connections that have fallen idle. Does nothing in the middle of a frame.
    pub fn release(&mut self) {
        self.skip_empty();
        self.reader.release();
    }

    /// The length of the next frame, if it is here whole.
    fn find_frame(&mut self) -> Result<Option<usize>, FrameError> {
        let limit = self.max_frame_bytes;
        let end = self.find_end();
        let bytes = self.reader.bytes();
        match end {
            Some(length) if length > limit => Err(FrameError::TooLong(BadFrame::of(&bytes[..length], limit))),
            None => {
                // A last C2 may be the first half of the delimiter, which does not count.
                let half = usize::from(bytes.last() == Some(&DELIMITER[0]));
                if bytes.len() - half > limit {
                    Err(FrameError::TooLong(self.unfinished()))
                } else {
                    Ok(None)
                }
            }
            length => Ok(length),
        }
    }

    /// The text of the frame that [`find_frame`](Self::find_frame) found. From then on it counts as read.
    fn take_frame(&mut self, length: usize) -> Result<&str, FrameError> {
        self.begin_search();
        let bytes = &self.reader.take(length + DELIMITER.len())[..length];
        std::str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8(BadFrame::of(bytes, self.max_frame_bytes)))
    }

    /// Where the first frame here ends, if its delimiter has come.
    fn find_end(&mut self) -> Option<usize> {
        self.skip_empty();
        if self.found.is_none() {
            let frame = self.reader.bytes();
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
        let mut rest = self.reader.bytes();
        while let [first, after @ ..] = rest {
            rest = match rest.strip_prefix(&DELIMITER) {
                Some(behind) => behind,
                None if is_space(*first) => after,
                None => break,
            };
        }
        let skipped = self.reader.bytes().len() - rest.len();
        if skipped > 0 {
            self.reader.take(skipped);
            self.begin_search();
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}
