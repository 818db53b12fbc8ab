//! What the user sees of a check.

use std::io::{self, IsTerminal, Write};

use crate::check::{Check, Failure};
use crate::language::{Language, Text, Words, text};
use crate::process::State;

/// After this many lines, the beginning of a transcript is left out.
const SHOWN_LINES: usize = 30;

/// Prints a line.
pub fn say(line: &str) {
    // A closed terminal cannot show it.
    let _ = writeln!(io::stdout(), "{line}");
}

/// The width of a text on a terminal. A Korean character takes two columns.
pub fn columns(text: &str) -> usize {
    text.chars().map(|character| if character.is_ascii() { 1 } else { 2 }).sum()
}

/// Prints in one language, in colour on a terminal.
#[derive(Clone, Copy)]
pub struct Report {
    pub language: Language,
    has_colour: bool,
}

impl Report {
    pub fn new(language: Language) -> Self {
        let has_colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { language, has_colour }
    }

    pub fn tell(self, text: &Text) {
        say(text.in_language(self.language));
    }

    pub fn heading(self, lesson: u8, title: Words) {
        let (word, end) = if self.language == Language::Korean { ("", "과. ") } else { ("Lesson ", ". ") };
        say(&self.coloured("1", &format!("{word}{lesson}{end}{}", self.language.pick(title))));
    }

    pub fn passed(self, check: &Check) {
        let mark = self.coloured("32", "✓");
        say(&format!("  {mark} {:<29}{}", check.name, self.language.pick(check.claim)));
    }

    pub fn failed(self, check: &Check, failure: &Failure, transcript: &[Text], states: &[State]) {
        let mark = self.coloured("31", "✗");
        say(&format!("  {mark} {:<29}{}\n", check.name, self.language.pick(check.claim)));
        self.compare(failure, transcript);
        self.section(["hint", "힌트"], &[check.hint.into()]);
        for state in states {
            self.state(state);
        }
    }

    /// A failure outside of a check.
    pub fn explain(self, failure: &Failure, transcript: &[Text], states: &[State]) {
        self.compare(failure, transcript);
        for state in states {
            self.state(state);
        }
    }

    /// What was sent, what should have come, and what has come.
    fn compare(self, failure: &Failure, transcript: &[Text]) {
        let skipped = transcript.len().saturating_sub(SHOWN_LINES);
        let mut sent: Vec<Text> = transcript[skipped..].to_vec();
        if skipped > 0 {
            sent.insert(0, text!("… {skipped} lines before", "… 앞의 {skipped}줄 생략"));
        }
        self.section(["sent", "보냄"], &sent);
        self.section(["expected", "기대"], std::slice::from_ref(&failure.expected));
        self.section(["got", "받음"], std::slice::from_ref(&failure.got));
    }

    /// The end and the last output of the program.
    fn state(self, state: &State) {
        let end = match state.exit {
            _ if state.has_flooded => {
                text!("it printed more than 4 MiB and was ended", "4 MiB 넘게 출력하여 종료시켰습니다")
            }
            Some(status) => text!("it has ended by itself: {status}", "스스로 종료되었습니다: {status}"),
            None => text!("it was still running", "실행 중이었습니다"),
        };
        if state.has_flooded || state.exit.is_some() {
            self.section(["program", "프로그램"], &[end]);
        }
        let lines: Vec<Text> = state.last_lines.iter().map(Text::same).collect();
        if !lines.is_empty() {
            self.section(["its output", "출력"], &lines);
        }
    }

    fn section(self, name: Words, lines: &[Text]) {
        let name = self.language.pick(name);
        let label = format!("{name}{}", " ".repeat(12_usize.saturating_sub(columns(name))));
        let mut label = self.coloured("1", &label);
        for line in lines {
            say(&format!("    {label}{}", line.in_language(self.language)));
            label = " ".repeat(12);
        }
    }

    pub fn coloured(self, code: &str, text: &str) -> String {
        if self.has_colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
