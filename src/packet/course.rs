//! What is different in packets from course nodes.
//!
//! `JSON.stringify` does not escape `¶`, so a course node sends it raw inside a string. A `¶` inside a string of such a
//! frame is text, and the frame goes on. Between nodes of ours a raw `¶` stays an error.

use serde::Deserialize;

use super::frame::find_delimiter;
use super::{DELIMITER, Head, PROTO};

/// How far one frame of a course node has been searched for its end. Each byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct CourseSearch {
    searched: usize,
    in_string: bool,
}

impl CourseSearch {
    /// Where the delimiter of this frame stands. `frame` is what has come of it, and only grows between two calls.
    pub(super) fn find_end(&mut self, frame: &[u8]) -> Option<usize> {
        // What is no object is rejected at its first delimiter.
        if frame.first() != Some(&b'{') {
            return find_delimiter(frame, &mut self.searched);
        }
        loop {
            // After a backslash, the byte where the search goes on may not be here yet.
            let rest = frame.get(self.searched..)?;
            let special = if self.in_string { b'\\' } else { DELIMITER[0] };
            let Some(at) = memchr::memchr2(b'"', special, rest) else {
                self.searched = frame.len();
                return None;
            };
            self.searched += at;
            if rest[at] == b'"' {
                self.in_string = !self.in_string;
                self.searched += 1;
            } else if self.in_string {
                self.searched += 2;
            } else if *frame.get(self.searched + 1)? == DELIMITER[1] {
                return Some(self.searched);
            } else {
                self.searched += 1;
            }
        }
    }

    /// How many bytes have been looked at: the next call goes on there.
    #[cfg(test)]
    pub(super) fn searched(&self) -> usize {
        self.searched
    }
}

/// Whether the sender of this packet has shown with it that it is no course node: it says how long it waits, or it
/// registers as one of ours.
#[must_use]
pub fn is_from_pilcrow(head: &Head<'_>) -> bool {
    #[derive(Deserialize)]
    struct Registration {
        proto: String,
    }
    let registers = || (head.method.as_deref(), head.uri.as_deref()) == (Some("POST"), Some("/distributes"));
    let announces = || {
        let params = head.params.filter(|_| registers())?;
        serde_json::from_str::<Registration>(params.get()).ok()
    };
    head.deadline_ms.is_some() || announces().is_some_and(|registration| registration.proto == PROTO)
}

/// What a node of ours would have understood of a frame with a raw `¶` in it: the part before. Nothing if there is none.
#[must_use]
pub fn before_raw_delimiter(frame: &str) -> Option<&str> {
    memchr::memmem::find(frame.as_bytes(), &DELIMITER).map(|at| &frame[..at])
}

#[cfg(test)]
mod tests;
