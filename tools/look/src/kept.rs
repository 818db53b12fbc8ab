//! The journeys and changes that are kept for those who come later. A value without sockets.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How many journeys are kept.
const MAX_JOURNEYS: usize = 500;

/// How many bytes all kept journeys have together.
const MAX_JOURNEY_BYTES: usize = 8 * 1024 * 1024;

/// How many changes are kept.
const MAX_CHANGES: usize = 100;

/// A journey without its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its number here. Each gateway has its own numbers.
    #[serde(default)]
    pub number: u64,
    #[serde(default)]
    pub gateway: String,
    #[serde(default)]
    pub at_ms: u64,
    pub id: String,
    pub method: String,
    pub path: String,
    pub route: Option<String>,
    pub status: u16,
    pub took_us: u64,
    pub instance: Option<String>,
}

/// Which journeys are wanted, and in which order.
#[derive(Debug, Default)]
pub struct Filter {
    /// The request id, or its beginning.
    pub id: Option<String>,
    pub route: Option<String>,
    /// Such as `404` or `5xx`.
    pub status: Option<String>,
    pub instance: Option<String>,
    pub slowest_first: bool,
    pub limit: Option<usize>,
}

/// The newest journeys and changes.
#[derive(Debug, Default)]
pub struct Kept {
    journeys: VecDeque<(Summary, Box<RawValue>)>,
    journey_bytes: usize,
    last_number: u64,
    changes: VecDeque<Box<RawValue>>,
}

impl Kept {
    /// Keeps a journey and gives it a number. `explain` is the JSON of its steps.
    pub fn push_journey(&mut self, mut summary: Summary, explain: Box<RawValue>) -> Summary {
        self.last_number += 1;
        summary.number = self.last_number;
        self.journey_bytes += explain.get().len();
        self.journeys.push_back((summary.clone(), explain));
        while self.journeys.len() > MAX_JOURNEYS || self.journey_bytes > MAX_JOURNEY_BYTES {
            let Some((_, explain)) = self.journeys.pop_front() else { break };
            self.journey_bytes -= explain.get().len();
        }
        summary
    }

    /// Keeps a change.
    pub fn push_change(&mut self, change: Box<RawValue>) {
        self.changes.push_back(change);
        if self.changes.len() > MAX_CHANGES {
            self.changes.pop_front();
        }
    }

    /// The journey with this number, with its steps.
    pub fn journey(&self, number: u64) -> Option<(&Summary, &RawValue)> {
        let found = self.journeys.iter().find(|(summary, _)| summary.number == number);
        found.map(|(summary, explain)| (summary, &**explain))
    }

    /// The wanted journeys, newest first or slowest first.
    pub fn journeys(&self, filter: &Filter) -> Vec<&Summary> {
        let mut found: Vec<&Summary> = self
            .journeys
            .iter()
            .rev()
            .map(|(summary, _)| summary)
            .filter(|one| filter.accepts(one))
            .collect();
        if filter.slowest_first {
            found.sort_by_key(|summary| std::cmp::Reverse(summary.took_us));
        }
        found.truncate(filter.limit.unwrap_or(MAX_JOURNEYS));
        found
    }

    /// The changes, newest first.
    pub fn changes(&self) -> Vec<&RawValue> {
        self.changes.iter().rev().map(|change| &**change).collect()
    }
}

impl Filter {
    /// Reads the filter from the query of a request. Unknown names are ignored.
    pub fn parse(query: &str) -> Self {
        let mut filter = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let text = Some(value.to_string()).filter(|value| !value.is_empty());
            match &*name {
                "id" => filter.id = text,
                "route" => filter.route = text,
                "status" => filter.status = text,
                "instance" => filter.instance = text,
                "sort" => filter.slowest_first = value == "slowest",
                "limit" => filter.limit = value.parse().ok(),
                _ => {}
            }
        }
        filter
    }

    fn accepts(&self, summary: &Summary) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        self.id.as_ref().is_none_or(|id| summary.id.starts_with(id.as_str()))
            && is(&self.route, summary.route.as_deref())
            && is(&self.instance, summary.instance.as_deref())
            && self.status.as_ref().is_none_or(|wanted| has_status(summary.status, wanted))
    }
}

/// Whether a status is as wanted: `404`, or `4xx` for all from 400 to 499.
fn has_status(status: u16, wanted: &str) -> bool {
    let status = status.to_string();
    match wanted.strip_suffix("xx") {
        Some(first) => status.starts_with(first),
        None => status == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    fn summary(id: &str, status: u16, took_us: u64) -> Summary {
        Summary {
            number: 0,
            gateway: "127.0.0.1:8000".to_owned(),
            at_ms: 0,
            id: id.to_owned(),
            method: "GET".to_owned(),
            path: "/users/1".to_owned(),
            route: Some("/users".to_owned()),
            status,
            took_us,
            instance: Some("127.0.0.1:9020".to_owned()),
        }
    }

    fn ids(kept: &Kept, query: &str) -> String {
        let found = kept.journeys(&Filter::parse(query));
        found.iter().map(|summary| &*summary.id).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn journeys_are_found_by_id_route_status_and_instance() {
        let mut kept = Kept::default();
        for (id, status, took_us) in [("a-1", 200, 300), ("a-2", 404, 900), ("b-1", 503, 100)] {
            kept.push_journey(summary(id, status, took_us), to_raw_value(&()).unwrap());
        }
        for (query, expected) in [
            ("", "b-1 a-2 a-1"),
            ("sort=slowest", "a-2 a-1 b-1"),
            ("id=a", "a-2 a-1"),
            ("status=4xx", "a-2"),
            ("status=503", "b-1"),
            ("route=%2Fusers&limit=1", "b-1"),
            ("instance=127.0.0.1:9021", ""),
            ("route=", "b-1 a-2 a-1"),
        ] {
            assert_eq!(ids(&kept, query), expected, "{query}");
        }
        assert_eq!(kept.journey(2).map(|(summary, _)| &*summary.id), Some("a-2"));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_in_bytes() {
        let mut kept = Kept::default();
        let large = to_raw_value(&"x".repeat(64 * 1024)).unwrap();
        for _ in 0..2000 {
            kept.push_journey(summary("a", 200, 1), large.clone());
            kept.push_change(large.clone());
        }
        assert!(kept.journeys.len() < 130, "{}", kept.journeys.len());
        assert!(kept.journey_bytes <= MAX_JOURNEY_BYTES);
        assert_eq!(kept.changes().len(), MAX_CHANGES);
        assert!(kept.journey(1).is_none());
        for _ in 0..2000 {
            kept.push_journey(summary("a", 200, 1), to_raw_value(&()).unwrap());
        }
        assert_eq!(kept.journeys.len(), MAX_JOURNEYS);
        assert_eq!(kept.journey_bytes, MAX_JOURNEYS * "null".len());
    }
}
