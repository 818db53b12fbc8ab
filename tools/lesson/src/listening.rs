//! A port on which we play a process, such as a service or a distributor.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::check::Failure;
use crate::connection::{Connection, seconds};
use crate::language::{Text, Words, text};
use crate::transcript::Transcript;

const LOOK_EVERY: Duration = Duration::from_millis(10);

pub struct Listening {
    listener: TcpListener,
    pub address: SocketAddr,
    /// Whom we play.
    pub who: Text,
    pub transcript: Transcript,
}

impl Listening {
    pub fn open(who: Words, transcript: &Transcript) -> Result<Self, Failure> {
        let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound
            .map_err(|error| Failure::new(text!("a free port", "빈 포트"), Text::same(error.to_string())))?;
        Ok(Self { listener, address, who: who.into(), transcript: transcript.clone() })
    }

    /// Waits until the program connects.
    pub fn accept(&self, within: Duration) -> Result<Connection, Failure> {
        let deadline = Instant::now() + within;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // Some systems pass the non-blocking mode on.
                    let _ = stream.set_nonblocking(false);
                    return Ok(Connection::over(stream, self.who.clone(), &self.transcript));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    thread::sleep(LOOK_EVERY);
                }
                Err(_) => break,
            }
        }
        let ((time_en, time_ko), address) = (seconds(within), self.address);
        let Text { en, ko } = &self.who;
        Err(Failure::new(
            text!(
                "a connection to the {en} {address} within {time_en}",
                "{time_ko} 안에 {ko} {address}에 연결"
            ),
            text!("no connection", "연결이 없습니다"),
        ))
    }
}
