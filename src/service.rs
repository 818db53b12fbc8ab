//! What a learner writes a service with: a name, routes, handlers, and `run`.
//!
//! ```no_run
//! use pilcrow::service::{Reply, Service};
//!
//! fn main() -> std::process::ExitCode {
//!     Service::new("greetings", 9040)
//!         .route("GET", "/greetings", |request| Reply::ok(format!("Hello, {}!", request.text("name")?)))
//!         .run()
//! }
//! ```
//!
//! The story of one request: the gateway's packet arrives on a connection's thread ([`crate::net::peer`]), is
//! looked up here among the routes, and handed to its handler. A handler of [`Service::route`] answers at once,
//! on that thread. One of [`Service::route_slow`] does so on a thread of a pool, so that it may wait, for instance
//! for another service ([`crate::mesh`]), and delays nobody else's packet. One of [`Service::route_later`] takes a
//! [`Responder`] with it to whichever thread does the work, and may answer with a stream.

pub mod streams;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use log::Level;
use serde_json::{Map, Value};

use crate::context::{Context, MAX_HOPS};
use crate::mesh::Mesh;
use crate::metrics_page;
use crate::net::flood::say;
use crate::net::listener::{Listener, Serving, Work};
use crate::net::membership::{Membership, OnList};
pub use crate::net::outbox::together as answer_together;
pub use crate::net::peer::Batch;
use crate::net::peer::{Answerer, PacketServer, Peer, Said};
use crate::node::Node;
use crate::observe::access_log::ServiceLine;
use crate::observe::metrics::{self, Gauge, RouteSeries, SERVICE, SERVICE_IN_FLIGHT};
use crate::packet::{CANCEL, COURSE_MAX_BYTES, Dialect, Head, Key};
pub use crate::packet::{Failure, Origin, Reply};
use crate::pool::{Admission, Pool, no_thread};
use crate::process::{self, Common, Identity, Join};
use crate::sync::lock;
use streams::StreamTable;
pub use streams::{SharedReply, StreamSender};

/// How many slow handlers run at a time, and how many requests may wait for them.
const WORKERS: usize = 16;
const MAX_WAITING: usize = 1024;

/// Under which URI every service answers with what it counts.
const METRICS: &str = "/metrics";

/// How long, after this service has said that it leaves, requests may still come that were on their way.
const SETTLE: Duration = Duration::from_millis(300);

/// A service before it runs: its name and its routes.
pub struct Service {
    identity: Identity,
    routes: RouteTable,
    on_batch: Option<Box<OnBatch>>,
    mesh: Option<Arc<Mesh>>,
}

/// A running service.
pub struct Running {
    serving: Serving,
    membership: Membership,
    streams: Arc<StreamTable>,
    guests: Arc<Guests>,
    mesh: Option<Arc<Mesh>>,
}

/// A request as a handler sees it.
#[derive(Debug)]
pub struct Request {
    params: Value,
    context: Context,
}

/// The duty to answer one request, exactly once, from any thread.
#[derive(Debug)]
pub struct Responder {
    peer: Arc<Peer>,
    key: Option<Key>,
    /// Nobody waits for a reply.
    is_notice: bool,
    asked: Arc<Asked>,
    origin: Option<Arc<Origin>>,
    began: Instant,
    limit_bytes: usize,
    answered: bool,
    streams: Arc<StreamTable>,
    _work: Work,
}

type OnBatch = dyn Fn(Batch) + Send + Sync;
type RouteTable = HashMap<String, HashMap<String, Route>>;
type AnswerNow = dyn Fn(&Request) -> Result<Reply, Failure> + Send + Sync;
type AnswerLater = dyn Fn(Request, Responder) + Send + Sync;

/// A route: what answers it, and what is counted and told of it.
struct Route {
    handler: Handler,
    asked: Arc<Asked>,
}

/// What was asked for.
struct Asked {
    method: String,
    uri: String,
    series: Arc<RouteSeries>,
}

enum Handler {
    Now(Box<AnswerNow>),
    Slow(Arc<AnswerNow>),
    Later(Box<AnswerLater>),
}

/// The flags of a service that has none of its own.
#[derive(Debug, Parser)]
#[command(version, about = "A Pilcrow service")]
struct ServiceArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    join: Join,
}

impl Service {
    /// A service called `name` that listens on `port` unless its `--listen` says otherwise. Port 0 takes a free
    /// one, which is fine, since others find the service through the distributor.
    #[must_use]
    pub fn new(name: &'static str, port: u16) -> Self {
        Self::with_identity(Identity { name, port, port_variable: "" })
    }

    /// A service whose port also has an environment variable of its own.
    #[must_use]
    pub fn with_identity(identity: Identity) -> Self {
        Self { identity, routes: HashMap::new(), on_batch: None, mesh: None }
    }

    /// Shows this mesh the lists that the service gets, so that its handlers can call other services.
    #[must_use]
    pub fn mesh(mut self, mesh: &Arc<Mesh>) -> Self {
        self.mesh = Some(mesh.clone());
        self
    }

    /// Tells `told` when several requests have come together, and when they have been handed to their handlers, on the
    /// thread that does that: so handlers can do once what they have in common.
    #[must_use]
    pub fn on_batch(mut self, told: impl Fn(Batch) + Send + Sync + 'static) -> Self {
        self.on_batch = Some(Box::new(told));
        self
    }

    /// Answers `method uri` with `handler`, on the thread that reads the packet: for handlers that are quick.
    #[must_use]
    pub fn route<H>(self, method: &str, uri: &str, handler: H) -> Self
    where
        H: Fn(&Request) -> Result<Reply, Failure> + Send + Sync + 'static,
    {
        self.add(method, uri, Handler::Now(Box::new(handler)))
    }

    /// Answers `method uri` with `handler`, on a thread of a pool: for handlers that wait, such as for another
    /// service.
    #[must_use]
    pub fn route_slow<H>(self, method: &str, uri: &str, handler: H) -> Self
    where
        H: Fn(&Request) -> Result<Reply, Failure> + Send + Sync + 'static,
    {
        self.add(method, uri, Handler::Slow(Arc::new(handler)))
    }

    /// Answers `method uri` with `handler`, which may pass the [`Responder`] on to another thread: for work that
    /// waits or takes its time.
    #[must_use]
    pub fn route_later<H>(self, method: &str, uri: &str, handler: H) -> Self
    where
        H: Fn(Request, Responder) + Send + Sync + 'static,
    {
        self.add(method, uri, Handler::Later(Box::new(handler)))
    }

    fn add(mut self, method: &str, uri: &str, handler: Handler) -> Self {
        let route = Route { handler, asked: Asked::of(method, uri, Some(uri)) };
        self.routes.entry(uri.to_owned()).or_default().insert(method.to_owned(), route);
        self
    }

    /// Runs the service as this process: flags, log, registration, until a signal ends it. The exit status to
    /// return from `main`.
    #[must_use]
    pub fn run(self) -> ExitCode {
        process::run(self.identity, |args: ServiceArgs| self.serve(&args.common, &args.join))
    }

    /// The part of [`run`](Self::run) after the flags, for services that have flags of their own.
    ///
    /// # Errors
    /// A sentence that says why the service could not start.
    pub fn serve(self, common: &Common, join: &Join) -> Result<(), String> {
        let stop = process::stop_signal()?;
        let name = self.identity.name;
        let listener = common.bind()?;
        let _metrics = metrics_page::serve(common)?;
        let running = self.start(listener, common, join)?;
        process::ready(name, running.serving.address());
        let _ = stop.recv();
        log::info!("{name}: asked to end; finishing what is in progress");
        running.stop(common.drain_limit());
        Ok(())
    }

    /// Starts the service on a port that is bound already.
    ///
    /// # Errors
    /// A sentence that says why the service could not start.
    pub fn start(mut self, listener: Listener, common: &Common, join: &Join) -> Result<Running, String> {
        // The metrics are asked for where the service listens, and are no route of the gateway's.
        let urls = self.urls();
        self = self.with_metrics();
        let course_nodes = Arc::new(CourseNodes::default());
        let streams = Arc::new(StreamTable::default());
        let open = Arc::downgrade(&streams);
        metrics::watch(Gauge::Streams, move || Some(open.upgrade()?.count()));
        let mut all = self.routes.values().flat_map(HashMap::values);
        let slow = all.any(|one| matches!(one.handler, Handler::Slow(_)));
        let pool = if slow { Some(Pool::start("work", WORKERS, MAX_WAITING)?) } else { None };
        let guests = Arc::new(Guests::default());
        let desk = Desk {
            routes: self.routes,
            on_batch: self.on_batch,
            course_nodes: course_nodes.clone(),
            pool,
            streams: streams.clone(),
            guests: guests.clone(),
        };
        let server = PacketServer::new(Arc::new(desk), common.max_frame, common.secret());
        let serving = listener
            .serve(self.identity.name, common.max_connections, Arc::new(server))
            .map_err(no_thread)?;
        let node = Node::ours(self.identity.name, serving.address().port(), urls, &process::new_id()?);
        let followed = self.mesh.as_ref().map(|mesh| mesh.on_list(common.secret()));
        let on_list: Arc<OnList> = Arc::new(move |place, nodes: Vec<Node>| {
            course_nodes.follow(place, &nodes);
            if let Some(followed) = &followed {
                followed(place, nodes);
            }
        });
        let membership =
            Membership::join(&join.distributor, node, common.max_frame, common.secret(), &on_list)
                .map_err(no_thread)?;
        Ok(Running { serving, membership, streams, guests, mesh: self.mesh })
    }

    fn with_metrics(self) -> Self {
        let taken = self.routes.get(METRICS).is_some_and(|methods| methods.contains_key("GET"));
        if taken { self } else { self.route("GET", METRICS, |_| Reply::ok(metrics::text())) }
    }

    fn urls(&self) -> Vec<String> {
        let mut urls: Vec<String> = self
            .routes
            .iter()
            .flat_map(|(uri, methods)| methods.keys().map(move |method| format!("{method}{uri}")))
            .collect();
        urls.sort();
        urls
    }
}

impl Running {
    /// Where the service listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Ends the service: says that it leaves, finishes what has begun, and waits no longer than `limit`.
    pub fn stop(self, limit: Duration) {
        self.membership.leave();
        self.guests.part(self.membership.notice());
        self.streams.end_all(&Failure::new(503, "this instance is ending; ask another for what comes after"));
        self.serving.drain(SETTLE, limit);
        if let Some(mesh) = self.mesh {
            mesh.close_streams();
        }
    }
}

/// What a service does with those who connect to it.
struct Desk {
    routes: RouteTable,
    on_batch: Option<Box<OnBatch>>,
    course_nodes: Arc<CourseNodes>,
    /// Where slow handlers run; none if there are none.
    pool: Option<Pool>,
    streams: Arc<StreamTable>,
    guests: Arc<Guests>,
}

/// Those who are connected. When the service ends, each of them is told directly: the list may come late, or from
/// nobody, and a request that is sent meanwhile would be lost.
#[derive(Debug, Default)]
struct Guests {
    connected: Mutex<HashMap<u64, Arc<Peer>>>,
    /// What those are told who come, or ask for the first time, when the end has begun.
    notice: OnceLock<Vec<u8>>,
}

impl Guests {
    fn part(&self, notice: Vec<u8>) {
        let notice = self.notice.get_or_init(|| notice);
        let connected: Vec<Arc<Peer>> = lock(&self.connected).values().cloned().collect();
        for peer in connected {
            peer.part(notice);
        }
    }

    /// Of a peer that announces how long it waits, one knows that it is of ours.
    fn know(&self, peer: &Peer, head: &Head<'_>) {
        if head.deadline_ms.is_some()
            && peer.set_pilcrow()
            && let Some(notice) = self.notice.get()
        {
            peer.part(notice);
        }
    }
}

/// Whether a node of the course is registered, gateway or service: it dies of a long packet when it calls us.
#[derive(Debug, Default)]
struct CourseNodes {
    /// The distributors, by place, whose list has one.
    named_by: Mutex<HashSet<usize>>,
    any: AtomicBool,
}

impl CourseNodes {
    fn follow(&self, place: usize, nodes: &[Node]) {
        let named = nodes.iter().any(|node| node.dialect() == Dialect::Course);
        let mut named_by = lock(&self.named_by);
        if named {
            named_by.insert(place);
        } else {
            named_by.remove(&place);
        }
        self.any.store(!named_by.is_empty(), Ordering::Relaxed);
    }
}

impl Answerer for Desk {
    fn connected(&self, peer: &Arc<Peer>) {
        say(Level::Info, "connected", peer.address().ip(), format_args!("{} connected", peer.address()));
        lock(&self.guests.connected).insert(peer.id(), peer.clone());
    }

    fn gone(&self, peer: &Arc<Peer>) {
        say(Level::Info, "gone", peer.address().ip(), format_args!("{} gone", peer.address()));
        lock(&self.guests.connected).remove(&peer.id());
        self.streams.forget(peer.id());
    }

    fn batch(&self, batch: Batch) {
        if let Some(told) = &self.on_batch {
            told(batch);
        }
    }

    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>) {
        let (Some(method), Some(uri)) = (head.method.as_deref(), head.uri.as_deref()) else {
            return log::debug!("{} sent what is no request; ignored", peer.address());
        };
        self.guests.know(peer, head);
        let (began, key) = (Instant::now(), head.answer_key());
        if method == CANCEL {
            return self.streams.cancel(peer.id(), key.as_ref());
        }
        let found = self.route(method, uri);
        let asked = found.as_ref().map_or_else(|_| Asked::of(method, uri, None), |found| found.asked.clone());
        let origin = Origin::of(head).map(Arc::new);
        SERVICE_IN_FLIGHT.inc();
        let responder = Responder {
            peer: peer.clone(),
            key,
            is_notice: head.is_notice(),
            asked,
            origin: origin.clone(),
            began,
            limit_bytes: self.limit_bytes(peer, head),
            answered: false,
            streams: self.streams.clone(),
            _work: peer.work(),
        };
        let (handler, request) =
            match found.and_then(|found| Ok((&found.handler, Request::of(peer, head, origin)?))) {
                Ok(found) => found,
                Err(failure) => return responder.answer(&Err(failure)),
            };
        // A handler that panics has failed one request: its dropped responder says so. It must not take along
        // the connection, over which other people's requests come.
        let caught = catch_unwind(AssertUnwindSafe(|| match handler {
            Handler::Now(answer) => responder.answer(&request.context.clone().run(|| answer(&request))),
            Handler::Later(answer) => request.context.clone().run(|| answer(request, responder)),
            Handler::Slow(answer) => self.answer_on_pool(answer.clone(), request, responder),
        }));
        if caught.is_err() {
            log::error!("the handler of {method} {uri} panicked");
        }
    }
}

impl Desk {
    fn route(&self, method: &str, uri: &str) -> Result<&Route, Failure> {
        let methods = self
            .routes
            .get(uri)
            .ok_or_else(|| Failure::not_found(format!("this service has no route {method} {uri}")))?;
        methods.get(method).ok_or_else(|| {
            let mut known: Vec<&str> = methods.keys().map(String::as_str).collect();
            known.sort_unstable();
            Failure::new(405, format!("{uri} takes {}, not {method}", known.join(", ")))
        })
    }

    fn answer_on_pool(&self, answer: Arc<AnswerNow>, request: Request, responder: Responder) {
        let Some(pool) = &self.pool else { return };
        pool.submit(move |admission| match admission {
            Admission::Admitted => {
                responder.answer(&request.context.clone().run(|| answer(&request)));
            }
            Admission::Refused => {
                responder
                    .answer(&Err(Failure::new(503, "too many requests wait here; try again in a moment")));
            }
        });
    }

    /// Course nodes die of a long reply, and of two replies in one segment. Our own nodes send `deadline_ms`. An asker that does
    /// not is taken for a course node while the list has one. (A node that has just registered may ask a moment before
    /// that list arrives.)
    fn limit_bytes(&self, peer: &Peer, head: &Head<'_>) -> usize {
        let may_be_course = head.deadline_ms.is_none() && self.course_nodes.any.load(Ordering::Relaxed);
        if !may_be_course {
            return usize::MAX;
        }
        peer.outbox().set_one_by_one();
        COURSE_MAX_BYTES
    }
}

impl Request {
    fn of(peer: &Peer, head: &Head<'_>, origin: Option<Arc<Origin>>) -> Result<Self, Failure> {
        let deadline = peer.deadline_of(head);
        // It was held up on its way, or this process was stopped. To carry it out now, when its asker has long
        // asked something else, would be worse than not to.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Failure::new(
                503,
                "the request came when nobody waited for it any more; it was not begun",
            ));
        }
        let json = head.params.map_or("{}", |params| params.get());
        let mut params: Value = serde_json::from_str(json)
            .map_err(|error| Failure::bad_request(format!("params cannot be read: {error}")))?;
        if let Value::Object(fields) = &mut params
            && fields.get("key").is_some_and(|named| is_the_packets_key(head, named))
        {
            fields.remove("key");
        }
        let hops = head.hops.unwrap_or(0).saturating_add(1);
        if hops > MAX_HOPS + 1 {
            return Err(Failure::new(
                508,
                "this request has come through too many services: they call each other in a ring",
            ));
        }
        Ok(Self { params, context: Context { deadline, hops, origin } })
    }

    /// The arguments by name: from the query, the body and the path, or whatever a caller sent.
    ///
    /// # Errors
    /// 400 if the caller sent something other than an object.
    pub fn params(&self) -> Result<&Map<String, Value>, Failure> {
        self.params.as_object().ok_or_else(|| Failure::bad_request("params must be a JSON object"))
    }

    /// The arguments in whatever JSON they came; nearly always an object.
    #[must_use]
    pub fn raw_params(&self) -> &Value {
        &self.params
    }

    /// An argument that must be there and be text.
    ///
    /// # Errors
    /// 400 that names the argument.
    pub fn text(&self, name: &str) -> Result<&str, Failure> {
        match self.params()?.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Failure::bad_request(format!("{name} must be text"))),
            None => Err(Failure::bad_request(format!("{name} is missing"))),
        }
    }

    /// Where the request began, if the asker said so: the gateway does, for every HTTP request.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.context.origin.as_deref()
    }

    /// Until when the asker waits, if it said so. What is not done by then is done in vain.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.context.deadline
    }
}

/// Whether what is called `key` among the arguments is none. The book's gateway has its key there and nowhere
/// else; a gateway of ours that takes us for a course node, since a course distributor tells it no more of us,
/// has it in both places.
fn is_the_packets_key(head: &Head<'_>, named: &Value) -> bool {
    match head.key {
        None => true,
        Some(key) => {
            head.deadline_ms.is_none()
                && serde_json::from_str(key.get()).is_ok_and(|key: Value| key == *named)
        }
    }
}

impl Responder {
    /// Whether the asker can take several replies. Course nodes cannot.
    #[must_use]
    pub fn can_stream(&self) -> bool {
        self.limit_bytes > COURSE_MAX_BYTES && self.key.is_some() && !self.is_notice
    }

    /// Answers with a stream. It stands until it is ended, here or by the asker, or their connection ends.
    ///
    /// # Errors
    /// 503 if too many streams are open; the responder is given back to say so.
    pub fn into_stream(mut self) -> Result<StreamSender, Self> {
        let Some(key) = self.key.clone().filter(|_| self.can_stream()) else { return Err(self) };
        match self.streams.open(&self.peer, key) {
            Some(stream) => {
                self.told(Said { errorcode: 0, bytes: 0 });
                Ok(stream)
            }
            None => Err(self),
        }
    }

    /// Answers the request. A notice is counted and logged, and no reply is sent.
    pub fn answer(mut self, outcome: &Result<Reply, Failure>) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: &Result<Reply, Failure>) {
        let said = if self.is_notice {
            Said { errorcode: outcome.as_ref().err().map_or(0, |failure| failure.errorcode), bytes: 0 }
        } else {
            self.peer.answer(self.key.as_ref(), outcome, self.limit_bytes)
        };
        self.told(said);
    }

    /// The request is answered, or its stream begins: that is counted, and told in the access log.
    fn told(&mut self, said: Said) {
        self.answered = true;
        let took = self.began.elapsed();
        self.asked.series.answered(said.errorcode, took);
        ServiceLine {
            id: self.origin.as_ref().map(|origin| origin.request_id.as_str()),
            peer: self.peer.address(),
            method: &self.asked.method,
            uri: &self.asked.uri,
            errorcode: said.errorcode,
            bytes: said.bytes,
            took,
        }
        .write();
    }
}

impl Drop for Responder {
    /// Nobody waits in vain: a request whose handler lost its responder is answered with a failure.
    fn drop(&mut self) {
        SERVICE_IN_FLIGHT.dec();
        if !self.answered {
            self.send(&Err(Failure::new(
                500,
                "the service failed to answer this request; its log says more",
            )));
        }
    }
}

impl Asked {
    fn of(method: &str, uri: &str, route: Option<&str>) -> Arc<Self> {
        let series = SERVICE.of(method, route);
        Arc::new(Self { method: method.to_owned(), uri: uri.to_owned(), series })
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.uri)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("identity", &self.identity)
            .field("routes", &self.urls())
            .finish_non_exhaustive()
    }
}
