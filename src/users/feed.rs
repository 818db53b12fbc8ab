//! The change feed: sends every change of a user, numbered and in order, to all subscribers.
//!
//! A write adds its change in its own transaction. One thread, `feed`, waits for the notification of a commit, reads
//! the new changes, and sends each to all subscribers. A subscriber with an old number first gets a replay
//! ([`super::replay`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::access::{Actor, Credential};
use super::database::Database;
use super::notify::CommitListener;
use super::operations::AddListener;
use super::replay::{CHANGES_PER_READ, Replays};
use super::store::{Engine, StoreError, UserReader, View};
use super::subscribers::{FeedState, MAX_PAUSE, SeqWaiter, Subscriber, Subscribers, check_kept};
use super::values::Change;
use crate::observe::metrics::{self, Gauge};
use crate::packet::{Failure, Reply};
use crate::pool::no_thread;
use crate::service::{Responder, SharedReply};

/// How many readers may wait for a later change (`at_least`).
const MAX_WAITERS: usize = 1024;

/// How long to wait before the next attempt when the database cannot be read.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The feed of one process.
pub struct Feed<E> {
    database: Arc<Database<E>>,
    subscribers: Arc<Subscribers>,
    replays: Arc<Replays<E>>,
    /// The number of the last change that was sent. The metrics read it without the lock.
    sent: AtomicU64,
}

impl<E: Engine> Feed<E> {
    /// Starts the feed of this database.
    pub fn start(database: Arc<Database<E>>) -> Result<Arc<Self>, String> {
        let no_port = |error: io::Error| format!("no loopback port for the change feed: {error}");
        let listener = CommitListener::open().map_err(no_port)?;
        let port = listener.port().map_err(no_port)?;
        let failed = |error: StoreError| database.explain(&error);
        database.write_now(AddListener { port }).map_err(failed)?;
        // Every later commit notifies this process. Earlier changes are read here.
        let last = database.reader(View::Newest).and_then(|reader| reader.last_seq()).map_err(failed)?;
        let subscribers = Arc::new(Subscribers::new(last, listener.waker().map_err(no_port)?));
        let replays = Replays::start(database.clone(), subscribers.clone())?;
        let feed = Arc::new(Self { database, subscribers, replays, sent: AtomicU64::new(last) });
        feed.show_metrics();
        feed.start_thread(listener)?;
        Ok(feed)
    }

    /// Starts the sending thread. It ends when the feed is dropped.
    fn start_thread(self: &Arc<Self>, listener: CommitListener) -> Result<(), String> {
        let feed = Arc::downgrade(self);
        let run = move || {
            let mut pause = MAX_PAUSE;
            loop {
                // `SO_RCVTIMEO` is imprecise for long waits, so we wait again for what remains.
                listener.wait(pause.mul_f64(0.75));
                let Some(feed) = feed.upgrade() else { return };
                pause = feed.send_new();
            }
        };
        thread::Builder::new().name("feed".to_owned()).spawn(run).map(drop).map_err(no_thread)
    }

    /// Shows how far the feed is behind, and how many writes wait for the writer thread.
    fn show_metrics(self: &Arc<Self>) {
        let feed = Arc::downgrade(self);
        metrics::watch(Gauge::FeedLag, move || {
            let feed = feed.upgrade()?;
            let sent = feed.sent.load(Ordering::Relaxed);
            let last = feed.database.idle_reader().and_then(|reader| reader.last_seq().ok()).unwrap_or(sent);
            Some(usize::try_from(last.saturating_sub(sent)).unwrap_or(usize::MAX))
        });
        let feed = Arc::downgrade(self);
        metrics::watch(Gauge::WritesWaiting, move || Some(feed.upgrade()?.database.waiting_writes()));
    }

    /// Answers with a stream of all changes after `after`, and then of every new change. Without `after` it sends only
    /// new changes. The credential determines what the client sees.
    pub fn stream(&self, after: Option<u64>, credential: Credential, responder: Responder) {
        let stream = match responder.into_stream() {
            Ok(stream) => stream,
            Err(responder) => {
                let busy = Failure::new(503, "too many streams are open; try again in a moment");
                return responder.answer(&Err(busy));
            }
        };
        let newcomer = {
            let mut state = self.subscribers.lock();
            let after = after.unwrap_or(state.last);
            let newcomer = Subscriber { stream, after, credential, actor: Actor::Stranger };
            if after >= state.last {
                return self.join(&mut state, newcomer);
            }
            newcomer
        };
        self.replays.submit(newcomer, Instant::now());
    }

    /// Adds a subscriber that has everything up to its `after`. It receives an empty reply immediately, since the next
    /// change may be far away.
    fn join(&self, state: &mut FeedState, mut newcomer: Subscriber) {
        // Under the lock: the next commit notices a token that ends after this point.
        let actor = match newcomer.credential.without_token() {
            Some(actor) => Ok(actor),
            None => self.database.reader(View::Newest).and_then(|reader| newcomer.credential.actor(&reader)),
        };
        match actor {
            Ok(actor) => newcomer.actor = actor,
            Err(error) => return newcomer.stream.end(&error.into()),
        }
        let first = Reply::empty().with("seq", newcomer.after).and_then(SharedReply::new);
        if first.is_ok_and(|first| newcomer.stream.send(&first)) {
            self.subscribers.add(state, newcomer);
        }
    }

    /// Calls `resume` after change `seq` has happened, or with a failure at the `deadline`.
    pub fn wait_for(
        &self,
        seq: u64,
        deadline: Instant,
        resume: impl FnOnce(Result<(), Failure>) + Send + 'static,
    ) {
        let mut state = self.subscribers.lock();
        let outcome = if state.last >= seq {
            Ok(())
        } else if state.waiters.len() < MAX_WAITERS {
            state.waiters.push(SeqWaiter { seq, deadline, resume: Box::new(resume) });
            drop(state);
            return self.subscribers.wake_feed();
        } else {
            Err(Failure::new(503, "too many readers wait here; try again in a moment"))
        };
        drop(state);
        resume(outcome);
    }

    /// A page of changes for clients without a stream.
    ///
    /// # Errors
    /// 410 if the changes after `after` were deleted, and the errors of the database.
    pub fn page(&self, after: u64, limit: usize, credential: Credential) -> Result<Reply, Failure> {
        let snapshot = self.database.reader(View::Snapshot)?;
        let actor = credential.actor(&snapshot)?;
        let changes = snapshot.changes_after(after, limit)?;
        let (oldest, last) = (snapshot.oldest_seq()?, snapshot.last_seq()?);
        drop(snapshot);
        check_kept(after, oldest)?;
        let next = changes.last().map(|change| change.seq).filter(|seq| *seq < last);
        let changes = changes.into_iter().map(|change| change.view_for(&actor));
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        Reply::ok(changes)?.with("next", next)?.with("seq", last)
    }

    /// Sends the new changes and resumes the readers that waited for them. Returns how long the thread may sleep.
    fn send_new(&self) -> Duration {
        let mut state = self.subscribers.lock();
        loop {
            let changes = match self.read_new(&mut state) {
                Ok(changes) => changes,
                Err(error) => {
                    let level = if state.is_in_trouble { log::Level::Debug } else { log::Level::Warn };
                    log::log!(level, "the change feed cannot read: {error}; retrying");
                    state.is_in_trouble = true;
                    return RETRY_PAUSE;
                }
            };
            state.is_in_trouble = false;
            for change in &changes {
                state.broadcast(change);
            }
            self.sent.store(state.last, Ordering::Relaxed);
            if changes.len() < CHANGES_PER_READ {
                break;
            }
        }
        let (ready, pause) = state.take_ready(Instant::now());
        let pause = pause.min(state.time_to_expiry());
        drop(state);
        for (waiter, outcome) in ready {
            (waiter.resume)(outcome);
        }
        pause
    }

    /// The next changes to send. Without subscribers they are only counted. The tokens are checked after the changes
    /// have been read. So no change is sent for a token that ended before it.
    fn read_new(&self, state: &mut FeedState) -> Result<Vec<Change>, StoreError> {
        let reader = self.database.reader(View::Newest)?;
        if state.subscribers.is_empty() {
            state.last = reader.last_seq()?;
            return Ok(Vec::new());
        }
        let changes = reader.changes_after(state.last, CHANGES_PER_READ)?;
        if state.has_tokens() {
            state.check_tokens(&reader)?;
        }
        Ok(changes)
    }
}
