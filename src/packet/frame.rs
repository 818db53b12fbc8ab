//! Cuts a stream of bytes into frames.
//!
//! TCP delivers bytes, not packets. One packet may arrive in many pieces, even cut between the two bytes of `¶`, and
//! many packets may arrive in one piece. [`FrameReader`] hides that. It holds at most one frame of the permitted
//! length, and it detects a longer one before its end arrives.

use std::io::{self, Read};

pub use super::bad_frame::{BadFrame, FrameError};
use super::course::CourseSearch;
use super::delimiter::find_delimiter;
use super::{DELIMITER, Dialect};
use crate::byte_reader::ByteReader;

/// Reads frames from any source of bytes.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: ByteReader<R>,
    /// How many bytes of the first frame have been searched for its delimiter.
    searched: usize,
    /// The search state for frames of a course node, where a `¶` inside a string is text.
    course: Option<CourseSearch>,
    /// The length of the first frame, once its delimiter was found.
    found: Option<usize>,
    max_frame_bytes: usize,
}

impl<R: Read> FrameReader<R> {
    /// A reader of frames from a node of this dialect, up to `max_frame_bytes` bytes without the delimiter.
    pub fn new(inner: R, max_frame_bytes: usize, dialect: Dialect) -> Self {
        let reader = ByteReader::new(inner, max_frame_bytes);
        let course = (dialect == Dialect::Course).then(CourseSearch::default);
        Self { reader, searched: 0, course, found: None, max_frame_bytes }
    }

    /// Sets the dialect of the sender, from the next frame on.
    pub fn set_dialect(&mut self, dialect: Dialect) {
        self.course = (dialect == Dialect::Course).then(CourseSearch::default);
        self.begin_search();
    }

    /// Waits for the next frame. `None` means that the stream ended between two frames.
    ///
    /// # Errors
    /// The frame is too long or is not UTF-8, the reader failed, or the stream ended inside a frame.
    pub fn next_frame(&mut self) -> Result<Option<&str>, FrameError> {
        self.next_frame_with(|frames| frames.fill().map_err(FrameError::Io))
    }

    /// Like [`next_frame`](Self::next_frame), for callers with their own timeouts: `fill` calls
    /// [`fill`](Self::fill) and returns its result.
    ///
    /// # Errors
    /// The errors of [`next_frame`](Self::next_frame) and of `fill`.
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

    /// True if a whole frame is buffered, so that the next read makes no system call.
    #[must_use]
    pub fn has_frame(&mut self) -> bool {
        self.find_end().is_some()
    }

    /// Reads once. Returns the number of bytes read, 0 at the end of the stream.
    ///
    /// # Errors
    /// The errors of the reader. A timeout loses no bytes: call again.
    pub fn fill(&mut self) -> io::Result<usize> {
        self.reader.fill()
    }

    /// True if [`release`](Self::release) would free a buffer.
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        self.reader.holds_buffer()
    }

    /// The size of the buffer, in bytes. Tests compare it with the limit.
    #[cfg(any(test, fuzzing))]
    #[doc(hidden)]
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.reader.held_bytes()
    }

    /// True if the reader holds an incomplete frame.
    #[must_use]
    pub fn mid_frame(&self) -> bool {
        self.reader.bytes().iter().any(|byte| !is_space(*byte))
    }

    /// Describes the incomplete frame.
    #[must_use]
    pub fn unfinished(&self) -> BadFrame {
        BadFrame::unfinished(self.reader.bytes(), self.max_frame_bytes)
    }

    /// Frees the buffer of an idle connection. Does nothing in the middle of a frame.
    pub fn release(&mut self) {
        self.skip_empty();
        self.reader.release();
    }

    /// The length of the next frame, if all of it has arrived.
    fn find_frame(&mut self) -> Result<Option<usize>, FrameError> {
        let limit = self.max_frame_bytes;
        let end = self.find_end();
        let bytes = self.reader.bytes();
        match end {
            Some(length) if length > limit => Err(FrameError::TooLong(BadFrame::of(&bytes[..length], limit))),
            None => {
                // A last C2 may be the first half of the delimiter, so it does not count.
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

    /// The text of the frame that [`find_frame`](Self::find_frame) found. The frame then counts as read.
    fn take_frame(&mut self, length: usize) -> Result<&str, FrameError> {
        self.begin_search();
        let bytes = &self.reader.take(length + DELIMITER.len())[..length];
        std::str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8(BadFrame::of(bytes, self.max_frame_bytes)))
    }

    /// The position where the first frame ends, if its delimiter has arrived.
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

    /// Skips white space and empty frames, which have no meaning.
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
