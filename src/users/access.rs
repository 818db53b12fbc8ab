//! Access control: which client may do what.
//!
//! In development mode no token is needed. In a secured cluster a client shows a login token, in `Authorization: Bearer
//! <token>`. One rule defines its rights ([`Actor::owns`]): users can change only their own record, and admins can
//! change any. Only they see the e-mail address. A [`Credential`] is the proof that a request carries; an [`Actor`] is
//! the sender that the database finds for it. Writes check twice: before any work is done, and inside their
//! transaction. So a token that ends in between writes nothing.

use std::time::{Duration, Instant};

use super::passwords::{TokenHash, hash_token};
use super::store::{StoreError, UserReader};
use super::values::User;
use crate::packet::{Failure, Origin};
use crate::service::Request;

/// The proof of identity that a request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// Development mode: nothing is checked.
    Unchecked,
    /// The request shows no token.
    Missing,
    /// The request shows a token, which may be invalid.
    Token(TokenHash),
}

/// The sender of a request, as the database knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Development mode: any client, which may do everything.
    Anybody,
    /// A client that is not logged in.
    Stranger,
    /// This user.
    User {
        /// The owner of the token.
        id: i64,
        /// Whether the user is an admin.
        admin: bool,
        /// When the token expires.
        until: Instant,
    },
}

impl Credential {
    /// The credential of this request. Development mode (not `secured`) does not read it.
    ///
    /// # Errors
    /// 401 if the request shows something other than a token.
    pub fn of(request: &Request, secured: bool) -> Result<Self, Failure> {
        if !secured {
            return Ok(Self::Unchecked);
        }
        match request.origin() {
            Some(Origin { authorization: Some(shown), .. }) => Ok(Self::Token(token(shown)?)),
            _ => Ok(Self::Missing),
        }
    }

    /// The token that this request must show, even in development mode.
    ///
    /// # Errors
    /// 401 if it shows no token.
    pub fn required(request: &Request) -> Result<TokenHash, Failure> {
        match Self::of(request, true)? {
            Self::Token(hash) => Ok(hash),
            _ => Err(log_in_first()),
        }
    }

    /// The actor, if the request shows no token.
    #[must_use]
    pub fn without_token(&self) -> Option<Actor> {
        match self {
            Self::Unchecked => Some(Actor::Anybody),
            Self::Missing => Some(Actor::Stranger),
            Self::Token(_) => None,
        }
    }

    /// The actor. Without a token, the database is not read.
    ///
    /// # Errors
    /// 401 if the token is not valid, or no longer valid.
    pub fn actor(&self, reader: &(impl UserReader + ?Sized)) -> Result<Actor, StoreError> {
        let hash = match self {
            Self::Unchecked => return Ok(Actor::Anybody),
            Self::Missing => return Ok(Actor::Stranger),
            Self::Token(hash) => hash,
        };
        let owner = reader.token_owner(hash)?.ok_or_else(|| StoreError::Rejected(unknown_token()))?;
        // A token is valid for at most a year, so this is in range.
        let left = Duration::try_from_secs_f64(owner.seconds_left).unwrap_or_default();
        Ok(Actor::User { id: owner.user_id, admin: owner.admin, until: Instant::now() + left })
    }

    /// Checks that the actor may change the user with this id.
    ///
    /// # Errors
    /// 401 if the actor is not logged in, 403 if it is another user.
    pub fn require_owner(&self, reader: &(impl UserReader + ?Sized), id: i64) -> Result<(), StoreError> {
        let refused = match self.actor(reader)? {
            actor if actor.owns(id) => return Ok(()),
            Actor::Stranger => log_in_first(),
            _ => Failure::new(403, "this is another user; you can change only your own record"),
        };
        Err(StoreError::Rejected(refused))
    }

    /// Checks that the actor may search for this e-mail address. Otherwise any client could find out which addresses
    /// have an account.
    ///
    /// # Errors
    /// 401 if the actor is not logged in. 403 for any address but the actor's, whether or not a user has it.
    pub fn require_search_right(
        &self,
        reader: &(impl UserReader + ?Sized),
        email: &str,
    ) -> Result<Actor, StoreError> {
        let actor = self.actor(reader)?;
        let refused = match actor {
            Actor::Anybody | Actor::User { admin: true, .. } => return Ok(actor),
            Actor::User { id, .. } if reader.has_email(id, email)? => return Ok(actor),
            Actor::User { .. } => Failure::new(403, "you can search only for your own e-mail address"),
            Actor::Stranger => log_in_first(),
        };
        Err(StoreError::Rejected(refused))
    }
}

impl Actor {
    /// Whether the actor is the user with this id or may do everything. Only then may it change the user and see the
    /// e-mail address.
    #[must_use]
    pub fn owns(&self, id: i64) -> bool {
        match self {
            Self::Anybody => true,
            Self::Stranger => false,
            Self::User { id: own, admin, .. } => *admin || *own == id,
        }
    }

    /// The user as the actor may see it: the e-mail addresses of others are hidden.
    #[must_use]
    pub fn view_of(&self, mut user: User) -> User {
        if !self.owns(user.id) {
            user.email = None;
        }
        user
    }

    /// When the token expires, if there is one.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        match self {
            Self::User { until, .. } => Some(*until),
            Self::Anybody | Self::Stranger => None,
        }
    }
}

fn token(authorization: &str) -> Result<TokenHash, Failure> {
    match authorization.trim().split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(hash_token(token.trim())),
        _ => Err(Failure::new(401, "Authorization must be Bearer and the token of a login")),
    }
}

fn log_in_first() -> Failure {
    Failure::new(401, "log in at POST /users/login, and show its token: Authorization: Bearer <token>")
}

/// Rejects a token that is not valid.
#[must_use]
pub fn unknown_token() -> Failure {
    Failure::new(401, "this token is not valid or has expired; log in at POST /users/login for a new one")
}
