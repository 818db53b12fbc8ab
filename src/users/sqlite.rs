//! The SQLite engine: one file, eight connections that read, one that writes. All SQL is in this folder.
//!
//! | part | content |
//! | --- | --- |
//! | this file | opening the file, migrations |
//! | `connection` | how a connection is opened |
//! | `readers` | the connections that read, and which state they see |
//! | `reads`, `writes` | the statements, each once |
//! | `errors` | maps an SQLite error to a store error |
//!
//! In WAL mode a read that starts after a commit sees it, in this process and in every other process on the same file.
//! So every client can read its own writes.

mod connection;
mod errors;
mod readers;
mod reads;
mod writes;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use super::store::{BUSY_TIMEOUT, Engine, StoreError, View};
use crate::service::Batch;
use connection::connect;
use readers::Readers;
pub use readers::{LentReader, MAX_READERS};
pub use writes::SqliteWriter;

/// The migrations, in order: the first creates version 1 from an empty file. Each is applied once.
const MIGRATIONS: [&str; 3] = [
    include_str!("../../data/schema.sql"),
    include_str!("../../data/schema-2.sql"),
    include_str!("../../data/schema-3.sql"),
];

/// An opened database file.
pub struct Sqlite {
    readers: Arc<Readers>,
}

impl Sqlite {
    /// Opens the file, creates it if it does not exist, and brings its schema up to date. Its feed keeps this number of
    /// changes. Returns the engine and the connection for the writer thread.
    ///
    /// # Errors
    /// A sentence that names the file and the reason.
    pub fn open(path: &Path, keep_changes: u64) -> Result<(Self, SqliteWriter), String> {
        let explain = |error: &dyn fmt::Display| cannot_open(path, error);
        // SQLite does not open a file for these names. In memory, each connection would have a separate database.
        if path.to_str().is_some_and(|name| name == ":memory:" || name.starts_with("file:")) {
            return Err(explain(&"name a file, not an SQLite URI or a database in memory"));
        }
        create_private(path).map_err(|error| explain(&error))?;
        let failed = |error| explain_start(path, &error);
        let mut database = connect(path).map_err(failed)?;
        if database.is_readonly("main").map_err(|error| failed(error.into()))? {
            return Err(failed(StoreError::ReadOnly));
        }
        migrate(&mut database).map_err(failed)?;
        // If no descriptor is free later, all reads share this connection.
        let reader = connect(path).map_err(failed)?;
        reader
            .query_row("SELECT count(*) FROM bells", [], |_| Ok(()))
            .map_err(|error| failed(error.into()))?;
        Ok((
            Self { readers: Arc::new(Readers::new(path, reader)) },
            SqliteWriter::new(database, keep_changes),
        ))
    }

    fn path(&self) -> &PathBuf {
        self.readers.path()
    }
}

impl Engine for Sqlite {
    type Reader<'a> = LentReader<'a>;
    type Writer = SqliteWriter;

    fn reader(&self, view: View) -> Result<LentReader<'_>, StoreError> {
        self.readers.lend(view)
    }

    fn idle_reader(&self) -> Option<LentReader<'_>> {
        self.readers.lend_idle()
    }

    fn reader_in(&self, batch: Option<&Arc<Batch>>) -> Result<LentReader<'_>, StoreError> {
        self.readers.lend_in(batch)
    }

    fn explain(&self, error: &StoreError) -> String {
        explain_start(self.path(), error)
    }
}

fn cannot_open(path: &Path, why: &dyn fmt::Display) -> String {
    format!("cannot open the database {}: {why}", path.display())
}

/// Like `cannot_open`. SQLite reports a file without write permission in different ways, depending on which of its two
/// companion files exist.
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

/// Creates the file, readable only by its owner, if it does not exist.
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

/// Switches to WAL mode and applies the migrations that this file lacks. Several processes may do this at once.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    switch_to_wal(connection)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let newest = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if version > newest {
        return Err(StoreError::Unknown(format!(
            "its schema has version {version}, newer than this program, which knows {newest}"
        )));
    }
    for (number, migration) in (1..=newest).zip(MIGRATIONS).filter(|(number, _)| *number > version) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
        log::info!("database: schema version {number}");
    }
    Ok(transaction.commit()?)
}

/// The switch to WAL needs exclusive access to the file for a moment. SQLite does not wait for it, so we retry.
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
