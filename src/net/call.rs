//! A request that was sent over a link, and how it ends.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;

use super::connection::LinkConnection;
use super::health::Health;
use super::mailbox::Mailbox;
use super::reply::{Outcome, Refusal, ReplyFrame};
use crate::packet::Outgoing;
use crate::packet::explain::Explanation;
use crate::sync::Permit;

/// The shortest timeout that counts. A call with less time says nothing about the instance if it gets no reply.
const FAIR_WAIT: Duration = Duration::from_millis(100);

/// A request with a pending reply. Dropping it stops the wait.
pub struct Call<'a> {
    health: &'a Health,
    uri: &'a str,
    explanation: Option<&'a Explanation>,
    reply: Mailbox,
    entry: PendingEntry,
    began: Instant,
    deadline: Instant,
    _in_flight: Permit<&'a AtomicUsize>,
}

impl<'a> Call<'a> {
    /// A call that starts now. It holds one of the link's permits for calls, `in_flight`.
    pub(super) fn new(
        health: &'a Health,
        request: &Outgoing<'a>,
        reply: Mailbox,
        entry: PendingEntry,
        deadline: Instant,
        in_flight: Permit<&'a AtomicUsize>,
    ) -> Self {
        let Outgoing { uri, explanation, .. } = *request;
        let began = Instant::now();
        Self { health, uri, explanation, reply, entry, began, deadline, _in_flight: in_flight }
    }

    /// Waits for the reply until the deadline of the call.
    ///
    /// # Errors
    /// The [`Outcome`] of a request that got no reply.
    pub fn wait(mut self) -> Result<ReplyFrame, Outcome> {
        let received = self.reply.receive(self.deadline);
        self.conclude(received)
    }

    /// Like [`wait`](Self::wait), but returns `None` if the call has not ended at `until`.
    pub fn wait_until(&mut self, until: Instant) -> Option<Result<ReplyFrame, Outcome>> {
        let until = until.min(self.deadline);
        match self.reply.receive(until) {
            Err(RecvTimeoutError::Timeout) if until < self.deadline => None,
            received => Some(self.conclude(received)),
        }
    }

    /// The moment when half of the call's time has passed.
    #[must_use]
    pub fn halfway(&self) -> Instant {
        self.began + self.deadline.saturating_duration_since(self.began) / 2
    }

    /// True if the request still waits for its turn, which only happens on the link to a course service.
    #[must_use]
    pub fn is_waiting_for_turn(&self) -> bool {
        let PendingEntry { connection, key, .. } = &self.entry;
        connection.course.as_ref().is_some_and(|course| course.is_waiting(*key))
    }

    /// Stops the wait because the instance was silent for too long. This counts as a failure of the instance.
    pub fn abandon(self) {
        self.count_silence(Instant::now());
    }

    fn conclude(&mut self, received: Result<ReplyFrame, RecvTimeoutError>) -> Result<ReplyFrame, Outcome> {
        let ended = self.end(received);
        if let Some(explanation) = self.explanation {
            explain_end(explanation, &self.entry.connection.address, &ended);
        }
        ended
    }

    fn end(&mut self, received: Result<ReplyFrame, RecvTimeoutError>) -> Result<ReplyFrame, Outcome> {
        match received {
            Ok(reply) => {
                self.entry.is_answered = true;
                self.health.count_answer();
                if reply.more {
                    // The reply starts a stream that has no reader.
                    self.entry.connection.cancel(self.uri, self.entry.key);
                }
                Ok(reply)
            }
            Err(RecvTimeoutError::Timeout) if self.entry.withdraw() => Err(Outcome::Refused(Refusal::NoTurn)),
            Err(RecvTimeoutError::Disconnected) if self.entry.withdraw() => {
                Err(Outcome::Refused(Refusal::Down))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.count_silence(self.deadline);
                Err(Outcome::Timeout)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Outcome::LinkLost),
        }
    }

    fn count_silence(&self, now: Instant) {
        if now.saturating_duration_since(self.began) >= FAIR_WAIT {
            self.health.count_failure();
        }
    }
}

#[cold]
fn explain_end(explanation: &Explanation, address: &str, ended: &Result<ReplyFrame, Outcome>) {
    const FILE: &str = "src/net/mailbox.rs";
    match ended {
        Ok(reply) => {
            let waited = reply.explained_at.map(|read| read.elapsed().as_micros());
            let waited = waited.map(|us| format!(", {us} µs after the link's thread had read it"));
            let text = format!("the caller wakes up with its reply{}", waited.unwrap_or_default());
            explanation.add_received(FILE, address, text, &reply.json);
        }
        Err(outcome) => explanation.add(FILE, format!("{address}: {outcome}")),
    }
}

/// A caller's entry in the pending table. It is removed on every path.
pub struct PendingEntry {
    connection: Arc<LinkConnection>,
    key: u64,
    /// The reader has removed the entry from the table and delivered the reply.
    is_answered: bool,
}

impl PendingEntry {
    /// The entry under `key`, which a caller has just received.
    pub(super) fn new(connection: Arc<LinkConnection>, key: u64) -> Self {
        Self { connection, key, is_answered: false }
    }

    /// Removes the entry. True if the request was never sent and will not be.
    fn withdraw(&self) -> bool {
        self.connection.give_up(self.key)
    }
}

impl Drop for PendingEntry {
    fn drop(&mut self) {
        if !self.is_answered {
            self.connection.give_up(self.key);
            self.connection.pending.remove(self.key);
        }
        self.connection.close_if_retired();
    }
}
