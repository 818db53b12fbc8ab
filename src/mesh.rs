//! The mesh: what any process needs to call services by `METHOD /path`.
//!
//! It follows the distributors' lists, keeps one link to each instance, knows which instance serves which route,
//! and calls the least busy one. The gateway is written on it. No call goes through a distributor.
//!
//! The list *adds* instances; a live link is the truth about the rest. An instance that a list leaves out, since
//! its distributor has just been restarted, stays in use for as long as its link lives.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, RwLock, Weak};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::context::{Context, MAX_HOPS};
use crate::net::call::Call;
use crate::net::health::Intent;
use crate::net::link::{DEFAULT_TIMEOUT, Link, LinkLimits, LinkState};
use crate::net::membership::{Membership, OnList};
use crate::net::reply::{Outcome, Refusal, ReplyFrame};
use crate::net::secret::Secret;
use crate::net::stream::ReplyStream;
use crate::node::Node;
use crate::observe::metrics::{self, CALLS, Gauge};
use crate::packet::{Dialect, Failure, Outgoing};
use crate::routes::{Resolved, Routes, Row};
use crate::sync::{read, write};

/// A process's view of all services, and its links to them.
pub struct Mesh {
    limits: LinkLimits,
    table: RwLock<LinkTable>,
    closing: AtomicBool,
    /// What its links prove, once it belongs to a cluster.
    secret: OnceLock<Option<Secret>>,
}

/// *Invariant:* every link here has its routes in `routes`, and no route has a link that is not here.
#[derive(Default)]
struct LinkTable {
    routes: Routes<Arc<Link>>,
    links: HashMap<String, Arc<Link>>,
    /// By distributor: the instances of its newest list, with their ids.
    listed: HashMap<usize, HashMap<String, Option<String>>>,
}

/// How a call ended, and which instance was asked.
#[derive(Debug)]
pub struct Exchange {
    /// The last link that was tried. There is none if no instance could be asked.
    pub asked: Option<Arc<Link>>,
    /// The reply, or the outcome instead.
    pub outcome: Result<ReplyFrame, Outcome>,
}

impl Mesh {
    /// A mesh without instances. It learns of them from lists ([`Mesh::on_list`]).
    #[must_use]
    pub fn new(limits: LinkLimits) -> Arc<Self> {
        let (table, closing) = (RwLock::new(LinkTable::default()), AtomicBool::new(false));
        let mesh = Arc::new(Self { limits, table, closing, secret: OnceLock::new() });
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

    /// What to do with a distributor's list. The links to those that it names prove this secret, if there is one;
    /// a mesh belongs to one cluster, that of the first call.
    #[must_use]
    pub fn on_list(self: &Arc<Self>, secret: Option<&Secret>) -> Arc<OnList> {
        self.secret.get_or_init(|| secret.cloned());
        let mesh = self.clone();
        Arc::new(move |place, nodes| mesh.follow(place, nodes))
    }

    /// Calls a route and waits for its reply: at most as long as the asker whose `context` this is still waits, or
    /// 5 s. A path such as `/users/1` is understood as by the gateway. Returned is the whole reply packet.
    ///
    /// # Errors
    /// What the service refuses, in its words; 404 and 405 for what nobody has registered; 502, 503 and 504 as at
    /// the gateway; 508 if this request has already come through too many services.
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
                return Err(Failure::new(405, format!("{path} takes {}, not {method}", allowed.join(", "))));
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

    /// What a method and a path mean to the route table.
    #[must_use]
    pub fn resolve<'a>(&self, method: &str, path: &'a str) -> Resolved<'a> {
        read(&self.table).routes.resolve(method, path)
    }

    /// The dialect of those who serve a route, if anybody does just now.
    #[must_use]
    pub fn dialect(&self, method: &str, path: &str) -> Option<Dialect> {
        self.pick(method, path, None).map(|link| link.dialect())
    }

    /// Calls a route and waits for the reply until `deadline`.
    ///
    /// A request that was not sent is tried once more, on another instance. So is a read whose link was lost, or
    /// that has no reply after half of its time.
    pub fn exchange(&self, request: &Outgoing<'_>, deadline: Instant) -> Exchange {
        if request.hops > MAX_HOPS {
            return Exchange { asked: None, outcome: Err(Outcome::Refused(Refusal::Ring)) };
        }
        // Pick.
        let Some(first) = self.pick(request.method, request.uri, None) else {
            return Exchange { asked: None, outcome: Err(Outcome::Refused(Refusal::Down)) };
        };
        // Send.
        let mut call = match first.begin(request, deadline) {
            Ok(call) => call,
            Err(refused) => return self.fail_or_retry(request, deadline, &first, refused),
        };
        // Wait.
        let patience = match intent(request.method) {
            Intent::Read => call.halfway(),
            Intent::Write => deadline,
        };
        let why = match call.wait_until(patience) {
            Some(Ok(reply)) => return Exchange { asked: Some(first.clone()), outcome: Ok(reply) },
            Some(Err(why)) => why,
            None => return self.replace(request, deadline, &first, call),
        };
        // The failure cases.
        drop(call);
        self.fail_or_retry(request, deadline, &first, why)
    }

    /// Asks another instance instead, if the request may be sent again: it never left, or it is a read whose link was
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
        let second =
            if may_retry { self.pick(request.method, request.uri, Some(failed.address())) } else { None };
        let Some(second) = second else { return Exchange { asked: Some(failed.clone()), outcome: Err(why) } };
        log_retry(request, failed, &why, &second);
        let outcome = second.call(request, deadline);
        Exchange { asked: Some(second), outcome }
    }

    /// Asks another instance in the place of one that has been silent for half of the time of a read, if there is one
    /// that takes the request and has not been set aside itself.
    #[cold]
    fn replace(
        &self,
        request: &Outgoing<'_>,
        deadline: Instant,
        first: &Arc<Link>,
        silent: Call<'_>,
    ) -> Exchange {
        let second = self.pick(request.method, request.uri, Some(first.address()));
        // A request that waits in the window of a course service stays there: a burst must not move to another one.
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
        let link = self.pick(request.method, request.uri, None);
        link.ok_or(Outcome::Refused(Refusal::Down))?.open_stream(request, deadline)
    }

    /// Ends all streams, since this process is about to end. Their readers are notified.
    pub fn close_streams(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let links: Vec<Arc<Link>> = read(&self.table).links.values().cloned().collect();
        for link in links {
            link.end_streams();
        }
    }

    /// Whether this process is about to end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Sends a request to which no reply is wanted to one instance of its route. Returned is the link that took it.
    ///
    /// # Errors
    /// [`Outcome::Refused`] if it was not sent.
    pub fn notify(&self, request: &Outgoing<'_>) -> Result<Arc<Link>, Outcome> {
        let link = self.pick(request.method, request.uri, None).ok_or(Outcome::Refused(Refusal::Down))?;
        link.notify(request).map(|()| link)
    }

    /// Whether at least one route has an instance that takes requests.
    #[must_use]
    pub fn ready(&self) -> bool {
        read(&self.table).routes.has_instance(|link| link.load().is_some())
    }

    /// The route table, with the instances that take requests.
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

    /// Takes in a list. Nodes without routes, such as gateways, get no link.
    fn follow(self: &Arc<Self>, place: usize, nodes: Vec<Node>) {
        let nodes: Vec<Node> = nodes.into_iter().filter(|node| !node.urls.is_empty()).collect();
        let mut after = DeferredWork::default();
        let mut table = write(&self.table);
        let before = table.listed.remove(&place).unwrap_or_default();
        let now = nodes.iter().map(|node| (node.address(), node.id().map(str::to_owned))).collect();
        for node in &nodes {
            let address = node.address();
            let news = before.get(&address).map(Option::as_deref) != Some(node.id());
            self.follow_node(&mut table, &mut after, node, &address, news);
        }
        table.listed.insert(place, now);
        table.drop_unlisted(&mut after);
        drop(table);
        after.finish();
    }

    fn follow_node(
        self: &Arc<Self>,
        table: &mut LinkTable,
        after: &mut DeferredWork,
        node: &Node,
        address: &str,
        news: bool,
    ) {
        let known = table.links.get(address).filter(|link| link.dialect() == node.dialect()).cloned();
        let link = match known {
            Some(link) => {
                link.set_leaving(node.is_leaving());
                if news {
                    link.dial_now();
                }
                link
            }
            None if node.is_leaving() => return,
            None => match self.open(address, node.dialect()) {
                Ok(link) => link,
                Err(error) => {
                    after.log_lines.push(format!("no link to {address}: no further thread ({error})"));
                    return;
                }
            },
        };
        after.log_changes(&node.name, address, &table.routes.set(address, &node.name, &node.urls, &link));
        after.links.extend(table.links.insert(address.to_owned(), link));
    }

    fn open(self: &Arc<Self>, address: &str, dialect: Dialect) -> io::Result<Arc<Link>> {
        // Weak: the link belongs to the table, and its thread must not keep the table alive.
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
        if up {
            log::info!("link {address}: up");
            return;
        }
        let mut after = DeferredWork::default();
        write(&self.table).drop_unlisted(&mut after);
        after.finish();
    }
}

/// Whether a method reads or writes.
fn intent(method: &str) -> Intent {
    if matches!(method, "GET" | "HEAD") { Intent::Read } else { Intent::Write }
}

fn log_retry(request: &Outgoing<'_>, from: &Link, why: &dyn fmt::Display, to: &Link) {
    let Outgoing { method, uri, .. } = request;
    log::info!("{method} {uri}: {} ({why}); trying {}", from.address(), to.address());
    CALLS.retries.inc();
}

impl LinkTable {
    /// Takes out the instances that no list names and whose link is down.
    fn drop_unlisted(&mut self, after: &mut DeferredWork) {
        let listed: HashSet<&str> =
            self.listed.values().flat_map(HashMap::keys).map(String::as_str).collect();
        let gone: Vec<String> = self
            .links
            .iter()
            .filter(|(address, link)| !listed.contains(address.as_str()) && !link.is_up())
            .map(|(address, _)| address.clone())
            .collect();
        for address in gone {
            after.log_changes("instance", &address, &self.routes.remove(&address));
            after.links.extend(self.links.remove(&address));
        }
    }
}

/// Work that a change of the table leaves for after its lock: requests must not wait for a log line or for a link that
/// ends.
#[derive(Default)]
struct DeferredWork {
    links: Vec<Arc<Link>>,
    log_lines: Vec<String>,
}

impl DeferredWork {
    fn log_changes(&mut self, name: &str, address: &str, changes: &[String]) {
        if !changes.is_empty() {
            self.log_lines.push(format!("{name} at {address}: {}", changes.join(", ")));
        }
    }

    fn finish(self) {
        drop(self.links);
        for line in self.log_lines {
            log::info!("{line}");
        }
    }
}

/// The one table of outcomes and the statuses that they have, in HTTP and between services.
#[must_use]
pub fn failure_of(outcome: Outcome, uri: &str) -> Failure {
    let (status, what_now) = match outcome {
        Outcome::Timeout => (504, "look before you repeat it"),
        Outcome::LinkLost => (502, "look before you repeat it"),
        Outcome::Refused(Refusal::TooLarge { .. } | Refusal::TooLargeForCourse { .. }) => (413, "send less"),
        Outcome::Refused(Refusal::Down) => (503, "start an instance, or try again in a moment"),
        Outcome::Refused(Refusal::Busy | Refusal::NoTurn) => (503, "try again in a moment"),
        Outcome::Refused(Refusal::Ring) => (508, "break the ring of services that call each other"),
    };
    Failure::new(status, format!("{uri}: {outcome}; {what_now}"))
}

/// What a refusal says in its own words; all other fields belong to whoever refuses, such as `oldest`.
const FIELDS_OF_ITS_OWN: [&str; 5] = ["key", "errorcode", "errorCode", "errormessage", "more"];

/// A reply packet unpacked, or what it refuses.
///
/// # Errors
/// The failure that the reply tells of.
pub(crate) fn read_reply(reply: &ReplyFrame) -> Result<Value, Failure> {
    let packet: Value = serde_json::from_str(&reply.json)
        .map_err(|error| Failure::new(502, format!("the reply cannot be read: {error}")))?;
    match reply.errorcode.unwrap_or(0) {
        0 => Ok(packet),
        code => {
            let message = packet.get("errormessage").and_then(Value::as_str).unwrap_or("the service refused");
            let failure = Failure::new(u16::try_from(code).unwrap_or(500), message);
            let rest = packet
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(name, _)| !FIELDS_OF_ITS_OWN.contains(&name.as_str()));
            Err(rest.fold(failure, |failure, (name, value)| failure.with(name, value.clone())))
        }
    }
}
