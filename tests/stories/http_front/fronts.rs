//! Both fronts run the same handler. The `curl` walk of the README passes on either.

use serde_json::{Value, json};

use crate::harness::{Response, System};

/// One step: the request, and the expected status and `results` (`null` is not compared).
type Step = (&'static str, &'static str, Value, u16, Value);

fn walk() -> Vec<Step> {
    let none = Value::Null;
    let kim = json!({ "email": "kim@example.com", "name": "Kim", "password": "correct horse" });
    let login = json!({ "email": "kim@example.com", "password": "correct horse" });
    let wrong = json!({ "email": "kim@example.com", "password": "wrong horse" });
    let renamed = json!({ "name": "¶ 한글 🦀" });
    vec![
        ("POST", "/users", kim.clone(), 201, json!({ "id": 1, "name": "Kim" })),
        ("POST", "/users", kim, 409, none.clone()),
        ("POST", "/users", json!({ "name": "Kim" }), 400, none.clone()),
        ("GET", "/users", none.clone(), 200, json!([{ "id": 1, "email": "kim@example.com" }])),
        ("GET", "/users?limit=1&after=1", none.clone(), 200, json!([])),
        ("GET", "/users/1", none.clone(), 200, json!({ "id": 1, "name": "Kim" })),
        ("GET", "/users?id=1", none.clone(), 200, json!({ "id": 1 })),
        ("GET", "/users/%31", none.clone(), 200, json!({ "id": 1 })),
        ("PATCH", "/users/1", renamed.clone(), 200, renamed.clone()),
        ("GET", "/users/1", none.clone(), 200, renamed),
        ("POST", "/users/login", login, 200, json!({ "user": { "id": 1 } })),
        ("POST", "/users/login", wrong, 401, none.clone()),
        ("GET", "/users/2", none.clone(), 404, none.clone()),
        ("GET", "/users/x", none.clone(), 400, none.clone()),
        ("DELETE", "/users/1", none.clone(), 200, none.clone()),
        ("GET", "/users/1", none.clone(), 404, none.clone()),
        ("PUT", "/users/1", none.clone(), 405, none.clone()),
        ("GET", "/nowhere", none.clone(), 404, none.clone()),
        ("GET", "/users?a=%", none.clone(), 400, none.clone()),
        ("GET", "/healthz", none.clone(), 200, none.clone()),
        ("GET", "/readyz", none.clone(), 200, none.clone()),
        ("GET", "/routes", none.clone(), 200, none),
    ]
}

fn walk_with(front: &str) -> System {
    let system = System::builder().gateway_flags(&["--front", front]).start();
    for (method, target, body, status, results) in walk() {
        let what = format!("{front}: {method} {target} {body}");
        let answer = if body.is_null() {
            system.http().request(method, target, &[], b"")
        } else {
            system.http().json(method, target, &body)
        };
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_contains(&answer.reply()["results"], &results, &what);
        assert_shape(&answer, &what);
    }
    // The form that `curl -d` sends, with the content type of a form.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let lee = br#"{"email":"lee@example.com","name":"Lee"}"#;
    assert_eq!(system.http().request("POST", "/users", &form, lee).status, 201, "{front}");
    let ann = b"email=ann%40example.com&name=Ann+B";
    let answer = system.http().request("POST", "/users", &form, ann);
    assert_eq!((answer.status, &answer.results()["name"]), (201, &json!("Ann B")), "{front}");
    let text = [("Content-Type", "text/plain")];
    assert_eq!(system.http().request("POST", "/users", &text, lee).status, 415, "{front}");
    let mine = [("X-Request-Id", "mine-1")];
    let answer = system.http().request("GET", "/users/2", &mine, b"");
    assert_eq!(answer.header("X-Request-Id"), Some("mine-1"), "{front}");
    let answer = system.http().request("PUT", "/users", &[], b"");
    assert_eq!(answer.header("Allow"), Some("DELETE, GET, PATCH, POST, HEAD"), "{front}");
    let head = system.http().request("HEAD", "/users/2", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0), "{front}");
    system
}

/// Panics unless all of `part` is in `whole`.
fn assert_contains(whole: &Value, part: &Value, what: &str) {
    match part {
        Value::Null => {}
        Value::Object(fields) => {
            for (name, value) in fields {
                assert_contains(&whole[name], value, what);
            }
        }
        Value::Array(items) => {
            assert_eq!(whole.as_array().map(Vec::len), Some(items.len()), "{what}: {whole}");
            for (at, item) in items.iter().enumerate() {
                assert_contains(&whole[at], item, what);
            }
        }
        _ => assert_eq!(whole, part, "{what}"),
    }
}

fn assert_shape(answer: &Response, what: &str) {
    assert_eq!(answer.header("Content-Type"), Some("application/json"), "{what}");
    assert!(answer.header("X-Request-Id").is_some(), "{what}");
    let reply = answer.reply();
    let code = if answer.status < 400 { 0 } else { answer.status };
    assert_eq!(reply["errorcode"], code, "{what}");
    assert!(!answer.message().is_empty(), "{what}");
}

#[test]
fn the_walk_passes_on_our_own_front() {
    let system = walk_with("own");
    assert!(!system.gateway.log().iter().any(|line| line.contains("trap")));
}

#[test]
fn the_walk_passes_on_tiny_https_server_whose_traps_are_named_at_the_start() {
    let system = walk_with("tiny-http");
    let line = system.gateway.await_log(&["WARN", "tiny-http", "docs/decisions.md"]);
    for trap in [
        "(1) connections that arrive together may never be served",
        "(2) at the descriptor limit it stops accepting for good",
        "(3) one head with a huge Content-Length ends the process",
    ] {
        assert!(line.contains(trap), "{line}");
    }
    let named = system.gateway.log().iter().filter(|line| line.contains("trap")).count();
    assert_eq!(named, 1, "in one line");
}
