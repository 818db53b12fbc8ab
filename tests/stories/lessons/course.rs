//! The programs of the course: each fails and passes where its lesson says so.

use std::process::Command;

use super::{RUST_FILES, assert_shows, lesson};
use crate::harness::{Scratch, skip};

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
