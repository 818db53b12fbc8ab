//! The users service: the example of the course, on a real database.
//!
//! Each line uses only the lines below it:
//!
//! ```text
//! this file      the routes: their input, their work and their answers
//! session        the routes for logins
//! admin          `users --admin`: how a user becomes an admin
//! feed           the change feed: sends every commit to all subscribers
//! replay         sends a subscriber the changes that it missed
//! subscribers    the clients that follow the feed, and the changes that each may see
//! database       one opened database: readers, and the queue of writes
//! writer         the writer thread: group commit
//! sqlite/        the engine: all SQL
//! notify         how processes on one database notify each other of a commit
//! operations     the writes as data
//! login_limit    the limit on failed logins
//! access         which client may do and see what
//! store          the interface of an engine: operations, errors
//! values         users, changes and tokens
//! input          the rules about fields
//! passwords      hashing and tokens
//! workers        a pool of threads that answers 503 when its queue is full
//! ```
//!
//! Reads are answered immediately, on the thread that read the packet. Writes go to the writer thread and are answered
//! after their commit. A password is hashed first, on the hashing pool. Only [`database`] names an engine.

pub mod access;
pub mod admin;
pub mod database;
pub mod feed;
pub mod input;
pub mod login_limit;
pub mod notify;
pub mod operations;
pub mod passwords;
pub mod replay;
mod session;
pub mod sqlite;
pub mod store;
pub mod subscribers;
pub mod values;
pub mod workers;
pub mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::context::DEFAULT_TIMEOUT;
use crate::process::Identity;
use crate::service::{Batch, Failure, Reply, Request, Responder, Service};
use access::{Actor, Credential};
use database::Database;
use feed::Feed;
use input::Fields;
use operations::{CreateUser, DeleteUser, UpdateUser};
use passwords::{Password, PasswordHash, start_hashing};
use store::{Engine, Operation, StoreError, UserReader, View};
use values::{NewUser, Role, User, UserUpdate};
use workers::WorkerPool;
use writer::ANSWER_IN_TIME;

/// The identity of the users process.
pub const USERS: Identity = Identity { name: "users", port: 9020, port_variable: "USERS_PORT" };

/// The settings of a users service.
#[derive(Debug, Clone, Copy)]
pub struct UsersSettings {
    /// How many changes the feed keeps.
    pub keep_changes: u64,
    /// How long a login token is valid, in seconds.
    pub token_seconds: u64,
    /// Whether clients must show a token to access their own data. If not, this is development mode.
    pub secured: bool,
}

/// The state that the handlers share.
struct Users<E> {
    database: Arc<Database<E>>,
    feed: Arc<Feed<E>>,
    hashing: WorkerPool,
    settings: UsersSettings,
}

/// Builds the users service on a database file.
pub fn service(path: &Path, settings: UsersSettings) -> Result<Service, String> {
    let database = Database::open(path, settings.keep_changes.max(1))?;
    service_on(database, settings)
}

fn service_on<E: Engine>(database: Database<E>, settings: UsersSettings) -> Result<Service, String> {
    let database = Arc::new(database);
    let feed = Feed::start(database.clone())?;
    let users = Arc::new(Users { database, feed, hashing: start_hashing()?, settings });
    let handler = |begin: fn(&Arc<Users<E>>, &Request) -> Result<Begun, Failure>| {
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
        .route_later("GET", "/users/me", handler(Users::me))
        .route_later("POST", "/users/login", handler(Users::login))
        .route_later("POST", "/users/logout", handler(Users::logout)))
}

/// The rest of a request whose input is valid. It takes the responder.
type Begun = Box<dyn FnOnce(Responder)>;

/// The arguments of a read.
const READ_FIELDS: [&str; 6] = ["id", "params", "limit", "after", "email", "at_least"];

/// The target of a read: one user, or a page of users.
enum Query {
    One(i64),
    Page { limit: usize, after: i64, email: Option<String> },
}

impl<E: Engine> Users<E> {
    /// `GET /users`, `GET /users/1`. With `at_least`, it answers only after that change has happened.
    fn read(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &READ_FIELDS)?;
        let (query, seq) = (Query::parse(request, fields)?, fields.at_least()?);
        let credential = self.credential(request)?;
        let (users, deadline, batch) = (self.clone(), request.deadline(), request.batch().cloned());
        Ok(Box::new(move |responder| {
            let Some(seq) = seq else {
                let read = users.run(&query, credential, batch.as_ref());
                explain_read(&responder);
                return responder.answer(&read);
            };
            let deadline = deadline.unwrap_or_else(|| Instant::now() + DEFAULT_TIMEOUT);
            // The client must still be waiting when the rejection arrives.
            let deadline = deadline.checked_sub(ANSWER_IN_TIME).unwrap_or(deadline);
            // The feed may not know yet that another process has committed, so read the database.
            let last = users.database.reader(View::Newest).and_then(|reader| reader.last_seq());
            match last {
                Ok(last) if last >= seq => responder.answer(&users.run(&query, credential, None)),
                Ok(_) => users.feed.clone().wait_for(seq, deadline, move |happened| {
                    responder.explain("src/users/feed.rs", || format!("change {seq} was awaited"));
                    responder.answer(&happened.and_then(|()| users.run(&query, credential, None)));
                }),
                Err(error) => responder.answer(&Err(error.into())),
            }
        }))
    }

    fn run(
        &self,
        query: &Query,
        credential: Credential,
        batch: Option<&Arc<Batch>>,
    ) -> Result<Reply, Failure> {
        match query {
            Query::One(id) => {
                let (actor, (user, seq)) =
                    self.read_one(*id, credential, batch).map_err(|error| user_failure(*id, error))?;
                let user = actor.view_of(user);
                Reply::ok(&user)?.with("seq", seq)?.with("etag", entity_tag(&user))
            }
            Query::Page { limit, after, email } => {
                let snapshot = self.database.reader(View::Snapshot)?;
                let actor = match email {
                    Some(email) => credential.require_search_right(&snapshot, email)?,
                    None => credential.actor(&snapshot)?,
                };
                let page = snapshot.list(*limit, *after, email.as_deref())?;
                drop(snapshot);
                let next = page.users.last().filter(|_| page.more).map(|last| last.id);
                let users: Vec<User> = page.users.into_iter().map(|user| actor.view_of(user)).collect();
                Reply::ok(users)?.with("next", next)?.with("seq", page.seq)
            }
        }
    }

    fn read_one(
        &self,
        id: i64,
        credential: Credential,
        batch: Option<&Arc<Batch>>,
    ) -> Result<(Actor, (User, u64)), StoreError> {
        let reader = self.database.reader_in(batch)?;
        Ok((credential.actor(&reader)?, reader.get(id)?))
    }

    fn credential(&self, request: &Request) -> Result<Credential, Failure> {
        Credential::of(request, self.settings.secured)
    }

    /// The credential for a change of this user. Rejects other clients before any work is done for them. The write
    /// itself checks again.
    fn owner_credential(&self, id: i64, request: &Request) -> Result<Credential, Failure> {
        let credential = self.credential(request)?;
        if credential != Credential::Unchecked {
            credential.require_owner(&self.database.reader(View::Newest)?, id)?;
        }
        Ok(credential)
    }

    /// `GET /users/changes`: a page if `limit` is given, otherwise a stream.
    fn changes(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["after", "limit"])?;
        let (after, limit) = (fields.change_after()?, fields.limit()?);
        let (users, wants_page, credential) = (self.clone(), fields.has("limit"), self.credential(request)?);
        Ok(Box::new(move |responder| {
            if wants_page || !responder.can_stream() {
                responder.answer(&users.feed.page(after.unwrap_or(0), limit, credential));
            } else {
                users.feed.stream(after, credential, responder);
            }
        }))
    }

    /// `POST /users`.
    fn create(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["email", "name", "password"])?;
        let email = Fields::required(fields.email()?, "email")?;
        let name = Fields::required(fields.name()?, "name")?;
        let password = fields.new_password()?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            users.clone().with_hash(password, responder, move |password, responder| {
                let create = CreateUser(NewUser { email, name, password, role: Role::User });
                users.write(deadline, responder, create, |outcome| {
                    Ok(write_reply(&outcome.map_err(email_failure)?)?.with_status(201))
                });
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
        let credential = self.owner_credential(id, request)?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            users.clone().with_hash(password, responder, move |password, responder| {
                let update = UserUpdate { email, name, password };
                let update = UpdateUser { id, update, expected, credential };
                users.write(deadline, responder, update, move |outcome| {
                    write_reply(&outcome.map_err(|error| user_failure(id, error))?)
                });
            });
        }))
    }

    /// `DELETE /users/1`.
    fn delete(self: &Arc<Self>, request: &Request) -> Result<Begun, Failure> {
        let fields = Fields::among(request.params()?, &["id", "params", "if_match"])?;
        let (id, expected) = (fields.id()?, fields.if_match()?);
        let credential = self.owner_credential(id, request)?;
        let (users, deadline) = (self.clone(), request.deadline());
        Ok(Box::new(move |responder| {
            users.write(deadline, responder, DeleteUser { id, expected, credential }, move |outcome| {
                write_reply(&outcome.map_err(|error| user_failure(id, error))?)
            });
        }))
    }

    /// Hashes the password, if there is one, on the pool; then continues.
    fn with_hash(
        &self,
        password: Option<Password>,
        responder: Responder,
        resume: impl FnOnce(Option<PasswordHash>, Responder) + Send + 'static,
    ) {
        let Some(password) = password else { return resume(None, responder) };
        self.on_pool(responder, move |responder| {
            let hash = password.hash();
            responder.explain("src/users/passwords.rs", || "the password is hashed".to_owned());
            match hash {
                Ok(hash) => resume(Some(hash), responder),
                Err(failure) => responder.answer(&Err(failure)),
            }
        });
    }

    fn on_pool(&self, responder: Responder, work: impl FnOnce(Responder) + Send + 'static) {
        self.hashing.submit(move |admitted| match admitted {
            Ok(()) => {
                responder.explain("src/users/workers.rs", || "a hashing thread has taken the job".to_owned());
                work(responder);
            }
            Err(failure) => responder.answer(&Err(failure)),
        });
    }

    fn write<O: Operation>(
        &self,
        deadline: Option<Instant>,
        responder: Responder,
        operation: O,
        reply: impl FnOnce(Result<O::Output, StoreError>) -> Result<Reply, Failure> + Send + 'static,
    ) {
        let explanation = responder.explanation().cloned();
        self.database.write_explained(deadline, explanation, operation, move |outcome| {
            responder.answer_among_others(&reply(outcome))
        });
    }
}

fn explain_read(responder: &Responder) {
    if let Some(explanation) = responder.explanation() {
        let text = "SQLite has read a snapshot of the newest commit, on the thread of the connection";
        explanation.add_in_database("src/users/sqlite/reads.rs", text.to_owned());
    }
}

impl Query {
    fn parse(request: &Request, fields: Fields<'_>) -> Result<Self, Failure> {
        if fields.names_one() {
            let fields = Fields::among(request.params()?, &["id", "params", "at_least"])?;
            return Ok(Self::One(fields.id()?));
        }
        Ok(Self::Page { limit: fields.limit()?, after: fields.after()?, email: fields.email()? })
    }
}

/// The answer to a write: the user, its version, and the number of the change.
fn write_reply(user: &User) -> Result<Reply, Failure> {
    Reply::ok(user)?.with("seq", user.changed_seq)?.with("etag", entity_tag(user))
}

/// The entity tag of a user as it is shown. The view without the e-mail address has a different tag, since its content
/// differs. `If-Match` accepts both.
fn entity_tag(user: &User) -> String {
    match user.email {
        Some(_) => user.changed_seq.to_string(),
        None => format!("{}{}", user.changed_seq, input::PUBLIC_TAG),
    }
}

/// A store error about the user with this id.
fn user_failure(id: i64, error: StoreError) -> Failure {
    match error {
        StoreError::NotFound => Failure::not_found(format!("no user has id {id}")),
        StoreError::Changed => {
            Failure::new(412, format!("user {id} has been changed since you read it; read it again"))
        }
        other => email_failure(other),
    }
}

fn email_failure(error: StoreError) -> Failure {
    match error {
        StoreError::Taken => Failure::new(409, "email is taken: another user has it"),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests;
