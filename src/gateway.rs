//! The gateway: HTTP in front, packets behind.
//!
//! The path of one request: the thread of a connection reads it ([`crate::http`]). [`translate`] turns method, path,
//! query and body into a route and its `params`. The [`Mesh`] sends the packet to the instance with the fewest requests
//! and waits. The reply packet is the body of the answer. A failure becomes an answer in the same shape;
//! [`translate::outcome_answer`] sets its status.
//!
//! The modules, from the lowest to the highest. Each may use only the modules above it in this table.
//!
//! | module | what it does | what it must not know |
//! | --- | --- | --- |
//! | [`translate`] | HTTP to packet and back | sockets, the mesh |
//! | [`own_paths`] | the paths that the gateway answers itself | the request, other than its method and path |
//! | [`request_record`] | what is known about a request, for metrics and access log | packets, the mesh |
//! | [`explain`], [`diagram`] | the explanation of a request, and how it is drawn | the mesh |
//! | [`journeys`] | `GET /journeys`: the requests, for people who watch | HTTP, the mesh other than its links |
//! | [`events`] | a stream of replies as Server-Sent Events | the request, other than its record |
//! | [`Gateway`] | one request, from HTTP to its answer | sockets |
//! | [`tiny_front`] | `--front tiny-http`: the same gateway on tiny_http's server | links, packets |

pub mod diagram;
pub mod events;
pub mod explain;
pub mod journeys;
pub mod own_paths;
pub mod request_record;
pub mod tiny_front;
pub mod translate;

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;
use tiny_http::{Header, Method};

use crate::address::canonical;
use crate::context::Context;
use crate::http::event_stream::EventSource;
use crate::http::request::find_header;
use crate::http::{HttpAnswer, HttpHandler, HttpOutcome, HttpRequest, RequestError, Target};
use crate::mesh::Mesh;
use crate::net::link::{Outcome as CallOutcome, Refusal};
use crate::net::membership::Membership;
use crate::observe::metrics::{self, Gauge};
use crate::packet::explain::Explanation;
use crate::packet::{Dialect, Origin};
use crate::process::Identity;
use crate::routes::Resolved;
use crate::subscription::Subscription;
use crate::sync::Permit;
use events::{EventStream, StreamPlace};
use explain::{ExplainFormat, ExplainPolicy};
use journeys::{Counts, JourneyStream, JourneyTicket, Journeys};
use request_record::RequestRecord;

/// The process that speaks HTTP.
pub const GATEWAY: Identity = Identity { name: "gateway", port: 8000, port_variable: "GATE_PORT" };

/// The longest request id that a client may choose, in characters.
const MAX_REQUEST_ID_CHARS: usize = 64;

/// Answers HTTP requests by calling services.
pub struct Gateway {
    mesh: Arc<Mesh>,
    membership: Membership,
    settings: Settings,
    in_flight: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
    journeys: Journeys,
    /// The prefix of the ids that it gives to requests, and their count.
    id_prefix: String,
    ids: AtomicU64,
}

/// The limits of a gateway, and the proxies that it trusts.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The longest time that a client waits for a reply.
    pub timeout: Duration,
    /// How many requests may be in flight.
    pub max_in_flight: usize,
    /// How many streams may be open.
    pub max_streams: usize,
    /// The proxies in front of the gateway. Only they may state the address of a client.
    pub trusted_proxies: Vec<IpAddr>,
    /// Who may ask for explanations.
    pub explain: ExplainPolicy,
}

/// A whole answer, or a stream of events.
type GatewayOutcome = HttpOutcome<dyn EventSource>;

impl Gateway {
    /// A gateway on this mesh. `id` is the prefix of the ids of requests that arrive without one.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>, membership: Membership, settings: Settings, id: String) -> Self {
        let (in_flight, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for (gauge, number) in [(Gauge::HttpInFlight, &in_flight), (Gauge::Streams, &streams)] {
            let number = Arc::downgrade(number);
            metrics::watch(gauge, move || Some(number.upgrade()?.load(Ordering::Relaxed)));
        }
        let (journeys, ids) = (Journeys::new(settings.explain), AtomicU64::new(0));
        Self { mesh, membership, settings, in_flight, streams, journeys, id_prefix: id, ids }
    }

    /// Notifies the distributors that this gateway is about to stop, and ends its streams. A stream has no natural end
    /// to wait for.
    pub fn leave(&self) {
        self.membership.leave();
        self.mesh.close_streams();
    }

    /// Answers a request together with its explanation. Only [`ExplainPolicy`] permits it.
    #[cold]
    fn explain(&self, request: &HttpRequest, format: &str, ticket: Option<JourneyTicket>) -> HttpAnswer {
        let format = match ExplainFormat::parse(format)
            .and_then(|format| self.permit_explanation(request).map(|()| format))
        {
            Ok(format) => format,
            Err(error) => return self.reject(error, &request.headers, request.peer),
        };
        let explanation = explain::begin(request);
        let answer = match self.answer_request(request, Some(explanation.clone()), ticket) {
            GatewayOutcome::Answer(answer) => answer,
            GatewayOutcome::Events(events) => first_event(events),
        };
        let request_line = format!("{} {}", request.method, request.target);
        explain::explained_answer(&request_line, answer, &explanation, format)
    }

    fn permit_explanation(&self, request: &HttpRequest) -> Result<(), RequestError> {
        match self.settings.explain {
            ExplainPolicy::Everyone => Ok(()),
            ExplainPolicy::Off => Err(explain::off()),
            ExplainPolicy::Admins(session_path) => self.require_admin(request, session_path),
        }
    }

    fn require_admin(&self, request: &HttpRequest, session_path: &str) -> Result<(), RequestError> {
        let context = Context { origin: Some(Arc::new(self.origin(request))), ..Context::default() };
        let session = self.mesh.call(&context, "GET", session_path, &json!({}));
        let session =
            session.map_err(|failure| RequestError::new(failure.errorcode, failure.errormessage))?;
        if session["results"]["role"] == "admin" { Ok(()) } else { Err(explain::not_admin()) }
    }

    fn answer_request(
        &self,
        request: &HttpRequest,
        explanation: Option<Arc<Explanation>>,
        ticket: Option<JourneyTicket>,
    ) -> GatewayOutcome {
        let began = Instant::now();
        let origin = Arc::new(self.origin(request));
        let context = Context { origin: Some(origin.clone()), explanation, ..Context::default() };
        let target = Target::parse(&request.target);
        let mut record = RequestRecord {
            began,
            id: Cow::Borrowed(&origin.request_id),
            client: origin.client.unwrap_or(request.peer),
            method: Cow::Borrowed(request.method.as_str()),
            target: Cow::Borrowed(&request.target),
            route: None,
            instance: None,
        };
        let result = match &target {
            Ok(target) => self.route(&context, request, target, &mut record),
            Err(error) => Err(error.clone().into()),
        };
        let took = began.elapsed();
        let outcome = result.unwrap_or_else(GatewayOutcome::Answer);
        if let (Some(ticket), Some(explanation)) = (ticket, &context.explanation) {
            self.journeys.show(ticket, &record, outcome.status(), explanation);
        }
        // Without this drop, the id could only be copied out of the origin below.
        drop(context);
        record.count(outcome.status(), took);
        match outcome {
            GatewayOutcome::Answer(answer) => {
                record.log(answer.status, answer.sent_bytes(&request.method), took);
                let answer = with_challenge(answer);
                GatewayOutcome::Answer(
                    answer.with_header("X-Request-Id", Arc::unwrap_or_clone(origin).request_id),
                )
            }
            // The access log gets its line after the stream has ended.
            events @ GatewayOutcome::Events(_) => events,
        }
    }

    fn route<'a>(
        &self,
        context: &Context,
        request: &HttpRequest,
        target: &'a Target<'_>,
        record: &mut RequestRecord<'a>,
    ) -> Result<GatewayOutcome, HttpAnswer> {
        // A HEAD is a GET whose answer is sent without its body.
        let method = if request.method == Method::Head { "GET" } else { request.method.as_str() };
        let path = &*target.path;
        if path == journeys::PATH && request.method == Method::Get {
            return self.watch(request, record);
        }
        if own_paths::is_own(path) {
            // Any other method is arbitrary text from the client, not a route.
            record.route = Some(Cow::Borrowed(path)).filter(|_| method == "GET");
            return own_paths::answer(&self.mesh, method, path).map(GatewayOutcome::Answer);
        }
        let (uri, has_segment) = match self.mesh.resolve(method, path) {
            Resolved::Route(uri, segment) => (uri, segment.is_some()),
            unresolved => return self.answer_unresolved(unresolved, request, method, path, record),
        };
        context.explain("src/routes.rs", || describe_route(method, path, uri, has_segment));
        record.route = Some(Cow::Borrowed(uri));
        // A route without an instance is not treated as a log service: it gets 503 below.
        if (method, uri) == ("POST", "/logs") && self.mesh.dialect(method, uri) != Some(Dialect::Pilcrow) {
            return self.write_log(context, &request.body, record).map(GatewayOutcome::Answer);
        }
        let segment = if has_segment { Some(target.last_segment()?) } else { None };
        let params = translate::params(request, target.query, segment)?;
        context.explain("src/gateway/translate.rs", || {
            format!("path, query and body become the params of the packet: {} bytes", params.get().len())
        });
        if translate::wants_events(request) {
            return self.stream(context, request, uri, &params, record);
        }
        let packet = context.request(method, uri, &params);
        let busy = || translate::outcome_answer(CallOutcome::Refused(Refusal::Busy), uri);
        let _in_flight = Permit::take(&*self.in_flight, self.settings.max_in_flight).ok_or_else(busy)?;
        let exchange = self.mesh.exchange(&packet, record.began + self.settings.timeout);
        record.instance = exchange.asked.as_ref().map(|link| link.shared_address());
        let reply = exchange.outcome.map_err(|outcome| translate::outcome_answer(outcome, uri))?;
        let reply = explain::plain_reply(reply, context);
        if reply.more {
            let message = format!("{uri} answers with a stream; send Accept: text/event-stream, or a limit");
            return Err(RequestError::new(406, message).into());
        }
        Ok(GatewayOutcome::Answer(translate::reply_answer(reply).conditional(request)))
    }

    /// Answers a request that matches no route.
    #[inline(never)] // its stack would be taken for every request
    fn answer_unresolved<'a>(
        &self,
        resolved: Resolved<'_>,
        request: &HttpRequest,
        method: &str,
        path: &'a str,
        record: &mut RequestRecord<'a>,
    ) -> Result<GatewayOutcome, HttpAnswer> {
        let allowed = match resolved {
            Resolved::MethodNotAllowed(allowed) => allowed,
            _ => Vec::new(),
        };
        if path == "/" {
            record.route = Some(Cow::Borrowed(path)).filter(|_| method == "GET");
            return own_paths::answer_root(&self.mesh, request, method, allowed).map(GatewayOutcome::Answer);
        }
        Err(if allowed.is_empty() {
            translate::not_found_answer(method, path)
        } else {
            translate::method_not_allowed_answer(method, path, &allowed)
        })
    }

    /// Answers a GET whose client accepts events. The service decides: its first reply is part of a stream, or the
    /// whole answer.
    #[inline(never)] // its stack would be taken for every request
    fn stream(
        &self,
        context: &Context,
        request: &HttpRequest,
        uri: &str,
        params: &RawValue,
        record: &mut RequestRecord<'_>,
    ) -> Result<GatewayOutcome, HttpAnswer> {
        let place = self.take_stream_place(uri)?;
        let params = serde_json::from_str(params.get()).unwrap_or_default();
        let mut subscription = Subscription::new(&self.mesh, context, uri, params);
        let first = subscription.next(record.began + self.settings.timeout);
        record.instance = subscription.instance().cloned();
        if let (Some(explanation), Some(instance), Ok(Some(first))) =
            (&context.explanation, &record.instance, &first)
        {
            let text = "the first reply of the stream".to_owned();
            explanation.add_received("src/subscription.rs", instance, text, &first.json);
        }
        match first {
            Ok(Some(first)) if first.more => {
                let events = EventStream::new(subscription, first, record.to_static(), place);
                Ok(GatewayOutcome::Events(Box::new(events)))
            }
            Ok(Some(whole)) => {
                let whole = explain::plain_reply(whole, context);
                Ok(GatewayOutcome::Answer(translate::reply_answer(whole).conditional(request)))
            }
            Ok(None) => Err(translate::outcome_answer(CallOutcome::Timeout, uri)),
            Err(failure) => Err(translate::failure_answer(&failure)),
        }
    }

    /// Answers a reader of [`journeys`]. Who may ask for explanations also gets journeys.
    #[cold]
    fn watch(
        &self,
        request: &HttpRequest,
        record: &mut RequestRecord<'_>,
    ) -> Result<GatewayOutcome, HttpAnswer> {
        let place = self.take_stream_place(journeys::PATH)?;
        record.route = Some(Cow::Borrowed(journeys::PATH));
        let is_permitted = self.permit_explanation(request).is_ok();
        let counts = Counts { in_flight: self.in_flight.clone(), streams: self.streams.clone() };
        let (mesh, record) = (self.mesh.clone(), record.to_static());
        let stream = JourneyStream::new(&self.journeys, is_permitted, mesh, counts, record, place);
        Ok(GatewayOutcome::Events(Box::new(stream)))
    }

    /// A place for a stream. The answer to a client that gets none is 503.
    fn take_stream_place(&self, uri: &str) -> Result<StreamPlace, HttpAnswer> {
        StreamPlace::take(self.streams.clone(), self.settings.max_streams)
            .ok_or_else(|| translate::outcome_answer(CallOutcome::Refused(Refusal::Busy), uri))
    }

    /// The course's log service accepts text and never answers. The gateway answers as soon as the text is sent.
    #[inline(never)] // its stack would be taken for every request
    fn write_log(
        &self,
        context: &Context,
        body: &[u8],
        record: &mut RequestRecord<'_>,
    ) -> Result<HttpAnswer, HttpAnswer> {
        let params = translate::text_param(&String::from_utf8_lossy(body))?;
        let packet = context.request("POST", "/logs", &params);
        let link =
            self.mesh.notify(&packet).map_err(|outcome| translate::outcome_answer(outcome, packet.uri))?;
        record.instance = Some(link.shared_address());
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

    /// The client's address: the other end of the connection, or the address that a trusted proxy states. The proxy
    /// appended the last address of `X-Forwarded-For`; the client may have invented the earlier ones.
    fn client(&self, peer: IpAddr, headers: &[Header]) -> IpAddr {
        if !self.settings.trusted_proxies.contains(&peer) {
            return peer;
        }
        let forwarded = find_header(headers, "X-Forwarded-For");
        let last = forwarded.and_then(|addresses| addresses.rsplit(',').next()?.trim().parse().ok());
        last.map_or(peer, canonical)
    }

    fn request_id(&self, headers: &[Header]) -> String {
        let is_valid = |id: &&str| {
            (1..=MAX_REQUEST_ID_CHARS).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        match find_header(headers, "X-Request-Id").filter(is_valid) {
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

impl HttpHandler for Gateway {
    type Events = dyn EventSource;

    const HEADERS: &'static [&'static str] = &[
        "Content-Type",
        "X-Request-Id",
        "Accept",
        "Authorization",
        "Last-Event-ID",
        "If-Match",
        "If-None-Match",
        "X-Forwarded-For",
        explain::HEADER,
    ];

    /// Returns within the timeout.
    fn answer(&self, request: &HttpRequest) -> GatewayOutcome {
        match (request.header(explain::HEADER), self.journeys.choose()) {
            (None, None) => self.answer_request(request, None, None),
            (None, ticket) => self.answer_request(request, Some(explain::begin(request)), ticket),
            (Some(format), ticket) => GatewayOutcome::Answer(self.explain(request, format, ticket)),
        }
    }

    /// This answer has a request id too, so that its log line can be found.
    fn reject(&self, error: RequestError, headers: &[Header], peer: IpAddr) -> HttpAnswer {
        let answer = HttpAnswer::from(error);
        let id = self.request_id(headers);
        let record = RequestRecord {
            began: Instant::now(),
            id: Cow::Borrowed(&id),
            client: self.client(peer, headers),
            method: Cow::Borrowed(""),
            target: Cow::Borrowed(""),
            route: None,
            instance: None,
        };
        record.count(answer.status, Duration::ZERO);
        record.log(answer.status, answer.body.len(), Duration::ZERO);
        let answer = answer.with_header("X-Request-Id", id);
        match find_header(headers, explain::HEADER).map(ExplainFormat::parse) {
            Some(Ok(format)) if self.settings.explain == ExplainPolicy::Everyone => {
                explain::rejected_answer(answer, format)
            }
            _ => answer,
        }
    }
}

/// The beginning of a stream, as an answer. Dropping the stream ends it.
fn first_event(mut events: Box<dyn EventSource>) -> HttpAnswer {
    let mut sent = Vec::new();
    let _ = events.append_events(&mut sent);
    events.finish(sent.len());
    HttpAnswer::text("text/event-stream", String::from_utf8_lossy(&sent).into_owned())
}

fn describe_route(method: &str, path: &str, uri: &str, has_segment: bool) -> String {
    let segment = if has_segment { ", and its last segment becomes a parameter" } else { "" };
    format!("{method} {path} matches the route {method} {uri}{segment}")
}

/// A 401 carries `WWW-Authenticate`, as RFC 9110 requires.
fn with_challenge(answer: HttpAnswer) -> HttpAnswer {
    if answer.status == 401 { answer.with_header("WWW-Authenticate", "Bearer") } else { answer }
}
