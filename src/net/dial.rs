//! The reconnect thread: keeps one outgoing connection alive for as long as its owner wants it.
//!
//! The first attempt is immediate; after a failure or the end of a connection the next comes 3 s later, for
//! ever. The thread ends when its [`Dialer`] is dropped.

use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::{spawn, tune};
use crate::sync::lock;

/// How long after a failed attempt or a lost connection the next attempt comes.
pub const RETRY_EVERY: Duration = Duration::from_secs(3);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What is done with each connection.
pub trait Session: Send + 'static {
    /// Uses the connection until it ends. How soon to dial again: 3 s later, or at once.
    fn run(&mut self, stream: Arc<TcpStream>) -> Again;
}

/// When to dial again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// After [`RETRY_EVERY`].
    Later,
    /// At once: the connection was closed on purpose, to get a new one.
    Now,
}

/// The owner's handle of a reconnect thread. Dropping it ends the connection and the thread.
#[derive(Debug)]
pub struct Dialer {
    current: Arc<Current>,
    /// A message means "dial now"; its disconnection means "stop".
    wake: Sender<()>,
}

#[derive(Debug, Default)]
struct Current(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    stream: Option<Arc<TcpStream>>,
    stopped: bool,
}

impl Dialer {
    /// Starts a reconnect thread called `name` that dials `address` and hands each connection to `session`.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn start(name: &str, address: String, session: impl Session) -> io::Result<Self> {
        let (wake, woken) = bounded(1);
        let current = Arc::new(Current::default());
        let shared = current.clone();
        spawn(name, move || keep_dialling(&address, session, &shared, &woken))?;
        Ok(Self { current, wake })
    }

    /// Ends the pause before the next attempt: there is news that the other side is there.
    pub fn dial_now(&self) {
        // A message that waits already says the same.
        let _ = self.wake.try_send(());
    }
}

impl Drop for Dialer {
    fn drop(&mut self) {
        let stream = {
            let mut slot = lock(&self.current.0);
            slot.stopped = true;
            slot.stream.take()
        };
        if let Some(stream) = stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Current {
    /// Makes this connection the one that a stop shuts down; false if the stop came first.
    fn set(&self, stream: Option<Arc<TcpStream>>) -> bool {
        let mut slot = lock(&self.0);
        slot.stream = stream;
        !slot.stopped
    }
}

fn keep_dialling(address: &str, mut session: impl Session, current: &Current, woken: &Receiver<()>) {
    let mut failures = 0_u32;
    loop {
        let again = match connect(address) {
            Ok(stream) => {
                failures = 0;
                let stream = Arc::new(stream);
                if !current.set(Some(stream.clone())) {
                    return;
                }
                let again = session.run(stream.clone());
                let _ = stream.shutdown(Shutdown::Both);
                if !current.set(None) {
                    return;
                }
                again
            }
            Err(error) => {
                // Said once, not every 3 s: the log of a waiting process stays readable.
                let level = if failures == 0 { log::Level::Info } else { log::Level::Debug };
                log::log!(level, "cannot reach {address} ({error}); trying again every 3 s");
                failures = failures.saturating_add(1);
                Again::Later
            }
        };
        let pause = if again == Again::Now { Duration::ZERO } else { RETRY_EVERY };
        if woken.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            // A port in the ephemeral range where nobody listens can, by chance, be connected to itself.
            Ok(stream) if stream.local_addr().ok() == Some(candidate) => {
                last = io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there");
            }
            Ok(stream) => {
                tune(&stream)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
