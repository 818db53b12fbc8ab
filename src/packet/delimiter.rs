//! The search for `¶` in bytes.

use super::DELIMITER;

/// The position of the first delimiter in `frame`. The first `searched` bytes were searched before.
pub(super) fn find_delimiter(frame: &[u8], searched: &mut usize) -> Option<usize> {
    // A read may have split the delimiter, so we check the last searched byte again.
    let from = searched.saturating_sub(1);
    *searched = frame.len();
    memchr::memmem::find(&frame[from..], &DELIMITER).map(|at| from + at)
}
