//! Compares the output that a document shows with the output of a terminal.

use std::sync::LazyLock;

use regex::Regex;

/// Patterns of text that differs from run to run, with their replacements in both texts.
static VARIABLE: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z", "<time>"),
        (r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT", "<date>"),
        (r"\b[0-9a-f]{64}\b", "<token>"),
        (r"\b[0-9a-f]{16}-[0-9a-f]+\b", "<request id>"),
        (r"\b[0-9a-f]{16}\b", "<id>"),
        (r"127\.0\.0\.1:(3[2-9]|[4-6]\d)\d{3}\b", "127.0.0.1:<port>"),
    ];
    rules.into_iter().map(|(rule, name)| (Regex::new(rule).unwrap(), name)).collect()
});

/// Whether a line of a terminal matches the document. In the document `…` stands for anything.
pub fn is_as_shown(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (without_variables(shown), without_variables(printed));
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// Whether the lines of a terminal match the document. In the document a line `…` stands for any number of lines.
pub fn are_as_shown(shown: &[String], printed: &[String]) -> bool {
    match (shown.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == "…" => {
            (0..=printed.len()).any(|skipped| are_as_shown(rest, &printed[skipped..]))
        }
        (Some((first, shown)), Some((line, printed))) => {
            is_as_shown(first, line) && are_as_shown(shown, printed)
        }
        _ => false,
    }
}

fn without_variables(line: &str) -> String {
    let mut line = line.trim_end().to_owned();
    for (rule, name) in VARIABLE.iter() {
        line = rule.replace_all(&line, *name).into_owned();
    }
    line
}

#[test]
fn an_ellipsis_stands_for_anything_and_ids_for_each_other() {
    assert!(is_as_shown("a…z", "a to z") && is_as_shown("…", "anything") && is_as_shown("a…c…e", "abcde"));
    assert!(is_as_shown("at 2026-11-22T18:15:08.318Z", "at 2027-01-02T03:04:05.678Z"));
    assert!(is_as_shown("127.0.0.1:59428 connected", "127.0.0.1:40000 connected"));
    assert!(!is_as_shown("127.0.0.1:9000", "127.0.0.1:9020") && !is_as_shown("a…z", "a to y"));
    assert!(!is_as_shown("\"id\":1", "\"id\":2"));
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(are_as_shown(&lines("a\n…\nd"), &lines("a\nb\nc\nd")) && are_as_shown(&lines("…"), &[]));
    assert!(
        !are_as_shown(&lines("a\n…\nd"), &lines("a\nb\nc")) && !are_as_shown(&lines("a"), &lines("a\nb"))
    );
}
