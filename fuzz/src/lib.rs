//! Functions that several fuzz targets share.

use std::io::{self, Read};

/// Cuts `bytes` into pieces. `seed` determines where, so the same seed makes the same cuts.
///
/// Most pieces are short, since the interesting places to cut are inside delimiters, line ends and numbers.
#[must_use]
pub fn cut(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed) + 1;
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let longest = if state & 0x700 == 0 { 1000 } else { 8 };
        let (piece, behind) = rest.split_at((1 + (state >> 16) as usize % longest).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// A connection that delivers these pieces, one with each read. It is interrupted or times out before some of them.
pub struct Pieces<'a> {
    to_come: std::vec::IntoIter<&'a [u8]>,
    left: &'a [u8],
    pauses: u32,
}

impl<'a> Pieces<'a> {
    /// The bits of `pauses`, used repeatedly, select the pieces that have a pause before them.
    #[must_use]
    pub fn new(pieces: Vec<&'a [u8]>, pauses: u32) -> Self {
        Self { to_come: pieces.into_iter(), left: &[], pauses }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            let paused = self.pauses & 1 == 1;
            self.pauses >>= 1;
            if paused {
                let interrupted = self.pauses & 1 == 1;
                let kind = if interrupted { io::ErrorKind::Interrupted } else { io::ErrorKind::WouldBlock };
                return Err(kind.into());
            }
            self.left = self.to_come.next().unwrap_or_default();
        }
        let count = self.left.len().min(buffer.len());
        let (now, later) = self.left.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.left = later;
        Ok(count)
    }
}
