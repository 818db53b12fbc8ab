//! Explanations in a secured cluster.

use serde_json::json;

use super::Person;
use crate::harness::{Response, System};

fn explained(person: &Person, path: &str) -> Response {
    let headers = [("Authorization", person.authorization.as_str()), ("X-Explain", "text")];
    person.http.request("GET", path, &headers, b"")
}

#[test]
fn with_a_secret_no_request_is_explained_by_default() {
    let system = System::builder().secured().start();
    let boss = Person::admin(&system, "boss");
    let answer = explained(&boss, "/users/1");
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.message().contains("--explain on"), "{}", answer.message());
    assert_eq!(boss.get("/users/1").status, 200, "without the header nothing changes");
}

#[test]
fn with_a_secret_and_explain_on_only_admins_get_explanations() {
    let system = System::builder().secured().gateway_flags(&["--explain", "on"]).start();
    let (boss, kim) = (Person::admin(&system, "boss"), Person::new(&system, "kim"));
    let answer = explained(&boss, "/users/1");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("candidates"), "{}", answer.text());
    let answer = explained(&kim, "/users/1");
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.message().contains("only an admin"), "{}", answer.message());
    let stranger = system.http().request("GET", "/users/1", &[("X-Explain", "text")], b"");
    assert_eq!(stranger.status, 401, "{}", stranger.text());
    // A request that cannot be read shows nobody's rights.
    let unread = system.http().request("GET", "/users/%zz", &[("X-Explain", "text")], b"");
    assert!(!unread.text().contains("gateway"), "{}", unread.text());
}

#[test]
fn a_client_sees_who_it_is_logged_in_as() {
    let system = System::builder().secured().start();
    let (boss, kim) = (Person::admin(&system, "boss"), Person::new(&system, "kim"));
    for person in [&boss, &kim] {
        let me = person.get("/users/me").results();
        assert_eq!((&me["email"], &me["id"]), (&json!(person.email), &json!(person.id)));
    }
    assert_eq!(boss.get("/users/me").results()["role"], "admin");
    assert_eq!(kim.get("/users/me").results().get("role"), None);
    assert_eq!(system.http().get("/users/me").status, 401);
    kim.log_out();
    assert_eq!(kim.get("/users/me").status, 401);
}
