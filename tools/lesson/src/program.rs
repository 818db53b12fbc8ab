//! The program that is checked: where it comes from, how it is compiled, and how it is started.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::package;

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
    pub fn of_file(lesson: u8, file: &Path) -> Result<Self, String> {
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
                    command: vec![package::build(lesson, file)?.display().to_string()],
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
    let mut files: Vec<PathBuf> = ENDS
        .iter()
        .map(|end| work_folder().join(format!("{lesson}.{end}")))
        .filter(|file| file.is_file())
        .collect();
    // Of several, the one that was saved last.
    files.sort_by_key(|file| fs::metadata(file).and_then(|data| data.modified()).ok());
    files.pop()
}

/// Copies the skeleton to `lessons/work`.
pub fn create_from_skeleton(lesson: u8, end: &str) -> Result<PathBuf, String> {
    let file = work_folder().join(format!("{lesson}.{end}"));
    let skeleton = course_file(lesson, &format!("skeleton.{end}"));
    let copy = fs::create_dir_all(work_folder()).and_then(|()| fs::copy(&skeleton, &file));
    copy.map_err(|error| format!("cannot copy {} to {}: {error}", skeleton.display(), file.display()))?;
    Ok(file)
}

pub fn work_folder() -> PathBuf {
    // Stories use another folder.
    env::var_os("LESSON_WORK").map_or_else(|| workspace().join("lessons/work"), PathBuf::from)
}

pub fn workspace() -> PathBuf {
    fs::canonicalize(WORKSPACE).unwrap_or_else(|_| PathBuf::from(WORKSPACE))
}
