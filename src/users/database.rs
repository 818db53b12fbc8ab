//! One opened database: readers on the caller's thread, one writer thread.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::bounded;

use super::sqlite::Sqlite;
use super::store::{BUSY_TIMEOUT, Engine, Operation, StoreError, View};
use super::writer::WriteQueue;
use crate::packet::explain::Explanation;
use crate::service::Batch;

/// A database of users on this engine.
pub struct Database<E> {
    engine: E,
    writes: WriteQueue,
}

impl Database<Sqlite> {
    /// Opens an SQLite file, and creates it if it does not exist. Its feed keeps this number of changes.
    ///
    /// # Errors
    /// A sentence that names the file and the reason.
    pub fn open(path: &Path, keep_changes: u64) -> Result<Self, String> {
        let (engine, writer) = Sqlite::open(path, keep_changes)?;
        Self::start(engine, writer)
    }
}

impl<E: Engine> Database<E> {
    /// Starts the writer thread of this engine.
    ///
    /// # Errors
    /// A sentence, if the operating system starts no further thread.
    pub fn start(engine: E, writer: E::Writer) -> Result<Self, String> {
        Ok(Self { engine, writes: WriteQueue::start(writer)? })
    }

    /// Lends a reader that sees this state. It reads on the caller's thread.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if no reader was returned in time.
    pub fn reader(&self, view: View) -> Result<E::Reader<'_>, StoreError> {
        self.engine.reader(view)
    }

    /// Lends a reader of the newest state, if one is idle at this moment.
    pub fn idle_reader(&self) -> Option<E::Reader<'_>> {
        self.engine.idle_reader()
    }

    /// Lends a reader of the state that all reads of this batch share; without a batch, of the newest state.
    /// Every request of the batch had arrived before the state was chosen, so it contains whatever its client knew.
    /// Use it only for answers to one client. A comparison with what other threads know needs the newest state.
    ///
    /// # Errors
    /// As [`reader`](Self::reader).
    pub fn reader_in(&self, batch: Option<&Arc<Batch>>) -> Result<E::Reader<'_>, StoreError> {
        self.engine.reader_in(batch)
    }

    /// Queues a write for the writer thread. `done` receives its outcome after the commit. A write is not started if
    /// its `deadline` has passed before its turn. The value that `done` returns is dropped after all writes of its
    /// transaction have been reported.
    pub fn write<O: Operation, R: 'static>(
        &self,
        deadline: Option<Instant>,
        operation: O,
        done: impl FnOnce(Result<O::Output, StoreError>) -> R + Send + 'static,
    ) {
        self.write_explained(deadline, None, operation, done);
    }

    /// As [`write`](Self::write). Adds its steps to the explanation, if there is one.
    pub fn write_explained<O: Operation, R: 'static>(
        &self,
        deadline: Option<Instant>,
        explanation: Option<Arc<Explanation>>,
        operation: O,
        done: impl FnOnce(Result<O::Output, StoreError>) -> R + Send + 'static,
    ) {
        self.writes.push(deadline, explanation, operation, done);
    }

    /// Writes and waits for the commit. Use it only at the start of a process, when no client waits yet.
    pub fn write_now<O: Operation>(&self, operation: O) -> Result<O::Output, StoreError> {
        let (done, outcome) = bounded(1);
        self.write(None, operation, move |written| drop(done.try_send(written)));
        outcome.recv_timeout(2 * BUSY_TIMEOUT).unwrap_or(Err(StoreError::Busy))
    }

    /// How many writes wait for the writer thread.
    #[must_use]
    pub fn waiting_writes(&self) -> usize {
        self.writes.len()
    }

    /// The sentence that states why this database cannot be used.
    #[must_use]
    pub fn explain(&self, error: &StoreError) -> String {
        self.engine.explain(error)
    }
}
