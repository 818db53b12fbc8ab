//! The routes for logins: log in, log out, and who is logged in.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::access::{Actor, Credential, unknown_token};
use super::input::Fields;
use super::login_limit::LoginLimit;
use super::operations::{EndToken, FinishLogin};
use super::passwords::{Password, PasswordHash, Token};
use super::store::{Engine, UserReader, View};
use super::values::{Expiry, User};
use super::{Begun, Users};
use crate::service::{Failure, Reply, Request, Responder};

/// The answer to a login.
#[derive(Serialize)]
struct LoginAnswer {
    user: User,
    token: String,
    #[serde(flatten)]
    expiry: Expiry,
}

impl<E: Engine> Users<E> {
    /// `GET /users/me`: the user that the token belongs to. Only an admin has a `role`. A gateway asks this before it
    /// explains a request in a secured cluster.
    pub(super) fn me(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        Fields::among(request.params()?, &[])?;
        let credential = Credential::Token(Credential::required(request)?);
        let reader = self.database.reader(View::Snapshot)?;
        let Actor::User { id, .. } = credential.actor(&reader)? else { return Err(unknown_token()) };
        let (user, _) = reader.get(id)?;
        drop(reader);
        Ok(Box::new(move |responder| responder.answer(&Reply::ok(user))))
    }

    /// `POST /users/login`. An unknown e-mail address and a wrong password get the same answer after the same work. So
    /// a client cannot find out which addresses have an account. A client over the limit is rejected before that work.
    pub(super) fn login(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["email", "password"])?;
        let (email, password) = (fields.login_email()?, fields.login_password()?);
        let limit = LoginLimit::new(&email, request.origin().and_then(|origin| origin.client));
        limit.check(&self.database.reader(View::Newest)?)?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            users.clone().on_pool(responder, move |responder| {
                match users.match_password(&email, &password, &limit) {
                    Ok(matched) => users.finish_login(matched, limit, deadline, responder),
                    Err(failure) => responder.answer(&Err(failure)),
                }
            });
        }))
    }

    /// The user with this e-mail address, if the password is right. No password is hashed for a client that exceeded
    /// the limit while it waited for a thread.
    fn match_password(
        &self,
        email: &str,
        password: &Password,
        limit: &LoginLimit,
    ) -> Result<Option<(User, PasswordHash)>, Failure> {
        let reader = self.database.reader(View::Newest)?;
        limit.check(&reader)?;
        let found = reader.credentials(email)?;
        drop(reader); // hashing takes long
        let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
        let is_right = password.matches(hash.as_ref());
        Ok(user.zip(hash).filter(|_| is_right))
    }

    /// Adds a token, or counts a failure.
    fn finish_login(
        &self,
        matched: Option<(User, PasswordHash)>,
        limit: LoginLimit,
        deadline: Option<Instant>,
        responder: Responder,
    ) {
        let Token { text: token, hash } = match Token::generate() {
            Ok(token) => token,
            Err(failure) => return responder.answer(&Err(failure)),
        };
        let (user, password) = matched.unzip();
        let matched = user.as_ref().map(|user| user.id).zip(password);
        let finish = FinishLogin { matched, limit, token: hash, seconds: self.settings.token_seconds };
        self.write(deadline, responder, finish, move |outcome| match outcome?.zip(user) {
            Some((expiry, user)) => Reply::ok(LoginAnswer { user, token, expiry }),
            None => Err(Failure::new(401, "the e-mail or the password is wrong")),
        });
    }

    /// `POST /users/logout`: ends the token in the request.
    pub(super) fn logout(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        Fields::among(request.params()?, &[])?;
        let token = Credential::required(request)?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            users.write(deadline, responder, EndToken(token), |outcome| {
                if outcome? { Ok(Reply::empty()) } else { Err(unknown_token()) }
            });
        }))
    }
}
