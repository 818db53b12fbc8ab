//! Writes every stage of every lesson into `OUT_DIR`, so that a test can compile them all.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

#[path = "tests/steps/mod.rs"]
mod steps;

fn main() -> Result<(), Box<dyn Error>> {
    let (here, out) = (env::var("CARGO_MANIFEST_DIR")?, env::var("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=tests/steps/mod.rs");
    let mut modules = String::new();
    for lesson in 1..=7 {
        // A directory that does not exist would make Cargo run this again and again.
        let directory = Path::new(&here).join(lesson.to_string());
        if !directory.exists() {
            continue;
        }
        println!("cargo::rerun-if-changed={lesson}");
        for name in ["naive", "solution"] {
            let path = directory.join(format!("{name}.rs"));
            if path.exists() {
                // Nobody calls its `main` here.
                add_module(&mut modules, &path, &format!("lesson_{lesson}_{name}"), "dead_code")?;
            }
        }
        let Ok(text) = fs::read_to_string(directory.join("solution.rs")) else { continue };
        // A mistake in the marks is reported by the tests, which say it more readably.
        let Ok(solution) = steps::read(&text) else { continue };
        // The last stage is the solution itself.
        for stage in 0..solution.count() {
            let path = Path::new(&out).join(format!("lesson_{lesson}_stage_{stage}.rs"));
            fs::write(&path, solution.stage(stage))?;
            // A stage may have parts that nobody uses yet.
            add_module(
                &mut modules,
                &path,
                &format!("lesson_{lesson}_stage_{stage}"),
                "warnings, clippy::all, clippy::pedantic",
            )?;
        }
    }
    fs::write(Path::new(&out).join("stages.rs"), modules)?;
    Ok(())
}

/// Adds a file as a module. Rust writes a path with the escapes that Rust reads.
fn add_module(modules: &mut String, path: &Path, name: &str, allowed: &str) -> std::fmt::Result {
    let path = path.display().to_string();
    writeln!(modules, "#[allow({allowed})]\n#[path = {path:?}]\nmod {name};")
}
