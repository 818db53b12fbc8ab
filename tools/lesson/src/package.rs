//! Compiles one Rust file with cargo. The learner sees the file only; the package around it is generated.

use std::env;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::children;
use crate::language::{ALREADY_EXPLAINED, Text, text};
use crate::program::workspace;
use crate::report::Report;

/// What every program may use.
const PACKAGES: &str = r#"crossbeam-channel = "0.5"
serde = { version = "1", features = ["derive"] }
serde_json = "1"
tiny_http = "0.12"
"#;

/// SQLite takes a minute to compile, so only those lessons have it that need it.
const SQLITE: &str = "rusqlite = { version = \"0.41\", features = [\"bundled\", \"fallible_uint\"] }\n";

/// Compiles the file, and returns the path of the program.
pub fn build(report: Report, lesson: u8, file: &Path) -> Result<PathBuf, Text> {
    let name = package_name(lesson, file);
    let target = workspace().join("target/lesson-work");
    let folder = target.join("packages").join(&name);
    let manifest = manifest(lesson, &name, file);
    let lock = workspace().join("Cargo.lock");
    let written = fs::create_dir_all(&folder)
        .and_then(|()| write_if_new(&folder.join("Cargo.toml"), &manifest))
        .and_then(|is_new| if is_new { fs::copy(lock, folder.join("Cargo.lock")).map(drop) } else { Ok(()) });
    written.map_err(|error| {
        let folder = folder.display();
        text!("cannot write {folder}: {error}", "{folder}에 쓸 수 없습니다: {error}")
    })?;
    let program = target.join("debug").join(format!("{name}{}", env::consts::EXE_SUFFIX));
    if !program.exists() {
        report.tell(&text!("Compiling for the first time …", "처음으로 컴파일하고 있습니다 …"));
    }
    compile(&folder, &target)?;
    Ok(program)
}

/// `lesson-3` for the file of a learner, `lesson-3-naive` for one of the course.
fn package_name(lesson: u8, file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    if stem == lesson.to_string() { format!("lesson-{lesson}") } else { format!("lesson-{lesson}-{stem}") }
}

fn manifest(lesson: u8, name: &str, file: &Path) -> String {
    let sqlite = if lesson >= 6 { SQLITE } else { "" };
    // A string in TOML has the escapes of JSON.
    let path = serde_json::Value::from(file.display().to_string());
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[[bin]]\nname = \"{name}\"\n\
         path = {path}\n\n[dependencies]\n{PACKAGES}{sqlite}\n[profile.dev]\ndebug = 1\n\n[workspace]\n"
    )
}

fn write_if_new(file: &Path, text: &str) -> io::Result<bool> {
    if fs::read_to_string(file).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    fs::write(file, text).map(|()| true)
}

/// First without the network. In a fresh clone, cargo must still download a package.
fn compile(folder: &Path, target: &Path) -> Result<(), Text> {
    let (status, messages) = run_cargo(folder, target, &["--offline"])?;
    if status.is_some_and(|status| status.success()) {
        show(&messages);
        return Ok(());
    }
    if String::from_utf8_lossy(&messages).contains("--offline") {
        let (status, messages) = run_cargo(folder, target, &[])?;
        show(&messages);
        return if status.is_some_and(|status| status.success()) { Ok(()) } else { Err(ALREADY_EXPLAINED) };
    }
    show(&messages);
    // Cargo has said it all.
    Err(ALREADY_EXPLAINED)
}

fn show(messages: &[u8]) {
    let _ = io::stderr().write_all(messages);
}

fn run_cargo(folder: &Path, target: &Path, flags: &[&str]) -> Result<(Option<ExitStatus>, Vec<u8>), Text> {
    let color = if io::stderr().is_terminal() { "always" } else { "never" };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args(["build", "--quiet", "--color", color]).args(flags);
    cargo.arg("--target-dir").arg(target).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (id, _, stderr) = children::start(&mut cargo)
        .map_err(|error| text!("cannot start cargo: {error}", "cargo를 실행할 수 없습니다: {error}"))?;
    let mut messages = Vec::new();
    if let Some(mut stderr) = stderr {
        // An error only shortens the messages.
        let _ = stderr.read_to_end(&mut messages);
    }
    Ok((children::wait(id), messages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_after_the_file_and_only_late_lessons_have_sqlite() {
        assert_eq!(package_name(3, Path::new("lessons/work/3.rs")), "lesson-3");
        assert_eq!(package_name(3, Path::new("lessons/3/naive.rs")), "lesson-3-naive");
        assert!(!manifest(5, "lesson-5", Path::new("5.rs")).contains("rusqlite"));
        assert!(manifest(6, "lesson-6", Path::new("6.rs")).contains("rusqlite"));
    }

    #[test]
    fn the_versions_are_those_of_the_small_system() {
        let small = fs::read_to_string(workspace().join("lessons/Cargo.toml")).unwrap();
        for line in PACKAGES.lines().chain(SQLITE.lines()) {
            assert!(small.lines().any(|own| own == line), "lessons/Cargo.toml lacks: {line}");
        }
    }
}
