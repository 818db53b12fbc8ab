//! The tools of the stories.

mod browser;
mod echo;
mod http;
mod load;
mod metrics;
mod packets;
mod process;
mod program;
mod random;
mod secrets;
mod skipped;
mod sse;
mod system;
mod tools;

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use browser::Browser;
pub use echo::{Echo, ReceivedRequest};
pub use http::{Connection, Http, Response};
pub use load::Load;
pub use metrics::Metrics;
pub use packets::{Frames, Packets};
pub use process::{Output, Process, Watched};
pub use program::Program;
pub use random::Random;
pub use skipped::skip;
pub use sse::{Event, Events, Piece};
pub use system::System;
pub use tools::tool;

/// The time after which a story fails. It is far more than any step needs, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster secret of secured stories.
pub const SECRET: &str = "the stories' own secret, 3f9c1d";

/// Polls until there is an answer.
///
/// # Panics
/// If there is none within [`PATIENCE`].
pub fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask)
}

/// Polls until there is an answer, for this long at most.
fn eventually_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {patience:?}, still not true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port without a listener. It lies below the operating system's ephemeral range, so no other process gets it before
/// the story uses it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(number % 20_000).unwrap();
        // Probes by connecting. A test listener could briefly survive in the child process that another story starts.
        // The port would then be in use.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            return port;
        }
    }
}

/// A connection with a small receive buffer. A peer soon notices if it is not read.
pub fn connect_with_small_buffer(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
    let socket = socket.unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect_timeout(&address.into(), PATIENCE).unwrap();
    socket.into()
}

/// Whether the peer closes this connection within this time without sending any more bytes.
fn is_closed_within(mut stream: &TcpStream, time: Duration) -> bool {
    stream.set_read_timeout(Some(time)).unwrap();
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// A temporary directory for each story, removed on drop.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        Self::under(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// In memory where possible, for stories whose writes must not wait for a busy disk. Such waits may take seconds
    /// during a build.
    pub fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::under(memory) } else { Self::new() }
    }

    fn under(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("story-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until `gateway` distributes requests of this route over this many instances.
pub fn await_instances(gateway: &Process, method: &str, path: &str, count: usize) {
    eventually(&format!("{count} instances answer {method} {path}"), || {
        let rows = gateway.http().get("/routes").results();
        let row = rows.as_array()?.iter().find(|row| row["method"] == method && row["path"] == path)?.clone();
        (row["instances"].as_array()?.len() == count).then_some(())
    });
}
