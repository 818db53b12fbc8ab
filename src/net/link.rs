//! The calling side: one link to one instance, over which many callers send requests and wait for their replies.
//!
//! Every request gets a key. Whoever sends it leaves, under that key, the sending end of a channel with room for
//! one reply in the *pending table*; the link's reader takes it out when the reply comes. When the connection
//! ends, the table is emptied, and the dropped senders *are* the news for everybody who waits.
//!
//! Every request ends in exactly one of: its reply, [`Outcome::Timeout`], [`Outcome::LinkLost`], or
//! [`Outcome::Refused`], which says that it never left.
//!
//! A request may also be answered by a *stream*: many replies under one key. They wait in a bounded queue for
//! whoever reads them ([`ReplyStream`]). A reader that does not keep up loses its stream, not the link's time.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::dial::{Again, Dialer, Session as DialSession};
use super::health::{Health, Intent, Standing};
use super::inbound::Inbound;
use super::mailbox::{Mailbox, Slot, mailbox};
use super::outbox::{Batching, Others, Outbox, SendError};
use super::peer::{PacketSummary, wire_len};
use super::secret::Secret;
use crate::context::Context;
use crate::observe::metrics::{CALLS, WIRE};
use crate::packet::frame::FrameError;
use crate::packet::{
    COURSE_MAX_BYTES, Cancel, DEFAULT_MAX_FRAME_BYTES, Dialect, Head, Outgoing, Travel, encode,
};
use crate::sync::{Permit, lock, read, write};

/// How many streams one link may carry. They have no end of their own, so requests keep their places beside them.
const MAX_STREAMS: usize = 4096;

/// How long a request waits for a connection that is being renewed, and how often it looks.
const RENEWAL_LIMIT: Duration = Duration::from_secs(2);
const RENEWAL_PAUSE: Duration = Duration::from_millis(2);

/// With more requests in flight than this on a link, a caller writes its own together with those of others.
const FEW: usize = 1;

/// A call that had less time than this from its beginning says nothing about the instance when it gets no reply.
const FAIR_WAIT: Duration = Duration::from_millis(100);

/// How many replies of one stream may wait for its reader, and how many bytes they may have.
const STREAM_QUEUE_REPLIES: usize = 4096;
const STREAM_QUEUE_BYTES: usize = 1024 * 1024;

/// A key under which nobody waits, since keys are given out from 1 up.
const NOBODY: u64 = 0;

/// A reply as it came: its text untouched, and what a caller needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyFrame {
    /// The whole reply packet, as the service wrote it.
    pub json: String,
    /// 0 for success; absent where a course node has none, or one that is no number.
    pub errorcode: Option<i64>,
    /// The HTTP status of a success other than 200.
    pub status: Option<u16>,
    /// Where in `json` the results stand.
    results: Option<Range<usize>>,
    /// Whether more replies to the same request follow.
    pub more: bool,
    /// The number of the change that it tells of, or up to which it is complete.
    pub seq: Option<u64>,
    /// What tells this state of a thing from every other.
    pub etag: Option<String>,
    /// In how many seconds it is worth while to ask again.
    pub retry_after: Option<u64>,
}

/// How a request ended that got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No reply before the deadline. The request may or may not have been carried out.
    Timeout,
    /// The connection ended first. The request may or may not have been carried out.
    LinkLost,
    /// The request never left.
    Refused(Refusal),
}

/// Why a request never left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no connection.
    Down,
    /// As many requests are pending as the limit allows, or the instance does not read.
    Busy,
    /// The packet would be longer than a frame may be.
    TooLarge,
    /// The request has come through too many services: they call each other in a ring.
    Ring,
}

/// Limits that hold for every link of a process.
#[derive(Debug, Clone, Copy)]
pub struct LinkLimits {
    /// The longest frame sent or taken, in bytes.
    pub max_frame_bytes: usize,
    /// How many requests may be pending on one link, streams apart.
    pub max_pending: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self { max_frame_bytes: DEFAULT_MAX_FRAME_BYTES, max_pending: 2048 }
    }
}

/// What is to be said of a link in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It takes requests.
    Up,
    /// There is no connection; it is dialled.
    Down,
    /// Its instance has not answered and is asked only where there is no other ([`super::health`]).
    SetAside,
    /// Its instance is about to end and gets no new requests.
    Leaving,
}

impl LinkState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Up, Self::Down, Self::SetAside, Self::Leaving];

    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::SetAside => "set_aside",
            Self::Leaving => "leaving",
        }
    }
}

/// Told when a link comes up (`true`) or goes down (`false`).
pub type OnChange = dyn Fn(&str, bool) + Send + Sync;

/// A link to one instance. It reconnects by itself until it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    dialer: Dialer,
}

struct Shared {
    address: Arc<str>,
    dialect: Dialect,
    limits: LinkLimits,
    leaving: AtomicBool,
    /// The instance has said over this connection that it is about to end, which no list may contradict.
    parting: AtomicBool,
    /// The connection is being replaced by a new one: requests wait for that.
    renewing: AtomicBool,
    in_flight: AtomicUsize,
    orphans: AtomicU64,
    health: Health,
    session: RwLock<Option<Arc<Session>>>,
    on_change: Box<OnChange>,
}

/// One connection of a link.
struct Session {
    dialect: Dialect,
    began: Instant,
    outbox: Outbox,
    pending: Mutex<Pending>,
    /// Held while a packet for a course node is queued, so that none is queued behind a long one.
    order: Mutex<()>,
    /// Close this connection as soon as nothing is pending.
    retire: AtomicBool,
}

#[derive(Default)]
struct Pending {
    waiting: HashMap<u64, Waiting>,
    last_key: u64,
    /// Inside the lock: nobody can register after the table was emptied.
    closed: bool,
}

/// Who waits for the replies under a key.
enum Waiting {
    /// A caller, for one reply.
    Caller(Slot),
    /// A reader of a stream.
    Reader(Sender<ReplyFrame>, Arc<Flow>),
}

/// How much of a stream waits for its reader.
#[derive(Debug)]
struct Flow {
    uri: String,
    waiting_bytes: AtomicUsize,
    lagging: AtomicBool,
}

/// The reading end of a stream of replies. Dropping it ends the stream at its source.
pub struct ReplyStream {
    address: Arc<str>,
    session: Arc<Session>,
    key: u64,
    replies: Receiver<ReplyFrame>,
    flow: Arc<Flow>,
    finished: bool,
}

/// Why a stream has no further reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnd {
    /// The last reply has been read.
    Finished,
    /// The connection ended.
    LinkLost,
    /// More replies waited than a stream may hold: its reader is too slow.
    Lagging,
}

impl Link {
    /// Opens a link to `address` and keeps it open; with a secret, it is up once both ends have proven that.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn open(
        address: &str,
        dialect: Dialect,
        limits: LinkLimits,
        secret: Option<&Secret>,
        on_change: Box<OnChange>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            address: address.into(),
            dialect,
            limits,
            leaving: AtomicBool::new(false),
            parting: AtomicBool::new(false),
            renewing: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            orphans: AtomicU64::new(0),
            health: Health::default(),
            session: RwLock::new(None),
            on_change,
        });
        let name = format!("link {address}");
        let dialer = Dialer::start(&name, address.to_owned(), secret, Reader(shared.clone()))?;
        Ok(Self { shared, dialer })
    }

    /// The instance at the other end, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The same, to be kept.
    #[must_use]
    pub fn shared_address(&self) -> Arc<str> {
        self.shared.address.clone()
    }

    /// Which packets the instance understands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.shared.dialect
    }

    /// How many requests are in flight here, or nothing if the instance cannot be given another one now.
    #[must_use]
    pub fn load(&self) -> Option<usize> {
        let standing = self.is_up() || self.is_renewing();
        let usable = standing && !self.shared.is_leaving();
        usable.then(|| self.shared.in_flight.load(Ordering::Relaxed))
    }

    /// How willingly the instance is given such a request, then how many are in flight here: of several, the least
    /// is to be asked. Nothing if it cannot be given another one now.
    #[must_use]
    pub fn rank(&self, intent: Intent) -> Option<(Standing, usize)> {
        let load = self.load()?;
        Some((self.shared.health.standing(intent, load), load))
    }

    /// Whether the instance has been set aside, since it did not answer ([`super::health`]).
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.shared.health.is_aside()
    }

    /// What is to be said of it in one word.
    #[must_use]
    pub fn state(&self) -> LinkState {
        if self.shared.is_leaving() {
            LinkState::Leaving
        } else if self.is_up() && self.is_aside() {
            LinkState::SetAside
        } else if self.is_up() || self.is_renewing() {
            LinkState::Up
        } else {
            LinkState::Down
        }
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_up(&self) -> bool {
        read(&self.shared.session).is_some()
    }

    /// How many replies came for which nobody was waiting any more.
    #[must_use]
    pub fn orphans(&self) -> u64 {
        self.shared.orphans.load(Ordering::Relaxed)
    }

    /// Sets whether the instance is about to end: it gets no new requests, and its connection is closed once
    /// nothing is pending.
    pub fn set_leaving(&self, leaving: bool) {
        self.shared.leaving.store(leaving, Ordering::SeqCst);
        if leaving && let Some(session) = self.session() {
            session.retire();
        }
    }

    /// Ends every stream over this link, here and at its source: this process is about to end.
    pub fn end_streams(&self) {
        if let Some(session) = self.session() {
            session.end_streams();
        }
    }

    /// Dials at once if the link is down: there is news that the instance is there.
    pub fn dial_now(&self) {
        if !self.is_up() {
            self.dialer.dial_now();
        }
    }

    /// Sends a request and waits for its reply until `deadline`.
    ///
    /// # Errors
    /// The [`Outcome`] that the request had instead of a reply.
    pub fn call(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<ReplyFrame, Outcome> {
        self.begin(request, deadline)?.wait()
    }

    /// Sends a request; its reply is waited for with the returned [`Call`], until `deadline`.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn begin<'a>(&'a self, request: &Outgoing<'a>, deadline: Instant) -> Result<Call<'a>, Outcome> {
        loop {
            let session = self.open_session(deadline)?;
            match self.begin_on(session, request, deadline) {
                // A long packet went before: the next connection is waited for.
                Err(Outcome::Refused(Refusal::Down)) if self.is_renewing() => {}
                begun => return begun,
            }
        }
    }

    fn begin_on<'a>(
        &'a self,
        session: Arc<Session>,
        request: &Outgoing<'a>,
        deadline: Instant,
    ) -> Result<Call<'a>, Outcome> {
        let in_flight = Permit::take(&self.shared.in_flight, self.shared.limits.max_pending);
        let in_flight = in_flight.ok_or(Outcome::Refused(Refusal::Busy))?;
        let (slot, reply) = mailbox();
        let key = session.register(Waiting::Caller(slot), self.max_waiting())?;
        let place = Place { session, key, taken: false };
        let (shared, uri) = (self.shared.as_ref(), request.uri);
        let times = Times { now: Instant::now(), deadline };
        let call = Call { shared, uri, reply, place, times, _in_flight: in_flight };
        self.send(&call.place.session, request, key, times)?;
        Ok(call)
    }

    /// Sends a request whose reply may be a stream. `deadline` is what the other side is told; how long to wait
    /// is the reader's decision.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if the request was not sent.
    pub fn open_stream(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<ReplyStream, Outcome> {
        let session = self.open_session(deadline)?;
        let (waiting_bytes, lagging) = (AtomicUsize::new(0), AtomicBool::new(false));
        let flow = Arc::new(Flow { uri: request.uri.to_owned(), waiting_bytes, lagging });
        let (sender, replies) = bounded(STREAM_QUEUE_REPLIES);
        let waiting = Waiting::Reader(sender, flow.clone());
        let key = session.register(waiting, self.max_waiting())?;
        let address = self.shared_address();
        // From here on its drop gives the place in the pending table back.
        let stream = ReplyStream { address, session, key, replies, flow, finished: false };
        self.send(&stream.session, request, key, Times { now: Instant::now(), deadline })?;
        Ok(stream)
    }

    /// Writes the request into the connection's queue and has it sent. After a long one a course node's reader is out of
    /// step: the connection takes no further request, and the node gets a new one as soon as nothing is pending.
    fn send(&self, session: &Session, request: &Outgoing<'_>, key: u64, times: Times) -> Result<(), Outcome> {
        let course = self.dialect() == Dialect::Course;
        let in_order = course.then(|| lock(&session.order));
        if course && session.retire.load(Ordering::SeqCst) {
            return Err(Outcome::Refused(Refusal::Down));
        }
        let others = if self.shared.is_busy() { Others::Some } else { Others::None };
        session.outbox.send_with(others, |queue| {
            let before = queue.len();
            let written =
                request.write(queue, key, self.dialect(), times.travel(session, &Context::current()));
            let size = queue.len() - before;
            if written.is_err() || size > self.shared.limits.max_frame_bytes {
                return Err(Outcome::Refused(Refusal::TooLarge));
            }
            if course && size > COURSE_MAX_BYTES {
                self.shared.renewing.store(true, Ordering::SeqCst);
                session.retire.store(true, Ordering::SeqCst);
            }
            // Told before it leaves, or its reply might be told first.
            log::debug!(
                "{} ← request {} {}, key {key}, {size} bytes",
                self.address(),
                request.method,
                request.uri
            );
            Ok(())
        })?;
        drop(in_order);
        Ok(())
    }

    /// Sends a request to which no reply is wanted.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn notify(&self, request: &Outgoing<'_>) -> Result<(), Outcome> {
        let now = Instant::now();
        let session = self.open_session(now + RENEWAL_LIMIT)?;
        self.send(&session, request, 0, Times { now, deadline: now })?;
        if session.retire.load(Ordering::SeqCst) {
            session.retire();
        }
        Ok(())
    }

    fn max_waiting(&self) -> usize {
        self.shared.limits.max_pending.saturating_add(MAX_STREAMS)
    }

    /// The connection for a new request. One that is being renewed is waited for: it takes as long as what is pending
    /// on the old one, and a moment more.
    fn open_session(&self, deadline: Instant) -> Result<Arc<Session>, Outcome> {
        let mut give_up = None;
        while self.is_renewing() {
            let now = Instant::now();
            if now >= *give_up.get_or_insert(deadline.min(now + RENEWAL_LIMIT)) {
                let gone = self.session().is_none();
                if gone {
                    self.shared.renewing.store(false, Ordering::SeqCst);
                }
                return Err(Outcome::Refused(if gone { Refusal::Down } else { Refusal::Busy }));
            }
            thread::sleep(RENEWAL_PAUSE);
        }
        self.session().ok_or(Outcome::Refused(Refusal::Down))
    }

    fn is_renewing(&self) -> bool {
        self.shared.renewing.load(Ordering::SeqCst)
    }

    fn session(&self) -> Option<Arc<Session>> {
        read(&self.shared.session).clone()
    }
}

/// When a request is sent, and until when its reply is waited for.
#[derive(Debug, Clone, Copy)]
struct Times {
    now: Instant,
    deadline: Instant,
}

impl Times {
    fn travel<'a>(&self, session: &Session, context: &'a Context) -> Travel<'a> {
        Travel {
            deadline_ms: millis(self.deadline.saturating_duration_since(self.now)),
            sent_ms: millis(self.now.saturating_duration_since(session.began)),
            hops: context.hops,
            origin: context.origin.as_deref(),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request that has been sent and not been answered. Dropping it gives the reply up.
pub struct Call<'a> {
    shared: &'a Shared,
    uri: &'a str,
    reply: Mailbox,
    place: Place,
    times: Times,
    _in_flight: Permit<&'a AtomicUsize>,
}

impl Call<'_> {
    /// Waits for the reply until the deadline of the call.
    ///
    /// # Errors
    /// The [`Outcome`] that the request had instead.
    pub fn wait(mut self) -> Result<ReplyFrame, Outcome> {
        let received = self.reply.receive(self.times.deadline);
        self.conclude(received)
    }

    /// As [`wait`](Self::wait), but returns nothing if the call has not ended at `until`.
    pub fn wait_until(&mut self, until: Instant) -> Option<Result<ReplyFrame, Outcome>> {
        let until = until.min(self.times.deadline);
        match self.reply.receive(until) {
            Err(RecvTimeoutError::Timeout) if until < self.times.deadline => None,
            received => Some(self.conclude(received)),
        }
    }

    /// When half of the time of the call is over.
    #[must_use]
    pub fn halfway(&self) -> Instant {
        let Times { now: began, deadline } = self.times;
        began + deadline.saturating_duration_since(began) / 2
    }

    /// Gives the reply up, since the instance has been silent for too long. That counts as a failure of the instance.
    pub fn abandon(self) {
        self.count_silence(Instant::now());
    }

    /// A call that had less than [`FAIR_WAIT`] until now says nothing about the instance.
    fn count_silence(&self, now: Instant) {
        if now.saturating_duration_since(self.times.now) >= FAIR_WAIT {
            self.shared.failed();
        }
    }

    fn conclude(&mut self, received: Result<ReplyFrame, RecvTimeoutError>) -> Result<ReplyFrame, Outcome> {
        match received {
            Ok(reply) => {
                self.place.taken = true;
                self.shared.answered();
                if reply.more {
                    self.place.session.cancel(self.uri, self.place.key);
                }
                Ok(reply)
            }
            Err(RecvTimeoutError::Timeout) => {
                self.count_silence(self.times.deadline);
                Err(Outcome::Timeout)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Outcome::LinkLost),
        }
    }
}

/// A caller's place in the pending table, given back however the call ends.
struct Place {
    session: Arc<Session>,
    key: u64,
    /// The reader has taken the place out of the table, with the reply.
    taken: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.taken {
            lock(&self.session.pending).waiting.remove(&self.key);
        }
        if self.session.retire.load(Ordering::SeqCst) {
            self.session.retire();
        }
    }
}

impl Session {
    fn register(&self, waiting: Waiting, max_waiting: usize) -> Result<u64, Outcome> {
        let mut pending = lock(&self.pending);
        if pending.closed {
            return Err(Outcome::Refused(Refusal::Down));
        }
        if pending.waiting.len() >= max_waiting {
            return Err(Outcome::Refused(Refusal::Busy));
        }
        pending.last_key += 1;
        let key = pending.last_key;
        pending.waiting.insert(key, waiting);
        Ok(key)
    }

    fn end_streams(&self) {
        let mut ended = Vec::new();
        lock(&self.pending).waiting.retain(|key, waiting| match waiting {
            Waiting::Caller(_) => true,
            Waiting::Reader(_, flow) => {
                ended.push((*key, flow.uri.clone()));
                false
            }
        });
        for (key, uri) in ended {
            self.cancel(&uri, key);
        }
    }

    /// Tells the other side that nobody reads the stream under this key any more.
    fn cancel(&self, uri: &str, key: u64) {
        if self.dialect == Dialect::Pilcrow
            && let Ok(frame) = encode(&Cancel::of(uri, key))
        {
            // If it does not arrive, the connection has ended, and the stream with it.
            let _ = self.outbox.send(&frame);
        }
    }

    /// Closes the connection if nothing is pending, else leaves word to do so when that is so.
    fn retire(&self) {
        self.retire.store(true, Ordering::SeqCst);
        let idle = {
            let mut pending = lock(&self.pending);
            let idle = pending.waiting.is_empty();
            pending.closed |= idle;
            idle
        };
        if idle {
            self.outbox.close();
        }
    }

    /// Ends the session: everybody who still waits learns it from their dropped sender.
    /// Whether a caller was among them.
    fn close(&self) -> bool {
        let waiting = {
            let mut pending = lock(&self.pending);
            pending.closed = true;
            std::mem::take(&mut pending.waiting)
        };
        self.outbox.close();
        waiting.into_values().any(|waiting| matches!(waiting, Waiting::Caller(_)))
    }

    /// Hands a reply to whoever waits for it. A course node may leave the key out, or say `null`; with a single
    /// request pending there is no doubt all the same.
    fn deliver(&self, key: Option<u64>, reply: ReplyFrame) -> Delivery {
        let mut pending = lock(&self.pending);
        let only = || (pending.waiting.len() == 1).then(|| pending.waiting.keys().next().copied()).flatten();
        let Some(key) = key.or_else(only) else { return Delivery::Orphan };
        match pending.waiting.remove(&key) {
            None => Delivery::Orphan,
            Some(Waiting::Caller(slot)) => {
                drop(pending); // whoever is woken now wants this lock next
                if slot.fill(reply) { Delivery::Delivered } else { Delivery::Orphan }
            }
            Some(Waiting::Reader(sender, flow)) => {
                let more = reply.more;
                if !flow.pass(&sender, reply) {
                    return Delivery::Lagging(key, flow);
                }
                if more {
                    pending.waiting.insert(key, Waiting::Reader(sender, flow));
                }
                Delivery::Delivered
            }
        }
    }
}

/// What became of a reply.
enum Delivery {
    Delivered,
    /// Nobody waits for it any more.
    Orphan,
    /// The reader of this stream has lost it, since too much waited for it.
    Lagging(u64, Arc<Flow>),
}

impl Flow {
    /// Queues a reply for the stream's reader; false if too much waits already.
    fn pass(&self, sender: &Sender<ReplyFrame>, reply: ReplyFrame) -> bool {
        let size = reply.json.len();
        let waiting = self.waiting_bytes.fetch_add(size, Ordering::Relaxed);
        let passed = waiting + size <= STREAM_QUEUE_BYTES && sender.try_send(reply).is_ok();
        if !passed {
            self.lagging.store(true, Ordering::SeqCst);
        }
        passed
    }
}

impl ReplyStream {
    /// The instance that it comes from, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The next reply; nothing if none came until `deadline`.
    ///
    /// # Errors
    /// Why there will be none.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<ReplyFrame>, StreamEnd> {
        match self.replies.recv_deadline(deadline) {
            Ok(reply) => {
                self.flow.waiting_bytes.fetch_sub(reply.json.len(), Ordering::Relaxed);
                self.finished = !reply.more;
                Ok(Some(reply))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) if self.finished => Err(StreamEnd::Finished),
            Err(RecvTimeoutError::Disconnected) if self.flow.lagging.load(Ordering::SeqCst) => {
                Err(StreamEnd::Lagging)
            }
            Err(RecvTimeoutError::Disconnected) => Err(StreamEnd::LinkLost),
        }
    }

    /// Whether a reply is here already.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.replies.is_empty()
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        let unfinished = lock(&self.session.pending).waiting.remove(&self.key).is_some();
        if unfinished {
            self.session.cancel(&self.flow.uri, self.key);
        }
        if self.session.retire.load(Ordering::SeqCst) {
            self.session.retire();
        }
    }
}

/// The link's own thread: dials, then reads replies until the connection ends.
struct Reader(Arc<Shared>);

impl DialSession for Reader {
    fn run(&mut self, stream: Arc<TcpStream>) -> Again {
        let shared = &self.0;
        let batching = match shared.dialect {
            Dialect::Pilcrow => Batching::Together,
            Dialect::Course => Batching::OneByOne,
        };
        let session = Arc::new(Session {
            dialect: shared.dialect,
            began: Instant::now(),
            outbox: Outbox::new(stream.clone(), batching),
            pending: Mutex::new(Pending::default()),
            order: Mutex::new(()),
            retire: AtomicBool::new(false),
        });
        shared.parting.store(false, Ordering::SeqCst);
        *write(&shared.session) = Some(session.clone());
        shared.renewing.store(false, Ordering::SeqCst);
        (shared.on_change)(&shared.address, true);
        let ended = shared.read_replies(stream, &session);
        *write(&shared.session) = None;
        if session.close() {
            shared.failed();
        }
        match ended {
            Ok(()) => log::debug!("link {}: closed", shared.address),
            Err(FrameError::Io(error)) => log::info!("link {}: lost ({error})", shared.address),
            Err(error) => {
                WIRE.rejected(error.reason());
                log::warn!("link {}: closed: {error}", shared.address);
            }
        }
        let renewed = session.retire.load(Ordering::SeqCst) && !shared.is_leaving();
        (shared.on_change)(&shared.address, false);
        if renewed { Again::Now } else { Again::Later }
    }
}

impl Shared {
    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > FEW
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst) || self.parting.load(Ordering::SeqCst)
    }

    fn answered(&self) {
        if self.health.answered() {
            log::info!("link {}: the instance answers again", self.address);
        }
    }

    fn failed(&self) {
        if let Some(aside) = self.health.failed() {
            CALLS.ejections.inc();
            log::warn!(
                "link {}: no answer several times in a row; set aside for {} s, other instances are asked",
                self.address,
                aside.as_secs()
            );
        }
    }

    fn read_replies(&self, stream: Arc<TcpStream>, session: &Session) -> Result<(), FrameError> {
        let mut inbound = Inbound::new(stream, self.limits.max_frame_bytes, self.dialect);
        while let Some(frame) = inbound.next_frame()? {
            if frame == "null" && self.dialect == Dialect::Course {
                self.deliver(session, None, not_implemented());
                continue;
            }
            let head = Head::parse(frame)
                .map_err(|error| FrameError::not_an_object(frame, self.limits.max_frame_bytes, &error))?;
            log::debug!("{} → {}, {} bytes", self.address, PacketSummary(&head), wire_len(frame));
            if (head.method.as_deref(), head.uri.as_deref()) == (Some("POST"), Some("/distributes")) {
                log::info!("link {}: the instance is about to end", self.address);
                self.parting.store(true, Ordering::SeqCst);
                session.retire();
                continue;
            }
            let key = match head.number() {
                // Only of a course node that names no key at all does one guess whom it means.
                None if head.has_key() || self.dialect == Dialect::Pilcrow => Some(NOBODY),
                key => key,
            };
            let mut reply = ReplyFrame::of(&head, frame);
            // Course nodes know no streams: what they mean by `more` is for whoever asked them.
            reply.more &= self.dialect == Dialect::Pilcrow;
            self.deliver(session, key, reply);
        }
        Ok(())
    }

    fn deliver(&self, session: &Session, key: Option<u64>, reply: ReplyFrame) {
        match session.deliver(key, reply) {
            Delivery::Delivered => {}
            Delivery::Orphan => {
                self.orphans.fetch_add(1, Ordering::Relaxed);
                CALLS.orphans.inc();
                let key = key.map_or_else(|| "none".to_owned(), |key| key.to_string());
                log::debug!("{} → orphan reply, key {key}: nobody waits for it any more", self.address);
            }
            Delivery::Lagging(key, flow) => {
                log::info!(
                    "{}: stream {} with key {key} ended: its reader does not keep up",
                    self.address,
                    flow.uri
                );
                session.cancel(&flow.uri, key);
            }
        }
    }
}

impl ReplyFrame {
    /// Looks into the text of a reply.
    ///
    /// # Errors
    /// If it is not one JSON object.
    pub fn parse(frame: &str) -> serde_json::Result<Self> {
        Head::parse(frame).map(|head| Self::of(&head, frame))
    }

    fn of(head: &Head<'_>, frame: &str) -> Self {
        Self {
            json: frame.to_owned(),
            errorcode: head.errorcode,
            status: head.status,
            results: head.results.map(|results| place_in(frame, results.get())),
            more: head.more,
            seq: head.seq,
            etag: head.etag.as_deref().map(str::to_owned),
            retry_after: head.retry_after,
        }
    }

    /// The JSON text of the results, if there are any.
    #[must_use]
    pub fn results(&self) -> Option<&str> {
        self.json.get(self.results.clone()?)
    }
}

/// Where `part`, which was borrowed from `whole`, stands in it.
fn place_in(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    start..start + part.len()
}

/// What a course node means by `null`: it has no handler for this method.
fn not_implemented() -> ReplyFrame {
    let message = "the service has no handler for this method";
    ReplyFrame {
        json: format!(r#"{{"errorcode":501,"errormessage":"{message}"}}"#),
        errorcode: Some(501),
        status: None,
        results: None,
        more: false,
        seq: None,
        etag: None,
        retry_after: None,
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("address", &self.address).finish_non_exhaustive()
    }
}

impl From<SendError> for Outcome {
    fn from(error: SendError) -> Self {
        Self::Refused(match error {
            SendError::Closed => Refusal::Down,
            SendError::Full => Refusal::Busy,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "no reply came in time; the request may or may not have been carried out",
            Self::LinkLost => {
                "the connection to the service was lost before the reply; \
                 the request may or may not have been carried out"
            }
            Self::Refused(Refusal::Down) => "there is no connection to the service",
            Self::Refused(Refusal::Busy) => "too many requests are in flight",
            Self::Refused(Refusal::Ring) => "the request has come through too many services",
            Self::Refused(Refusal::TooLarge) => "the request is longer than one packet may be",
        })
    }
}

impl std::error::Error for Outcome {}

/// How long a link waits at most for anything: used by callers that have no deadline of their own.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
