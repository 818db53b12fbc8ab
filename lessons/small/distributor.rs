//! The small distributor: it knows which nodes are registered, and tells everybody whenever that changes.
//!
//! No request passes through it. A node connects and registers with a packet; the distributor pushes the list of all
//! nodes. A registration lives exactly as long as its connection, so nothing needs to expire.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};
use wire::{MAX_CONNECTIONS, MAX_PACKET, PacketReader, PacketWriter, bad, failure, lock, success};

/// The longest registration. So the list of all connections fits into one packet.
const MAX_REGISTRATION: usize = MAX_PACKET / MAX_CONNECTIONS - 100;

/// All connections by the address of the other end.
type Peers = BTreeMap<SocketAddr, Peer>;

struct Peer {
    writer: PacketWriter,
    /// Its entry in the list, once it has registered.
    entry: Option<Value>,
    needs_list: bool,
}

struct Distributor {
    peers: Mutex<Peers>,
    /// Wakes the thread that pushes. One place is enough: a second message would say the same.
    news: Sender<()>,
}

fn main() {
    wire::run(|| {
        let (listener, _) = wire::listen("distributor", "DISTRIBUTOR_LISTEN", "127.0.0.1:9000")?;
        let (news, has_news) = bounded(1);
        let distributor = Arc::new(Distributor { peers: Mutex::default(), news });
        let pusher = distributor.clone();
        wire::spawn("push", move || pusher.push_lists(&has_news));
        wire::serve(&listener, move |stream| distributor.serve(stream))
    });
}

impl Distributor {
    /// The life of one connection. When it ends, for whatever reason, the node is registered no more.
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let (address, writer) = (stream.peer_addr()?, PacketWriter::new(stream)?);
        let first = list(&lock(&self.peers));
        writer.send(&first)?;
        self.change(|peers| {
            // Perhaps the list has changed meanwhile.
            let peer = Peer { writer: writer.clone(), entry: None, needs_list: list(peers) != first };
            peers.insert(address, peer).is_some()
        });
        let result = self.answer_all(stream, address, &writer);
        self.change(|peers| peers.remove(&address).is_some_and(|peer| peer.entry.is_some()));
        result
    }

    fn answer_all(&self, stream: &TcpStream, address: SocketAddr, writer: &PacketWriter) -> io::Result<()> {
        let mut packets = PacketReader::new(stream);
        while let Some(packet) = packets.read()? {
            let mut reply = match (packet["method"].as_str(), packet["uri"].as_str()) {
                (Some("POST"), Some("/distributes")) => {
                    let host = address.ip().to_canonical().to_string();
                    let entry = read_entry(&packet["params"], &host).map_err(bad)?;
                    log::info!("registered: {entry}");
                    self.change(|all| all.get_mut(&address).map(|peer| peer.entry.insert(entry)).is_some());
                    success(&json!("registered"))
                }
                (Some("GET"), Some("/distributes")) => success(&list(&lock(&self.peers))["params"]),
                _ => failure(404, "a distributor answers GET and POST of /distributes"),
            };
            // Without a key, or with key 0, nobody waits for an answer.
            if packet["key"].as_u64().is_some_and(|key| key > 0) {
                reply["key"] = packet["key"].clone();
                writer.send(&reply)?;
            }
        }
        Ok(())
    }

    /// Changes the peers, and wakes the thread that pushes. If the list has changed, all who registered need it.
    fn change(&self, change: impl FnOnce(&mut Peers) -> bool) {
        let mut peers = lock(&self.peers);
        if change(&mut peers) {
            peers.values_mut().for_each(|peer| peer.needs_list |= peer.entry.is_some());
        }
        // A full channel is fine: the thread has not yet looked at the peers.
        let _ = self.news.try_send(());
    }

    /// The thread `push`. It alone sends changed lists, so a peer never gets an old list after a new one.
    fn push_lists(&self, has_news: &Receiver<()>) {
        while has_news.recv().is_ok() {
            let mut peers = lock(&self.peers);
            let list = list(&peers);
            let take = |peer: &mut Peer| std::mem::take(&mut peer.needs_list).then(|| peer.writer.clone());
            let receivers: Vec<PacketWriter> = peers.values_mut().filter_map(take).collect();
            // No lock is held while we send: a slow peer would stop all others.
            drop(peers);
            // A failure closes the connection, and its own thread then removes it.
            for receiver in receivers {
                let _ = receiver.send(&list);
            }
        }
    }
}

/// The packet with all entries. Several connections for one host and port are one instance.
fn list(peers: &Peers) -> Value {
    let entries = peers.values().filter_map(|peer| peer.entry.as_ref());
    let by_address = entries.map(|entry| (format!("{} {}", entry["host"], entry["port"]), entry));
    let list: Vec<&Value> = by_address.collect::<BTreeMap<_, _>>().into_values().collect();
    json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": list })
}

/// Checks a registration and makes it an entry of the list. Fields that we do not know stay in it.
fn read_entry(params: &Value, host: &str) -> Result<Value, &'static str> {
    let port = params["port"].as_u64().or_else(|| params["port"].as_str()?.parse().ok());
    let urls = params["urls"].as_array().filter(|urls| urls.iter().all(Value::is_string));
    let (Some(port @ 1..=65535), Some(_), Some(_)) = (port, urls, params["name"].as_str()) else {
        return Err("a registration needs a port, a name, and urls such as [\"GET/users\"]");
    };
    if params.to_string().len() > MAX_REGISTRATION {
        return Err("a registration is too long");
    }
    let mut entry = params.clone();
    // The node does not know its own address. We see it, unless the node asks for another one.
    entry["host"] = json!(params["advertise"].as_str().unwrap_or(host));
    entry["port"] = json!(port);
    Ok(entry)
}
