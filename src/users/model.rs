//! Users and tokens as rows: the SQL of the users service, each statement once.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde_json::value::RawValue;

use super::changes::Change;
use super::passwords::PasswordHash;
use super::store::StoreError;

/// This moment as it is stored: RFC 3339, UTC. One statement sees one moment.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// The columns of a [`User`], in the order in which they are read.
const COLUMNS: &str = "id, email, name, created_at, updated_at, changed_seq";

/// A user as everybody may see it: without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Given out by the database, from 1 up, never twice.
    pub id: i64,
    /// As it was written; no two users' differ in case alone.
    pub email: String,
    /// Any text.
    pub name: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub updated_at: String,
    /// The number of the change that made the user what it is: its version.
    #[serde(skip)]
    pub changed_seq: u64,
}

/// What a new user consists of.
#[derive(Debug)]
pub struct NewUser {
    /// Checked before.
    pub email: String,
    /// Checked before.
    pub name: String,
    /// Without one, the user cannot log in.
    pub password: Option<PasswordHash>,
}

/// What is to change in a user; nothing stays as it is.
#[derive(Debug, Default)]
pub struct Changes {
    /// The new e-mail.
    pub email: Option<String>,
    /// The new name.
    pub name: Option<String>,
    /// The new password; it ends every token that the old one opened.
    pub password: Option<PasswordHash>,
}

/// A token as it is given out, once.
#[derive(Debug, Clone, Serialize)]
pub struct Expiry {
    /// RFC 3339, UTC.
    pub expires_at: String,
}

/// How an e-mail is compared: without case.
fn email_key(email: &str) -> String {
    email.to_lowercase()
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    Ok(User {
        id: row.get(0)?,
        email: row.get(1)?,
        name: row.get(2)?,
        created_at: row.get(3)?,
        updated_at: row.get(4)?,
        changed_seq: row.get(5)?,
    })
}

/// Adds a user. [`StoreError::Taken`] if another has the e-mail.
pub fn create(db: &Connection, new: &NewUser, keep: u64) -> Result<User, StoreError> {
    let sql = format!(
        "INSERT INTO users (email, email_key, name, password_hash, created_at, updated_at, changed_seq)
         VALUES (?1, ?2, ?3, ?4, {NOW}, {NOW}, ?5) RETURNING {COLUMNS}"
    );
    let hash = new.password.as_ref().map(PasswordHash::as_str);
    let seq = last_seq(db)? + 1;
    let values = params![new.email, email_key(&new.email), new.name, hash, seq];
    let user = db.prepare_cached(&sql)?.query_row(values, user)?;
    record(db, seq, "created", user.id, Some(&user), keep)?;
    Ok(user)
}

/// The user with this id, and the number of the last change that this state contains. [`StoreError::NotFound`] if
/// there is no such user.
pub fn get(db: &Connection, id: i64) -> Result<(User, u64), StoreError> {
    // Written out, since this is the busiest statement by far and need not be put together each time. One
    // statement sees one state: user and number belong together.
    let sql = "SELECT id, email, name, created_at, updated_at, changed_seq,
               (SELECT coalesce(max(seq), 0) FROM changes) FROM users WHERE id = ?1";
    let row = |row: &Row<'_>| Ok((user(row)?, row.get(6)?));
    db.prepare_cached(sql)?.query_row([id], row).optional()?.ok_or(StoreError::NotFound)
}

/// A part of the list of users.
#[derive(Debug)]
pub struct Page {
    /// By id.
    pub users: Vec<User>,
    /// Whether there are more.
    pub more: bool,
    /// The number of the last change that this state contains.
    pub seq: u64,
}

/// Up to `limit` users with ids above `after`, by id.
pub fn list(db: &Connection, limit: usize, after: i64, email: Option<&str>) -> Result<Page, StoreError> {
    let snapshot = db.unchecked_transaction()?;
    let one_more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut users: Vec<User> = match email {
        None => {
            let sql = format!("SELECT {COLUMNS} FROM users WHERE id > ?1 ORDER BY id LIMIT ?2");
            snapshot.prepare_cached(&sql)?.query_map([after, one_more], user)?.collect::<Result<_, _>>()?
        }
        Some(email) => {
            let sql =
                format!("SELECT {COLUMNS} FROM users WHERE id > ?1 AND email_key = ?2 ORDER BY id LIMIT ?3");
            let values = params![after, email_key(email), one_more];
            snapshot.prepare_cached(&sql)?.query_map(values, user)?.collect::<Result<_, _>>()?
        }
    };
    let more = users.len() > limit;
    users.truncate(limit);
    Ok(Page { users, more, seq: last_seq(&snapshot)? })
}

/// Changes a user. [`StoreError::NotFound`] if there is none, [`StoreError::Taken`] if another has the e-mail,
/// [`StoreError::Changed`] if its version is none of the `expected` ones.
pub fn update(
    db: &Connection,
    id: i64,
    changes: &Changes,
    expected: Option<&[u64]>,
    keep: u64,
) -> Result<User, StoreError> {
    let sql = format!(
        "UPDATE users SET email = coalesce(?2, email), email_key = coalesce(?3, email_key),
         name = coalesce(?4, name), password_hash = coalesce(?5, password_hash), updated_at = {NOW},
         changed_seq = ?6 WHERE id = ?1 RETURNING {COLUMNS}"
    );
    expect_version(db, id, expected)?;
    let hash = changes.password.as_ref().map(PasswordHash::as_str);
    let seq = last_seq(db)? + 1;
    let values = params![id, changes.email, changes.email.as_deref().map(email_key), changes.name, hash, seq];
    let user =
        db.prepare_cached(&sql)?.query_row(values, self::user).optional()?.ok_or(StoreError::NotFound)?;
    if hash.is_some() {
        db.prepare_cached("DELETE FROM tokens WHERE user_id = ?1")?.execute([id])?;
    }
    record(db, seq, "updated", id, Some(&user), keep)?;
    Ok(user)
}

/// Deletes a user and all its tokens; the user as it was last, under the number of its deletion. Errors as
/// [`update`].
pub fn delete(db: &Connection, id: i64, expected: Option<&[u64]>, keep: u64) -> Result<User, StoreError> {
    let sql = format!("DELETE FROM users WHERE id = ?1 RETURNING {COLUMNS}");
    expect_version(db, id, expected)?;
    let user = db.prepare_cached(&sql)?.query_row([id], user).optional()?.ok_or(StoreError::NotFound)?;
    let seq = last_seq(db)? + 1;
    record(db, seq, "deleted", id, None, keep)?;
    Ok(User { changed_seq: seq, ..user })
}

fn expect_version(db: &Connection, id: i64, expected: Option<&[u64]>) -> Result<(), StoreError> {
    let Some(expected) = expected else { return Ok(()) };
    let sql = "SELECT changed_seq FROM users WHERE id = ?1";
    let version: Option<u64> = db.prepare_cached(sql)?.query_row([id], |row| row.get(0)).optional()?;
    match version {
        None => Err(StoreError::NotFound),
        Some(version) if expected.contains(&version) => Ok(()),
        Some(_) => Err(StoreError::Changed),
    }
}

/// Writes a change into the feed, in the transaction that makes it, and forgets the one that is now too old.
fn record(
    db: &Connection,
    seq: u64,
    kind: &str,
    user_id: i64,
    user: Option<&User>,
    keep: u64,
) -> Result<(), StoreError> {
    let json = user.and_then(|user| serde_json::to_string(user).ok());
    let sql = format!("INSERT INTO changes (seq, kind, user_id, user, at) VALUES (?1, ?2, ?3, ?4, {NOW})");
    db.prepare_cached(&sql)?.execute(params![seq, kind, user_id, json])?;
    db.prepare_cached("DELETE FROM changes WHERE seq <= ?1")?.execute([seq.saturating_sub(keep)])?;
    Ok(())
}

/// The number of the last change, 0 if there was none.
pub fn last_seq(db: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(max(seq), 0) FROM changes";
    Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// The number of the oldest change that is kept.
pub fn oldest_seq(db: &Connection) -> Result<Option<u64>, StoreError> {
    Ok(db.prepare_cached("SELECT min(seq) FROM changes")?.query_row([], |row| row.get(0))?)
}

/// Up to `limit` changes after `after`, in order.
pub fn changes(db: &Connection, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
    let sql = "SELECT seq, kind, user_id, user, at FROM changes WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let change = |row: &Row<'_>| {
        let user: Option<String> = row.get(3)?;
        // It was JSON when it was written.
        let user = user.and_then(|json| RawValue::from_string(json).ok());
        Ok(Change { seq: row.get(0)?, kind: row.get(1)?, user_id: row.get(2)?, user, at: row.get(4)? })
    };
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([after, limit], change)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The user with this e-mail, and the hash of its password if it has one.
pub fn credentials(db: &Connection, email: &str) -> Result<Option<(User, Option<PasswordHash>)>, StoreError> {
    let sql = format!("SELECT {COLUMNS}, password_hash FROM users WHERE email_key = ?1");
    let row =
        |row: &Row<'_>| Ok((user(row)?, row.get::<_, Option<String>>(6)?.map(PasswordHash::from_stored)));
    Ok(db.prepare_cached(&sql)?.query_row([email_key(email)], row).optional()?)
}

/// Adds a token for a user whose password is still the one that was checked, and clears out those of this user
/// that have expired. [`StoreError::NotFound`] if the user or the password has changed meanwhile.
pub fn add_token(
    db: &Connection,
    user_id: i64,
    checked: &PasswordHash,
    token_hash: &[u8],
    seconds: u64,
) -> Result<Expiry, StoreError> {
    let expired = format!("DELETE FROM tokens WHERE user_id = ?1 AND expires_at <= {NOW}");
    db.prepare_cached(&expired)?.execute([user_id])?;
    let sql = format!(
        "INSERT INTO tokens (hash, user_id, created_at, expires_at)
         SELECT ?1, id, {NOW}, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)
         FROM users WHERE id = ?2 AND password_hash = ?4 RETURNING expires_at"
    );
    let values = params![token_hash, user_id, format!("+{seconds} seconds"), checked.as_str()];
    let expires_at = db.prepare_cached(&sql)?.query_row(values, |row| row.get(0)).optional()?;
    Ok(Expiry { expires_at: expires_at.ok_or(StoreError::NotFound)? })
}
