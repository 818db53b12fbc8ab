//! The end of a request: its reply, or another outcome.
//!
//! These types need no connection, so every file of the calling side can use them.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use super::outbox::SendError;
use crate::packet::{COURSE_MAX_BYTES, Head};

/// A reply as received: its unchanged text, and the fields that a caller needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFrame {
    /// The whole reply packet, as the service wrote it.
    pub json: String,
    /// 0 for success. Course nodes may omit it, or send a value that is not a number.
    pub errorcode: Option<i64>,
    /// The HTTP status of a success, if it is not 200.
    pub status: Option<u16>,
    /// The position of the results in `json`.
    results: Option<Range<usize>>,
    /// True if more replies to the same request follow.
    pub more: bool,
    /// The number of the change that it reports, or the last change that it includes.
    pub seq: Option<u64>,
    /// A tag that identifies this state of a resource, for `ETag`.
    pub etag: Option<String>,
    /// After how many seconds a retry makes sense, for `Retry-After`.
    pub retry_after: Option<u64>,
    /// When it was read, if it explains its request.
    pub explained_at: Option<Instant>,
}

/// The result of a request that got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No reply came before the deadline. The service may or may not have processed the request.
    Timeout,
    /// The connection ended first. The service may or may not have processed the request.
    LinkLost,
    /// The request was never sent.
    Refused(Refusal),
}

/// Why a request was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The link has no connection.
    Down,
    /// The link has reached its limit of pending requests, or the instance does not read.
    Busy,
    /// The request waited until its deadline for room in the window of a course service.
    NoTurn,
    /// The packet exceeds the limit of a frame.
    TooLarge {
        /// Its size, in bytes.
        bytes: usize,
        /// The longest frame, in bytes.
        limit: usize,
    },
    /// The packet exceeds the limit of a course service.
    TooLargeForCourse {
        /// Its size, in bytes.
        bytes: usize,
    },
    /// The request has passed through too many services, because they call each other in a ring.
    Ring,
}

impl ReplyFrame {
    /// Reads the fields of a reply packet.
    ///
    /// # Errors
    /// The frame is not one JSON object.
    pub fn parse(frame: &str) -> serde_json::Result<Self> {
        Head::parse(frame).map(|head| Self::of(&head, frame))
    }

    /// The reply in this frame. Its fields are already parsed.
    pub(super) fn of(head: &Head<'_>, frame: &str) -> Self {
        Self {
            json: frame.to_owned(),
            errorcode: head.errorcode,
            status: head.status,
            results: head.results.map(|results| find_part(frame, results.get())),
            more: head.more,
            seq: head.seq,
            etag: head.etag.as_deref().map(str::to_owned),
            retry_after: head.retry_after,
            explained_at: head.explain.map(|_| Instant::now()),
        }
    }

    /// A failure that we create for a service that sends none.
    pub(super) fn failure(errorcode: u16, message: &'static str) -> Self {
        Self {
            json: format!(r#"{{"errorcode":{errorcode},"errormessage":"{message}"}}"#),
            errorcode: Some(errorcode.into()),
            status: None,
            results: None,
            more: false,
            seq: None,
            etag: None,
            retry_after: None,
            explained_at: None,
        }
    }

    /// The JSON text of the results, if the reply has any.
    #[must_use]
    pub fn results(&self) -> Option<&str> {
        self.json.get(self.results.clone()?)
    }
}

/// The position of `part` in `whole`, from which it was borrowed.
fn find_part(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => {
                f.write_str("no reply came in time; the request may or may not have been carried out")
            }
            Self::LinkLost => f.write_str(
                "the connection to the service was lost before the reply; \
                 the request may or may not have been carried out",
            ),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => f.write_str("there is no connection to the service"),
            Self::Busy => f.write_str("too many requests are in flight"),
            Self::NoTurn => {
                f.write_str("the request waited behind others until its deadline and was not sent")
            }
            Self::TooLarge { bytes, limit } => {
                write!(f, "the request has {bytes} bytes; one packet may have at most {limit}")
            }
            Self::TooLargeForCourse { bytes } => write!(
                f,
                "the request has {bytes} bytes; a course service accepts at most {COURSE_MAX_BYTES} in one packet"
            ),
            Self::Ring => f.write_str("the request has passed through too many services"),
        }
    }
}

impl std::error::Error for Outcome {}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<SendError> for Outcome {
    fn from(error: SendError) -> Self {
        Self::Refused(match error {
            SendError::Closed => Refusal::Down,
            SendError::Full => Refusal::Busy,
        })
    }
}
