//! A played gateway. It records all requests and answers each with 200. The record shows which requests pass the proxy.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// It stops when it is dropped.
pub struct PlayedGateway {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl PlayedGateway {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (record, stop) = (heads.clone(), ended.clone());
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let record = record.clone();
                thread::spawn(move || answer(stream, &record));
            }
        });
        Self { address, heads, ended }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests except health checks.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for PlayedGateway {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// One request for each connection.
fn answer(mut stream: TcpStream, record: &Mutex<Vec<String>>) {
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut piece) {
            Ok(count @ 1..) => read.extend_from_slice(&piece[..count]),
            _ => return,
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    if !head.starts_with("GET /readyz ") {
        record.lock().unwrap().push(head);
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nplayed");
}
