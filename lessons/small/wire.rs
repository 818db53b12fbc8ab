//! The wire: how packets cross a TCP connection. The three programs share this file.
//!
//! A packet is one JSON object. On the wire, `¶` follows it: `{"uri":"/users","method":"GET","key":1}¶`.
//! Read this file first. Then read `distributor.rs`, `users.rs` and `gateway.rs`.
#![allow(clippy::must_use_candidate)]

use std::io::ErrorKind::{Interrupted, InvalidData, TimedOut, WouldBlock};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
pub const END: &[u8] = "¶".as_bytes();
/// A longer packet is an error. Without a limit, one peer could fill our memory.
pub const MAX_PACKET: usize = 1024 * 1024;
/// A packet that has begun must soon be complete. Between packets, silence is fine.
const PACKET_TIME: Duration = Duration::from_secs(10);
/// A peer that reads nothing for this time is given up.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// A lost connection is opened again after this time, as often as necessary.
pub const RETRY: Duration = Duration::from_secs(3);
/// Each connection costs a thread, so their number has a limit.
pub const MAX_CONNECTIONS: usize = 256;

/// Cuts the bytes of a connection into packets.
pub struct PacketReader<R> {
    from: R,
    /// What has arrived and is not yet a whole packet, and when it began.
    bytes: Vec<u8>,
    began: Instant,
}

impl<R: Read> PacketReader<R> {
    /// Reads packets from this connection.
    pub fn new(from: R) -> Self {
        Self { from, bytes: Vec::new(), began: Instant::now() }
    }

    /// Waits for the next packet. `None`: the peer has closed the connection. TCP delivers bytes, not packets: one read
    /// may return half a packet, or three and a half. So we collect bytes until there is a `¶`, and keep the rest.
    pub fn read(&mut self) -> io::Result<Option<Value>> {
        loop {
            // Two bytes are compared, because the second byte alone also ends other characters, such as `ö`.
            if let Some(end) = self.bytes.windows(2).position(|two| two == END) {
                let rest = self.bytes.split_off(end + END.len());
                let packet = std::mem::replace(&mut self.bytes, rest);
                self.began = Instant::now();
                if packet[..end].iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return match serde_json::from_slice(&packet[..end]) {
                    Ok(packet @ Value::Object(_)) => Ok(Some(packet)),
                    Ok(_) => Err(bad("a packet is not a JSON object")),
                    Err(error) => Err(bad(&format!("a packet is not JSON: {error}"))),
                };
            }
            // White space between packets does no harm: people who type packets press Enter.
            let is_between = self.bytes.iter().all(u8::is_ascii_whitespace);
            if self.bytes.len() > MAX_PACKET {
                return Err(bad("a packet is longer than 1 MiB"));
            }
            if !is_between && self.began.elapsed() > PACKET_TIME {
                return Err(bad("a packet was not complete after 10 s"));
            }
            let mut piece = [0; 8192];
            match self.from.read(&mut piece) {
                Ok(0) if is_between => return Ok(None),
                Ok(0) => return Err(bad("it ended in the middle of a packet")),
                Ok(count) => self.bytes.extend_from_slice(&piece[..count]),
                // The read timeout: nothing has arrived.
                Err(error) if matches!(error.kind(), Interrupted | TimedOut | WouldBlock) => {}
                Err(error) => return Err(error),
            }
            if is_between {
                self.began = Instant::now();
            }
        }
    }
}

/// Sends packets. Each thread that sends has a clone.
#[derive(Clone)]
pub struct PacketWriter(Arc<Mutex<TcpStream>>);

impl PacketWriter {
    /// Sends packets to this connection.
    pub fn new(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(stream.try_clone()?))))
    }

    /// Sends one packet in one write. The lock keeps the packets of other threads out of it.
    pub fn send(&self, packet: &Value) -> io::Result<()> {
        // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
        let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
        if text.len() > MAX_PACKET {
            return Err(bad("this packet would be longer than 1 MiB"));
        }
        let mut stream = lock(&self.0);
        let sent = stream.write_all(text.as_bytes());
        if sent.is_err() {
            // Half of the packet may have left, so the peer could read nothing that follows.
            let _ = stream.shutdown(Shutdown::Both);
        }
        sent
    }
}

/// A reply of success. The caller adds the key of the request.
pub fn success(results: &Value) -> Value {
    json!({ "errorcode": 0, "errormessage": "success", "results": results })
}

/// A reply that says what went wrong. The code is the HTTP status that fits.
pub fn failure(code: u16, message: &str) -> Value {
    json!({ "errorcode": code, "errormessage": message })
}

/// An error of a peer that breaks the rules.
pub fn bad(message: &str) -> io::Error {
    io::Error::new(InvalidData, message)
}

/// Opens a connection to a host and a port.
pub fn connect(address: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let address = address.to_socket_addrs()?.next().ok_or_else(|| bad("this name has no address"))?;
    let stream = TcpStream::connect_timeout(&address, RETRY)?;
    prepare(&stream).map(|()| stream)
}

/// Small packets leave at once (`nodelay`), and no read or write waits for ever.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PACKET_TIME))?;
    stream.set_write_timeout(Some(WRITE_TIME))
}

/// Opens the port of this program; 0 means any free one. Prints the one line on stdout that says so.
pub fn listen(name: &str, variable: &str, default: &str) -> Result<(TcpListener, u16), String> {
    let address = setting("--listen", variable, default);
    let opened = TcpListener::bind(&address).and_then(|port| Ok((port.local_addr()?, port)));
    let (found, listener) = opened.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    // A closed stdout is no reason to stop. `println!` would panic.
    let _ = writeln!(io::stdout(), "{name} listening on {found}");
    Ok((listener, found.port()))
}

/// Accepts connections for ever. Each gets a thread, which runs `work` and then ends.
pub fn serve(port: &TcpListener, work: impl Fn(&TcpStream) -> io::Result<()> + Clone + Send + 'static) -> ! {
    // Every open connection has a clone of this `Arc`, so the `Arc` counts them.
    let places = Arc::new(());
    loop {
        let accepted = port.accept().ok().filter(|_| Arc::strong_count(&places) <= MAX_CONNECTIONS);
        let Some((stream, peer)) = accepted else {
            log::warn!("a connection is rejected: too many are open");
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let (place, work) = (places.clone(), work.clone());
        spawn("peer", move || {
            if let Err(error) = prepare(&stream).and_then(|()| work(&stream)) {
                log::warn!("{peer}: closed: {error}");
            }
            let _ = stream.shutdown(Shutdown::Both);
            drop(place);
        });
    }
}

/// Registers at the distributor, and again whenever that connection is lost. Hands every list to `on_list`.
pub fn join(name: &str, port: u16, urls: &[&str], on_list: impl Fn(&[Value]) + Send + 'static) {
    let distributor = setting("--distributor", "PILCROW_DISTRIBUTOR", "127.0.0.1:9000");
    // The id changes with each start, so that others notice a new process.
    let id = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos().to_string();
    let params = json!({ "port": port, "name": name, "urls": urls, "proto": "pilcrow/1", "id": id });
    let registration = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    spawn("membership", move || {
        loop {
            if let Err(error) = stay_joined(&distributor, &registration, &on_list) {
                log::warn!("the distributor {distributor}: {error}; trying again in 3 s");
            }
            thread::sleep(RETRY);
        }
    });
}

/// A registration lives as long as its connection. So we keep it open and read what comes.
fn stay_joined(distributor: &str, registration: &Value, on_list: &impl Fn(&[Value])) -> io::Result<()> {
    let stream = connect(distributor)?;
    PacketWriter::new(&stream)?.send(registration)?;
    let mut packets = PacketReader::new(&stream);
    while let Some(packet) = packets.read()? {
        match packet["params"].as_array() {
            Some(list) => on_list(list),
            None => log::warn!("the distributor {distributor} says: {packet}"),
        }
    }
    Err(bad("it has closed the connection"))
}

/// Starts a thread with a name. If the system has no thread left, `work` is dropped, and with it its connection.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        log::error!("cannot start a thread `{name}`: {error}");
    }
}

/// Locks, also after a thread has panicked while it held the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A setting: the word behind this flag on the command line, else the environment variable, else the default.
pub fn setting(flag: &str, variable: &str, default: &str) -> String {
    let word = std::env::args_os().skip_while(|word| word != flag).nth(1);
    let value = word.or_else(|| std::env::var_os(variable));
    value.map_or_else(|| default.to_owned(), |value| value.to_string_lossy().into_owned())
}

/// Runs a program. It ends only by an error at its start: one sentence, and the exit status 1.
pub fn run(program: impl FnOnce() -> Result<(), String>) {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    if let Err(error) = program() {
        log::error!("{error}");
        std::process::exit(1);
    }
}
