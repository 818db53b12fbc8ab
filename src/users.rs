//! The users service: the course's example, on a real database.
//!
//! | part | what it knows |
//! | --- | --- |
//! | this file | the routes: what each one reads, does and answers |
//! | [`input`] | the rules about fields |
//! | [`access`] | who may do what, and see what |
//! | [`guesses`] | how often a login may fail |
//! | [`model`] | users and tokens as rows, the SQL |
//! | [`changes`], [`bell`] | the change feed, and how processes on one database tell each other of a commit |
//! | [`store`] | connections, the writer thread, group commit |
//! | [`passwords`] | hashing and tokens |
//! | [`admin`] | `users --admin`: how somebody becomes an admin |
//!
//! Reads answer at once, on the thread that read the packet. Writes go to the writer thread and are answered
//! after their commit. Whatever hashes a password goes to the pool first.

pub mod access;
pub mod admin;
pub mod bell;
pub mod changes;
pub mod guesses;
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
use access::{Claim, unknown_token};
use changes::Feed;
use guesses::Guesser;
use input::Fields;
use model::{Changes, NewUser, Role, User};
use passwords::{HashingPool, Password, PasswordHash, Token};
use store::{ANSWER_IN_TIME, Sees, Store, StoreError};

/// The process that serves users.
pub const USERS: Identity = Identity { name: "users", port: 9020, port_variable: "USERS_PORT" };

/// What is to be chosen about a users service.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many changes the feed keeps.
    pub keep_changes: u64,
    /// How long a login token is valid, in seconds.
    pub token_seconds: u64,
    /// Whether clients have to show who they are; if not, this is development mode.
    pub secured: bool,
}

/// What the handlers share.
struct Users {
    store: Arc<Store>,
    feed: Arc<Feed>,
    hashing: HashingPool,
    settings: Settings,
}

/// Builds the users service on a database file.
///
/// # Errors
/// A sentence that says why the database cannot be opened.
pub fn service(database: &Path, settings: Settings) -> Result<Service, String> {
    let store = Arc::new(Store::open(database)?);
    let feed = Feed::start(store.clone())?;
    let settings = Settings { keep_changes: settings.keep_changes.max(1), ..settings };
    let users = Arc::new(Users { store, feed, hashing: HashingPool::start()?, settings });
    let handler = |begin: fn(&Arc<Users>, &Request) -> Result<Begun, Failure>| {
        let users = users.clone();
        move |request: Request, responder: Responder| match begin(&users, &request) {
            Ok(begun) => begun(responder),
            Err(failure) => responder.answer(&Err(failure)),
        }
    };
    let batches = users.clone();
    Ok(Service::with_identity(USERS)
        .on_batch(move |batch| batches.store.on_batch(batch))
        .route_later("GET", "/users", handler(Users::read))
        .route_later("GET", "/users/changes", handler(Users::changes))
        .route_later("POST", "/users", handler(Users::create))
        .route_later("PATCH", "/users", handler(Users::update))
        .route_later("DELETE", "/users", handler(Users::delete))
        .route_later("POST", "/users/login", handler(Users::login))
        .route_later("POST", "/users/logout", handler(Users::logout)))
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
        let claim = self.claim(request)?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            let Some(seq) = seq else { return responder.answer(&users.run(&query, claim, Sees::Batch)) };
            let deadline = deadline.unwrap_or_else(|| Instant::now() + DEFAULT_TIMEOUT);
            // The refusal must be there while the asker still waits for it.
            let deadline = deadline.checked_sub(ANSWER_IN_TIME).unwrap_or(deadline);
            // What another process has committed is seen by reading, before the feed has told of it.
            match users.store.read(model::last_seq) {
                Ok(last) if last >= seq => responder.answer(&users.run(&query, claim, Sees::Newest)),
                Ok(_) => users.feed.clone().wait_for(seq, deadline, move |happened| {
                    responder.answer(&happened.and_then(|()| users.run(&query, claim, Sees::Newest)));
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

    fn run(&self, query: &Query, claim: Claim, sees: Sees) -> Result<Reply, Failure> {
        match query {
            Query::One(id) => {
                let read = self.store.read_as(sees, |db| Ok((claim.asker(db)?, model::get(db, *id)?)));
                let (asker, (user, seq)) = read.map_err(|error| about(*id, error))?;
                let user = user.shown_to(&asker);
                Reply::ok(&user)?.with("seq", seq)?.with("etag", version(&user))
            }
            Query::Page { limit, after, email } => {
                let email = email.as_deref();
                let (asker, page) = self.store.read(|db| {
                    let asker =
                        email.map_or_else(|| claim.asker(db), |email| claim.may_look_for(db, email))?;
                    Ok((asker, model::list(db, *limit, *after, email)?))
                })?;
                let next = page.users.last().filter(|_| page.more).map(|last| last.id);
                let users: Vec<User> = page.users.into_iter().map(|user| user.shown_to(&asker)).collect();
                Reply::ok(users)?.with("next", next)?.with("seq", page.seq)
            }
        }
    }

    fn claim(&self, request: &Request) -> Result<Claim, Failure> {
        Claim::of(request, self.settings.secured)
    }

    /// Refuses at once whoever may not change this user: before any work is done for him. The write itself asks
    /// again.
    fn claim_to(&self, id: i64, request: &Request) -> Result<Claim, Failure> {
        let claim = self.claim(request)?;
        if claim != Claim::NotAsked {
            self.store.read(|db| claim.must_own(db, id))?;
        }
        Ok(claim)
    }

    /// `GET /users/changes`: with `limit` a page, without it a stream.
    fn changes(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["after", "limit"])?;
        let (after, limit) = (fields.change_after()?, fields.limit()?);
        let (users, wants_page, claim) = (self.clone(), fields.has("limit"), self.claim(request)?);
        Ok(Box::new(move |responder| {
            if wants_page || !responder.can_stream() {
                responder.answer(&users.feed.page(after.unwrap_or(0), limit, claim));
            } else {
                users.feed.stream(after, claim, responder);
            }
        }))
    }

    /// `POST /users`.
    fn create(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["email", "name", "password"])?;
        let email = Fields::required(fields.email()?, "email")?;
        let name = Fields::required(fields.name()?, "name")?;
        let password = fields.new_password()?;
        let (users, deadline, keep) = (self.clone(), request.deadline(), self.settings.keep_changes);
        Ok(Box::new(move |responder| {
            users.clone().with_hash(password, responder, move |password, responder| {
                let new = NewUser { email, name, password, role: Role::User };
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
        let claim = self.claim_to(id, request)?;
        let (users, deadline, keep) = (self.clone(), request.deadline(), self.settings.keep_changes);
        Ok(Box::new(move |responder| {
            users.clone().with_hash(password, responder, move |password, responder| {
                let changes = Changes { email, name, password };
                users.write(
                    deadline,
                    responder,
                    move |db| {
                        claim.must_own(db, id)?;
                        model::update(db, id, &changes, expected.as_deref(), keep)
                    },
                    move |outcome| written(&outcome.map_err(|error| about(id, error))?),
                );
            });
        }))
    }

    /// `DELETE /users/1`.
    fn delete(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["id", "params", "if_match"])?;
        let (id, expected) = (fields.id()?, fields.if_match()?);
        let claim = self.claim_to(id, request)?;
        let (users, deadline, keep) = (self.clone(), request.deadline(), self.settings.keep_changes);
        Ok(Box::new(move |responder| {
            users.write(
                deadline,
                responder,
                move |db| {
                    claim.must_own(db, id)?;
                    model::delete(db, id, expected.as_deref(), keep)
                },
                move |outcome| written(&outcome.map_err(|error| about(id, error))?),
            );
        }))
    }

    /// `POST /users/login`. An unknown e-mail and a wrong password are refused in the same words after the same
    /// work, so that nobody can find out who has an account. So are those who have been wrong too often.
    fn login(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["email", "password"])?;
        let (email, password) = (fields.login_email()?, fields.login_password()?);
        let guesser = Guesser::new(&email, request.origin().and_then(|origin| origin.client));
        self.store.read(|db| guesser.look(db))?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            let pool = users.clone();
            pool.on_pool(responder, move |responder| match users.check(&email, &password, &guesser) {
                Ok(found) => users.conclude(found, guesser, deadline, responder),
                Err(failure) => responder.answer(&Err(failure)),
            });
        }))
    }

    /// Whose password that is, if it is the right one. It is not hashed for those who have been wrong too often
    /// while they waited here.
    fn check(
        &self,
        email: &str,
        password: &Password,
        guesser: &Guesser,
    ) -> Result<Option<(User, PasswordHash)>, Failure> {
        let found = self.store.read(|db| {
            guesser.look(db)?;
            model::credentials(db, email)
        })?;
        let (user, hash) = found.map_or((None, None), |(user, hash)| (Some(user), hash));
        let right = password.matches(hash.as_ref());
        Ok(user.zip(hash).filter(|_| right))
    }

    /// Gives a token, or counts a failure, in one transaction with a last look at the limit.
    fn conclude(
        &self,
        found: Option<(User, PasswordHash)>,
        guesser: Guesser,
        deadline: Option<Instant>,
        responder: Responder,
    ) {
        let Token { text: token, hash: token_hash } = match Token::generate() {
            Ok(token) => token,
            Err(failure) => return responder.answer(&Err(failure)),
        };
        let seconds = self.settings.token_seconds;
        let open = move |db: &_| {
            let Some((user, hash)) = found else { return Ok(None) };
            match model::add_token(db, user.id, &hash, &token_hash, seconds) {
                Ok(expiry) => Ok(Some((user, expiry))),
                // User or password have changed meanwhile: what was right is wrong.
                Err(StoreError::NotFound) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let work = move |db: &_| guesser.conclude(db, || open(db));
        self.write(deadline, responder, work, move |outcome| match outcome? {
            Some((user, expiry)) => Reply::ok(LoggedIn { user, token, expiry }),
            None => Err(Failure::new(401, "the e-mail or the password is wrong")),
        });
    }

    /// `POST /users/logout`: ends the token that is shown.
    fn logout(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        Fields::among(request.params()?, &[])?;
        let token = Claim::required(request)?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            users.write(
                deadline,
                responder,
                move |db| model::end_token(db, &token),
                |outcome| if outcome? { Ok(Reply::empty()) } else { Err(unknown_token()) },
            );
        }))
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
        self.store.write(deadline, work, move |outcome| responder.answer_among_others(&reply(outcome)));
    }
}

/// The answer to a write: the user, its version, and the number of the change.
fn written(user: &User) -> Result<Reply, Failure> {
    Reply::ok(user)?.with("seq", user.changed_seq)?.with("etag", version(user))
}

/// The entity tag of a user as it is shown. The view without e-mail has another one than the whole: who has read the
/// one has not yet read the other. Either fits `If-Match`.
fn version(user: &User) -> String {
    match user.email {
        Some(_) => user.changed_seq.to_string(),
        None => format!("{}{}", user.changed_seq, input::PUBLIC_TAG),
    }
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
