//! Streams of replies as Server-Sent Events, for browsers and `curl -N`.
//!
//! The thread of the client's connection reads the subscription; no other request waits for it. When the client
//! disconnects, the stream is dropped, and the subscription cancels it at its source.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::request_record::RequestRecord;
use crate::http::EventSource;
use crate::http::event_stream::{BATCH_BYTES, append_comment, append_event};
use crate::net::link::ReplyFrame;
use crate::packet::Failure;
use crate::subscription::Subscription;
use crate::sync::Permit;

/// A stream that was silent for this long sends a comment.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

/// A stream that is being sent to a client.
pub struct EventStream {
    subscription: Subscription,
    /// The reply that showed that the answer is a stream.
    first: Option<ReplyFrame>,
    record: RequestRecord<'static>,
    _place: StreamPlace,
}

/// A place among the streams of a gateway (`--max-streams`). Dropping it releases the place.
pub type StreamPlace = Permit<Arc<AtomicUsize>>;

impl EventStream {
    /// A stream whose first reply has arrived.
    #[must_use]
    pub fn new(
        subscription: Subscription,
        first: ReplyFrame,
        record: RequestRecord<'static>,
        place: StreamPlace,
    ) -> Self {
        Self { subscription, first: Some(first), record, _place: place }
    }

    /// Waits for events and appends those that have arrived. Appends a comment if none arrives.
    fn append_next(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        match self.subscription.next(Instant::now() + COMMENT_EVERY)? {
            Some(reply) => append_reply(out, &reply),
            None => append_comment(out, "nothing new"),
        }
        while self.subscription.has_next() && out.len() < BATCH_BYTES {
            match self.subscription.next(Instant::now())? {
                Some(reply) => append_reply(out, &reply),
                None => break,
            }
        }
        Ok(())
    }
}

impl EventSource for EventStream {
    fn headers(&self) -> Vec<(&'static str, &str)> {
        vec![("X-Request-Id", &self.record.id)]
    }

    fn append_events(&mut self, out: &mut Vec<u8>) -> ControlFlow<()> {
        if let Some(first) = self.first.take() {
            append_reply(out, &first);
            return ControlFlow::Continue(());
        }
        match self.append_next(out) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                append_end(out, &failure);
                ControlFlow::Break(())
            }
        }
    }

    fn finish(&mut self, sent_bytes: usize) {
        self.record.log(200, sent_bytes, self.record.began.elapsed());
    }
}

/// Appends a reply as an event: `id` is its `seq`, `data` its results. A reply without results becomes a comment.
pub fn append_reply(out: &mut Vec<u8>, reply: &ReplyFrame) {
    match (reply.results(), reply.seq) {
        (Some(results), seq) => append_event(out, seq, None, results),
        (None, Some(seq)) => append_comment(out, &format!("following from {seq} on")),
        (None, None) => append_comment(out, "following"),
    }
}

/// Appends the reason why a stream ends, as an event named `error`.
pub fn append_end(out: &mut Vec<u8>, failure: &Failure) {
    let reason = serde_json::json!({ "errorcode": failure.errorcode, "errormessage": failure.errormessage });
    append_event(out, None, Some("error"), &reason.to_string());
}

#[cfg(test)]
mod tests;
