//! The calling side: one link to one instance. Many callers send requests over it and wait for their replies.
//!
//! Read these files from top to bottom:
//!
//! 1. [`reply`](super::reply): the reply, or the [`Outcome`] of a request that got none.
//! 2. [`mailbox`](super::mailbox): the place where one caller waits for one reply. [`stream`](super::stream): the place
//!    where a reader waits for many.
//! 3. [`pending`](super::pending): the waiters by key.
//! 4. [`course`](super::course): the differences when the instance is a course service.
//! 5. [`connection`](super::connection): one connection, its pending table, and its end.
//! 6. [`call`](super::call): a sent request, and how it ends.
//! 7. This file. A caller takes the link's connection, registers, sends, and waits. The link's own thread reads the
//!    replies and delivers each one by its key.
//!
//! Every request ends in exactly one of: its reply, [`Outcome::Timeout`], [`Outcome::LinkLost`], or
//! [`Outcome::Refused`], which means that it was never sent.

mod status;

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::call::{Call, PendingEntry};
use super::connection::LinkConnection;
use super::dial::{Dialer, Redial, Session};
use super::health::{Health, HealthRank, Intent};
use super::inbound::Inbound;
use super::mailbox::mailbox;
use super::outbox::Others;
use super::peer::{PacketSummary, wire_len};
use super::pending::{Delivery, NOBODY, Waiter};
use super::secret::Secret;
use super::stream::open_queue;
use crate::context::DEFAULT_TIMEOUT;
use crate::observe::metrics::{CALLS, WIRE};
use crate::packet::frame::FrameError;
use crate::packet::masked::masked;
use crate::packet::{DEFAULT_MAX_FRAME_BYTES, Dialect, Head, Outgoing, Timing};
use crate::sync::{Permit, read, write};

pub use super::reply::{Outcome, Refusal, ReplyFrame};
pub use super::stream::{ReplyStream, StreamEnd};
pub use status::LinkStatus;

/// The limit of streams on one link. Streams may stay open forever, so requests have a separate limit.
const MAX_STREAMS: usize = 4096;

/// If more requests than this are in flight on a link, a caller lets other callers share its write.
const FEW: usize = 1;

/// Limits for every link of a process.
#[derive(Debug, Clone, Copy)]
pub struct LinkLimits {
    /// The longest frame that is sent or accepted, in bytes.
    pub max_frame_bytes: usize,
    /// How many requests may be pending on one link, not counting streams.
    pub max_pending: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self { max_frame_bytes: DEFAULT_MAX_FRAME_BYTES, max_pending: 2048 }
    }
}

/// The state of a link in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It accepts requests.
    Up,
    /// It has no connection and is dialling.
    Down,
    /// Its instance did not answer, so it gets requests only if no other instance exists ([`super::health`]).
    SetAside,
    /// Its instance is shutting down and gets no new requests.
    Leaving,
}

impl LinkState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Up, Self::Down, Self::SetAside, Self::Leaving];

    /// The state as a word.
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

/// Called when a link comes up (`true`) or goes down (`false`).
pub type OnChange = dyn Fn(&str, bool) + Send + Sync;

/// A link to one instance. It reconnects until it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<LinkShared>,
    dialer: Dialer,
}

/// The state that callers and the link's own thread share.
struct LinkShared {
    address: Arc<str>,
    dialect: Dialect,
    limits: LinkLimits,
    /// The list says that the instance is shutting down.
    is_listed_as_leaving: AtomicBool,
    /// The instance itself said so over this connection. No list may contradict it.
    has_said_goodbye: AtomicBool,
    in_flight: AtomicUsize,
    health: Health,
    connection: RwLock<Option<Arc<LinkConnection>>>,
    on_change: Box<OnChange>,
}

impl Link {
    /// Opens a link to `address` and keeps it open. With a secret, the link is up once both ends have proven it.
    ///
    /// # Errors
    /// The operating system cannot start another thread.
    pub fn open(
        address: &str,
        dialect: Dialect,
        limits: LinkLimits,
        secret: Option<&Secret>,
        on_change: Box<OnChange>,
    ) -> io::Result<Self> {
        let shared = Arc::new(LinkShared {
            address: address.into(),
            dialect,
            limits,
            is_listed_as_leaving: AtomicBool::new(false),
            has_said_goodbye: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            health: Health::of(address),
            connection: RwLock::new(None),
            on_change,
        });
        let name = format!("link {address}");
        let dialer = Dialer::start(&name, address.to_owned(), secret, LinkReader(shared.clone()))?;
        Ok(Self { shared, dialer })
    }

    /// The instance at the other end, as `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The same address, shared.
    #[must_use]
    pub fn shared_address(&self) -> Arc<str> {
        self.shared.address.clone()
    }

    /// The dialect that the instance understands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.shared.dialect
    }

    /// The number of requests in flight. `None` if the instance cannot accept another one now.
    #[must_use]
    pub fn load(&self) -> Option<usize> {
        let is_usable = self.is_up() && !self.shared.is_leaving();
        is_usable.then(|| self.shared.in_flight.load(Ordering::Relaxed))
    }

    /// The rank of the instance for such a request, then the number of requests in flight. Callers choose the link with
    /// the lowest value. `None` if it cannot accept another request now.
    #[must_use]
    pub fn rank(&self, intent: Intent) -> Option<(HealthRank, usize)> {
        let load = self.load()?;
        Some((self.shared.health.rank(intent, load), load))
    }

    /// True if the instance was set aside because it did not answer ([`super::health`]).
    #[must_use]
    pub fn is_aside(&self) -> bool {
        self.shared.health.is_aside()
    }

    /// Its state in one word.
    #[must_use]
    pub fn state(&self) -> LinkState {
        if self.shared.is_leaving() {
            LinkState::Leaving
        } else if !self.is_up() {
            LinkState::Down
        } else if self.is_aside() {
            LinkState::SetAside
        } else {
            LinkState::Up
        }
    }

    /// True if it has a connection.
    #[must_use]
    pub fn is_up(&self) -> bool {
        read(&self.shared.connection).is_some()
    }

    /// Sets whether the instance is shutting down. If so, it gets no new requests, and its connection closes once
    /// nothing is pending.
    pub fn set_leaving(&self, is_leaving: bool) {
        self.shared.is_listed_as_leaving.store(is_leaving, Ordering::SeqCst);
        if is_leaving && let Ok(connection) = self.connection() {
            connection.retire();
        }
    }

    /// Ends every stream over this link, here and at its source, because this process is shutting down.
    pub fn end_streams(&self) {
        if let Ok(connection) = self.connection() {
            for (key, uri) in connection.pending.remove_readers() {
                connection.cancel(&uri, key);
            }
        }
    }

    /// Dials at once if the link is down, because the instance is reported to be up.
    pub fn dial_now(&self) {
        if !self.is_up() {
            self.dialer.dial_now();
        }
    }

    /// Sends a request and waits for its reply until `deadline`.
    ///
    /// # Errors
    /// The [`Outcome`] of a request that got no reply.
    pub fn call(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<ReplyFrame, Outcome> {
        self.begin(request, deadline)?.wait()
    }

    /// Sends a request. The returned [`Call`] waits for its reply, until `deadline`.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn begin<'a>(&'a self, request: &Outgoing<'a>, deadline: Instant) -> Result<Call<'a>, Outcome> {
        let connection = self.connection()?;
        let in_flight = Permit::take(&self.shared.in_flight, self.shared.limits.max_pending);
        let in_flight = in_flight.ok_or(Outcome::Refused(Refusal::Busy))?;
        let (sender, reply) = mailbox();
        let key = connection.pending.register(Waiter::Caller(sender), self.max_waiters())?;
        // From here on, dropping the call removes its entry from the pending table.
        let entry = PendingEntry::new(connection.clone(), key);
        let call = Call::new(&self.shared.health, request, reply, entry, deadline, in_flight);
        self.send(&connection, request, key, deadline)?;
        request.explain("src/net/outbox.rs", || "the packet leaves, alone or with others".to_owned());
        Ok(call)
    }

    /// Sends a request whose reply may be a stream. The request carries `deadline` to the other side. The reader
    /// decides how long it waits.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if the request was not sent.
    pub fn open_stream(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<ReplyStream, Outcome> {
        let connection = self.connection()?;
        let (queue, mut stream) = open_queue(self.shared_address());
        let uri = request.uri.to_owned();
        let key = connection.pending.register(Waiter::Reader(queue, uri.clone()), self.max_waiters())?;
        // From here on, dropping the stream removes its reader from the pending table.
        let connection_of_stream = connection.clone();
        stream.set_on_drop(move || connection_of_stream.end_stream(key, &uri));
        self.send(&connection, request, key, deadline)?;
        Ok(stream)
    }

    /// Sends a request that gets no reply.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn notify(&self, request: &Outgoing<'_>) -> Result<(), Outcome> {
        let connection = self.connection()?;
        self.send(&connection, request, NOBODY, Instant::now() + DEFAULT_TIMEOUT)
    }

    fn send(
        &self,
        connection: &LinkConnection,
        request: &Outgoing<'_>,
        key: u64,
        deadline: Instant,
    ) -> Result<(), Outcome> {
        let limit = self.shared.limits.max_frame_bytes;
        if let Some(course) = &connection.course {
            return Ok(course.send(&connection.outbox, request, key, deadline, limit)?);
        }
        let now = Instant::now();
        let timing = Timing {
            deadline_ms: to_millis(deadline.saturating_duration_since(now)),
            sent_ms: to_millis(now.saturating_duration_since(connection.began)),
        };
        let has_others = self.shared.in_flight.load(Ordering::Relaxed) > FEW;
        let others = if has_others { Others::Some } else { Others::None };
        connection.outbox.send_with(others, |queue| {
            let before = queue.len();
            let written = request.write(queue, key, timing);
            let bytes = queue.len() - before;
            if written.is_err() || bytes > limit {
                return Err(Outcome::Refused(Refusal::TooLarge { bytes, limit }));
            }
            // Log before the send. Otherwise the log line of the reply could come first.
            let (address, Outgoing { method, uri, .. }) = (self.address(), request);
            log::debug!(
                "{address} ← request {method} {uri}, key {key}, {bytes} bytes: {}",
                masked(&queue[before..])
            );
            if let Some(explanation) = request.explanation {
                explanation.add_sent(
                    file!(),
                    address,
                    format!("the request gets key {key}"),
                    &queue[before..],
                );
            }
            Ok(())
        })
    }

    fn max_waiters(&self) -> usize {
        self.shared.limits.max_pending.saturating_add(MAX_STREAMS)
    }

    fn connection(&self) -> Result<Arc<LinkConnection>, Outcome> {
        read(&self.shared.connection).clone().ok_or(Outcome::Refused(Refusal::Down))
    }
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The link's own thread: it reads replies until the connection ends.
struct LinkReader(Arc<LinkShared>);

impl Session for LinkReader {
    fn run(&mut self, stream: Arc<TcpStream>) -> Redial {
        let shared = &self.0;
        let connection = LinkConnection::open(stream.clone(), &shared.address, shared.dialect);
        shared.has_said_goodbye.store(false, Ordering::SeqCst);
        *write(&shared.connection) = Some(connection.clone());
        (shared.on_change)(&shared.address, true);
        let ended = shared.read_replies(stream, &connection);
        *write(&shared.connection) = None;
        let had_callers = connection.pending.close();
        connection.outbox.close();
        if had_callers {
            shared.health.count_failure();
        }
        match ended {
            Ok(()) => log::debug!("link {}: closed", shared.address),
            Err(FrameError::Io(error)) => log::info!("link {}: lost ({error})", shared.address),
            Err(error) => {
                WIRE.rejected(error.reason());
                log::warn!("link {}: closed: {error}", shared.address);
            }
        }
        let dials_now = connection.was_up() && !shared.is_leaving();
        (shared.on_change)(&shared.address, false);
        if dials_now { Redial::Now } else { Redial::Later }
    }
}

impl LinkShared {
    fn is_leaving(&self) -> bool {
        self.is_listed_as_leaving.load(Ordering::SeqCst) || self.has_said_goodbye.load(Ordering::SeqCst)
    }

    fn read_replies(&self, stream: Arc<TcpStream>, connection: &LinkConnection) -> Result<(), FrameError> {
        let mut inbound = Inbound::new(stream, self.limits.max_frame_bytes, self.dialect);
        while let Some(frame) = inbound.next_frame()? {
            if let Some(course) = &connection.course
                && frame == "null"
            {
                let (key, reply) = course.read_null();
                self.deliver(connection, key, reply, None);
                continue;
            }
            let head = Head::parse(frame)
                .map_err(|error| FrameError::not_an_object(frame, self.limits.max_frame_bytes, &error))?;
            log::debug!(
                "{} → {}, {} bytes: {}",
                self.address,
                PacketSummary(&head),
                wire_len(frame),
                masked(frame)
            );
            if head.is_registration() {
                log::info!("link {}: the instance is about to end", self.address);
                self.has_said_goodbye.store(true, Ordering::SeqCst);
                connection.retire();
                continue;
            }
            let (key, reply) = match &connection.course {
                Some(course) => course.read_reply(frame, &head),
                None => (head.number().unwrap_or(NOBODY), ReplyFrame::of(&head, frame)),
            };
            self.deliver(connection, key, reply, head.key);
        }
        Ok(())
    }

    /// Delivers a reply to the waiter under this key. `named` is the key in the reply.
    fn deliver(&self, connection: &LinkConnection, key: u64, reply: ReplyFrame, named: Option<&RawValue>) {
        match connection.pending.deliver(key, reply) {
            Delivery::Delivered => connection.set_used(),
            Delivery::Orphan => {
                CALLS.orphans.inc();
                let named = named.map_or("none", RawValue::get);
                log::debug!("{} → orphan reply, key {named:.40}: it has no waiter", self.address);
            }
            Delivery::Lagging(uri) => {
                let address = &self.address;
                log::info!("{address}: stream {uri} with key {key} ended: its reader does not keep up");
                connection.cancel(&uri, key);
            }
        }
        if let Some(course) = &connection.course {
            course.answered(key, &connection.outbox);
        }
    }
}

impl fmt::Debug for LinkShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkShared").field("address", &self.address).finish_non_exhaustive()
    }
}
