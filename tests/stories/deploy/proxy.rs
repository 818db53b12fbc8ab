//! `HAProxy` with the exact deployed file, on free ports.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use super::{deployed, have, program};
use crate::harness::{Scratch, eventually, free_port};

/// The name in the certificate.
pub const NAME: &str = "pilcrow.test";

/// `HAProxy` in front of gateways. It ends when it is dropped.
pub struct Proxy {
    child: Child,
    /// The address for TLS and the address for plain HTTP.
    pub https: SocketAddr,
    pub http: SocketAddr,
    /// The certificate that clients must trust.
    pub certificate: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
    _scratch: Scratch,
}

impl Proxy {
    /// A proxy before these gateways. If a program for it is missing, prints the reason and returns `None`.
    pub fn before(gateways: &[SocketAddr]) -> Option<Self> {
        Self::with(gateways, &[])
    }

    /// Like `before`, with these settings.
    pub fn with(gateways: &[SocketAddr], settings: &[(&str, &str)]) -> Option<Self> {
        if !have(&["haproxy", "openssl", "curl"]) {
            return None;
        }
        // In memory, where paths are short: a socket path may have 107 bytes.
        let scratch = Scratch::in_memory();
        let certificate = make_certificate(&scratch);
        let [https, http] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
        let mut command = Command::new(program("haproxy")?);
        command.arg("-db").arg("-f").arg(deployed("haproxy.cfg")).env_clear();
        command
            .env("PILCROW_CERT", scratch.file("all.pem"))
            .env("PILCROW_SOCKET", scratch.file("admin.sock"));
        command.env("PILCROW_HTTPS", https.to_string()).env("PILCROW_HTTP", http.to_string());
        for (name, gateway) in ["PILCROW_GATEWAY", "PILCROW_GATEWAY_2"].iter().zip(gateways) {
            command.env(name, gateway.to_string());
        }
        if !is_root() {
            command.env("PILCROW_NOT_ROOT", "1");
        }
        command.envs(settings.iter().copied());
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), log.clone());
        collect(child.stderr.take().unwrap(), log.clone());
        let mut proxy = Self { child, https, http, certificate, log, _scratch: scratch };
        eventually("HAProxy listens", || {
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none(), "HAProxy has ended: {:#?}", proxy.log());
            TcpStream::connect(https).and_then(|_| TcpStream::connect(http)).ok()
        });
        Some(proxy)
    }

    /// Its peak resident memory in KiB (Linux).
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of HAProxy ---\n{}", self.log().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The same commands as in `docs/deployment.md`. The proxy gets all in one file; its clients get only the certificate.
fn make_certificate(scratch: &Scratch) -> PathBuf {
    let (certificate, key) = (scratch.file("cert.pem"), scratch.file("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-noenc",
            "-days",
            "2",
        ])
        .args(["-subj", &format!("/CN={NAME}"), "-addext", &format!("subjectAltName=DNS:{NAME}"), "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let all = [fs::read(&certificate).unwrap(), fs::read(&key).unwrap()].concat();
    fs::write(scratch.file("all.pem"), all).unwrap();
    certificate
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn collect(from: impl std::io::Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}
