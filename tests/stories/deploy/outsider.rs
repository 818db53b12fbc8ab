//! Clients from outside: curl, and a client that speaks TLS but otherwise sends exactly the bytes that it gets.

use std::io::{Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::proxy::{NAME, Proxy};
use crate::harness::{Http, Response};

/// curl, with this version of HTTP.
#[derive(Clone, Copy)]
pub struct Curl<'a> {
    pub proxy: &'a Proxy,
    pub version: &'static str,
}

pub const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

impl Curl<'_> {
    /// The common arguments of every call, then these arguments, then `path`.
    pub fn arguments(&self, path: &str, further: &[&str]) -> Vec<String> {
        let port = self.proxy.https.port();
        let certificate = self.proxy.certificate.to_str().unwrap();
        let resolve = format!("{NAME}:{port}:127.0.0.1");
        let url = format!("https://{NAME}:{port}{path}");
        let all = ["-sS", self.version, "--max-time", "60", "--cacert", certificate, "--resolve", &resolve];
        all.iter().chain(further).chain([&url.as_str()]).map(ToString::to_string).collect()
    }

    /// One request and its answer.
    pub fn ask(&self, path: &str, further: &[&str]) -> Response {
        let further = [&["-i"], further].concat();
        let output = Command::new("curl").args(self.arguments(path, &further)).output().unwrap();
        assert!(output.status.success(), "curl {path}: {}", String::from_utf8_lossy(&output.stderr));
        parse(&output.stdout)
    }
}

/// Parses the output of `curl -i`. Interim answers (100) come first.
fn parse(output: &[u8]) -> Response {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = std::str::from_utf8(&output[..end]).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let version = first.next().unwrap().to_owned();
    let status = first.next().unwrap().parse().unwrap();
    if status < 200 {
        return parse(&output[end..]);
    }
    let headers = lines.map(|line| line.split_once(": ").unwrap());
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Response { status, version, headers, body: output[end..].to_vec() }
}

/// One attempt at a handshake: `openssl s_client` with these flags and no input.
pub fn handshake(proxy: &Proxy, flags: &[&str]) -> Output {
    Command::new("openssl")
        .args(["s_client", "-connect", &proxy.https.to_string(), "-servername", NAME, "-CAfile"])
        .arg(&proxy.certificate)
        .args(flags)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A port that forwards each connection to the proxy over TLS, byte by byte, through a separate `openssl s_client`. The
/// client of the other stories can therefore send bytes that no TLS library would allow.
pub struct Tunnel {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Tunnel {
    pub fn to(proxy: &Proxy) -> Self {
        Self::with_protocol("http/1.1", proxy)
    }

    /// Like `to`, but announces this protocol to the proxy.
    pub fn with_protocol(protocol: &'static str, proxy: &Proxy) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, target, certificate) = (ended.clone(), proxy.https.to_string(), proxy.certificate.clone());
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let client = Command::new("openssl")
                    .args(["s_client", "-quiet", "-verify_quiet", "-verify_return_error", "-alpn", protocol])
                    .args(["-connect", &target, "-servername", NAME, "-CAfile"])
                    .arg(&certificate)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                thread::spawn(move || carry(&stream, client));
            }
        });
        Self { address, ended }
    }

    pub fn http(&self) -> Http {
        Http::to(self.address)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits in `accept`.
        let _ = TcpStream::connect(self.address);
    }
}

/// Copies bytes until either side ends, then ends the other.
fn carry(stream: &TcpStream, mut client: Child) {
    let (mut into, mut from) = (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    let mut reader = stream.try_clone().unwrap();
    let upward = thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            if into.write_all(&piece[..count]).and_then(|()| into.flush()).is_err() {
                break;
            }
        }
        // The client has closed, so the tunnel ends on this side as well.
        into
    });
    let mut writer = stream;
    let downward = stream.try_clone().unwrap();
    let waiting = thread::spawn(move || {
        let _kept_until_the_client_is_gone = upward.join();
        let _ = client.kill();
        let _ = client.wait();
    });
    let _ = copy(&mut from, &mut writer);
    let _ = downward.shutdown(Shutdown::Both);
    let _ = waiting.join();
}
