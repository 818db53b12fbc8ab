//! The mesh: it lets any process call services by `METHOD /path`.
//!
//! A mesh follows the lists of the distributors, keeps one link to each instance, and calls the least busy instance of
//! a route. The gateway is built on it. No call goes through a distributor.
//!
//! - This file calls: [`Mesh::exchange`] picks an instance, sends, waits, and handles failures.
//! - `link_table` knows which instance serves which route.
//! - `failure` maps an outcome to a status.
//! - `explain` lists the candidates of a pick. `status` is for people who watch.

mod explain;
mod failure;
mod link_table;
mod status;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, RwLock, Weak};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::context::{Context, DEFAULT_TIMEOUT, MAX_HOPS};
use crate::net::call::Call;
use crate::net::health::Intent;
use crate::net::link::{Link, LinkLimits, LinkState};
use crate::net::membership::{Membership, OnList};
use crate::net::reply::{Outcome, Refusal, ReplyFrame};
use crate::net::secret::Secret;
use crate::net::stream::ReplyStream;
use crate::node::Node;
use crate::observe::metrics::{self, CALLS, Gauge};
use crate::packet::{Dialect, Failure, Outgoing};
use crate::routes::{Resolved, Row};
use crate::sync::{lock, read, write};
pub use failure::failure_of;
pub(crate) use failure::read_reply;
use link_table::LinkTable;
pub use status::ServiceLink;

/// A process's view of all services, and its links to them.
pub struct Mesh {
    limits: LinkLimits,
    table: RwLock<LinkTable>,
    /// Held while the table changes and the change is logged, so that the log has the order of the changes.
    log_order: Mutex<()>,
    closing: AtomicBool,
    /// The secret that its links prove, after it has joined a cluster.
    secret: OnceLock<Option<Secret>>,
}

/// How a call ended, and which instance was called.
#[derive(Debug)]
pub struct Exchange {
    /// The last link that was tried. `None` if no instance could be called.
    pub asked: Option<Arc<Link>>,
    /// The reply, or the outcome of a call without a reply.
    pub outcome: Result<ReplyFrame, Outcome>,
}

impl Mesh {
    /// A mesh without instances. Lists add them ([`Mesh::on_list`]).
    #[must_use]
    pub fn new(limits: LinkLimits) -> Arc<Self> {
        let (table, closing) = (RwLock::new(LinkTable::default()), AtomicBool::new(false));
        let mesh =
            Arc::new(Self { limits, table, log_order: Mutex::default(), closing, secret: OnceLock::new() });
        mesh.show_links();
        mesh
    }

    /// Makes the metrics show how many links are in which state.
    fn show_links(self: &Arc<Self>) {
        LazyLock::force(&CALLS);
        for state in LinkState::ALL {
            let mesh = Arc::downgrade(self);
            metrics::watch(Gauge::Links(state.name()), move || {
                let mesh = mesh.upgrade()?;
                let table = read(&mesh.table);
                Some(table.links.values().filter(|link| link.state() == state).count())
            });
        }
    }

    /// Registers `node` with every distributor and follows their lists. Dropping the membership ends both.
    ///
    /// # Errors
    /// If the operating system starts no further thread.
    pub fn join(
        distributors: &[String],
        node: Node,
        limits: LinkLimits,
        secret: Option<&Secret>,
    ) -> io::Result<(Arc<Self>, Membership)> {
        let mesh = Self::new(limits);
        let on_list = mesh.on_list(secret);
        let membership = Membership::join(distributors, node, limits.max_frame_bytes, secret, &on_list)?;
        Ok((mesh, membership))
    }

    /// Returns the function that applies a distributor's list. The links that it opens prove this secret, if there is
    /// one. A mesh belongs to one cluster: that of the first call.
    #[must_use]
    pub fn on_list(self: &Arc<Self>, secret: Option<&Secret>) -> Arc<OnList> {
        self.secret.get_or_init(|| secret.cloned());
        let mesh = self.clone();
        Arc::new(move |place, nodes| mesh.follow(place, nodes))
    }

    /// Calls a route and returns the whole reply packet. It waits at most as long as the asker of `context` waits, or
    /// else 5 s. It reads a path such as `/users/1` as the gateway does.
    ///
    /// # Errors
    /// The service's own failures; 404 and 405 for a route that is not registered; 502, 503 and 504 as at the gateway;
    /// 508 if this request has already passed too many services.
    pub fn call<T: Serialize>(
        &self,
        context: &Context,
        method: &str,
        path: &str,
        params: &T,
    ) -> Result<Value, Failure> {
        let mut params =
            serde_json::to_value(params).map_err(|error| Failure::new(500, error.to_string()))?;
        let uri = match self.resolve(method, path) {
            Resolved::Route(uri, None) => uri,
            Resolved::Route(uri, Some(segment)) => {
                if let Value::Object(fields) = &mut params {
                    fields.insert("params".to_owned(), segment.into());
                }
                uri
            }
            Resolved::MethodNotAllowed(allowed) => {
                return Err(Failure::new(405, format!("{path} accepts {}", allowed.join(", "))));
            }
            Resolved::NotFound => {
                return Err(Failure::not_found(format!("no service has registered {method} {path}")));
            }
        };
        let raw = to_raw_value(&params).map_err(|error| Failure::new(500, error.to_string()))?;
        let (request, deadline) =
            (context.request(method, uri, &raw), context.deadline_within(DEFAULT_TIMEOUT));
        let reply = self.exchange(&request, deadline).outcome.map_err(|outcome| failure_of(outcome, uri))?;
        if reply.more {
            return Err(Failure::new(406, format!("{uri} answers with a stream; subscribe to it instead")));
        }
        read_reply(&reply)
    }

    /// Looks up a method and a path in the route table.
    #[must_use]
    pub fn resolve<'a>(&self, method: &str, path: &'a str) -> Resolved<'a> {
        read(&self.table).routes.resolve(method, path)
    }

    /// The dialect of the instances that serve a route now, if there are any.
    #[must_use]
    pub fn dialect(&self, method: &str, path: &str) -> Option<Dialect> {
        self.pick(method, path, None).map(|link| link.dialect())
    }

    /// Calls a route and waits for the reply until `deadline`.
    ///
    /// A request that was not sent is retried once, on another instance. The same applies to a read whose link was
    /// lost, or that has no reply after half of its time.
    pub fn exchange(&self, request: &Outgoing<'_>, deadline: Instant) -> Exchange {
        if request.hops > MAX_HOPS {
            return Exchange { asked: None, outcome: Err(Outcome::Refused(Refusal::Ring)) };
        }
        // Pick an instance.
        let Some(first) = self.pick_for(request, None) else {
            return Exchange { asked: None, outcome: Err(Outcome::Refused(Refusal::Down)) };
        };
        // Send the request.
        let mut call = match first.begin(request, deadline) {
            Ok(call) => call,
            Err(refused) => return self.fail_or_retry(request, deadline, &first, refused),
        };
        // Wait for the reply.
        let patience = match intent(request.method) {
            Intent::Read => call.halfway(),
            Intent::Write => deadline,
        };
        let why = match call.wait_until(patience) {
            Some(Ok(reply)) => return Exchange { asked: Some(first.clone()), outcome: Ok(reply) },
            Some(Err(why)) => why,
            None => return self.replace(request, deadline, &first, call),
        };
        // Handle the failures.
        drop(call);
        self.fail_or_retry(request, deadline, &first, why)
    }

    /// Retries on another instance, if the request may be sent again: it was never sent, or it is a read whose link was
    /// lost.
    #[cold]
    fn fail_or_retry(
        &self,
        request: &Outgoing<'_>,
        deadline: Instant,
        failed: &Arc<Link>,
        why: Outcome,
    ) -> Exchange {
        let may_retry = match why {
            Outcome::Refused(Refusal::Down | Refusal::Busy) => true,
            Outcome::LinkLost => intent(request.method) == Intent::Read,
            _ => false,
        };
        let second = if may_retry { self.pick_for(request, Some(failed.address())) } else { None };
        let Some(second) = second else { return Exchange { asked: Some(failed.clone()), outcome: Err(why) } };
        log_retry(request, failed, &why, &second);
        let outcome = second.call(request, deadline);
        Exchange { asked: Some(second), outcome }
    }

    /// Retries a read on another instance, after the first was silent for half of the time. The other instance must
    /// accept the request and must not be an outlier.
    #[cold]
    fn replace(
        &self,
        request: &Outgoing<'_>,
        deadline: Instant,
        first: &Arc<Link>,
        silent: Call<'_>,
    ) -> Exchange {
        let second = self.pick_for(request, Some(first.address()));
        // A request that waits in the window of a course service stays there: a burst must not move elsewhere.
        let second = second.filter(|second| !second.is_aside() && !silent.is_waiting_for_turn());
        let Some((second, call)) =
            second.as_ref().and_then(|second| Some((second, second.begin(request, deadline).ok()?)))
        else {
            return Exchange { asked: Some(first.clone()), outcome: silent.wait() };
        };
        log_retry(request, first, &"no reply yet", second);
        silent.abandon();
        let outcome = call.wait();
        Exchange { asked: Some(second.clone()), outcome }
    }

    /// Sends a request whose reply may be a stream to one instance of its route.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn open_stream(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<ReplyStream, Outcome> {
        if self.is_closing() {
            return Err(Outcome::Refused(Refusal::Down));
        }
        let link = self.pick_for(request, None);
        link.ok_or(Outcome::Refused(Refusal::Down))?.open_stream(request, deadline)
    }

    /// Ends all streams, since this process stops. Their readers are notified.
    pub fn close_streams(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let links: Vec<Arc<Link>> = read(&self.table).links.values().cloned().collect();
        for link in links {
            link.end_streams();
        }
    }

    /// Whether this process is about to stop.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Sends a request that needs no reply to one instance of its route. Returns the link that accepted it.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn notify(&self, request: &Outgoing<'_>) -> Result<Arc<Link>, Outcome> {
        let link = self.pick(request.method, request.uri, None).ok_or(Outcome::Refused(Refusal::Down))?;
        link.notify(request).map(|()| link)
    }

    /// Whether at least one route has an instance that accepts requests.
    #[must_use]
    pub fn ready(&self) -> bool {
        read(&self.table).routes.has_instance(|link| link.load().is_some())
    }

    /// The route table, with the instances that accept requests.
    #[must_use]
    pub fn routes(&self) -> Vec<Row> {
        read(&self.table).routes.rows(|link| link.load().is_some())
    }

    fn pick(&self, method: &str, path: &str, not: Option<&str>) -> Option<Arc<Link>> {
        let intent = intent(method);
        let usable =
            |address: &str, link: &Arc<Link>| if not == Some(address) { None } else { link.rank(intent) };
        read(&self.table).routes.pick(method, path, usable)
    }

    /// Applies a list: opens links to new instances, and drops unlisted links that are down.
    fn follow(self: &Arc<Self>, distributor: usize, nodes: Vec<Node>) {
        let _in_order = lock(&self.log_order);
        let deferred =
            write(&self.table).follow(distributor, nodes, |node| self.open(&node.address(), node.dialect()));
        deferred.finish();
    }

    fn open(self: &Arc<Self>, address: &str, dialect: Dialect) -> io::Result<Arc<Link>> {
        // A weak reference: the table owns the link, and the thread of the link must not keep the table alive.
        let weak: Weak<Self> = Arc::downgrade(self);
        let on_change = move |address: &str, up: bool| {
            if let Some(mesh) = weak.upgrade() {
                mesh.changed(address, up);
            }
        };
        let secret = self.secret.get().and_then(Option::as_ref);
        Link::open(address, dialect, self.limits, secret, Box::new(on_change)).map(Arc::new)
    }

    fn changed(&self, address: &str, up: bool) {
        let _in_order = lock(&self.log_order);
        if up {
            log::info!("link {address}: up");
            return;
        }
        let deferred = write(&self.table).drop_unlisted();
        deferred.finish();
    }
}

/// Whether a method reads or writes.
fn intent(method: &str) -> Intent {
    if matches!(method, "GET" | "HEAD") { Intent::Read } else { Intent::Write }
}

fn log_retry(request: &Outgoing<'_>, from: &Link, why: &dyn fmt::Display, to: &Link) {
    let Outgoing { method, uri, .. } = request;
    log::info!("{method} {uri}: {} ({why}); trying {}", from.address(), to.address());
    request.explain(file!(), || format!("{} ({why}): trying {}", from.address(), to.address()));
    CALLS.retries.inc();
}
