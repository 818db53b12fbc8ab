//! The answer to one request, which is sent, counted and logged exactly once.

use std::sync::Arc;
use std::time::Instant;

use super::course::ReplyRules;
use super::requested_route::RequestedRoute;
use super::streams::{StreamSender, StreamTable};
use crate::context::Context;
use crate::net::listener::Work;
use crate::net::peer::{Peer, SentAnswer};
use crate::observe::access_log::ServiceLine;
use crate::observe::metrics::SERVICE_IN_FLIGHT;
use crate::packet::explain::Explanation;
use crate::packet::{Failure, Head, Key, Origin, Reply};

/// The duty to answer one request, exactly once, from any thread.
#[derive(Debug)]
pub struct Responder {
    peer: Arc<Peer>,
    key: Option<Key>,
    /// The asker expects no reply.
    is_notice: bool,
    rules: ReplyRules,
    requested: Arc<RequestedRoute>,
    origin: Option<Arc<Origin>>,
    explanation: Option<Arc<Explanation>>,
    began: Instant,
    is_answered: bool,
    streams: Arc<StreamTable>,
    /// Keeps the connection open until the answer is written.
    _work: Work,
}

impl Responder {
    /// The duty to answer this request, which has just arrived.
    pub(super) fn new(
        peer: &Arc<Peer>,
        head: &Head<'_>,
        rules: ReplyRules,
        requested: Arc<RequestedRoute>,
        context: &Context,
        streams: &Arc<StreamTable>,
    ) -> Self {
        SERVICE_IN_FLIGHT.inc();
        Self {
            peer: peer.clone(),
            key: head.answer_key(),
            is_notice: head.is_notice(),
            rules,
            requested,
            origin: context.origin.clone(),
            explanation: context.explanation.clone(),
            began: Instant::now(),
            is_answered: false,
            streams: streams.clone(),
            _work: peer.work(),
        }
    }

    /// Whether the asker understands several replies to this request. Course nodes do not.
    #[must_use]
    pub fn can_stream(&self) -> bool {
        self.rules.allows_streams && self.key.is_some() && !self.is_notice
    }

    /// Answers with a stream. It stays open until the service or the asker ends it, or until their connection closes.
    ///
    /// # Errors
    /// Returns the responder if the asker cannot take a stream, or if too many are open.
    pub fn into_stream(mut self) -> Result<StreamSender, Self> {
        let Some(key) = self.key.clone().filter(|_| self.can_stream()) else { return Err(self) };
        self.explain("src/service/streams.rs", || "a stream begins".to_owned());
        match self.streams.open(&self.peer, key, self.explanation.as_ref()) {
            Some(stream) => {
                self.record(&SentAnswer::default());
                Ok(stream)
            }
            None => Err(self),
        }
    }

    /// The explanation of the request, if it is explained.
    #[must_use]
    pub fn explanation(&self) -> Option<&Arc<Explanation>> {
        self.explanation.as_ref()
    }

    /// Adds a step to the explanation of the request, if it is explained. `file` does the step.
    pub fn explain(&self, file: &'static str, step: impl FnOnce() -> String) {
        if let Some(explanation) = &self.explanation {
            explanation.add(file, step());
        }
    }

    /// Answers the request. A notice is counted and logged, and gets no reply.
    pub fn answer(mut self, outcome: &Result<Reply, Failure>) {
        drop(self.send(outcome));
    }

    /// Answers the request as one of many. A caller that keeps the returned values until all are answered wakes each
    /// connection once. The answers then leave in one write.
    #[must_use]
    pub fn answer_among_others(mut self, outcome: &Result<Reply, Failure>) -> SentAnswer {
        self.send(outcome)
    }

    fn send(&mut self, outcome: &Result<Reply, Failure>) -> SentAnswer {
        let sent = if self.is_notice {
            let errorcode = outcome.as_ref().err().map_or(0, |failure| failure.errorcode);
            SentAnswer { errorcode, ..SentAnswer::default() }
        } else {
            self.explain(file!(), || match outcome {
                Ok(_) => "the handler has answered".to_owned(),
                Err(failure) => format!("the handler has answered {failure}"),
            });
            let explanation = self.explanation.as_deref();
            self.peer.answer(self.key.as_ref(), outcome, self.rules.limit_bytes, explanation)
        };
        self.record(&sent);
        sent
    }

    /// Counts the request and writes its line in the access log, when it is answered or its stream begins.
    fn record(&mut self, sent: &SentAnswer) {
        self.is_answered = true;
        let took = self.began.elapsed();
        self.requested.series.answered(sent.errorcode, took);
        ServiceLine {
            id: self.origin.as_ref().map(|origin| origin.request_id.as_str()),
            peer: self.peer.address(),
            method: &self.requested.method,
            uri: &self.requested.uri,
            errorcode: sent.errorcode,
            bytes: sent.bytes,
            took,
        }
        .write();
    }
}

impl Drop for Responder {
    /// A handler that loses its responder or panics answers with a failure, so the asker always gets an answer.
    fn drop(&mut self) {
        SERVICE_IN_FLIGHT.dec();
        if !self.is_answered {
            drop(self.send(&Err(Failure::new(
                500,
                "the service failed to answer this request; its log says more",
            ))));
        }
    }
}
