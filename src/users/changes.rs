//! The change feed: every change of a user, numbered, in order, to everybody who follows.
//!
//! Changes are rows, written in the transaction of the write itself ([`super::model`]). One thread waits for the
//! news of a commit ([`super::bell`]), reads the rows that are new, and sends each to all subscribers. Who comes
//! with an older number first gets the rows between, on a thread of a small pool, and then joins under the lock
//! that every broadcast holds: so nothing is missed at the seam and nothing comes twice.
//!
//! In a secured cluster a change is sent in two views, each written once: with the user's e-mail address to the user
//! itself and to admins, without it to all others. A stream that began with a token ends when the token does: nothing
//! is sent on it that was committed after that.

use std::cell::OnceCell;
use std::io;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::access::{Asker, Claim, unknown_token};
use super::bell::{self, Ear};
use super::model::{self, User};
use super::store::{Store, StoreError};
use crate::observe::metrics::{self, Gauge};
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
    /// What [`model::rights`] was when the subscribers' tokens were last looked at.
    rights: u64,
}

struct Subscriber {
    stream: StreamSender,
    /// The number of the last change that it has.
    after: u64,
    claim: Claim,
    /// Who that was when it was last looked at.
    asker: Asker,
}

/// A change as it is sent: each view is written when it is first needed, and once.
struct Told<'a> {
    change: &'a Change,
    whole: OnceCell<Option<SharedReply>>,
    without_email: OnceCell<Option<SharedReply>>,
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
        let (subscribers, waiters) = (Vec::new(), Vec::new());
        let state = State { last, subscribers, waiters, in_trouble: false, rights: 0 };
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

    /// Answers with a stream of all changes after `after`, then every new one; without `after` only new ones. What
    /// is shown depends on whose `claim` it is.
    pub fn stream(self: &Arc<Self>, after: Option<u64>, claim: Claim, responder: Responder) {
        let stream = match responder.into_stream() {
            Ok(stream) => stream,
            Err(responder) => {
                let busy = Failure::new(503, "too many streams are open; try again in a moment");
                return responder.answer(&Err(busy));
            }
        };
        let newcomer = {
            let mut state = lock(&self.state);
            let begins = after.unwrap_or(state.last);
            let newcomer = Subscriber { stream, after: begins, claim, asker: Asker::Stranger };
            if begins >= state.last {
                return self.join(&mut state, newcomer);
            }
            newcomer
        };
        self.replay_soon(newcomer, Instant::now());
    }

    /// Takes a subscriber in that has everything up to its `after`. It is told so at once, since news may be long in
    /// coming.
    fn join(&self, state: &mut State, mut newcomer: Subscriber) {
        // Under the lock: a token that ends from here on is noticed with the next commit.
        let who = match newcomer.claim.without_token() {
            Some(asker) => Ok(asker),
            None => self.store.read(|db| newcomer.claim.asker(db)),
        };
        match who {
            Ok(asker) => newcomer.asker = asker,
            Err(error) => return newcomer.stream.end(&error.into()),
        }
        let standing = Reply::empty().with("seq", newcomer.after).and_then(SharedReply::new);
        if standing.is_ok_and(|standing| newcomer.stream.send(&standing)) {
            self.take_in(state, newcomer);
        }
    }

    fn take_in(&self, state: &mut State, newcomer: Subscriber) {
        state.subscribers.retain(|subscriber| subscriber.stream.is_open());
        if newcomer.asker.until().is_some() {
            // The feed may be asleep for longer than the token lives.
            drop(self.bell.send(b"!"));
        }
        state.subscribers.push(newcomer);
    }

    fn replay_soon(self: &Arc<Self>, newcomer: Subscriber, since: Instant) {
        let feed = self.clone();
        self.replays.submit(move |admission| match admission {
            Admission::Admitted => feed.replay(newcomer, since),
            Admission::Refused => {
                let busy = Failure::new(503, "too many streams are being replayed; try again in a moment");
                newcomer.stream.end(&busy);
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
    pub fn page(&self, after: u64, limit: usize, claim: Claim) -> Result<Reply, Failure> {
        let (asker, changes, oldest, last) = self.store.read(|db| {
            let snapshot = db.unchecked_transaction()?;
            Ok((
                claim.asker(&snapshot)?,
                model::changes(&snapshot, after, limit)?,
                model::oldest_seq(&snapshot)?,
                model::last_seq(&snapshot)?,
            ))
        })?;
        still_there(after, oldest)?;
        let next = changes.last().map(|change| change.seq).filter(|seq| *seq < last);
        let changes = changes.into_iter().map(|change| change.shown_to(&asker));
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        Reply::ok(changes)?.with("next", next)?.with("seq", last)
    }

    /// Sends what is new. How long nothing else is to be done.
    fn catch_up(&self) -> Duration {
        let mut state = lock(&self.state);
        loop {
            let changes = match self.news(&mut state) {
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
        let pause = pause.min(state.shortest_token());
        drop(state);
        for (waiter, outcome) in ready {
            (waiter.go_on)(outcome);
        }
        pause
    }

    /// The next changes to be sent; where there is nobody to send them to, they are only counted. First they are read
    /// and then the subscribers' tokens are looked at: so no change goes to a token that had ended before it.
    fn news(&self, state: &mut State) -> Result<Vec<Change>, StoreError> {
        if state.subscribers.is_empty() {
            state.last = self.store.read(model::last_seq)?;
            return Ok(Vec::new());
        }
        let has_tokens = state.subscribers.iter().any(|one| one.asker.until().is_some());
        self.store.read(|db| {
            let changes = model::changes(db, state.last, PAGE)?;
            if has_tokens {
                state.end_expired(Instant::now());
                let rights = model::rights(db)?;
                if rights != state.rights {
                    state.look_again(db)?;
                    state.rights = rights;
                }
            }
            Ok(changes)
        })
    }

    /// Sends an old subscriber what it has missed, then lets it join. `since` is when it last read something.
    fn replay(self: &Arc<Self>, mut newcomer: Subscriber, mut since: Instant) {
        while newcomer.stream.is_open() {
            if !newcomer.stream.await_room(REPLAY_TURN) {
                if since.elapsed() < REPLAY_TIMEOUT {
                    return self.replay_soon(newcomer, since); // behind those who wait meanwhile
                }
                let slow = "you do not keep up with this stream; ask for what comes after the last";
                return newcomer.stream.end(&Failure::new(503, slow));
            }
            since = Instant::now();
            let page = match self.next_page(&mut newcomer) {
                Ok(page) => page,
                Err(failure) => return newcomer.stream.end(&failure),
            };
            if !newcomer.send_all(&page) {
                return;
            }
            if page.len() == PAGE {
                continue;
            }
            // Nearly there: the rest is read while no broadcast can come between.
            let mut state = lock(&self.state);
            let rest = match self.next_page(&mut newcomer) {
                Ok(rest) if rest.len() < PAGE => rest,
                Ok(_) => continue,
                Err(failure) => {
                    drop(state);
                    return newcomer.stream.end(&failure);
                }
            };
            if newcomer.send_all(&rest) {
                self.take_in(&mut state, newcomer);
            }
            return;
        }
    }

    /// What is to be sent to a newcomer next, and who that is by then.
    fn next_page(&self, newcomer: &mut Subscriber) -> Result<Vec<Change>, Failure> {
        let after = newcomer.after;
        let (asker, changes, oldest) = self.store.read(|db| {
            let snapshot = db.unchecked_transaction()?;
            Ok((
                newcomer.claim.asker(&snapshot)?,
                model::changes(&snapshot, after, PAGE)?,
                model::oldest_seq(&snapshot)?,
            ))
        })?;
        newcomer.asker = asker;
        still_there(after, oldest)?;
        Ok(changes)
    }
}

impl Subscriber {
    fn send_all(&mut self, changes: &[Change]) -> bool {
        changes.iter().all(|change| {
            self.after = change.seq;
            Told::new(change).to(&self.asker).is_some_and(|reply| self.stream.send(reply))
        })
    }
}

impl Change {
    /// The change as this asker may see it.
    fn shown_to(self, asker: &Asker) -> Result<Self, Failure> {
        if asker.owns(self.user_id) { Ok(self) } else { self.without_email() }
    }

    fn without_email(mut self) -> Result<Self, Failure> {
        if let Some(json) = &self.user {
            let unreadable = |error| Failure::new(500, format!("a stored change cannot be read: {error}"));
            let user: User = serde_json::from_str(json.get()).map_err(unreadable)?;
            self.user = Some(to_raw_value(&user.shown_to(&Asker::Stranger)).map_err(unreadable)?);
        }
        Ok(self)
    }
}

impl<'a> Told<'a> {
    fn new(change: &'a Change) -> Self {
        Self { change, whole: OnceCell::new(), without_email: OnceCell::new() }
    }

    /// As it is sent to this asker.
    fn to(&self, asker: &Asker) -> Option<&SharedReply> {
        let written = if asker.owns(self.change.user_id) {
            self.whole.get_or_init(|| reply_of(self.change).ok())
        } else {
            self.without_email.get_or_init(|| reply_of(&self.change.clone().without_email().ok()?).ok())
        };
        written.as_ref()
    }
}

impl State {
    fn broadcast(&mut self, change: &Change) {
        self.last = change.seq;
        let told = Told::new(change);
        self.subscribers.retain_mut(|subscriber| {
            if change.seq <= subscriber.after {
                return true;
            }
            // More was written at once than is kept: what is missing is gone, and that must be said.
            if let Err(gone) = still_there(subscriber.after, Some(change.seq)) {
                subscriber.stream.end(&gone);
                return false;
            }
            let Some(reply) = told.to(&subscriber.asker) else { return true };
            subscriber.after = change.seq;
            subscriber.stream.send(reply)
        });
    }

    fn end_expired(&mut self, now: Instant) {
        self.subscribers.retain(|subscriber| {
            let lives = subscriber.asker.until().is_none_or(|until| now < until);
            if !lives {
                subscriber.stream.end(&unknown_token());
            }
            lives
        });
    }

    /// Ends the streams whose token has ended, and finds out who has become an admin.
    fn look_again(&mut self, db: &Connection) -> Result<(), StoreError> {
        let mut failed = Ok(());
        self.subscribers.retain_mut(|subscriber| match subscriber.claim.asker(db) {
            Ok(asker) => {
                subscriber.asker = asker;
                true
            }
            Err(StoreError::Refused(failure)) => {
                subscriber.stream.end(&failure);
                false
            }
            Err(error) => {
                failed = Err(error);
                true
            }
        });
        failed
    }

    /// How long until the first token of a subscriber expires.
    fn shortest_token(&self) -> Duration {
        let now = Instant::now();
        let left = |until: Instant| until.saturating_duration_since(now);
        let tokens = self.subscribers.iter().filter_map(|subscriber| subscriber.asker.until());
        // A moment longer, so that it has expired when it is looked at.
        tokens.map(left).min().map_or(LOOK_AGAIN, |left| left + Duration::from_millis(1))
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
