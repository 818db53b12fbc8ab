//! The commands that break things on purpose, as they are typed and as the page sends them.

use std::fmt;
use std::ops::RangeInclusive;

/// Each command and what it does: the text of `help`, and the words that an error names.
const COMMANDS: [(&str, &str); 12] = [
    ("freeze NAME", "the process stops where it is; its connections stay open"),
    ("continue NAME", "a frozen process goes on"),
    ("kill NAME", "the process ends at once, without a goodbye"),
    ("stop NAME", "the process finishes its requests, says goodbye and ends"),
    ("start users", "one more instance of `users`"),
    ("restart NAME", "stop and start; also for a process that has ended"),
    ("delay NAME MS", "packets from and to this instance of `users` arrive later"),
    ("drop NAME N", "every Nth packet from and to this instance is lost"),
    ("cut NAME", "the network to this instance swallows every packet"),
    ("heal NAME", "the packets pass again as before"),
    ("load N", "the page sends N requests per second; 0 ends that"),
    ("help", "this list"),
];

/// An unknown word is shown up to this length.
const SHOWN_CHARACTERS: usize = 40;

/// The bounds of `cargo tap --delay`.
const DELAY_MS: RangeInclusive<u32> = 1..=600_000;
const EVERY: RangeInclusive<u32> = 1..=u32::MAX;
/// The page sends no more.
const LOAD: RangeInclusive<u32> = 0..=100;

/// One command. The text is the label of a process.
#[derive(Debug, PartialEq, Eq)]
pub enum Switch {
    Freeze(String),
    Continue(String),
    Kill(String),
    Stop(String),
    StartUsers,
    Restart(String),
    Disturb(String, Fault),
    Heal(String),
    Load(u32),
    Help,
}

/// What happens to the packets of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They wait for this many milliseconds, in each direction.
    Delay(u32),
    /// Every Nth one is lost, in each direction.
    Drop(u32),
    /// None passes, and nobody is told.
    Cut,
}

impl Switch {
    /// Reads a command. The error is a sentence that names what is expected.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = || words[1].to_owned();
        Ok(match words[..] {
            ["freeze", _] => Self::Freeze(name()),
            ["continue", _] => Self::Continue(name()),
            ["kill", _] => Self::Kill(name()),
            ["stop", _] => Self::Stop(name()),
            ["start", "users"] => Self::StartUsers,
            ["restart", _] => Self::Restart(name()),
            ["delay", _, ms] => Self::Disturb(name(), Fault::Delay(number("delay NAME MS", ms, DELAY_MS)?)),
            ["drop", _, every] => Self::Disturb(name(), Fault::Drop(number("drop NAME N", every, EVERY)?)),
            ["cut", _] => Self::Disturb(name(), Fault::Cut),
            ["heal", _] => Self::Heal(name()),
            ["load", per_second] => Self::Load(number("load N", per_second, LOAD)?),
            ["help"] => Self::Help,
            _ => return Err(describe_error(words.first().unwrap_or(&""))),
        })
    }

    /// The list of all commands.
    pub fn help() -> String {
        let lines = COMMANDS.map(|(usage, what)| format!("  {usage:<14} {what}"));
        format!("NAME is the name in front of a log line.\n{}", lines.join("\n"))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delay(ms) => write!(formatter, "delay {ms}"),
            Self::Drop(every) => write!(formatter, "drop {every}"),
            Self::Cut => formatter.write_str("cut"),
        }
    }
}

/// A word from outside, safe to show on a terminal.
pub fn shown(word: &str) -> String {
    word.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect()
}

fn number(usage: &str, word: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let number = word.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (first, last) = range.into_inner();
        format!("`{usage}` expects a number from {first} to {last}, not `{}`", shown(word))
    })
}

fn describe_error(command: &str) -> String {
    let usages = COMMANDS.map(|(usage, _)| usage);
    match usages.iter().find(|usage| usage.split(' ').next() == Some(command)) {
        Some(usage) => format!("expected `{usage}`"),
        None => format!("unknown command `{}`; expected one of: {}", shown(command), usages.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_read() {
        let name = || "users-2".to_owned();
        let table = [
            ("freeze users-2", Switch::Freeze(name())),
            ("continue users-2", Switch::Continue(name())),
            ("  kill\tusers-2 ", Switch::Kill(name())),
            ("stop users-2", Switch::Stop(name())),
            ("start users", Switch::StartUsers),
            ("restart users-2", Switch::Restart(name())),
            ("delay users-2 200", Switch::Disturb(name(), Fault::Delay(200))),
            ("drop users-2 3", Switch::Disturb(name(), Fault::Drop(3))),
            ("cut users-2", Switch::Disturb(name(), Fault::Cut)),
            ("heal users-2", Switch::Heal(name())),
            ("load 20", Switch::Load(20)),
            ("load 0", Switch::Load(0)),
            ("help", Switch::Help),
        ];
        for (line, expected) in table {
            assert_eq!(Switch::parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn an_error_says_what_is_expected() {
        let table = [
            ("freeze", "expected `freeze NAME`"),
            ("kill users 2", "expected `kill NAME`"),
            ("start gateway", "expected `start users`"),
            ("delay users", "expected `delay NAME MS`"),
            ("delay users soon", "`delay NAME MS` expects a number from 1 to 600000, not `soon`"),
            ("delay users 0", "`delay NAME MS` expects a number from 1 to 600000, not `0`"),
            ("drop users 0", "`drop NAME N` expects a number from 1 to 4294967295, not `0`"),
            ("load -1", "`load N` expects a number from 0 to 100, not `-1`"),
            ("load 101", "`load N` expects a number from 0 to 100, not `101`"),
        ];
        for (line, expected) in table {
            assert_eq!(Switch::parse(line), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn an_unknown_command_names_the_known_ones_and_cannot_control_the_terminal() {
        let error = Switch::parse(&format!("\x1b[2J{} users", "x".repeat(100))).err().unwrap_or_default();
        assert!(error.starts_with("unknown command `\\u{1b}[2Jxxx"), "{error}");
        assert!(
            error.contains("expected one of: freeze NAME, continue NAME") && error.len() < 300,
            "{error}"
        );
    }

    #[test]
    fn help_has_a_line_for_each_command() {
        let help = Switch::help();
        for (usage, _) in COMMANDS {
            assert!(help.lines().any(|line| line.trim_start().starts_with(usage)), "{usage}: {help}");
        }
    }
}
