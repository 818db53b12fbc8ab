//! Users and tokens as rows: the SQL of the users service, each statement once.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::access::{Asker, TokenHash};
use super::changes::Change;
use super::passwords::PasswordHash;
use super::store::StoreError;
use crate::clock;

/// This moment in SQL, as it is stored: RFC 3339, UTC. One statement sees one moment.
const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";

/// The columns of a [`User`], in the order in which they are read. A macro, so that statements are put together when
/// they are compiled and not whenever they are run.
macro_rules! columns {
    () => {
        "id, email, name, created_at, updated_at, changed_seq, role = 'admin'"
    };
}

/// A user as it is shown: without the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Given out by the database, from 1 up, never twice.
    pub id: i64,
    /// As it was written; no two users' differ in case alone. Nothing where it is not to be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Any text.
    pub name: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    /// RFC 3339, UTC.
    pub updated_at: String,
    /// What the user may do; told of admins alone.
    #[serde(default, skip_serializing_if = "Role::is_ordinary")]
    pub role: Role,
    /// The number of the change that made the user what it is: its version.
    #[serde(skip)]
    pub changed_seq: u64,
}

/// What a user may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See and change itself.
    #[default]
    User,
    /// Everything.
    Admin,
}

impl Role {
    // serde passes what it asks about by reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_ordinary(&self) -> bool {
        *self == Self::User
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

impl User {
    /// The user as this asker may see it: others' e-mail addresses are left out.
    #[must_use]
    pub fn shown_to(mut self, asker: &Asker) -> Self {
        if !asker.owns(self.id) {
            self.email = None;
        }
        self
    }
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
    /// What it may do.
    pub role: Role,
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
pub(super) fn email_key(email: &str) -> String {
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
        role: if row.get(6)? { Role::Admin } else { Role::User },
    })
}

/// Adds a user. [`StoreError::Taken`] if another has the e-mail.
pub fn create(db: &Connection, new: &NewUser, keep: u64) -> Result<User, StoreError> {
    let sql =
        "INSERT INTO users (email, email_key, name, password_hash, created_at, updated_at, changed_seq, role)
               VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)";
    let (seq, now) = (last_seq(db)? + 1, now());
    let hash = new.password.as_ref().map(PasswordHash::as_str);
    let values = params![new.email, email_key(&new.email), new.name, hash, now, seq, new.role.as_str()];
    db.prepare_cached(sql)?.execute(values)?;
    let user = User {
        id: db.last_insert_rowid(),
        email: Some(new.email.clone()),
        name: new.name.clone(),
        created_at: now.clone(),
        updated_at: now,
        role: new.role,
        changed_seq: seq,
    };
    record(db, "created", &user, &user.updated_at, keep)?;
    Ok(user)
}

/// The user with this id, and the number of the last change that this state contains. [`StoreError::NotFound`] if
/// there is no such user.
pub fn get(db: &Connection, id: i64) -> Result<(User, u64), StoreError> {
    // One statement sees one state: user and number belong together.
    let sql = concat!(
        "SELECT ",
        columns!(),
        ", (SELECT coalesce(max(seq), 0) FROM changes) FROM users WHERE id = ?1"
    );
    let row = |row: &Row<'_>| Ok((user(row)?, row.get(7)?));
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
            let sql = concat!("SELECT ", columns!(), " FROM users WHERE id > ?1 ORDER BY id LIMIT ?2");
            snapshot.prepare_cached(sql)?.query_map([after, one_more], user)?.collect::<Result<_, _>>()?
        }
        Some(email) => {
            let sql = concat!(
                "SELECT ",
                columns!(),
                " FROM users WHERE id > ?1 AND email_key = ?2 ORDER BY id LIMIT ?3"
            );
            let values = params![after, email_key(email), one_more];
            snapshot.prepare_cached(sql)?.query_map(values, user)?.collect::<Result<_, _>>()?
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
    let old = expect(db, id, expected)?;
    if let Some(email) = &changes.email {
        // By itself, or every change of a name would write the index of the e-mails as well.
        let sql = "UPDATE users SET email = ?2, email_key = ?3 WHERE id = ?1";
        db.prepare_cached(sql)?.execute(params![id, email, email_key(email)])?;
    }
    if let Some(password) = &changes.password {
        let sql = "UPDATE users SET password_hash = ?2 WHERE id = ?1";
        db.prepare_cached(sql)?.execute(params![id, password.as_str()])?;
        db.prepare_cached("DELETE FROM tokens WHERE user_id = ?1")?.execute([id])?;
    }
    let user = User {
        email: changes.email.clone().or(old.email),
        name: changes.name.clone().unwrap_or(old.name),
        updated_at: now(),
        changed_seq: last_seq(db)? + 1,
        ..old
    };
    let sql = "UPDATE users SET name = ?2, updated_at = ?3, changed_seq = ?4 WHERE id = ?1";
    db.prepare_cached(sql)?.execute(params![id, user.name, user.updated_at, user.changed_seq])?;
    record(db, "updated", &user, &user.updated_at, keep)?;
    Ok(user)
}

/// Deletes a user and all its tokens; the user as it was last, under the number of its deletion. Errors as
/// [`update`].
pub fn delete(db: &Connection, id: i64, expected: Option<&[u64]>, keep: u64) -> Result<User, StoreError> {
    let old = expect(db, id, expected)?;
    db.prepare_cached("DELETE FROM users WHERE id = ?1")?.execute([id])?;
    let gone = User { changed_seq: last_seq(db)? + 1, ..old };
    record(db, "deleted", &gone, &now(), keep)?;
    Ok(gone)
}

/// The user with this id, if its version is among the `expected` ones.
fn expect(db: &Connection, id: i64, expected: Option<&[u64]>) -> Result<User, StoreError> {
    let sql = concat!("SELECT ", columns!(), " FROM users WHERE id = ?1");
    let found = db.prepare_cached(sql)?.query_row([id], user).optional()?.ok_or(StoreError::NotFound)?;
    match expected {
        Some(expected) if !expected.contains(&found.changed_seq) => Err(StoreError::Changed),
        _ => Ok(found),
    }
}

/// Writes the change that has made this user what it is into the feed, in the transaction that makes it. Of those that
/// are now too old a thousandth of what is kept is forgotten at a time.
fn record(db: &Connection, kind: &str, user: &User, at: &str, keep: u64) -> Result<(), StoreError> {
    let seq = user.changed_seq;
    let json = if kind == "deleted" { None } else { serde_json::to_string(user).ok() };
    let sql = "INSERT INTO changes (seq, kind, user_id, user, at) VALUES (?1, ?2, ?3, ?4, ?5)";
    db.prepare_cached(sql)?.execute(params![seq, kind, user.id, json, at])?;
    if seq > keep && seq.is_multiple_of((keep / 1000).max(1)) {
        db.prepare_cached("DELETE FROM changes WHERE seq <= ?1")?.execute([seq - keep])?;
    }
    Ok(())
}

/// This moment as it is stored.
fn now() -> String {
    clock::rfc3339(clock::since_epoch())
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
    let sql = concat!("SELECT ", columns!(), ", password_hash FROM users WHERE email_key = ?1");
    let row =
        |row: &Row<'_>| Ok((user(row)?, row.get::<_, Option<String>>(7)?.map(PasswordHash::from_stored)));
    Ok(db.prepare_cached(sql)?.query_row([email_key(email)], row).optional()?)
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

/// Whose token this is, if it is anybody's and has not expired.
#[derive(Debug)]
pub struct TokenOwner {
    /// The user.
    pub user_id: i64,
    /// Whether that user may do everything.
    pub admin: bool,
    /// For how much longer the token is valid.
    pub seconds_left: f64,
}

/// Whose token has this hash.
pub fn token_owner(db: &Connection, hash: &TokenHash) -> Result<Option<TokenOwner>, StoreError> {
    let sql = "SELECT user_id, role = 'admin', (julianday(expires_at) - julianday('now')) * 86400.0
               FROM tokens JOIN users ON users.id = user_id
               WHERE hash = ?1 AND expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    let owner = |row: &Row<'_>| {
        Ok(TokenOwner { user_id: row.get(0)?, admin: row.get(1)?, seconds_left: row.get(2)? })
    };
    Ok(db.prepare_cached(sql)?.query_row([hash], owner).optional()?)
}

/// Ends a token. Whether there was one that was still valid.
pub fn end_token(db: &Connection, hash: &TokenHash) -> Result<bool, StoreError> {
    let valid = token_owner(db, hash)?.is_some();
    db.prepare_cached("DELETE FROM tokens WHERE hash = ?1")?.execute([hash])?;
    Ok(valid)
}

/// A number that is another one whenever a token has ended or a role has changed.
pub fn rights(db: &Connection) -> Result<u64, StoreError> {
    Ok(db.prepare_cached("SELECT changed FROM rights")?.query_row([], |row| row.get(0))?)
}

/// Whether the user with this id has this e-mail address.
pub fn has_email(db: &Connection, id: i64, email: &str) -> Result<bool, StoreError> {
    let sql = "SELECT email_key = ?2 FROM users WHERE id = ?1";
    let has = db.prepare_cached(sql)?.query_row(params![id, email_key(email)], |row| row.get(0));
    Ok(has.optional()?.unwrap_or(false))
}

/// Makes the user with this e-mail address an admin. What it is now, and whether it has a password; nothing if there
/// is no such user.
pub fn make_admin(db: &Connection, email: &str, keep: u64) -> Result<Option<(User, bool)>, StoreError> {
    let seq = last_seq(db)? + 1;
    let sql = concat!(
        "UPDATE users SET role = 'admin', updated_at = ?3, changed_seq = ?2
         WHERE email_key = ?1 AND role <> 'admin' RETURNING ",
        columns!()
    );
    let changed =
        db.prepare_cached(sql)?.query_row(params![email_key(email), seq, now()], user).optional()?;
    if let Some(user) = changed {
        record(db, "updated", &user, &user.updated_at, keep)?;
    }
    Ok(credentials(db, email)?.map(|(user, password)| (user, password.is_some())))
}
