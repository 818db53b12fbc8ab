//! Runs the checks of a lesson and of all earlier ones, up to the first failure.

use crate::check::{Check, Failure, Verdict};
use crate::checks::STARTS;
use crate::course::{LESSONS, Lesson, lesson};
use crate::language::{Text, text};
use crate::process::State;
use crate::program::Program;
use crate::real;
use crate::report::Report;
use crate::setup::Setup;

/// How to find a program of another role for the lesson with this number. `None`: there is none.
pub type Find<'a> = &'a dyn Fn(&Lesson) -> Result<Option<Program>, Text>;

/// Whether every check has passed. An error says why they could not run.
pub type Passed = Result<bool, Text>;

/// Checks one lesson.
pub fn check_lesson(report: Report, lesson: &Lesson, program: &Program) -> Passed {
    if lesson.needs_real {
        real::build_once(report)?;
    }
    report.heading(lesson.number, lesson.title);
    let checks = std::iter::once(&STARTS).chain(lesson.checks);
    for check in checks {
        if !run_check(report, check, program)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks this lesson first, because the learner works on it, and then all earlier ones: those of its role with the same
/// program, and the others with the program that `find` returns.
pub fn check_up_to(report: Report, last: &Lesson, program: &Program, find: Find) -> Passed {
    if !check_lesson(report, last, program)? {
        return Ok(false);
    }
    for lesson in LESSONS.iter().take_while(|lesson| lesson.number < last.number) {
        let other;
        let program = if lesson.role == last.role {
            program
        } else if let Some(found) = find(lesson)? {
            other = found;
            &other
        } else {
            let number = lesson.number;
            let [en, ko] = lesson.role.name();
            report.tell(&text!(
                "Lesson {number} is left out: lessons/work has no {en}.",
                "{number}과는 건너뜁니다. lessons/work에 {ko} 프로그램이 없습니다."
            ));
            continue;
        };
        if !check_lesson(report, lesson, program)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn run_check(report: Report, check: &Check, program: &Program) -> Passed {
    let setup = Setup::new(program)?;
    let verdict = (check.run)(&setup);
    if verdict.as_ref().is_err_and(|failure| failure.is_closed) {
        setup.await_crash();
    }
    let states = setup.states();
    match verdict.and_then(|()| still_runs(&states)) {
        Ok(()) => report.passed(check),
        Err(failure) => {
            report.failed(check, &failure, &setup.transcript.lines(), &states);
            return Ok(false);
        }
    }
    Ok(true)
}

/// A program that has answered correctly and then crashed has not passed.
fn still_runs(states: &[State]) -> Verdict {
    let expected = text!(
        "the program keeps running, and prints little",
        "프로그램이 계속 실행되며 출력이 적어야 합니다"
    );
    match states.iter().find(|state| state.has_flooded || state.exit.is_some()) {
        Some(_) => Err(Failure::new(expected, text!("see below", "아래를 보십시오"))),
        None => Ok(()),
    }
}

/// The newest lesson of the same role as this one, up to `last`.
pub fn newest_of_role(of: &Lesson, last: u8) -> impl Iterator<Item = &'static Lesson> {
    let role = of.role;
    (1..=last).rev().filter_map(lesson).filter(move |lesson| lesson.role == role)
}
