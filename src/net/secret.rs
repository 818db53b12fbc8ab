//! The cluster secret: a text that only the processes of a cluster know.
//!
//! The secret never leaves the process. The wire carries *proofs*: each side sends 32 random bytes, its *challenge*.
//! The other side answers with an HMAC of both challenges under the secret. Challenges are new for each connection, so
//! an old proof is worthless. The two roles use different labels, so a proof cannot be sent back to its maker. This
//! module has the values; [`super::proof`] exchanges them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The minimum length of a secret, in bytes. An attacker could find a shorter one by brute force.
pub const MIN_SECRET_BYTES: usize = 16;

/// The maximum length of a secret, in bytes. A longer file is probably not a secret.
pub const MAX_SECRET_BYTES: usize = 4096;

/// The number of random bytes in a challenge. On the wire it has twice as many hexadecimal digits.
const CHALLENGE_BYTES: usize = 32;

/// A cluster secret, ready to make proofs. `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

/// The maker of a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofRole {
    /// The side that opened the connection.
    Dialer,
    /// The side that accepted it.
    Acceptor,
}

/// The challenges of both sides of one connection, in their wire format.
#[derive(Debug, Clone, Copy)]
pub struct Challenges<'a> {
    /// The challenge of the acceptor.
    pub acceptor: &'a str,
    /// The challenge of the dialer.
    pub dialer: &'a str,
}

impl Secret {
    /// Uses this text as the secret, without surrounding white space.
    ///
    /// # Errors
    /// The rule that the text breaks, worded to follow the name of its source.
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

    /// Reads the secret from a file, without surrounding white space.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = read_some(path)
            .map_err(|error| format!("the secret file {} cannot be read: {error}", path.display()))?;
        Self::new(&text).map_err(|why| format!("the secret in the file {} {why}", path.display()))
    }

    /// The proof of this role for these challenges, in hexadecimal digits.
    #[must_use]
    pub fn proof(&self, role: ProofRole, challenges: Challenges<'_>) -> String {
        to_hex(&self.mac(role, challenges).finalize().into_bytes())
    }

    /// True if `proof` is the proof of this role for these challenges. The comparison takes constant time, so its
    /// duration does not reveal where they differ.
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

/// Creates a challenge for one connection.
///
/// # Errors
/// The operating system provides no random bytes.
pub fn new_challenge() -> io::Result<String> {
    let mut bytes = [0; CHALLENGE_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(to_hex(&bytes))
}

/// True if this can be a challenge: lower-case hexadecimal digits of the right number.
#[must_use]
pub fn is_challenge(text: &str) -> bool {
    text.len() == 2 * CHALLENGE_BYTES && from_hex(text).is_some()
}

/// Reads just enough to detect a file that is too long, because the file may be a device that never ends.
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

/// Two secrets are equal if they make the same proofs.
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
