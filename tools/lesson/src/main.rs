//! `cargo lesson`: starts a learner's program beside the real processes, checks it over TCP only, and explains the first
//! failure.
//!
//! Read in this order: this file (the options), [`course`] (the lessons), [`mod@check`] (what a check is), [`checks`] (the
//! checks, one file for each lesson), [`setup`] (what a check starts), [`connection`] and [`http`] (sockets with
//! deadlines), [`process`] and [`children`] (child processes and their end), [`program`] and [`package`] (where the
//! program comes from), [`run`] and [`report`] (what runs, and what the user sees).

mod capstone;
mod check;
mod checks;
mod children;
mod connection;
mod course;
mod http;
mod language;
mod listening;
mod package;
mod packet;
mod process;
mod program;
mod progress;
mod real;
mod report;
mod run;
mod setup;
mod transcript;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::capstone::Programs;
use crate::course::Lesson;
use crate::language::{ALREADY_EXPLAINED, Language, Text, text};
use crate::program::Program;
use crate::report::Report;
use crate::run::Passed;

/// The exit status after Ctrl-C.
const INTERRUPTED: i32 = 130;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Starts your program beside the real processes, checks it over TCP, and explains the first failure.
///
///   cargo lesson                      lists the lessons and shows what is done
///   cargo lesson 3                    checks lessons/work/3.rs, .py or .js; creates it from a skeleton on first use
///   cargo lesson 3 -- node mine.js    checks any command; the addresses are appended to it
///   cargo lesson capstone             puts your programs of the lessons 4, 5 and 7 under load beside the real system
///
/// It works on Linux and macOS. On Windows, Python is called `python`, and a process that your program has started
/// does not end with it.
#[derive(Parser)]
#[command(name = "cargo lesson", bin_name = "cargo lesson", version, verbatim_doc_comment)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
struct Options {
    /// The number of the lesson, 1 to 7, or `capstone`
    #[arg(value_parser = read_target)]
    lesson: Option<Target>,

    /// The language of your program: its file is created from a skeleton; the default is what is there, or else Rust
    #[arg(long = "in", value_name = "LANGUAGE", conflicts_with = "command")]
    skeleton: Option<Skeleton>,

    /// Check the naive program of the lesson, and see it fail
    #[arg(long, conflicts_with_all = ["solution", "command"])]
    demo: bool,

    /// Check the solution of the lesson
    #[arg(long, conflicts_with = "command")]
    solution: bool,

    /// Check again whenever the file is saved
    #[arg(long, conflicts_with = "command")]
    watch: bool,

    /// Check this lesson only, and not the earlier ones
    #[arg(long)]
    only: bool,

    /// The language of the messages; the default is that of the locale
    #[arg(long, value_name = "LANGUAGE")]
    lang: Option<Language>,

    /// The real processes are already built and lie beside this tool
    #[arg(long, hide = true)]
    no_build: bool,

    /// The command that starts your program
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// What is checked.
#[derive(Clone, Copy)]
enum Target {
    Lesson(&'static Lesson),
    Capstone,
}

fn read_target(word: &str) -> Result<Target, String> {
    if word == "capstone" {
        return Ok(Target::Capstone);
    }
    let lesson = word.parse().ok().and_then(course::lesson);
    lesson.map(Target::Lesson).ok_or_else(|| "expected a number from 1 to 7, or `capstone`".to_owned())
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Skeleton {
    Rust,
    Python,
    Javascript,
}

impl Skeleton {
    /// The end of its file.
    fn end(self) -> &'static str {
        match self {
            Self::Rust => "rs",
            Self::Python => "py",
            Self::Javascript => "js",
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let report = Report::new(options.lang.unwrap_or_else(Language::of_locale));
    // Before the first child starts: no signal ends this process while its children still run.
    if let Err(error) = ctrlc::set_handler(|| children::end_all_and_exit(INTERRUPTED, setup::remove_folders))
    {
        let reason = text!("cannot handle Ctrl-C: {error}", "Ctrl-C를 처리할 수 없습니다: {error}");
        return fail(report, &reason);
    }
    let result = run_options(&options, report);
    setup::remove_folders();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => fail(report, &reason),
    }
}

fn fail(report: Report, reason: &Text) -> ExitCode {
    // If cargo has explained the error, there is nothing to add.
    if *reason != ALREADY_EXPLAINED {
        let _ = writeln!(io::stderr(), "cargo lesson: {}", reason.in_language(report.language));
    }
    ExitCode::FAILURE
}

fn run_options(options: &Options, report: Report) -> Passed {
    if options.no_build {
        real::skip_build();
    }
    let lesson = match options.lesson {
        None => {
            progress::list(report);
            return Ok(true);
        }
        Some(Target::Capstone) => return run_capstone(options, report),
        Some(Target::Lesson(lesson)) => lesson,
    };
    if !options.command.is_empty() {
        return check(options, report, lesson, &Program::of_command(lesson.number, &options.command));
    }
    let file = find_file(options, report, lesson)?;
    if options.watch {
        return watch(options, report, lesson, &file);
    }
    check(options, report, lesson, &Program::of_file(report, lesson.number, &file)?)
}

/// The system of the learner consists of the programs of the lessons 4, 5 and 7.
fn run_capstone(options: &Options, report: Report) -> Passed {
    real::build_once(report)?;
    let find = |lesson: u8| {
        let solution = program::course_file(lesson, "solution.rs");
        let file = if options.solution { Some(solution) } else { program::work_file(lesson) };
        let file = file.ok_or_else(|| {
            text!(
                "the capstone needs your program of lesson {lesson} in lessons/work",
                "캡스톤을 실행하려면 lessons/work에 {lesson}과 프로그램이 있어야 합니다"
            )
        })?;
        Program::of_file(report, lesson, &file)
    };
    let programs = Programs { gateway: find(4)?, distributor: find(5)?, users: find(7)? };
    capstone::run(report, &programs)
}

/// The file to check. The first use of a lesson creates it.
fn find_file(options: &Options, report: Report, lesson: &Lesson) -> Result<PathBuf, Text> {
    if options.demo {
        return Ok(program::course_file(lesson.number, "naive.rs"));
    }
    if options.solution {
        return Ok(program::course_file(lesson.number, "solution.rs"));
    }
    let existing = match options.skeleton {
        Some(skeleton) => program::work_file_in(lesson.number, skeleton.end()),
        None => program::work_file(lesson.number),
    };
    if let Some(file) = existing {
        return Ok(file);
    }
    let skeleton = options.skeleton.unwrap_or(Skeleton::Rust);
    let file = program::create_from_skeleton(lesson.number, skeleton.end())?;
    let path = program::short(&file);
    report.tell(&text!("Created {path} from the skeleton.", "스켈레톤에서 {path} 파일을 만들었습니다."));
    Ok(file)
}

fn check(options: &Options, report: Report, lesson: &Lesson, program: &Program) -> Passed {
    let find = |other: &Lesson| find_other(options, report, lesson, other);
    let has_passed = if options.demo || options.only {
        run::check_lesson(report, lesson, program)?
    } else {
        run::check_up_to(report, lesson, program, &find)?
    };
    if has_passed {
        report.tell(&text!("\nAll checks have passed.", "\n모든 검사를 통과했습니다."));
        if let Some(next) = course::lesson(lesson.number + 1) {
            let number = next.number;
            report.tell(&text!("Next: cargo lesson {number}", "다음: cargo lesson {number}"));
        }
    }
    if !options.demo && !options.solution && !options.only {
        progress::record(lesson.number, has_passed);
    }
    Ok(has_passed)
}

/// The newest program of another role: of the learner, or with `--solution` that of the course.
fn find_other(
    options: &Options,
    report: Report,
    lesson: &Lesson,
    other: &Lesson,
) -> Result<Option<Program>, Text> {
    let mut lessons = run::newest_of_role(other, lesson.number).map(|lesson| {
        let solution = program::course_file(lesson.number, "solution.rs");
        let file = if options.solution { Some(solution) } else { program::work_file(lesson.number) };
        (lesson.number, file)
    });
    match lessons.find_map(|(number, file)| Some((number, file?))) {
        Some((number, file)) => Program::of_file(report, number, &file).map(Some),
        None => Ok(None),
    }
}

/// Checks again and again, until Ctrl-C ends the tool.
fn watch(options: &Options, report: Report, lesson: &Lesson, file: &PathBuf) -> Passed {
    let modified = || fs::metadata(file).and_then(|data| data.modified()).ok();
    loop {
        let begin = modified();
        let result = Program::of_file(report, lesson.number, file)
            .and_then(|program| check(options, report, lesson, &program));
        if let Err(reason) = result {
            fail(report, &reason);
        }
        let path = program::short(file);
        report.tell(&text!("\nWaiting until {path} is saved …\n", "\n{path} 파일의 저장을 기다립니다 …\n"));
        while modified() == begin {
            thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lessons_have_the_numbers_1_to_7() {
        let is_valid = |word| Options::try_parse_from(["lesson", word]).is_ok();
        assert!(["1", "7", "capstone"].into_iter().all(is_valid));
        assert!(!["0", "8", "three"].into_iter().any(is_valid));
    }

    #[test]
    fn a_command_follows_two_dashes() {
        let options = Options::try_parse_from(["lesson", "3", "--", "node", "--watch", "mine.js"]);
        assert!(options.is_ok_and(|options| options.command.len() == 3 && !options.watch));
        assert!(Options::try_parse_from(["lesson", "3", "--demo", "--", "node"]).is_err());
    }
}
