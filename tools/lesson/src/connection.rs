//! One TCP connection to or from the program. Every wait has a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::check::{Failure, Verdict, ensure};
use crate::language::{Text, text};
use crate::packet::{self, END};
use crate::transcript::{Transcript, show};

/// How long we wait for a reply, unless a check says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// Who sends more than this without an end floods us.
const MAX_UNREAD: usize = 4 * 1024 * 1024;
/// How much of a flood is shown.
const SHOWN_OF_FLOOD: usize = 200;

/// One end of a connection, with everything that has arrived and was not yet read.
pub struct Connection {
    /// Who we play on this connection, such as a caller.
    pub who: Text,
    stream: TcpStream,
    buffer: Vec<u8>,
    transcript: Transcript,
}

/// Why nothing more arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Silence(Duration),
    Closed,
    Flood,
}

impl Connection {
    /// Connects to the program.
    pub fn open(address: SocketAddr, who: impl Into<Text>, transcript: &Transcript) -> Result<Self, Failure> {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => Ok(Self::over(stream, who, transcript)),
            Err(error) => Err(Failure::new(
                text!("a connection to {address}", "{address}에 연결되어야 합니다"),
                Text::same(error.to_string()),
            )),
        }
    }

    pub fn over(stream: TcpStream, who: impl Into<Text>, transcript: &Transcript) -> Self {
        // If an option cannot be set, the connection is lost, and the next write or read says so.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(PATIENCE));
        Self { who: who.into(), stream, buffer: Vec::new(), transcript: transcript.clone() }
    }

    /// Sends one packet in one write.
    pub fn send(&mut self, packet: &Value) -> Verdict {
        self.write(packet::text(packet).as_bytes())
    }

    /// Sends these bytes in one write.
    pub fn write(&mut self, bytes: &[u8]) -> Verdict {
        self.transcript.sent(&self.who, &show(bytes));
        self.write_quietly(bytes)
    }

    /// Sends these bytes. The caller has told the transcript.
    pub fn write_quietly(&mut self, bytes: &[u8]) -> Verdict {
        self.stream.write_all(bytes).map_err(|error| {
            let expected =
                text!("the program reads what we send", "프로그램이 우리가 보낸 것을 읽어야 합니다");
            match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    Failure::new(expected, text!("it reads nothing", "읽지 않습니다"))
                }
                _ => End::Closed.failure(&expected, &[]),
            }
        })
    }

    /// Waits for this packet, and for no other.
    pub fn expect(&mut self, expected: &Value) -> Verdict {
        self.expect_within(PATIENCE, expected)
    }

    pub fn expect_within(&mut self, within: Duration, expected: &Value) -> Verdict {
        let wanted = Text::same(packet::text(expected));
        let got = self.packet(within, &wanted)?;
        ensure(packet::has(&got, expected), || Failure::new(wanted, Text::same(packet::text(&got))))?;
        self.transcript.received(&self.who, &packet::text(&got));
        Ok(())
    }

    /// Waits for any packet. After a failure, `expected` says what we wanted.
    pub fn receive(&mut self, expected: &Text) -> Result<Value, Failure> {
        self.receive_within(PATIENCE, expected)
    }

    pub fn receive_within(&mut self, within: Duration, expected: &Text) -> Result<Value, Failure> {
        let packet = self.packet(within, expected)?;
        self.transcript.received(&self.who, &packet::text(&packet));
        Ok(packet)
    }

    fn packet(&mut self, within: Duration, expected: &Text) -> Result<Value, Failure> {
        let bytes = self.frame(within).map_err(|end| self.failure(expected, end))?;
        if let Ok(packet @ Value::Object(_)) = serde_json::from_slice(&bytes) {
            return Ok(packet);
        }
        let got = show(&bytes);
        Err(Failure::new(
            expected.clone(),
            text!("{got}¶, which is not a JSON object", "{got}¶ (JSON 객체가 아닙니다)"),
        ))
    }

    /// Nothing may arrive for this time.
    pub fn expect_silence(&mut self, time: Duration) -> Verdict {
        let expected = text!("no further packet", "더 오는 패킷이 없어야 합니다");
        match self.frame(time) {
            Ok(bytes) => Err(Failure::new(expected, Text::same(show(&bytes) + "¶"))),
            Err(End::Silence(_)) if self.buffer.is_empty() => Ok(()),
            Err(End::Closed) => Ok(()),
            Err(end) => Err(self.failure(&expected, end)),
        }
    }

    /// Waits until the program closes the connection. `Ok` with the packet if it sends one first.
    pub fn receive_or_close(&mut self, expected: &Text) -> Result<Option<Value>, Failure> {
        match self.frame(PATIENCE) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default())),
            Err(End::Closed) => Ok(None),
            Err(end) => Err(self.failure(expected, end)),
        }
    }

    pub fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The next bytes up to `¶`.
    fn frame(&mut self, within: Duration) -> Result<Vec<u8>, End> {
        let mut searched = 0;
        self.read_until(within, |buffer| {
            let from = std::mem::replace(&mut searched, buffer.len().saturating_sub(1));
            let end = from + buffer[from..].windows(END.len()).position(|two| two == END)?;
            let rest = buffer.split_off(end + END.len());
            let mut frame = std::mem::replace(buffer, rest);
            frame.truncate(end);
            Some(frame.trim_ascii().to_vec())
        })
    }

    /// Reads until `take` finds in the buffer what it wants, and returns that.
    pub fn read_until<T>(
        &mut self,
        within: Duration,
        mut take: impl FnMut(&mut Vec<u8>) -> Option<T>,
    ) -> Result<T, End> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = take(&mut self.buffer) {
                return Ok(found);
            }
            if self.buffer.len() > MAX_UNREAD {
                return Err(End::Flood);
            }
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() || self.stream.set_read_timeout(Some(rest)).is_err() {
                return Err(End::Silence(within));
            }
            let mut piece = [0; 8192];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) => return Err(End::Closed),
            }
        }
    }

    /// What has arrived instead of a whole packet.
    pub fn failure(&self, expected: &Text, end: End) -> Failure {
        end.failure(expected, &self.buffer)
    }

    /// What has arrived and was not taken.
    pub fn unread(&self) -> &[u8] {
        &self.buffer
    }

    pub fn transcript(&self) -> &Transcript {
        &self.transcript
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

impl End {
    fn failure(self, expected: &Text, arrived: &[u8]) -> Failure {
        let failure = Failure::new(expected.clone(), self.describe(arrived));
        Failure { is_closed: self == Self::Closed, ..failure }
    }

    /// What the user sees as *got*, with the bytes that had arrived.
    fn describe(self, arrived: &[u8]) -> Text {
        let begin = show(&arrived[..arrived.len().min(SHOWN_OF_FLOOD)]);
        let all = show(arrived);
        match self {
            Self::Flood => text!(
                "more than 4 MiB without an end; it begins: {begin}",
                "끝이 없는 4 MiB 이상의 데이터. 시작 부분: {begin}"
            ),
            Self::Silence(time) if arrived.is_empty() => {
                let (en, ko) = seconds(time);
                text!("nothing within {en}", "{ko} 동안 아무것도 오지 않았습니다")
            }
            Self::Silence(_) => text!("{all} and then no ¶", "{all} 뒤에 ¶가 오지 않았습니다"),
            Self::Closed if arrived.is_empty() => {
                text!("the connection was closed", "연결이 닫혔습니다")
            }
            Self::Closed => {
                text!("{all} and then the connection was closed", "{all} 뒤에 연결이 닫혔습니다")
            }
        }
    }
}

/// `3 s` and `3초`.
pub fn seconds(time: Duration) -> (String, String) {
    let seconds = format!("{:.1}", time.as_secs_f64());
    let seconds = seconds.trim_end_matches(".0");
    (format!("{seconds} s"), format!("{seconds}초"))
}
