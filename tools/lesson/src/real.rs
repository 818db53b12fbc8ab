//! The real processes: they are built like this tool, and lie beside it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::children;
use crate::language::{Text, text};
use crate::program::WORKSPACE;
use crate::report::Report;

/// The path of a real program.
pub fn path(name: &str) -> PathBuf {
    let tool = env::current_exe().unwrap_or_default();
    tool.with_file_name(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// Whether the real programs need no build any more.
static IS_BUILT: AtomicBool = AtomicBool::new(false);

/// The real programs are already there.
pub fn skip_build() {
    IS_BUILT.store(true, Ordering::Relaxed);
}

/// Builds the real programs in the profile of this tool, when they are needed for the first time.
pub fn build_once(report: Report) -> Result<(), Text> {
    if IS_BUILT.load(Ordering::Relaxed) {
        return Ok(());
    }
    if !path("gateway").exists() {
        report.tell(&text!("Building the real processes …", "실제 프로세스를 빌드하고 있습니다 …"));
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(WORKSPACE).args(["build", "--quiet", "--package", "pilcrow", "--bins"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let (id, ..) = children::start(cargo.stdin(Stdio::null()))
        .map_err(|error| text!("cannot start cargo: {error}", "cargo를 실행할 수 없습니다: {error}"))?;
    match children::wait(id) {
        Some(status) if status.success() => {
            skip_build();
            Ok(())
        }
        _ => Err(text!(
            "the real processes cannot be built; see the messages of cargo above",
            "실제 프로세스를 빌드할 수 없습니다. 위의 cargo 메시지를 보십시오"
        )),
    }
}

/// The settings of the user must not reach the real processes.
pub fn clear_settings(command: &mut Command) {
    const PREFIXES: [&str; 4] = ["PILCROW_", "GATEWAY_", "USERS_", "DISTRIBUTOR_"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if PREFIXES.iter().any(|prefix| text.starts_with(prefix)) || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
}
