//! Connections: the sockets and the threads that serve them. Only this module opens and accepts connections.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`listener`] | a port: accepts connections within limits, one thread for each, for packets and HTTP alike |
//! | [`drain`] | the open connections of a port, and how they end |
//! | [`peer`] | the answering side of a packet connection |
//! | [`link`] | the calling side: sends requests, delivers replies. Its docs list the files below in reading order |
//! | [`call`], [`connection`] | a sent request, and the connection that carried it |
//! | [`pending`], [`stream`], [`reply`] | the waiters for replies, and the results they get |
//! | [`course`] | the differences of a link to a course service |
//! | [`membership`] | stays registered at the distributors and follows their lists |
//! | [`health`] | whether an instance answers, and which instance to ask instead |
//! | [`mailbox`] | the place where a caller waits for its reply |
//! | [`lateness`] | how late a packet is, without a common clock |
//! | [`dial`] | the reconnect thread that `link` and `membership` use |
//! | [`secret`], [`proof`] | the cluster secret, and how both ends of a connection prove that they know it |
//! | [`inbound`], [`outbox`] | the two halves of one packet connection |
//! | [`flood`] | limits the log lines that strangers can cause |
//!
//! *Invariant:* `/distributes` is the only URI that this module knows.

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

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

pub(crate) use crate::thread::spawn;

/// How long a peer may be silent on the TCP level before we drop its connection. Course nodes answer no ping, so the
/// kernel probes instead (`docs/protocol.md`, section 4).
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// The timeout of writing one batch of bytes. A peer that exceeds it does not read.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Configures a connection: it sends packets at once, detects a dead peer, and never blocks a write forever.
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

/// How long, and for how many bytes, [`linger`] still reads.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// Ends the writing side, then reads until the peer closes too. The kernel resets a connection that is closed with unread
/// bytes, and the peer may then lose the last answer.
pub(crate) fn linger(mut stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let (deadline, mut read, mut buffer) = (Instant::now() + LINGER, 0, [0; 4096]);
    while read < LINGER_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// True if an error only means that a read or write timed out.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => true,
        // On Unix, `TimedOut` means that the kernel has dropped the connection of a dead peer ([`DEAD_AFTER`]).
        io::ErrorKind::TimedOut => cfg!(windows),
        _ => false,
    }
}
