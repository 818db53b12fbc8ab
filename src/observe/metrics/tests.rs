//! The number of series has a limit, and every name can be registered.

use std::time::Duration;

use super::*;

/// The samples whose name and labels begin with this text.
fn samples(beginning: &str) -> Vec<String> {
    text().lines().filter(|line| line.starts_with(beginning)).map(str::to_owned).collect()
}

#[test]
fn every_metric_has_a_name_of_its_own_that_can_be_registered() {
    LazyLock::force(&HTTP);
    LazyLock::force(&SERVICE);
    SERVICE_IN_FLIGHT.set(0);
    CALLS.retries.inc_by(0);
    WIRE.overflows.inc_by(0);
    WIRE.show_reasons(&["too_long"]);
    STORE.changes.inc_by(0);
    LISTS_PUSHED.inc_by(0);
    LOG.access_dropped.inc_by(0);
    connections_refused("http").inc_by(0);
    let gauges = [
        Gauge::HttpInFlight,
        Gauge::Streams,
        Gauge::Links("up"),
        Gauge::Connections("http"),
        Gauge::PoolWaiting("hash"),
        Gauge::WritesWaiting,
        Gauge::FeedLag,
        Gauge::Nodes,
    ];
    for gauge in gauges {
        gauge.handle();
    }
    introduce("test");
    HTTP.of("GET", Some("/named")).answered(200, Duration::from_millis(2));
    SERVICE.of("GET", Some("/named")).answered(0, Duration::from_millis(2));
    let text = text();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let of_linux = if cfg!(target_os = "linux") { 4 } else { 0 };
    assert_eq!(names.len(), 27 + of_linux, "{names:#?}");
}

#[test]
fn answers_are_counted_by_method_route_and_status() {
    let series = HTTP.of("GET", Some("/counted"));
    series.answered(200, Duration::from_micros(300));
    HTTP.of("GET", Some("/counted")).answered(200, Duration::from_secs(3));
    series.answered(404, Duration::from_secs(30));
    let counted = samples("pilcrow_http_requests_total{method=\"GET\",route=\"/counted\"");
    let of = |status: &str, count: u32| {
        format!(
            "pilcrow_http_requests_total{{method=\"GET\",route=\"/counted\",status=\"{status}\"}} {count}"
        )
    };
    assert_eq!(counted, [of("200", 2), of("404", 1)]);
    let bucket = |bound: &str, count: u32| {
        let labels = format!("method=\"GET\",route=\"/counted\",le=\"{bound}\"");
        format!("pilcrow_http_request_duration_seconds_bucket{{{labels}}} {count}")
    };
    let text = text();
    for (bound, count) in [("0.00025", 0), ("0.0005", 1), ("2.5", 1), ("5", 2), ("10", 2), ("+Inf", 3)] {
        assert!(text.contains(&bucket(bound, count)), "{bound}: {text}");
    }
}

#[test]
fn a_request_without_a_route_has_the_labels_none_and_other() {
    HTTP.of("BREW", None).answered(404, Duration::ZERO);
    let counted = samples("pilcrow_http_requests_total{method=\"other\",route=\"none\"");
    assert_eq!(counted, ["pilcrow_http_requests_total{method=\"other\",route=\"none\",status=\"404\"} 1"]);
    assert!(!text().contains("BREW"));
}

#[test]
fn a_limited_number_of_routes_and_statuses_has_its_own_series() {
    let many = || (0..10_000_u16).map(|number| (number, format!("/many/{number}")));
    for (number, route) in many() {
        SERVICE.of("GET", Some(&route)).answered(number % 600, Duration::ZERO);
    }
    let series = SERVICE.of("GET", Some("/many/0"));
    (0..1000).for_each(|code| series.answered(code, Duration::ZERO));
    let mut counted = samples("pilcrow_service_requests_total{");
    counted.retain(|line| line.contains("method=\"GET\",route=\"/many/0\""));
    assert_eq!(counted.len(), MAX_CODES + 1);
    assert!(counted.iter().any(|line| line.contains("errorcode=\"other\"")), "{counted:#?}");
    let all = samples("pilcrow_service_request_duration_seconds_count");
    assert_eq!(all.len(), MAX_ROUTES + 1, "{} routes", all.len());
    assert!(all.iter().any(|line| line.contains("method=\"other\",route=\"other\"")), "{all:#?}");
    assert!(text().len() < 900_000, "it fits into one packet");
}

#[test]
fn watched_values_are_added_up_until_their_owner_is_dropped() {
    let (here, there) = (Arc::new(3), Arc::new(4));
    for one in [&here, &there] {
        let one = Arc::downgrade(one);
        watch(Gauge::Connections("watched"), move || one.upgrade().map(|number| *number));
    }
    let open = || samples("pilcrow_connections_open{port=\"watched\"}");
    assert_eq!(open(), ["pilcrow_connections_open{port=\"watched\"} 7"]);
    drop(here);
    assert_eq!(open(), ["pilcrow_connections_open{port=\"watched\"} 4"]);
    drop(there);
    assert_eq!(open(), ["pilcrow_connections_open{port=\"watched\"} 0"]);
}
