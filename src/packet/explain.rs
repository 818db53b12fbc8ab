//! The explanation of one request: the steps that it takes, each with its time and its packet.
//!
//! A client asks the gateway for it. The request packet then has `"explain":true`, and the reply has the steps of the
//! service as `"explain":[…]`. A service that calls another service puts those steps into its own. So an explanation
//! needs no collector. Each process counts microseconds on its own clock, so the clocks need not agree
//! (`docs/protocol.md`, section 9).
//!
//! *Invariant:* a request that is not explained costs one check per step. An explanation has at most [`MAX_STEPS`] steps
//! and [`MAX_BYTES`] of text for each process, with the steps of others included. Packets are shown masked.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::delimiter::DELIMITER;
use super::masked::masked;
use crate::sync::lock;

/// The limit of steps in the explanation of one process. The last one says that the rest is missing.
pub const MAX_STEPS: usize = 64;

/// The limit of the text in the explanation of one process, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// What a step of another process counts for at least, in bytes.
const STEP_BYTES: usize = 32;

/// The place of steps that the database does.
pub const DATABASE: &str = "database";

/// The member that a service adds to its reply, up to its value.
const MEMBER: &str = r#","explain":"#;

/// The end of every reply frame.
const END: &str = "}¶";

/// The steps of one request in this process. Threads share it.
#[derive(Debug)]
pub struct Explanation {
    began: Instant,
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    steps: Vec<Step>,
    bytes: usize,
}

/// One step of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When the step ended, in microseconds since this process began with the request.
    pub at_us: u64,
    /// The place of the step, if it is new: the name of the process in its first step, or [`DATABASE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Cow<'static, str>>,
    /// What happened.
    pub text: String,
    /// The source file that does the step.
    pub file: Cow<'static, str>,
    /// The packet that the step sent or received.
    #[serde(flatten, default)]
    pub packet: Option<StepPacket>,
    /// The steps of the process that answered, if the step received its reply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explain: Vec<Step>,
}

/// A packet of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPacket {
    /// Where it went, or where it came from.
    #[serde(flatten)]
    pub direction: Direction,
    /// Its length, with its delimiter.
    pub bytes: usize,
    /// Its masked text, without its delimiter. A long one is cut.
    pub packet: String,
}

/// The direction of a packet, with the address of the other process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// This process sent it.
    To(String),
    /// This process received it.
    From(String),
}

impl Direction {
    fn peer(&self) -> &str {
        match self {
            Self::To(peer) | Self::From(peer) => peer,
        }
    }
}

impl Explanation {
    /// An explanation whose first step is now. `place` is the name of this process.
    #[must_use]
    pub fn begin(place: &'static str, began: Instant, file: &'static str, text: String) -> Arc<Self> {
        let explanation = Self { began, recorded: Mutex::default() };
        explanation.push(Step { place: Some(place.into()), ..explanation.step(file, text) });
        Arc::new(explanation)
    }

    /// Adds a step that has just ended. `file` is the source file that does it.
    pub fn add(&self, file: &'static str, text: String) {
        self.push(self.step(file, text));
    }

    /// Adds a step of the database.
    pub fn add_in_database(&self, file: &'static str, text: String) {
        self.push(Step { place: Some(DATABASE.into()), ..self.step(file, text) });
    }

    /// Adds a packet that is being sent to `peer`.
    pub fn add_sent(&self, file: &'static str, peer: &str, text: String, frame: &[u8]) {
        let packet = StepPacket {
            direction: Direction::To(peer.to_owned()),
            bytes: frame.len(),
            packet: masked(frame).to_string(),
        };
        self.push(Step { packet: Some(packet), ..self.step(file, text) });
    }

    /// Adds a reply that arrived from `peer`, with the steps that it reports.
    pub fn add_received(&self, file: &'static str, peer: &str, text: String, reply: &str) {
        let plain = without_explanation(reply);
        let packet = StepPacket {
            direction: Direction::From(peer.to_owned()),
            bytes: reply.len() + DELIMITER.len(),
            packet: masked(plain.as_bytes()).to_string(),
        };
        self.push(Step {
            packet: Some(packet),
            explain: steps_in(reply).unwrap_or_default(),
            ..self.step(file, text)
        });
    }

    /// The steps so far.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        lock(&self.recorded).steps.clone()
    }

    fn step(&self, file: &'static str, text: String) -> Step {
        let at_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Step { at_us, place: None, text, file: file.into(), packet: None, explain: Vec::new() }
    }

    fn push(&self, mut step: Step) {
        let mut recorded = lock(&self.recorded);
        match MAX_STEPS.saturating_sub(recorded.steps.len()) {
            0 => return,
            1 => {
                let text = "the next steps are left out".to_owned();
                step = Step { text, packet: None, explain: Vec::new(), ..step };
            }
            _ => {}
        }
        for cut in [Step::drop_nested, Step::drop_packet, Step::drop_text] {
            if recorded.bytes + step.size() <= MAX_BYTES {
                break;
            }
            cut(&mut step);
        }
        recorded.bytes += step.size();
        recorded.steps.push(step);
    }
}

impl Step {
    /// The size of its texts, in bytes.
    fn size(&self) -> usize {
        let packet = self.packet.as_ref().map_or(0, |packet| packet.packet.len());
        self.text.len() + packet + self.explain.iter().map(Self::size_of_nested).sum::<usize>()
    }

    /// The size that a step of another process counts for. That process may send many empty steps with long names.
    fn size_of_nested(&self) -> usize {
        let place = self.place.as_ref().map_or(0, |place| place.len());
        let peer = self.packet.as_ref().map_or(0, |packet| packet.direction.peer().len());
        STEP_BYTES + self.file.len() + place + peer + self.size()
    }

    /// Removes the texts of all packets, here and in the steps of other processes. Their lengths stay.
    pub fn hide_packets(&mut self) {
        if let Some(packet) = &mut self.packet {
            packet.packet.clear();
        }
        self.explain.iter_mut().for_each(Self::hide_packets);
    }

    fn drop_nested(&mut self) {
        if !self.explain.is_empty() {
            self.explain.clear();
            self.text.push_str(" (its steps are too long to show)");
        }
    }

    fn drop_packet(&mut self) {
        if let Some(packet) = &mut self.packet {
            "…".clone_into(&mut packet.packet);
        }
    }

    fn drop_text(&mut self) {
        "…".clone_into(&mut self.text);
    }
}

/// Adds the steps to a reply that is already encoded.
pub fn add_to_reply(frame: &mut Vec<u8>, explanation: &Explanation) {
    let Ok(steps) = serde_json::to_string(&explanation.steps()) else { return };
    frame.truncate(frame.len().saturating_sub(END.len()));
    frame.extend_from_slice(MEMBER.as_bytes());
    // The packet of a course node may have a raw `¶`. Only strings have characters that are not ASCII.
    frame.extend_from_slice(steps.replace('¶', r"\u00b6").as_bytes());
    frame.extend_from_slice(END.as_bytes());
}

/// The reply packet without the steps that it reports. This is what the client would have got.
#[must_use]
pub fn without_explanation(reply: &str) -> Cow<'_, str> {
    let Some(steps) = steps_text(reply) else { return Cow::Borrowed(reply) };
    let begin = steps.as_ptr().addr() - reply.as_ptr().addr();
    let (before, after) = (&reply[..begin], &reply[begin + steps.len()..]);
    match before.strip_suffix(MEMBER) {
        Some(before) => Cow::Owned([before, after].concat()),
        None => Cow::Borrowed(reply),
    }
}

fn steps_text(reply: &str) -> Option<&str> {
    #[derive(Deserialize)]
    struct Explained<'a> {
        #[serde(borrow)]
        explain: &'a RawValue,
    }
    serde_json::from_str::<Explained<'_>>(reply).ok().map(|reply| reply.explain.get())
}

/// The steps in a reply. A node may send anything here, so what cannot be read is not shown.
fn steps_in(reply: &str) -> Option<Vec<Step>> {
    serde_json::from_str(steps_text(reply)?).ok()
}

#[cfg(test)]
mod tests;
