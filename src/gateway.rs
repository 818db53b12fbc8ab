//! The gateway: HTTP in front, packets behind.
//!
//! The story of one request: a connection's thread reads it ([`http`]), [`translate`] turns method, path, query
//! and body into a route and its `params`, the [`Mesh`] sends the packet to the least busy instance and waits,
//! and the reply packet, untouched, is the body of the answer. Every failure on that way is an answer too, in the
//! same shape, and one table says which status it has ([`translate::failure_of`]).

pub mod backlog;
pub mod head;
pub mod http;
pub mod streams;
pub mod tiny_front;
pub mod translate;

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use tiny_http::{Header, Method};

use crate::address::canonical;
use crate::context::Context;
use crate::mesh::Mesh;
use crate::net::link::{Outcome, Refusal};
use crate::net::membership::Membership;
use crate::node::GATEWAY_PATHS;
use crate::observe::access_log::HttpLine;
use crate::observe::metrics::{self, Gauge, HTTP};
use crate::packet::{Dialect, Failure, Origin, Outgoing};
use crate::process::Identity;
use crate::routes::Resolved;
use crate::subscription::Subscription;
use crate::sync::Permit;
use http::Site;
use streams::{Account, EventStream, StreamPlace};
use translate::{HttpAnswer, Target};

/// The process that speaks HTTP.
pub const GATEWAY: Identity = Identity { name: "gateway", port: 8000, port_variable: "GATE_PORT" };

/// The longest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long, once the gateway is asked to end, its idle connections are still read: requests may be on their way.
pub const SETTLE: Duration = Duration::from_millis(300);

/// The longest request id taken over from a client, in characters.
const MAX_REQUEST_ID_CHARS: usize = 64;

/// An HTTP request, whichever front has read it. The vocabulary is tiny_http's.
#[derive(Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Path and query as they were sent.
    pub target: String,
    /// Those headers that the gateway looks at.
    pub headers: Vec<Header>,
    /// The body, whole.
    pub body: Vec<u8>,
    /// Who is at the other end of the connection.
    pub peer: IpAddr,
}

/// What answers HTTP requests.
pub struct Gateway {
    mesh: Arc<Mesh>,
    membership: Membership,
    settings: Settings,
    in_flight: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
    /// Request ids of our own: what they begin with, and how many there were.
    id_prefix: String,
    ids: AtomicU64,
}

/// The limits of a gateway, and whom it believes.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a client waits for a reply at most.
    pub timeout: Duration,
    /// How many requests may be in flight.
    pub max_in_flight: usize,
    /// How many streams may be open.
    pub max_streams: usize,
    /// The proxies in front of it: what they say of the client's address is believed.
    pub trusted_proxies: Vec<IpAddr>,
}

/// What a request gets.
pub enum Answer {
    /// All at once.
    Whole(HttpAnswer),
    /// Bit by bit.
    Stream(Box<EventStream>),
}

/// What is found out about a request on its way, for the metrics and for the access log.
struct Way<'a> {
    began: Instant,
    /// The route that it reached.
    route: Option<&'a str>,
    /// Who was asked last.
    instance: Option<Arc<str>>,
}

impl Answer {
    fn status(&self) -> u16 {
        match self {
            Self::Whole(answer) => answer.status,
            Self::Stream(_) => 200,
        }
    }
}

impl HttpRequest {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &'static str) -> Option<&str> {
        header(&self.headers, name)
    }
}

fn header<'a>(headers: &'a [Header], name: &'static str) -> Option<&'a str> {
    headers.iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
}

impl Gateway {
    /// A gateway on this mesh. `id` begins the ids of requests that come without one.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, membership: Membership, settings: Settings, id: String) -> Self {
        let (in_flight, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for (gauge, number) in [(Gauge::HttpInFlight, &in_flight), (Gauge::Streams, &streams)] {
            let number = Arc::downgrade(number);
            metrics::watch(gauge, move || Some(number.upgrade()?.load(Ordering::Relaxed)));
        }
        let ids = AtomicU64::new(0);
        Self { mesh, membership, settings, in_flight, streams, id_prefix: id, ids }
    }

    /// Tells the distributors that this gateway is about to end, and ends its streams: they have no end of their
    /// own to wait for.
    pub fn leave(&self) {
        self.membership.leave();
        self.mesh.close_streams();
    }

    fn route<'a>(
        &self,
        request: &HttpRequest,
        target: &'a Target<'_>,
        way: &mut Way<'a>,
    ) -> Result<Answer, HttpAnswer> {
        // A HEAD is a GET whose answer is sent without its body.
        let method = if request.method == Method::Head { "GET" } else { request.method.as_str() };
        if let Some(own) = self.own_route(method, &target.path) {
            // Any other method is the client's word, and no route.
            way.route = Some(&*target.path).filter(|_| method == "GET");
            return own.map(Answer::Whole);
        }
        let (uri, has_segment) = match self.mesh.resolve(method, &target.path) {
            Resolved::Route(uri, segment) => (uri, segment.is_some()),
            Resolved::MethodNotAllowed(allowed) => {
                return Err(method_not_allowed(method, &target.path, &allowed));
            }
            Resolved::NotFound => return Err(not_found(method, &target.path)),
        };
        way.route = Some(uri);
        // Where nobody lives just now, text is no mistake: this says 503.
        if (method, uri) == ("POST", "/logs") && self.mesh.dialect(method, uri) != Some(Dialect::Pilcrow) {
            return self.write_log(&request.body, way).map(Answer::Whole);
        }
        let segment = if has_segment { Some(target.last_segment()?) } else { None };
        let params = translate::params(request, target.query, segment)?;
        if translate::wants_events(request) {
            return self.stream(request, uri, &params, way);
        }
        let packet = Outgoing { uri, method, params: &params };
        let busy = || translate::failure_of(Outcome::Refused(Refusal::Busy), uri);
        let _in_flight = Permit::take(&*self.in_flight, self.settings.max_in_flight).ok_or_else(busy)?;
        let exchange = self.mesh.exchange(&packet, way.began + self.settings.timeout);
        way.instance = exchange.asked.as_ref().map(|link| link.shared_address());
        let reply = exchange.outcome.map_err(|outcome| translate::failure_of(outcome, uri))?;
        if reply.more {
            return Err(HttpAnswer::failure(&Failure::new(
                406,
                format!("{uri} answers with a stream: ask with Accept: text/event-stream, or with a limit"),
            )));
        }
        Ok(Answer::Whole(translate::conditional(request, HttpAnswer::from(reply))))
    }

    /// A GET whose client takes events. Whether they come is for the service to say: its first reply is part of
    /// a stream, or the whole answer.
    #[inline(never)] // what it needs of the stack would be taken for every request
    fn stream(
        &self,
        request: &HttpRequest,
        uri: &str,
        params: &RawValue,
        way: &mut Way<'_>,
    ) -> Result<Answer, HttpAnswer> {
        let place = StreamPlace::take(self.streams.clone(), self.settings.max_streams)
            .ok_or_else(|| translate::failure_of(Outcome::Refused(Refusal::Busy), uri))?;
        let params = serde_json::from_str(params.get()).unwrap_or_default();
        let mut subscription = Subscription::new(&self.mesh, uri, params);
        let first = subscription.next(way.began + self.settings.timeout);
        way.instance = subscription.instance().cloned();
        match first {
            Ok(Some(first)) if first.more => {
                let origin = Context::current().origin.unwrap_or_default();
                let account = Account {
                    request_id: origin.request_id.clone(),
                    client: origin.client.unwrap_or(request.peer),
                    target: request.target.clone(),
                    route: uri.to_owned(),
                    instance: way.instance.clone(),
                    began: way.began,
                };
                Ok(Answer::Stream(Box::new(EventStream::new(subscription, first, account, place))))
            }
            Ok(Some(whole)) => Ok(Answer::Whole(translate::conditional(request, HttpAnswer::from(whole)))),
            Ok(None) => Err(translate::failure_of(Outcome::Timeout, uri)),
            Err(failure) => Err(translate::refusal(&failure)),
        }
    }

    /// The names that are the gateway's own.
    #[inline(never)] // what it needs of the stack would be taken for every request
    fn own_route(&self, method: &str, path: &str) -> Option<Result<HttpAnswer, HttpAnswer>> {
        if !GATEWAY_PATHS.contains(&path) {
            return None;
        }
        if method != "GET" {
            return Some(Err(method_not_allowed(method, path, &["GET".to_owned()])));
        }
        Some(Ok(match path {
            "/healthz" => success(&"serving"),
            "/metrics" => HttpAnswer::text(metrics::CONTENT_TYPE, metrics::text()),
            "/readyz" if self.mesh.ready() => success(&"ready"),
            "/readyz" => translate::refusal(&Failure::new(
                503,
                "no route has a live instance yet: start a service, or wait until it has registered",
            )),
            _ => success(&self.mesh.routes()),
        }))
    }

    /// The course's log service takes text and never answers: the client is told that it was passed on.
    #[inline(never)] // what it needs of the stack would be taken for every request
    fn write_log(&self, body: &[u8], way: &mut Way<'_>) -> Result<HttpAnswer, HttpAnswer> {
        let params = translate::text_param(&String::from_utf8_lossy(body))?;
        let packet = Outgoing { uri: "/logs", method: "POST", params: &params };
        let link = self.mesh.notify(&packet).map_err(|outcome| translate::failure_of(outcome, packet.uri))?;
        way.instance = Some(link.shared_address());
        let body = json!({ "errorcode": 0, "errormessage": "passed on" });
        Ok(HttpAnswer::json(202, &body))
    }

    fn origin(&self, request: &HttpRequest) -> Origin {
        Origin {
            request_id: self.request_id(&request.headers),
            client: Some(self.client(request.peer, &request.headers)),
            authorization: request.header("Authorization").map(str::to_owned),
        }
    }

    /// The client's address: the other end of the connection, or what a trusted proxy there says. The last address
    /// of its `X-Forwarded-For` is its own knowledge; those before may be the client's invention.
    fn client(&self, peer: IpAddr, headers: &[Header]) -> IpAddr {
        if !self.settings.trusted_proxies.contains(&peer) {
            return peer;
        }
        let said =
            header(headers, "X-Forwarded-For").and_then(|said| said.rsplit(',').next()?.trim().parse().ok());
        said.map_or(peer, canonical)
    }

    fn request_id(&self, headers: &[Header]) -> String {
        let sane = |id: &&str| {
            (1..=MAX_REQUEST_ID_CHARS).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        match header(headers, "X-Request-Id").filter(sane) {
            Some(id) => id.to_owned(),
            None => self.new_request_id(),
        }
    }

    fn new_request_id(&self) -> String {
        let mut id = String::with_capacity(self.id_prefix.len() + "-ffffffffffffffff".len());
        let _ = write!(id, "{}-{:x}", self.id_prefix, self.ids.fetch_add(1, Ordering::Relaxed));
        id
    }
}

impl Site for Gateway {
    /// Takes no longer than the time-out.
    fn answer(&self, request: &HttpRequest) -> Answer {
        let mut way = Way { began: Instant::now(), route: None, instance: None };
        let origin = Arc::new(self.origin(request));
        let context = Context { origin: Some(origin.clone()), ..Context::default() };
        let target = Target::parse(&request.target);
        let answer = match &target {
            Ok(target) => context.run(|| self.route(request, target, &mut way)),
            Err(refusal) => Err(refusal.clone()),
        };
        let answer = answer.unwrap_or_else(Answer::Whole);
        let took = way.began.elapsed();
        let status = answer.status();
        HTTP.of(request.method.as_str(), way.route).answered(status, took);
        match answer {
            Answer::Whole(answer) => {
                HttpLine {
                    id: &origin.request_id,
                    client: origin.client.unwrap_or(request.peer),
                    method: Some(request.method.as_str()),
                    target: Some(&request.target),
                    route: way.route,
                    instance: way.instance.as_deref(),
                    status,
                    bytes: answer.sent_bytes(&request.method),
                    took,
                }
                .write();
                Answer::Whole(
                    challenged(answer).with_header("X-Request-Id", Arc::unwrap_or_clone(origin).request_id),
                )
            }
            // The access log is told of it once it has ended.
            Answer::Stream(stream) => Answer::Stream(stream),
        }
    }

    /// It has an id as well, to be found again by.
    fn refuse(&self, answer: HttpAnswer, headers: &[Header], peer: IpAddr) -> HttpAnswer {
        let (id, status, bytes) = (self.request_id(headers), answer.status, answer.body.len());
        HTTP.of("", None).answered(status, Duration::ZERO);
        let (client, took) = (self.client(peer, headers), Duration::ZERO);
        let (method, target, route, instance) = (None, None, None, None);
        HttpLine { id: &id, client, method, target, route, instance, status, bytes, took }.write();
        answer.with_header("X-Request-Id", id)
    }
}

/// Who is not let in is told how to show who it is, as HTTP wants it.
fn challenged(answer: HttpAnswer) -> HttpAnswer {
    if answer.status == 401 { answer.with_header("WWW-Authenticate", "Bearer") } else { answer }
}

fn success<T: Serialize>(results: &T) -> HttpAnswer {
    HttpAnswer::json(200, &json!({ "errorcode": 0, "errormessage": "success", "results": results }))
}

fn not_found(method: &str, path: &str) -> HttpAnswer {
    HttpAnswer::failure(&Failure::not_found(format!(
        "no service has registered {method} {path}; GET /routes shows what there is"
    )))
}

fn method_not_allowed(method: &str, path: &str, allowed: &[String]) -> HttpAnswer {
    // A node may register any text as a method. In the header stands only what can be one.
    let is_method = |known: &&String| known.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    let mut allowed: Vec<String> = allowed.iter().filter(is_method).cloned().collect();
    if allowed.iter().any(|known| known == "GET") {
        allowed.push("HEAD".to_owned());
    }
    let allowed = allowed.join(", ");
    HttpAnswer::failure(&Failure::new(405, format!("{path} takes {allowed}, not {method}")))
        .with_header("Allow", allowed)
}
