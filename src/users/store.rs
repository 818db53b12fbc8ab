//! The database of the users service: SQLite, many readers, one writer.
//!
//! - *Reads* run on the caller's thread, over a connection from a small pool. Those of requests that came together may
//!   share one read transaction ([`Sees::Batch`]): to begin and end one costs more than to read a row.
//! - *Writes* queue for one writer thread. It takes what waits together, runs it in one transaction (each write
//!   in a savepoint of its own, so that one that fails undoes nothing else), commits once, and only then reports.
//!   One `fsync` thus carries many writes, and what is reported as done survives a power cut.
//!
//! In WAL mode a read that begins after a commit sees it, in this process and in every other on the same file:
//! that is all there is to "read your writes".

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use super::bell::Ringer;
use super::model;
use crate::observe::metrics::STORE;
use crate::packet::Failure;
use crate::pool::no_thread;
use crate::service::Batch;
use crate::sync::lock;

/// The migrations, in order: the first makes version 1 out of an empty file. Each one is applied once.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../data/schema.sql"),
    include_str!("../../data/schema-2.sql"),
    include_str!("../../data/schema-3.sql"),
];

/// How long to wait for another process that is writing. Less than a gateway waits, so that its client is told what
/// happened and not only that nothing came.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long before its deadline an asker that waits is told that it waits in vain: it must still be there to hear it.
pub const ANSWER_IN_TIME: Duration = Duration::from_millis(100);

/// How many connections there are for reading. Reads are short: more would only cost memory.
pub(super) const MAX_READERS: usize = 8;

/// How many writes may wait. The next is refused.
const MAX_WAITING_WRITES: usize = 1024;

/// How many writes one transaction takes.
const MAX_BATCH: usize = 128;

/// The database file, opened.
pub struct Store {
    /// No other store of this process has it.
    id: u64,
    path: PathBuf,
    readers: Mutex<Readers>,
    returned: Condvar,
    writes: Sender<Box<dyn Write>>,
}

struct Readers {
    idle: Vec<Connection>,
    open: usize,
    /// How many threads wait for one to come back. To wake nobody is a system call all the same.
    waiting: usize,
}

/// Which state of the database a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// All that has been committed when it begins.
    Newest,
    /// All that had been committed when its batch began, if there is one ([`Store::on_batch`]). Every request of the
    /// batch had come by then, so whatever its asker knew to be committed is in it. For reads that tell nobody but
    /// this asker: whoever compares with what other threads know by now needs the newest.
    Batch,
}

/// How many stores this process has opened.
static STORES: AtomicU64 = AtomicU64::new(0);

/// The batch of requests that this thread works on.
struct OpenBatch {
    /// Whose it is.
    store: u64,
    /// In a read transaction; nothing before the first read.
    connection: Option<Connection>,
}

thread_local! {
    static BATCH: RefCell<Option<OpenBatch>> = const { RefCell::new(None) };
}

/// Why something could not be read or written.
#[derive(Debug)]
pub enum StoreError {
    /// Another process has been writing for too long, or too many writes wait.
    Busy,
    /// The asker has stopped waiting, so the write was not begun.
    TooLate,
    /// There is no room left on the disk.
    DiskFull,
    /// The file may not be written.
    ReadOnly,
    /// The file does not take what is written to it: a fault of the disk, or of its file system. With SQLite's code.
    Unwritable(i32),
    /// The file cannot be opened once more, such as without a free descriptor.
    Unopened,
    /// There is no such row.
    NotFound,
    /// The value must be unique and another row has it.
    Taken,
    /// The row is not what the writer took it for.
    Changed,
    /// The asker may not do this, and is told so.
    Refused(Failure),
    /// Whatever else SQLite says.
    Sqlite(rusqlite::Error),
}

impl Store {
    /// Opens the file, makes it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    /// A sentence that names the file and the reason.
    pub fn open(path: &Path) -> Result<Self, String> {
        let explain = |error: &dyn fmt::Display| cannot_open(path, error);
        // To SQLite these are no files: in memory each connection, and each process, would have its own database.
        if path.to_str().is_some_and(|name| name == ":memory:" || name.starts_with("file:")) {
            return Err(explain(&"name a file, not an SQLite URI or a database in memory"));
        }
        create_private(path).map_err(|error| explain(&error))?;
        let failed = |error| explain_start(path, &error);
        let mut database = connect(path, BUSY_TIMEOUT).map_err(failed)?;
        if database.is_readonly("main").map_err(|error| failed(error.into()))? {
            return Err(failed(StoreError::ReadOnly));
        }
        prepare(&mut database).map_err(failed)?;
        // Where there is no descriptor for a further one later, everybody reads over this one.
        let reader = connect(path, BUSY_TIMEOUT).map_err(failed)?;
        reader
            .query_row("SELECT count(*) FROM bells", [], |_| Ok(()))
            .map_err(|error| failed(error.into()))?;
        let (writes, queue) = bounded(MAX_WAITING_WRITES);
        LazyLock::force(&STORE);
        thread::Builder::new()
            .name("db writer".to_owned())
            .spawn(move || write_all(database, &queue))
            .map_err(no_thread)?;
        let readers = Mutex::new(Readers { idle: vec![reader], open: 1, waiting: 0 });
        let id = STORES.fetch_add(1, Ordering::Relaxed);
        Ok(Self { id, path: path.to_owned(), readers, returned: Condvar::new(), writes })
    }

    /// How many writes wait for the writer thread.
    #[must_use]
    pub fn writes_waiting(&self) -> usize {
        self.writes.len()
    }

    /// Reads over a connection that is idle just now; nothing if there is none, or it fails.
    pub fn read_if_idle<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Option<T> {
        let connection = lock(&self.readers).idle.pop();
        let lent = Lent { store: self, connection, in_batch: false };
        work(lent.connection.as_ref()?).ok()
    }

    /// The sentence that says that this database cannot be used.
    #[must_use]
    pub fn explain(&self, error: &StoreError) -> String {
        explain_start(&self.path, error)
    }

    /// Reads on the caller's thread, and sees the newest state.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError::Busy`] if no connection came free in time.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.read_as(Sees::Newest, work)
    }

    /// Reads on the caller's thread, and sees what is asked for. `work` must not begin a transaction if that is the
    /// state of its batch.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_as<T>(
        &self,
        sees: Sees,
        work: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lent = self.lend(sees)?;
        match &lent.connection {
            Some(connection) => work(connection),
            None => Err(StoreError::Busy),
        }
    }

    /// Queues a write. `work` runs on the writer thread, inside a transaction; `done` is told how it ended, after
    /// the commit. A write whose `deadline` has passed before its turn is not begun.
    ///
    /// What `done` returns is kept until all writes of the transaction have been reported, and then dropped.
    pub fn write<T: Send + 'static, R: 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        done: impl FnOnce(Result<T, StoreError>) -> R + Send + 'static,
    ) {
        let busy = Instant::now() + BUSY_TIMEOUT;
        let patience = deadline
            .map_or(busy, |deadline| busy.min(deadline.checked_sub(ANSWER_IN_TIME).unwrap_or(deadline)));
        let job = Job { deadline, patience, work, done };
        if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
            self.writes.try_send(Box::new(job))
        {
            job.refuse(StoreError::Busy);
        }
    }

    /// Writes and waits until it is committed: for starting up, before anybody else waits for anything.
    ///
    /// # Errors
    /// Those of `work` and of the commit.
    pub fn write_now<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (done, outcome) = bounded(1);
        self.write(None, work, move |written| drop(done.try_send(written)));
        outcome.recv_timeout(2 * BUSY_TIMEOUT).unwrap_or(Err(StoreError::Busy))
    }

    /// Begins and ends a batch of requests on this thread.
    pub fn on_batch(&self, batch: Batch) {
        let begun = match batch {
            Batch::Begins => Some(OpenBatch { store: self.id, connection: None }),
            Batch::Ends => None,
        };
        let ended = BATCH.replace(begun).filter(|ended| ended.store == self.id);
        if let Some(connection) = ended.and_then(|ended| ended.connection) {
            self.give_back(connection);
        }
    }

    /// A connection for one read. All reads of a batch use the same, or those who hold one would wait for those who
    /// hold another.
    fn lend(&self, sees: Sees) -> Result<Lent<'_>, StoreError> {
        let held = BATCH.with_borrow_mut(|batch| {
            let batch = batch.as_mut().filter(|batch| batch.store == self.id)?;
            Some(batch.connection.take())
        });
        let in_batch = held.is_some();
        let connection = held.flatten().map_or_else(|| self.reader(), Ok)?;
        // Given back on every path, also when the work panics.
        let lent = Lent { store: self, connection: Some(connection), in_batch };
        if let (true, Some(connection)) = (in_batch, &lent.connection) {
            match sees {
                Sees::Batch if connection.is_autocommit() => run(connection, "BEGIN")?,
                Sees::Newest if !connection.is_autocommit() => run(connection, "COMMIT")?,
                _ => {}
            }
        }
        Ok(lent)
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        let deadline = Instant::now() + BUSY_TIMEOUT;
        let mut may_open = true;
        let mut readers = lock(&self.readers);
        loop {
            if let Some(connection) = readers.idle.pop() {
                return Ok(connection);
            }
            if readers.open < MAX_READERS && may_open {
                readers.open += 1;
                drop(readers); // opening reads the file: never under the lock
                match connect(&self.path, BUSY_TIMEOUT) {
                    Ok(connection) => return Ok(connection),
                    Err(error) => log::debug!("no further connection to the database: {error}"),
                }
                self.forget_reader();
                may_open = false; // those that are open come back
                readers = lock(&self.readers);
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy);
            }
            readers.waiting += 1;
            readers = self.returned.wait_timeout(readers, left).unwrap_or_else(PoisonError::into_inner).0;
            readers.waiting -= 1;
        }
    }

    /// Takes a connection back into the pool, out of its transaction: the next read would see an old state.
    fn give_back(&self, connection: Connection) {
        if connection.is_autocommit() || run(&connection, "COMMIT").is_ok() {
            self.wake_one_after(|readers| readers.idle.push(connection));
        } else {
            drop(connection);
            self.forget_reader();
        }
    }

    fn forget_reader(&self) {
        self.wake_one_after(|readers| readers.open -= 1);
    }

    fn wake_one_after(&self, change: impl FnOnce(&mut Readers)) {
        let mut readers = lock(&self.readers);
        change(&mut readers);
        let is_awaited = readers.waiting > 0;
        drop(readers);
        if is_awaited {
            self.returned.notify_one();
        }
    }
}

/// A connection on loan from the pool.
struct Lent<'a> {
    store: &'a Store,
    connection: Option<Connection>,
    /// It stays with this thread until the batch ends.
    in_batch: bool,
}

impl Drop for Lent<'_> {
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
            self.store.give_back(connection);
        }
    }
}

/// What the writer thread does with a queued write.
trait Write: Send {
    /// Until when another process that writes is waited for.
    fn patience(&self) -> Instant;

    /// Does the work inside the open transaction. Returned is also what to do after the commit; an error means
    /// that nothing of this write may remain.
    fn run(self: Box<Self>, connection: &Connection) -> (Result<(), StoreError>, Completion);

    /// Reports that the write was not begun.
    fn refuse(self: Box<Self>, why: StoreError);
}

/// Reports how a write ended, once it is known whether the transaction was committed. What it returns is dropped after
/// all reports of the transaction.
type Completion = Box<dyn FnOnce(Result<(), StoreError>) -> Box<dyn Any>>;

struct Job<W, D> {
    /// Until when its asker waits.
    deadline: Option<Instant>,
    patience: Instant,
    work: W,
    done: D,
}

impl<T, R, W, D> Write for Job<W, D>
where
    T: 'static,
    R: 'static,
    W: FnOnce(&Connection) -> Result<T, StoreError> + Send,
    D: FnOnce(Result<T, StoreError>) -> R + Send + 'static,
{
    fn patience(&self) -> Instant {
        self.patience
    }

    fn run(self: Box<Self>, connection: &Connection) -> (Result<(), StoreError>, Completion) {
        let Self { deadline, work, done, .. } = *self;
        let outcome = match deadline {
            Some(deadline) if deadline <= Instant::now() => Err(StoreError::TooLate),
            _ => work(connection),
        };
        let ran = outcome.as_ref().map(|_| ()).map_err(StoreError::again);
        (ran, Box::new(move |committed| Box::new(done(committed.and(outcome)))))
    }

    fn refuse(self: Box<Self>, why: StoreError) {
        drop((self.done)(Err(why)));
    }
}

/// The writer thread: ends when the store is gone.
fn write_all(connection: Connection, queue: &Receiver<Box<dyn Write>>) {
    let mut writer = Writer { connection, ringer: Ringer::default(), in_trouble: false };
    let mut batch = Vec::new();
    loop {
        if batch.is_empty() {
            match queue.recv() {
                Ok(first) => batch.push(first),
                Err(_) => return,
            }
        }
        batch.extend(queue.try_iter().take(MAX_BATCH - batch.len()));
        batch = writer.write(batch);
    }
}

/// What the writer thread works with.
struct Writer {
    connection: Connection,
    ringer: Ringer,
    /// The last transaction failed: that is said once, not for every one.
    in_trouble: bool,
}

impl Writer {
    /// Writes a batch in one transaction and reports to each how it ended. Returned are those that may still wait
    /// for another process to be done.
    fn write(&mut self, batch: Vec<Box<dyn Write>>) -> Vec<Box<dyn Write>> {
        match self.begin(&batch) {
            Err(StoreError::Busy) => self.give_up_the_impatient(batch),
            Err(why) => {
                self.note(Some(&why));
                refuse(batch, &why);
                Vec::new()
            }
            Ok(()) => {
                let (completions, committed) = self.write_and_commit(batch);
                self.note(committed.as_ref().err());
                let outcome = || committed.as_ref().copied().map_err(StoreError::again);
                let reports = completions.into_iter().map(|completion| report(|| completion(outcome())));
                // All are reported before the first of these is dropped, which may wake a connection.
                drop(reports.collect::<Vec<_>>());
                Vec::new()
            }
        }
    }

    /// Begins a transaction; waits for another process as long as the least patient of the batch does.
    fn begin(&mut self, batch: &[Box<dyn Write>]) -> Result<(), StoreError> {
        let patience = batch.iter().map(|job| job.patience()).min().unwrap_or_else(Instant::now);
        self.connection.busy_timeout(patience.saturating_duration_since(Instant::now()))?;
        Ok(run(&self.connection, "BEGIN IMMEDIATE")?)
    }

    fn give_up_the_impatient(&mut self, batch: Vec<Box<dyn Write>>) -> Vec<Box<dyn Write>> {
        let now = Instant::now();
        let (patient, impatient): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.patience() > now);
        if !impatient.is_empty() {
            self.note(Some(&StoreError::Busy));
            refuse(impatient, &StoreError::Busy);
        }
        patient
    }

    /// The reports to be made, and whether the transaction was committed. If it was not, nothing of it remains.
    fn write_and_commit(&mut self, batch: Vec<Box<dyn Write>>) -> (Vec<Completion>, Result<(), StoreError>) {
        let (began, writes) = (Instant::now(), u32::try_from(batch.len()).unwrap_or(u32::MAX));
        // Nobody else writes from here on: what is more at the end was added by these writes.
        let last_seq = |db: &Connection| model::last_seq(db).unwrap_or_default();
        let before = last_seq(&self.connection);
        let mut completions = Vec::with_capacity(batch.len());
        let mut jobs = batch.into_iter();
        let written =
            jobs.by_ref().try_for_each(|job| run_in_savepoint(&self.connection, job, &mut completions));
        let changes = last_seq(&self.connection).saturating_sub(before);
        let committed = written.and_then(|()| self.commit());
        STORE.batch.observe(writes.into());
        STORE.seconds.observe(began.elapsed().as_secs_f64());
        if committed.is_ok() {
            STORE.changes.inc_by(changes);
        }
        if let Err(why) = &committed {
            if !self.connection.is_autocommit() {
                let undone = self.connection.execute_batch("ROLLBACK");
                undone.unwrap_or_else(|error| log::error!("database: a rollback failed: {error}"));
            }
            refuse(jobs, why);
        }
        (completions, committed)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let bells = self.ringer.bells(&self.connection);
        still_open(&self.connection, None)?;
        run(&self.connection, "COMMIT")?;
        self.ringer.ring(&bells);
        Ok(())
    }

    /// Tells the log of the first failure, and when all is well again.
    fn note(&mut self, failure: Option<&StoreError>) {
        match failure {
            Some(why) if !self.in_trouble => log::warn!("database: writes are refused: {why}"),
            None if self.in_trouble => log::info!("database: writes are taken again"),
            _ => {}
        }
        self.in_trouble = failure.is_some();
    }
}

fn refuse(jobs: impl IntoIterator<Item = Box<dyn Write>>, why: &StoreError) {
    for job in jobs {
        report(|| job.refuse(why.again()));
    }
}

/// Tells one asker how its write ended. If that panics, the writer thread must live on: all others need it.
fn report<R>(tell: impl FnOnce() -> R) -> Option<R> {
    let told = catch_unwind(AssertUnwindSafe(tell));
    told.inspect_err(|_| log::error!("the report of a write panicked")).ok()
}

/// Runs one write so that, if it fails or panics, nothing of it remains and the others are not touched.
///
/// An error says that the transaction is lost, with all that was done in it: SQLite undoes everything by itself
/// where the disk is full, and what would come after it would be a transaction of its own.
fn run_in_savepoint(
    transaction: &Connection,
    job: Box<dyn Write>,
    completions: &mut Vec<Completion>,
) -> Result<(), StoreError> {
    if let Err(error) = run(transaction, "SAVEPOINT one") {
        let why = StoreError::from(error);
        report(|| job.refuse(why.again()));
        return Err(why);
    }
    let ran = catch_unwind(AssertUnwindSafe(|| job.run(transaction)));
    let is_good = match ran {
        Ok((ran, completion)) => {
            completions.push(completion);
            still_open(transaction, ran.as_ref().err())?;
            ran.is_ok()
        }
        Err(_) => false,
    };
    if !is_good {
        run(transaction, "ROLLBACK TO one")?;
    }
    Ok(run(transaction, "RELEASE one")?)
}

/// An error if SQLite has ended the transaction by itself, as it does after some failures.
fn still_open(transaction: &Connection, failure: Option<&StoreError>) -> Result<(), StoreError> {
    if transaction.is_autocommit() {
        return Err(failure.map_or(StoreError::Unwritable(ffi::SQLITE_ABORT_ROLLBACK), StoreError::again));
    }
    Ok(())
}

fn cannot_open(path: &Path, why: &dyn fmt::Display) -> String {
    format!("cannot open the database {}: {why}", path.display())
}

/// As `cannot_open`. SQLite says of a file that it may not write now this and now that, depending on which of the two
/// beside it are there.
fn explain_start(path: &Path, error: &StoreError) -> String {
    match error {
        StoreError::ReadOnly | StoreError::Unopened => cannot_open(
            path,
            &"it, or a file beside it (-wal, -shm), may not be written: is the disk mounted read-only, \
              or is the file somebody else's?",
        ),
        other => cannot_open(path, other),
    }
}

/// Makes the file, for its owner alone, if it is not there.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Runs a statement that is run often.
fn run(connection: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn connect(path: &Path, busy_timeout: Duration) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // What a savepoint needs to be undone is small: it needs no file, which a full disk would refuse.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // In KiB. The file is in the system's memory as well: a larger copy here would be a second one.
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// WAL mode, and the migrations that this file has not seen. Several processes may do this at once.
fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    switch_to_wal(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let newest = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if version > newest {
        let newer =
            format!("its schema has version {version}, newer than this program, which knows {newest}");
        return Err(StoreError::Sqlite(rusqlite::Error::ToSqlConversionFailure(newer.into())));
    }
    for (number, migration) in (1..=newest).zip(MIGRATIONS).filter(|(number, _)| *number > version) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        log::info!("database: schema version {number}");
    }
    Ok(transaction.commit()?)
}

/// The switch to WAL needs the file for itself for a moment, and SQLite does not wait for that by itself.
fn switch_to_wal(connection: &Connection) -> Result<(), StoreError> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let switched =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match switched.map_err(StoreError::from) {
            Err(StoreError::Busy) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            Ok(_) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl StoreError {
    /// The same error once more: one failed commit is told to everybody who was part of it.
    fn again(&self) -> Self {
        match self {
            Self::Busy => Self::Busy,
            Self::TooLate => Self::TooLate,
            Self::DiskFull => Self::DiskFull,
            Self::ReadOnly => Self::ReadOnly,
            Self::Unwritable(code) => Self::Unwritable(*code),
            Self::Unopened => Self::Unopened,
            Self::NotFound => Self::NotFound,
            Self::Taken => Self::Taken,
            Self::Changed => Self::Changed,
            Self::Refused(failure) => Self::Refused(failure.clone()),
            Self::Sqlite(error) => {
                Self::Sqlite(rusqlite::Error::ToSqlConversionFailure(error.to_string().into()))
            }
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::CannotOpen) => Self::Unopened,
            Some(ErrorCode::SystemIoFailure) => match error.sqlite_error().map_or(0, |e| e.extended_code) {
                ffi::SQLITE_IOERR_SHMSIZE => Self::DiskFull,
                code if NOTHING_WRITTEN.contains(&code) => Self::Unwritable(code),
                _ => Self::Sqlite(error),
            },
            Some(ErrorCode::ConstraintViolation)
                if error.sqlite_error().is_some_and(|e| e.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE) =>
            {
                Self::Taken
            }
            _ => Self::Sqlite(error),
        }
    }
}

/// Failures of the disk after which nothing was written. One of `fsync` is not among them: after it nobody knows.
const NOTHING_WRITTEN: [i32; 3] =
    [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMOPEN, ffi::SQLITE_IOERR_SHMMAP];

/// The one table of store errors and what a client is told.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Refused(failure) => return failure.clone(),
            StoreError::NotFound => 404,
            StoreError::Taken => 409,
            StoreError::Changed => 412,
            StoreError::Busy
            | StoreError::TooLate
            | StoreError::DiskFull
            | StoreError::Unwritable(_)
            | StoreError::Unopened => 503,
            StoreError::ReadOnly => 500,
            StoreError::Sqlite(detail) => {
                // For whoever runs the service; a client can do nothing with it.
                log::error!("database: {detail}");
                return Self::new(500, "the database failed; the log of the users service says more");
            }
        };
        Self::new(status, error.to_string())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the database is busy; try again in a moment"),
            Self::TooLate => f.write_str("the write was not begun in time and has not been carried out"),
            Self::DiskFull => f.write_str("the disk is full; nothing was written"),
            Self::ReadOnly => f.write_str("the database file may not be written; nothing was written"),
            Self::Unwritable(code) => {
                write!(f, "the disk does not take what is written (SQLite error {code}); nothing was written")
            }
            Self::Unopened => f.write_str("the database file cannot be opened now; try again in a moment"),
            Self::NotFound => f.write_str("there is no such row"),
            Self::Taken => f.write_str("another row has this value"),
            Self::Changed => f.write_str("it has been changed since you read it; read it again"),
            Self::Refused(failure) => write!(f, "{failure}"),
            Self::Sqlite(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for StoreError {}
