//! A service: its name, its routes, their handlers, and `run`.
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
//! One request takes these steps:
//!
//! 1. Its packet arrives on the thread of a connection ([`crate::net::peer`]), which hands it to `Dispatcher::packet`.
//! 2. The dispatcher finds the handler of its method and uri (`endpoints`).
//! 3. It makes a [`Responder`], which ensures that the request is answered, counted and logged exactly once.
//! 4. It reads the [`Request`]. It rejects a request that is too late or has passed too many services.
//! 5. The handler runs. A handler of [`Service::route`] answers on the thread of the connection. A handler of
//!    [`Service::route_slow`] answers on a thread of a pool: it may wait, for instance for a service ([`crate::mesh`]),
//!    and delays no packet. A handler of [`Service::route_later`] passes the [`Responder`] to the thread that does the
//!    work. It may answer with a stream ([`streams`]).

mod askers;
mod course;
mod endpoints;
mod request;
mod requested_route;
mod responder;
pub mod streams;

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Parser;
use log::Level;

use crate::context::Context;
use crate::mesh::Mesh;
use crate::metrics_page;
pub use crate::net::batch::Batch;
use crate::net::flood::say;
use crate::net::listener::{Listener, Serving};
use crate::net::membership::{Membership, OnList, RegistrationHandle};
use crate::net::peer::{Answerer, PacketServer, Peer};
use crate::node::Node;
use crate::observe::metrics::{self, Gauge};
use crate::packet::{CANCEL, Head};
pub use crate::packet::{Failure, Origin, Reply};
use crate::pool::{Pool, no_thread};
use crate::process::{self, Common, Identity, Join};
use askers::Askers;
use course::CourseNodes;
use endpoints::{Endpoints, Handler};
pub use request::Request;
use request::begin_explanation;
use requested_route::RequestedRoute;
pub use responder::Responder;
use streams::StreamTable;
pub use streams::{SharedReply, StreamSender};

/// How many slow handlers run at the same time, and how many requests may wait for them.
const WORKERS: usize = 16;
const MAX_WAITING: usize = 1024;

/// The URI under which every service answers with its metrics.
const METRICS: &str = "/metrics";

/// A service before it runs: its name and its routes.
pub struct Service {
    identity: Identity,
    endpoints: Endpoints,
    mesh: Option<Arc<Mesh>>,
}

/// A running service.
pub struct Running {
    serving: Serving,
    membership: Membership,
    dispatcher: Arc<Dispatcher>,
    mesh: Option<Arc<Mesh>>,
}

/// Answers the packets of all connections.
struct Dispatcher {
    name: &'static str,
    endpoints: Endpoints,
    /// Runs the slow handlers, if the service has any.
    pool: Option<Pool>,
    streams: Arc<StreamTable>,
    askers: Askers,
    course_nodes: CourseNodes,
    /// Set after the service has joined its distributors.
    registration: OnceLock<RegistrationHandle>,
}

/// The flags of a service that defines no flags.
#[derive(Debug, Parser)]
#[command(version, about = "A Pilcrow service")]
struct ServiceArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    join: Join,
}

impl Service {
    /// A service called `name`. It listens on `port` unless `--listen` names another address. Port 0 takes a free port,
    /// since other processes find the service through the distributor.
    #[must_use]
    pub fn new(name: &'static str, port: u16) -> Self {
        Self::with_identity(Identity { name, port, port_variable: "" })
    }

    /// A service whose port has its own environment variable.
    #[must_use]
    pub fn with_identity(identity: Identity) -> Self {
        Self { identity, endpoints: Endpoints::default(), mesh: None }
    }

    /// Passes each list that the service receives to this mesh, so that its handlers can call other services.
    #[must_use]
    pub fn mesh(mut self, mesh: &Arc<Mesh>) -> Self {
        self.mesh = Some(mesh.clone());
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

    /// Answers `method uri` with `handler`, on a thread of a pool. Use it for handlers that wait, for instance for
    /// another service.
    #[must_use]
    pub fn route_slow<H>(self, method: &str, uri: &str, handler: H) -> Self
    where
        H: Fn(&Request) -> Result<Reply, Failure> + Send + Sync + 'static,
    {
        self.add(method, uri, Handler::Slow(Arc::new(handler)))
    }

    /// Answers `method uri` with `handler`, which may pass the [`Responder`] to another thread. Use it for work that
    /// waits or is slow.
    #[must_use]
    pub fn route_later<H>(self, method: &str, uri: &str, handler: H) -> Self
    where
        H: Fn(Request, Responder) + Send + Sync + 'static,
    {
        self.add(method, uri, Handler::Later(Box::new(handler)))
    }

    fn add(mut self, method: &str, uri: &str, handler: Handler) -> Self {
        self.endpoints.add(method, uri, handler);
        self
    }

    /// Runs the service as this process: reads flags, starts the log, registers, and serves until a signal stops it.
    /// Returns the exit status for `main`.
    #[must_use]
    pub fn run(self) -> ExitCode {
        process::run(self.identity, |args: ServiceArgs| self.serve(&args.common, &args.join))
    }

    /// Does what [`run`](Self::run) does after it has parsed the flags, for services that define more flags.
    ///
    /// # Errors
    /// A sentence that says why the service could not start.
    pub fn serve(self, common: &Common, join: &Join) -> Result<(), String> {
        let stop = process::stop_signal()?;
        let name = self.identity.name;
        let listener = common.bind()?;
        let _metrics = metrics_page::serve(common)?;
        let running = self.start(listener, common, join)?;
        process::ready(name, running.address());
        let _ = stop.recv();
        log::info!("{name}: asked to end; finishing what is in progress");
        running.stop(common.drain_limit());
        Ok(())
    }

    /// Starts the service on a port that is already bound.
    ///
    /// # Errors
    /// A sentence that says why the service could not start.
    pub fn start(self, listener: Listener, common: &Common, join: &Join) -> Result<Running, String> {
        let Self { identity: Identity { name, .. }, endpoints, mesh } = self;
        let urls = endpoints.urls();
        let dispatcher = Arc::new(Dispatcher::new(name, endpoints)?);
        let server = PacketServer::new(dispatcher.clone(), common.max_frame, common.secret());
        let serving = listener.serve(name, common.max_connections, Arc::new(server)).map_err(no_thread)?;
        let node = join.advertised(Node::ours(name, serving.address().port(), urls, &process::new_id()?));
        let on_list = list_readers(&dispatcher, mesh.as_ref().map(|mesh| mesh.on_list(common.secret())));
        let membership =
            Membership::join(&join.distributor, node, common.max_frame, common.secret(), &on_list)
                .map_err(no_thread)?;
        let _ = dispatcher.registration.set(membership.registration());
        Ok(Running { serving, membership, dispatcher, mesh })
    }
}

/// Passes the lists of the distributors to the dispatcher, and to the mesh if there is one.
fn list_readers(dispatcher: &Arc<Dispatcher>, mesh: Option<Arc<OnList>>) -> Arc<OnList> {
    let dispatcher = dispatcher.clone();
    Arc::new(move |place, nodes: Vec<Node>| {
        dispatcher.course_nodes.follow(place, &nodes);
        if let Some(mesh) = &mesh {
            mesh(place, nodes);
        }
    })
}

impl Running {
    /// Where the service listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Stops the service: announces that it leaves, finishes the work in progress, and waits at most `limit`.
    pub fn stop(self, limit: Duration) {
        self.membership.leave();
        self.dispatcher.askers.announce_leaving(self.membership.notice());
        let why = Failure::new(503, "this instance is ending; ask another for what comes after");
        self.dispatcher.streams.end_all(&why);
        self.serving.drain(limit);
        if let Some(mesh) = self.mesh {
            mesh.close_streams();
        }
    }
}

impl Dispatcher {
    fn new(name: &'static str, mut endpoints: Endpoints) -> Result<Self, String> {
        // Whoever can reach the port can ask for the metrics. The gateway does not route to them.
        if !endpoints.has("GET", METRICS) {
            endpoints.add("GET", METRICS, Handler::Now(Box::new(|_| Reply::ok(metrics::text()))));
        }
        let pool = if endpoints.has_slow() { Some(Pool::start("work", WORKERS, MAX_WAITING)?) } else { None };
        let streams = Arc::new(StreamTable::default());
        let counted = Arc::downgrade(&streams);
        metrics::watch(Gauge::Streams, move || Some(counted.upgrade()?.count()));
        let (askers, course_nodes) = (Askers::default(), CourseNodes::default());
        let registration = OnceLock::new();
        Ok(Self { name, endpoints, pool, streams, askers, course_nodes, registration })
    }
}

impl Answerer for Dispatcher {
    fn connected(&self, peer: &Arc<Peer>) {
        say(Level::Info, "connected", peer.address().ip(), format_args!("{} connected", peer.address()));
        self.askers.add(peer);
    }

    fn gone(&self, peer: &Arc<Peer>) {
        say(Level::Info, "gone", peer.address().ip(), format_args!("{} gone", peer.address()));
        self.askers.remove(peer);
        self.streams.forget(peer.id());
    }

    fn course_connection_closed(&self) {
        if let Some(registration) = self.registration.get() {
            registration.repeat();
        }
    }

    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>, batch: Option<&Arc<Batch>>) {
        let (Some(method), Some(uri)) = (head.method.as_deref(), head.uri.as_deref()) else {
            return log::debug!("{} sent what is no request; ignored", peer.address());
        };
        self.askers.recognise(peer, head);
        if method == CANCEL {
            return self.streams.cancel(peer.id(), head.answer_key().as_ref());
        }
        let endpoint = self.endpoints.find(method, uri);
        let requested = match &endpoint {
            Ok(endpoint) => endpoint.requested.clone(),
            Err(_) => RequestedRoute::unknown(method, uri),
        };
        let origin = Origin::of(head).map(Arc::new);
        let explanation = begin_explanation(self.name, head);
        let context = Context { origin, explanation, ..Context::default() };
        let rules = self.course_nodes.reply_rules(peer, head);
        let responder = Responder::new(peer, head, rules, requested, &context, &self.streams);
        let ready = endpoint.and_then(|endpoint| Ok((endpoint, Request::read(peer, head, context, batch)?)));
        let (endpoint, request) = match ready {
            Ok(ready) => ready,
            Err(failure) => return responder.answer(&Err(failure)),
        };
        // A handler that panics fails one request: its dropped responder answers 500. The connection stays open, since
        // it carries other requests.
        let handled = catch_unwind(AssertUnwindSafe(|| {
            endpoint.handler.handle(request, responder, self.pool.as_ref());
        }));
        if handled.is_err() {
            log::error!("the handler of {method} {uri} panicked");
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("identity", &self.identity)
            .field("routes", &self.endpoints.urls())
            .finish_non_exhaustive()
    }
}
