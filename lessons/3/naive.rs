//! Lesson 3, what most people write first: a relay that gives the next reply to the caller that waits longest.
//!
//! It works as long as the service replies in the order of the requests. When it does not, two callers receive each
//! other's replies. And when the connection is lost, those who wait do so for ever.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use serde_json::Value;

const END: &[u8] = "¶".as_bytes();
const MAX_PACKET: usize = 1024 * 1024;
const RETRY: Duration = Duration::from_secs(3);

/// The connection to the service. All callers share it.
struct Link {
    stream: Mutex<Option<TcpStream>>,
    /// Everybody who waits for a reply, in the order of the requests.
    waiting: Mutex<VecDeque<Sender<Value>>>,
}

fn main() -> io::Result<()> {
    let listen = argument(1, "127.0.0.1:9030");
    let service = argument(2, "127.0.0.1:9020");
    let link = Arc::new(Link { stream: Mutex::new(None), waiting: Mutex::new(VecDeque::new()) });
    let first = link.connect(&service);
    let kept = link.clone();
    thread::spawn(move || kept.keep_open(&service, first));
    let listener = TcpListener::bind(&listen)?;
    println!("relay listening on {listen}");
    for stream in listener.incoming() {
        let link = link.clone();
        thread::spawn(move || {
            if let Err(error) = stream.and_then(|stream| serve_caller(&stream, &link)) {
                println!("a caller: {error}");
            }
        });
    }
    Ok(())
}

fn serve_caller(stream: &TcpStream, link: &Link) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    while let Some(request) = read_packet(stream, &mut bytes)? {
        if let Some(reply) = link.forward(&request) {
            send_packet(stream, &reply)?;
        }
    }
    Ok(())
}

impl Link {
    fn forward(&self, request: &Value) -> Option<Value> {
        let (sender, reply) = bounded(1);
        lock(&self.waiting).push_back(sender);
        // If the link is down, the service will be back soon, and then it will reply.
        if let Some(stream) = &*lock(&self.stream) {
            let _ = send_packet(stream, request);
        }
        reply.recv().ok()
    }

    fn connect(&self, service: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(service)?;
        stream.set_nodelay(true)?;
        *lock(&self.stream) = Some(stream.try_clone()?);
        Ok(stream)
    }

    fn keep_open(&self, service: &str, first: io::Result<TcpStream>) {
        let mut connected = first;
        loop {
            if let Err(error) = connected.and_then(|stream| self.read_replies(&stream)) {
                println!("the service {service}: {error}");
            }
            thread::sleep(RETRY);
            connected = self.connect(service);
        }
    }

    fn read_replies(&self, stream: &TcpStream) -> io::Result<()> {
        let mut bytes = Vec::new();
        while let Some(reply) = read_packet(stream, &mut bytes)? {
            // This reply is for the request that was sent first.
            if let Some(caller) = lock(&self.waiting).pop_front() {
                let _ = caller.send(reply);
            }
        }
        Ok(())
    }
}

/// Cuts the bytes of a connection into packets, as in lesson 1. `None`: the peer has closed the connection.
fn read_packet(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<Value>> {
    loop {
        if let Some(end) = bytes.windows(END.len()).position(|two| two == END) {
            let rest = bytes.split_off(end + END.len());
            let packet = std::mem::replace(bytes, rest);
            return Ok(Some(serde_json::from_slice(&packet[..end])?));
        }
        if bytes.len() > MAX_PACKET {
            return Err(io::Error::other("a packet is longer than 1 MiB"));
        }
        let mut piece = [0; 8192];
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

fn send_packet(mut stream: &TcpStream, packet: &Value) -> io::Result<()> {
    let text = packet.to_string().replace('¶', "\\u00b6") + "¶";
    stream.write_all(text.as_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn argument(position: usize, usual: &str) -> String {
    std::env::args().nth(position).unwrap_or(usual.to_owned())
}
