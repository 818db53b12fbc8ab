//! The read statements.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use super::super::passwords::{PasswordHash, TokenHash};
use super::super::store::{FAILED_LOGIN_WINDOW_MS, StoreError, UserReader};
use super::super::values::{Change, Role, TokenOwner, User, UserPage, email_key};
use super::readers::LentReader;

/// The columns of a [`User`], in the order of [`user`]. This is a macro so that the statements are constants.
macro_rules! columns {
    () => {
        "id, email, name, created_at, updated_at, changed_seq, role = 'admin'"
    };
}
pub(super) use columns;

/// The readers and the writer each read over a separate connection.
pub trait HasConnection {
    /// The connection.
    fn connection(&self) -> Result<&Connection, StoreError>;
}

impl HasConnection for LentReader<'_> {
    fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection()
    }
}

/// A row with the columns of `columns!`.
pub(super) fn user(row: &Row<'_>) -> rusqlite::Result<User> {
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

impl<T: HasConnection> UserReader for T {
    fn get(&self, id: i64) -> Result<(User, u64), StoreError> {
        // One statement sees one state, so the user and the number belong together.
        let sql = concat!(
            "SELECT ",
            columns!(),
            ", (SELECT coalesce(max(seq), 0) FROM changes) FROM users WHERE id = ?1"
        );
        let row = |row: &Row<'_>| Ok((user(row)?, row.get(7)?));
        let mut statement = self.connection()?.prepare_cached(sql)?;
        statement.query_row([id], row).optional()?.ok_or(StoreError::NotFound)
    }

    fn list(&self, limit: usize, after: i64, email: Option<&str>) -> Result<UserPage, StoreError> {
        let db = self.connection()?;
        let one_more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut users: Vec<User> = match email {
            None => {
                let sql = concat!("SELECT ", columns!(), " FROM users WHERE id > ?1 ORDER BY id LIMIT ?2");
                db.prepare_cached(sql)?.query_map([after, one_more], user)?.collect::<Result<_, _>>()?
            }
            Some(email) => {
                let sql = concat!(
                    "SELECT ",
                    columns!(),
                    " FROM users WHERE id > ?1 AND email_key = ?2 ORDER BY id LIMIT ?3"
                );
                let values = params![after, email_key(email), one_more];
                db.prepare_cached(sql)?.query_map(values, user)?.collect::<Result<_, _>>()?
            }
        };
        let more = users.len() > limit;
        users.truncate(limit);
        Ok(UserPage { users, more, seq: self.last_seq()? })
    }

    fn changes_after(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let sql = "SELECT seq, kind, user_id, user, at FROM changes WHERE seq > ?1 ORDER BY seq LIMIT ?2";
        let change = |row: &Row<'_>| {
            let user: Option<String> = row.get(3)?;
            // It was JSON when it was written.
            let user = user.and_then(|json| RawValue::from_string(json).ok());
            Ok(Change { seq: row.get(0)?, kind: row.get(1)?, user_id: row.get(2)?, user, at: row.get(4)? })
        };
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.connection()?.prepare_cached(sql)?;
        let rows = statement.query_map([after, limit], change)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn last_seq(&self) -> Result<u64, StoreError> {
        let sql = "SELECT coalesce(max(seq), 0) FROM changes";
        Ok(self.connection()?.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    fn oldest_seq(&self) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT min(seq) FROM changes";
        Ok(self.connection()?.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    fn token_owner(&self, token: &TokenHash) -> Result<Option<TokenOwner>, StoreError> {
        let sql = "SELECT user_id, role = 'admin', (julianday(expires_at) - julianday('now')) * 86400.0
                   FROM tokens JOIN users ON users.id = user_id
                   WHERE hash = ?1 AND expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
        let owner = |row: &Row<'_>| {
            Ok(TokenOwner { user_id: row.get(0)?, admin: row.get(1)?, seconds_left: row.get(2)? })
        };
        Ok(self.connection()?.prepare_cached(sql)?.query_row([token], owner).optional()?)
    }

    fn credentials(&self, email: &str) -> Result<Option<(User, Option<PasswordHash>)>, StoreError> {
        let sql = concat!("SELECT ", columns!(), ", password_hash FROM users WHERE email_key = ?1");
        let row =
            |row: &Row<'_>| Ok((user(row)?, row.get::<_, Option<String>>(7)?.map(PasswordHash::from_stored)));
        Ok(self.connection()?.prepare_cached(sql)?.query_row([email_key(email)], row).optional()?)
    }

    fn has_email(&self, id: i64, email: &str) -> Result<bool, StoreError> {
        let sql = "SELECT email_key = ?2 FROM users WHERE id = ?1";
        let mut statement = self.connection()?.prepare_cached(sql)?;
        let has = statement.query_row(params![id, email_key(email)], |row| row.get(0));
        Ok(has.optional()?.unwrap_or(false))
    }

    fn rights_version(&self) -> Result<u64, StoreError> {
        let sql = "SELECT changed FROM rights";
        Ok(self.connection()?.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    fn login_wait_ms(&self, subject: &[u8], limit: u32) -> Result<i64, StoreError> {
        // The row is the failure that must expire before another one is permitted. If the clock was set back, rows may
        // be in the future; those beyond the window do not count.
        let sql = "SELECT at_ms + ?3 - CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM failed_logins
                   WHERE subject = ?1 AND at_ms
                       BETWEEN CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?3 + 1
                       AND CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?3
                   ORDER BY at_ms DESC LIMIT 1 OFFSET ?2";
        let mut statement = self.connection()?.prepare_cached(sql)?;
        let values = params![subject, limit.saturating_sub(1), FAILED_LOGIN_WINDOW_MS];
        Ok(statement.query_row(values, |row| row.get(0)).optional()?.unwrap_or(0))
    }
}
