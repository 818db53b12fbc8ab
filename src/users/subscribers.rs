//! The subscribers of the change feed, and what each of them may see.
//!
//! A change has two views, each encoded once. The user and admins receive the view with the e-mail address; all others
//! receive the view without it. A stream that began with a token ends when the token ends: it carries no later change.

use std::cell::OnceCell;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;

use super::access::{Actor, Credential, unknown_token};
use super::notify::Waker;
use super::store::{StoreError, UserReader};
use super::values::{Change, User};
use crate::packet::{Failure, Reply};
use crate::service::{SharedReply, StreamSender};
use crate::sync::lock;

/// How long the feed sleeps when nothing happens. Only a lost datagram delays a change for that long.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The subscribers of one process, and the thread that sends to them.
pub struct Subscribers {
    state: Mutex<FeedState>,
    /// Wakes the thread of the feed.
    waker: Waker,
}

/// The state that the lock of [`Subscribers`] protects. Every broadcast holds that lock.
pub struct FeedState {
    /// The number of the last change that was sent.
    pub last: u64,
    /// The streams that have everything up to `last`.
    pub subscribers: Vec<Subscriber>,
    /// The readers that wait for a later change.
    pub waiters: Vec<SeqWaiter>,
    /// Whether the last read of the database failed. The log reports only the first failure, not ten per second.
    pub is_in_trouble: bool,
    /// The [`UserReader::rights_version`] at the last check of the subscribers' tokens.
    rights: u64,
}

/// One stream of changes.
pub struct Subscriber {
    /// The stream.
    pub stream: StreamSender,
    /// The number of the last change that was sent on the stream.
    pub after: u64,
    /// The credential of the client.
    pub credential: Credential,
    /// The owner of the credential when it was last checked.
    pub actor: Actor,
}

/// A reader that waits until a change has happened.
pub struct SeqWaiter {
    /// The number of the change.
    pub seq: u64,
    /// When it stops waiting.
    pub deadline: Instant,
    /// Continues the read, or reports the failure.
    pub resume: Box<dyn FnOnce(Result<(), Failure>) + Send>,
}

/// A waiter that need not wait any longer, and its outcome.
pub type ReadySeqWaiter = (SeqWaiter, Result<(), Failure>);

/// A change in the form that is sent. Each view is encoded when it is first needed.
struct EncodedChange<'a> {
    change: &'a Change,
    whole: OnceCell<Option<SharedReply>>,
    without_email: OnceCell<Option<SharedReply>>,
}

impl Subscribers {
    /// A set without subscribers, up to this change.
    #[must_use]
    pub fn new(last: u64, waker: Waker) -> Self {
        let (subscribers, waiters) = (Vec::new(), Vec::new());
        let state = FeedState { last, subscribers, waiters, is_in_trouble: false, rights: 0 };
        Self { state: Mutex::new(state), waker }
    }

    /// Locks the state. No broadcast happens meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, FeedState> {
        lock(&self.state)
    }

    /// Wakes the thread of the feed, which may sleep past the end of a token or the deadline of a reader.
    pub fn wake_feed(&self) {
        self.waker.wake();
    }

    /// Adds a subscriber that has everything up to the last change.
    pub fn add(&self, state: &mut FeedState, newcomer: Subscriber) {
        state.subscribers.retain(|subscriber| subscriber.stream.is_open());
        if newcomer.actor.until().is_some() {
            self.wake_feed();
        }
        state.subscribers.push(newcomer);
    }
}

impl FeedState {
    /// Sends a change to all subscribers that lack it.
    pub fn broadcast(&mut self, change: &Change) {
        self.last = change.seq;
        let encoded = EncodedChange::new(change);
        self.subscribers.retain_mut(|subscriber| {
            if change.seq <= subscriber.after {
                return true;
            }
            // One batch of writes may exceed the number of kept changes. The subscriber must learn that changes are
            // missing.
            if let Err(gone) = check_kept(subscriber.after, Some(change.seq)) {
                subscriber.stream.end(&gone);
                return false;
            }
            let Some(reply) = encoded.reply_for(&subscriber.actor) else { return true };
            subscriber.after = change.seq;
            subscriber.stream.send(reply)
        });
    }

    /// Whether any subscriber showed a token.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.subscribers.iter().any(|subscriber| subscriber.actor.until().is_some())
    }

    /// Ends the streams whose token has ended, and updates the actors whose rights have changed.
    pub fn check_tokens(&mut self, reader: &impl UserReader) -> Result<(), StoreError> {
        self.end_expired(Instant::now());
        let rights = reader.rights_version()?;
        if rights != self.rights {
            self.update_actors(reader)?;
            self.rights = rights;
        }
        Ok(())
    }

    fn end_expired(&mut self, now: Instant) {
        self.subscribers.retain(|subscriber| {
            let is_valid = subscriber.actor.until().is_none_or(|until| now < until);
            if !is_valid {
                subscriber.stream.end(&unknown_token());
            }
            is_valid
        });
    }

    fn update_actors(&mut self, reader: &impl UserReader) -> Result<(), StoreError> {
        let mut failed = Ok(());
        self.subscribers.retain_mut(|subscriber| match subscriber.credential.actor(reader) {
            Ok(actor) => {
                subscriber.actor = actor;
                true
            }
            Err(StoreError::Rejected(failure)) => {
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
    #[must_use]
    pub fn time_to_expiry(&self) -> Duration {
        let now = Instant::now();
        let left = |until: Instant| until.saturating_duration_since(now);
        let tokens = self.subscribers.iter().filter_map(|subscriber| subscriber.actor.until());
        // One millisecond more, so that the token has expired when it is checked.
        tokens.map(left).min().map_or(MAX_PAUSE, |left| left + Duration::from_millis(1))
    }

    /// Takes the waiters that are done, each with its outcome. Also returns how long the others can wait.
    #[must_use]
    pub fn take_ready(&mut self, now: Instant) -> (Vec<ReadySeqWaiter>, Duration) {
        let (mut ready, mut pause) = (Vec::new(), MAX_PAUSE);
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

impl Subscriber {
    /// Sends these changes. Returns whether the stream is still open.
    pub fn send_all(&mut self, changes: &[Change]) -> bool {
        changes.iter().all(|change| {
            self.after = change.seq;
            let encoded = EncodedChange::new(change);
            encoded.reply_for(&self.actor).is_some_and(|reply| self.stream.send(reply))
        })
    }
}

impl Change {
    /// The change as this actor may see it.
    ///
    /// # Errors
    /// 500 if the stored user cannot be parsed.
    pub fn view_for(self, actor: &Actor) -> Result<Self, Failure> {
        if actor.owns(self.user_id) { Ok(self) } else { self.without_email() }
    }

    fn without_email(mut self) -> Result<Self, Failure> {
        if let Some(json) = &self.user {
            let unreadable = |error| Failure::new(500, format!("a stored change cannot be read: {error}"));
            let user: User = serde_json::from_str(json.get()).map_err(unreadable)?;
            self.user = Some(to_raw_value(&Actor::Stranger.view_of(user)).map_err(unreadable)?);
        }
        Ok(self)
    }
}

impl<'a> EncodedChange<'a> {
    fn new(change: &'a Change) -> Self {
        Self { change, whole: OnceCell::new(), without_email: OnceCell::new() }
    }

    /// The view of this actor.
    fn reply_for(&self, actor: &Actor) -> Option<&SharedReply> {
        let encoded = if actor.owns(self.change.user_id) {
            self.whole.get_or_init(|| encode(self.change).ok())
        } else {
            self.without_email.get_or_init(|| encode(&self.change.clone().without_email().ok()?).ok())
        };
        encoded.as_ref()
    }
}

fn encode(change: &Change) -> Result<SharedReply, Failure> {
    SharedReply::new(Reply::ok(change)?.with("seq", change.seq)?)
}

/// Checks that all changes after this number are still kept.
///
/// # Errors
/// 410 that names the oldest change. The client must read all users again.
pub fn check_kept(after: u64, oldest: Option<u64>) -> Result<(), Failure> {
    match oldest {
        Some(oldest) if after + 1 < oldest => Err(Failure::new(
            410,
            format!(
                "changes up to {} have expired; the oldest is {oldest}: read the users again",
                oldest - 1
            ),
        )
        .with("oldest", oldest)),
        _ => Ok(()),
    }
}
