//! `X-Explain`: the steps of one request, through every process.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Echo, Process, ReceivedRequest, Response, System, await_instances, eventually};

/// Asks for an explanation in this form.
fn explained(gateway: &Process, form: &str, method: &str, path: &str, body: Option<&Value>) -> Response {
    let body = body.map_or_else(String::new, Value::to_string);
    let headers = [("X-Explain", form), ("Content-Type", "application/json")];
    let headers = if body.is_empty() { &headers[..1] } else { &headers[..] };
    gateway.http().request(method, path, headers, body.as_bytes())
}

/// The steps of an explanation in the JSON form, with those of other processes before the reply that reports them.
fn flatten(steps: &Value) -> Vec<Value> {
    let step = |step: &Value| {
        let mut all = flatten(&step["explain"]);
        all.push(step.clone());
        all
    };
    steps.as_array().into_iter().flatten().flat_map(step).collect()
}

fn texts(steps: &[Value]) -> Vec<&str> {
    steps.iter().filter_map(|step| step["text"].as_str()).collect()
}

/// The rows of a diagram without its numbers and spaces, whose widths differ from run to run.
fn rows(diagram: &str) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for line in diagram.trim_end().lines() {
        let is_rest = line.starts_with("           ") && line.contains('│');
        let text = if is_rest { line.replace('│', "") } else { line.to_owned() };
        if !is_rest {
            rows.push(String::new());
        }
        rows.last_mut().unwrap().extend(text.split_whitespace());
    }
    rows.iter().map(|row| without_numbers(row)).collect()
}

fn without_numbers(row: &str) -> String {
    // The id of a request has letters too.
    let row = match row.split_once(r#""request_id":""#) {
        Some((before, after)) => [before, after.split_once('"').unwrap().1].concat(),
        None => row.to_owned(),
    };
    row.replace(|one: char| one.is_ascii_digit(), "")
}

#[test]
fn the_diagram_of_a_plain_read_shows_every_step() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim ¶");
    let answer = explained(&system.gateway, "text", "GET", "/users/1", None);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    let text = answer.text();
    println!("{text}");
    let expected = include_str!("explain/read.txt");
    assert_eq!(rows(&text), rows(expected), "the diagram is now:\n{text}");
}

#[test]
fn the_json_form_is_the_reply_packet_with_one_more_field() {
    let system = System::start();
    let created = explained(
        &system.gateway,
        "json",
        "POST",
        "/users",
        Some(&json!({ "email": "kim@example.com", "name": "Kim" })),
    );
    assert_eq!(created.status, 201);
    let plain = system.http().get("/users/1").reply();
    let mut reply = explained(&system.gateway, "json", "GET", "/users/1", None).reply();
    let steps = reply.as_object_mut().unwrap().remove("explain").unwrap();
    for field in ["errorcode", "errormessage", "results", "seq", "etag"] {
        assert_eq!(reply[field], plain[field]);
    }
    assert_eq!(reply.as_object().unwrap().len(), plain.as_object().unwrap().len());
    let writes = flatten(&created.reply()["explain"]);
    let texts = texts(&writes).join("\n");
    for step in [
        "read",
        "matches the route",
        "become the params of the packet",
        "candidates",
        "gets key",
        "admitted",
        "handler begins",
        "from its queue",
        "savepoint",
        "committed",
        "handler has answered",
        "wakes up",
        "ready to be written",
    ] {
        assert!(texts.contains(step), "{step}: {texts}");
    }
    let sent = flatten(&steps).into_iter().find(|step| step["to"].is_string()).unwrap();
    let packet: Value = serde_json::from_str(sent["packet"].as_str().unwrap()).unwrap();
    assert_eq!((&packet["uri"], &packet["explain"]), (&json!("/users"), &json!(true)));
}

#[test]
fn every_step_names_a_source_file_that_exists_and_its_times_grow() {
    let system = System::start();
    let user = json!({ "email": "kim@example.com", "name": "Kim", "password": "correct-horse" });
    let mut count = 0;
    for (method, path, body) in [
        ("POST", "/users", Some(user)),
        ("GET", "/users/1", None),
        ("GET", "/users?limit=5", None),
        ("PATCH", "/users/1", Some(json!({ "name": "Lee" }))),
        ("POST", "/users/login", Some(json!({ "email": "kim@example.com", "password": "correct-horse" }))),
        ("GET", "/users/9", None),
        ("DELETE", "/users/1", None),
    ] {
        let reply = explained(&system.gateway, "json", method, path, body.as_ref()).reply();
        for step in flatten(&reply["explain"]) {
            let file = step["file"].as_str().unwrap();
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file(), "{file}");
            count += 1;
        }
        let nested = &reply["explain"]
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["from"].is_string())
            .unwrap()["explain"];
        for steps in [&reply["explain"], nested] {
            let times: Vec<_> =
                steps.as_array().unwrap().iter().map(|step| step["at_us"].as_u64().unwrap()).collect();
            assert!(times.is_sorted() && times.len() >= 4, "{method} {path}: {times:?}");
        }
    }
    assert!(count > 60, "{count}");
}

#[test]
fn a_refusal_is_explained_and_its_status_and_body_come_last() {
    let system = System::builder().gateway_flags(&["--timeout", "0.3"]).start();
    let gateway = &system.gateway;
    let long = json!({ "name": "x".repeat(2_000_000) });
    let course = Echo::course(&system.distributor, "goods", &["POST/goods"], |_| {});
    let silent = Echo::answering(
        &system.distributor,
        "silent",
        &["POST/silent", "POST/lost"],
        |request: &ReceivedRequest| {
            if request.packet["uri"] == "/lost" {
                request.hang_up();
            }
        },
    );
    await_instances(gateway, "POST", "/goods", 1);
    await_instances(gateway, "POST", "/silent", 1);
    let too_long_for_course = json!({ "name": "x".repeat(70_000) });
    let cases = [
        (404, "GET", "/nowhere", None, "ready to be written"),
        (405, "PUT", "/users", None, "ready to be written"),
        (404, "GET", "/users/9", None, "no user has id 9"),
        (400, "POST", "/users", Some(json!({ "mail": 1 })), "the handler has answered 400"),
        (413, "POST", "/users", Some(long), "rejected while it is read"),
        (413, "POST", "/goods", Some(too_long_for_course), "candidates"),
        (504, "POST", "/silent", Some(json!({})), "no reply came in time"),
        (502, "POST", "/lost", Some(json!({})), "the connection to the service was lost"),
    ];
    for (status, method, path, body, step) in cases {
        let answer = explained(gateway, "text", method, path, body.as_ref());
        let text = answer.text();
        assert_eq!(answer.status, status, "{method} {path}: {text}");
        let joined = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
        assert!(joined.contains(step), "{method} {path}: {step}: {text}");
        let last: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(last[1], format!("HTTP/1.1 {status}"), "{text}");
        let body: Value = serde_json::from_str(last[0]).unwrap();
        assert_eq!(body["errorcode"], status, "{text}");
    }
    drop(silent);
    let down = eventually("the gateway has noticed the end", || {
        Some(explained(gateway, "text", "POST", "/silent", Some(&json!({}))))
            .filter(|answer| answer.status == 503)
    });
    assert!(down.text().contains("no instance can take"), "{}", down.text());
    drop(course);
}

#[test]
fn an_unknown_form_of_explanation_gets_400() {
    let system = System::start();
    let answer = explained(&system.gateway, "html", "GET", "/users", None);
    assert_eq!(
        (answer.status, answer.message()),
        (400, "unknown X-Explain \"html\"; expected one of: text, json".to_owned())
    );
}

#[test]
fn a_call_from_service_to_service_is_nested_in_the_explanation() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim");
    let orders = super::mesh::relay_to(&system.distributor, "near", "/near", "/users");
    await_instances(&system.gateway, "GET", "/near", 1);
    let reply = eventually("the service knows users", || {
        Some(explained(&system.gateway, "json", "GET", "/near", None)).filter(|answer| answer.status == 200)
    });
    let places: Vec<Value> = flatten(&reply.reply()["explain"])
        .iter()
        .map(|step| step["place"].clone())
        .filter(Value::is_string)
        .collect();
    assert_eq!(places, ["gateway", "near", "users", "database"].map(Value::from));
    let reply = reply.reply();
    let total = |steps: &Value| steps.as_array().unwrap().last().unwrap()["at_us"].as_u64().unwrap();
    let inner = reply["explain"].as_array().unwrap().iter().find(|step| step["from"].is_string()).unwrap();
    assert!(
        total(&inner["explain"]) <= inner["at_us"].as_u64().unwrap(),
        "the inner process took no longer than the outer waited"
    );
    let text = explained(&system.gateway, "text", "GET", "/near", None).text();
    for name in ["client", "gateway", "near", "users", "database", "≈"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    drop(orders);
}

#[test]
fn an_explanation_of_services_that_call_each_other_in_a_ring_is_bounded() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let near = super::mesh::relay_to(&distributor, "near", "/near", "/far");
    let far = super::mesh::relay_to(&distributor, "far", "/far", "/near");
    await_instances(&gateway, "GET", "/near", 1);
    await_instances(&gateway, "GET", "/far", 1);
    let ring = eventually("the ring is closed", || {
        Some(explained(&gateway, "json", "GET", "/near", None)).filter(|answer| answer.status == 508)
    });
    assert!(ring.body.len() < 128 * 1024, "{} bytes", ring.body.len());
    assert!(flatten(&ring.reply()["explain"]).len() > 20);
    drop((near, far));
}

#[test]
fn a_hedged_read_shows_both_instances() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &["--timeout", "1"]);
    let silent = Echo::answering(&distributor, "slow", &["GET/slow"], |_| {});
    await_instances(&gateway, "GET", "/slow", 1);
    let quick = Echo::start(&distributor, "slow", &["GET/slow"]);
    await_instances(&gateway, "GET", "/slow", 2);
    let text = eventually("the silent instance is asked first", || {
        let answer = explained(&gateway, "text", "GET", "/slow", None);
        assert_eq!(answer.status, 200);
        Some(answer.text()).filter(|text| text.contains("no reply yet"))
    });
    for port in [silent.port(), quick.port()] {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    }
    assert!(text.contains("already tried"), "{text}");
}

#[test]
fn the_first_reply_of_a_stream_is_explained() {
    let system = System::start();
    system.create_user("kim@example.com", "Kim");
    let headers = [("X-Explain", "text"), ("Accept", "text/event-stream")];
    let answer = system.http().request("GET", "/users/changes?after=0", &headers, b"");
    let text = answer.text();
    assert_eq!(answer.status, 200, "{text}");
    assert!(text.contains("a stream begins") && text.contains("the first reply of the stream"), "{text}");
    // The stream is not left open.
    system.users[0].await_log(&["CANCEL /users/changes"]);
}

#[test]
fn nodes_that_do_not_know_explanations_are_explained_as_far_as_the_gateway_sees() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let course = Echo::course(&distributor, "goods", &["GET/goods"], ReceivedRequest::echo);
    let other = Echo::start(&distributor, "other", &["GET/other"]);
    await_instances(&gateway, "GET", "/goods", 1);
    await_instances(&gateway, "GET", "/other", 1);
    for (path, service, is_asked) in [("/goods", &course, false), ("/other", &other, true)] {
        let answer = explained(&gateway, "text", "GET", path, None);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("wakes up"), "{}", answer.text());
        let packet = &service.await_requests(1)[0].packet;
        assert_eq!(packet.get("explain").is_some(), is_asked, "{packet}");
    }
    let before = other.requests().len();
    assert_eq!(gateway.http().get("/other").status, 200);
    assert_eq!(other.await_requests(before + 1)[before].packet.get("explain"), None);
}

#[test]
fn text_that_a_service_sends_cannot_steer_the_terminal() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let escape = "\u{1b}[2J";
    let evil = Echo::answering(&distributor, "evil", &["GET/evil"], move |request: &ReceivedRequest| {
        let step = json!({ "at_us": 1, "place": escape, "text": escape, "file": escape });
        request.reply(&json!({ "errorcode": 0, "errormessage": "success", "explain": [step] }));
    });
    await_instances(&gateway, "GET", "/evil", 1);
    let text = explained(&gateway, "text", "GET", "/evil", None).text();
    assert!(!text.contains('\u{1b}') && text.contains("u{1b}"), "{text}");
    drop(evil);
}

#[test]
fn a_service_that_reports_absurd_steps_gets_a_small_diagram() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let step = |number: usize| json!({ "at_us": u64::MAX, "text": "", "file": "", "to": number.to_string(), "bytes": 0, "packet": "" });
    let many = Echo::answering(&distributor, "many", &["GET/many"], move |request: &ReceivedRequest| {
        let count = if request.params()["count"] == "few" { 5 } else { 5_000 };
        let steps: Vec<Value> = (0..count).map(step).collect();
        request.reply(&json!({ "errorcode": 0, "errormessage": "success", "explain": steps }));
    });
    await_instances(&gateway, "GET", "/many", 1);
    for (count, expected) in [("few", "≈"), ("all", "too long to show")] {
        let answer = explained(&gateway, "text", "GET", &format!("/many?count={count}"), None);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains(expected), "{}", answer.text());
        assert!(answer.body.len() < 64 * 1024, "{} bytes", answer.body.len());
    }
    drop(many);
}

#[test]
fn no_explanation_shows_a_password_a_token_or_an_authorization() {
    let system = System::start();
    let user = json!({ "email": "kim@example.com", "name": "Kim", "password": "correct-horse-battery" });
    let login = json!({ "email": "kim@example.com", "password": "correct-horse-battery" });
    assert_eq!(system.http().post("/users", &user).status, 201);
    let token = system.http().post("/users/login", &login).results()["token"].as_str().unwrap().to_owned();
    let mut seen = String::new();
    for (path, body) in [("/users/login", &login), ("/users", &user)] {
        seen += &explained(&system.gateway, "text", "POST", path, Some(body)).text();
        let mut reply = explained(&system.gateway, "json", "POST", path, Some(body)).reply();
        // The client itself asked for this token.
        reply.as_object_mut().unwrap().remove("results");
        seen += &reply.to_string();
    }
    let shown = format!("Bearer {token}");
    for form in ["text", "json"] {
        let headers = [("X-Explain", form), ("Authorization", shown.as_str())];
        let answer = system.http().request("GET", "/users/1", &headers, b"");
        assert_eq!(answer.status, 200);
        seen += &answer.text();
    }
    assert!(seen.contains("***"));
    for secret in ["correct-horse", token.as_str(), "Bearer"] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
}
