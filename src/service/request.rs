//! A request as a handler sees it.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use super::course::is_packet_key;
use crate::context::{Context, MAX_HOPS};
use crate::net::batch::Batch;
use crate::net::peer::Peer;
use crate::packet::explain::Explanation;
use crate::packet::{Failure, Head, Origin};

/// A request as a handler sees it.
#[derive(Debug)]
pub struct Request {
    params: Value,
    context: Context,
    batch: Option<Arc<Batch>>,
}

impl Request {
    /// Reads a request that has just arrived. Its context gets its deadline and hops.
    ///
    /// # Errors
    /// A request whose deadline has passed, that has passed too many services, or that cannot be read. None of
    /// them reaches a handler.
    pub(super) fn read(
        peer: &Peer,
        head: &Head<'_>,
        mut context: Context,
        batch: Option<&Arc<Batch>>,
    ) -> Result<Self, Failure> {
        context.deadline = check_deadline(peer, head)?;
        context.hops = check_hops(head)?;
        context.explain(file!(), || describe_admission(head, &context));
        let json = head.params.map_or("{}", |params| params.get());
        let mut params: Value = serde_json::from_str(json)
            .map_err(|error| Failure::bad_request(format!("params cannot be read: {error}")))?;
        if let Value::Object(fields) = &mut params
            && fields.get("key").is_some_and(|key| is_packet_key(head, key))
        {
            fields.remove("key");
        }
        Ok(Self { params, context, batch: batch.cloned() })
    }

    /// The arguments by name: from the query, the body and the path, or from another service.
    ///
    /// # Errors
    /// 400 if the asker sent a value that is not an object.
    pub fn params(&self) -> Result<&Map<String, Value>, Failure> {
        self.params.as_object().ok_or_else(|| Failure::bad_request("params must be a JSON object"))
    }

    /// The arguments as the JSON value that arrived; nearly always an object.
    #[must_use]
    pub fn raw_params(&self) -> &Value {
        &self.params
    }

    /// A required argument that must be text.
    ///
    /// # Errors
    /// 400 that names the argument.
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        match self.params()?.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Failure::bad_request(format!("{name} must be text"))),
            None => Err(Failure::bad_request(format!("{name} is missing"))),
        }
    }

    /// The context that the calls of a handler inherit from this request.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where the request began, if the asker states it. The gateway states it for every HTTP request.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.context.origin.as_deref()
    }

    /// The requests that arrived together with this one, if there are any. Their handlers can share work. The batch ends
    /// when the last of them has been handed to its handler.
    #[must_use]
    pub fn batch(&self) -> Option<&Arc<Batch>> {
        self.batch.as_ref()
    }

    /// Until when the asker waits, if it says so. Later work is useless.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.context.deadline
    }
}

/// The explanation that this request asks for.
pub(super) fn begin_explanation(service: &'static str, head: &Head<'_>) -> Option<Arc<Explanation>> {
    let is_explained = head.explain.is_some_and(|explain| explain.get() == "true");
    is_explained.then(|| {
        let text = "the thread of this connection has read the packet".to_owned();
        Explanation::begin(service, Instant::now(), "src/net/peer.rs", text)
    })
}

fn describe_admission(head: &Head<'_>, context: &Context) -> String {
    let hops = context.hops;
    match (head.deadline_ms, context.deadline) {
        (Some(sent), Some(deadline)) => {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            format!("admitted: the caller waits {sent} ms, and {left} ms are left; service {hops} on the way")
        }
        _ => format!("admitted: the caller states no deadline; service {hops} on the way"),
    }
}

/// Until when the asker waits. A request can be late because the network delayed it or this process was paused. A late
/// start is worse than none: the asker may have sent a newer request since.
fn check_deadline(peer: &Peer, head: &Head<'_>) -> Result<Option<Instant>, Failure> {
    let deadline = peer.deadline_of(head);
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return Err(Failure::new(503, "the request arrived after its deadline and was not started"));
    }
    Ok(deadline)
}

/// How many services the request has passed, this one included.
fn check_hops(head: &Head<'_>) -> Result<u32, Failure> {
    let hops = head.hops.unwrap_or(0).saturating_add(1);
    if hops > MAX_HOPS + 1 {
        return Err(Failure::new(
            508,
            "this request has come through too many services: they call each other in a ring",
        ));
    }
    Ok(hops)
}
