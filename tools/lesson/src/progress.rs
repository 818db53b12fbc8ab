//! What the learner has done: the file `progress.json` beside the programs.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::course::LESSONS;
use crate::language::text;
use crate::program;
use crate::report::{self, Report};

fn file() -> PathBuf {
    program::work_folder().join("progress.json")
}

fn read() -> Map<String, Value> {
    let text = fs::read_to_string(file()).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Stores the last result of a lesson. Without this file, only the list knows less.
pub fn record(lesson: u8, has_passed: bool) {
    let mut progress = read();
    progress.insert(lesson.to_string(), Value::from(has_passed));
    let _ = fs::create_dir_all(program::work_folder())
        .and_then(|()| fs::write(file(), Value::Object(progress).to_string() + "\n"));
}

/// Prints the lessons and what is done.
pub fn list(report: Report) {
    let progress = read();
    for lesson in &LESSONS {
        let number = lesson.number;
        let mark = match progress.get(&number.to_string()) {
            Some(Value::Bool(true)) => report.coloured("32", "✓"),
            Some(_) => report.coloured("31", "✗"),
            None => " ".to_owned(),
        };
        let title = report.language.pick(lesson.title);
        let file = program::work_file(number).and_then(|file| file.file_name()?.to_str().map(str::to_owned));
        let file = file.map(|name| format!("  (lessons/work/{name})")).unwrap_or_default();
        report::say(&format!("{mark} {number}  {title}{file}"));
    }
    report.tell(&text!(
        "\nBegin with `cargo lesson 1`. The texts are in lessons/en.",
        "\n`cargo lesson 1`로 시작하십시오. 본문은 lessons/ko에 있습니다."
    ));
}
