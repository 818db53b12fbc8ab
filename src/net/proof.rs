//! The first packets on every connection of a cluster with a secret: both sides prove that they know the secret.
//!
//! ```text
//! dialer                                                  acceptor
//!   │ ◄──── {"proto":"pilcrow/1","challenge":"<A>"}¶ ──────── │
//!   │ ───── {"challenge":"<D>","proof":"<dialer's>"}¶ ──────► │  checked; only then:
//!   │ ◄──── {"proof":"<acceptor's>"}¶ ─────────────────────── │
//!   │  checked; only then: registration, requests             │
//! ```
//!
//! An unproven connection uses a thread and one of the permitted connections, for at most [`PROOF_TIMEOUT`]. We read
//! at most 1 KiB from it. After the proof, packets have no extra cost.

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

/// The timeout of all three packets together. A connection without a proof is closed within 2 s.
pub const PROOF_TIMEOUT: Duration = Duration::from_millis(1500);

/// The longest packet that we read before the other side has proven the secret, in bytes.
pub const PROOF_MAX_BYTES: usize = 1024;

/// Why the other side did not prove the secret.
#[derive(Debug)]
pub enum Unproven {
    /// It did not send enough bytes in time.
    Late,
    /// It ended the connection.
    Ended,
    /// It sent more bytes than a proof needs.
    TooLong,
    /// It sent something else.
    NoProof,
    /// An acceptor requests no proof, because it has no secret.
    AsksNothing,
    /// An acceptor rejected our proof.
    RefusesOurs,
    /// It made its proof with another secret, or for another connection.
    Wrong,
    /// The connection failed, or the system provides no random bytes.
    Io(io::Error),
}

/// One of the three packets. Unknown fields are ignored, like everywhere.
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

/// The answering side: true if this peer proves the secret within [`PROOF_TIMEOUT`]. Any other peer gets the reason,
/// and the caller closes the connection.
#[must_use]
pub fn is_admitted(secret: &Secret, stream: &TcpStream, peer: SocketAddr) -> bool {
    let exchange = ProofExchange::begin(stream);
    let Err(why) = exchange.accept(secret) else { return true };
    exchange.refuse(&why);
    let message = format_args!("{peer} closed: it does not prove the cluster secret ({why})");
    say(Level::Warn, "unproven", peer.ip(), message);
    false
}

/// The calling side: proves the secret to the acceptor, and requires that the acceptor proves it too.
///
/// # Errors
/// The reason why the connection must not be used.
pub fn prove(secret: &Secret, stream: &TcpStream) -> Result<(), Unproven> {
    ProofExchange::begin(stream).dial(secret)
}

/// True if an acceptor's first packet requests a proof of the secret.
#[must_use]
pub fn asks_for_proof(frame: &str) -> bool {
    serde_json::from_str::<ProofPacket>(frame)
        .is_ok_and(|packet| packet.challenge.as_deref().is_some_and(is_challenge))
}

/// One exchange, with one deadline for all packets.
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
            // The list of a distributor without a secret, of any length.
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

    /// From here on, the connection may be silent without limit.
    fn end(&self) -> Result<(), Unproven> {
        Ok(self.stream.set_read_timeout(None)?)
    }

    /// Sends the reason, which helps a learner who types packets by hand.
    fn refuse(&self, why: &Unproven) {
        let message = format!("this cluster has a secret, and you have not proven it: {why}");
        // The peer may have closed the connection already.
        let _ = self.send(&ProofPacket {
            errorcode: Some(401),
            errormessage: Some(message),
            ..ProofPacket::default()
        });
    }

    /// Sends a packet. The first few bytes of a connection fit into the socket's buffer, so this does not wait.
    fn send(&self, packet: &ProofPacket) -> Result<(), Unproven> {
        let frame = encode(packet).map_err(io::Error::from)?;
        Ok(write_by(self.stream, &frame, self.deadline)?)
    }

    /// Receives the next packet. Bytes after it stay in the socket for later readers.
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

    /// Reads the available bytes, up to the first byte that can end a delimiter.
    fn read_piece(&self, received: &mut Vec<u8>) -> Result<(), Unproven> {
        let mut piece = [0; PROOF_MAX_BYTES];
        let count = self.peek(&mut piece)?;
        let count = memchr::memchr(DELIMITER[1], &piece[..count]).map_or(count, |at| at + 1);
        (&mut &*self.stream).read_exact(&mut piece[..count])?;
        received.extend_from_slice(&piece[..count]);
        Ok(())
    }

    /// Waits for bytes and leaves them in the socket.
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
