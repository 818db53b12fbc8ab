//! The users service: the course's example, on a real database.
//!
//! | part | what it knows |
//! | --- | --- |
//! | this file | the routes: what each one reads, does and answers |
//! | [`input`] | the rules about fields |
//! | [`model`] | users and tokens as rows, the SQL |
//! | [`changes`], [`bell`] | the change feed, and how processes on one database tell each other of a commit |
//! | [`store`] | connections, the writer thread, group commit |
//! | [`passwords`] | hashing and tokens |
//!
//! Reads answer at once, on the thread that read the packet. Writes go to the writer thread and are answered
//! after their commit. Whatever hashes a password goes to the pool first.

pub mod bell;
pub mod changes;
pub mod input;
pub mod model;
pub mod passwords;
pub mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::net::link::DEFAULT_TIMEOUT;
use crate::process::Identity;
use crate::service::{Failure, Reply, Request, Responder, Service};
use changes::Feed;
use input::Fields;
use model::{Changes, NewUser, User};
use passwords::{HashingPool, Password, PasswordHash, Token};
use store::{ANSWER_IN_TIME, Store, StoreError};

/// The process that serves users.
pub const USERS: Identity = Identity { name: "users", port: 9020, port_variable: "USERS_PORT" };

/// How long a login token is valid, in seconds.
const TOKEN_SECONDS: u64 = 24 * 60 * 60;

/// What the handlers share.
struct Users {
    store: Arc<Store>,
    feed: Arc<Feed>,
    hashing: HashingPool,
    /// How many changes the feed keeps.
    keep: u64,
}

/// Builds the users service on a database file.
///
/// # Errors
/// A sentence that says why the database cannot be opened.
pub fn service(database: &Path, keep_changes: u64) -> Result<Service, String> {
    let store = Arc::new(Store::open(database)?);
    let feed = Feed::start(store.clone())?;
    let users = Arc::new(Users { store, feed, hashing: HashingPool::start()?, keep: keep_changes.max(1) });
    let handler = |begin: fn(&Arc<Users>, &Request) -> Result<Begun, Failure>| {
        let users = users.clone();
        move |request: Request, responder: Responder| match begin(&users, &request) {
            Ok(begun) => begun(responder),
            Err(failure) => responder.answer(&Err(failure)),
        }
    };
    Ok(Service::with_identity(USERS)
        .route_later("GET", "/users", handler(Users::read))
        .route_later("GET", "/users/changes", handler(Users::changes))
        .route_later("POST", "/users", handler(Users::create))
        .route_later("PATCH", "/users", handler(Users::update))
        .route_later("DELETE", "/users", handler(Users::delete))
        .route_later("POST", "/users/login", handler(Users::login)))
}

/// What is left to do once the input is known to be good: the responder goes along with it.
type Begun = Box<dyn FnOnce(Responder)>;

/// The arguments of a read.
const READ_FIELDS: [&str; 6] = ["id", "params", "limit", "after", "email", "at_least"];

/// What a read asks for, once its input is known to be good.
enum Query {
    One(i64),
    Page { limit: usize, after: i64, email: Option<String> },
}

#[derive(Serialize)]
struct LoggedIn {
    user: User,
    token: String,
    #[serde(flatten)]
    expiry: model::Expiry,
}

impl Users {
    /// `GET /users`, `GET /users/1`. With `at_least`, only once that change has happened.
    fn read(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &READ_FIELDS)?;
        let (query, seq) = (Self::query(request, fields)?, fields.at_least()?);
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            let Some(seq) = seq else { return responder.answer(&users.run(&query)) };
            let deadline = deadline.unwrap_or_else(|| Instant::now() + DEFAULT_TIMEOUT);
            // The refusal must be there while the asker still waits for it.
            let deadline = deadline.checked_sub(ANSWER_IN_TIME).unwrap_or(deadline);
            // What another process has committed is seen by reading, before the feed has told of it.
            match users.store.read(model::last_seq) {
                Ok(last) if last >= seq => responder.answer(&users.run(&query)),
                Ok(_) => users.feed.clone().wait_for(seq, deadline, move |happened| {
                    responder.answer(&happened.and_then(|()| users.run(&query)));
                }),
                Err(error) => responder.answer(&Err(error.into())),
            }
        }))
    }

    fn query(request: &Request, fields: Fields<'_>) -> Result<Query, Failure> {
        if fields.names_one() {
            let fields = Fields::among(request.params()?, &["id", "params", "at_least"])?;
            return Ok(Query::One(fields.id()?));
        }
        Ok(Query::Page { limit: fields.limit()?, after: fields.after()?, email: fields.email()? })
    }

    fn run(&self, query: &Query) -> Result<Reply, Failure> {
        match query {
            Query::One(id) => {
                let read = self.store.read(|db| model::get(db, *id));
                let (user, seq) = read.map_err(|error| about(*id, error))?;
                Reply::ok(&user)?.with("seq", seq)?.with("etag", user.changed_seq.to_string())
            }
            Query::Page { limit, after, email } => {
                let page = self.store.read(|db| model::list(db, *limit, *after, email.as_deref()))?;
                let next = page.users.last().filter(|_| page.more).map(|last| last.id);
                Reply::ok(page.users)?.with("next", next)?.with("seq", page.seq)
            }
        }
    }

    /// `GET /users/changes`: with `limit` a page, without it a stream.
    fn changes(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["after", "limit"])?;
        let (after, limit) = (fields.change_after()?, fields.limit()?);
        let (users, wants_page) = (self.clone(), fields.has("limit"));
        Ok(Box::new(move |responder| {
            if wants_page || !responder.can_stream() {
                responder.answer(&users.feed.page(after.unwrap_or(0), limit));
            } else {
                users.feed.stream(after, responder);
            }
        }))
    }

    /// `POST /users`.
    fn create(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["email", "name", "password"])?;
        let email = Fields::required(fields.email()?, "email")?;
        let name = Fields::required(fields.name()?, "name")?;
        let password = fields.new_password()?;
        let (users, deadline, keep) = (self.clone(), request.deadline(), self.keep);
        Ok(Box::new(move |responder| {
            users.clone().with_hash(password, responder, move |password, responder| {
                let new = NewUser { email, name, password };
                users.write(
                    deadline,
                    responder,
                    move |db| model::create(db, &new, keep),
                    |outcome| Ok(written(&outcome.map_err(email_taken)?)?.with_status(201)),
                );
            });
        }))
    }

    /// `PATCH /users/1`.
    fn update(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields =
            Fields::among(request.params()?, &["id", "params", "email", "name", "password", "if_match"])?;
        let id = fields.id()?;
        let (email, name, password) = (fields.email()?, fields.name()?, fields.new_password()?);
        if email.is_none() && name.is_none() && password.is_none() {
            return Err(Failure::bad_request("name what is to change: email, name or password"));
        }
        let expected = fields.if_match()?;
        let (users, deadline, keep) = (self.clone(), request.deadline(), self.keep);
        Ok(Box::new(move |responder| {
            users.clone().with_hash(password, responder, move |password, responder| {
                let changes = Changes { email, name, password };
                users.write(
                    deadline,
                    responder,
                    move |db| model::update(db, id, &changes, expected.as_deref(), keep),
                    move |outcome| written(&outcome.map_err(|error| about(id, error))?),
                );
            });
        }))
    }

    /// `DELETE /users/1`.
    fn delete(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["id", "params", "if_match"])?;
        let (id, expected) = (fields.id()?, fields.if_match()?);
        let (users, deadline, keep) = (self.clone(), request.deadline(), self.keep);
        Ok(Box::new(move |responder| {
            users.write(
                deadline,
                responder,
                move |db| model::delete(db, id, expected.as_deref(), keep),
                move |outcome| written(&outcome.map_err(|error| about(id, error))?),
            );
        }))
    }

    /// `POST /users/login`. An unknown e-mail and a wrong password are refused in the same words after the same
    /// work, so that nobody can find out who has an account.
    fn login(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["email", "password"])?;
        let (email, password) = (fields.login_email()?, fields.login_password()?);
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            let pool = users.clone();
            pool.on_pool(responder, move |responder| match users.check(&email, &password) {
                Ok((user, hash)) => users.give_token(user, hash, deadline, responder),
                Err(failure) => responder.answer(&Err(failure)),
            });
        }))
    }

    fn check(&self, email: &str, password: &Password) -> Result<(User, PasswordHash), Failure> {
        let found = self.store.read(|db| model::credentials(db, email))?;
        let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
        let right = password.matches(hash.as_ref());
        match (right, user, hash) {
            (true, Some(user), Some(hash)) => Ok((user, hash)),
            _ => Err(Failure::new(401, "the e-mail or the password is wrong")),
        }
    }

    fn give_token(&self, user: User, hash: PasswordHash, deadline: Option<Instant>, responder: Responder) {
        let Token { text: token, hash: token_hash } = match Token::generate() {
            Ok(token) => token,
            Err(failure) => return responder.answer(&Err(failure)),
        };
        let id = user.id;
        let work = move |db: &_| model::add_token(db, id, &hash, &token_hash, TOKEN_SECONDS);
        self.write(deadline, responder, work, move |outcome| match outcome {
            Ok(expiry) => Reply::ok(LoggedIn { user, token, expiry }),
            Err(StoreError::NotFound) => Err(Failure::new(401, "the e-mail or the password is wrong")),
            Err(error) => Err(error.into()),
        });
    }

    /// Hashes the password, if there is one, on the pool; then goes on.
    fn with_hash(
        &self,
        password: Option<Password>,
        responder: Responder,
        go_on: impl FnOnce(Option<PasswordHash>, Responder) + Send + 'static,
    ) {
        let Some(password) = password else { return go_on(None, responder) };
        self.on_pool(responder, move |responder| match password.hash() {
            Ok(hash) => go_on(Some(hash), responder),
            Err(failure) => responder.answer(&Err(failure)),
        });
    }

    fn on_pool(&self, responder: Responder, work: impl FnOnce(Responder) + Send + 'static) {
        self.hashing.submit(move |admitted| match admitted {
            Ok(()) => work(responder),
            Err(failure) => responder.answer(&Err(failure)),
        });
    }

    fn write<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        responder: Responder,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
        reply: impl FnOnce(Result<T, StoreError>) -> Result<Reply, Failure> + Send + 'static,
    ) {
        self.store.write(deadline, work, move |outcome| responder.answer(&reply(outcome)));
    }
}

/// The answer to a write: the user, its version, and the number of the change.
fn written(user: &User) -> Result<Reply, Failure> {
    let seq = user.changed_seq;
    Reply::ok(user)?.with("seq", seq)?.with("etag", seq.to_string())
}

/// A store error that concerns the user with this id.
fn about(id: i64, error: StoreError) -> Failure {
    match error {
        StoreError::NotFound => Failure::not_found(format!("no user has id {id}")),
        StoreError::Changed => {
            Failure::new(412, format!("user {id} has been changed since you read it; read it again"))
        }
        other => email_taken(other),
    }
}

fn email_taken(error: StoreError) -> Failure {
    match error {
        StoreError::Taken => Failure::new(409, "email is taken: another user has it"),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests;
