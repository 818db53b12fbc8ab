//! The cluster secret: a text that every process of a cluster knows, and nobody else.
//!
//! It never leaves the process. What crosses the wire are *proofs*: each side names 32 random bytes, its
//! *challenge*, and the other answers with an HMAC of both challenges under the secret. Challenges are new for each
//! connection, so an old proof is worth nothing; the two roles have different labels, so a proof cannot be sent
//! back to whoever made it. This module has the values; [`super::proof`] exchanges them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The shortest secret that is taken, in bytes. A short one could be found by trying.
pub const MIN_SECRET_BYTES: usize = 16;

/// The longest secret that is taken, in bytes. A longer file is something else.
pub const MAX_SECRET_BYTES: usize = 4096;

/// How many random bytes a challenge has; on the wire they are twice as many hexadecimal digits.
const CHALLENGE_BYTES: usize = 32;

/// A cluster secret, ready to make proofs. It is not shown by `Debug`.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

/// Who makes a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofRole {
    /// The one who opened the connection.
    Dialer,
    /// The one who took it.
    Acceptor,
}

/// What both sides of one connection have named, as it is on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Challenges<'a> {
    /// The acceptor's.
    pub acceptor: &'a str,
    /// The dialer's.
    pub dialer: &'a str,
}

impl Secret {
    /// Takes this text, without the white space around it.
    ///
    /// # Errors
    /// What is wrong with it, to stand behind the name of where it came from.
    pub fn new(text: &[u8]) -> Result<Self, String> {
        let text = text.trim_ascii();
        match text.len() {
            0 => Err("is empty".to_owned()),
            1..MIN_SECRET_BYTES => Err(format!("is shorter than {MIN_SECRET_BYTES} bytes")),
            MIN_SECRET_BYTES..=MAX_SECRET_BYTES => {
                Hmac::new_from_slice(text).map(Self).map_err(|error| error.to_string())
            }
            _ => Err(format!("is longer than {MAX_SECRET_BYTES} bytes")),
        }
    }

    /// Takes the content of a file, without the white space around it.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read_some(path)
            .map_err(|error| format!("the secret file {} cannot be read: {error}", path.display()))?;
        Self::new(&text).map_err(|why| format!("the secret in the file {} {why}", path.display()))
    }

    /// What this role answers to these challenges, in hexadecimal digits.
    #[must_use]
    pub fn proof(&self, role: ProofRole, challenges: Challenges<'_>) -> String {
        to_hex(&self.mac(role, challenges).finalize().into_bytes())
    }

    /// Whether `proof` is what this role answers to these challenges. How long this takes says nothing of where
    /// they differ.
    #[must_use]
    pub fn is_proven(&self, role: ProofRole, challenges: Challenges<'_>, proof: &str) -> bool {
        from_hex(proof).is_some_and(|proof| self.mac(role, challenges).verify_slice(&proof).is_ok())
    }

    fn mac(&self, role: ProofRole, challenges: Challenges<'_>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        let Challenges { acceptor, dialer } = challenges;
        mac.update(format!("pilcrow/1 {role} {acceptor} {dialer}").as_bytes());
        mac
    }
}

/// A new challenge, for one connection.
///
/// # Errors
/// If the operating system has no randomness.
pub fn new_challenge() -> io::Result<String> {
    let mut bytes = [0; CHALLENGE_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(to_hex(&bytes))
}

/// Whether this can be a challenge: hexadecimal digits, lower case, as many as it takes.
#[must_use]
pub fn is_challenge(text: &str) -> bool {
    text.len() == 2 * CHALLENGE_BYTES && from_hex(text).is_some()
}

/// No more than it takes to know that there is too much: the file may be a device that never ends.
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(2 * MAX_SECRET_BYTES as u64).read_to_end(&mut text)?;
    Ok(text)
}

fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a string does not fail
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? * 16 + digit(*low)?)).collect()
}

/// Two secrets are the same if they prove the same.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let mac = |secret: &Self| secret.0.clone().finalize();
        mac(self) == mac(other)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl fmt::Display for ProofRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dialer => "dialer",
            Self::Acceptor => "acceptor",
        })
    }
}

#[cfg(test)]
mod tests;
