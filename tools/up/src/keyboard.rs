//! What the user types into the terminal, line by line.

use std::io;
use std::thread;

use crossbeam_channel::Sender;

use crate::event::Event;
use crate::process::read_lines;

/// Starts the thread that sends each typed line. Without a keyboard, it ends at once.
pub fn read_keyboard(events: Sender<Event>) -> io::Result<()> {
    thread::Builder::new().name("keyboard".to_owned()).spawn(move || {
        accept_background();
        read_lines(io::stdin(), |text| events.send(Event::Typed(text)).ok());
    })?;
    Ok(())
}

/// A program in the background that reads from its terminal is stopped, with all its children. If the reading thread
/// blocks the signal for that, it gets an error instead.
#[cfg(unix)]
fn accept_background() {
    use nix::sys::signal::{SigSet, Signal};
    let _ = SigSet::from(Signal::SIGTTIN).thread_block();
}

#[cfg(not(unix))]
fn accept_background() {}
