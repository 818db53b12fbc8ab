//! Maps an outcome or a reply to a status and a message.

use serde_json::Value;

use crate::net::reply::{Outcome, Refusal, ReplyFrame};
use crate::packet::Failure;
use crate::packet::explain::without_explanation;

/// The status of each outcome, in HTTP and between services. No other function decides it.
#[must_use]
pub fn failure_of(outcome: Outcome, uri: &str) -> Failure {
    let (status, what_now) = match outcome {
        Outcome::Timeout => (504, "check its effect before you repeat it"),
        Outcome::LinkLost => (502, "check its effect before you repeat it"),
        Outcome::Refused(Refusal::TooLarge { .. } | Refusal::TooLargeForCourse { .. }) => (413, "send less"),
        Outcome::Refused(Refusal::Down) => (503, "start an instance, or try again in a moment"),
        Outcome::Refused(Refusal::Busy | Refusal::NoTurn) => (503, "try again in a moment"),
        Outcome::Refused(Refusal::Ring) => (508, "break the ring of services that call each other"),
    };
    Failure::new(status, format!("{uri}: {outcome}; {what_now}"))
}

/// The fields that every failure has. All other fields belong to the service, such as `oldest`.
const USUAL_FIELDS: [&str; 5] = ["key", "errorcode", "errorCode", "errormessage", "more"];

/// The fields of a reply packet.
///
/// # Errors
/// The failure that the reply reports.
pub(crate) fn read_reply(reply: &ReplyFrame) -> Result<Value, Failure> {
    let json = if reply.explained_at.is_some() {
        without_explanation(&reply.json)
    } else {
        reply.json.as_str().into()
    };
    let packet: Value = serde_json::from_str(&json)
        .map_err(|error| Failure::new(502, format!("the reply cannot be read: {error}")))?;
    match reply.errorcode.unwrap_or(0) {
        0 => Ok(packet),
        code => {
            let message = packet.get("errormessage").and_then(Value::as_str).unwrap_or("the service refused");
            let failure = Failure::new(u16::try_from(code).unwrap_or(500), message);
            let rest = packet
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !USUAL_FIELDS.contains(&name.as_str()));
            Err(rest.fold(failure, |failure, (name, value)| failure.with(name, value.clone())))
        }
    }
}
