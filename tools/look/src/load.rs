//! The background load: reads of the list of users, at a steady rate, so that there is something to see.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pilcrow::thread::spawn;
use serde::Serialize;

use crate::board::Board;
use crate::gateway::Request;

/// How many requests per second the load may send.
pub const MAX_PER_SECOND: u32 = 100;

/// How many threads send. A slow answer delays only its own thread.
const THREADS: u32 = 8;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a thread without work looks for some.
const IDLE: Duration = Duration::from_millis(100);

/// The load and its results since it was switched on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LoadView {
    /// How many requests per second are sent. 0 switches it off.
    pub per_second: u32,
    pub answered: u64,
    /// The requests without an answer, and those with a status from 500 on.
    pub failed: u64,
    /// The longest time of an answer.
    pub longest_ms: f64,
}

impl LoadView {
    /// Switches the load on or off, and begins to count at 0.
    pub fn set(&mut self, per_second: u32) {
        *self = Self { per_second: per_second.min(MAX_PER_SECOND), ..Self::default() };
    }

    fn count(&mut self, is_answered: bool, took: Duration) {
        if is_answered {
            self.answered += 1;
        } else {
            self.failed += 1;
        }
        let took_ms = (took.as_secs_f64() * 10_000.0).round() / 10.0;
        self.longest_ms = self.longest_ms.max(took_ms);
    }
}

/// Starts the threads of the load. They end when the board is closed.
pub fn start(board: &Arc<Board>) -> io::Result<()> {
    for number in 1..=THREADS {
        let board = board.clone();
        spawn(&format!("load {number}"), move || send_requests(&board))?;
    }
    Ok(())
}

fn send_requests(board: &Board) {
    let mut pause = IDLE;
    while board.pause(pause) {
        let began = Instant::now();
        pause = match board.load_per_second() {
            0 => IDLE,
            per_second => {
                send_one(board);
                (Duration::from_secs(1) * THREADS / per_second).saturating_sub(began.elapsed())
            }
        };
    }
}

fn send_one(board: &Board) {
    let began = Instant::now();
    let request = Request { method: "GET", path: "/users?limit=1", headers: String::new(), body: "" };
    let status = board.gateways().iter().find_map(|gateway| request.send(gateway, PATIENCE).ok());
    let is_answered = status.is_some_and(|answer| answer.status < 500);
    board.update_load(|load| load.count(is_answered, began.elapsed()));
}
