//! Many HTTP connections in one thread. In a closed loop each connection sends again after its answer. In an open loop
//! requests are sent at their rate, even if earlier ones are not answered.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// When the next request is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// On each connection, after the answer to the previous request.
    Closed,
    /// This number per second in total.
    PerSecond(f64),
}

/// The results of a run.
#[derive(Default)]
pub struct Measured {
    pub seconds: f64,
    /// How long each 200 took.
    pub good: Vec<Duration>,
    /// How long each 503 took.
    pub refused: Vec<Duration>,
    pub others: u64,
    /// Connections that ended.
    pub lost: u64,
    /// Requests that were due while no connection was available.
    pub unsent: u64,
    /// The longest delay that the client itself caused.
    pub lag: Duration,
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    sent: Instant,
}

/// Requests `path` over this number of connections.
pub fn drive(gateway: SocketAddr, path: &str, connections: usize, pace: Pace, time: Duration) -> Measured {
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let mut all: Vec<Connection> = (0..connections).map(|number| connect(gateway, &epoll, number)).collect();
    let mut free: Vec<usize> = (0..connections).collect();
    let (began, mut measured, mut due) = (Instant::now(), Measured::default(), 0_u64);
    let mut events = vec![EpollEvent::empty(); 512];
    let mut piece = vec![0; 64 * 1024];
    while began.elapsed() < time {
        match pace {
            Pace::Closed => free.drain(..).for_each(|at| all[at].ask(&request)),
            Pace::PerSecond(rate) => {
                let now_due = (began.elapsed().as_secs_f64() * rate) as u64;
                let late = Duration::from_secs_f64((now_due - due) as f64 / rate);
                measured.lag = measured.lag.max(late);
                while due < now_due {
                    due += 1;
                    match free.pop() {
                        Some(at) => all[at].ask(&request),
                        None => measured.unsent += 1,
                    }
                }
            }
        }
        let count = epoll.wait(&mut events, EpollTimeout::from(1_u8)).unwrap();
        for event in &events[..count] {
            let at = event.data() as usize;
            match all[at].read(&mut piece) {
                Answer::Not => {}
                Answer::Status(status) => {
                    let took = all[at].sent.elapsed();
                    match status {
                        200 => measured.good.push(took),
                        503 => measured.refused.push(took),
                        _ => measured.others += 1,
                    }
                    free.push(at);
                }
                Answer::Lost => {
                    measured.lost += 1;
                    all[at] = connect(gateway, &epoll, at);
                    free.push(at);
                }
            }
        }
    }
    measured.seconds = began.elapsed().as_secs_f64();
    measured
}

fn connect(gateway: SocketAddr, epoll: &Epoll, number: usize) -> Connection {
    let stream = TcpStream::connect(gateway).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64)).unwrap();
    Connection { stream, buffer: Vec::new(), sent: Instant::now() }
}

enum Answer {
    Not,
    Status(u16),
    Lost,
}

impl Connection {
    fn ask(&mut self, request: &str) {
        self.sent = Instant::now();
        // A closed connection is detected when it is read.
        let _ = self.stream.write_all(request.as_bytes());
    }

    fn read(&mut self, piece: &mut [u8]) -> Answer {
        match self.stream.read(piece) {
            Ok(0) => return Answer::Lost,
            Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Answer::Not,
            Err(_) => return Answer::Lost,
        }
        let Some(head) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") else { return Answer::Not };
        let text = std::str::from_utf8(&self.buffer[..head]).unwrap();
        let length = text.split("Content-Length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        if self.buffer.len() < head + 4 + length.parse::<usize>().unwrap() {
            return Answer::Not;
        }
        let status = text[9..12].parse().unwrap();
        self.buffer.clear();
        Answer::Status(status)
    }
}

impl Measured {
    /// Good answers per second.
    pub fn rate(&self) -> f64 {
        self.good.len() as f64 / self.seconds
    }
}

/// The time within which this share of the requests was answered, in milliseconds.
pub fn percentile(times: &mut [Duration], share: f64) -> f64 {
    if times.is_empty() {
        return 0.0;
    }
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0
}
