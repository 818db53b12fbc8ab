//! Cutting a stream of bytes into frames.
//!
//! TCP delivers bytes, not packets: one packet may arrive in many pieces, even cut between the two bytes of `¶`,
//! and many packets may arrive in one piece. [`FrameReader`] hides that. It never holds more than one frame of
//! the permitted length, and notices a longer one before its end has arrived.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use super::DELIMITER;

/// How much room a reader makes before it reads, in bytes: most packets by far fit, several at a time.
const READ_BYTES: usize = 16 * 1024;

/// How much of the first packet after a pause is read before there is a buffer.
const FIRST_BYTES: usize = 512;

/// The longest excerpt of a bad frame in a log line, in characters.
const EXCERPT_CHARS: usize = 80;

/// Reads frames from anything that yields bytes.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// The bytes that are read and not yet handed out.
    filled: Range<usize>,
    /// Up to here there is no delimiter: where the search goes on when more bytes have come.
    searched: usize,
    max_frame_bytes: usize,
}

/// Why a stream of frames cannot go on. A connection that shows one of these is closed.
#[derive(Debug)]
pub enum FrameError {
    /// More than the limit arrived without a delimiter.
    TooLong(Offence),
    /// The bytes between two delimiters are not UTF-8.
    NotUtf8(Offence),
    /// The text of the frame is not one JSON object.
    NotAnObject(Offence, String),
    /// The peer ended the connection inside a frame.
    Truncated(Offence),
    /// The peer began a frame and then fell silent.
    Stalled(Offence),
    /// The connection itself failed.
    Io(io::Error),
}

/// The facts about a bad frame that its log line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// How many bytes of the frame had arrived.
    pub size: usize,
    /// How many a frame may have.
    pub limit: usize,
    /// How it begins: escaped, at most 80 characters, and cut where a secret may follow.
    pub excerpt: String,
}

impl<R: Read> FrameReader<R> {
    /// A reader that takes frames of up to `max_frame_bytes` bytes, delimiter not counted.
    pub fn new(inner: R, max_frame_bytes: usize) -> Self {
        Self { inner, buffer: Vec::new(), filled: 0..0, searched: 0, max_frame_bytes }
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
                return if self.mid_frame() { Err(FrameError::Truncated(self.offence())) } else { Ok(None) };
            }
        }
    }

    /// Whether a whole frame is already here, so that reading on costs no system call.
    #[must_use]
    pub fn has_frame(&mut self) -> bool {
        self.skip_empty();
        let from = self.search_from();
        memchr::memmem::find(&self.buffer[from..self.filled.end], &DELIMITER).is_some()
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
    pub fn offence(&self) -> Offence {
        Offence::of(&self.buffer[self.filled.clone()], self.max_frame_bytes)
    }

    /// Gives the buffer back; for connections that have fallen idle. Does nothing in the middle of a frame.
    pub fn release(&mut self) {
        self.skip_empty();
        if self.filled.is_empty() {
            self.buffer = Vec::new();
            self.filled = 0..0;
            self.searched = 0;
        }
    }

    /// Where the next frame lies in the buffer, if it is here whole. From then on it counts as read.
    pub(crate) fn find_frame(&mut self) -> Result<Option<Range<usize>>, FrameError> {
        self.skip_empty();
        let from = self.search_from();
        let Some(at) = memchr::memmem::find(&self.buffer[from..self.filled.end], &DELIMITER) else {
            self.searched = self.filled.end;
            // A last C2 may be the first half of the delimiter, which does not count.
            let half = usize::from(self.buffer[self.filled.clone()].last() == Some(&DELIMITER[0]));
            if self.filled.len() - half > self.max_frame_bytes {
                return Err(FrameError::TooLong(self.offence()));
            }
            return Ok(None);
        };
        let frame = self.filled.start..from + at;
        if frame.len() > self.max_frame_bytes {
            return Err(FrameError::TooLong(Offence::of(&self.buffer[frame], self.max_frame_bytes)));
        }
        self.filled.start = frame.end + DELIMITER.len();
        self.searched = self.filled.start;
        Ok(Some(frame))
    }

    /// The text of a frame that [`find_frame`](Self::find_frame) found.
    pub(crate) fn text(&self, range: Range<usize>) -> Result<&str, FrameError> {
        let bytes = &self.buffer[range];
        std::str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8(Offence::of(bytes, self.max_frame_bytes)))
    }

    /// The delimiter may have been cut in two, so the last byte searched is looked at again.
    fn search_from(&self) -> usize {
        self.searched.saturating_sub(1).max(self.filled.start)
    }

    /// Passes over white space and empty frames, which mean nothing.
    fn skip_empty(&mut self) {
        loop {
            let rest = &self.buffer[self.filled.clone()];
            let space = rest.iter().take_while(|byte| is_space(**byte)).count();
            let empty = rest[space..].starts_with(&DELIMITER);
            self.filled.start += space + if empty { DELIMITER.len() } else { 0 };
            if !empty {
                break;
            }
        }
        self.searched = self.searched.max(self.filled.start);
    }

    fn make_room(&mut self) {
        if self.filled.is_empty() {
            self.filled = 0..0;
            self.searched = 0;
        }
        if self.buffer.len() - self.filled.end >= READ_BYTES / 4 {
            return;
        }
        if self.filled.start > 0 {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.searched -= self.filled.start;
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

impl Offence {
    /// Describes a frame, or the part of it that came.
    #[must_use]
    pub fn of(bytes: &[u8], limit: usize) -> Self {
        Self { size: bytes.len(), limit, excerpt: excerpt(bytes) }
    }
}

/// The beginning of a bad frame for a log line: control characters and bytes that are no text are escaped, and
/// the excerpt ends where the name of a secret stands, since its value may follow.
fn excerpt(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * EXCERPT_CHARS)]);
    let lower = start.to_ascii_lowercase();
    let secret =
        ["password", "token", "secret", "authorization"].iter().filter_map(|word| lower.find(word)).min();
    let shown = &start[..secret.unwrap_or(start.len())];
    let mut excerpt = String::new();
    for character in shown.chars() {
        let escaped: String = character.escape_default().collect();
        let piece = if character.is_alphanumeric() { character.to_string() } else { escaped };
        if excerpt.chars().count() + piece.chars().count() > EXCERPT_CHARS - 1 {
            excerpt.push('…');
            return excerpt;
        }
        excerpt.push_str(&piece);
    }
    if secret.is_some() || start.len() < bytes.len() {
        excerpt.push('…');
    }
    excerpt
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, limit {}, begins: {}", self.size, self.limit, self.excerpt)
    }
}

impl FrameError {
    /// All rules that a frame can break, each in one word.
    pub const REASONS: [&str; 5] = ["too_long", "not_utf8", "not_an_object", "truncated", "stalled"];

    /// Which rule the frame broke; nothing if the connection failed.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        let [too_long, not_utf8, not_an_object, truncated, stalled] = Self::REASONS;
        match self {
            Self::TooLong(_) => Some(too_long),
            Self::NotUtf8(_) => Some(not_utf8),
            Self::NotAnObject(..) => Some(not_an_object),
            Self::Truncated(_) => Some(truncated),
            Self::Stalled(_) => Some(stalled),
            Self::Io(_) => None,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(offence) => write!(f, "a frame is too long or its ¶ is missing ({offence})"),
            Self::NotUtf8(offence) => write!(f, "a frame is not UTF-8 ({offence})"),
            Self::NotAnObject(offence, reason) => {
                write!(f, "a frame is not one JSON object: {reason} ({offence})")
            }
            Self::Truncated(offence) => write!(f, "the connection ended inside a frame ({offence})"),
            Self::Stalled(offence) => write!(f, "a frame began and did not end in time ({offence})"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for FrameError {}
