//! Lesson 3: a relay. It forwards the requests of many callers to a service, over one connection.
//!
//! Start it with two addresses: where it listens, and where the service is.
//! For example: `127.0.0.1:9030 127.0.0.1:9020`.
//# step 5
//# before
// // The steps will use what is unused now.
// #![allow(unused)]
//# end

//# step 2
use std::collections::HashMap;
//# before
// use std::collections::VecDeque;
//# end
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END: &[u8] = "¶".as_bytes();
/// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET: usize = 1024 * 1024;
/// A lost connection is opened again after this time.
const RETRY: Duration = Duration::from_secs(3);
/// How long a caller waits for the reply.
const DEADLINE: Duration = Duration::from_secs(1);

/// The connection to the service. All callers share it.
struct Link {
    /// `None` while the link is down.
    writer: Mutex<Option<PacketWriter>>,
    //# step 1
    /// Each request gets the next number as its key.
    last_key: AtomicU64,
    //# before
    // // Step 1: count the requests here.
    //# end
    //# step 2
    /// Who waits for the reply with this key.
    pending: Mutex<HashMap<u64, Sender<Value>>>,
    //# before
    // /// Everybody who waits for a reply, in the order of the requests. Step 2: a table by key.
    // waiting: Mutex<VecDeque<Sender<Value>>>,
    //# end
}

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:9030");
    let service = argument(2, "127.0.0.1:9020");
    let link = Arc::new(Link::new());
    // The first attempt comes before the port is open. So the first caller finds the link up.
    let first = link.connect(&service);
    let kept = link.clone();
    spawn("link", move || kept.keep_open(&service, first));
    let listener = TcpListener::bind(&listen)?;
    println!("relay listening on {listen}");
    for stream in listener.incoming() {
        let link = link.clone();
        spawn("caller", move || {
            if let Err(error) = stream.and_then(|stream| serve_caller(&stream, &link)) {
                println!("a caller: {error}");
            }
        });
    }
    Ok(())
}

/// Forwards all requests of one caller.
fn serve_caller(stream: &TcpStream, link: &Arc<Link>) -> io::Result<()> {
    let writer = PacketWriter::new(stream)?;
    let mut packets = PacketReader::new(stream);
    while let Some(request) = packets.read()? {
        let (link, writer) = (link.clone(), writer.clone());
        // Another thread waits for the reply. So a slow reply does not delay the caller's next request.
        spawn("request", move || {
            let reply = link.forward(request);
            // If this fails, the caller has gone, and nobody needs the reply.
            let _ = writer.send(&reply);
        });
    }
    Ok(())
}

impl Link {
    fn new() -> Self {
        Self {
            // `connect` puts it here.
            writer: Mutex::new(None),
            //# step 1
            last_key: AtomicU64::new(0),
            //# end
            //# step 2
            pending: Mutex::new(HashMap::new()),
            //# before
            // waiting: Mutex::new(VecDeque::new()),
            //# end
        }
    }

    /// Sends a request to the service, and returns the reply.
    fn forward(&self, mut request: Value) -> Value {
        //# step 1
        let callers_key = request["key"].clone();
        // Two callers may choose the same key. `fetch_add` never gives one number to two threads.
        let key = self.last_key.fetch_add(1, Ordering::Relaxed) + 1;
        request["key"] = json!(key);
        //# before
        // // Step 1: remember the caller's key, and send a key of our own instead.
        //# end
        let (sender, replies) = bounded(1);
        //# step 2
        // First the entry, then the request: the reply may be fast.
        lock(&self.pending).insert(key, sender);
        //# before
        // lock(&self.waiting).push_back(sender);
        //# end
        let mut reply = self.send_and_wait(&request, &replies);
        //# step 4
        // After a timeout the entry is still there. Without this line, each silent request would cost memory.
        lock(&self.pending).remove(&key);
        //# before
        // // Step 4: what is left in the table after a timeout?
        //# end
        //# step 1
        // The caller knows only its own key.
        reply["key"] = callers_key;
        //# before
        // // Step 1: give the caller its own key back.
        //# end
        reply
    }

    fn send_and_wait(&self, request: &Value, replies: &Receiver<Value>) -> Value {
        //# step 5
        if let Err(error) = self.send(request) {
            return failure(502, &format!("the request was not sent: {error}"));
        }
        //# before
        // // Step 5: what if the link is down?
        // let _ = self.send(request);
        //# end
        //# step 3
        match replies.recv_timeout(DEADLINE) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => failure(504, "the service did not reply in time"),
            Err(RecvTimeoutError::Disconnected) => failure(502, "the link was lost before the reply"),
        }
        //# before
        // // Step 3: this waits for ever.
        // match replies.recv() {
        //     Ok(reply) => reply,
        //     Err(_) => failure(502, "the link was lost before the reply"),
        // }
        //# end
    }

    fn send(&self, packet: &Value) -> io::Result<()> {
        let writer = lock(&self.writer).clone();
        writer.ok_or_else(|| bad("the link is down"))?.send(packet)
    }

    fn connect(&self, service: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(service)?;
        *lock(&self.writer) = Some(PacketWriter::new(&stream)?);
        Ok(stream)
    }

    /// Connects again every 3 s when the connection is lost, as in lesson 2.
    fn keep_open(&self, service: &str, first: io::Result<TcpStream>) {
        let mut connected = first;
        loop {
            if let Err(error) = connected.and_then(|stream| self.live(&stream)) {
                println!("the service {service}: {error}");
            }
            thread::sleep(RETRY);
            connected = self.connect(service);
        }
    }

    /// One life of the link.
    fn live(&self, stream: &TcpStream) -> io::Result<()> {
        let result = self.route_replies(stream);
        //# step 5
        // From now on, `send` fails at once.
        *lock(&self.writer) = None;
        // The senders in the table are dropped. This wakes everybody who waits: `Disconnected`.
        lock(&self.pending).clear();
        //# before
        // // Step 5: here the link is lost, and callers may be waiting.
        //# end
        result
    }

    /// Gives each reply to the caller that waits for it.
    fn route_replies(&self, stream: &TcpStream) -> io::Result<()> {
        let mut packets = PacketReader::new(stream);
        while let Some(reply) = packets.read()? {
            //# step 2
            // A reply without a key is nobody's.
            let Some(key) = reply["key"].as_u64() else { continue };
            // Nobody waits for this key: the reply came too late, or was sent twice.
            let Some(caller) = lock(&self.pending).remove(&key) else { continue };
            // If this fails, the caller has just given up.
            let _ = caller.send(reply);
            //# before
            // // Step 2: the service replies in the order of the requests. Does it?
            // let Some(caller) = lock(&self.waiting).pop_front() else { continue };
            // let _ = caller.send(reply);
            //# end
        }
        Err(bad("it has closed the connection"))
    }
}

/// Cuts the bytes of a connection into packets, as in lesson 1.
struct PacketReader<'a> {
    from: &'a TcpStream,
    /// What has arrived and is not yet a whole packet.
    bytes: Vec<u8>,
}

impl<'a> PacketReader<'a> {
    fn new(from: &'a TcpStream) -> Self {
        Self { from, bytes: Vec::new() }
    }

    /// Waits for the next packet. `None`: the peer has closed the connection.
    fn read(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(end) = self.bytes.windows(END.len()).position(|two| two == END) {
                let rest = self.bytes.split_off(end + END.len());
                let packet = std::mem::replace(&mut self.bytes, rest);
                let text = packet[..end].trim_ascii();
                // People who type packets press Enter between them.
                if text.is_empty() {
                    continue;
                }
                let packet: Value = serde_json::from_slice(text)?;
                if !packet.is_object() {
                    return Err(bad("a packet is not a JSON object"));
                }
                return Ok(Some(packet));
            }
            if self.bytes.len() > MAX_PACKET {
                return Err(bad("a packet is longer than 1 MiB"));
            }
            let mut piece = [0; 8192];
            let count = self.from.read(&mut piece)?;
            if count == 0 {
                return Ok(None);
            }
            self.bytes.extend_from_slice(&piece[..count]);
        }
    }
}

/// Sends packets. Each thread that sends has a clone.
#[derive(Clone)]
struct PacketWriter(Arc<Mutex<TcpStream>>);

impl PacketWriter {
    fn new(stream: &TcpStream) -> io::Result<Self> {
        // Small packets leave at once, and a peer that reads nothing does not stop us for ever.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self(Arc::new(Mutex::new(stream.try_clone()?))))
    }

    /// Sends one packet in one write. The lock keeps the packets of other threads out of it.
    fn send(&self, packet: &Value) -> io::Result<()> {
        // A `¶` inside a text would end the packet too early. JSON has a second spelling for it.
        let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
        let mut stream = lock(&self.0);
        let sent = stream.write_all(text.as_bytes());
        if sent.is_err() {
            // Half of the packet may have left, so the peer could read nothing that follows.
            let _ = stream.shutdown(Shutdown::Both);
        }
        sent
    }
}

/// A reply that says what went wrong.
fn failure(code: u16, message: &str) -> Value {
    json!({ "errorcode": code, "errormessage": message })
}

/// An error of a peer that breaks the rules.
fn bad(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Starts a thread with a name. If the system has no thread left, `work` is dropped, and with it its connection.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(work) {
        println!("cannot start a thread `{name}`: {error}");
    }
}

/// Locks, also after another thread has panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An argument by its position, or else what is usual.
fn argument(position: usize, usual: &str) -> String {
    std::env::args().nth(position).unwrap_or(usual.to_owned())
}
