//! The change feed: every change of a user, numbered, in order, to everybody who follows.
//!
//! Changes are rows, written in the transaction of the write itself ([`super::model`]). One thread waits for the
//! news of a commit ([`super::bell`]), reads the rows that are new, and sends each to all subscribers. Who comes
//! with an older number first gets the rows between, on a thread of a small pool, and then joins under the lock
//! that every broadcast holds: so nothing is missed at the seam and nothing comes twice.

use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;

use super::bell::{self, Ear};
use super::model;
use super::store::{Store, StoreError};
use crate::metrics::{self, Gauge};
use crate::packet::{Failure, Reply};
use crate::pool::{Admission, Pool, no_thread};
use crate::service::{Responder, SharedReply, StreamSender};
use crate::sync::lock;

/// How many changes are read from the database at a time.
const PAGE: usize = 200;

/// How many subscribers are brought up to date at a time, and how many may wait for it.
const REPLAYS: usize = 2;
const REPLAYS_WAITING: usize = 1024;

/// How long a subscriber may take to read a page of what is replayed to it.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a thread that brings subscribers up to date waits for one of them before it turns to the next.
const REPLAY_TURN: Duration = Duration::from_millis(10);

/// How many readers may wait for a state that is not there yet (`at_least`).
const MAX_WAITERS: usize = 1024;

/// How long the feed sleeps when nothing happens. Only a lost datagram would make it miss news for so long.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// One change, as it is stored and as it is sent.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// From 1 up, without gaps, in the order of commits.
    pub seq: u64,
    /// `created`, `updated` or `deleted`.
    pub kind: String,
    /// Whom it concerns.
    pub user_id: i64,
    /// The user as this change made it; nothing if it deleted it.
    pub user: Option<Box<RawValue>>,
    /// When: RFC 3339, UTC.
    pub at: String,
}

/// The feed of one process.
pub struct Feed {
    store: Arc<Store>,
    state: Mutex<State>,
    /// `last` as the metrics see it, without waiting for the lock.
    sent: AtomicU64,
    replays: Pool,
    /// Wakes the feed's own thread.
    bell: UdpSocket,
}

struct State {
    /// The number of the last change that was sent.
    last: u64,
    subscribers: Vec<Subscriber>,
    waiters: Vec<Waiter>,
    /// The last look into the database failed: that is said once, not ten times a second.
    in_trouble: bool,
}

struct Subscriber {
    stream: StreamSender,
    /// The number of the last change that it has.
    after: u64,
}

/// A waiter whose waiting is over, and how.
type Ready = (Waiter, Result<(), Failure>);

/// Somebody who reads only a state in which this change has happened.
struct Waiter {
    seq: u64,
    deadline: Instant,
    go_on: Box<dyn FnOnce(Result<(), Failure>) + Send>,
}

impl Feed {
    /// Starts the feed of this database.
    ///
    /// # Errors
    /// A sentence that says why it cannot start.
    pub fn start(store: Arc<Store>) -> Result<Arc<Self>, String> {
        let no_port = |error: io::Error| format!("no loopback port for the change feed: {error}");
        let ear = Ear::open().map_err(no_port)?;
        let port = ear.port().map_err(no_port)?;
        let failed = |error: StoreError| store.explain(&error);
        store.write_now(move |db| bell::hang(db, port)).map_err(failed)?;
        // From here on every commit rings; what came before is known from the table.
        let last = store.read(model::last_seq).map_err(failed)?;
        let state = State { last, subscribers: Vec::new(), waiters: Vec::new(), in_trouble: false };
        let replays = Pool::start("replay", REPLAYS, REPLAYS_WAITING)?;
        let bell = ear.bell().map_err(no_port)?;
        let sent = AtomicU64::new(last);
        let feed = Arc::new(Self { store, state: Mutex::new(state), sent, replays, bell });
        feed.show();
        let followed = Arc::downgrade(&feed);
        thread::Builder::new()
            .name("feed".to_owned())
            .spawn(move || {
                let mut pause = LOOK_AGAIN;
                loop {
                    // Sockets keep long times badly: the wait ends early and is taken up again, ever finer.
                    ear.wait(pause.mul_f64(0.75));
                    let Some(feed) = followed.upgrade() else { return };
                    pause = feed.catch_up();
                }
            })
            .map_err(no_thread)?;
        Ok(feed)
    }

    /// Has the metrics tell how far behind the feed is, and how many writes wait for the store.
    fn show(self: &Arc<Self>) {
        let feed = Arc::downgrade(self);
        metrics::watch(Gauge::FeedLag, move || {
            let feed = feed.upgrade()?;
            let sent = feed.sent.load(Ordering::Relaxed);
            let last = feed.store.read_if_idle(model::last_seq).unwrap_or(sent);
            Some(usize::try_from(last.saturating_sub(sent)).unwrap_or(usize::MAX))
        });
        let feed = Arc::downgrade(self);
        metrics::watch(Gauge::WritesWaiting, move || Some(feed.upgrade()?.store.writes_waiting()));
    }

    /// Answers with a stream of all changes after `after`, then every new one; without `after` only new ones.
    pub fn stream(self: &Arc<Self>, after: Option<u64>, responder: Responder) {
        let stream = match responder.into_stream() {
            Ok(stream) => stream,
            Err(responder) => {
                let busy = Failure::new(503, "too many streams are open; try again in a moment");
                return responder.answer(&Err(busy));
            }
        };
        let after = {
            let mut state = lock(&self.state);
            match after {
                Some(after) if after < state.last => after,
                _ => {
                    let after = after.unwrap_or(state.last);
                    return state.join(stream, after);
                }
            }
        };
        self.replay_soon(stream, after, Instant::now());
    }

    fn replay_soon(self: &Arc<Self>, stream: StreamSender, after: u64, since: Instant) {
        let feed = self.clone();
        self.replays.submit(move |admission| match admission {
            Admission::Admitted => feed.replay(stream, after, since),
            Admission::Refused => {
                stream.end(&Failure::new(503, "too many streams are being replayed; try again in a moment"));
            }
        });
    }

    /// Calls `go_on` once change `seq` has happened, with a failure if it has not by `deadline`.
    pub fn wait_for(
        &self,
        seq: u64,
        deadline: Instant,
        go_on: impl FnOnce(Result<(), Failure>) + Send + 'static,
    ) {
        let refused = {
            let mut state = lock(&self.state);
            if state.last < seq && state.waiters.len() < MAX_WAITERS {
                state.waiters.push(Waiter { seq, deadline, go_on: Box::new(go_on) });
                None
            } else {
                Some((state.last >= seq, go_on))
            }
        };
        match refused {
            // The feed may be asleep for longer than this reader waits.
            None => drop(self.bell.send(b"!")),
            Some((true, go_on)) => go_on(Ok(())),
            Some((false, go_on)) => {
                go_on(Err(Failure::new(503, "too many readers wait here; try again in a moment")));
            }
        }
    }

    /// A page of changes for those who do not stream.
    ///
    /// # Errors
    /// 410 if what comes after `after` is gone, and those of the database.
    pub fn page(&self, after: u64, limit: usize) -> Result<Reply, Failure> {
        let (changes, oldest, last) = self.store.read(|db| {
            let snapshot = db.unchecked_transaction()?;
            Ok((
                model::changes(&snapshot, after, limit)?,
                model::oldest_seq(&snapshot)?,
                model::last_seq(&snapshot)?,
            ))
        })?;
        still_there(after, oldest)?;
        let next = changes.last().map(|change| change.seq).filter(|seq| *seq < last);
        Reply::ok(changes)?.with("next", next)?.with("seq", last)
    }

    /// Sends what is new. How long nothing else is to be done.
    fn catch_up(&self) -> Duration {
        let mut state = lock(&self.state);
        loop {
            let changes = match self.store.read(|db| model::changes(db, state.last, PAGE)) {
                Ok(changes) => changes,
                Err(error) => {
                    let level = if state.in_trouble { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "the change feed cannot read: {error}; trying on");
                    state.in_trouble = true;
                    return Duration::from_millis(100);
                }
            };
            state.in_trouble = false;
            for change in &changes {
                state.broadcast(change);
            }
            self.sent.store(state.last, Ordering::Relaxed);
            if changes.len() < PAGE {
                break;
            }
        }
        let (ready, pause) = state.take_waiters(Instant::now());
        drop(state);
        for (waiter, outcome) in ready {
            (waiter.go_on)(outcome);
        }
        pause
    }

    /// Sends an old subscriber what it has missed, then lets it join. `since` is when it last read something.
    fn replay(self: &Arc<Self>, stream: StreamSender, mut after: u64, mut since: Instant) {
        while stream.is_open() {
            if !stream.await_room(REPLAY_TURN) {
                if since.elapsed() < REPLAY_TIMEOUT {
                    return self.replay_soon(stream, after, since); // behind those who wait meanwhile
                }
                let slow = "you do not keep up with this stream; ask for what comes after the last";
                return stream.end(&Failure::new(503, slow));
            }
            since = Instant::now();
            let page = match self.next_page(after) {
                Ok(page) => page,
                Err(failure) => return stream.end(&failure),
            };
            if !send_all(&stream, &page, &mut after) {
                return;
            }
            if page.len() == PAGE {
                continue;
            }
            // Nearly there: the rest is read while no broadcast can come between.
            let mut state = lock(&self.state);
            let rest = match self.next_page(after) {
                Ok(rest) if rest.len() < PAGE => rest,
                Ok(_) => continue,
                Err(failure) => {
                    drop(state);
                    return stream.end(&failure);
                }
            };
            if send_all(&stream, &rest, &mut after) {
                state.subscribers.push(Subscriber { stream, after });
            }
            return;
        }
    }

    fn next_page(&self, after: u64) -> Result<Vec<Change>, Failure> {
        let (changes, oldest) = self.store.read(|db| {
            let snapshot = db.unchecked_transaction()?;
            Ok((model::changes(&snapshot, after, PAGE)?, model::oldest_seq(&snapshot)?))
        })?;
        still_there(after, oldest)?;
        Ok(changes)
    }
}

impl State {
    /// Takes a subscriber in that has everything up to `after`. It is told so at once, since news may be long in
    /// coming.
    fn join(&mut self, stream: StreamSender, after: u64) {
        self.subscribers.retain(|subscriber| subscriber.stream.is_open());
        let standing = Reply::empty().with("seq", after).and_then(SharedReply::new);
        if standing.is_ok_and(|standing| stream.send(&standing)) {
            self.subscribers.push(Subscriber { stream, after });
        }
    }

    fn broadcast(&mut self, change: &Change) {
        self.last = change.seq;
        let Ok(reply) = reply_of(change) else { return };
        self.subscribers.retain_mut(|subscriber| {
            if change.seq <= subscriber.after {
                return true;
            }
            // More was written at once than is kept: what is missing is gone, and that must be said.
            if let Err(gone) = still_there(subscriber.after, Some(change.seq)) {
                subscriber.stream.end(&gone);
                return false;
            }
            subscriber.after = change.seq;
            subscriber.stream.send(&reply)
        });
    }

    /// Those who need not, or cannot, wait any longer, and how long the others can.
    fn take_waiters(&mut self, now: Instant) -> (Vec<Ready>, Duration) {
        let (mut ready, mut pause) = (Vec::new(), LOOK_AGAIN);
        let last = self.last;
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.seq <= last {
                ready.push((waiter, Ok(())));
            } else if waiter.deadline <= now {
                let message = format!("change {} has not happened yet; the last is {last}", waiter.seq);
                ready.push((waiter, Err(Failure::new(503, message))));
            } else {
                pause = pause.min(waiter.deadline - now);
                self.waiters.push(waiter);
            }
        }
        (ready, pause)
    }
}

fn reply_of(change: &Change) -> Result<SharedReply, Failure> {
    SharedReply::new(Reply::ok(change)?.with("seq", change.seq)?)
}

fn send_all(stream: &StreamSender, changes: &[Change], after: &mut u64) -> bool {
    changes.iter().all(|change| {
        *after = change.seq;
        reply_of(change).is_ok_and(|reply| stream.send(&reply))
    })
}

/// Changes are kept for a while only. Whoever asks for what is gone must read everything anew.
fn still_there(after: u64, oldest: Option<u64>) -> Result<(), Failure> {
    match oldest {
        Some(oldest) if after + 1 < oldest => Err(Failure::new(
            410,
            format!("changes up to {} are gone; the oldest is {oldest}: read the users anew", oldest - 1),
        )
        .with("oldest", oldest)),
        _ => Ok(()),
    }
}
