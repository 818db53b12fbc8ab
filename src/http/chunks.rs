//! A chunked body. `chunked_transfer` decodes it; this module limits its length and checks the chunk sizes.

use std::io::{self, Read};

use chunked_transfer::Decoder;

use super::backlog::HeldBytes;
use super::reader::{READ_BYTES, ReadError, RequestReader, too_slow};
use super::request::{MAX_BODY_BYTES, RequestError};
use super::request_head::body_too_long;

/// The limit for the bytes of a chunked body on the wire. Chunk sizes count too, so that they cannot continue for ever.
const MAX_CHUNKED_BYTES: usize = 4 * MAX_BODY_BYTES;

/// The longest line that states the size of a chunk, in bytes.
const MAX_CHUNK_LINE_BYTES: usize = 256;

/// Reads a chunked body. Counts the received bytes in `held`.
///
/// Never inlined: its buffer would stay on the caller's stack and cost each connection a page of memory.
#[inline(never)]
pub fn read_chunked_body(
    reader: &mut RequestReader<'_>,
    held: &mut HeldBytes<'_>,
) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    let mut source = ChunkSource { reader, taken_bytes: 0 };
    let mut decoder = Decoder::new(&mut source);
    let mut piece = [0; READ_BYTES];
    loop {
        if decoder.remaining_chunks_size().is_none() {
            decoder.get_mut().check_chunk_line()?;
        }
        let count = match decoder.read(&mut piece) {
            Ok(count) => count,
            Err(_) if decoder.get_ref().taken_bytes > MAX_CHUNKED_BYTES => return Err(body_too_long().into()),
            Err(_) if decoder.get_ref().reader.has_timed_out() => return Err(too_slow("the body").into()),
            Err(_) => return Err(bad_chunks("a chunk must be its size, CR LF, its bytes, CR LF")),
        };
        if count == 0 {
            // The decoder reports the end of the data inside a chunk like the end of the body.
            return match decoder.remaining_chunks_size() {
                None => Ok(body),
                Some(_) => Err(bad_chunks("the body ends inside a chunk")),
            };
        }
        body.extend_from_slice(&piece[..count]);
        held.grow_to(body.len());
        if body.len() > MAX_BODY_BYTES {
            return Err(body_too_long().into());
        }
    }
}

fn bad_chunks(reason: impl std::fmt::Display) -> ReadError {
    RequestError::bad_request(format!("the chunked body is malformed: {reason}")).into()
}

/// A connection as the decoder reads it.
struct ChunkSource<'a, 'b> {
    reader: &'a mut RequestReader<'b>,
    taken_bytes: usize,
}

impl ChunkSource<'_, '_> {
    /// Accepts only sizes that every server reads in the same way. The decoder would accept `+5` and white space too.
    fn check_chunk_line(&mut self) -> Result<(), ReadError> {
        loop {
            let bytes = self.reader.bytes();
            if let Some(end) = memchr::memmem::find(bytes, b"\r\n") {
                let size = bytes[..end].split(|byte| *byte == b';').next().unwrap_or_default();
                let is_plain = end <= MAX_CHUNK_LINE_BYTES && !bytes[..end].iter().any(u8::is_ascii_control);
                let is_size = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
                return if is_plain && is_size {
                    Ok(())
                } else {
                    Err(bad_chunks("the size of a chunk must be a hexadecimal number"))
                };
            }
            // Half of the line end may have arrived already.
            if bytes.len() > MAX_CHUNK_LINE_BYTES + 1 {
                let reason = format!("the line with the size is longer than {MAX_CHUNK_LINE_BYTES} bytes");
                return Err(bad_chunks(reason));
            }
            self.reader.read_more("the body")?;
        }
    }
}

impl Read for &mut ChunkSource<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken_bytes > MAX_CHUNKED_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if !self.reader.has_bytes() {
            match self.reader.read_more("the body") {
                Ok(()) => {}
                Err(ReadError::Lost(error)) => return Err(error),
                Err(ReadError::Rejected(_)) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        let count = self.reader.bytes().len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.reader.bytes()[..count]);
        self.reader.consume(count);
        self.taken_bytes += count;
        Ok(count)
    }
}
