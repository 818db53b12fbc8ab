//! A check: one claim about the program of a learner, and how it is tested.

use crate::language::{Text, Words};
use crate::setup::Setup;

/// One claim, such as "Two packets in one write get two replies".
pub struct Check {
    /// A short name, the same in both languages.
    pub name: &'static str,
    pub claim: Words,
    /// What to look for if it fails.
    pub hint: Words,
    pub run: fn(&Setup) -> Verdict,
}

/// Whether a claim holds.
pub type Verdict = Result<(), Failure>;

/// What should have happened, and what has happened. The transcript of the check says what was sent.
#[derive(Debug)]
pub struct Failure {
    pub expected: Text,
    pub got: Text,
    /// Whether a connection was closed. Then the program is perhaps about to crash.
    pub is_closed: bool,
}

impl Failure {
    pub fn new(expected: impl Into<Text>, got: impl Into<Text>) -> Self {
        Self { expected: expected.into(), got: got.into(), is_closed: false }
    }
}

/// `Ok` if the condition holds.
pub fn ensure(condition: bool, failure: impl FnOnce() -> Failure) -> Verdict {
    if condition { Ok(()) } else { Err(failure()) }
}
