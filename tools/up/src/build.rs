//! Has cargo build the services, and learns from cargo where it put them.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::process::Command;

use crossbeam_channel::{Receiver, Sender};
use serde_json::Value;

use crate::event::{Event, SAME_MOMENT, Stop};
use crate::process::Process;

/// The root of the workspace, as it was when this tool was compiled.
pub const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What is built.
const NAMES: [&str; 3] = ["distributor", "users", "gateway"];

/// The number of cargo's process; those of the services count up from 0.
const CARGO: usize = usize::MAX;

/// Where the built programs are.
#[derive(Debug, Default)]
pub struct Binaries(HashMap<String, PathBuf>);

impl Binaries {
    /// The program called `name`. One that cargo did not name is left to the system to find, and its failure
    /// to start will say so.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.get(name).cloned().unwrap_or_else(|| PathBuf::from(name))
    }

    /// Learns from one of cargo's messages, if it is about a program.
    fn note(&mut self, message: &str) {
        let Ok(message) = serde_json::from_str::<Value>(message) else { return };
        if let (Some(name), Some(path)) = (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            self.0.insert(name.to_owned(), PathBuf::from(path));
        }
    }
}

/// Builds the services in release mode. Cargo's own words go straight to stderr.
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
            Event::Ready { .. } => {}
        }
    }
    Ok(binaries)
}

fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Asking cargo where the programs are beats guessing: the target directory can be set in many places.
    command.current_dir(WORKSPACE).args(["build", "--release", "--message-format=json-render-diagnostics"]);
    for name in NAMES {
        command.args(["--bin", name]);
    }
    command
}

/// Why cargo ended without success. It has said so itself, or it got the same Ctrl-C as we did.
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
