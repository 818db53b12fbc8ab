//! The program that is checked: where it comes from, how it is compiled, and how it is started.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::language::{Text, text};
use crate::package;
use crate::report::Report;

/// The root of the workspace when this tool was compiled.
pub const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The languages with a skeleton, by the end of their files.
const ENDS: [&str; 3] = ["rs", "py", "js"];

/// A program that can be started.
#[derive(Debug, Clone)]
pub struct Program {
    /// The lesson that it was written for. It decides about the arguments.
    pub lesson: u8,
    command: Vec<String>,
}

impl Program {
    /// A command of the user. It runs in the current directory.
    pub fn of_command(lesson: u8, command: &[OsString]) -> Self {
        let command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { lesson, command }
    }

    /// A file, which is compiled if it is Rust.
    pub fn of_file(report: Report, lesson: u8, file: &Path) -> Result<Self, Text> {
        let path = file.display().to_string();
        let interpreter = match file.extension().and_then(|end| end.to_str()) {
            Some("py") => {
                if cfg!(windows) {
                    "python"
                } else {
                    "python3"
                }
            }
            Some("js") => "node",
            _ => {
                return Ok(Self {
                    lesson,
                    command: vec![package::build(report, lesson, file)?.display().to_string()],
                });
            }
        };
        Ok(Self { lesson, command: vec![interpreter.to_owned(), path] })
    }

    /// The whole command with its arguments. They go by position.
    pub fn arguments(&self, listen: SocketAddr, neighbour: SocketAddr, database: &Path) -> Vec<String> {
        let mut command = self.command.clone();
        command.push(listen.to_string());
        if !matches!(self.lesson, 1 | 5) {
            command.push(neighbour.to_string());
        }
        if self.lesson >= 6 {
            command.push(database.display().to_string());
        }
        command
    }
}

/// A file of the course, such as `lessons/3/naive.rs`.
pub fn course_file(lesson: u8, name: &str) -> PathBuf {
    workspace().join(format!("lessons/{lesson}/{name}"))
}

/// The program of the learner, if there is one.
pub fn work_file(lesson: u8) -> Option<PathBuf> {
    let mut files: Vec<PathBuf> = ENDS.iter().filter_map(|end| work_file_in(lesson, end)).collect();
    // Of several, the one that was saved last.
    files.sort_by_key(|file| fs::metadata(file).and_then(|data| data.modified()).ok());
    files.pop()
}

/// The program of the learner whose file has this end, if there is one.
pub fn work_file_in(lesson: u8, end: &str) -> Option<PathBuf> {
    Some(work_folder().join(format!("{lesson}.{end}"))).filter(|file| file.is_file())
}

/// The path as the learner would type it.
pub fn short(file: &Path) -> String {
    file.strip_prefix(workspace()).unwrap_or(file).display().to_string()
}

/// Copies the skeleton to `lessons/work`.
pub fn create_from_skeleton(lesson: u8, end: &str) -> Result<PathBuf, Text> {
    let file = work_folder().join(format!("{lesson}.{end}"));
    let skeleton = course_file(lesson, &format!("skeleton.{end}"));
    let copy = fs::create_dir_all(work_folder()).and_then(|()| fs::copy(&skeleton, &file));
    copy.map_err(|error| {
        let (from, to) = (short(&skeleton), short(&file));
        text!("cannot copy {from} to {to}: {error}", "{from} 파일을 {to} 위치에 복사할 수 없습니다: {error}")
    })?;
    Ok(file)
}

pub fn work_folder() -> PathBuf {
    // Stories use another folder.
    env::var_os("LESSON_WORK").map_or_else(|| workspace().join("lessons/work"), PathBuf::from)
}

pub fn workspace() -> PathBuf {
    fs::canonicalize(WORKSPACE).unwrap_or_else(|_| PathBuf::from(WORKSPACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_go_by_position_and_depend_on_the_lesson() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let arguments = |lesson| {
            let program = Program::of_command(lesson, &["node".into(), "mine.js".into()]);
            program.arguments(address(1), address(2), Path::new("users.db")).join(" ")
        };
        assert_eq!(arguments(1), "node mine.js 127.0.0.1:1");
        assert_eq!(arguments(3), "node mine.js 127.0.0.1:1 127.0.0.1:2");
        assert_eq!(arguments(5), "node mine.js 127.0.0.1:1");
        assert_eq!(arguments(7), "node mine.js 127.0.0.1:1 127.0.0.1:2 users.db");
    }
}
