//! Passwords and tokens: argon2id on dedicated threads, and random tokens that are stored only as a hash.
//!
//! Hashing a password is slow on purpose. It runs on a small pool, so that a login delays no other packet and never
//! uses more than half of the processors.

use std::fmt;
use std::thread;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc};
use sha2::{Digest, Sha256};

use super::workers::WorkerPool;
use crate::packet::Failure;

/// How many passwords may wait to be hashed. Further ones are rejected: their clients would stop waiting before their
/// turn.
const MAX_WAITING: usize = 64;

/// A hash that no password has: random text with the form and the cost of a real hash. It is checked if there is no
/// real hash. So rejecting an unknown e-mail address takes as long as rejecting a wrong password.
pub(super) const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AgWkuL59+RDghPLSz3oZSA$oarmXYGAJ7KA8AGWpWavlVe4lkhsYPc8ouLRx3h1sxk";

/// A password as a client sent it. It cannot be printed.
pub struct Password(String);

/// The hash of a password in PHC form (`$argon2id$v=19$…`). It is not printed either.
pub struct PasswordHash(String);

/// A new login token: the text for the client, and the hash to store.
pub struct Token {
    /// 256 random bits in hexadecimal. The client receives this text once.
    pub text: String,
    /// The hash that the database keeps.
    pub hash: TokenHash,
}

/// The SHA-256 of a login token. The database knows a token only by this hash.
pub type TokenHash = [u8; 32];

/// The hash under which the database keeps a token.
#[must_use]
pub fn hash_token(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

impl Password {
    /// Wraps the text of a password.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Hashes it with a fresh salt. This takes tens of milliseconds, so call it only on threads of the pool.
    ///
    /// # Errors
    /// 500 if the operating system has no randomness or no memory.
    pub fn hash(&self) -> Result<PasswordHash, Failure> {
        let hashed = Argon2::default().hash_password(self.0.as_bytes());
        hashed.map(|hash| PasswordHash(hash.to_string())).map_err(|error| {
            log::error!("a password could not be hashed: {error}");
            Failure::new(500, "the password could not be hashed; the log of the users service says more")
        })
    }

    /// Whether the password matches this hash. Without a hash it returns false, after the same time.
    #[must_use]
    pub fn matches(&self, hash: Option<&PasswordHash>) -> bool {
        let matches = phc::PasswordHash::new(hash.map_or(DUMMY_HASH, PasswordHash::as_str))
            .is_ok_and(|hash| Argon2::default().verify_password(self.0.as_bytes(), &hash).is_ok());
        matches && hash.is_some()
    }
}

impl PasswordHash {
    /// A hash that was read from the database.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The hash in its stored form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Starts the threads that hash: half as many as there are processors, at least one.
///
/// # Errors
/// A sentence, if the operating system starts no further thread.
pub fn start_hashing() -> Result<WorkerPool, String> {
    let threads = thread::available_parallelism().map_or(1, |count| (count.get() / 2).max(1));
    WorkerPool::start(
        "hash",
        threads,
        MAX_WAITING,
        "too many passwords are being checked; try again in a moment",
    )
}

impl Token {
    /// Makes a random token that cannot be guessed.
    ///
    /// # Errors
    /// 500 if the operating system has no randomness.
    pub fn generate() -> Result<Self, Failure> {
        let text = new_secret()?;
        let hash = hash_token(&text);
        Ok(Self { text, hash })
    }
}

/// 256 random bits in hexadecimal.
fn new_secret() -> Result<String, Failure> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        log::error!("no randomness: {error}");
        Failure::new(500, "the operating system has no randomness")
    })?;
    Ok(bytes.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}")))
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(hidden)")
    }
}
