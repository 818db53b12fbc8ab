//! Builds the services with cargo, and reads the paths of the binaries from cargo's messages.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crossbeam_channel::{Receiver, Sender};
use serde_json::Value;

use crate::event::{Event, SAME_MOMENT, Stop};
use crate::process::Process;

/// The root of the workspace when this tool was compiled.
pub const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The packages whose programs are built.
const PACKAGES: [&str; 3] = ["pilcrow", "pilcrow-look", "pilcrow-tap"];

/// The id of cargo's process. The ids of the services count up from 0.
const CARGO: usize = usize::MAX;

/// The paths of the built programs.
#[derive(Debug, Default)]
pub struct Binaries(HashMap<String, PathBuf>);

impl Binaries {
    /// The program called `name`. If cargo did not name it, the system searches for it. If that fails, the error at its
    /// start reports it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.get(name).cloned().unwrap_or_else(|| PathBuf::from(name))
    }

    /// Stores the path from one of cargo's messages, if it is about a program.
    fn note(&mut self, message: &str) {
        let Ok(message) = serde_json::from_str::<Value>(message) else { return };
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            self.0.insert(name.to_owned(), PathBuf::from(path));
        }
    }
}

/// Builds the services in release mode. Cargo's output goes directly to stderr.
pub fn build(sender: &Sender<Event>, events: &Receiver<Event>) -> Result<Binaries, Stop> {
    let _cargo = Process::start(CARGO, "cargo", &mut cargo(), sender)
        .map_err(|error| Stop::Failed(format!("cannot start cargo: {error}")))?;
    let mut binaries = Binaries::default();
    for event in events {
        match event {
            Event::Line { text, .. } => binaries.note(&text),
            Event::Exited { status: Some(status), .. } if status.success() => break,
            Event::Exited { .. } => return Err(failure(events)),
            Event::Interrupt => return Err(Stop::Interrupted),
            Event::Ready { .. } | Event::Typed(_) => {}
        }
    }
    Ok(binaries)
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Ask cargo for the paths, since the target directory can be set in many places.
    command.current_dir(WORKSPACE).stdin(Stdio::null()).stdout(Stdio::piped());
    command.args(["build", "--release", "--message-format=json-render-diagnostics", "--bins"]);
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    command
}

/// The reason why cargo failed. It has already printed an error, or it received the same Ctrl-C as this process.
fn failure(events: &Receiver<Event>) -> Stop {
    match events.recv_timeout(SAME_MOMENT) {
        Ok(Event::Interrupt) => Stop::Interrupted,
        _ => Stop::Failed("the build failed; see the messages of cargo above".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_where_cargo_says() {
        let mut binaries = Binaries::default();
        binaries.note(r#"{"reason":"compiler-artifact","target":{"name":"users"},"executable":"/t/users"}"#);
        binaries.note(r#"{"reason":"compiler-artifact","target":{"name":"log"},"executable":null}"#);
        binaries.note("not JSON");
        assert_eq!(binaries.path("users"), PathBuf::from("/t/users"));
        assert_eq!(binaries.0.len(), 1);
    }
}
