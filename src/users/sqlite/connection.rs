//! A connection to the file, with our settings.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::super::store::{BUSY_TIMEOUT, StoreError};

/// Runs a statement that is used often.
pub fn run(connection: &Connection, sql: &str) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// Opens a connection with the settings that all our connections share.
pub fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The undo log of a savepoint is small. It is kept in memory, so that a full disk cannot reject it.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // In KiB. The system caches the file too, so a larger cache here would be a second copy.
    connection.pragma_update(None, "cache_size", -1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}
