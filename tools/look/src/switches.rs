//! The talk with `cargo up`, over stdin and stdout. There is no port for it, so nobody else can switch anything.
//!
//! `cargo up` writes JSON lines to our stdin: its processes, what it said about the last switch, and the load. We write
//! `switch: COMMAND` to stdout. `cargo up` carries the command out, or says why not.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use pilcrow::thread::spawn;
use serde::Deserialize;
use serde_json::Value;

use crate::board::Board;

/// The longest line from `cargo up`, in bytes.
const MAX_LINE_BYTES: u64 = 256 * 1024;

/// The longest command, in bytes.
const MAX_COMMAND_BYTES: usize = 100;

/// One line from `cargo up`.
#[derive(Deserialize)]
struct Line {
    processes: Option<Vec<Value>>,
    said: Option<String>,
    load: Option<u32>,
}

/// Reads stdin on a thread of its own, until its end.
pub fn read_stdin(board: &Arc<Board>) -> io::Result<()> {
    let board = board.clone();
    spawn("stdin", move || {
        let mut stdin = io::stdin().lock();
        let mut line = Vec::new();
        while matches!(stdin.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line), Ok(1..)) {
            match serde_json::from_slice(&line) {
                Ok(line) => apply(&board, line),
                Err(error) => log::warn!("a line of cargo up cannot be read: {error}"),
            }
            line.clear();
        }
    })?;
    Ok(())
}

fn apply(board: &Board, line: Line) {
    if let Some(processes) = line.processes {
        board.set_processes(processes);
    }
    if let Some(said) = line.said {
        board.set_said(said);
    }
    if let Some(per_second) = line.load {
        board.update_load(|load| load.set(per_second));
    }
}

/// Passes a command on to `cargo up`.
///
/// # Errors
/// A sentence that says what is wrong with the command.
pub fn send(command: &str) -> Result<(), String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == ' ' || c == '-';
    if command.is_empty() || command.len() > MAX_COMMAND_BYTES || !command.chars().all(is_word) {
        return Err("a command has words of letters, digits and `-`, such as `kill users-2`".to_owned());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "switch: {command}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("cargo up does not read the command: {error}"))
}
