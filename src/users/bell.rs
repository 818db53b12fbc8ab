//! How users processes on one database tell each other of a commit.
//!
//! SQLite tells nobody that another process has written. Asking again and again would cost either time or
//! processor; instead, whoever commits rings a bell: one datagram to each process that shares the file. They are
//! all on this machine, since SQLite's WAL mode needs shared memory, so loopback reaches them. A datagram carries
//! nothing and proves nothing: whoever hears it looks into the database.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use rusqlite::Connection;

use super::store::StoreError;

/// The ears of one process: where it is told of commits.
#[derive(Debug)]
pub struct Ear {
    socket: UdpSocket,
}

/// The hand that rings for the others.
#[derive(Debug, Default)]
pub struct Ringer {
    /// Connected, so that the operating system tells us where nobody listens any more.
    bells: HashMap<u16, UdpSocket>,
    dead: Vec<u16>,
}

impl Ear {
    /// Takes a free loopback port to listen on.
    ///
    /// # Errors
    /// If there is none.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))? })
    }

    /// The port to ring at.
    ///
    /// # Errors
    /// If the operating system does not tell.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// A bell that only this ear hears.
    ///
    /// # Errors
    /// If the operating system gives no further socket.
    pub fn bell(&self) -> io::Result<UdpSocket> {
        let bell = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        bell.connect(self.socket.local_addr()?)?;
        bell.set_nonblocking(true)?;
        Ok(bell)
    }

    /// Waits for a ring, at most `limit`. Rings that came together are one.
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

/// Makes this process known to those that share the database.
///
/// # Errors
/// Those of the database.
pub fn hang(db: &Connection, port: u16) -> Result<(), StoreError> {
    db.prepare_cached("INSERT OR IGNORE INTO bells (port) VALUES (?1)")?.execute([port])?;
    Ok(())
}

impl Ringer {
    /// Which bells to ring after the commit of the transaction that is open; forgets those found dead. A failure
    /// costs somebody a delay, and no write may fail of it.
    pub fn bells(&mut self, db: &Connection) -> Vec<u16> {
        self.try_bells(db).unwrap_or_else(|error| {
            log::debug!("nobody is told of this commit: {error}");
            Vec::new()
        })
    }

    fn try_bells(&mut self, db: &Connection) -> Result<Vec<u16>, StoreError> {
        let mut statement = db.prepare_cached("SELECT port FROM bells")?;
        let mut ports: Vec<u16> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for port in self.dead.drain(..) {
            ports.retain(|hung| *hung != port);
            self.bells.remove(&port);
            // One that stays is found dead again.
            let _ = db.prepare_cached("DELETE FROM bells WHERE port = ?1")?.execute([port]);
        }
        Ok(ports)
    }

    /// Rings. One that nobody hears is looked for no further; its process has ended.
    pub fn ring(&mut self, ports: &[u16]) {
        for port in ports {
            let heard = self.bell(*port).and_then(|bell| bell.send(b"!"));
            if heard.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                self.dead.push(*port);
            }
        }
    }

    fn bell(&mut self, port: u16) -> io::Result<&UdpSocket> {
        use std::collections::hash_map::Entry;
        match self.bells.entry(port) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect((Ipv4Addr::LOCALHOST, port))?;
                socket.set_nonblocking(true)?;
                Ok(new.insert(socket))
            }
        }
    }
}
