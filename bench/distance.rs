//! Measures the current distance between the processors: the nanoseconds that two threads need to pass one word back
//! and forth. It is only for the benchmark (`bench/README.md`), which runs it before and after each row.
//!
//! On a rented machine this value varies. Its processors are threads of a larger machine, which moves them. At one time
//! two of them share a cache, at another time they do not. Then everything that two threads pass to each other costs
//! several times as much.

#![allow(clippy::print_stdout, reason = "what a program of the benchmark prints is its result")]

use std::hint;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The thread whose turn it is.
static TURN: AtomicU8 = AtomicU8::new(OURS);
const OURS: u8 = 0;
const THEIRS: u8 = 1;
const NOBODYS: u8 = 2;

/// The number of measurements. The median counts.
const TIMES: usize = 9;
const EACH: Duration = Duration::from_millis(5);

/// How often a thread polls before it yields to another one. With a single processor, the value would never change
/// otherwise.
const LOOKS: u64 = 10_000;

fn main() {
    let other = thread::spawn(|| while hand_over(THEIRS, OURS) {});
    let mut times: Vec<u128> = (0..TIMES).map(|_| nanoseconds()).collect();
    TURN.store(NOBODYS, Ordering::Release);
    let _ = other.join();
    times.sort_unstable();
    println!("{}", times[TIMES / 2]);
}

/// The time for the word to go and to come back.
fn nanoseconds() -> u128 {
    let (began, mut exchanges) = (Instant::now(), 0);
    while began.elapsed() < EACH {
        for _ in 0..100 {
            TURN.store(THEIRS, Ordering::Release);
            await_turn(OURS);
        }
        exchanges += 100;
    }
    began.elapsed().as_nanos() / exchanges
}

/// Waits for `mine` and passes the word on. Returns false after the end of the run.
fn hand_over(mine: u8, next: u8) -> bool {
    let ours = await_turn(mine);
    // A plain store could overwrite the end marker, which may have arrived meanwhile.
    ours && TURN.compare_exchange(mine, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// True when it is this thread's turn, false after the end of the run.
fn await_turn(mine: u8) -> bool {
    for look in 1.. {
        match TURN.load(Ordering::Acquire) {
            NOBODYS => return false,
            turn if turn == mine => return true,
            _ if look % LOOKS == 0 => thread::yield_now(),
            _ => hint::spin_loop(),
        }
    }
    false
}
