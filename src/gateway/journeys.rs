//! `GET /journeys`: a stream for someone who watches this gateway.
//!
//! Twice a second, a reader gets an event `status`: the links, and what the metrics count. It also gets an event
//! `journey` for some of the requests: how the request went, and the steps of its explanation. The gateway explains
//! requests for that only while someone watches, and at most [`JOURNEYS_PER_SECOND`].
//! `docs/seeing.md` has the fields.
//!
//! *Invariant:* a request that nobody watches costs one load of an atomic number.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, TryLockError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::events::StreamPlace;
use super::explain::ExplainPolicy;
use super::request_record::RequestRecord;
use crate::http::event_stream::append_event;
use crate::http::{Broadcast, EventSource, Watcher};
use crate::mesh::{Mesh, ServiceLink};
use crate::observe::metrics::{CALLS, HTTP, RouteTotals};
use crate::packet::explain::{Explanation, Step};

/// The path of the stream. It is the gateway's own.
pub const PATH: &str = "/journeys";

/// How many requests per second are explained at most.
pub const JOURNEYS_PER_SECOND: usize = 20;

/// How often a reader gets the status.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// How many readers may get journeys.
const MAX_WATCHERS: usize = 64;

/// The requests that are shown to those who watch.
pub struct Journeys {
    broadcast: Broadcast,
    /// When the last requests were chosen.
    chosen: Mutex<VecDeque<Instant>>,
    number: AtomicU64,
    shows_packets: bool,
}

/// The permission to show one request.
pub struct JourneyTicket(());

/// One request that was answered.
#[derive(Serialize)]
struct Journey<'a> {
    number: u64,
    id: &'a str,
    method: &'a str,
    /// Without the query, which may hold a secret.
    path: &'a str,
    route: Option<&'a str>,
    status: u16,
    took_us: u64,
    instance: Option<&'a str>,
    explain: Vec<Step>,
}

/// The status of the gateway at one moment.
#[derive(Serialize)]
struct Status {
    journeys: &'static str,
    #[serde(flatten)]
    totals: RouteTotals,
    retries: u64,
    in_flight: usize,
    streams: usize,
    links: Vec<ServiceLink>,
}

impl Journeys {
    /// Journeys without a reader. With a secret, they have no packet texts.
    #[must_use]
    pub fn new(policy: ExplainPolicy) -> Self {
        Self {
            broadcast: Broadcast::default(),
            chosen: Mutex::default(),
            number: AtomicU64::new(0),
            shows_packets: policy == ExplainPolicy::Everyone,
        }
    }

    /// Chooses a request to be shown, if someone watches and the limit of this second is not reached.
    pub fn choose(&self) -> Option<JourneyTicket> {
        if self.broadcast.watchers() == 0 {
            return None;
        }
        self.choose_now(Instant::now())
    }

    #[cold]
    fn choose_now(&self, now: Instant) -> Option<JourneyTicket> {
        let mut chosen = match self.chosen.try_lock() {
            Ok(chosen) => chosen,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another request is being chosen. This one need not wait for that.
            Err(TryLockError::WouldBlock) => return None,
        };
        if chosen.len() == JOURNEYS_PER_SECOND {
            let first = chosen.front().filter(|first| now.duration_since(**first) >= Duration::from_secs(1));
            first?;
            chosen.pop_front();
        }
        chosen.push_back(now);
        Some(JourneyTicket(()))
    }

    /// Shows a request that was answered.
    #[cold]
    pub fn show(
        &self,
        _ticket: JourneyTicket,
        record: &RequestRecord<'_>,
        status: u16,
        explanation: &Explanation,
    ) {
        let mut explain = explanation.steps();
        if !self.shows_packets {
            explain.iter_mut().for_each(Step::hide_packets);
        }
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let journey = Journey {
            number,
            id: &record.id,
            method: &record.method,
            path: record.target.split('?').next().unwrap_or_default(),
            route: record.route.as_deref(),
            status,
            took_us: u64::try_from(record.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            instance: record.instance.as_deref(),
            explain,
        };
        if let Ok(json) = serde_json::to_string(&journey) {
            self.broadcast.send(Some(number), "journey", &json);
        }
    }

    /// A new reader of the journeys. `None` if there are too many.
    fn watch(&self) -> Option<Watcher> {
        self.broadcast.watch(MAX_WATCHERS)
    }
}

/// The stream of one reader.
pub struct JourneyStream {
    /// Missing for a reader that may see the status only.
    watcher: Option<Watcher>,
    journeys: &'static str,
    mesh: Arc<Mesh>,
    counts: Counts,
    next_status: Instant,
    record: RequestRecord<'static>,
    _place: StreamPlace,
}

/// The numbers of a gateway that the status shows.
pub struct Counts {
    /// The requests in flight.
    pub in_flight: Arc<AtomicUsize>,
    /// The open streams.
    pub streams: Arc<AtomicUsize>,
}

impl JourneyStream {
    /// A stream that begins with the status. Only a reader who is permitted gets journeys.
    #[must_use]
    pub fn new(
        journeys: &Journeys,
        is_permitted: bool,
        mesh: Arc<Mesh>,
        counts: Counts,
        record: RequestRecord<'static>,
        place: StreamPlace,
    ) -> Self {
        let watcher = if is_permitted { journeys.watch() } else { None };
        let word = match (&watcher, journeys.shows_packets) {
            (None, _) => "off",
            (Some(_), true) => "on",
            (Some(_), false) => "hidden",
        };
        Self { watcher, journeys: word, mesh, counts, next_status: Instant::now(), record, _place: place }
    }

    fn append_status(&mut self, out: &mut Vec<u8>) {
        self.next_status = Instant::now() + STATUS_EVERY;
        let status = Status {
            journeys: self.journeys,
            totals: HTTP.totals(),
            retries: CALLS.retries.get(),
            in_flight: self.counts.in_flight.load(Ordering::Relaxed),
            streams: self.counts.streams.load(Ordering::Relaxed),
            links: self.mesh.links(),
        };
        if let Ok(json) = serde_json::to_string(&status) {
            append_event(out, None, Some("status"), &json);
        }
    }
}

impl EventSource for JourneyStream {
    fn headers(&self) -> Vec<(&'static str, &str)> {
        vec![("X-Request-Id", &self.record.id)]
    }

    fn append_events(&mut self, out: &mut Vec<u8>) -> ControlFlow<()> {
        match &self.watcher {
            Some(watcher) => {
                watcher.append_events(out, self.next_status);
            }
            None => std::thread::sleep(self.next_status.saturating_duration_since(Instant::now())),
        }
        if Instant::now() >= self.next_status {
            self.append_status(out);
        }
        if self.mesh.is_closing() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn finish(&mut self, sent_bytes: usize) {
        self.record.log(200, sent_bytes, self.record.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_chosen_while_nobody_watches() {
        let journeys = Journeys::new(ExplainPolicy::Everyone);
        assert!(journeys.choose().is_none());
        let watcher = journeys.watch();
        assert!(journeys.choose().is_some());
        drop(watcher);
        assert!(journeys.choose().is_none());
    }

    #[test]
    fn at_most_twenty_requests_are_chosen_in_any_second() {
        let journeys = Journeys::new(ExplainPolicy::Everyone);
        let began = Instant::now();
        let chosen_at = |ms: u64| journeys.choose_now(began + Duration::from_millis(ms)).is_some();
        let chosen: Vec<u64> = (0..3000).step_by(10).filter(|ms| chosen_at(*ms)).collect();
        assert_eq!(chosen.len(), 3 * JOURNEYS_PER_SECOND);
        assert!(
            chosen.windows(JOURNEYS_PER_SECOND + 1).all(|some| some[JOURNEYS_PER_SECOND] - some[0] >= 1000)
        );
    }
}
