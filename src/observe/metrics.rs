//! The metrics of a process, in the text format of Prometheus (`docs/seeing.md` has the table).
//!
//! Counters are atomics that belong to the whole process. A caller keeps the handle of its counter. A request looks up
//! only its route by a label, once, behind a read lock.
//! A value that another part already knows, such as the number of open connections, is not counted again. It is read
//! when a client requests the metrics ([`watch`]).
//!
//! The number of series has a limit, whatever clients send and nodes register. A route label is a registered route,
//! never the path of a client. Only a limited number of routes and statuses have their own series.

mod process;
mod register;
mod totals;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, RwLock};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
};
use register::{REGISTRY, counter, counters, gauge, histogram, histograms, registered};

use crate::sync::{lock, read, write};
pub use totals::RouteTotals;

/// The HTTP content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How many pairs of method and route have their own series. Later ones are counted together as `other`.
const MAX_ROUTES: usize = 128;

/// How many statuses of one route have their own series. Later statuses are counted together as `other`.
const MAX_CODES: usize = 16;

/// The bounds of the latency histograms, in seconds: from a healthy route to a wait that no client accepts.
const SECONDS: [f64; 15] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The methods that HTTP defines. A client may send any other text, which must not become a label.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];

/// The label of everything without its own series.
const OTHER: &str = "other";

/// The gauges that are read when a client requests the metrics.
static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

/// HTTP requests at the gateway.
pub static HTTP: LazyLock<RouteTable> = LazyLock::new(|| RouteTable {
    answers: counters(
        "pilcrow_http_requests_total",
        "HTTP requests that were answered, by method, route and status.",
        &["method", "route", "status"],
    ),
    seconds: histograms(
        "pilcrow_http_request_duration_seconds",
        "From the last byte of an HTTP request to its answer, or to the first reply of its stream.",
        &SECONDS,
    ),
    routes: RwLock::default(),
    others: OnceLock::new(),
});

/// Requests that a service answers.
pub static SERVICE: LazyLock<RouteTable> = LazyLock::new(|| RouteTable {
    answers: counters(
        "pilcrow_service_requests_total",
        "Requests that this service answered, by method, route and errorcode.",
        &["method", "route", "errorcode"],
    ),
    seconds: histograms(
        "pilcrow_service_request_duration_seconds",
        "From a request's packet to its reply, or to the beginning of its stream.",
        &SECONDS,
    ),
    routes: RwLock::default(),
    others: OnceLock::new(),
});

/// Requests in progress at a service.
pub static SERVICE_IN_FLIGHT: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge("pilcrow_service_requests_in_flight", "Requests that this service has read and not yet answered.")
});

/// Calls over links.
pub static CALLS: LazyLock<Calls> = LazyLock::new(|| Calls {
    orphans: counter("pilcrow_orphan_replies_total", "Replies without a waiter."),
    retries: counter("pilcrow_retries_total", "Calls that were tried once more on another instance."),
    ejections: counter(
        "pilcrow_ejections_total",
        "Times that an instance was set aside since it failed again and again.",
    ),
});

/// Packet connections.
pub static WIRE: LazyLock<Wire> = LazyLock::new(|| {
    let rejected = counters(
        "pilcrow_frames_rejected_total",
        "Frames that broke the rules of the wire, by reason; each closed its connection.",
        &["reason"],
    );
    let overflows = counter(
        "pilcrow_outbox_overflows_total",
        "Packets that were not sent, since their receiver does not read.",
    );
    Wire { rejected, overflows }
});

/// The database of the users service.
pub static STORE: LazyLock<Store> = LazyLock::new(|| Store {
    changes: counter("pilcrow_changes_committed_total", "Changes of users that this process has committed."),
    batch: histogram(
        "pilcrow_commit_writes",
        "Writes that one transaction carried.",
        &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0],
    ),
    seconds: histogram(
        "pilcrow_commit_duration_seconds",
        "From the beginning of a transaction to the end of its commit.",
        &SECONDS,
    ),
});

/// Lists that a distributor has pushed.
pub static LISTS_PUSHED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter("pilcrow_lists_pushed_total", "Lists that were sent to registered nodes after a change.")
});

/// Log lines that were dropped because the buffer was full.
pub static LOG: LazyLock<LogLines> = LazyLock::new(|| LogLines {
    access_dropped: counter(
        "pilcrow_access_log_dropped_total",
        "Access lines that were dropped, since stderr was not read fast enough.",
    ),
    other_dropped: counter(
        "pilcrow_log_dropped_total",
        "Other log lines that were dropped, since stderr was not read fast enough.",
    ),
});

/// The counters of the mesh and its links.
#[derive(Debug)]
pub struct Calls {
    /// Replies without a waiter.
    pub orphans: IntCounter,
    /// Calls that were retried on a second instance.
    pub retries: IntCounter,
    /// Times that an instance was set aside.
    pub ejections: IntCounter,
}

/// The metrics of packet connections.
#[derive(Debug)]
pub struct Wire {
    rejected: IntCounterVec,
    /// Packets for peers that do not read.
    pub overflows: IntCounter,
}

/// The metrics of the users service's store.
#[derive(Debug)]
pub struct Store {
    /// Committed changes.
    pub changes: IntCounter,
    /// Writes per transaction.
    pub batch: Histogram,
    /// The duration of transactions.
    pub seconds: Histogram,
}

/// The counters of the log writer.
#[derive(Debug)]
pub struct LogLines {
    /// Dropped access lines.
    pub access_dropped: IntCounter,
    /// Dropped other lines.
    pub other_dropped: IntCounter,
}

impl Wire {
    /// Creates a series for each reason at the start. Prometheus sees the first rejection only as a rise from 0.
    pub fn show_reasons(&self, reasons: &[&str]) {
        for reason in reasons {
            self.rejected.with_label_values(&[*reason]).inc_by(0);
        }
    }

    /// Counts a rejected frame. A lost connection has no reason and is not counted.
    pub fn rejected(&self, reason: Option<&str>) {
        if let Some(reason) = reason {
            self.rejected.with_label_values(&[reason]).inc();
        }
    }
}

/// The counter of connections that one port rejected because they exceeded its limit.
#[must_use]
pub fn connections_refused(port: &str) -> IntCounter {
    static REFUSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
        counters(
            "pilcrow_connections_refused_total",
            "Connections that were turned away since too many were open, by port.",
            &["port"],
        )
    });
    REFUSED.with_label_values(&[port])
}

/// A value that is read when a client requests the metrics.
#[derive(Debug, Clone, Copy)]
pub enum Gauge<'a> {
    /// HTTP requests in flight to services.
    HttpInFlight,
    /// Open streams.
    Streams,
    /// The number of links in this state.
    Links(&'a str),
    /// The open connections of this port.
    Connections(&'a str),
    /// The jobs that wait for a thread of this pool.
    PoolWaiting(&'a str),
    /// The writes that wait for the writer thread.
    WritesWaiting,
    /// Committed changes that the feed has not sent yet.
    FeedLag,
    /// The registered nodes.
    Nodes,
}

impl Gauge<'_> {
    fn handle(self) -> IntGauge {
        macro_rules! one {
            ($name:literal, $help:literal) => {{
                static GAUGE: LazyLock<IntGauge> = LazyLock::new(|| gauge($name, $help));
                GAUGE.clone()
            }};
            ($name:literal, $help:literal, $label:literal = $value:expr) => {{
                static GAUGES: LazyLock<IntGaugeVec> =
                    LazyLock::new(|| registered(IntGaugeVec::new(Opts::new($name, $help), &[$label])));
                GAUGES.with_label_values(&[$value])
            }};
        }
        match self {
            Self::HttpInFlight => {
                one!("pilcrow_http_requests_in_flight", "HTTP requests that wait for a service.")
            }
            Self::Streams => one!("pilcrow_streams_open", "Streams of replies that are open."),
            Self::Links(state) => one!("pilcrow_links", "Links to instances, by state.", "state" = state),
            Self::Connections(port) => {
                one!("pilcrow_connections_open", "Open connections, by port.", "port" = port)
            }
            Self::PoolWaiting(pool) => one!(
                "pilcrow_pool_jobs_waiting",
                "Jobs that wait for a thread, by pool; hash is the one for passwords.",
                "pool" = pool
            ),
            Self::WritesWaiting => one!("pilcrow_writes_waiting", "Writes that wait for the writer thread."),
            Self::FeedLag => {
                one!("pilcrow_feed_lag_changes", "Committed changes that the feed has not sent yet.")
            }
            Self::Nodes => one!("pilcrow_registered_nodes", "Nodes that have registered."),
        }
    }
}

/// A source of a gauge's value.
struct Watched {
    gauge: IntGauge,
    look: Box<dyn Fn() -> Option<usize> + Send>,
}

/// Calls `look` for a value whenever a client requests the metrics. When `look` returns `None`, its subject has ended,
/// and it is never called again. The values of several sources for one gauge are added.
///
/// `look` runs under the lock of the metrics and must not wait.
pub fn watch(gauge: Gauge<'_>, look: impl Fn() -> Option<usize> + Send + 'static) {
    let watched = Watched { gauge: gauge.handle(), look: Box::new(look) };
    lock(&WATCHED).push(watched);
}

/// Adds the identity of this process to the metrics.
pub fn introduce(process: &str) {
    let info = IntGaugeVec::new(
        Opts::new("pilcrow_build_info", "Always 1; which process this is, and of which version."),
        &["process", "version"],
    );
    registered(info).with_label_values(&[process, env!("CARGO_PKG_VERSION")]).set(1);
    process::register();
}

/// All metrics of this process.
#[must_use]
pub fn text() -> String {
    // Hold the lock to the end: two concurrent requests must not read each other's incomplete sums.
    let mut watched = lock(&WATCHED);
    for one in &*watched {
        one.gauge.set(0);
    }
    watched.retain(|one| {
        let number = (one.look)();
        one.gauge.add(number.and_then(|number| i64::try_from(number).ok()).unwrap_or_default());
        number.is_some()
    });
    process::look();
    TextEncoder::new().encode_to_string(&REGISTRY.gather()).unwrap_or_else(|error| {
        log::error!("the metrics have no text form: {error}");
        String::new()
    })
}

/// Answers of one kind, by route.
pub struct RouteTable {
    answers: IntCounterVec,
    seconds: HistogramVec,
    routes: RwLock<KnownRoutes>,
    /// All routes that arrived when the table was full.
    others: OnceLock<Arc<RouteSeries>>,
}

/// The routes with their own series.
#[derive(Default)]
struct KnownRoutes {
    /// By route, then by method.
    series: HashMap<String, HashMap<String, Arc<RouteSeries>>>,
    count: usize,
}

impl KnownRoutes {
    fn get(&self, method: &str, route: &str) -> Option<&Arc<RouteSeries>> {
        self.series.get(route)?.get(method)
    }

    fn is_full(&self) -> bool {
        self.count >= MAX_ROUTES
    }
}

/// The answers of one route.
pub struct RouteSeries {
    /// By status or errorcode, in the order of first appearance. An answer finds its counter with a few comparisons,
    /// without a lock.
    codes: [OnceLock<(u16, IntCounter)>; MAX_CODES],
    others: OnceLock<IntCounter>,
    seconds: Histogram,
    answers: IntCounterVec,
    method: String,
    route: String,
}

impl RouteTable {
    /// The series of a registered route, or the shared series of requests that reach none. Look it up once.
    #[must_use]
    pub fn of(&self, method: &str, route: Option<&str>) -> Arc<RouteSeries> {
        let (method, route) = match route {
            Some(route) => (method, route),
            None => (known_method(method), "none"),
        };
        let others = || self.others.get_or_init(|| Arc::new(self.series(OTHER, OTHER))).clone();
        {
            let routes = read(&self.routes);
            match routes.get(method, route) {
                Some(series) => return series.clone(),
                None if routes.is_full() => return others(),
                None => {}
            }
        }
        self.first_of(method, route).unwrap_or_else(others)
    }

    /// Creates the series of a new route. `None` if the table is full.
    #[cold]
    fn first_of(&self, method: &str, route: &str) -> Option<Arc<RouteSeries>> {
        let mut routes = write(&self.routes);
        match routes.get(method, route) {
            Some(series) => return Some(series.clone()),
            None if routes.is_full() => return None,
            None => {}
        }
        let series = Arc::new(self.series(method, route));
        routes.series.entry(route.to_owned()).or_default().insert(method.to_owned(), series.clone());
        routes.count += 1;
        Some(series)
    }

    fn series(&self, method: &str, route: &str) -> RouteSeries {
        RouteSeries {
            codes: [const { OnceLock::new() }; MAX_CODES],
            others: OnceLock::new(),
            seconds: self.seconds.with_label_values(&[method, route]),
            answers: self.answers.clone(),
            method: method.to_owned(),
            route: route.to_owned(),
        }
    }
}

impl RouteSeries {
    /// Counts an answer.
    pub fn answered(&self, code: u16, took: Duration) {
        self.code(code).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    fn code(&self, code: u16) -> &IntCounter {
        let counter = |code: &str| self.answers.with_label_values(&[&self.method, &self.route, code]);
        for place in &self.codes {
            let (known, answers) = place.get_or_init(|| (code, counter(&code.to_string())));
            if *known == code {
                return answers;
            }
        }
        self.others.get_or_init(|| counter(OTHER))
    }
}

/// This method if HTTP defines it, else `other`.
fn known_method(method: &str) -> &str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests;
