//! The text of a packet for the debug log: secrets are masked, and a long packet is cut.
//!
//! This works on the text and does not parse it. So it also shows invalid JSON, and masks secrets there as far as it
//! can find the strings. The work happens when the value is printed, so a disabled debug line costs nothing.

use std::fmt::{self, Display, Formatter, Write};

use super::delimiter::DELIMITER;

/// How many characters of a packet are shown.
const MAX_SHOWN_CHARS: usize = 1000;

/// The replacement for a secret.
const MASK: &str = "\"***\"";

/// A field is secret if its name contains one of these, in any case. They also match misspelled names: a client that
/// sends `pasword` has sent a password.
const SECRET_NAMES: [&str; 7] = ["pass", "word", "pwd", "token", "auth", "secret", "credential"];

/// A packet for a log line, with or without its delimiter. The value of each secret field becomes `"***"`, whatever its
/// type. At most about 1,000 characters are shown; a longer text ends with its length.
#[must_use]
pub fn masked<T: AsRef<[u8]> + ?Sized>(packet: &T) -> impl Display {
    let packet = packet.as_ref();
    let text = packet.strip_suffix(&DELIMITER).unwrap_or(packet);
    Masked(str::from_utf8(text).unwrap_or("not UTF-8"))
}

/// The whole text of a packet, with its secrets masked, for recordings. Valid JSON stays valid JSON.
#[must_use]
pub fn masked_whole(packet: &str) -> String {
    let mut text = String::with_capacity(packet.len());
    // Writing to a string cannot fail.
    let _ = write_masked(&mut text, packet);
    text
}

struct Masked<'a>(&'a str);

impl Display for Masked<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut out = Limited { out: f, left: MAX_SHOWN_CHARS };
        // An error from `out` means that the limit is reached or the formatter failed. The latter fails again here.
        match write_masked(&mut out, self.0) {
            Ok(()) => Ok(()),
            Err(fmt::Error) => write!(f, "… ({} bytes)", self.0.len()),
        }
    }
}

/// Passes on a limited number of characters, then fails.
struct Limited<'a, 'b> {
    out: &'a mut Formatter<'b>,
    left: usize,
}

impl Write for Limited<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some((end, _)) = text.char_indices().nth(self.left) else {
            self.left -= text.chars().count();
            return self.out.write_str(text);
        };
        self.out.write_str(&text[..end])?;
        self.left = 0;
        Err(fmt::Error)
    }
}

fn write_masked(out: &mut impl Write, text: &str) -> fmt::Result {
    let mut rest = text;
    while let Some(begin) = rest.find('"') {
        let (before, from_quote) = rest.split_at(begin);
        out.write_str(before)?;
        let (string, after) = from_quote.split_at(string_length(from_quote));
        rest = after;
        let is_field = after.trim_start().starts_with(':');
        if !is_field && holds_json(string) && is_secret(string) {
            out.write_str(MASK)?;
            continue;
        }
        out.write_str(string)?;
        if is_field && is_secret(string) {
            let value = after.trim_start()[1..].trim_start();
            out.write_str(&after[..after.len() - value.len()])?;
            out.write_str(MASK)?;
            rest = &value[value_length(value)..];
        }
    }
    out.write_str(rest)
}

/// The length of the string at the beginning of `text`, with both quotes. A string without an end extends to the end.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the value at the beginning of `text`: a string, an object, an array, or a word or number.
fn value_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at += string_length(&text[at..]),
            b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
            b'}' | b']' | b',' if depth == 0 => return at,
            b'}' | b']' => (at, depth) = (at + 1, depth - 1),
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// True if a string may contain JSON text with inner strings, such as the `params` of a course node's log entry.
fn holds_json(string: &str) -> bool {
    string.contains("\\\"")
}

/// True if a field with this name is secret. The name includes its quotes and may contain escapes.
fn is_secret(name: &str) -> bool {
    let unescaped = name.contains('\\').then(|| serde_json::from_str::<String>(name).ok()).flatten();
    let name = unescaped.as_deref().unwrap_or(name).to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        masked(text).to_string()
    }

    #[test]
    fn a_packet_without_secrets_is_shown_as_it_is() {
        for text in [
            r#"{"uri":"/users","method":"GET","key":1,"params":{"name":"김 \"¶\" \\"}}"#,
            r#"{"key":1,"errormessage":"the password is too short","results":["token","secret"]}"#,
            "null",
            "",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn the_value_of_a_secret_field_is_masked_wherever_it_is() {
        for (text, expected) in [
            (r#"{"password":"correct-horse","name":"Kim"}"#, r#"{"password":"***","name":"Kim"}"#),
            (
                r#"{"params":{"a":[{"token":"abc"}]},"key":1}"#,
                r#"{"params":{"a":[{"token":"***"}]},"key":1}"#,
            ),
            (r#"{"Authorization" : "Bearer x" }"#, r#"{"Authorization" : "***" }"#),
            (r#"{"secret":"비밀번호 \"quoted\" \\","name":"김"}"#, r#"{"secret":"***","name":"김"}"#),
            (r#"{"token":12.5e3,"a":1}"#, r#"{"token":"***","a":1}"#),
            (r#"{"token":null}"#, r#"{"token":"***"}"#),
            (r#"{"secret":{"a":["}",1],"b":{}},"c":2}"#, r#"{"secret":"***","c":2}"#),
            (r#"{"secret":["a",["]"]],"c":[3]}"#, r#"{"secret":"***","c":[3]}"#),
            (r#"{"new_password":"a","accessToken":"b"}"#, r#"{"new_password":"***","accessToken":"***"}"#),
            (r#"{"params":"{\"password\":\"a\"}","key":0}"#, r#"{"params":"***","key":0}"#),
            (r#"{"\u0070assword":"a"}"#, r#"{"\u0070assword":"***"}"#),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn text_that_is_not_json_shows_no_secret() {
        for text in [
            r#"{"password":"correct-horse"#,
            r#"{"password":correct-horse"#,
            r#"{"password":{"a":"correct-horse""#,
            r#"hello "token": "correct-horse""#,
            r#"{"password":"#,
        ] {
            assert!(!shown(text).contains("correct-horse"), "{}", shown(text));
        }
    }

    #[test]
    fn a_frame_is_shown_without_its_delimiter() {
        assert_eq!(shown("{\"key\":1}\u{b6}"), "{\"key\":1}");
        assert_eq!(masked(&[0xff]).to_string(), "not UTF-8");
    }

    #[test]
    fn a_long_packet_is_cut_and_its_length_is_shown() {
        let exact = "김".repeat(MAX_SHOWN_CHARS);
        assert_eq!(shown(&exact), exact);
        let long = format!("{exact}{exact}");
        assert_eq!(shown(&long), format!("{exact}… (6000 bytes)"));
        let secret = format!(r#"{{"password":"{long}","name":"Kim"}}"#);
        assert_eq!(shown(&secret), r#"{"password":"***","name":"Kim"}"#);
        assert_eq!(masked_whole(&secret), r#"{"password":"***","name":"Kim"}"#);
        assert_eq!(masked_whole(&long), long);
    }
}
