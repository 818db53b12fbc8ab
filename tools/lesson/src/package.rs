//! Compiles one Rust file with cargo. The learner sees the file only; the package around it is generated.

use std::env;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::children;
use crate::program::workspace;

/// What every program may use.
const PACKAGES: &str = r#"crossbeam-channel = "0.5"
serde = { version = "1", features = ["derive"] }
serde_json = "1"
tiny_http = "0.12"
"#;

/// SQLite takes a minute to compile, so only those lessons have it that need it.
const SQLITE: &str = "rusqlite = { version = \"0.41\", features = [\"bundled\", \"fallible_uint\"] }\n";

/// Compiles the file, and returns the path of the program.
pub fn build(lesson: u8, file: &Path) -> Result<PathBuf, String> {
    let name = package_name(lesson, file);
    let target = workspace().join("target/lesson-work");
    let folder = target.join("packages").join(&name);
    let manifest = manifest(lesson, &name, file);
    let lock = workspace().join("Cargo.lock");
    let written = fs::create_dir_all(&folder)
        .and_then(|()| write_if_new(&folder.join("Cargo.toml"), &manifest))
        .and_then(|is_new| if is_new { fs::copy(lock, folder.join("Cargo.lock")).map(drop) } else { Ok(()) });
    written.map_err(|error| format!("cannot write {}: {error}", folder.display()))?;
    compile(&folder, &target)?;
    Ok(target.join("debug").join(format!("{name}{}", env::consts::EXE_SUFFIX)))
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
fn compile(folder: &Path, target: &Path) -> Result<(), String> {
    let (status, messages) = run_cargo(folder, target, &["--offline"])?;
    if status.is_some_and(|status| status.success()) {
        show(&messages);
        return Ok(());
    }
    if String::from_utf8_lossy(&messages).contains("--offline") {
        let (status, messages) = run_cargo(folder, target, &[])?;
        show(&messages);
        return if status.is_some_and(|status| status.success()) { Ok(()) } else { Err(String::new()) };
    }
    show(&messages);
    // Cargo has said it all.
    Err(String::new())
}

fn show(messages: &[u8]) {
    let _ = io::stderr().write_all(messages);
}

fn run_cargo(folder: &Path, target: &Path, flags: &[&str]) -> Result<(Option<ExitStatus>, Vec<u8>), String> {
    let color = if io::stderr().is_terminal() { "always" } else { "never" };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args(["build", "--quiet", "--color", color]).args(flags);
    cargo.arg("--target-dir").arg(target).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (id, _, stderr) =
        children::start(&mut cargo).map_err(|error| format!("cannot start cargo: {error}"))?;
    let mut messages = Vec::new();
    if let Some(mut stderr) = stderr {
        // An error only shortens the messages.
        let _ = stderr.read_to_end(&mut messages);
    }
    Ok((children::wait(id), messages))
}
