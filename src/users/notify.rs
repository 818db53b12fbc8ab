//! Notifies users processes on one database of each other's commits.
//!
//! SQLite does not notify a process when another one has written. Polling would cost either time or processor load.
//! Instead, the process that commits sends one datagram to each process on the same file. All of them are on this
//! machine, since the WAL mode of SQLite needs shared memory. So loopback reaches them. A datagram carries and proves
//! nothing: its receiver reads the database.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use super::store::{StoreError, UserTransaction};

/// The receiving end for notifications of commits.
#[derive(Debug)]
pub struct CommitListener {
    socket: UdpSocket,
}

/// Wakes the [`CommitListener`] of this process.
#[derive(Debug)]
pub struct Waker {
    socket: UdpSocket,
}

/// Notifies the other processes of commits.
#[derive(Debug, Default)]
pub struct CommitNotifier {
    /// Connected, so that the operating system reports a port without a listener.
    sockets: HashMap<u16, UdpSocket>,
    dead: Vec<u16>,
}

impl CommitListener {
    /// Binds a free loopback port.
    ///
    /// # Errors
    /// If no port is free.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))? })
    }

    /// The port on which it listens.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// A waker for this listener only.
    ///
    /// # Errors
    /// If the operating system gives no further socket.
    pub fn waker(&self) -> io::Result<Waker> {
        Ok(Waker { socket: connect(self.port()?)? })
    }

    /// Waits for a datagram, at most `limit`. Datagrams that arrived together count as one.
    pub fn wait(&self, limit: Duration) {
        let limit = limit.max(Duration::from_millis(1));
        if self.socket.set_read_timeout(Some(limit)).is_err() || self.socket.recv(&mut [0; 8]).is_err() {
            return;
        }
        if self.socket.set_nonblocking(true).is_ok() {
            while self.socket.recv(&mut [0; 8]).is_ok() {}
            let _ = self.socket.set_nonblocking(false);
        }
    }
}

impl Waker {
    /// Ends the wait of the listener.
    pub fn wake(&self) {
        // A datagram that cannot be sent only causes a delay, like a lost one.
        let _ = self.socket.send(b"!");
    }
}

impl CommitNotifier {
    /// The ports to notify after the commit of this transaction. Removes the ports that were found dead. A failure here
    /// must not fail the write: the other processes then learn of the commit later.
    pub fn ports(&mut self, transaction: &impl UserTransaction) -> Vec<u16> {
        self.try_ports(transaction).unwrap_or_else(|error| {
            log::debug!("no process is notified of this commit: {error}");
            Vec::new()
        })
    }

    fn try_ports(&mut self, transaction: &impl UserTransaction) -> Result<Vec<u16>, StoreError> {
        let mut ports = transaction.listeners()?;
        for dead in self.dead.drain(..) {
            ports.retain(|port| *port != dead);
            self.sockets.remove(&dead);
            // A port that cannot be removed will be found dead again.
            let _ = transaction.remove_listener(dead);
        }
        Ok(ports)
    }

    /// Notifies these ports. A port without a listener is removed with the next commit: its process has ended.
    pub fn notify(&mut self, ports: &[u16]) {
        for port in ports {
            let sent = self.socket(*port).and_then(|socket| socket.send(b"!"));
            if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                self.dead.push(*port);
            }
        }
    }

    fn socket(&mut self, port: u16) -> io::Result<&UdpSocket> {
        match self.sockets.entry(port) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(connect(port)?)),
        }
    }
}

/// A socket that sends to this loopback port and never blocks.
fn connect(port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
