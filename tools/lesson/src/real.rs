//! The real processes: they are built like this tool, and lie beside it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::children;
use crate::program::WORKSPACE;

/// The path of a real program.
pub fn path(name: &str) -> PathBuf {
    let tool = env::current_exe().unwrap_or_default();
    tool.with_file_name(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// Builds the real programs in the profile of this tool.
pub fn build() -> Result<(), String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(WORKSPACE).args(["build", "--quiet", "--package", "pilcrow", "--bins"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let (id, ..) = children::start(cargo.stdin(Stdio::null()))
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    match children::wait(id) {
        Some(status) if status.success() => Ok(()),
        _ => Err("the real processes cannot be built; see the messages of cargo above".to_owned()),
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
