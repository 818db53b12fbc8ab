//! A port and the threads behind it: one thread per connection, for packets and for HTTP alike.
//!
//! Everything that a server on a port must never get wrong stands here once: how many connections it takes, what
//! it tells the one too many, what happens when descriptors run out, and how it ends without cutting off an
//! answer. Binding and serving are two steps, so that whoever binds port 0 learns the port.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::Level;
use prometheus::IntCounter;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use socket2::{Domain, Protocol, Socket, Type};

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

/// How long `accept` must not have failed for the trouble to be over. At the descriptor limit each connection
/// that ends lets another one in, and the next fails again: that is one trouble, said once.
const ACCEPT_CALM: Duration = Duration::from_secs(1);

/// How many connections may wait to be turned away with words; the next is closed without.
const REFUSALS_WAITING: usize = 64;

/// How long a peer that was asked to end its connection gets for that, from the beginning of a drain.
pub const PARTING: Duration = Duration::from_secs(3);

/// How long, at the end, connections that wait in the kernel are still taken in, and how often it is looked whether
/// one more has come.
const BACKLOG_LIMIT: Duration = Duration::from_secs(1);
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// What is done with connections.
pub trait Serve: Send + Sync + 'static {
    /// Serves one connection until it ends; it is closed afterwards.
    fn serve(&self, connection: Connection);

    /// Turns away a connection beyond the limit, in words if the protocol has some. Must not take long.
    fn refuse(&self, stream: &TcpStream, peer: SocketAddr);
}

/// A bound port on which nobody serves yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// A port that is served. Dropping it stops accepting; [`Serving::drain`] ends it with care.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    table: Arc<Table>,
    accepting: Option<JoinHandle<()>>,
}

/// One accepted connection.
#[derive(Debug)]
pub struct Connection {
    /// The socket, shared with whoever else must be able to write to it or to shut it down.
    pub stream: Arc<TcpStream>,
    /// Who is at the other end, in canonical form.
    pub peer: SocketAddr,
    id: u64,
    /// How many requests of this connection are being worked on.
    working: Arc<AtomicUsize>,
    /// Whether the peer was asked to end this connection by itself.
    parting: Arc<AtomicBool>,
    table: Arc<Table>,
}

/// Says that a request is being worked on, so that a drain waits for it. Dropping it says that it is done.
#[derive(Debug)]
pub struct Work {
    working: Arc<AtomicUsize>,
    table: Arc<Table>,
}

/// What a drain needs to know of a connection.
#[derive(Debug)]
struct Open {
    stream: Arc<TcpStream>,
    working: Arc<AtomicUsize>,
    parting: Arc<AtomicBool>,
}

impl Open {
    /// Whether a drain may end it: nothing is being worked on, and nothing is expected to come any more.
    fn is_over(&self, elapsed: Duration) -> bool {
        let patience = if self.parting.load(Ordering::SeqCst) { PARTING } else { Duration::ZERO };
        elapsed >= patience && self.working.load(Ordering::SeqCst) == 0
    }
}

#[derive(Debug)]
struct Table {
    open: Mutex<HashMap<u64, Open>>,
    /// Told when a connection has ended, and during a drain when one has become idle.
    changed: Condvar,
    draining: AtomicBool,
    /// Where the connection comes from that wakes the accept thread at the end: nobody to be served.
    waker: Mutex<Option<SocketAddr>>,
}

impl Listener {
    /// Takes a port; of several addresses, the first that can be had. Port 0 takes a free one.
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
        Ok(Self { socket, address })
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
        let table = Arc::new(Table {
            open: Mutex::new(HashMap::new()),
            changed: Condvar::new(),
            draining: AtomicBool::new(false),
            waker: Mutex::new(None),
        });
        let counted = Arc::downgrade(&table);
        metrics::watch(Gauge::Connections(name), move || Some(lock(&counted.upgrade()?.open).len()));
        let (refused, to_refuse) = bounded(REFUSALS_WAITING);
        let refusing = service.clone();
        spawn(&format!("{name} refuse"), move || refuse_politely(&to_refuse, refusing.as_ref()))?;
        let address = self.address;
        let acceptor = Acceptor {
            socket: self.socket,
            name,
            max_connections,
            service,
            table: table.clone(),
            refused,
            turned_away: metrics::connections_refused(name),
        };
        let accepting = spawn(&format!("{name} accept"), move || acceptor.run())?;
        Ok(Serving { address, table, accepting: Some(accepting) })
    }
}

struct Acceptor {
    socket: TcpListener,
    name: &'static str,
    max_connections: usize,
    service: Arc<dyn Serve>,
    table: Arc<Table>,
    refused: Sender<(TcpStream, SocketAddr)>,
    turned_away: IntCounter,
}

impl Acceptor {
    fn run(self) {
        let mut failed: Option<Instant> = None;
        let mut next_id = 0;
        loop {
            let accepted = self.socket.accept();
            let draining = self.table.draining.load(Ordering::SeqCst);
            match accepted {
                Ok((stream, peer)) => {
                    if failed.is_some_and(|last| last.elapsed() >= ACCEPT_CALM) {
                        log::info!("{}: accepting connections again", self.name);
                        failed = None;
                    }
                    self.take(stream, peer, &mut next_id);
                }
                Err(error) if is_the_peers_fault(&error) || draining => {}
                Err(error) => {
                    // Without a free descriptor `accept` fails at once, again and again: say it once and wait
                    // for connections to end. Those that come meanwhile wait in the kernel's backlog.
                    if failed.is_none() {
                        log::warn!("{}: cannot accept connections now ({error}); trying on", self.name);
                    }
                    failed = Some(Instant::now());
                    let open = lock(&self.table.open);
                    drop(self.table.changed.wait_timeout(open, ACCEPT_PAUSE));
                }
            }
            if draining {
                return self.empty_backlog(&mut next_id);
            }
        }
    }

    /// Takes in those who wait in the kernel: they have been told that they are connected, and may have sent their
    /// request already. Giving the port back would reset them.
    fn empty_backlog(&self, next_id: &mut u64) {
        let began = Instant::now();
        let turned_off = turn_newcomers_off(&self.socket).is_ok();
        let mut was_empty = false;
        while self.socket.set_nonblocking(true).is_ok() && began.elapsed() < BACKLOG_LIMIT {
            match self.socket.accept() {
                Ok((stream, peer)) => {
                    was_empty = false;
                    // Some systems hand it down that the listening socket does not wait.
                    if stream.set_nonblocking(false).is_ok() {
                        self.take(stream, peer, next_id);
                    }
                }
                Err(error) if is_the_peers_fault(&error) => {}
                // Where newcomers are kept away, the last ones may still be on their way in.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && (was_empty || !turned_off) => {
                    return;
                }
                Err(error) => {
                    was_empty = error.kind() == io::ErrorKind::WouldBlock;
                    thread::sleep(BACKLOG_PAUSE);
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr, next_id: &mut u64) {
        if *lock(&self.table.waker) == Some(peer) {
            return;
        }
        *next_id += 1;
        self.admit(stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()), *next_id);
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, id: u64) {
        if let Err(error) = tune(&stream) {
            log::debug!("{}: {peer} was gone before it could be served ({error})", self.name);
            return;
        }
        let stream = Arc::new(stream);
        let (working, parting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let admitted = {
            let mut open = lock(&self.table.open);
            let admitted = open.len() < self.max_connections;
            if admitted {
                let (stream, working, parting) = (stream.clone(), working.clone(), parting.clone());
                open.insert(id, Open { stream, working, parting });
            }
            admitted
        };
        if !admitted {
            let told = format_args!(
                "{}: {peer} turned away: {} connections are open",
                self.name, self.max_connections
            );
            say(Level::Warn, "turned away", peer.ip(), told);
            self.turned_away.inc();
            if let Some(stream) = Arc::into_inner(stream) {
                self.turn_away(stream, peer);
            }
            return;
        }
        let connection = Connection { stream, peer, id, working, parting, table: self.table.clone() };
        let service = self.service.clone();
        // A thread that cannot be started drops the connection, and with it its place in the table.
        let started = spawn(&format!("{} {}", self.name, peer.port()), move || service.serve(connection));
        if let Err(error) = started {
            log::warn!("{}: {peer} turned away: no further thread ({error})", self.name);
        }
    }

    fn turn_away(&self, stream: TcpStream, peer: SocketAddr) {
        match self.refused.try_send((stream, peer)) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// Lets the kernel drop what would open a further connection to this port, while those that are being opened come
/// through. Whoever is dropped asks again a second later, and is then refused, or served by our successor.
#[cfg(target_os = "linux")]
fn turn_newcomers_off(socket: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where the flags stand in a TCP header, and the two that tell the first packet of a connection.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    SockRef::from(socket).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
}

#[cfg(not(target_os = "linux"))]
fn turn_newcomers_off(_socket: &TcpListener) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
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
        lock(&self.table.open).len()
    }

    /// Ends the service: refuses new connections, gives each open one `settle` for requests that are on their
    /// way, closes those on which nothing is being worked on (where the peer was asked to do that, it gets
    /// [`PARTING`] for it), waits for the others until `limit` is over, and closes what is left. True if nothing had to be cut off.
    pub fn drain(mut self, settle: Duration, limit: Duration) -> bool {
        let began = Instant::now();
        self.stop_accepting();
        // Also for those who were the last to be let in.
        let settle = settle + began.elapsed();
        let mut open = lock(&self.table.open);
        loop {
            if open.is_empty() {
                return true;
            }
            let elapsed = began.elapsed();
            if elapsed >= limit {
                break;
            }
            if elapsed >= settle {
                // Their threads read the end of the stream; what they had read before, they still answer.
                for idle in open.values().filter(|one| one.is_over(elapsed)) {
                    let _ = idle.stream.shutdown(Shutdown::Read);
                }
            }
            let next = if elapsed < settle { settle } else { limit };
            let pause = next.saturating_sub(elapsed);
            let waited = self.table.changed.wait_timeout(open, pause.min(Duration::from_millis(50)));
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        for late in open.values() {
            let _ = late.stream.shutdown(Shutdown::Both);
        }
        false
    }

    /// Takes in who has connected already, then gives the port back. Open connections live on.
    pub fn stop_accepting(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        // A thread that waits in `accept` is woken by a connection, and by nothing else everywhere.
        let waker = self.waker();
        *lock(&self.table.waker) =
            waker.as_ref().ok().and_then(|socket| socket.local_addr().ok()?.as_socket());
        self.table.draining.store(true, Ordering::SeqCst);
        let woken = waker.and_then(|socket| {
            socket.connect_timeout(&self.reachable_address().into(), BACKLOG_LIMIT).map(|()| socket)
        });
        // One that finds no free descriptor is not waiting in `accept`: it tries again and again.
        let deadline = Instant::now() + 2 * BACKLOG_LIMIT;
        while !accepting.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        drop(woken);
    }

    /// A socket that has its address already, so that the accept thread knows its connection.
    fn waker(&self) -> io::Result<Socket> {
        let address = self.reachable_address();
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::new(address.ip(), 0).into())?;
        Ok(socket)
    }

    /// Where this port is reached from this machine.
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

impl Connection {
    /// A number that no other connection of this port has had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Says that a request has begun; a drain waits until the returned value is dropped.
    #[must_use]
    pub fn work(&self) -> Work {
        self.working.fetch_add(1, Ordering::SeqCst);
        Work { working: self.working.clone(), table: self.table.clone() }
    }

    /// How many requests of this connection are being worked on.
    #[must_use]
    pub fn working(&self) -> usize {
        self.working.load(Ordering::SeqCst)
    }

    /// The peer has been asked to end this connection as soon as nothing is pending on it: a drain leaves that to it.
    pub fn part(&self) {
        self.parting.store(true, Ordering::SeqCst);
    }

    /// Waits until something has changed on this port, at most `limit`.
    pub(crate) fn await_change(&self, limit: Duration) {
        drop(self.table.changed.wait_timeout(lock(&self.table.open), limit));
    }

    /// Whether the process is ending: finish what has begun, begin nothing new.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.table.draining.load(Ordering::SeqCst)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.table.open).remove(&self.id);
        self.table.changed.notify_all();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.working.fetch_sub(1, Ordering::SeqCst) == 1 && self.table.draining.load(Ordering::SeqCst) {
            self.table.changed.notify_all();
        }
    }
}
