//! The answering side of packet connections: what a distributor and every service do with those who connect.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use log::Level;

use super::batch::{Batch, OpenBatch};
use super::flood::say;
use super::inbound::Inbound;
use super::lateness::Lateness;
use super::listener::{Connection, Serve, Work};
use super::outbox::{Batching, Outbox, Posted, SendError};
use super::proof;
use super::secret::Secret;
use super::spawn;
use crate::observe::metrics::WIRE;
use crate::packet::frame::FrameError;
use crate::packet::masked::masked;
use crate::packet::{Answer, DELIMITER, Dialect, Failure, Head, Key, Reply, course};

/// How long answers that are still being worked out are waited for after the asker has stopped sending.
const LINGER: Duration = Duration::from_secs(10);

/// The longest that a request is taken to be waited for.
const LONGEST_WAIT_MS: u64 = 3_600_000;

/// What is done with the packets that peers send.
pub trait Answerer: Send + Sync + 'static {
    /// Somebody has connected.
    fn connected(&self, _peer: &Arc<Peer>) {}

    /// A packet has arrived, perhaps as part of a batch. Runs on the connection's own thread: what waits here makes this
    /// peer wait.
    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>, batch: Option<&Arc<Batch>>);

    /// The peer sends no more. Called once for every `connected`.
    fn gone(&self, _peer: &Arc<Peer>) {}

    /// A connection has just been closed because of a bad frame, and the peer may be a course node. Runs on the
    /// connection's own thread, after `gone`.
    fn course_connection_closed(&self) {}
}

/// One who has connected to us.
#[derive(Debug)]
pub struct Peer {
    connection: Connection,
    outbox: Outbox,
    /// The thread that reads this connection; it writes for itself, others leave it to the writer thread.
    reader: ThreadId,
    max_frame_bytes: usize,
    /// Whether it has shown that it understands all of the protocol.
    pilcrow: AtomicBool,
    lateness: Lateness,
}

/// An answer that has been sent.
#[derive(Debug, Default)]
pub struct SentAnswer {
    /// 0 for success.
    pub errorcode: u16,
    /// How long the packet was; 0 if the asker wants none.
    pub bytes: usize,
    /// Dropping it wakes the writer thread, if that one writes the answer.
    pub posted: Option<Posted>,
}

/// Serves packets on a port: reads them, checks them, and hands them to an [`Answerer`].
#[derive(Debug)]
pub struct PacketServer<A> {
    answerer: Arc<A>,
    max_frame_bytes: usize,
    /// What everybody has to prove; nothing in development mode.
    secret: Option<Secret>,
}

impl<A: Answerer> PacketServer<A> {
    /// Hands the packets of up to `max_frame_bytes` to `answerer`, of those who prove this secret if there is one.
    pub fn new(answerer: Arc<A>, max_frame_bytes: usize, secret: Option<&Secret>) -> Self {
        LazyLock::force(&WIRE);
        Self { answerer, max_frame_bytes, secret: secret.cloned() }
    }

    /// Hands every packet to the answerer. A peer counts as a course node until it shows that it is none, which is kept
    /// in `dialect`.
    fn read_packets(&self, peer: &Arc<Peer>, dialect: &mut Dialect) -> Result<(), FrameError> {
        let mut inbound = Inbound::new(peer.connection.stream.clone(), self.max_frame_bytes, *dialect);
        let mut batch: Option<OpenBatch> = None;
        while let Some(frame) = inbound.next_frame()? {
            let head = self.parse(frame)?;
            let is_news = *dialect == Dialect::Course && course::is_from_pilcrow(&head);
            if is_news {
                *dialect = Dialect::Pilcrow;
                // From a node of ours, a raw `¶` is an error in this packet too.
                course::before_raw_delimiter(frame).map_or(Ok(()), |before| self.parse(before).map(drop))?;
            }
            log::debug!(
                "{} → {}, {} bytes: {}",
                peer.address(),
                PacketSummary(&head),
                wire_len(frame),
                masked(frame)
            );
            self.answerer.packet(peer, &head, batch.as_ref().map(OpenBatch::batch));
            if is_news {
                inbound.set_dialect(Dialect::Pilcrow);
            }
            if inbound.has_frame() {
                batch.get_or_insert_with(OpenBatch::default);
            } else {
                batch = None; // ends it: the next packet may have been sent later
                // Answers to packets that came together leave together.
                peer.outbox.flush();
            }
        }
        Ok(())
    }

    fn parse<'a>(&self, frame: &'a str) -> Result<Head<'a>, FrameError> {
        Head::parse(frame).map_err(|error| FrameError::not_an_object(frame, self.max_frame_bytes, &error))
    }
}

impl<A: Answerer> Serve for PacketServer<A> {
    fn serve(&self, connection: Connection) {
        let address = connection.peer;
        // Before anything else: the answerer does not hear of whoever fails here.
        if self.secret.as_ref().is_some_and(|secret| !proof::is_admitted(secret, &connection.stream, address))
        {
            return;
        }
        let outbox = Outbox::new(connection.stream.clone(), Batching::Together);
        let reader = thread::current().id();
        let (max_frame_bytes, pilcrow) = (self.max_frame_bytes, AtomicBool::new(false));
        let lateness = Lateness::default();
        let peer = Arc::new(Peer { connection, outbox, reader, max_frame_bytes, pilcrow, lateness });
        let writing = peer.clone();
        let writer = match spawn(&format!("write {}", address.port()), move || writing.outbox.run()) {
            Ok(writer) => writer,
            Err(error) => {
                log::warn!("{address} closed: no further thread ({error})");
                return;
            }
        };
        self.answerer.connected(&peer);
        // Course nodes cannot prove the secret.
        let mut dialect = if self.secret.is_some() { Dialect::Pilcrow } else { Dialect::Course };
        let ended = self.read_packets(&peer, &mut dialect);
        let is_bad = matches!(&ended, Err(error) if error.reason().is_some());
        match &ended {
            Ok(()) => {}
            Err(FrameError::Io(error)) => log::debug!("{address} lost: {error}"),
            Err(error) => {
                WIRE.rejected(error.reason());
                say(Level::Warn, "closed", address.ip(), format_args!("{address} closed: {error}"));
            }
        }
        // After the line with the reason: the answerer logs that the peer is gone.
        self.answerer.gone(&peer);
        if ended.is_ok() {
            peer.await_answers();
        }
        peer.outbox.finish();
        let _ = writer.join();
        if is_bad && dialect == Dialect::Course {
            self.answerer.course_connection_closed();
        }
    }

    fn refuse(&self, stream: &TcpStream, _peer: SocketAddr) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Peer {
    /// A number that no other peer of this port has had.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.connection.id()
    }

    /// Where it connected from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.connection.peer
    }

    /// The writing half, for frames that are no answers.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// It has shown that it is no node of the course. True if that is news.
    pub fn set_pilcrow(&self) -> bool {
        !self.pilcrow.load(Ordering::Relaxed) && !self.pilcrow.swap(true, Ordering::SeqCst)
    }

    /// Tells a peer that understands it that this process is about to end, in the words in which a distributor is
    /// told: it sends no further request, and ends the connection once nothing is pending.
    pub fn part(&self, notice: &[u8]) {
        if self.pilcrow.load(Ordering::SeqCst) && self.outbox.post(notice).is_ok() {
            self.connection.part();
        }
    }

    /// Until when the asker of this packet, which has just come, waits for an answer; nothing if it does not say.
    #[must_use]
    pub fn deadline_of(&self, head: &Head<'_>) -> Option<Instant> {
        let left = Duration::from_millis(head.deadline_ms?.min(LONGEST_WAIT_MS));
        let late = head.sent_ms.map_or(Duration::ZERO, |sent_ms| self.lateness.of(sent_ms));
        Some(Instant::now() + left.saturating_sub(late))
    }

    /// Says that a request of this peer is being worked on; see [`Connection::work`].
    #[must_use]
    pub fn work(&self) -> Work {
        self.connection.work()
    }

    /// Answers under `key`. Never waits for a slow peer, unless called on this
    /// peer's own thread.
    ///
    /// `limit_bytes` is the longest answer that this asker can take. A longer one becomes a failure that says so.
    pub fn answer(
        &self,
        key: Option<&Key>,
        outcome: &Result<Reply, Failure>,
        limit_bytes: usize,
    ) -> SentAnswer {
        let errorcode = outcome.as_ref().err().map_or(0, |failure| failure.errorcode);
        let mut sent = SentAnswer { errorcode, ..SentAnswer::default() };
        let limit = limit_bytes.min(self.max_frame_bytes);
        let answer = Answer { key, outcome, more: false };
        let frame = match answer.encode() {
            Ok(frame) if frame.len() <= limit => frame,
            Ok(frame) => {
                let size = frame.len();
                let why = format!(
                    "the answer has {size} bytes and the asker takes {limit} in one packet; ask for less"
                );
                self.fail_instead(key, why, &mut sent)
            }
            Err(error) => self.fail_instead(key, format!("the answer has no JSON form: {error}"), &mut sent),
        };
        sent.bytes = frame.len();
        self.log_answer(key, &sent, &frame);
        match self.send(&frame) {
            Ok(posted) => sent.posted = posted,
            Err(error) => self.drop_answer(error),
        }
        sent
    }

    fn drop_answer(&self, error: SendError) {
        log::debug!("{}: answer dropped: {error}", self.address());
        if error == SendError::Full {
            log::warn!("{} closed: {error}", self.address());
            self.outbox.close();
        }
    }

    /// Queues an answer. The thread that reads this connection writes it later, together with others; other threads
    /// leave it to the writer thread.
    fn send(&self, frame: &[u8]) -> Result<Option<Posted>, SendError> {
        if thread::current().id() == self.reader {
            self.outbox.hold(frame).map(|()| None)
        } else {
            self.outbox.post(frame).map(Some)
        }
    }

    fn fail_instead(&self, key: Option<&Key>, message: String, sent: &mut SentAnswer) -> Vec<u8> {
        log::warn!("{}: {message}", self.address());
        sent.errorcode = 500;
        let outcome = Err(Failure::new(500, message));
        Answer { key, outcome: &outcome, more: false }.encode().unwrap_or_default()
    }

    fn log_answer(&self, key: Option<&Key>, sent: &SentAnswer, frame: &[u8]) {
        if !log::log_enabled!(log::Level::Debug) {
            return;
        }
        let key = key.map_or_else(|| "none".to_owned(), ToString::to_string);
        let outcome = if sent.errorcode == 0 { "success".to_owned() } else { sent.errorcode.to_string() };
        log::debug!(
            "{} ← reply {outcome}, key {key}, {} bytes: {}",
            self.address(),
            sent.bytes,
            masked(frame)
        );
    }

    /// A peer that has sent all its requests (`printf … | nc` does so) still gets the answers.
    fn await_answers(&self) {
        let deadline = Instant::now() + LINGER;
        while self.connection.working() > 0 && Instant::now() < deadline {
            self.connection.await_change(Duration::from_millis(50));
        }
    }
}

/// The size of a frame as it was on the wire, delimiter included: what its sender logs.
pub(crate) fn wire_len(frame: &str) -> usize {
    frame.len() + DELIMITER.len()
}

/// What a log line says of a packet. Its contents stay out: they may hold passwords.
pub(crate) struct PacketSummary<'a>(pub(crate) &'a Head<'a>);

impl std::fmt::Display for PacketSummary<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = self.0;
        match (&head.method, &head.uri) {
            (Some(method), Some(uri)) => write!(f, "request {method} {}", uri.escape_debug())?,
            _ => match head.errorcode {
                Some(0) => write!(f, "reply success")?,
                Some(code) => write!(f, "reply {code}")?,
                None => write!(f, "packet")?,
            },
        }
        match head.answer_key() {
            Some(key) => write!(f, ", key {key}"),
            None => write!(f, ", no key"),
        }
    }
}
