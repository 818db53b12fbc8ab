//! One function maps SQLite errors to store errors.

use rusqlite::{ErrorCode, ffi};

use super::super::store::StoreError;

/// Disk failures that write nothing. A failed `fsync` is not one of them: its effect is unknown.
const NOTHING_WRITTEN: [i32; 3] =
    [ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_SHMOPEN, ffi::SQLITE_IOERR_SHMMAP];

/// SQLite has rolled back a transaction, which it does after some failures.
pub(super) const TRANSACTION_LOST: StoreError = StoreError::Unwritable(ffi::SQLITE_ABORT_ROLLBACK);

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let extended_code = error.sqlite_error().map_or(0, |error| error.extended_code);
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::CannotOpen) => Self::Unopened,
            Some(ErrorCode::SystemIoFailure) if extended_code == ffi::SQLITE_IOERR_SHMSIZE => Self::DiskFull,
            Some(ErrorCode::SystemIoFailure) if NOTHING_WRITTEN.contains(&extended_code) => {
                Self::Unwritable(extended_code)
            }
            Some(ErrorCode::ConstraintViolation) if extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE => {
                Self::Taken
            }
            _ => Self::Unknown(error.to_string()),
        }
    }
}
