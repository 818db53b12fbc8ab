//! The delimiter of frames, and the search for it.

/// The bytes of `¶` (U+00B6). They end every frame and appear nowhere else on the wire.
pub const DELIMITER: [u8; 2] = [0xC2, 0xB6];

/// The position of the first delimiter in `frame`. The first `searched` bytes were searched before.
pub(super) fn find_delimiter(frame: &[u8], searched: &mut usize) -> Option<usize> {
    // A read may have split the delimiter, so we check the last searched byte again.
    let from = searched.saturating_sub(1);
    *searched = frame.len();
    memchr::memmem::find(&frame[from..], &DELIMITER).map(|at| from + at)
}
