//! The database operations that the users service needs. They contain no SQL: a database engine implements these
//! traits.
//!
//! | trait | content |
//! | --- | --- |
//! | [`UserReader`] | the read operations |
//! | [`UserTransaction`] | the write operations, inside an open transaction |
//! | [`GroupCommit`] | how the writer thread begins, divides and commits a transaction |
//! | [`Engine`] | one opened database: it lends readers |
//! | [`Operation`] | a write as data, composed of write operations; it can be executed again |
//!
//! `contract.rs` tests every operation through these traits. Every engine must pass it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::passwords::{PasswordHash, TokenHash};
use super::values::{Change, Expiry, NewUser, TokenOwner, User, UserPage, UserUpdate};
use crate::packet::Failure;
use crate::service::Batch;

#[cfg(test)]
pub(super) mod contract;

/// How long to wait for another process that writes. A gateway waits longer, so that its client learns the reason.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a failed login counts, in milliseconds.
pub const FAILED_LOGIN_WINDOW_MS: i64 = 60_000;

/// How many failed logins are kept. Each costs one password hash, so one of our machines cannot produce more within the
/// window. Beyond this number the oldest are deleted early.
pub const MAX_FAILED_LOGINS: i64 = 100_000;

/// Which state of the database a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Each operation sees everything that was committed before the operation started.
    Newest,
    /// All operations of the reader see one state: the newest when the first of them starts.
    Snapshot,
}

/// The read operations.
pub trait UserReader {
    /// The user with this id, and the number of the last change that this state contains.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if no user has this id.
    fn get(&self, id: i64) -> Result<(User, u64), StoreError>;

    /// Up to `limit` users with ids above `after`, in the order of their ids. With `email`, only the user that has it.
    /// The page is one state only if the reader is a [`View::Snapshot`].
    ///
    /// # Errors
    /// Those of the database, as for all other read operations.
    fn list(&self, limit: usize, after: i64, email: Option<&str>) -> Result<UserPage, StoreError>;

    /// Up to `limit` changes with numbers above `after`, in order.
    fn changes_after(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// The number of the last change, 0 if there was none.
    fn last_seq(&self) -> Result<u64, StoreError>;

    /// The number of the oldest change that is kept.
    fn oldest_seq(&self) -> Result<Option<u64>, StoreError>;

    /// The owner of this token, if the token is valid.
    fn token_owner(&self, token: &TokenHash) -> Result<Option<TokenOwner>, StoreError>;

    /// The user with this e-mail address, and the hash of its password if it has one.
    fn credentials(&self, email: &str) -> Result<Option<(User, Option<PasswordHash>)>, StoreError>;

    /// Whether the user with this id has this e-mail address.
    fn has_email(&self, id: i64, email: &str) -> Result<bool, StoreError>;

    /// A number that changes whenever a token ends or a role changes.
    fn rights_version(&self) -> Result<u64, StoreError>;

    /// How many milliseconds remain until `subject` has fewer than `limit` failed logins in the window.
    /// It is 0 or less if there are fewer now.
    fn login_wait_ms(&self, subject: &[u8], limit: u32) -> Result<i64, StoreError>;
}

/// The write operations. They run inside a transaction, and see what it has already written.
pub trait UserTransaction: UserReader {
    /// Adds a user.
    ///
    /// # Errors
    /// [`StoreError::Taken`] if another user has the e-mail address.
    fn create(&self, new: &NewUser) -> Result<User, StoreError>;

    /// Changes a user.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the user does not exist, [`StoreError::Taken`] if another user has the e-mail
    /// address, [`StoreError::Changed`] if the version of the user is not among the `expected` ones.
    fn update(&self, id: i64, update: &UserUpdate, expected: Option<&[u64]>) -> Result<User, StoreError>;

    /// Deletes a user and all its tokens. Returns its last state, with the number of the deletion.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    fn delete(&self, id: i64, expected: Option<&[u64]>) -> Result<User, StoreError>;

    /// Adds a token that is valid for this number of seconds, and removes the expired tokens of this user.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if the user was deleted or its password differs from the `checked` one.
    fn add_token(
        &self,
        user_id: i64,
        checked: &PasswordHash,
        token: &TokenHash,
        seconds: u64,
    ) -> Result<Expiry, StoreError>;

    /// Removes a token. Returns whether it was valid.
    fn end_token(&self, token: &TokenHash) -> Result<bool, StoreError>;

    /// Makes the user with this e-mail address an admin. Returns the user and whether it has a password, or `None` if
    /// no user has the address.
    fn make_admin(&self, email: &str) -> Result<Option<(User, bool)>, StoreError>;

    /// Counts one failed login for each subject, and deletes those outside the window.
    fn count_failed_login(&self, subjects: &[&[u8]]) -> Result<(), StoreError>;

    /// Registers the loopback port of a process that needs notifications of commits.
    fn add_listener(&self, port: u16) -> Result<(), StoreError>;

    /// Removes a port whose process has ended.
    fn remove_listener(&self, port: u16) -> Result<(), StoreError>;

    /// The ports of all processes that need notifications of commits.
    fn listeners(&self) -> Result<Vec<u16>, StoreError>;
}

/// The connection of the writer thread. Many writes share one transaction, each in a separate savepoint.
pub trait GroupCommit: UserTransaction + Send + 'static {
    /// Begins a transaction. Waits at most `wait` for another process that writes.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if the other process still writes then.
    fn begin(&self, wait: Duration) -> Result<(), StoreError>;

    /// Sets the savepoint to which [`undo_savepoint`](Self::undo_savepoint) returns.
    fn set_savepoint(&self) -> Result<(), StoreError>;

    /// Undoes what was written since the savepoint.
    fn undo_savepoint(&self) -> Result<(), StoreError>;

    /// Removes the savepoint.
    fn release_savepoint(&self) -> Result<(), StoreError>;

    /// Checks that the engine has not ended the transaction, as it may after a failure.
    ///
    /// # Errors
    /// An error that reports this. In that case nothing of the transaction was written.
    fn check_open(&self) -> Result<(), StoreError>;

    /// Commits. From here on, the writes survive a power cut.
    fn commit(&self) -> Result<(), StoreError>;

    /// Undoes the whole transaction, if it is still open.
    fn roll_back(&self) -> Result<(), StoreError>;
}

/// One opened database. It lends readers; dropping a reader returns it.
pub trait Engine: Send + Sync + 'static {
    /// A reader on loan.
    type Reader<'a>: UserReader
    where
        Self: 'a;

    /// The connection of the writer thread.
    type Writer: GroupCommit;

    /// Lends a reader that sees this state.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if no reader was returned in time.
    fn reader(&self, view: View) -> Result<Self::Reader<'_>, StoreError>;

    /// Lends a reader of the newest state, if one is idle at this moment.
    fn idle_reader(&self) -> Option<Self::Reader<'_>>;

    /// Lends a reader of the state that all reads of this batch share; without a batch, of the newest state.
    /// Every request of the batch had arrived before the state was chosen, so it contains whatever its client knew.
    /// Use it only for answers to one client. A comparison with what other threads know needs the newest state.
    ///
    /// # Errors
    /// As [`reader`](Self::reader).
    fn reader_in(&self, batch: Option<&Arc<Batch>>) -> Result<Self::Reader<'_>, StoreError>;

    /// The sentence that states why this database cannot be used.
    fn explain(&self, error: &StoreError) -> String;
}

/// A write as data. It can be executed again, for instance after a transaction that was not applied.
pub trait Operation: Send + 'static {
    /// The result of the write.
    type Output: Send + 'static;

    /// Executes the write inside an open transaction. After an error, nothing of it may remain.
    ///
    /// # Errors
    /// Those of the database, and those by which the operation rejects the write.
    fn execute(&self, transaction: &dyn UserTransaction) -> Result<Self::Output, StoreError>;
}

/// Why a read or a write failed. One function of each engine chooses the variant.
#[derive(Debug, Clone)]
pub enum StoreError {
    // Not applied: the same operation may succeed later.
    /// Another process has been writing for too long, or too many writes wait.
    Busy,
    /// The deadline of the client has passed, so the write was not started.
    TooLate,
    /// The disk is full.
    DiskFull,
    /// The database may not be written.
    ReadOnly,
    /// The disk or its file system failed before anything was written. Contains the error code of the engine.
    Unwritable(i32),
    /// Another connection cannot be opened, for instance because no descriptor is free.
    Unopened,
    // Rejected: the same operation would be rejected again.
    /// The row does not exist.
    NotFound,
    /// Another row has this value, which must be unique.
    Taken,
    /// The version of the row is not an expected one.
    Changed,
    /// A rule of the service rejects the operation.
    Rejected(Failure),
    // Unknown: it may have been applied.
    /// Every other error of the engine, with its text.
    Unknown(String),
}

/// The only table that maps store errors to the failures that a client receives.
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Rejected(failure) => return failure.clone(),
            StoreError::NotFound => 404,
            StoreError::Taken => 409,
            StoreError::Changed => 412,
            StoreError::Busy
            | StoreError::TooLate
            | StoreError::DiskFull
            | StoreError::Unwritable(_)
            | StoreError::Unopened => 503,
            StoreError::ReadOnly => 500,
            StoreError::Unknown(detail) => {
                // Only the operator of the service can fix this.
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
            Self::TooLate => f.write_str("the write did not start before its deadline and was not applied"),
            Self::DiskFull => f.write_str("the disk is full; nothing was written"),
            Self::ReadOnly => f.write_str("the database file may not be written; nothing was written"),
            Self::Unwritable(code) => {
                write!(f, "the disk does not take what is written (SQLite error {code}); nothing was written")
            }
            Self::Unopened => f.write_str("the database file cannot be opened now; try again in a moment"),
            Self::NotFound => f.write_str("there is no such row"),
            Self::Taken => f.write_str("another row has this value"),
            Self::Changed => f.write_str("it has been changed since you read it; read it again"),
            Self::Rejected(failure) => write!(f, "{failure}"),
            Self::Unknown(detail) => f.write_str(detail),
        }
    }
}

impl std::error::Error for StoreError {}
