//! The search for `¶` in bytes.

use super::DELIMITER;

/// The place of the first delimiter in `frame`, of which `searched` bytes have been searched before.
pub(super) fn find_delimiter(frame: &[u8], searched: &mut usize) -> Option<usize> {
    // The delimiter may have been cut in two, so the last byte searched is looked at again.
    let from = searched.saturating_sub(1);
    *searched = frame.len();
    memchr::memmem::find(&frame[from..], &DELIMITER).map(|at| from + at)
}
