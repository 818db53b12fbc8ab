//! How often somebody may be wrong: a limit on failed logins.
//!
//! Failures are counted for each e-mail and for each client address, in the database, so that all instances on it
//! count together. A failure is forgotten after a minute. A login that succeeds is not counted, and clears nothing:
//! a guesser with an account of his own could clear his address with it, and one who takes turns with the owner's
//! logins would be given new guesses by each of them.
//!
//! The limit is looked at twice. Before the password is hashed, so that a guesser costs next to nothing. And in the
//! transaction that counts: whoever is over the limit then is refused whether the password was right or wrong, so
//! that any number of guesses at the same time get no more answers than one after the other.

use std::net::IpAddr;

use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::model::email_key;
use super::store::StoreError;
use crate::packet::Failure;

/// How many logins for one e-mail may fail within [`WINDOW_MS`].
pub const PER_EMAIL: u32 = 5;

/// How many logins from one client address may fail within [`WINDOW_MS`].
pub const PER_CLIENT: u32 = 20;

/// For how long a failure counts, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;

/// How many failures are kept at most. Each costs the hash of a password, so that this many within a minute come from
/// a machine far larger than ours; then the oldest are forgotten early.
const MAX_KEPT: i64 = 100_000;

/// This moment in milliseconds since 1970.
const NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// Who tries to log in, as failures are counted.
#[derive(Debug, Clone)]
pub struct Guesser {
    subjects: Vec<(Vec<u8>, u32)>,
}

impl Guesser {
    /// Whoever tries to log in with this e-mail from this address. Of an IPv6 address the first half counts: the rest
    /// is for its owner to choose.
    #[must_use]
    pub fn new(email: &str, client: Option<IpAddr>) -> Self {
        let mut subjects = vec![(subject("email", &email_key(email)), PER_EMAIL)];
        if let Some(client) = client {
            subjects.push((subject("client", &network(client)), PER_CLIENT));
        }
        Self { subjects }
    }

    /// Looks whether this one may still be wrong.
    ///
    /// # Errors
    /// 429 that says when to try again.
    pub fn look(&self, db: &Connection) -> Result<(), StoreError> {
        let mut wait_ms = 0_i64;
        for (subject, limit) in &self.subjects {
            // The failure that must be forgotten before there is room for another one. A clock that was set back
            // leaves failures in the future; those far off are none of ours.
            let sql = format!(
                "SELECT at_ms + {WINDOW_MS} - {NOW_MS} FROM failed_logins
                 WHERE subject = ?1 AND at_ms BETWEEN {NOW_MS} - {WINDOW_MS} + 1 AND {NOW_MS} + {WINDOW_MS}
                 ORDER BY at_ms DESC LIMIT 1 OFFSET ?2"
            );
            let left = db.prepare_cached(&sql)?.query_row(params![subject, limit - 1], |row| row.get(0));
            wait_ms = wait_ms.max(left.optional()?.unwrap_or(0));
        }
        if wait_ms <= 0 {
            return Ok(());
        }
        let seconds = (wait_ms + 999) / 1000;
        let told = format!("too many logins have failed; try again in {seconds} s");
        Err(StoreError::Refused(Failure::new(429, told).with("retry_after", seconds)))
    }

    /// Ends a try, in one transaction: looks for the last time, and then either `open`s what the right password opens
    /// or, if that is nothing, counts a failure.
    ///
    /// # Errors
    /// 429 as for [`look`](Self::look), and those of the database.
    pub fn conclude<T>(
        &self,
        db: &Connection,
        open: impl FnOnce() -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.look(db)?;
        let opened = open()?;
        if opened.is_none() {
            self.count(db)?;
        }
        Ok(opened)
    }

    /// Counts a failure, and forgets those that are too old.
    fn count(&self, db: &Connection) -> Result<(), StoreError> {
        let forget = format!(
            "DELETE FROM failed_logins WHERE at_ms <= {NOW_MS} - {WINDOW_MS} OR at_ms > {NOW_MS} + {WINDOW_MS}"
        );
        db.prepare_cached(&forget)?.execute([])?;
        let add = format!("INSERT INTO failed_logins (subject, at_ms) VALUES (?1, {NOW_MS})");
        for (subject, _) in &self.subjects {
            db.prepare_cached(&add)?.execute([subject])?;
        }
        db.prepare_cached("DELETE FROM failed_logins WHERE id <= (SELECT max(id) FROM failed_logins) - ?1")?
            .execute([MAX_KEPT])?;
        Ok(())
    }
}

fn subject(kind: &str, name: &str) -> Vec<u8> {
    Sha256::digest(format!("{kind} {name}").as_bytes()).to_vec()
}

/// An address as it is counted: an IPv6 network is one client.
fn network(client: IpAddr) -> String {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn an_ipv6_network_is_one_client_and_an_ipv4_address_is_one_in_either_spelling() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::7"), of("2001:db8:1:2:ffff:1:2:3"));
        assert_ne!(of("2001:db8:1:2::7"), of("2001:db8:1:3::7"));
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
    }
}
