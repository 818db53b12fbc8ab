//! The reconnect thread: it keeps one outgoing connection open until its owner drops it.
//!
//! The first attempt is immediate. A failed attempt is retried after 3 s, without limit. After a lost connection, the
//! [`Session`] decides whether to dial at once or after 3 s. The thread ends when its [`Dialer`] is dropped. With a
//! cluster secret, both ends must prove the secret before the connection is used.

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

/// The pause before a retry.
pub const RETRY_EVERY: Duration = Duration::from_secs(3);

/// The timeout of one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The code that uses each connection.
pub trait Session: Send + 'static {
    /// Uses the connection until it ends. Returns when to dial again.
    fn run(&mut self, stream: Arc<TcpStream>) -> Redial;
}

/// When to dial again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redial {
    /// After [`RETRY_EVERY`].
    Later,
    /// At once, for connections that were in use. Otherwise a peer that accepts and closes would keep the thread busy.
    Now,
}

/// The owner's handle of a reconnect thread. Dropping it ends the connection and the thread.
#[derive(Debug)]
pub struct Dialer {
    current: Arc<CurrentStream>,
    /// A message means "dial now"; a disconnected channel means "stop".
    wake: Sender<()>,
}

#[derive(Debug, Default)]
struct CurrentStream(Mutex<StreamState>);

#[derive(Debug, Default)]
struct StreamState {
    stream: Option<Arc<TcpStream>>,
    stopped: bool,
}

impl Dialer {
    /// Starts a reconnect thread called `name`. It dials `address` and passes each connection to `session`. With a
    /// secret, both ends prove it first.
    ///
    /// # Errors
    /// The operating system cannot start another thread.
    pub fn start(
        name: &str,
        address: String,
        secret: Option<&Secret>,
        session: impl Session,
    ) -> io::Result<Self> {
        let (wake, woken) = bounded(1);
        let current = Arc::new(CurrentStream::default());
        let reconnector =
            Reconnector { address, secret: secret.cloned(), current: current.clone(), last_logged: None };
        spawn(name, move || reconnector.keep(session, &woken))?;
        Ok(Self { current, wake })
    }

    /// Ends the pause before the next attempt, because the other side is known to be up.
    pub fn dial_now(&self) {
        // If the channel is full, it already contains the same message.
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

impl CurrentStream {
    /// Registers the connection that a stop shuts down. False if the stop came first.
    fn begin(&self, stream: &Arc<TcpStream>) -> bool {
        let mut slot = lock(&self.0);
        slot.stream = Some(stream.clone());
        !slot.stopped
    }

    /// Closes the connection, if there is one. False if the dialer was stopped.
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

/// The state of the reconnect thread.
struct Reconnector {
    address: String,
    secret: Option<Secret>,
    current: Arc<CurrentStream>,
    /// The kind of the last logged error. It is logged once, not every 3 s, to keep the log readable.
    last_logged: Option<Discriminant<DialError>>,
}

/// Why an attempt failed.
enum DialError {
    Unreachable(io::Error),
    Unproven(Unproven),
    /// The [`Dialer`] has been dropped.
    Stopped,
}

impl Reconnector {
    fn keep(mut self, mut session: impl Session, woken: &Receiver<()>) {
        loop {
            let redial = match self.open() {
                Ok(stream) => {
                    self.last_logged = None;
                    session.run(stream)
                }
                Err(DialError::Stopped) => return,
                Err(error) => {
                    self.log_error(&error);
                    Redial::Later
                }
            };
            if !self.current.end() {
                return;
            }
            let pause = if redial == Redial::Now { Duration::ZERO } else { RETRY_EVERY };
            if woken.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Opens a connection and, if there is a secret, proves it.
    fn open(&self) -> Result<Arc<TcpStream>, DialError> {
        let stream = Arc::new(connect(&self.address).map_err(DialError::Unreachable)?);
        if !self.current.begin(&stream) {
            return Err(DialError::Stopped);
        }
        if let Some(secret) = &self.secret {
            prove(secret, &stream).map_err(DialError::Unproven)?;
        }
        Ok(stream)
    }

    fn log_error(&mut self, error: &DialError) {
        let address = &self.address;
        let news = self.last_logged.replace(discriminant(error)) != Some(discriminant(error));
        let level = |loud| if news { loud } else { Level::Debug };
        match error {
            DialError::Unreachable(error) => {
                log::log!(level(Level::Info), "cannot reach {address} ({error}); trying again every 3 s");
            }
            DialError::Unproven(why) => log::log!(
                level(Level::Warn),
                "{address} does not prove the cluster secret ({why}): is PILCROW_SECRET the same there? \
                 trying again every 3 s"
            ),
            DialError::Stopped => {}
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            // A socket can connect to itself by chance, on a port in the ephemeral range that has no listener.
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
