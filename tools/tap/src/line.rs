//! One line of the output: a packet, or a note about a connection. It has a form for programs and one for people.
//!
//! *Invariant:* a line never holds the value of a secret field. It is masked when the line is made.

use pilcrow::packet::frame::BadFrame;
use pilcrow::packet::masked::masked_whole;
use pilcrow::packet::{DELIMITER, Head};
use pilcrow::process::on_one_line;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How many characters of a packet a terminal shows.
const MAX_SHOWN_CHARS: usize = 600;

/// ANSI styles that are readable on dark and on light backgrounds.
const DIM: &str = "2";
const PILCROW: &str = "1;35";
const RED: &str = "1;31";
const YELLOW: &str = "33";

/// One line. As JSON, it is a line of a recording too.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// When it happened, in milliseconds since the tap started.
    pub ms: u64,
    /// The number of the connection. 0 stands for the tap itself.
    pub connection: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The size of the frame with its `¶`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    /// The packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<Box<RawValue>>,
    /// The beginning of a frame that is no packet, or of a packet that is too long for this output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What the tap did to the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// What happened, if this is not about one packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the node.
    To,
    /// From the node.
    From,
}

impl Line {
    /// A line for a frame without its `¶`.
    pub fn of_frame(frame: &str, direction: Direction) -> Self {
        let is_packet = Head::parse(frame).is_ok();
        // JSON has line ends between its parts only. Inside a string they are escaped.
        let on_one_line = || masked_whole(frame).replace(['\n', '\r'], " ");
        let packet = is_packet.then(|| RawValue::from_string(on_one_line()).ok()).flatten();
        let mut line = Self { direction: Some(direction), packet, ..Self::default() };
        line.bytes = Some(frame.len() + DELIMITER.len());
        if line.packet.is_none() {
            // The excerpt of the log line is escaped, and ends before a secret.
            line.text = Some(BadFrame::of(frame.as_bytes(), frame.len()).begins);
            line.note = Some("this is not a JSON object".to_owned());
        }
        line
    }

    /// A line for anything else.
    pub fn of_note(note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..Self::default() }
    }

    /// The same line with only the beginning of the packet, if that is longer than `limit` bytes.
    pub fn shortened(&self, limit: usize) -> Self {
        let Some(packet) = self.packet.as_ref().filter(|packet| packet.get().len() > limit) else {
            return self.clone();
        };
        // Not `..self.clone()`, which would copy the packet.
        Self {
            ms: self.ms,
            connection: self.connection,
            direction: self.direction,
            bytes: self.bytes,
            packet: None,
            text: Some(beginning(packet.get())),
            fault: self.fault.clone(),
            note: self.note.clone(),
        }
    }

    /// The line for programs.
    pub fn as_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The line for people.
    pub fn as_text(&self, has_colour: bool) -> String {
        let paint = |text: &str, colour: &str| {
            if has_colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let time = format!("{:>6}.{:03}", self.ms / 1000, self.ms % 1000);
        let mut parts = vec![paint(&time, DIM)];
        if self.connection > 0 {
            parts.push(format!("#{:<2}", self.connection));
        }
        if let (Some(direction), Some(bytes)) = (self.direction, self.bytes) {
            let (arrow, colour) = direction.arrow();
            parts.push(paint(arrow, colour));
            parts.push(paint(&format!("{bytes:>5} bytes"), DIM));
        }
        let packet = self.packet.as_ref().map(|packet| beginning(packet.get()));
        if let Some(text) = packet.as_ref().or(self.text.as_ref()) {
            parts.push(format!("{}{}", on_one_line(text.clone()), paint("¶", PILCROW)));
        }
        parts.extend(self.fault.as_ref().map(|fault| paint(&format!("✗ {fault}"), RED)));
        parts.extend(self.note.as_ref().map(|note| paint(&on_one_line(note.clone()), YELLOW)));
        parts.join(" ")
    }
}

impl Direction {
    /// The arrow of this direction, and its colour.
    fn arrow(self) -> (&'static str, &'static str) {
        match self {
            Self::To => ("→", "1;36"),
            Self::From => ("←", "1;32"),
        }
    }
}

/// The beginning of a long text. A line states the size of the whole frame.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_shown_with_time_connection_direction_size_and_a_pilcrow() {
        let line = Line { ms: 1_234, connection: 2, ..Line::of_frame(r#"{"key":1}"#, Direction::From) };
        assert_eq!(line.as_text(false), "     1.234 #2  ←    11 bytes {\"key\":1}¶");
        assert!(line.as_text(true).contains("\x1b[1;32m←\x1b[0m"));
        let json = r#"{"ms":1234,"connection":2,"direction":"from","bytes":11,"packet":{"key":1}}"#;
        assert_eq!(line.as_json(), json);
    }

    #[test]
    fn a_secret_is_in_no_form() {
        for frame in [
            r#"{"params":{"password":"correct-horse"},"authorization":"Bearer correct-horse"}"#,
            r#"{"password":"correct-horse""#,
            "password=correct-horse",
        ] {
            let line = Line::of_frame(frame, Direction::To);
            let forms = line.as_json() + &line.as_text(true) + &line.shortened(1).as_json();
            assert!(!forms.contains("correct-horse"), "{forms}");
        }
    }

    #[test]
    fn one_packet_is_one_line_without_control_characters() {
        let line = Line::of_frame("{\"key\":\n1,\"name\":\"\u{9b}31m\"}", Direction::To);
        assert!(!line.as_json().contains('\n') && !line.as_text(false).contains(char::is_control));
        assert_eq!(serde_json::from_str::<Line>(&line.as_json()).unwrap().as_json(), line.as_json());
    }

    #[test]
    fn a_long_packet_is_cut() {
        let frame = format!(r#"{{"name":"{}"}}"#, "김".repeat(5_000));
        let line = Line::of_frame(&frame, Direction::To);
        assert!(line.as_text(false).chars().count() < 700);
        let short = line.shortened(1_000);
        assert!(short.packet.is_none() && short.text.is_some_and(|text| text.ends_with('…')));
        assert_eq!((short.bytes, line.shortened(20_000).as_json()), (line.bytes, line.as_json()));
    }
}
