//! `X-Explain`: the client gets the steps of its request, as a diagram (`text`) or in the reply packet (`json`).

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::diagram;
use crate::context::Context;
use crate::http::{HttpAnswer, HttpRequest, RequestError};
use crate::net::link::ReplyFrame;
use crate::packet::explain::{Explanation, without_explanation};
use crate::packet::masked::masked;

/// The header that asks for an explanation.
pub const HEADER: &str = "X-Explain";

/// The clients that may ask for an explanation (`--explain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainPolicy {
    /// Nobody.
    Off,
    /// Only a client that is logged in as an admin. A GET of this path answers the client's own record, with its `role`.
    Admins(&'static str),
    /// Every client: development mode.
    Everyone,
}

/// The form of an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExplainFormat {
    /// A sequence diagram as text.
    Text,
    /// The reply packet with one more field, `explain`.
    Json,
}

impl ExplainFormat {
    /// The format that this value of the header names.
    ///
    /// # Errors
    /// 400 for any other value.
    pub fn parse(value: &str) -> Result<Self, RequestError> {
        match value.trim() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(RequestError::bad_request(format!(
                "unknown {HEADER} {other:?}; expected one of: text, json"
            ))),
        }
    }
}

/// The explanation of a request that has been read.
#[must_use]
pub fn begin(request: &HttpRequest) -> Arc<Explanation> {
    let text = format!("the HTTP request is read, with {} bytes of body", request.body.len());
    Explanation::begin("gateway", request.began, "src/http/reader.rs", text)
}

/// The reply that the client would have got from a service that does not explain.
#[must_use]
pub fn plain_reply(mut reply: ReplyFrame, context: &Context) -> ReplyFrame {
    if context.explanation.is_some() {
        reply.json = without_explanation(&reply.json).into_owned();
    }
    reply
}

/// The explained answer to a request with this request line. Its status is that of the plain answer, unless that allows
/// no body.
#[must_use]
pub fn explained_answer(
    request: &str,
    answer: HttpAnswer,
    explanation: &Explanation,
    format: ExplainFormat,
) -> HttpAnswer {
    let status = answer.status;
    explanation.add("src/http/answer_writer.rs", format!("the answer {status} is ready to be written"));
    let body = String::from_utf8_lossy(&answer.body);
    let body = body.trim_end();
    let explained = match format {
        ExplainFormat::Json => HttpAnswer::json(200, &with_steps(body, explanation)),
        ExplainFormat::Text => {
            let last = format!("HTTP/1.1 {status}\n{}", masked(body.as_bytes()));
            let text = diagram::draw(&explanation.steps(), request, &last);
            HttpAnswer::text("text/plain; charset=utf-8", text)
        }
    };
    explained.in_place_of(answer)
}

/// The explained answer to a request that could not be read.
#[must_use]
pub fn rejected_answer(answer: HttpAnswer, format: ExplainFormat) -> HttpAnswer {
    let text = "the HTTP request is rejected while it is read; no packet is sent".to_owned();
    let explanation = Explanation::begin("gateway", Instant::now(), "src/http/request_head.rs", text);
    explained_answer("a request that was not read", answer, &explanation, format)
}

/// The reply packet with its steps. A body that is not a packet is left out.
fn with_steps(body: &str, explanation: &Explanation) -> Value {
    let mut packet: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
    packet.insert("explain".to_owned(), json!(explanation.steps()));
    Value::Object(packet)
}

/// 403: the gateway explains no request.
#[must_use]
pub fn off() -> RequestError {
    RequestError::new(
        403,
        format!("{HEADER} is off; start the gateway with --explain on, and ask as an admin"),
    )
}

/// 403: the client is not an admin.
#[must_use]
pub fn not_admin() -> RequestError {
    RequestError::new(403, format!("only an admin may send {HEADER}; log in as one, and show the token"))
}
