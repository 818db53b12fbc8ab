//! The limit on failed logins.
//!
//! Failed logins are counted for each e-mail address and for each client address. The counts are in the database, so
//! all instances on it share them. A failure counts for a minute. A successful login is not counted and resets nothing.
//! Otherwise an attacker with an account could reset the count of a client address. Each login of the owner would also
//! grant new guesses.
//!
//! The limit is checked twice. The first check comes before the password is hashed, so a rejected guess costs almost
//! nothing. The second check is in the transaction that counts. It rejects a client over the limit whether the password
//! was right or wrong. So parallel guesses get no more answers than guesses one by one.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use super::store::{StoreError, UserReader, UserTransaction};
use super::values::email_key;
use crate::packet::Failure;

/// How many logins for one e-mail address may fail within a minute.
pub const PER_EMAIL: u32 = 5;

/// How many logins from one client address may fail within a minute.
pub const PER_CLIENT: u32 = 20;

/// The limits that apply to one attempt to log in.
#[derive(Debug, Clone)]
pub struct LoginLimit {
    /// The subjects of the count, each with its limit of failures.
    subjects: Vec<(Vec<u8>, u32)>,
}

impl LoginLimit {
    /// The limits for this e-mail address and this client. Only the first half of an IPv6 address counts: its owner
    /// chooses the rest.
    #[must_use]
    pub fn new(email: &str, client: Option<IpAddr>) -> Self {
        let mut subjects = vec![(subject("email", &email_key(email)), PER_EMAIL)];
        if let Some(client) = client {
            subjects.push((subject("client", &network(client)), PER_CLIENT));
        }
        Self { subjects }
    }

    /// Checks that another login may fail.
    ///
    /// # Errors
    /// 429 that states when to retry.
    pub fn check(&self, reader: &(impl UserReader + ?Sized)) -> Result<(), StoreError> {
        let mut wait_ms = 0;
        for (subject, limit) in &self.subjects {
            wait_ms = wait_ms.max(reader.login_wait_ms(subject, *limit)?);
        }
        if wait_ms <= 0 {
            return Ok(());
        }
        let seconds = (wait_ms + 999) / 1000;
        let message = format!("too many logins have failed; try again in {seconds} s");
        Err(StoreError::Rejected(Failure::new(429, message).with("retry_after", seconds)))
    }

    /// Counts a failed login.
    pub fn count_failure(&self, transaction: &dyn UserTransaction) -> Result<(), StoreError> {
        let subjects: Vec<&[u8]> = self.subjects.iter().map(|(subject, _)| subject.as_slice()).collect();
        transaction.count_failed_login(&subjects)
    }
}

fn subject(kind: &str, name: &str) -> Vec<u8> {
    Sha256::digest(format!("{kind} {name}").as_bytes()).to_vec()
}

/// The form in which an address is counted: an IPv6 network is one client.
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
