//! `GET /journeys` in a secured cluster.

use serde_json::Value;

use super::Person;
use crate::harness::{Events, System};

/// The journeys of someone who watches a request of `boss`, and the word for them in the status.
fn watch(system: &System, boss: &Person, headers: &[(&str, &str)]) -> (String, Option<Value>) {
    let Ok(mut events) = system.http().events("/journeys", headers) else { panic!("no stream") };
    let status = next(&mut events);
    assert_eq!(boss.get("/users/1").status, 200);
    let mut journey = None;
    // The second status after the request comes later than its journey.
    let mut seen = 0;
    while seen < 2 && journey.is_none() {
        let event = next(&mut events);
        if event["explain"].is_array() { journey = Some(event) } else { seen += 1 }
    }
    (status["journeys"].as_str().unwrap().to_owned(), journey)
}

fn next(events: &mut Events) -> Value {
    serde_json::from_str(&events.event().expect("an event").data).unwrap()
}

/// The packets in the steps, with those of other processes.
fn packets(steps: &Value) -> Vec<Value> {
    let steps = steps.as_array().into_iter().flatten();
    steps.flat_map(|step| [vec![step["packet"].clone()], packets(&step["explain"])].concat()).collect()
}

#[test]
fn with_a_secret_a_reader_gets_no_journey_by_default() {
    let system = System::builder().secured().start();
    let boss = Person::admin(&system, "boss");
    let authorization = [("Authorization", boss.authorization.as_str())];
    assert_eq!(watch(&system, &boss, &authorization), ("off".to_owned(), None));
}

#[test]
fn with_a_secret_and_explain_on_only_admins_get_journeys_and_those_show_no_packet() {
    let system = System::builder().secured().gateway_flags(&["--explain", "on"]).start();
    let (boss, kim) = (Person::admin(&system, "boss"), Person::new(&system, "kim"));
    let (word, journey) = watch(&system, &boss, &[("Authorization", boss.authorization.as_str())]);
    assert_eq!(word, "hidden");
    let journey = journey.expect("a journey");
    let packets = packets(&journey["explain"]);
    assert!(packets.iter().any(|packet| packet == ""), "{journey}");
    assert!(packets.iter().all(|packet| packet.is_null() || packet == ""), "{journey}");
    assert!(!journey.to_string().contains("boss@"), "no e-mail address: {journey}");
    for headers in [&[("Authorization", kim.authorization.as_str())][..], &[]] {
        assert_eq!(watch(&system, &boss, headers), ("off".to_owned(), None));
    }
}
