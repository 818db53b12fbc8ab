//! A buffered reader of bytes: [`frame`](crate::packet::frame) cuts its bytes into frames.
//!
//! It has no buffer while it waits for the first byte, so an idle connection uses no memory here.

use std::io::{self, Read};
use std::ops::Range;

/// How much room a reader makes before it reads, in bytes. This fits several typical packets.
const READ_BYTES: usize = 16 * 1024;

/// The size of the first read, before the reader has a buffer.
const FIRST_BYTES: usize = 512;

/// Reads ahead from any source of bytes.
#[derive(Debug)]
pub struct ByteReader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// The bytes that are read but not yet taken.
    filled: Range<usize>,
    /// The buffer never grows beyond this plus [`READ_BYTES`].
    limit_bytes: usize,
}

impl<R: Read> ByteReader<R> {
    /// Creates a reader for pieces of up to `limit_bytes`.
    pub fn new(inner: R, limit_bytes: usize) -> Self {
        Self { inner, buffer: Vec::new(), filled: 0..0, limit_bytes }
    }

    /// The buffered bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.filled.clone()]
    }

    /// Takes the first `count` buffered bytes.
    pub fn take(&mut self, count: usize) -> &[u8] {
        let start = self.filled.start;
        self.filled.start = self.filled.end.min(start + count);
        &self.buffer[start..self.filled.start]
    }

    /// Reads once. Returns the number of bytes read, 0 at the end of the stream.
    ///
    /// # Errors
    /// The errors of the inner reader. A timeout loses no bytes: call again.
    pub fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.is_empty() {
            return self.fill_first();
        }
        self.make_room();
        let count = read_once(&mut self.inner, &mut self.buffer[self.filled.end..])?;
        self.filled.end += count;
        Ok(count)
    }

    /// This read may wait for a long time, so it creates the buffer afterwards.
    fn fill_first(&mut self) -> io::Result<usize> {
        let mut first = [0; FIRST_BYTES];
        let count = read_once(&mut self.inner, &mut first)?;
        self.make_room();
        self.buffer[..count].copy_from_slice(&first[..count]);
        self.filled = 0..count;
        Ok(count)
    }

    /// True if [`release`](Self::release) would free a buffer.
    #[must_use]
    pub fn holds_buffer(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The size of the buffer, in bytes. Tests compare it with the limit.
    #[cfg(any(test, fuzzing))]
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Frees the buffer if it is empty, for connections that are idle.
    pub fn release(&mut self) {
        if self.filled.is_empty() {
            self.buffer = Vec::new();
            self.filled = 0..0;
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
        // Doubling keeps the cost of a long piece proportional to its length.
        let wanted = (self.filled.end * 2).clamp(READ_BYTES, self.limit_bytes.saturating_add(READ_BYTES));
        if wanted > self.buffer.len() {
            // Without `reserve_exact`, the vector could double again and hold two pieces of the permitted length.
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
