//! The connections that read. Reads run on the caller's thread, over a connection from this small pool.
//!
//! Requests that arrived together may share one read transaction ([`View::Batch`]): to begin and end one costs more
//! than to read a row.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use rusqlite::Connection;

use super::super::store::{BUSY_TIMEOUT, StoreError, View};
use super::connection::{connect, run};
use crate::service::Batch;
use crate::sync::lock;

/// How many connections read. Reads are short: more connections would only cost memory.
pub const MAX_READERS: usize = 8;

/// The pool of connections that read.
pub struct Readers {
    /// Differs from that of every other pool of this process.
    id: u64,
    path: PathBuf,
    pool: Mutex<ReaderPool>,
    returned: Condvar,
}

struct ReaderPool {
    idle: Vec<Connection>,
    open: usize,
    /// How many threads wait for a connection. `notify_one` makes a system call even if no thread waits.
    waiting: usize,
}

/// A connection on loan from the pool.
pub struct LentReader<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
    /// The connection stays with this thread until the batch ends.
    in_batch: bool,
}

/// The batch of requests that this thread works on.
struct ReadBatch {
    /// The pool that it belongs to.
    pool: u64,
    /// In a read transaction; `None` before the first read.
    connection: Option<Connection>,
}

/// How many pools this process has made.
static POOLS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static BATCH: RefCell<Option<ReadBatch>> = const { RefCell::new(None) };
}

impl Readers {
    /// A pool on this file that begins with one connection.
    pub(super) fn new(path: &Path, first: Connection) -> Self {
        let pool = Mutex::new(ReaderPool { idle: vec![first], open: 1, waiting: 0 });
        let id = POOLS.fetch_add(1, Ordering::Relaxed);
        Self { id, path: path.to_owned(), pool, returned: Condvar::new() }
    }

    /// The file.
    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Lends a connection that is idle at this moment.
    pub(super) fn lend_idle(&self) -> Option<LentReader<'_>> {
        let connection = lock(&self.pool).idle.pop()?;
        Some(LentReader { readers: self, connection: Some(connection), in_batch: false })
    }

    /// Begins and ends a batch of requests on this thread.
    pub(super) fn on_batch(&self, batch: Batch) {
        let begun = match batch {
            Batch::Begins => Some(ReadBatch { pool: self.id, connection: None }),
            Batch::Ends => None,
        };
        let ended = BATCH.replace(begun).filter(|ended| ended.pool == self.id);
        if let Some(connection) = ended.and_then(|ended| ended.connection) {
            self.give_back(connection);
        }
    }

    /// Lends a connection. All reads of a batch use the same one: a thread that held one and waited for another could
    /// block the whole pool.
    pub(super) fn lend(&self, view: View) -> Result<LentReader<'_>, StoreError> {
        let held = BATCH.with_borrow_mut(|batch| {
            let batch = batch.as_mut().filter(|batch| batch.pool == self.id)?;
            Some(batch.connection.take())
        });
        let in_batch = held.is_some();
        let connection = held.flatten().map_or_else(|| self.take(), Ok)?;
        // From here on the connection is returned on every path, also after a panic.
        let lent = LentReader { readers: self, connection: Some(connection), in_batch };
        let connection = lent.connection()?;
        let is_old = !connection.is_autocommit();
        if is_old && view != View::Batch {
            run(connection, "COMMIT")?;
        }
        if view == View::Snapshot || (view == View::Batch && in_batch && !is_old) {
            run(connection, "BEGIN")?;
        }
        Ok(lent)
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

    /// Takes a connection back and ends its transaction: the next read would see an old state.
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
    /// The connection. It is there until the reader is dropped.
    pub(in super::super) fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or(StoreError::Busy)
    }
}

impl Drop for LentReader<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let for_the_pool = BATCH.with_borrow_mut(|batch| match batch {
            Some(batch) if self.in_batch && batch.connection.is_none() => {
                batch.connection = Some(connection);
                None
            }
            _ => Some(connection),
        });
        if let Some(connection) = for_the_pool {
            self.readers.give_back(connection);
        }
    }
}
