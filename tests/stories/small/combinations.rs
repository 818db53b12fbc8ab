//! All combinations of small and real processes pass the same checks.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::{Value, json};

use super::{Kinds, Real, Small, Trio};
use crate::harness::{Http, Response};

#[test]
fn each_combination_of_small_and_real_processes_creates_reads_changes_and_deletes_users() {
    let mut failed = Vec::new();
    for distributor in [Small, Real] {
        for users in [Small, Real] {
            for gateway in [Small, Real] {
                let kinds = Kinds { distributor, gateway };
                let name = format!("distributor {distributor:?}, users {users:?}, gateway {gateway:?}");
                let check = || check_everything(&Trio::start(kinds, &[users]));
                match catch_unwind(AssertUnwindSafe(check)) {
                    Ok(()) => println!("{name}: passed"),
                    Err(_) => failed.push(name),
                }
            }
        }
    }
    assert!(failed.is_empty(), "these combinations failed: {failed:#?}");
}

fn check_everything(system: &Trio) {
    let http = system.http();
    check_user(&http);
    check_failures(&http);
    check_lists(&http);
    check_direct_packets(system);
}

fn check_user(http: &Http) {
    let created = http.post("/users", &json!({ "email": "kim@example.com", "name": "a¶b 김" }));
    assert_eq!(created.status, 201, "{}", created.text());
    let user = created.results();
    assert_eq!((&user["id"], &user["name"]), (&json!(1), &json!("a¶b 김")));
    let fields: Vec<&String> = user.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["created_at", "email", "id", "name", "updated_at"]);
    assert_eq!(created.header("Content-Type"), Some("application/json"));
    assert_eq!((&created.reply()["errorcode"], &created.reply()["seq"]), (&json!(0), &json!(1)));
    assert_eq!(http.get("/users/1").results(), user);
    assert_eq!(http.get("/users?id=1").results(), user);
    assert_eq!(http.get("/users/%31").results(), user);
    assert_eq!(http.request("HEAD", "/users/1", &[], b"").status, 200);

    let changed = http.patch("/users/1", &json!({ "name": "¶" }));
    assert_eq!((changed.status, changed.results()["name"].clone()), (200, json!("¶")), "{}", changed.text());
    assert_eq!(changed.results()["email"], "kim@example.com", "what a change does not name stays");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let changed = http.request("PATCH", "/users/1", &form, "name=%EA%B9%80+Lee".as_bytes());
    assert_eq!(changed.results()["name"], "김 Lee", "{}", changed.text());
    let long = "김".repeat(100);
    let padded = format!("{{\"name\":\"{long}\"{}}}", " ".repeat(3000));
    let changed =
        http.request("PATCH", "/users/1", &[("Content-Type", "application/json")], padded.as_bytes());
    assert_eq!(changed.results()["name"], json!(long), "a body over 1,024 bytes");

    let deleted = http.delete("/users/1");
    assert_eq!((deleted.status, &deleted.results()["id"]), (200, &json!(1)));
    assert_failure(&http.get("/users/1"), 404);
}

fn check_failures(http: &Http) {
    let user = json!({ "email": "lee@example.com", "name": "Lee" });
    assert_eq!(http.post("/users", &user).results()["id"], 2, "an id is not used twice");
    assert_failure(&http.post("/users", &json!({ "email": "LEE@example.com", "name": "Lee" })), 409);
    for wrong in [
        json!({ "name": "Kim" }),
        json!({ "email": "kim", "name": "Kim" }),
        json!({ "email": "k@example.com", "name": " " }),
        json!({ "email": "k@example.com", "name": "x".repeat(101) }),
        json!({ "email": "k@example.com", "name": 7 }),
        json!({ "email": "k@example.com", "name": "Kim", "age": 7 }),
    ] {
        assert_failure(&http.post("/users", &wrong), 400);
    }
    assert_failure(&http.get("/users/x"), 400);
    assert_failure(&http.get("/users/99"), 404);
    assert_failure(&http.patch("/users/99", &json!({ "name": "Kim" })), 404);
    assert_failure(&http.delete("/users/99"), 404);
    assert_failure(&http.delete("/users"), 400);
    assert_failure(&http.get("/nothing"), 404);
    assert_failure(&http.get("/users/1/2"), 404);
    assert_failure(&http.json("PUT", "/users", &json!({})), 405);
    assert_failure(&http.get("/users/%zz"), 400);
    assert_failure(&http.request("POST", "/users", &[("Content-Type", "application/json")], b"{"), 400);
    assert_failure(&http.get("/users/changes"), 406);
}

fn assert_failure(answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.reply()["errorcode"], status, "{}", answer.text());
    assert!(!answer.message().is_empty());
}

fn check_lists(http: &Http) {
    for number in 3..=5 {
        let body = json!({ "email": format!("{number}@example.com"), "name": "Kim" });
        assert_eq!(http.post("/users", &body).results()["id"], number);
    }
    let ids = |list: Value| -> Vec<u64> {
        list.as_array().unwrap().iter().map(|user| user["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids(http.get("/users").results()), [2, 3, 4, 5]);
    let page = http.get("/users?limit=2");
    assert_eq!((ids(page.results()), &page.reply()["next"]), (vec![2, 3], &json!(3)));
    assert_eq!(ids(http.get("/users?limit=2&after=3").results()), [4, 5]);
}

fn check_direct_packets(system: &Trio) {
    let mut users = system.users[0].packets();
    assert_eq!(users.call("GET", "/users", &json!({ "params": "2" }), 1)["results"]["id"], 2);
    assert_eq!(users.call("GET", "/nothing", &json!({}), 2)["errorcode"], 404);
    assert_eq!(users.call("PUT", "/users", &json!({}), 3)["errorcode"], 405);
    let zero = users.call("GET", "/users", &json!({ "id": 2 }), 0);
    assert_eq!(zero["results"]["id"], 2, "key 0 is answered like any other");
    let list = system.distributor.packets().await_list(|list| list.len() == 2);
    let users_entry = list.iter().find(|entry| entry["name"] == "users").unwrap();
    assert_eq!(users_entry["port"], system.users[0].port());
    assert_eq!((&users_entry["host"], &users_entry["proto"]), (&json!("127.0.0.1"), &json!("pilcrow/1")));
    let reply = system.distributor.packets().call("GET", "/distributes", &json!({}), 7);
    assert_eq!(reply["results"].as_array().unwrap().len(), 2);
}
