//! The programs of the course: each fails and passes where its lesson says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;

use super::{RUST_FILES, assert_shows, lesson};
use crate::documents::blocks::blocks_of;
use crate::documents::output::are_as_shown;
use crate::harness::{Output, Scratch, skip};

/// For each lesson: the check at which its naive program fails, and the one at which its skeletons fail. Node.js has no
/// blocking client, so a skeleton in JavaScript may get further.
const LESSONS: [(&str, &str, &str, &str); 7] = [
    ("1", "two-in-one-write", "two-in-one-write", "two-in-one-write"),
    ("2", "slow-client", "slow-client", "registers"),
    ("3", "two-callers", "two-callers", "two-callers"),
    ("4", "frozen-service", "crud", "crud"),
    ("5", "one-of-two-leaves", "list-on-connect", "list-on-connect"),
    ("6", "email-is-unique", "crud", "crud"),
    ("7", "two-instances", "numbers", "numbers"),
];

/// Checks that this run starts the program and then fails at this check.
fn assert_fails_at(flags: &[&str], check: &str) {
    let output = lesson(&Scratch::new(), flags).run();
    assert_shows(&output, &["✓ starts", &format!("✗ {check}")]);
    assert_eq!(output.status, Some(1), "{flags:?}: {}", output.stdout);
}

#[test]
fn each_naive_program_fails_at_the_check_that_its_lesson_is_about() {
    for (number, naive, ..) in LESSONS {
        assert_fails_at(&[number, "--demo"], naive);
    }
}

#[test]
fn each_skeleton_starts_and_fails_at_the_check_that_its_lesson_is_about() {
    let _one_at_a_time = RUST_FILES.lock();
    for (number, _, skeleton, javascript) in LESSONS {
        assert_fails_at(&[number, "--only", "--in", "rust"], skeleton);
        for (language, program, check) in
            [("python", "python3", skeleton), ("javascript", "node", javascript)]
        {
            if Command::new(program).arg("--version").output().is_ok() {
                assert_fails_at(&[number, "--only", "--in", language], check);
            } else {
                skip(program, "the skeletons in this language are not checked");
            }
        }
    }
}

#[test]
fn the_last_solution_passes_all_lessons_with_the_solutions_of_the_others() {
    let output = lesson(&Scratch::new(), &["7", "--solution"]).run();
    assert_eq!(output.status, Some(0), "{}\n{}", output.stdout, output.stderr);
    assert_shows(&output, &["✓ two-instances", "✓ restart", "✓ frozen-service", "All checks have passed."]);
}

#[test]
#[ignore = "it takes two minutes"]
fn every_solution_passes_its_lesson_and_all_earlier_ones() {
    for (number, ..) in &LESSONS[..6] {
        let output = lesson(&Scratch::new(), &[number, "--solution"]).run();
        assert_eq!(output.status, Some(0), "lesson {number}: {}\n{}", output.stdout, output.stderr);
    }
}

#[test]
#[ignore = "it takes a minute"]
fn the_solutions_together_lose_and_duplicate_nothing_under_load() {
    let output = lesson(&Scratch::new(), &["capstone", "--solution"]).run();
    println!("{}", output.stdout);
    assert_eq!(output.status, Some(0), "{}\n{}", output.stdout, output.stderr);
    for row in ["lost", "duplicated"] {
        let row = output.stdout.lines().find(|line| line.contains(row)).expect("a row of the score card");
        let numbers: Vec<&str> = row.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
        assert_eq!(numbers, ["0", "0"], "{row}");
    }
}

/// The first block of a text that begins with this command and has these words in it.
fn shown(file: &Path, command: &str, words: &str) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let blocks = blocks_of(&text).into_iter().map(|block| block.text);
    let found = blocks.into_iter().find(|lines| {
        lines.first().is_some_and(|first| first.starts_with(command))
            && lines.iter().any(|line| line.contains(words))
    });
    found.unwrap_or_else(|| panic!("{} does not show `{command}` with {words}", file.display()))
}

/// Compares what a text shows under its command with what the tool prints. The tool also says when it compiles for the first time.
fn assert_is_as_shown(file: &Path, shown: &[String], output: &Output) {
    // Ports differ from run to run.
    static PORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[1-6]\d{4}\b").unwrap());
    let without_ports = |line: &str| PORT.replace_all(line, "<port>").into_owned();
    let lines = output.stdout.lines().filter(|line| !line.ends_with(" …"));
    let printed: Vec<String> = lines.map(without_ports).collect();
    let shown: Vec<String> = shown.iter().map(|line| without_ports(line)).collect();
    let (file, shown_text) = (file.display(), shown.join("\n"));
    assert!(
        are_as_shown(&shown[1..], &printed),
        "{file} shows:\n{shown_text}\nprinted is:\n{}",
        printed.join("\n")
    );
}

/// The text of a lesson.
fn text_of(language: &str, number: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lessons").join(language).join(format!("{number}.md"))
}

#[test]
fn the_texts_show_how_the_naive_programs_fail() {
    for language in ["en", "ko"] {
        for (number, naive, ..) in LESSONS {
            let file = text_of(language, number);
            let shown = shown(&file, &format!("$ cargo lesson {number} --demo"), &format!("✗ {naive}"));
            let output = lesson(&Scratch::new(), &[number, "--demo", "--lang", language]).run();
            assert_is_as_shown(&file, &shown, &output);
        }
    }
}

#[test]
#[ignore = "it takes a minute"]
fn the_texts_show_how_the_solutions_pass() {
    for (language, words) in [("en", "All checks have passed."), ("ko", "모든 검사를 통과했습니다.")]
    {
        for (number, ..) in LESSONS {
            let file = text_of(language, number);
            let shown = shown(&file, &format!("$ cargo lesson {number}"), words);
            // What a text leaves out with `…`, the checks of earlier lessons, is left out here too.
            let flags = [number, "--solution", "--only", "--lang", language];
            let output = lesson(&Scratch::new(), &flags).run();
            assert_is_as_shown(&file, &shown, &output);
        }
    }
}
