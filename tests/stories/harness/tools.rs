//! The tools of this repository, which are packages of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The packages of the tools.
const TOOLS: [&str; 5] = ["pilcrow-up", "pilcrow-tap", "pilcrow-look", "pilcrow-lessons", "pilcrow-lesson"];

/// The path of a tool, such as `pilcrow-tap`. The first call builds all tools, which may take a minute. They are always
/// built together, because cargo could replace a tool that runs if it built one alone.
pub fn tool(name: &str) -> PathBuf {
    static DIRECTORY: LazyLock<&Path> = LazyLock::new(|| {
        let directory = Path::new(env!("CARGO_BIN_EXE_gateway")).parent().unwrap();
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline"])
            .args(TOOLS.iter().flat_map(|tool| ["--package", tool]))
            .arg("--target-dir")
            .arg(directory.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.unwrap().success(), "cargo cannot build the tools");
        directory
    });
    DIRECTORY.join(name)
}
