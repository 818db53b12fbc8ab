//! The connections that read. Reads run on the caller's thread, over a connection from this small pool.
//!
//! Requests that arrived together may share one read transaction (`lend_in`): to begin and end one costs more
//! than to read a row.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use rusqlite::Connection;

use super::super::store::{BUSY_TIMEOUT, StoreError, View};
use super::connection::{connect, run};
use crate::service::Batch;
use crate::sync::lock;

/// How many connections read. Reads are short, so more connections would only cost memory.
pub const MAX_READERS: usize = 8;

/// How many of them batches may keep, so that other reads never wait for a batch that waits itself.
const MAX_HELD: usize = MAX_READERS / 2;

/// The pool of connections that read.
pub struct Readers {
    path: PathBuf,
    pool: Mutex<ReaderPool>,
    returned: Condvar,
}

struct ReaderPool {
    idle: Vec<Connection>,
    open: usize,
    /// How many of them batches keep.
    held: usize,
    /// How many threads wait for a connection. `notify_one` makes a system call even if no thread waits.
    waiting: usize,
}

/// A connection on loan from the pool.
pub struct LentReader<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
    /// Keeps the connection for its next read.
    batch: Option<(Arc<Batch>, Box<HeldReader>)>,
}

/// A connection that a batch keeps, in a read transaction. Dropping it returns the connection to the pool.
struct HeldReader {
    readers: Arc<Readers>,
    connection: Option<Connection>,
}

impl Readers {
    /// A pool on this file that begins with one connection.
    pub(super) fn new(path: &Path, first: Connection) -> Self {
        let pool = Mutex::new(ReaderPool { idle: vec![first], open: 1, held: 0, waiting: 0 });
        Self { path: path.to_owned(), pool, returned: Condvar::new() }
    }

    /// The file.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Lends a connection that is idle at this moment.
    pub(super) fn lend_idle(&self) -> Option<LentReader<'_>> {
        let connection = lock(&self.pool).idle.pop()?;
        Some(LentReader { readers: self, connection: Some(connection), batch: None })
    }

    /// Lends a connection.
    pub(super) fn lend(&self, view: View) -> Result<LentReader<'_>, StoreError> {
        // From here on the connection is returned on every path, also after a panic.
        let lent = LentReader { readers: self, connection: Some(self.take()?), batch: None };
        if view == View::Snapshot {
            run(lent.connection()?, "BEGIN")?;
        }
        Ok(lent)
    }

    /// Lends the connection of this batch. The first read of the batch begins its read transaction.
    pub(super) fn lend_in(
        self: &Arc<Self>,
        batch: Option<&Arc<Batch>>,
    ) -> Result<LentReader<'_>, StoreError> {
        let Some(batch) = batch else { return self.lend(View::Newest) };
        let held = batch.take::<HeldReader>().filter(|held| Arc::ptr_eq(&held.readers, self));
        let Some(mut held) = held.or_else(|| self.hold().map(Box::new)) else {
            return self.lend(View::Newest);
        };
        let connection = held.connection.take();
        let lent = LentReader { readers: self, connection, batch: Some((batch.clone(), held)) };
        if lent.connection()?.is_autocommit() {
            run(lent.connection()?, "BEGIN")?;
        }
        Ok(lent)
    }

    /// A connection that a batch may keep. None if too many are kept, or if no other connection would be left: a batch
    /// that kept the last one could wait for itself.
    fn hold(self: &Arc<Self>) -> Option<HeldReader> {
        let mut pool = lock(&self.pool);
        if pool.held == MAX_HELD {
            return None;
        }
        if pool.open == pool.held + 1 {
            pool.open += 1;
            drop(pool); // opening reads the file: never under the lock
            let Ok(connection) = connect(&self.path) else {
                self.forget_one();
                return None;
            };
            self.wake_one_after(|pool| pool.idle.push(connection));
            pool = lock(&self.pool);
        }
        // Others may have been faster.
        if pool.held == MAX_HELD || pool.open <= pool.held + 1 {
            return None;
        }
        let connection = pool.idle.pop()?;
        pool.held += 1;
        Some(HeldReader { readers: self.clone(), connection: Some(connection) })
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let deadline = Instant::now() + BUSY_TIMEOUT;
        let mut may_open = true;
        let mut pool = lock(&self.pool);
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < MAX_READERS && may_open {
                pool.open += 1;
                drop(pool); // opening reads the file: never under the lock
                match connect(&self.path) {
                    Ok(connection) => return Ok(connection),
                    Err(error) => log::debug!("no further connection to the database: {error}"),
                }
                self.forget_one();
                may_open = false; // wait for one of those that are open
                pool = lock(&self.pool);
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy);
            }
            pool.waiting += 1;
            pool = self.returned.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
            pool.waiting -= 1;
        }
    }

    /// Takes a connection back and ends its transaction. Otherwise the next read would see an old state.
    fn give_back(&self, connection: Connection) {
        if connection.is_autocommit() || run(&connection, "COMMIT").is_ok() {
            self.wake_one_after(|pool| pool.idle.push(connection));
        } else {
            drop(connection);
            self.forget_one();
        }
    }

    fn forget_one(&self) {
        self.wake_one_after(|pool| pool.open -= 1);
    }

    fn wake_one_after(&self, change: impl FnOnce(&mut ReaderPool)) {
        let mut pool = lock(&self.pool);
        change(&mut pool);
        let is_awaited = pool.waiting > 0;
        drop(pool);
        if is_awaited {
            self.returned.notify_one();
        }
    }
}

impl LentReader<'_> {
    /// The connection. It exists until the reader is dropped.
    pub(in super::super) fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or(StoreError::Busy)
    }
}

impl Drop for LentReader<'_> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        if let Some((batch, mut held)) = self.batch.take() {
            held.connection = connection;
            batch.leave(held);
        } else if let Some(connection) = connection {
            self.readers.give_back(connection);
        }
    }
}

impl Drop for HeldReader {
    fn drop(&mut self) {
        lock(&self.readers.pool).held -= 1;
        if let Some(connection) = self.connection.take() {
            self.readers.give_back(connection);
        }
    }
}
