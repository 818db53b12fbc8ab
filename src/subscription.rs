//! A stream of replies that survives its links: the reading end of a change feed.
//!
//! A subscription asks a route for a stream and reads it. It asks again when the link is lost, the instance stops, or
//! the reader was too slow. It asks any available instance for the changes `after` the last number that it read. So a
//! reader sees every change once and in order.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;
use serde_json::{Map, Value};

use crate::context::{Context, DEFAULT_TIMEOUT};
use crate::mesh::{self, Mesh, read_reply};
use crate::net::link::{Outcome, ReplyFrame, ReplyStream, StreamEnd};
use crate::packet::Failure;

/// How long to wait before a lost stream is requested again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// A stream that resumes after a loss.
pub struct Subscription {
    mesh: Arc<Mesh>,
    uri: String,
    params: Map<String, Value>,
    after: Option<u64>,
    /// The request for which the streams are opened.
    context: Context,
    stream: Option<ReplyStream>,
    opened: bool,
}

impl Subscription {
    /// A subscription to `GET uri`. It opens its stream at the first read. `params` may set the start, as `after`.
    /// Without `after`, only new changes are sent. The `context` gives each stream its origin, and no deadline.
    #[must_use]
    pub fn new(mesh: &Arc<Mesh>, context: &Context, uri: &str, params: Map<String, Value>) -> Self {
        let after = params.get("after").and_then(|after| match after {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        });
        let (origin, explanation) = (context.origin.clone(), context.explanation.clone());
        let context = Context { origin, explanation, ..Context::default() };
        Self { mesh: mesh.clone(), uri: uri.to_owned(), params, after, context, stream: None, opened: false }
    }

    /// The number of the last change that was read. Another subscription can resume after it.
    #[must_use]
    pub fn after(&self) -> Option<u64> {
        self.after
    }

    /// The instance that serves the stream now, as `host:port`.
    #[must_use]
    pub fn instance(&self) -> Option<&Arc<str>> {
        self.stream.as_ref().map(ReplyStream::address)
    }

    /// Whether a reply has already arrived.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.stream.as_ref().is_some_and(ReplyStream::has_next)
    }

    /// The next reply, or `None` if none arrived before `deadline`. A reply without results only confirms that the
    /// stream is open, and up to which number it is complete.
    ///
    /// # Errors
    /// The error that ends the subscription permanently. The service rejects it (410 if the changes `after` the number
    /// are deleted), the route is not registered at the first request, or the stream has no numbers to resume from.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<ReplyFrame>, Failure> {
        loop {
            let read = match &mut self.stream {
                Some(stream) => stream.next(deadline),
                None => match self.open() {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(outcome) => {
                        self.wait(outcome, deadline)?;
                        if Instant::now() >= deadline {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            };
            match read {
                Ok(None) => return Ok(None),
                Ok(Some(reply)) => {
                    if let Some(reply) = self.take(reply)? {
                        return Ok(Some(reply));
                    }
                }
                Err(StreamEnd::Finished) => return Err(Failure::new(410, "the stream has ended")),
                Err(StreamEnd::LinkLost) => self.lose(Outcome::LinkLost)?,
                Err(StreamEnd::Lagging) if self.after.is_some() => self.stream = None,
                Err(StreamEnd::Lagging) => {
                    return Err(Failure::new(503, "the reader does not keep up with the stream"));
                }
            }
        }
    }

    fn open(&self) -> Result<ReplyStream, Outcome> {
        let mut params = self.params.clone();
        if let Some(after) = self.after {
            params.insert("after".to_owned(), after.into());
        }
        let params = to_raw_value(&params).map_err(|_| Outcome::LinkLost)?;
        let request = self.context.request("GET", &self.uri, &params);
        self.mesh.open_stream(&request, Instant::now() + DEFAULT_TIMEOUT)
    }

    /// Returns a reply that the reader needs. Returns `None` if the stream must be reopened, or if the reader has
    /// already seen the change.
    fn take(&mut self, reply: ReplyFrame) -> Result<Option<ReplyFrame>, Failure> {
        if reply.errorcode.is_some_and(|code| code != 0) {
            // 503 means "not here, not now": the instance stops, or this reader was too slow for it.
            if reply.errorcode == Some(503) && self.opened && self.after.is_some() {
                self.stream = None;
                thread::sleep(RETRY_AFTER);
                return Ok(None);
            }
            return Err(refusal(&reply));
        }
        self.opened = true;
        if let Some(seq) = reply.seq {
            let seen = self.after.is_some_and(|after| seq <= after);
            // A reply that is not part of a stream, such as a page, must not be compared with `after`.
            if seen && reply.more && reply.results().is_some() {
                return Ok(None);
            }
            self.after = self.after.max(Some(seq));
        }
        Ok(Some(reply))
    }

    fn lose(&mut self, outcome: Outcome) -> Result<(), Failure> {
        self.stream = None;
        if self.mesh.is_closing() {
            return Err(Failure::new(503, "this process is ending; ask again elsewhere or later"));
        }
        if self.after.is_none() {
            return Err(mesh::failure_of(outcome, &self.uri));
        }
        Ok(())
    }

    /// Handles a stream that could not be opened: an error if it was never open, else a short pause.
    fn wait(&mut self, outcome: Outcome, deadline: Instant) -> Result<(), Failure> {
        if !self.opened {
            return Err(mesh::failure_of(outcome, &self.uri));
        }
        self.lose(outcome)?;
        thread::sleep(RETRY_AFTER.min(deadline.saturating_duration_since(Instant::now())));
        Ok(())
    }
}

fn refusal(reply: &ReplyFrame) -> Failure {
    read_reply(reply).err().unwrap_or_else(|| Failure::new(502, "the reply cannot be read"))
}

#[cfg(test)]
mod tests;
