//! How far apart the processors are just now: how many nanoseconds it takes two threads to hand one word to and fro.
//! For the benchmark only (`bench/README.md`), which asks before and after each row.
//!
//! On a rented machine this changes by itself. Its processors are threads of a larger machine, which moves them about: now two
//! of them share a cache, now they do not, and then everything that two threads hand each other costs several times as
//! much.

#![allow(clippy::print_stdout, reason = "what a program of the benchmark prints is its result")]

use std::hint;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Whose turn it is.
static TURN: AtomicU8 = AtomicU8::new(OURS);
const OURS: u8 = 0;
const THEIRS: u8 = 1;
const NOBODYS: u8 = 2;

/// The middle one of so many measurements counts.
const TIMES: usize = 9;
const EACH: Duration = Duration::from_millis(5);

/// How often a thread looks before it lets another one run: with a single processor, nothing would ever come.
const LOOKS: u64 = 10_000;

fn main() {
    let other = thread::spawn(|| while hand_over(THEIRS, OURS) {});
    let mut times: Vec<u128> = (0..TIMES).map(|_| nanoseconds()).collect();
    TURN.store(NOBODYS, Ordering::Release);
    let _ = other.join();
    times.sort_unstable();
    println!("{}", times[TIMES / 2]);
}

/// How long it took for the word to go and to come back.
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

/// Waits for `mine` and passes the word on; false once it is nobody's.
fn hand_over(mine: u8, next: u8) -> bool {
    let ours = await_turn(mine);
    // Not stored over the end, which may have come meanwhile.
    ours && TURN.compare_exchange(mine, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// True when it is this thread's turn, false when it will never be.
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
