//! Why a stream of frames cannot continue, in the words of the log line.

use std::fmt;
use std::io;

use serde::de::IgnoredAny;

use super::DELIMITER;

/// How many characters a log line shows of the beginning and of the end of a bad frame.
const BEGIN_CHARS: usize = 80;
const END_CHARS: usize = 20;

/// The size of the longest character, in bytes.
const CHAR_BYTES: usize = 4;

/// The log shows nothing after one of these words in a frame.
const SECRETS: [&str; 4] = ["password", "token", "secret", "authorization"];

/// Why a stream of frames cannot continue. We close the connection after one of these errors.
#[derive(Debug)]
pub enum FrameError {
    /// More than the limit arrived without a delimiter.
    TooLong(BadFrame),
    /// The bytes between two delimiters are not UTF-8.
    NotUtf8(BadFrame),
    /// The text of the frame is not one JSON object.
    NotAnObject(BadFrame, String),
    /// The peer ended the connection inside a frame.
    Truncated(BadFrame),
    /// The peer began a frame and then stopped sending.
    Stalled(BadFrame),
    /// The connection failed.
    Io(io::Error),
}

/// The facts about a bad frame in its log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFrame {
    /// How many bytes of the frame arrived.
    pub size: usize,
    /// The limit of a frame, in bytes.
    pub limit: usize,
    /// The beginning of the frame: escaped, at most 80 characters, and cut where a secret may follow.
    pub begins: String,
    /// The end of an unfinished frame, if `begins` does not show all of it. `None` if it may contain a secret.
    pub ends: Option<String>,
    /// The likely reason for the missing delimiter, if known.
    pub cause: Option<String>,
}

impl BadFrame {
    /// Describes a frame whose delimiter has arrived.
    #[must_use]
    pub fn of(bytes: &[u8], limit: usize) -> Self {
        Self { size: bytes.len(), limit, begins: beginning(bytes), ends: None, cause: None }
    }

    /// Describes a frame whose delimiter has not arrived.
    #[must_use]
    pub fn unfinished(bytes: &[u8], limit: usize) -> Self {
        let cause = if let Some(wrong) = wrong_delimiter(bytes) {
            Some(format!("it ends with `{}` instead of `¶`", wrong.escape_default()))
        } else if memchr::memmem::find(bytes, &DELIMITER).is_some() {
            Some("a string in it is not closed, so the `¶` that came is a part of that string".to_owned())
        } else {
            None
        };
        Self { ends: ending(bytes), cause, ..Self::of(bytes, limit) }
    }
}

/// The beginning of a bad frame for a log line. It escapes control characters and invalid UTF-8. It stops at the name
/// of a secret, because the value may follow.
fn beginning(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(CHAR_BYTES * BEGIN_CHARS)]);
    let secret = find_secret(&start);
    let mut shown = String::new();
    for character in start[..secret.unwrap_or(start.len())].chars() {
        let piece = escaped(character);
        if shown.chars().count() + piece.chars().count() > BEGIN_CHARS - 1 {
            shown.push('…');
            return shown;
        }
        shown.push_str(&piece);
    }
    if secret.is_some() || start.len() < bytes.len() {
        shown.push('…');
    }
    shown
}

/// The end of a frame that is too long for [`beginning`]. `None` if the name of a secret appears anywhere before it.
fn ending(bytes: &[u8]) -> Option<String> {
    if !beginning(bytes).ends_with('…') || find_secret(&String::from_utf8_lossy(bytes)).is_some() {
        return None;
    }
    let end = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(CHAR_BYTES * END_CHARS)..]);
    let skipped = end.chars().count().saturating_sub(END_CHARS);
    Some(end.chars().skip(skipped).map(escaped).collect())
}

fn find_secret(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    SECRETS.iter().filter_map(|word| lower.find(word)).min()
}

fn escaped(character: char) -> String {
    if character.is_alphanumeric() { character.to_string() } else { character.escape_default().collect() }
}

/// The character that appears in place of `¶`: after a whole object, at the end or before the next object.
fn wrong_delimiter(bytes: &[u8]) -> Option<char> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.starts_with('{'))?;
    let mut objects = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    objects.next()?.ok()?;
    let mut rest = text[objects.byte_offset()..].trim_start_matches([' ', '\t', '\r']).chars();
    let delimiter = rest.next().filter(|one| !one.is_alphanumeric() && !"{}[]\",:".contains(*one))?;
    let next = rest.as_str().trim_ascii_start();
    (next.is_empty() || next.starts_with('{')).then_some(delimiter)
}

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, limit {}, begins: {}", self.size, self.limit, self.begins)?;
        match &self.ends {
            Some(ends) => write!(f, ", ends: {ends}"),
            None => Ok(()),
        }
    }
}

impl FrameError {
    /// All rules that a frame can break, one word each.
    pub const REASONS: [&str; 5] = ["too_long", "not_utf8", "not_an_object", "truncated", "stalled"];

    /// The error for a frame that is text, but not one JSON object.
    #[must_use]
    pub fn not_an_object(frame: &str, limit: usize, error: &serde_json::Error) -> Self {
        Self::NotAnObject(BadFrame::of(frame.as_bytes(), limit), error.to_string())
    }

    /// The rule that the frame broke. `None` if the connection failed.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        let [too_long, not_utf8, not_an_object, truncated, stalled] = Self::REASONS;
        match self {
            Self::TooLong(_) => Some(too_long),
            Self::NotUtf8(_) => Some(not_utf8),
            Self::NotAnObject(..) => Some(not_an_object),
            Self::Truncated(_) => Some(truncated),
            Self::Stalled(_) => Some(stalled),
            Self::Io(_) => None,
        }
    }

    /// The event, the facts about the frame, and the likely cause if known.
    fn parts(&self) -> Result<(&str, &BadFrame, Option<&str>), &io::Error> {
        let (what, frame) = match self {
            Self::TooLong(frame) => ("a frame is too long or its ¶ is missing", frame),
            Self::NotUtf8(frame) => ("a frame is not UTF-8", frame),
            Self::NotAnObject(frame, reason) => {
                return Ok(("a frame is not one JSON object", frame, Some(reason)));
            }
            Self::Truncated(frame) => ("the connection ended inside a frame", frame),
            Self::Stalled(frame) => ("a frame began and did not end in time", frame),
            Self::Io(error) => return Err(error),
        };
        Ok((what, frame, frame.cause.as_deref()))
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            Ok((what, frame, Some(cause))) => write!(f, "{what}: {cause} ({frame})"),
            Ok((what, frame, None)) => write!(f, "{what} ({frame})"),
            Err(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for FrameError {}

#[cfg(test)]
mod tests;
