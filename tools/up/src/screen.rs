//! The output for the user: every line of every process, after the name of its process.

use std::env;
use std::io::{self, IsTerminal, Write};

/// ANSI colours that are readable on dark and on light backgrounds, used in turn.
const COLOURS: [u8; 5] = [36, 32, 33, 35, 34];

/// Names are padded to the length of the longest one, which is `distributor`.
const LABEL_WIDTH: usize = 11;

/// The terminal, or any other stdout. Only the main thread writes to it, so lines are never mixed.
pub struct Screen {
    out: Box<dyn Write>,
    /// Whether the output is a terminal that shows colours.
    pub colour: bool,
}

impl Screen {
    /// The screen of this program.
    pub fn new() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out: Box::new(io::stdout()),
            // Both must be terminals, because the reason of a failure goes to stderr in the words of the child.
            colour: !unwanted && io::stdout().is_terminal() && io::stderr().is_terminal(),
        }
    }

    /// A screen whose output is not shown.
    #[cfg(test)]
    pub fn off() -> Self {
        Self { out: Box::new(io::sink()), colour: false }
    }

    /// A screen and what it shows.
    #[cfg(test)]
    pub fn shared() -> (std::sync::Arc<std::sync::Mutex<Vec<u8>>>, Self) {
        let shown = std::sync::Arc::default();
        (std::sync::Arc::clone(&shown), Self { out: Box::new(tests::Shared(shown)), colour: false })
    }

    /// Shows a line of process number `id`.
    pub fn line(&mut self, id: usize, label: &str, text: &str) {
        self.say(&format!("{} {text}", self.prefix(id, label)));
    }

    /// Shows a text of this program. A closed stdout must not stop the services, so the error is ignored.
    pub fn say(&mut self, text: &str) {
        let _ = self.out.write_all(format!("{text}\n").as_bytes());
        let _ = self.out.flush();
    }

    /// `users      │`
    fn prefix(&self, id: usize, label: &str) -> String {
        let name = format!("{label:<LABEL_WIDTH$} │");
        if self.colour { format!("\x1b[{}m{name}\x1b[0m", COLOURS[id % COLOURS.len()]) } else { name }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn names_are_padded_to_the_longest() {
        let screen = Screen::off();
        assert_eq!(screen.prefix(1, "users"), "users       │");
        assert_eq!(screen.prefix(0, "distributor"), "distributor │");
    }

    #[test]
    fn a_coloured_name_leaves_the_line_as_it_was() {
        let screen = Screen { colour: true, ..Screen::off() };
        assert_eq!(screen.prefix(0, "users"), "\x1b[36musers       │\x1b[0m");
    }
}
