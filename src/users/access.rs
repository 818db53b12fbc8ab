//! Who may do what.
//!
//! In development mode nobody is asked who he is. In a secured cluster a login token is what a client shows, in
//! `Authorization: Bearer <token>`; one rule says what it opens: a user's e-mail address is seen, and the user
//! changed, by that user and by admins ([`Asker::owns`]). What is shown is a [`Claim`] until the database has said
//! whose token it is. Writes ask twice: before any work is done, and inside their own transaction, so that a token
//! that ends in between writes nothing.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::model;
use super::store::StoreError;
use crate::packet::{Failure, Origin};
use crate::service::Request;

/// The SHA-256 of a login token: what the database knows it by.
pub type TokenHash = [u8; 32];

/// What a request shows of who is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Development mode: it does not matter.
    NotAsked,
    /// Nothing.
    Nothing,
    /// A token, of whomever.
    Token(TokenHash),
}

/// Who is behind a request, as the database knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Development mode: anybody, who may do everything.
    Anybody,
    /// Somebody who is not logged in.
    Stranger,
    /// This user.
    User {
        /// Whose token it is.
        id: i64,
        /// Whether that user may do everything.
        admin: bool,
        /// When the token expires.
        until: Instant,
    },
}

impl Claim {
    /// What this request shows; in development mode (not `secured`) nobody looks.
    ///
    /// # Errors
    /// 401 if something is shown that is no token.
    pub fn of(request: &Request, secured: bool) -> Result<Self, Failure> {
        if !secured {
            return Ok(Self::NotAsked);
        }
        match request.origin() {
            Some(Origin { authorization: Some(shown), .. }) => Ok(Self::Token(token(shown)?)),
            _ => Ok(Self::Nothing),
        }
    }

    /// The token that this request must show, in development mode as well.
    ///
    /// # Errors
    /// 401 if it shows none.
    pub fn required(request: &Request) -> Result<TokenHash, Failure> {
        match Self::of(request, true)? {
            Self::Token(hash) => Ok(hash),
            _ => Err(log_in_first()),
        }
    }

    /// Who that is, if no token is shown.
    #[must_use]
    pub fn without_token(&self) -> Option<Asker> {
        match self {
            Self::NotAsked => Some(Asker::Anybody),
            Self::Nothing => Some(Asker::Stranger),
            Self::Token(_) => None,
        }
    }

    /// Who that is. Without a token the database is not asked.
    ///
    /// # Errors
    /// 401 if nobody has this token, or not any more.
    pub fn asker(&self, db: &Connection) -> Result<Asker, StoreError> {
        let hash = match self {
            Self::NotAsked => return Ok(Asker::Anybody),
            Self::Nothing => return Ok(Asker::Stranger),
            Self::Token(hash) => hash,
        };
        let owner = model::token_owner(db, hash)?.ok_or_else(|| StoreError::Refused(unknown_token()))?;
        // A token lives for a year at most, so that this is in range.
        let left = Duration::try_from_secs_f64(owner.seconds_left).unwrap_or_default();
        Ok(Asker::User { id: owner.user_id, admin: owner.admin, until: Instant::now() + left })
    }

    /// Says whether the user with this id may be changed.
    ///
    /// # Errors
    /// 401 for whoever is not logged in, 403 for another user.
    pub fn must_own(&self, db: &Connection, id: i64) -> Result<(), StoreError> {
        let refused = match self.asker(db)? {
            asker if asker.owns(id) => return Ok(()),
            Asker::Stranger => log_in_first(),
            _ => Failure::new(403, "this is another user: you may change none but yourself"),
        };
        Err(StoreError::Refused(refused))
    }

    /// Says whether users may be looked for by this e-mail address: otherwise anybody could try who has an account.
    ///
    /// # Errors
    /// 401 for whoever is not logged in, 403 for another's address, whether or not anybody has it.
    pub fn may_look_for(&self, db: &Connection, email: &str) -> Result<Asker, StoreError> {
        let asker = self.asker(db)?;
        let refused = match asker {
            Asker::Anybody | Asker::User { admin: true, .. } => return Ok(asker),
            Asker::User { id, .. } if model::has_email(db, id, email)? => return Ok(asker),
            Asker::User { .. } => Failure::new(403, "you may look for no e-mail address but your own"),
            Asker::Stranger => log_in_first(),
        };
        Err(StoreError::Refused(refused))
    }
}

impl Asker {
    /// Whether this is the user with this id, or somebody who may do everything: who may change it, and see its
    /// e-mail address.
    #[must_use]
    pub fn owns(&self, id: i64) -> bool {
        match self {
            Self::Anybody => true,
            Self::Stranger => false,
            Self::User { id: own, admin, .. } => *admin || *own == id,
        }
    }

    /// When what it may see ends by itself, if it does.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        match self {
            Self::User { until, .. } => Some(*until),
            Self::Anybody | Self::Stranger => None,
        }
    }
}

/// What the database keeps of a token.
#[must_use]
pub fn hash_of(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn token(authorization: &str) -> Result<TokenHash, Failure> {
    match authorization.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(hash_of(token.trim())),
        _ => Err(Failure::new(401, "Authorization must be Bearer and the token of a login")),
    }
}

fn log_in_first() -> Failure {
    Failure::new(401, "log in at POST /users/login, and show its token: Authorization: Bearer <token>")
}

/// The refusal of a token that nobody has, or not any more.
#[must_use]
pub fn unknown_token() -> Failure {
    Failure::new(401, "this token is not valid, or not any more: log in at POST /users/login for a new one")
}
