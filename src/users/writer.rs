//! The writer thread, `db writer`: group commit over the interface of [`super::store`].
//!
//! It takes the writes that wait together and executes them in one transaction. Each has a separate savepoint, so a
//! write that fails undoes no other write. It commits once, and only then reports. So one `fsync` carries many writes,
//! and every reported write survives a power cut.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::notify::CommitNotifier;
use super::store::{BUSY_TIMEOUT, GroupCommit, Operation, StoreError, UserTransaction};
use crate::observe::metrics::STORE;
use crate::packet::explain::Explanation;
use crate::pool::no_thread;

/// How long before the deadline of its client a wait ends. The client must still be there to read the answer.
pub const ANSWER_IN_TIME: Duration = Duration::from_millis(100);

/// How many writes may wait. Further ones are rejected.
const MAX_WAITING_WRITES: usize = 1024;

/// How many writes one transaction takes.
const MAX_BATCH: usize = 128;

/// The queue of the writer thread. The thread ends when the queue is dropped and empty.
pub struct WriteQueue {
    writes: Sender<Box<dyn Write>>,
}

/// A write that waits for its turn, and then for its commit.
struct QueuedWrite<O: Operation, D> {
    /// When its client stops waiting.
    deadline: Option<Instant>,
    /// When it stops waiting for another process that writes.
    give_up_at: Instant,
    operation: O,
    explanation: Option<Arc<Explanation>>,
    /// The result of the operation, after it has been executed.
    outcome: Option<Result<O::Output, StoreError>>,
    done: D,
}

/// A [`QueuedWrite`] of any operation.
trait Write: Send {
    fn give_up_at(&self) -> Instant;

    /// Executes the operation inside the open transaction, and keeps its result. After an error, nothing of this write
    /// may remain.
    fn execute(&mut self, transaction: &dyn UserTransaction) -> Result<(), StoreError>;

    /// Reports how the write ended, after its transaction has ended. The caller keeps the returned value until all
    /// writes of the transaction have been reported.
    fn report(self: Box<Self>, committed: Result<(), StoreError>) -> Box<dyn Any>;
}

impl<O, R, D> Write for QueuedWrite<O, D>
where
    O: Operation,
    R: 'static,
    D: FnOnce(Result<O::Output, StoreError>) -> R + Send,
{
    fn give_up_at(&self) -> Instant {
        self.give_up_at
    }

    fn execute(&mut self, transaction: &dyn UserTransaction) -> Result<(), StoreError> {
        self.explain("the writer thread takes the write from its queue, in an open transaction");
        let outcome = match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(StoreError::TooLate),
            _ => self.operation.execute(transaction),
        };
        self.explain("the write is executed in a savepoint of its own");
        let executed = outcome.as_ref().map(|_| ()).map_err(StoreError::clone);
        self.outcome = Some(outcome);
        executed
    }

    fn report(self: Box<Self>, committed: Result<(), StoreError>) -> Box<dyn Any> {
        self.explain(match &committed {
            Ok(()) => "the transaction is committed: one fsync for all its writes",
            Err(_) => "the transaction was not committed",
        });
        let Self { outcome, done, .. } = *self;
        // A write without an outcome was not executed, so its transaction was not committed either.
        Box::new(done(committed.and_then(|()| outcome.unwrap_or(Err(StoreError::Busy)))))
    }
}

impl<O: Operation, D> QueuedWrite<O, D> {
    fn explain(&self, step: &str) {
        if let Some(explanation) = &self.explanation {
            explanation.add_in_database(file!(), step.to_owned());
        }
    }
}

impl WriteQueue {
    /// Starts the writer thread on this connection.
    ///
    /// # Errors
    /// A sentence, if the operating system starts no further thread.
    pub fn start(connection: impl GroupCommit) -> Result<Self, String> {
        let (sender, queue) = bounded(MAX_WAITING_WRITES);
        LazyLock::force(&STORE);
        let mut writer = Writer { connection, notifier: CommitNotifier::default(), is_in_trouble: false };
        thread::Builder::new()
            .name("db writer".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(no_thread)?;
        Ok(Self { writes: sender })
    }

    /// How many writes wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether no write waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Queues a write. `done` receives its outcome after the commit. A write is not started if its `deadline` has
    /// passed before its turn. The value that `done` returns is dropped after all writes of the transaction have been
    /// reported.
    pub fn push<O: Operation, R: 'static>(
        &self,
        deadline: Option<Instant>,
        explanation: Option<Arc<Explanation>>,
        operation: O,
        done: impl FnOnce(Result<O::Output, StoreError>) -> R + Send + 'static,
    ) {
        let busy = Instant::now() + BUSY_TIMEOUT;
        let give_up_at = deadline
            .map_or(busy, |deadline| busy.min(deadline.checked_sub(ANSWER_IN_TIME).unwrap_or(deadline)));
        let write = QueuedWrite { deadline, give_up_at, operation, explanation, outcome: None, done };
        if let Err(TrySendError::Full(write) | TrySendError::Disconnected(write)) =
            self.writes.try_send(Box::new(write))
        {
            drop(write.report(Err(StoreError::Busy)));
        }
    }
}

/// The state of the writer thread.
struct Writer<C> {
    connection: C,
    notifier: CommitNotifier,
    /// Whether the last transaction failed. The log reports only the first failure.
    is_in_trouble: bool,
}

impl<C: GroupCommit> Writer<C> {
    fn run(&mut self, queue: &Receiver<Box<dyn Write>>) {
        let mut batch = Vec::new();
        loop {
            if batch.is_empty() {
                match queue.recv() {
                    Ok(first) => batch.push(first),
                    Err(_) => return,
                }
            }
            batch.extend(queue.try_iter().take(MAX_BATCH - batch.len()));
            batch = self.write(batch);
        }
    }

    /// Writes a batch in one transaction and reports each outcome. Returns the writes that may still wait for another
    /// process.
    fn write(&mut self, batch: Vec<Box<dyn Write>>) -> Vec<Box<dyn Write>> {
        match self.begin(&batch) {
            Err(StoreError::Busy) => return self.refuse_expired(batch),
            Err(error) => {
                self.log_trouble(Some(&error));
                report_all(batch, &Err(error));
            }
            Ok(()) => {
                let (executed, committed) = self.write_and_commit(batch);
                self.log_trouble(committed.as_ref().err());
                report_all(executed, &committed);
            }
        }
        Vec::new()
    }

    /// Begins a transaction. Waits for another process until the first write of the batch must give up.
    fn begin(&self, batch: &[Box<dyn Write>]) -> Result<(), StoreError> {
        let now = Instant::now();
        let give_up_at = batch.iter().map(|write| write.give_up_at()).min().unwrap_or(now);
        self.connection.begin(give_up_at.saturating_duration_since(now))
    }

    fn refuse_expired(&mut self, batch: Vec<Box<dyn Write>>) -> Vec<Box<dyn Write>> {
        let now = Instant::now();
        let (waiting, expired): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|write| write.give_up_at() > now);
        if !expired.is_empty() {
            self.log_trouble(Some(&StoreError::Busy));
            report_all(expired, &Err(StoreError::Busy));
        }
        waiting
    }

    /// Returns the executed writes, and whether the transaction was committed. If it was not, nothing of it remains.
    fn write_and_commit(
        &mut self,
        batch: Vec<Box<dyn Write>>,
    ) -> (Vec<Box<dyn Write>>, Result<(), StoreError>) {
        let (began, writes) = (Instant::now(), u32::try_from(batch.len()).unwrap_or(u32::MAX));
        // No other process writes from here on, so these writes added all following changes.
        let before = self.connection.last_seq().unwrap_or_default();
        let mut executed = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        let written = batch.by_ref().try_for_each(|write| self.execute(write, &mut executed));
        let changes = self.connection.last_seq().unwrap_or_default().saturating_sub(before);
        let committed = written.and_then(|()| self.commit());
        STORE.batch.observe(writes.into());
        STORE.seconds.observe(began.elapsed().as_secs_f64());
        match &committed {
            Ok(()) => STORE.changes.inc_by(changes),
            Err(error) => {
                if let Err(error) = self.connection.roll_back() {
                    log::error!("database: a rollback failed: {error}");
                }
                report_all(batch, &Err(error.clone()));
            }
        }
        (executed, committed)
    }

    /// Executes one write. If it fails or panics, nothing of it remains, and the other writes are not affected.
    ///
    /// An error means that the whole transaction is lost. SQLite, for instance, rolls back the transaction if the disk
    /// is full. A further write would then start a new transaction.
    fn execute(
        &self,
        mut write: Box<dyn Write>,
        executed: &mut Vec<Box<dyn Write>>,
    ) -> Result<(), StoreError> {
        if let Err(error) = self.connection.set_savepoint() {
            executed.push(write);
            return Err(error);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| write.execute(&self.connection)));
        let failure = match &outcome {
            Ok(outcome) => {
                executed.push(write);
                outcome.as_ref().err()
            }
            // This write is not reported: its client receives the answer of a dropped responder.
            Err(_) => None,
        };
        self.connection.check_open().map_err(|lost| failure.cloned().unwrap_or(lost))?;
        if !matches!(outcome, Ok(Ok(()))) {
            self.connection.undo_savepoint()?;
        }
        self.connection.release_savepoint()
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let ports = self.notifier.ports(&self.connection);
        self.connection.check_open()?;
        self.connection.commit()?;
        self.notifier.notify(&ports);
        Ok(())
    }

    /// Logs the first failure, and the first success after it.
    fn log_trouble(&mut self, failure: Option<&StoreError>) {
        match failure {
            Some(error) if !self.is_in_trouble => log::warn!("database: writes are refused: {error}"),
            None if self.is_in_trouble => log::info!("database: writes are accepted again"),
            _ => {}
        }
        self.is_in_trouble = failure.is_some();
    }
}

/// Reports the end of their transaction to these writes. A report may panic, but the writer thread must continue.
fn report_all(writes: impl IntoIterator<Item = Box<dyn Write>>, committed: &Result<(), StoreError>) {
    let report = |write: Box<dyn Write>| {
        let reported = catch_unwind(AssertUnwindSafe(|| write.report(committed.clone())));
        reported.inspect_err(|_| log::error!("the report of a write panicked")).ok()
    };
    // All are reported before the first of these is dropped, because a drop may wake a connection.
    drop(writes.into_iter().map(report).collect::<Vec<_>>());
}
