//! One connection through the tap: two sockets, and a thread for each direction.
//!
//! A thread reads, shows the packets that have ended, and passes the bytes on. It shows first, because otherwise the
//! reply could be shown before its request. Without a fault that needs whole packets, the bytes pass on as they were
//! read, in one write: a course node dies of a packet in two pieces.
//!
//! A thread that waits in a write does not read, so a receiver that does not read stops the sender. Nothing is queued.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::slice;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pilcrow::net::listener::{Connection, Serve};
use pilcrow::packet::frame::{FrameError, FrameReader};
use pilcrow::packet::{DEFAULT_MAX_FRAME_BYTES, DELIMITER, Dialect};
use pilcrow::thread::CONNECTION_STACK_BYTES;

use crate::fault::{Action, Faults};
use crate::line::{Direction, Line};
use crate::output::Output;

/// The timeout of one attempt to reach the node.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How many bytes pass at once. This is the longest packet of a course node.
const CHUNK_BYTES: usize = 64 * 1024;

/// Passes connections on to a node.
pub struct Relay {
    node: String,
    faults: Faults,
    output: Arc<Output>,
}

/// One direction of a connection.
struct OneWay {
    direction: Direction,
    connection: u64,
    faults: Faults,
    output: Arc<Output>,
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
}

/// Why a direction ends.
enum End {
    /// The sender sends no more. The other direction goes on.
    OfStream,
    /// Both directions end.
    OfConnection,
}

impl Relay {
    pub fn new(node: String, faults: Faults, output: Arc<Output>) -> Self {
        Self { node, faults, output }
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    /// Passes both directions on until both have ended.
    fn relay(&self, connection: &Connection, node: TcpStream) -> io::Result<()> {
        // How long a write may take is for the two nodes to decide, not for us.
        connection.stream.set_write_timeout(None)?;
        let (peer, node) = (connection.stream.clone(), Arc::new(node));
        let one_way = |direction, from: &Arc<TcpStream>, to: &Arc<TcpStream>| OneWay {
            direction,
            connection: connection.id(),
            faults: self.faults.in_direction(direction),
            output: self.output.clone(),
            from: from.clone(),
            to: to.clone(),
        };
        let replies = one_way(Direction::From, &node, &peer);
        let name = format!("tap from {}", connection.peer.port());
        let replies = thread::Builder::new()
            .name(name)
            .stack_size(CONNECTION_STACK_BYTES)
            .spawn(move || replies.run())?;
        one_way(Direction::To, &peer, &node).run();
        // A thread that panicked has closed its sockets as well.
        let _ = replies.join();
        Ok(())
    }
}

/// Connects to a node.
pub fn connect(node: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in node.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Serve for Relay {
    fn serve(&self, connection: Connection) {
        let id = connection.id();
        let peer = connection.peer;
        let relayed = connect(&self.node).and_then(|node| {
            self.output.note(id, format!("{peer} connected to {}", self.node));
            self.relay(&connection, node)
        });
        match relayed {
            Ok(()) => self.output.note(id, "closed"),
            Err(error) => {
                self.output.note(id, format!("{peer} closed: cannot connect to {}: {error}", self.node));
            }
        }
    }

    fn refuse(&self, _: &TcpStream, peer: SocketAddr) {
        self.output.note(0, format!("{peer} closed: too many connections are open"));
    }
}

impl OneWay {
    fn run(&self) {
        match self.pass_packets() {
            Ok(End::OfStream) => {
                let _ = self.to.shutdown(Shutdown::Write);
            }
            Ok(End::OfConnection) | Err(_) => {
                for stream in [&self.from, &self.to] {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
    }

    fn pass_packets(&self) -> io::Result<End> {
        let mut bytes = Passing::new(self);
        // The dialect of the course reads the frames of our nodes too.
        let mut frames = FrameReader::new(&mut bytes, DEFAULT_MAX_FRAME_BYTES, Dialect::Course);
        for number in 1.. {
            let error = match frames.next_frame() {
                Ok(Some(frame)) => {
                    self.pass_frame(frame, number)?;
                    if self.faults.closes_after(number) {
                        self.output.note(self.connection, format!("closed by the tap after packet {number}"));
                        return Ok(End::OfConnection);
                    }
                    continue;
                }
                Ok(None) => return Ok(End::OfStream),
                Err(FrameError::Io(error)) => return Err(error),
                Err(error) => error,
            };
            // The text of these errors shows no secret.
            let note = Line { direction: Some(self.direction), ..Line::of_note(error.to_string()) };
            self.output.line(self.connection, note);
            match error {
                FrameError::Truncated(_) => return Ok(End::OfStream),
                _ if self.faults.needs_packets() => return Ok(End::OfConnection),
                FrameError::NotUtf8(_) => {}
                _ => break,
            }
        }
        self.output.note(self.connection, "further bytes pass without being shown");
        io::copy(&mut bytes, &mut io::sink())?;
        Ok(End::OfStream)
    }

    /// Shows the frame. Then writes it with its fault, unless its bytes pass by themselves.
    fn pass_frame(&self, frame: &str, number: u64) -> io::Result<()> {
        let action = self.faults.action(number);
        let fault = action.word().map(str::to_owned);
        self.output.line(self.connection, Line { fault, ..Line::of_frame(frame, self.direction) });
        if !self.faults.needs_packets() {
            return Ok(());
        }
        let whole = [frame.as_bytes(), &DELIMITER].concat();
        match action {
            Action::Pass => self.write(&whole),
            Action::Drop => Ok(()),
            Action::Truncate => self.write(&whole[..frame.len() / 2]),
            Action::Duplicate => self.write(&whole).and_then(|()| self.write(&whole)),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut to = &*self.to;
        if !self.faults.has_split() {
            return to.write_all(bytes);
        }
        bytes.iter().try_for_each(|byte| to.write_all(slice::from_ref(byte)))
    }
}

/// The bytes of one direction. A read passes the previous bytes on first, unless a fault needs whole packets. The frame
/// reader reads only when it has no whole frame left, so by then every packet in these bytes was shown.
struct Passing<'a> {
    one_way: &'a OneWay,
    buffer: Vec<u8>,
    /// How many bytes of the buffer were read, and how many of them the frame reader has taken.
    read: usize,
    taken: usize,
}

impl<'a> Passing<'a> {
    fn new(one_way: &'a OneWay) -> Self {
        Self { one_way, buffer: vec![0; CHUNK_BYTES], read: 0, taken: 0 }
    }

    fn read_more(&mut self) -> io::Result<()> {
        let bytes = &self.buffer[..std::mem::take(&mut self.read)];
        self.taken = 0;
        if !self.one_way.faults.needs_packets() {
            self.one_way.write(bytes)?;
        }
        self.read = (&*self.one_way.from).read(&mut self.buffer)?;
        thread::sleep(self.one_way.faults.delay());
        Ok(())
    }
}

impl Read for Passing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.read {
            self.read_more()?;
        }
        let count = (&self.buffer[self.taken..self.read]).read(into)?;
        self.taken += count;
        Ok(count)
    }
}
