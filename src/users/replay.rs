//! Replay: a subscriber with an old number first receives the changes that it missed, on a thread of a small pool.
//!
//! It then joins the other subscribers under the lock that every broadcast holds. So it receives each change exactly
//! once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::database::Database;
use super::store::{Engine, UserReader, View};
use super::subscribers::{Subscriber, Subscribers, check_kept};
use super::values::Change;
use super::workers::WorkerPool;
use crate::packet::Failure;

/// How many changes one read takes from the database.
pub const CHANGES_PER_READ: usize = 200;

/// How many subscribers are replayed at the same time, and how many may wait.
const REPLAYS: usize = 2;
const REPLAYS_WAITING: usize = 1024;

/// How long a subscriber may take to read one page of its replay.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a replay thread waits for one subscriber before it serves the next.
const REPLAY_TURN: Duration = Duration::from_millis(10);

/// The threads that replay.
pub struct Replays<E> {
    database: Arc<Database<E>>,
    subscribers: Arc<Subscribers>,
    pool: WorkerPool,
}

impl<E: Engine> Replays<E> {
    /// Starts the threads.
    ///
    /// # Errors
    /// A sentence, if the operating system starts no further thread.
    pub fn start(database: Arc<Database<E>>, subscribers: Arc<Subscribers>) -> Result<Arc<Self>, String> {
        let busy = "too many streams are being replayed; try again in a moment";
        let pool = WorkerPool::start("replay", REPLAYS, REPLAYS_WAITING, busy)?;
        Ok(Arc::new(Self { database, subscribers, pool }))
    }

    /// Queues a replay. `since` is when the subscriber last read something.
    pub fn submit(self: &Arc<Self>, newcomer: Subscriber, since: Instant) {
        let replays = self.clone();
        self.pool.submit(move |admitted| match admitted {
            Ok(()) => replays.replay(newcomer, since),
            Err(busy) => newcomer.stream.end(&busy),
        });
    }

    /// Sends a subscriber the changes that it missed, then adds it to the others.
    fn replay(self: &Arc<Self>, mut newcomer: Subscriber, mut since: Instant) {
        while newcomer.stream.is_open() {
            if !newcomer.stream.await_room(REPLAY_TURN) {
                if since.elapsed() < REPLAY_TIMEOUT {
                    return self.submit(newcomer, since); // behind those that wait meanwhile
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
            if page.len() == CHANGES_PER_READ {
                continue;
            }
            match self.join(newcomer) {
                Some(behind) => newcomer = behind,
                None => return,
            }
        }
    }

    /// Sends the rest and adds the subscriber, while no broadcast can intervene. Returns the subscriber if the rest is
    /// longer than one page.
    fn join(&self, mut newcomer: Subscriber) -> Option<Subscriber> {
        let mut state = self.subscribers.lock();
        match self.next_page(&mut newcomer) {
            Ok(rest) if rest.len() < CHANGES_PER_READ => {
                if newcomer.send_all(&rest) {
                    self.subscribers.add(&mut state, newcomer);
                }
                None
            }
            Ok(_) => Some(newcomer),
            Err(failure) => {
                drop(state);
                newcomer.stream.end(&failure);
                None
            }
        }
    }

    /// The next changes for a subscriber. Updates its actor from the same state.
    fn next_page(&self, newcomer: &mut Subscriber) -> Result<Vec<Change>, Failure> {
        let snapshot = self.database.reader(View::Snapshot)?;
        newcomer.actor = newcomer.credential.actor(&snapshot)?;
        let changes = snapshot.changes_after(newcomer.after, CHANGES_PER_READ)?;
        check_kept(newcomer.after, snapshot.oldest_seq()?)?;
        Ok(changes)
    }
}
