//! What the tool and the program have said to each other during one check.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use crate::language::Text;

/// All that was sent and received, in order. After a failure it is shown.
#[derive(Clone, Default)]
pub struct Transcript(Rc<RefCell<Vec<Text>>>);

impl Transcript {
    /// We have sent this to the program.
    pub fn sent(&self, who: &Text, what: &str) {
        self.add(Text { en: format!("{} → {what}", who.en), ko: format!("{} → {what}", who.ko) });
    }

    /// The program has sent us this, as we expected.
    pub fn received(&self, who: &Text, what: &str) {
        self.add(Text { en: format!("{} ← {what}", who.en), ko: format!("{} ← {what}", who.ko) });
    }

    /// Something else has happened.
    pub fn happened(&self, what: &Text) {
        self.add(Text { en: format!("({})", what.en), ko: format!("({})", what.ko) });
    }

    pub fn lines(&self) -> Vec<Text> {
        self.0.borrow().clone()
    }

    /// Forgets what has happened after the first lines.
    pub fn truncate(&self, lines: usize) {
        self.0.borrow_mut().truncate(lines);
    }

    fn add(&self, line: Text) {
        self.0.borrow_mut().push(line);
    }
}

/// Bytes as people read them: text as it is, and each byte that is not UTF-8 as `<EA>`.
pub fn show(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => shown.push('⏎'),
                character if character.is_control() => shown.extend(character.escape_default()),
                character => shown.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "<{byte:02X}>");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_character_is_shown_as_bytes() {
        assert_eq!(show("a¶김".as_bytes()), "a¶김");
        assert_eq!(show(&"김¶".as_bytes()[1..]), "<B9><80>¶");
        assert_eq!(show(b"a\nb\0"), "a⏎b\\u{0}");
    }
}
