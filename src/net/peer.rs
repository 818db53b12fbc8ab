//! The answering side of packet connections: how a distributor and every service handle their peers.

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
use super::{linger, spawn};
use crate::observe::metrics::WIRE;
use crate::packet::explain::{Explanation, add_to_reply};
use crate::packet::frame::FrameError;
use crate::packet::masked::masked;
use crate::packet::{Answer, DELIMITER, Dialect, Failure, Head, Key, Reply, course};

/// How long to wait for unfinished answers after the peer has stopped sending.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(10);

/// A longer timeout in a request is cut to this.
const LONGEST_WAIT_MS: u64 = 3_600_000;

/// Handles the packets that peers send.
pub trait Answerer: Send + Sync + 'static {
    /// A peer has connected.
    fn connected(&self, _peer: &Arc<Peer>) {}

    /// A packet has arrived, perhaps as part of a batch. Runs on the connection's own thread: what waits here makes this
    /// peer wait.
    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>, batch: Option<&Arc<Batch>>);

    /// The peer sends no more packets. Called once for every `connected`.
    fn gone(&self, _peer: &Arc<Peer>) {}

    /// We closed a connection because of a bad frame, and the peer may be a course node. Runs on the connection's own
    /// thread, after `gone`.
    fn course_connection_closed(&self) {}
}

/// One who has connected to us.
#[derive(Debug)]
pub struct Peer {
    connection: Connection,
    outbox: Outbox,
    /// The thread that reads this connection. It writes its own answers; other threads use the writer thread.
    reader: ThreadId,
    max_frame_bytes: usize,
    /// True if the peer has shown that it understands the whole protocol.
    pilcrow: AtomicBool,
    lateness: Lateness,
}

/// A sent answer.
#[derive(Debug, Default)]
pub struct SentAnswer {
    /// 0 for success.
    pub errorcode: u16,
    /// The length of the packet; 0 if the peer expects no answer.
    pub bytes: usize,
    /// Dropping it wakes the writer thread, if that thread writes the answer.
    pub posted: Option<Posted>,
}

/// Serves packets on a port: reads them, checks them, and passes them to an [`Answerer`].
#[derive(Debug)]
pub struct PacketServer<A> {
    answerer: Arc<A>,
    max_frame_bytes: usize,
    /// The secret that every peer must prove; `None` in development mode.
    secret: Option<Secret>,
}

impl<A: Answerer> PacketServer<A> {
    /// Passes packets of up to `max_frame_bytes` to `answerer`. If there is a secret, peers must prove it first.
    pub fn new(answerer: Arc<A>, max_frame_bytes: usize, secret: Option<&Secret>) -> Self {
        LazyLock::force(&WIRE);
        Self { answerer, max_frame_bytes, secret: secret.cloned() }
    }

    /// Passes every packet to the answerer. A peer counts as a course node until a packet shows otherwise; `dialect`
    /// keeps the result.
    fn read_packets(&self, peer: &Arc<Peer>, dialect: &mut Dialect) -> Result<(), FrameError> {
        let mut inbound = Inbound::new(peer.connection.stream.clone(), self.max_frame_bytes, *dialect);
        let mut batch: Option<OpenBatch> = None;
        while let Some(frame) = inbound.next_frame()? {
            let head = self.parse(frame)?;
            let is_news = *dialect == Dialect::Course && course::is_from_pilcrow(&head);
            if is_news {
                *dialect = Dialect::Pilcrow;
                // From one of our nodes, a raw `¶` is an error in this packet too.
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
        // This comes first, so the answerer never sees a peer that fails the proof.
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
        // Call this after logging the reason, because the answerer logs the end of the peer.
        self.answerer.gone(&peer);
        if ended.is_ok() {
            peer.await_answers();
        }
        let is_course_gone = is_bad && dialect == Dialect::Course;
        if is_course_gone {
            // A course gateway dials again when a list arrives, but only if it has noticed the end of this connection.
            peer.outbox.flush();
            linger(&peer.connection.stream);
        }
        peer.outbox.finish();
        let _ = writer.join();
        if is_course_gone {
            self.answerer.course_connection_closed();
        }
    }

    fn refuse(&self, stream: &TcpStream, _peer: SocketAddr) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

impl Peer {
    /// A number that is unique among all peers of this port.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.connection.id()
    }

    /// The address that it connected from.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.connection.peer
    }

    /// The writing half, for frames other than answers.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Records that the peer is not a course node. True if this was unknown before.
    pub fn set_pilcrow(&self) -> bool {
        !self.pilcrow.load(Ordering::Relaxed) && !self.pilcrow.swap(true, Ordering::SeqCst)
    }

    /// Notifies a peer that this process is shutting down, if the peer understands it. It uses the same words as for a
    /// distributor. The peer then sends no further request, and closes the connection once nothing is pending.
    pub fn part(&self, notice: &[u8]) {
        if self.pilcrow.load(Ordering::SeqCst) && self.outbox.post(notice).is_ok() {
            self.connection.part();
        }
    }

    /// The deadline of this packet, which has just arrived. `None` if the sender states none.
    #[must_use]
    pub fn deadline_of(&self, head: &Head<'_>) -> Option<Instant> {
        let left = Duration::from_millis(head.deadline_ms?.min(LONGEST_WAIT_MS));
        let late = head.sent_ms.map_or(Duration::ZERO, |sent_ms| self.lateness.of(sent_ms));
        Some(Instant::now() + left.saturating_sub(late))
    }

    /// Records that a request of this peer is in progress; see [`Connection::work`].
    #[must_use]
    pub fn work(&self) -> Work {
        self.connection.work()
    }

    /// Answers under `key`. Never waits for a slow peer, unless it runs on this peer's own thread.
    ///
    /// `limit_bytes` is the longest answer that this peer can accept. A longer answer becomes a failure with that
    /// reason. The explanation is added if there is room for it.
    pub fn answer(
        &self,
        key: Option<&Key>,
        outcome: &Result<Reply, Failure>,
        limit_bytes: usize,
        explanation: Option<&Explanation>,
    ) -> SentAnswer {
        let errorcode = outcome.as_ref().err().map_or(0, |failure| failure.errorcode);
        let mut sent = SentAnswer { errorcode, ..SentAnswer::default() };
        let limit = limit_bytes.min(self.max_frame_bytes);
        let answer = Answer { key, outcome, more: false };
        let mut frame = match answer.encode() {
            Ok(frame) if frame.len() <= limit => frame,
            Ok(frame) => {
                let size = frame.len();
                let why = format!(
                    "the answer has {size} bytes, above the limit of {limit} in one packet; ask for less"
                );
                self.fail_instead(key, why, &mut sent)
            }
            Err(error) => self.fail_instead(key, format!("the answer has no JSON form: {error}"), &mut sent),
        };
        if let Some(explanation) = explanation {
            add_steps(&mut frame, explanation, limit);
        }
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

    /// Queues an answer. The thread that reads this connection writes it later, together with others. Other threads use
    /// the writer thread.
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

    /// A peer that has sent all its requests and closed its side (like `printf … | nc`) still gets the answers.
    fn await_answers(&self) {
        let deadline = Instant::now() + ANSWERS_TIMEOUT;
        while self.connection.working() > 0 && Instant::now() < deadline {
            self.connection.await_change(Duration::from_millis(50));
        }
    }
}

#[cold]
fn add_steps(frame: &mut Vec<u8>, explanation: &Explanation, limit: usize) {
    let mut explained = frame.clone();
    add_to_reply(&mut explained, explanation);
    if explained.len() <= limit {
        *frame = explained;
    }
}

/// The size of a frame on the wire, delimiter included. Its sender logs the same number.
pub(crate) fn wire_len(frame: &str) -> usize {
    frame.len() + DELIMITER.len()
}

/// The summary of a packet for a log line: its kind and its key.
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
