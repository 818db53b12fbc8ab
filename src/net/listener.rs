//! A port: accepts connections and starts one thread for each, for packets and HTTP alike.
//!
//! All servers share these rules: how many connections they accept, how they reject the next one, what they do without
//! free descriptors, and how they stop accepting. [`super::drain`] ends the connections. Binding and serving are
//! separate steps, so that a caller that binds port 0 learns the port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;
use prometheus::IntCounter;
use socket2::{Domain, Protocol, Socket, Type};

use super::drain::Connections;
pub use super::drain::{Connection, Work};
use super::flood::say;
use super::{spawn, tune};
use crate::observe::metrics::{self, Gauge};
use crate::sync::lock;

/// The default limit of connections per port (`--max-connections`).
pub const DEFAULT_MAX_CONNECTIONS: usize = 4096;

/// The kernel's backlog: how many connections may wait for `accept`.
const BACKLOG: i32 = 4096;

/// The pause after a failed `accept`, for example one without a free descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long `accept` must succeed before the log reports recovery. At the descriptor limit, each closed connection
/// admits one more and the next `accept` fails again. The log reports such a period once.
const ACCEPT_CALM: Duration = Duration::from_secs(1);

/// How many connections may wait for a rejection message. The next one is closed without a message.
const REFUSALS_WAITING: usize = 64;

/// How long a shutdown accepts connections from the kernel's backlog.
const BACKLOG_LIMIT: Duration = Duration::from_secs(1);

/// The pause during a shutdown after an `accept` that failed for lack of descriptors.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// A protocol for accepted connections.
pub trait Serve: Send + Sync + 'static {
    /// Serves one connection until it ends. The caller then closes it.
    fn serve(&self, connection: Connection);

    /// Rejects a connection above the limit, with a message if the protocol has one. Must return quickly.
    fn refuse(&self, stream: &TcpStream, peer: SocketAddr);
}

/// A bound port that is not yet served.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    is_inherited: bool,
}

/// A served port. Dropping it stops accepting; [`Serving::drain`] also ends its connections.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    connections: Arc<Connections>,
    waker: AcceptWaker,
    accepting: Option<JoinHandle<()>>,
}

/// The local address of the connection that wakes the accept thread at shutdown. That connection is not served.
type AcceptWaker = Arc<Mutex<Option<SocketAddr>>>;

impl Listener {
    /// Binds the first free address. Port 0 selects a free port.
    ///
    /// # Errors
    /// The address is invalid or the port is in use.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs()? {
            match Self::bind_one(candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_one(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // On Unix, this lets a restarted process bind its port at once. On Windows, it would let two processes share
        // the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let address = socket.local_addr()?;
        Ok(Self { socket, address, is_inherited: false })
    }

    /// Takes the listening socket that a service manager such as systemd passed to us (`LISTEN_FDS`), if there is one.
    /// The service manager keeps the port open, so a restart of this process rejects no connection.
    ///
    /// # Errors
    /// The passed descriptor is not a TCP socket.
    #[cfg(unix)]
    pub fn inherit() -> io::Result<Option<Self>> {
        let Some(socket) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
        let address = socket.local_addr()?;
        socket.set_nonblocking(false)?;
        Ok(Some(Self { socket, address, is_inherited: true }))
    }

    /// Returns `None`, because this system has no such sockets.
    ///
    /// # Errors
    /// Never fails. It has the type of the Unix version, so callers need no `cfg`.
    #[cfg(not(unix))]
    pub fn inherit() -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// The bound address, with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bare socket, for a server with its own accept loop.
    #[must_use]
    pub fn into_socket(self) -> TcpListener {
        self.socket
    }

    /// Serves this port. Each thread is called `name` plus the peer's port.
    ///
    /// # Errors
    /// The operating system cannot start another thread.
    pub fn serve(
        self,
        name: &'static str,
        max_connections: usize,
        service: Arc<dyn Serve>,
    ) -> io::Result<Serving> {
        let connections = Arc::new(Connections::default());
        let counted = Arc::downgrade(&connections);
        metrics::watch(Gauge::Connections(name), move || Some(counted.upgrade()?.count()));
        let (refused, to_refuse) = bounded(REFUSALS_WAITING);
        let refusing = service.clone();
        spawn(&format!("{name} refuse"), move || refuse_politely(&to_refuse, refusing.as_ref()))?;
        let (address, waker) = (self.address, AcceptWaker::default());
        let acceptor = Acceptor {
            listener: self,
            name,
            max_connections,
            service,
            connections: connections.clone(),
            waker: waker.clone(),
            refused,
            turned_away: metrics::connections_refused(name),
        };
        let accepting = spawn(&format!("{name} accept"), move || acceptor.run())?;
        Ok(Serving { address, connections, waker, accepting: Some(accepting) })
    }
}

struct Acceptor {
    listener: Listener,
    name: &'static str,
    max_connections: usize,
    service: Arc<dyn Serve>,
    connections: Arc<Connections>,
    waker: AcceptWaker,
    refused: Sender<(TcpStream, SocketAddr)>,
    turned_away: IntCounter,
}

impl Acceptor {
    fn run(self) {
        let mut failed: Option<Instant> = None;
        let mut next_id = 0;
        loop {
            let accepted = self.listener.socket.accept();
            let is_draining = self.connections.is_draining();
            match accepted {
                Ok((stream, peer)) => {
                    if failed.is_some_and(|last| last.elapsed() >= ACCEPT_CALM) {
                        log::info!("{}: accepting connections again", self.name);
                        failed = None;
                    }
                    self.take(stream, peer, &mut next_id);
                }
                Err(error) if is_the_peers_fault(&error) || is_draining => {}
                Err(error) => {
                    // Without a free descriptor, `accept` fails at once, again and again. So wait until a connection
                    // ends. New connections wait in the kernel's backlog.
                    if failed.is_none() {
                        log::warn!("{}: cannot accept connections now ({error}); retrying", self.name);
                    }
                    failed = Some(Instant::now());
                    self.connections.await_change(ACCEPT_PAUSE);
                }
            }
            if is_draining {
                return self.empty_backlog(&mut next_id);
            }
        }
    }

    /// Accepts the connections in the kernel's backlog. Their clients may have sent a request, and closing the port
    /// would reset them. An inherited port stays open, so our successor accepts them.
    fn empty_backlog(&self, next_id: &mut u64) {
        let socket = &self.listener.socket;
        if self.listener.is_inherited || socket.set_nonblocking(true).is_err() {
            return;
        }
        let deadline = Instant::now() + BACKLOG_LIMIT;
        while Instant::now() < deadline {
            match socket.accept() {
                Ok((stream, peer)) => {
                    // On some systems, the stream inherits this setting from the port.
                    if stream.set_nonblocking(false).is_ok() {
                        self.take(stream, peer, next_id);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_the_peers_fault(&error) => {}
                Err(_) => thread::sleep(BACKLOG_PAUSE),
            }
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr, next_id: &mut u64) {
        if *lock(&self.waker) == Some(peer) {
            return;
        }
        *next_id += 1;
        self.admit(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()), *next_id);
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, id: u64) {
        if let Err(error) = tune(&stream) {
            log::debug!("{}: {peer} disconnected before it was served ({error})", self.name);
            return;
        }
        let connection = match self.connections.add(stream, peer, id, self.max_connections) {
            Ok(connection) => connection,
            Err(stream) => return self.turn_away(stream, peer),
        };
        let service = self.service.clone();
        // If no thread starts, this drops the connection, which closes it.
        let started = spawn(&format!("{} {}", self.name, peer.port()), move || service.serve(connection));
        if let Err(error) = started {
            log::warn!("{}: {peer} turned away: cannot start a thread ({error})", self.name);
        }
    }

    fn turn_away(&self, stream: TcpStream, peer: SocketAddr) {
        let (name, limit) = (self.name, self.max_connections);
        let line = format_args!("{name}: {peer} turned away: {limit} connections are open");
        say(Level::Warn, "turned away", peer.ip(), line);
        self.turned_away.inc();
        // If the queue is full, this drops the stream, which closes it.
        let _ = self.refused.try_send((stream, peer));
    }
}

fn refuse_politely(to_refuse: &Receiver<(TcpStream, SocketAddr)>, service: &dyn Serve) {
    while let Ok((stream, peer)) = to_refuse.recv() {
        service.refuse(&stream, peer);
    }
}

/// True for errors of `accept` that concern one lost connection, not the port.
fn is_the_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

impl Serving {
    /// The address of the served port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Stops accepting, closes each connection after its requests are answered, and cuts off the rest at `limit`.
    pub fn drain(mut self, limit: Duration) {
        let began = Instant::now();
        self.stop_accepting();
        self.connections.drain(began, limit);
    }

    /// Accepts the connections in the kernel's backlog, then closes the port. Open connections continue.
    pub fn stop_accepting(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        // A thread that waits in `accept` wakes up for a connection. No other way works on every system.
        let socket = self.waking_socket();
        *lock(&self.waker) = socket.as_ref().ok().and_then(|socket| socket.local_addr().ok()?.as_socket());
        self.connections.start_draining();
        let woken = socket.and_then(|socket| {
            socket.connect_timeout(&self.reachable_address().into(), BACKLOG_LIMIT).map(|()| socket)
        });
        // A thread without a free descriptor does not wait in `accept`: it retries until it sees the flag.
        let deadline = Instant::now() + 2 * BACKLOG_LIMIT;
        while !accepting.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        drop(woken);
    }

    /// A socket that is bound before it connects, so that the accept thread knows its address.
    fn waking_socket(&self) -> io::Result<Socket> {
        let address = self.reachable_address();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(address.ip(), 0).into())?;
        Ok(socket)
    }

    /// The address of this port as this machine can reach it.
    fn reachable_address(&self) -> SocketAddr {
        let port = self.address.port();
        match self.address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            address => address,
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop_accepting();
    }
}
