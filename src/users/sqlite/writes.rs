//! The write statements, and the connection of the writer thread.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::super::passwords::{PasswordHash, TokenHash};
use super::super::store::{
    FAILED_LOGIN_WINDOW_MS, GroupCommit, MAX_FAILED_LOGINS, StoreError, UserReader, UserTransaction,
};
use super::super::values::{Expiry, NewUser, User, UserUpdate, email_key};
use super::connection::run;
use super::errors::TRANSACTION_LOST;
use super::reads::{HasConnection, columns, user};
use crate::clock;

/// The connection that writes.
pub struct SqliteWriter {
    connection: Connection,
    /// How many changes the feed keeps.
    keep_changes: u64,
}

impl SqliteWriter {
    pub(super) fn new(connection: Connection, keep_changes: u64) -> Self {
        Self { connection, keep_changes }
    }

    /// The user with this id, if its version is among the `expected` ones.
    fn expect_version(&self, id: i64, expected: Option<&[u64]>) -> Result<User, StoreError> {
        let sql = concat!("SELECT ", columns!(), " FROM users WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(sql)?;
        let found = statement.query_row([id], user).optional()?.ok_or(StoreError::NotFound)?;
        match expected {
            Some(expected) if !expected.contains(&found.changed_seq) => Err(StoreError::Changed),
            _ => Ok(found),
        }
    }

    /// Adds the change that produced this user to the feed, in the same transaction. Old changes are deleted in steps
    /// of a thousandth of the kept number.
    fn add_change(&self, kind: &str, user: &User, at: &str) -> Result<(), StoreError> {
        let (seq, keep) = (user.changed_seq, self.keep_changes);
        let json = if kind == "deleted" { None } else { serde_json::to_string(user).ok() };
        let sql = "INSERT INTO changes (seq, kind, user_id, user, at) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.connection.prepare_cached(sql)?.execute(params![seq, kind, user.id, json, at])?;
        if seq > keep && seq.is_multiple_of((keep / 1000).max(1)) {
            let sql = "DELETE FROM changes WHERE seq <= ?1";
            self.connection.prepare_cached(sql)?.execute([seq - keep])?;
        }
        Ok(())
    }
}

impl HasConnection for SqliteWriter {
    fn connection(&self) -> Result<&Connection, StoreError> {
        Ok(&self.connection)
    }
}

/// The current time in the stored form.
fn now() -> String {
    clock::rfc3339(clock::since_epoch())
}

impl UserTransaction for SqliteWriter {
    fn create(&self, new: &NewUser) -> Result<User, StoreError> {
        let sql = "INSERT INTO users
                   (email, email_key, name, password_hash, created_at, updated_at, changed_seq, role)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7)";
        let (seq, now) = (self.last_seq()? + 1, now());
        let hash = new.password.as_ref().map(PasswordHash::as_str);
        let values = params![new.email, email_key(&new.email), new.name, hash, now, seq, new.role.as_str()];
        self.connection.prepare_cached(sql)?.execute(values)?;
        let user = User {
            id: self.connection.last_insert_rowid(),
            email: Some(new.email.clone()),
            name: new.name.clone(),
            created_at: now.clone(),
            updated_at: now,
            role: new.role,
            changed_seq: seq,
        };
        self.add_change("created", &user, &user.updated_at)?;
        Ok(user)
    }

    fn update(&self, id: i64, update: &UserUpdate, expected: Option<&[u64]>) -> Result<User, StoreError> {
        let db = &self.connection;
        let old = self.expect_version(id, expected)?;
        if let Some(email) = &update.email {
            // A separate statement. Otherwise every change of a name would write the index of the addresses too.
            let sql = "UPDATE users SET email = ?2, email_key = ?3 WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, email, email_key(email)])?;
        }
        if let Some(password) = &update.password {
            let sql = "UPDATE users SET password_hash = ?2 WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, password.as_str()])?;
            db.prepare_cached("DELETE FROM tokens WHERE user_id = ?1")?.execute([id])?;
        }
        let user = User {
            email: update.email.clone().or(old.email),
            name: update.name.clone().unwrap_or(old.name),
            updated_at: now(),
            changed_seq: self.last_seq()? + 1,
            ..old
        };
        let sql = "UPDATE users SET name = ?2, updated_at = ?3, changed_seq = ?4 WHERE id = ?1";
        db.prepare_cached(sql)?.execute(params![id, user.name, user.updated_at, user.changed_seq])?;
        self.add_change("updated", &user, &user.updated_at)?;
        Ok(user)
    }

    fn delete(&self, id: i64, expected: Option<&[u64]>) -> Result<User, StoreError> {
        let old = self.expect_version(id, expected)?;
        self.connection.prepare_cached("DELETE FROM users WHERE id = ?1")?.execute([id])?;
        let deleted = User { changed_seq: self.last_seq()? + 1, ..old };
        self.add_change("deleted", &deleted, &now())?;
        Ok(deleted)
    }

    fn add_token(
        &self,
        user_id: i64,
        checked: &PasswordHash,
        token: &TokenHash,
        seconds: u64,
    ) -> Result<Expiry, StoreError> {
        let expired = "DELETE FROM tokens
                       WHERE user_id = ?1 AND expires_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
        self.connection.prepare_cached(expired)?.execute([user_id])?;
        let sql = "INSERT INTO tokens (hash, user_id, created_at, expires_at)
                   SELECT ?1, id, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
                       strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?3)
                   FROM users WHERE id = ?2 AND password_hash = ?4 RETURNING expires_at";
        let values = params![token, user_id, format!("+{seconds} seconds"), checked.as_str()];
        let mut statement = self.connection.prepare_cached(sql)?;
        let expires_at = statement.query_row(values, |row| row.get(0)).optional()?;
        Ok(Expiry { expires_at: expires_at.ok_or(StoreError::NotFound)? })
    }

    fn end_token(&self, token: &TokenHash) -> Result<bool, StoreError> {
        let was_valid = self.token_owner(token)?.is_some();
        self.connection.prepare_cached("DELETE FROM tokens WHERE hash = ?1")?.execute([token])?;
        Ok(was_valid)
    }

    fn make_admin(&self, email: &str) -> Result<Option<(User, bool)>, StoreError> {
        let seq = self.last_seq()? + 1;
        let sql = concat!(
            "UPDATE users SET role = 'admin', updated_at = ?3, changed_seq = ?2
             WHERE email_key = ?1 AND role <> 'admin' RETURNING ",
            columns!()
        );
        let mut statement = self.connection.prepare_cached(sql)?;
        let changed = statement.query_row(params![email_key(email), seq, now()], user).optional()?;
        if let Some(user) = changed {
            self.add_change("updated", &user, &user.updated_at)?;
        }
        Ok(self.credentials(email)?.map(|(user, password)| (user, password.is_some())))
    }

    fn count_failed_login(&self, subjects: &[&[u8]]) -> Result<(), StoreError> {
        let db = &self.connection;
        let forget = "DELETE FROM failed_logins
                      WHERE at_ms <= CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?1
                         OR at_ms > CAST(unixepoch('subsec') * 1000 AS INTEGER) + ?1";
        db.prepare_cached(forget)?.execute([FAILED_LOGIN_WINDOW_MS])?;
        let add = "INSERT INTO failed_logins (subject, at_ms)
                   VALUES (?1, CAST(unixepoch('subsec') * 1000 AS INTEGER))";
        for subject in subjects {
            db.prepare_cached(add)?.execute([subject])?;
        }
        let limit = "DELETE FROM failed_logins WHERE id <= (SELECT max(id) FROM failed_logins) - ?1";
        db.prepare_cached(limit)?.execute([MAX_FAILED_LOGINS])?;
        Ok(())
    }

    fn add_listener(&self, port: u16) -> Result<(), StoreError> {
        let sql = "INSERT OR IGNORE INTO bells (port) VALUES (?1)";
        self.connection.prepare_cached(sql)?.execute([port])?;
        Ok(())
    }

    fn remove_listener(&self, port: u16) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM bells WHERE port = ?1")?.execute([port])?;
        Ok(())
    }

    fn listeners(&self) -> Result<Vec<u16>, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT port FROM bells")?;
        let ports = statement.query_map([], |row| row.get(0))?;
        Ok(ports.collect::<Result<_, _>>()?)
    }
}

impl GroupCommit for SqliteWriter {
    fn begin(&self, wait: Duration) -> Result<(), StoreError> {
        self.connection.busy_timeout(wait)?;
        Ok(run(&self.connection, "BEGIN IMMEDIATE")?)
    }

    fn set_savepoint(&self) -> Result<(), StoreError> {
        Ok(run(&self.connection, "SAVEPOINT one")?)
    }

    fn undo_savepoint(&self) -> Result<(), StoreError> {
        Ok(run(&self.connection, "ROLLBACK TO one")?)
    }

    fn release_savepoint(&self) -> Result<(), StoreError> {
        Ok(run(&self.connection, "RELEASE one")?)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() { Err(TRANSACTION_LOST) } else { Ok(()) }
    }

    fn commit(&self) -> Result<(), StoreError> {
        Ok(run(&self.connection, "COMMIT")?)
    }

    fn roll_back(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        Ok(self.connection.execute_batch("ROLLBACK")?)
    }
}
