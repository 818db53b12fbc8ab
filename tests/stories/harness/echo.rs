//! A played service. It registers, records its requests, and answers as the story wants, also in ways that a real
//! service never does.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::{Frames, PATIENCE, Packets, Process, eventually};

/// The callback for each request. It runs on the thread of the connection.
type OnRequest = dyn Fn(&ReceivedRequest) + Send + Sync;

/// A played service. It leaves the cluster when it is dropped.
pub struct Echo {
    /// Its connection to the distributor. The story sends all further packets on it.
    pub membership: Packets,
    port: u16,
    shared: Arc<Shared>,
}

/// One received request and the connection for its answer. A story may keep it and answer late.
#[derive(Clone)]
pub struct ReceivedRequest {
    /// The packet as received, without its `¶`.
    pub text: String,
    pub packet: Value,
    stream: Arc<TcpStream>,
}

struct Shared {
    requests: Mutex<Vec<ReceivedRequest>>,
    open: Mutex<Vec<Arc<TcpStream>>>,
    ended: AtomicBool,
    on_request: Box<OnRequest>,
}

impl Echo {
    /// A service of ours (`pilcrow/1`) with these routes. It answers each request with success. The `results` are the
    /// request's `uri`, `method` and `params`.
    pub fn start(distributor: &Process, name: &str, urls: &[&str]) -> Self {
        Self::answering(distributor, name, urls, ReceivedRequest::echo)
    }

    /// A service of ours with these routes. It calls this for each request.
    pub fn answering(
        distributor: &Process,
        name: &str,
        urls: &[&str],
        on_request: impl Fn(&ReceivedRequest) + Send + Sync + 'static,
    ) -> Self {
        Self::registered(distributor, name, urls, &json!({ "proto": "pilcrow/1" }), on_request)
    }

    /// A service of the course (no `proto`) with these routes. It calls this for each request.
    pub fn course(
        distributor: &Process,
        name: &str,
        urls: &[&str],
        on_request: impl Fn(&ReceivedRequest) + Send + Sync + 'static,
    ) -> Self {
        Self::registered(distributor, name, urls, &json!({}), on_request)
    }

    /// A service with these further fields in its registration.
    pub fn registered(
        distributor: &Process,
        name: &str,
        urls: &[&str],
        extra: &Value,
        on_request: impl Fn(&ReceivedRequest) + Send + Sync + 'static,
    ) -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
            on_request: Box::new(on_request),
        });
        let accepting = shared.clone();
        thread::spawn(move || accepting.accept(&socket));
        let mut membership = distributor.packets();
        membership.register(name, port, urls, extra);
        Self { membership, port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until it has this many requests. Returns all of them.
    pub fn await_requests(&self, count: usize) -> Vec<ReceivedRequest> {
        eventually(&format!("the played service has {count} requests"), || {
            Some(self.requests()).filter(|requests| requests.len() >= count)
        })
    }

    /// The number of accepted connections that are still open, as far as it knows.
    pub fn connections(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Closes all its connections except the one to the distributor.
    pub fn hang_up(&self) {
        for stream in self.shared.open.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.hang_up();
        // Wakes the thread that waits in `accept`, which then frees the port.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn accept(self: Arc<Self>, socket: &TcpListener) {
        while let Ok((stream, _)) = socket.accept() {
            let stream = Arc::new(stream);
            self.open.lock().unwrap().push(stream.clone());
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let shared = self.clone();
            thread::spawn(move || shared.serve(&stream));
        }
    }

    fn serve(&self, stream: &Arc<TcpStream>) {
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut frames = Frames::default();
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = (&**stream).read(&mut piece) {
            frames.push(&piece[..count]);
            while let Some(text) = frames.pop() {
                let packet = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                let request = ReceivedRequest { text, packet, stream: stream.clone() };
                self.requests.lock().unwrap().push(request.clone());
                (self.on_request)(&request);
            }
        }
        self.open.lock().unwrap().retain(|open| !Arc::ptr_eq(open, stream));
    }
}

impl ReceivedRequest {
    /// The key of the pending request.
    pub fn key(&self) -> &Value {
        &self.packet["key"]
    }

    pub fn params(&self) -> &Value {
        &self.packet["params"]
    }

    /// Answers success with the request's fields.
    pub fn echo(&self) {
        let Value::Object(mut results) = self.packet.clone() else { panic!("a packet is an object") };
        results.retain(|name, _| ["uri", "method", "params"].contains(&name.as_str()));
        self.reply(&json!({ "errorcode": 0, "errormessage": "success", "results": results }));
    }

    /// Answers with these fields and the key of the request.
    pub fn reply(&self, fields: &Value) {
        let mut packet = json!({ "key": self.key() });
        packet.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap_or_default());
        self.raw(format!("{}¶", packet.to_string().replace('¶', "\\u00b6")).as_bytes());
    }

    /// Sends these bytes unchanged.
    pub fn raw(&self, bytes: &[u8]) {
        let _ = (&*self.stream).write_all(bytes);
    }

    /// Closes the request's connection.
    pub fn hang_up(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
