//! A port: accepts connections and starts one thread for each, for packets and HTTP alike.
//!
//! All servers share these rules: how many connections are accepted, how the next one is rejected, what happens when
//! descriptors run out, and how accepting ends. [`super::drain`] ends the connections. Binding and serving are two steps,
//! so that a caller that binds port 0 learns the port.

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

/// Connections per port by default (`--max-connections`).
pub const DEFAULT_MAX_CONNECTIONS: usize = 4096;

/// How many connections the kernel holds ready for `accept`.
const BACKLOG: i32 = 4096;

/// How long to wait after a failed `accept`, such as one without a free descriptor, before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long `accept` must succeed before the log says that it works again. At the descriptor limit each connection that
/// ends lets another one in, and the next one fails: the log reports that once.
const ACCEPT_CALM: Duration = Duration::from_secs(1);

/// How many connections may wait for a rejection in words. The next one is closed without.
const REFUSALS_WAITING: usize = 64;

/// How long, at the end, connections from the kernel's backlog are accepted.
const BACKLOG_LIMIT: Duration = Duration::from_secs(1);

/// How long to wait, at the end, after an `accept` that failed for lack of descriptors.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// A protocol on accepted connections.
pub trait Serve: Send + Sync + 'static {
    /// Serves one connection until it ends; it is closed afterwards.
    fn serve(&self, connection: Connection);

    /// Rejects a connection beyond the limit, in words if the protocol has some. Must not take long.
    fn refuse(&self, stream: &TcpStream, peer: SocketAddr);
}

/// A bound port that is not served yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    is_inherited: bool,
}

/// A port that is served. Dropping it stops accepting; [`Serving::drain`] also ends its connections.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    connections: Arc<Connections>,
    waker: AcceptWaker,
    accepting: Option<JoinHandle<()>>,
}

/// The local address of the connection that wakes the accept thread at the end. It is not served.
type AcceptWaker = Arc<Mutex<Option<SocketAddr>>>;

impl Listener {
    /// Binds the first address that is free. Port 0 takes a free port.
    ///
    /// # Errors
    /// If the address has no meaning or the port is in use.
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
        // On Unix this lets a restarted process have its port back at once; on Windows it would let two
        // processes share it.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let address = socket.local_addr()?;
        Ok(Self { socket, address, is_inherited: false })
    }

    /// Takes the listening socket that a service manager such as systemd has passed on (`LISTEN_FDS`), if there is one.
    /// The service manager keeps the port open, so a restart of this process rejects no connection.
    ///
    /// # Errors
    /// If what was passed on is no TCP socket.
    #[cfg(unix)]
    pub fn inherit() -> io::Result<Option<Self>> {
        let Some(socket) = listenfd::ListenFd::from_env().take_tcp_listener(0)? else { return Ok(None) };
        let address = socket.local_addr()?;
        socket.set_nonblocking(false)?;
        Ok(Some(Self { socket, address, is_inherited: true }))
    }

    /// There is no such socket on this system.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn inherit() -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// The address with the real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bare socket, for a server that accepts by itself.
    #[must_use]
    pub fn into_socket(self) -> TcpListener {
        self.socket
    }

    /// Serves this port with threads called `name` plus the peer's port.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
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
                    // Without a free descriptor `accept` fails at once, again and again. So wait for a connection to
                    // end; new ones wait in the kernel's backlog.
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

    /// Accepts the connections in the kernel's backlog: their clients are connected and may have sent a request, and
    /// closing the port would reset them. An inherited port stays open, so our successor accepts them.
    fn empty_backlog(&self, next_id: &mut u64) {
        let socket = &self.listener.socket;
        if self.listener.is_inherited || socket.set_nonblocking(true).is_err() {
            return;
        }
        let deadline = Instant::now() + BACKLOG_LIMIT;
        while Instant::now() < deadline {
            match socket.accept() {
                Ok((stream, peer)) => {
                    // On some systems the stream inherits this setting from the port.
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
        // If no thread starts, the connection is dropped, which closes it.
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
        // A full queue drops the stream, which closes it.
        let _ = self.refused.try_send((stream, peer));
    }
}

fn refuse_politely(to_refuse: &Receiver<(TcpStream, SocketAddr)>, service: &dyn Serve) {
    while let Ok((stream, peer)) = to_refuse.recv() {
        service.refuse(&stream, peer);
    }
}

/// Errors of `accept` that concern one connection which is gone already, not the port.
fn is_the_peers_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

impl Serving {
    /// The address that is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Stops accepting, closes each connection once its requests are answered, and cuts off at `limit` what is left.
    pub fn drain(mut self, limit: Duration) {
        let began = Instant::now();
        self.stop_accepting();
        self.connections.drain(began, limit);
    }

    /// Accepts the connections in the kernel's backlog, then closes the port. Open connections live on.
    pub fn stop_accepting(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        // Only a connection wakes a thread that waits in `accept` on every system.
        let socket = self.waking_socket();
        *lock(&self.waker) = socket.as_ref().ok().and_then(|socket| socket.local_addr().ok()?.as_socket());
        self.connections.start_draining();
        let woken = socket.and_then(|socket| {
            socket.connect_timeout(&self.reachable_address().into(), BACKLOG_LIMIT).map(|()| socket)
        });
        // A thread that finds no free descriptor does not wait in `accept`: it retries until it sees the flag.
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

    /// The address of this port as seen from this machine.
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
