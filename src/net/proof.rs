//! The first packets on every connection of a cluster with a secret: both sides prove that they know it.
//!
//! ```text
//! dialer                                                  acceptor
//!   │ ◄──── {"proto":"pilcrow/1","challenge":"<A>"}¶ ──────── │
//!   │ ───── {"challenge":"<D>","proof":"<dialer's>"}¶ ──────► │  checked; only then:
//!   │ ◄──── {"proof":"<acceptor's>"}¶ ─────────────────────── │
//!   │  checked; only then: registration, requests             │
//! ```
//!
//! An unproven connection costs a thread and a place among the connections, for at most [`PROOF_TIMEOUT`], and 1 KiB of
//! what it sends is read. The proof costs nothing per packet afterwards.

use std::fmt;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use log::Level;
use serde::{Deserialize, Serialize};

use super::flood::say;
use super::is_timeout;
use super::secret::{Challenges, ProofRole, Secret, is_challenge, new_challenge};
use super::socket_write::write_by;
use crate::packet::{DELIMITER, PROTO, encode};

/// How long all three packets together may take. A connection without a proof is closed within 2 s.
pub const PROOF_TIMEOUT: Duration = Duration::from_millis(1500);

/// The longest packet that is read before the other side has proven the secret, in bytes.
pub const PROOF_MAX_BYTES: usize = 1024;

/// Why the other side has not proven the secret.
#[derive(Debug)]
pub enum Unproven {
    /// It did not send enough in time.
    Late,
    /// It ended the connection.
    Ended,
    /// It sends more than a proof needs.
    TooLong,
    /// It sends something else.
    NoProof,
    /// An acceptor asks for no proof: it has no secret.
    AsksNothing,
    /// An acceptor rejects our proof.
    RefusesOurs,
    /// Its proof is made with another secret, or for another connection.
    Wrong,
    /// The connection failed, or there is no randomness.
    Io(io::Error),
}

/// One of the three packets. Unknown fields are ignored, as everywhere.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ProofPacket {
    #[serde(skip_serializing_if = "Option::is_none")]
    proto: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errorcode: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errormessage: Option<String>,
}

/// The answering side: whether this peer proves the secret. Waits no longer than [`PROOF_TIMEOUT`]. A peer that does not
/// is sent the reason, and the caller closes the connection.
#[must_use]
pub fn is_admitted(secret: &Secret, stream: &TcpStream, peer: SocketAddr) -> bool {
    let exchange = ProofExchange::begin(stream);
    let Err(why) = exchange.accept(secret) else { return true };
    exchange.refuse(&why);
    let message = format_args!("{peer} closed: it does not prove the cluster secret ({why})");
    say(Level::Warn, "unproven", peer.ip(), message);
    false
}

/// The calling side: proves the secret to the acceptor, and lets the acceptor prove it too.
///
/// # Errors
/// Why the connection must not be used.
pub fn prove(secret: &Secret, stream: &TcpStream) -> Result<(), Unproven> {
    ProofExchange::begin(stream).dial(secret)
}

/// Whether an acceptor says, in its first packet, that it wants the secret proven.
#[must_use]
pub fn asks_for_proof(frame: &str) -> bool {
    serde_json::from_str::<ProofPacket>(frame)
        .is_ok_and(|packet| packet.challenge.as_deref().is_some_and(is_challenge))
}

/// One exchange, with one deadline for all of it.
struct ProofExchange<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> ProofExchange<'a> {
    fn begin(stream: &'a TcpStream) -> Self {
        Self { stream, deadline: Instant::now() + PROOF_TIMEOUT }
    }

    fn accept(&self, secret: &Secret) -> Result<(), Unproven> {
        let acceptor = new_challenge()?;
        let proto = Some(PROTO.to_owned());
        self.send(&ProofPacket { proto, challenge: Some(acceptor.clone()), ..ProofPacket::default() })?;
        let ProofPacket { challenge: Some(dialer), proof: Some(proof), .. } = self.receive()? else {
            return Err(Unproven::NoProof);
        };
        if !is_challenge(&dialer) {
            return Err(Unproven::NoProof);
        }
        let challenges = Challenges { acceptor: &acceptor, dialer: &dialer };
        if !secret.is_proven(ProofRole::Dialer, challenges, &proof) {
            return Err(Unproven::Wrong);
        }
        self.send(&ProofPacket {
            proof: Some(secret.proof(ProofRole::Acceptor, challenges)),
            ..ProofPacket::default()
        })?;
        self.end()
    }

    fn dial(&self, secret: &Secret) -> Result<(), Unproven> {
        let acceptor = match self.receive() {
            Ok(ProofPacket { challenge: Some(challenge), .. }) if is_challenge(&challenge) => challenge,
            // The list of a distributor without a secret, of whatever length.
            Ok(_) | Err(Unproven::TooLong | Unproven::NoProof) => return Err(Unproven::AsksNothing),
            Err(why) => return Err(why),
        };
        let dialer = new_challenge()?;
        let challenges = Challenges { acceptor: &acceptor, dialer: &dialer };
        let ours = secret.proof(ProofRole::Dialer, challenges);
        self.send(&ProofPacket {
            challenge: Some(dialer.clone()),
            proof: Some(ours),
            ..ProofPacket::default()
        })?;
        match self.receive()? {
            ProofPacket { proof: Some(theirs), .. }
                if secret.is_proven(ProofRole::Acceptor, challenges, &theirs) =>
            {
                self.end()
            }
            ProofPacket { proof: Some(_), .. } => Err(Unproven::Wrong),
            ProofPacket { errorcode: Some(_), .. } => Err(Unproven::RefusesOurs),
            _ => Err(Unproven::NoProof),
        }
    }

    /// From here on the connection may be silent without limit.
    fn end(&self) -> Result<(), Unproven> {
        Ok(self.stream.set_read_timeout(None)?)
    }

    /// Sends the reason, for a learner who types packets by hand.
    fn refuse(&self, why: &Unproven) {
        let message = format!("this cluster has a secret, and you have not proven it: {why}");
        // The peer may be gone already.
        let _ = self.send(&ProofPacket {
            errorcode: Some(401),
            errormessage: Some(message),
            ..ProofPacket::default()
        });
    }

    /// A few bytes, the first on this connection: they fit into the socket's buffer, and nobody waits.
    fn send(&self, packet: &ProofPacket) -> Result<(), Unproven> {
        let frame = encode(packet).map_err(io::Error::from)?;
        Ok(write_by(self.stream, &frame, self.deadline)?)
    }

    /// The next packet. What comes behind it stays in the socket, for those who read after this exchange.
    fn receive(&self) -> Result<ProofPacket, Unproven> {
        let mut received = Vec::new();
        loop {
            self.read_piece(&mut received)?;
            match received.strip_suffix(&DELIMITER) {
                Some(words) if words.len() <= PROOF_MAX_BYTES => {
                    return serde_json::from_slice(words).map_err(|_| Unproven::NoProof);
                }
                None if received.len() <= PROOF_MAX_BYTES => {}
                _ => return Err(Unproven::TooLong),
            }
        }
    }

    /// Reads what has come, up to the first byte that can end a delimiter.
    fn read_piece(&self, received: &mut Vec<u8>) -> Result<(), Unproven> {
        let mut piece = [0; PROOF_MAX_BYTES];
        let count = self.peek(&mut piece)?;
        let count = memchr::memchr(DELIMITER[1], &piece[..count]).map_or(count, |at| at + 1);
        (&mut &*self.stream).read_exact(&mut piece[..count])?;
        received.extend_from_slice(&piece[..count]);
        Ok(())
    }

    /// Waits for bytes and leaves them where they are.
    fn peek(&self, piece: &mut [u8]) -> Result<usize, Unproven> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unproven::Late);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.peek(piece) {
                Ok(0) => return Err(Unproven::Ended),
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<io::Error> for Unproven {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => write!(f, "no proof came within {PROOF_TIMEOUT:?}"),
            Self::Ended => f.write_str("the connection ended before the proof"),
            Self::TooLong => write!(f, "more than {PROOF_MAX_BYTES} bytes came in place of a proof"),
            Self::NoProof => f.write_str("what came is no proof"),
            Self::AsksNothing => f.write_str("it asks for no proof: it has no secret"),
            Self::RefusesOurs => f.write_str("it does not take our proof"),
            Self::Wrong => f.write_str("the proof is made with another secret, or for another connection"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Unproven {}

#[cfg(test)]
mod tests;
