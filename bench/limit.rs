//! The ceiling: what the same parts can do without the hop. It is only for the benchmark (`bench/README.md`).
//!
//! It is one process: the gateway's HTTP front and, on the thread of the connection, the store and the statements of
//! the users service. Durability is the same. It omits every cost of the hop: packets, links, and waiting for another
//! process. It also omits other work of the real processes: routes, request ids, metrics, the access log, and the
//! change feed's subscribers.
//!
//! `limit --listen 127.0.0.1:8000 --database limit.db`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use crossbeam_channel::bounded;
use pilcrow::gateway::translate;
use pilcrow::http::{
    HttpAnswer, HttpHandler, HttpOutcome, HttpRequest, HttpServer, NoEvents, RequestError, Target,
};
use pilcrow::packet::Failure;
use pilcrow::pool::no_thread;
use pilcrow::process::{self, Common, Identity};
use pilcrow::users::access::Credential;
use pilcrow::users::database::Database;
use pilcrow::users::input::Fields;
use pilcrow::users::operations::{CreateUser, UpdateUser};
use pilcrow::users::sqlite::Sqlite;
use pilcrow::users::store::{Operation, StoreError, UserReader, View};
use pilcrow::users::values::{NewUser, Role, User, UserUpdate};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tiny_http::Method;

const LIMIT: Identity = Identity { name: "limit", port: 8090, port_variable: "" };

/// How long to wait for a write.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many changes the feed keeps: the default of the users service.
const KEEP_CHANGES: u64 = 100_000;

/// The control of Pilcrow's benchmark: the same HTTP front and the same database, in one process.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: Common,

    /// The database file; made if it is not there
    #[arg(long, value_name = "FILE")]
    database: PathBuf,
}

fn main() -> ExitCode {
    process::run(LIMIT, |args: Args| serve(&args))
}

fn serve(args: &Args) -> Result<(), String> {
    let stop = process::stop_signal()?;
    let listener = args.common.bind()?;
    let address = listener.address();
    let server = HttpServer::new(Arc::new(Users { store: Database::open(&args.database, KEEP_CHANGES)? }));
    let serving = listener.serve("http", args.common.max_connections, Arc::new(server)).map_err(no_thread)?;
    process::ready(LIMIT.name, address);
    let _ = stop.recv();
    serving.drain(args.common.drain_limit());
    Ok(())
}

/// The users, without a service.
struct Users {
    store: Database<Sqlite>,
}

/// The body of an answer, in the shape of a reply packet without its key.
#[derive(Serialize)]
struct Body<T> {
    errorcode: u16,
    errormessage: &'static str,
    results: T,
    seq: u64,
}

impl HttpHandler for Users {
    type Events = NoEvents;

    const HEADERS: &'static [&'static str] = &[];

    fn answer(&self, request: &HttpRequest) -> HttpOutcome<NoEvents> {
        HttpOutcome::Answer(self.route(request).unwrap_or_else(|answer| answer))
    }
}

impl Users {
    fn route(&self, request: &HttpRequest) -> Result<HttpAnswer, HttpAnswer> {
        let target = Target::parse(&request.target)?;
        let id = match target.path.strip_prefix("/users") {
            Some("") => None,
            Some(rest) if rest.starts_with('/') => Some(target.last_segment()?),
            _ => return Err(RequestError::new(404, "this server has only /users and /users/1").into()),
        };
        let one = id.is_some();
        let params = params(translate::params(request, target.query, id)?.as_ref());
        let answered = match (&request.method, one) {
            (Method::Get, true) => self.get(&params),
            (Method::Get, false) => self.list(&params),
            (Method::Post, false) => self.create(&params),
            (Method::Patch, true) => self.update(&params),
            _ => Err(Failure::new(405, "the limit reads, creates and changes users, and nothing else")),
        };
        answered.map_err(|failure| translate::failure_answer(&failure))
    }

    fn get(&self, params: &Map<String, Value>) -> Result<HttpAnswer, Failure> {
        let id = Fields::among(params, &["params"])?.id()?;
        let (user, seq) = self.store.reader(View::Newest)?.get(id)?;
        Ok(success(200, user, seq))
    }

    fn list(&self, params: &Map<String, Value>) -> Result<HttpAnswer, Failure> {
        let fields = Fields::among(params, &["limit", "after"])?;
        let (limit, after) = (fields.limit()?, fields.after()?);
        let page = self.store.reader(View::Snapshot)?.list(limit, after, None)?;
        Ok(success(200, page.users, page.seq))
    }

    fn create(&self, params: &Map<String, Value>) -> Result<HttpAnswer, Failure> {
        let fields = Fields::among(params, &["email", "name"])?;
        let email = Fields::required(fields.email()?, "email")?;
        let new = NewUser {
            email,
            name: Fields::required(fields.name()?, "name")?,
            password: None,
            role: Role::User,
        };
        self.write(201, CreateUser(new))
    }

    fn update(&self, params: &Map<String, Value>) -> Result<HttpAnswer, Failure> {
        let fields = Fields::among(params, &["params", "email", "name"])?;
        let (id, email, name) = (fields.id()?, fields.email()?, fields.name()?);
        let update = UserUpdate { email, name, password: None };
        self.write(200, UpdateUser { id, update, expected: None, credential: Credential::Unchecked })
    }

    /// Writes like the users service: together with all other waiting writes, and answered after the commit.
    fn write(&self, status: u16, operation: impl Operation<Output = User>) -> Result<HttpAnswer, Failure> {
        let (done, outcome) = bounded(1);
        let deadline = Instant::now() + TIMEOUT;
        self.store.write(Some(deadline), operation, move |written| drop(done.try_send(written)));
        let user = outcome.recv_deadline(deadline).unwrap_or(Err(StoreError::Busy))?;
        let seq = user.changed_seq;
        Ok(success(status, user, seq))
    }
}

fn success<T: Serialize>(status: u16, results: T, seq: u64) -> HttpAnswer {
    HttpAnswer::json(status, &Body { errorcode: 0, errormessage: "success", results, seq })
}

fn params(json: &RawValue) -> Map<String, Value> {
    serde_json::from_str(json.get()).unwrap_or_default()
}
