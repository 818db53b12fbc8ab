//! Connections: their sockets and the threads that serve them. They are opened and accepted here and nowhere else.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`listener`] | a port: accepts connections, one thread for each, within limits; for packets and HTTP alike |
//! | [`drain`] | the open connections of a port, and how they end |
//! | [`peer`] | the answering side of a packet connection |
//! | [`link`] | the calling side: requests out, replies back to whoever waits. Its first lines list the files below in reading order |
//! | [`call`], [`connection`] | a request that has been sent, and the connection that it was sent over |
//! | [`pending`], [`stream`], [`reply`] | who waits for which replies, and what they get |
//! | [`course`] | what is different on a link to a course service |
//! | [`membership`] | staying registered at the distributors and following their lists |
//! | [`health`] | whether an instance answers, and who is asked instead |
//! | [`mailbox`] | where a caller waits for its reply |
//! | [`lateness`] | how late a packet is, without a common clock |
//! | [`dial`] | the reconnect thread under `link` and `membership` |
//! | [`secret`], [`proof`] | the cluster secret, and how both ends of a connection prove that they know it |
//! | [`inbound`], [`outbox`] | the two halves of one packet connection |
//! | [`flood`] | lines of the log that strangers can cause, kept in bounds |
//!
//! *Invariant:* of all URIs, this module knows `/distributes` alone.

pub mod batch;
pub mod call;
pub mod connection;
pub mod course;
pub mod dial;
pub mod drain;
pub mod flood;
pub mod health;
pub mod inbound;
pub mod lateness;
pub mod link;
pub mod listener;
pub mod mailbox;
pub mod membership;
pub mod outbox;
pub mod peer;
pub mod pending;
pub mod proof;
pub mod reply;
pub mod secret;
pub(crate) mod socket_write;
pub mod stream;

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

pub(crate) use crate::thread::spawn;

/// How long a peer may stay silent on the TCP level before its connection is given up. Course nodes answer no
/// ping, so the kernel asks (`docs/protocol.md`, section 4).
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// How long one batch of bytes may take to leave. A peer that takes longer does not read.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepares a connection: packets leave at once, a dead peer is noticed, and no write blocks for ever.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(DEAD_AFTER / 2).with_interval(Duration::from_secs(2));
    #[cfg(not(windows))]
    let keepalive = keepalive.with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    Ok(())
}

/// Whether an error says only that a read or write ran into its time-out.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => true,
        // On Unix this is said of a connection whose peer the kernel has given up ([`DEAD_AFTER`]).
        io::ErrorKind::TimedOut => cfg!(windows),
        _ => false,
    }
}
