//! The reconnect thread: keeps one outgoing connection alive for as long as its owner wants it.
//!
//! The first attempt is immediate; after a failure or the end of a connection the next comes 3 s later, for
//! ever. The thread ends when its [`Dialer`] is dropped. Where there is a cluster secret, a connection counts only
//! once both ends have proven it.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::Level;

use super::proof::{Unproven, prove};
use super::secret::Secret;
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
    /// Starts a reconnect thread called `name` that dials `address` and hands each connection to `session`; with a
    /// secret, once that is proven.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn start(
        name: &str,
        address: String,
        secret: Option<&Secret>,
        session: impl Session,
    ) -> io::Result<Self> {
        let (wake, woken) = bounded(1);
        let current = Arc::new(Current::default());
        let line = Line { address, secret: secret.cloned(), current: current.clone(), said: None };
        spawn(name, move || line.keep(session, &woken))?;
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
    fn begin(&self, stream: &Arc<TcpStream>) -> bool {
        let mut slot = lock(&self.0);
        slot.stream = Some(stream.clone());
        !slot.stopped
    }

    /// Closes the connection, if there is one; false if a stop has come.
    fn end(&self) -> bool {
        let (stream, stopped) = {
            let mut slot = lock(&self.0);
            (slot.stream.take(), slot.stopped)
        };
        if let Some(stream) = stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        !stopped
    }
}

/// What the reconnect thread knows.
struct Line {
    address: String,
    secret: Option<Secret>,
    current: Arc<Current>,
    /// The trouble that was last said. It is said once, not every 3 s: the log of a waiting process stays readable.
    said: Option<Discriminant<Trouble>>,
}

/// Why there is no connection to use.
enum Trouble {
    Unreachable(io::Error),
    Unproven(Unproven),
    /// The dialler has been dropped.
    Stopped,
}

impl Line {
    fn keep(mut self, mut session: impl Session, woken: &Receiver<()>) {
        loop {
            let again = match self.open() {
                Ok(stream) => {
                    self.said = None;
                    session.run(stream)
                }
                Err(Trouble::Stopped) => return,
                Err(trouble) => {
                    self.tell(&trouble);
                    Again::Later
                }
            };
            if !self.current.end() {
                return;
            }
            let pause = if again == Again::Now { Duration::ZERO } else { RETRY_EVERY };
            if woken.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// A connection, proven if there is a secret.
    fn open(&self) -> Result<Arc<TcpStream>, Trouble> {
        let stream = Arc::new(connect(&self.address).map_err(Trouble::Unreachable)?);
        if !self.current.begin(&stream) {
            return Err(Trouble::Stopped);
        }
        if let Some(secret) = &self.secret {
            prove(secret, &stream).map_err(Trouble::Unproven)?;
        }
        Ok(stream)
    }

    fn tell(&mut self, trouble: &Trouble) {
        let address = &self.address;
        let news = self.said.replace(discriminant(trouble)) != Some(discriminant(trouble));
        let level = |loud| if news { loud } else { Level::Debug };
        match trouble {
            Trouble::Unreachable(error) => {
                log::log!(level(Level::Info), "cannot reach {address} ({error}); trying again every 3 s");
            }
            Trouble::Unproven(why) => log::log!(
                level(Level::Warn),
                "{address} does not prove the cluster secret ({why}): is PILCROW_SECRET the same there? \
                 trying again every 3 s"
            ),
            Trouble::Stopped => {}
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
