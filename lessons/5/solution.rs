//! Lesson 5: the distributor. It knows which nodes are registered, and tells everybody whenever that changes.
//!
//! Start it with the address where it listens. For example: `127.0.0.1:9000`.
//# step 6
//# before
// // The steps will use what is unused now.
// #![allow(unused)]
//# end

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};

/// The end of every packet: `¶`, which is the two bytes C2 B6 in UTF-8.
const END: &[u8] = "¶".as_bytes();
/// A longer packet is an error. Without a limit, one peer could fill our memory.
const MAX_PACKET: usize = 1024 * 1024;

struct Distributor {
    //# step 1
    /// All connections by the address of the other end.
    peers: Mutex<BTreeMap<SocketAddr, Peer>>,
    //# before
    // // Step 1: a table of all connections.
    //# end
    //# step 4
    /// Wakes the thread that pushes. One place is enough: a second message would say the same.
    news: Sender<()>,
    //# end
}
//# step 1

struct Peer {
    writer: PacketWriter,
    /// Its entry in the list, once it has registered.
    entry: Option<Value>,
}
//# end

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:9000");
    //# step 4
    let (news, has_news) = bounded(1);
    //# end
    let distributor = Arc::new(Distributor {
        //# step 1
        peers: Mutex::new(BTreeMap::new()),
        //# before
        // // Step 1: and here its first value.
        //# end
        //# step 4
        news,
        //# end
    });
    //# step 4
    let pusher = distributor.clone();
    spawn("push", move || pusher.push_lists(&has_news));
    //# end
    let listener = TcpListener::bind(&listen)?;
    println!("distributor listening on {listen}");
    for stream in listener.incoming() {
        let distributor = distributor.clone();
        spawn("peer", move || {
            // A peer that breaks the rules loses its connection, and nobody else notices.
            if let Err(error) = stream.and_then(|stream| distributor.serve(&stream)) {
                println!("a connection is closed: {error}");
            }
        });
    }
    Ok(())
}

impl Distributor {
    /// The life of one connection.
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let address = stream.peer_addr()?;
        let writer = PacketWriter::new(stream)?;
        //# step 1
        lock(&self.peers).insert(address, Peer { writer: writer.clone(), entry: None });
        // The list comes at once, unasked.
        let result = writer.send(&self.list()).and_then(|()| self.read_packets(stream, address, &writer));
        //# before
        // // Step 1: keep the connection in the table, and send the list.
        // let result = self.read_packets(stream, address, &writer);
        //# end
        //# step 3
        // The connection has ended, for whatever reason. A registration lives exactly as long.
        let peer = lock(&self.peers).remove(&address);
        //# step 4
        if peer.is_some_and(|peer| peer.entry.is_some()) {
            self.announce_change();
        }
        //# end
        //# before
        // // Step 3: here the connection has ended.
        //# end
        result
    }

    fn read_packets(&self, stream: &TcpStream, address: SocketAddr, writer: &PacketWriter) -> io::Result<()> {
        let mut packets = PacketReader::new(stream);
        while let Some(packet) = packets.read()? {
            //# step 2
            let mut reply = match (packet["method"].as_str(), packet["uri"].as_str()) {
                (Some("POST"), Some("/distributes")) => self.register(&packet["params"], address)?,
                //# step 6
                (Some("GET"), Some("/distributes")) => success(&self.list()["params"]),
                //# end
                _ => failure(404, "a distributor answers GET and POST of /distributes"),
            };
            //# before
            // // Step 2: if it is a registration, keep its entry in the table. Step 6: answer the others.
            // println!("{address}: {packet}");
            //# end
            //# step 6
            // With key 0, nobody waits for an answer.
            if packet["key"].as_u64().is_some_and(|key| key > 0) {
                reply["key"] = packet["key"].clone();
                writer.send(&reply)?;
            }
            //# end
        }
        Ok(())
    }
    //# step 1

    /// The packet with the entries of all nodes that are registered.
    fn list(&self) -> Value {
        let peers = lock(&self.peers);
        let entries = peers.values().filter_map(|peer| peer.entry.as_ref());
        //# step 5
        // A node that has lost its connection may be back before we notice. Then it has two, and is still one node.
        let by_address = entries.map(|entry| (format!("{} {}", entry["host"], entry["port"]), entry));
        let entries = by_address.collect::<BTreeMap<String, &Value>>().into_values();
        //# end
        json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": entries.collect::<Vec<_>>() })
    }
    //# end
    //# step 2

    /// Keeps the entry of a node beside its connection. Another entry of the same connection is replaced.
    fn register(&self, params: &Value, address: SocketAddr) -> io::Result<Value> {
        let entry = read_entry(params, address)?;
        println!("registered: {entry}");
        if let Some(peer) = lock(&self.peers).get_mut(&address) {
            peer.entry = Some(entry);
        }
        //# step 4
        self.announce_change();
        //# end
        Ok(success(&json!("registered")))
    }
    //# end
    //# step 4

    fn announce_change(&self) {
        // A full channel is fine: the thread has not yet looked at the peers.
        let _ = self.news.try_send(());
    }
    //# end
    //# step 4

    /// The thread `push`. It alone sends changed lists, so nobody gets an old list after a new one.
    fn push_lists(&self, has_news: &Receiver<()>) {
        while has_news.recv().is_ok() {
            let peers = lock(&self.peers);
            let registered = peers.values().filter(|peer| peer.entry.is_some());
            let writers: Vec<PacketWriter> = registered.map(|peer| peer.writer.clone()).collect();
            // No lock is held while we send: a slow peer would stop all others.
            drop(peers);
            let list = self.list();
            for writer in writers {
                // If this fails, the thread of that connection removes the peer.
                let _ = writer.send(&list);
            }
        }
    }
    //# end
}
//# step 2

/// Checks a registration and makes it an entry of the list. Fields that we do not know stay in it.
fn read_entry(params: &Value, address: SocketAddr) -> io::Result<Value> {
    // Some nodes send the port as text.
    let port = params["port"].as_u64().or_else(|| params["port"].as_str()?.parse().ok());
    let has_urls = params["urls"].as_array().is_some_and(|urls| urls.iter().all(Value::is_string));
    let (Some(port @ 1..=65535), true, true) = (port, has_urls, params["name"].is_string()) else {
        return Err(bad("a registration needs a port, a name, and urls such as [\"GET/users\"]"));
    };
    let mut entry = params.clone();
    // The node does not know its own address. We see it. `::ffff:127.0.0.1` is another spelling of `127.0.0.1`.
    entry["host"] = json!(address.ip().to_canonical().to_string());
    entry["port"] = json!(port);
    Ok(entry)
}
//# end

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

/// A reply of success. The caller adds the key of the request.
fn success(results: &Value) -> Value {
    json!({ "errorcode": 0, "errormessage": "success", "results": results })
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
