//! Ownership: changing users, and seeing their e-mail addresses.

use serde_json::{Value, json};

use super::{PASSWORD, Person, ask, assert_log_in_first};
use crate::harness::{Http, System};

#[test]
fn without_a_secret_no_login_is_needed() {
    let system = System::start();
    let kim = Person::new(&system, "kim");
    let lee = Person::new(&system, "lee");
    let http = system.http();
    assert_eq!(http.patch(&kim.path(), &json!({ "name": "Kimberly" })).status, 200);
    assert_eq!(lee.patch(&kim.path(), &json!({ "name": "Kim" })).status, 200);
    assert_eq!(ask(http, "Bearer nonsense", "PATCH", &kim.path(), &json!({ "name": "K" })).status, 200);
    assert_eq!(http.get(&kim.path()).results()["email"], kim.email);
    assert_eq!(http.get("/users?email=lee@example.com").results()[0]["email"], lee.email);
    assert_eq!(http.delete(&kim.path()).status, 200);
}

#[test]
fn only_the_user_can_change_and_delete_its_record() {
    let system = System::builder().secured().users(2).start();
    let (kim, lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    let http = system.http();
    for body in [json!({ "name": "Mallory" }), json!({ "password": "mallory's own" })] {
        assert_log_in_first(&http.patch(&kim.path(), &body));
        let by_another = lee.patch(&kim.path(), &body);
        assert_eq!(by_another.status, 403, "{}", by_another.text());
        assert!(by_another.message().contains("another user"), "{}", by_another.message());
    }
    assert_log_in_first(&http.delete(&kim.path()));
    assert_eq!(lee.delete(&kim.path()).status, 403);
    assert_eq!(lee.delete("/users/99").status, 403, "also if the user does not exist");
    assert_eq!(kim.get(&kim.path()).results()["name"], "kim", "nothing changed");
    Person::log_in(&system, &kim.email, PASSWORD);

    let changed = kim.patch(&kim.path(), &json!({ "name": "Kim ¶ 김", "email": "k@example.com" }));
    assert_eq!((changed.status, &changed.results()["email"]), (200, &json!("k@example.com")));
    assert_eq!(kim.delete(&kim.path()).results()["email"], "k@example.com");
    assert_eq!(kim.delete(&kim.path()).status, 401, "the token was deleted with its user");
}

#[test]
fn an_invalid_token_gets_401_on_every_route_but_login_and_sign_up() {
    let system = System::builder().secured().start();
    let kim = Person::new(&system, "kim");
    let spent = Person::log_in(&system, &kim.email, PASSWORD);
    assert_eq!(spent.log_out().status, 200);
    let unknown = format!("Bearer {}", "0123456789abcdef".repeat(4));
    let none = ["Bearer", "Bearer ", "", "Basic a2ltOmtpbQ==", "no-scheme-at-all"];
    for shown in none.into_iter().chain([unknown.as_str(), &spent.authorization]) {
        let no_body = json!({});
        for (method, path, body) in [
            ("GET", "/users", &no_body),
            ("GET", "/users/1", &no_body),
            ("GET", "/users/changes?limit=1", &no_body),
            ("PATCH", "/users/1", &json!({ "name": "Mallory" })),
            ("DELETE", "/users/1", &no_body),
            ("POST", "/users/logout", &no_body),
        ] {
            let answer = ask(system.http(), shown, method, path, body);
            assert_eq!(answer.status, 401, "{shown:?} {method} {path}: {}", answer.text());
            assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
        }
        let headers = [("Authorization", shown)];
        let stream = system.http().events("/users/changes", &headers).err().unwrap();
        assert_eq!(stream.status, 401, "{}", stream.text());
        let stream = system.http().events("/users/changes?after=0", &headers).err().unwrap();
        assert_eq!(stream.status, 401, "{}", stream.text());
    }
    let login = json!({ "email": kim.email, "password": PASSWORD });
    assert_eq!(ask(system.http(), &unknown, "POST", "/users/login", &login).status, 200);
    let new = json!({ "email": "lee@example.com", "name": "Lee" });
    assert_eq!(ask(system.http(), &unknown, "POST", "/users", &new).status, 201);
    // The scheme is case-insensitive, as HTTP requires.
    let lower = kim.authorization.replace("Bearer", "bearer");
    assert_eq!(ask(system.http(), &lower, "GET", "/users/1", &json!({})).results()["email"], kim.email);
}

/// The e-mail addresses that are shown, by user.
fn shown(list: &Value) -> Vec<Option<&str>> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|user| user.get("email").map(|email| email.as_str().unwrap()))
        .collect()
}

#[test]
fn only_the_owner_and_admins_see_an_email_address() {
    let system = System::builder().secured().users(2).start();
    let (kim, lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    let boss = Person::admin(&system, "boss");
    let http = system.http();

    assert_eq!(shown(&http.get("/users").results()), [None, None, None]);
    assert_eq!(shown(&kim.get("/users").results()), [Some("kim@example.com"), None, None]);
    assert_eq!(
        shown(&boss.get("/users").results()),
        [Some("kim@example.com"), Some("lee@example.com"), Some("boss@example.com")]
    );
    let public = http.get(&kim.path()).results();
    let fields: Vec<&String> = public.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["created_at", "id", "name", "updated_at"], "only this field is omitted");
    assert_eq!(lee.get(&kim.path()).results(), public);
    assert_eq!(kim.get(&kim.path()).results()["email"], kim.email);
    assert_eq!(boss.get(&kim.path()).results()["email"], kim.email);
    assert_eq!(kim.get("/users?id=1&at_least=2").results()["email"], kim.email);
    assert_eq!(lee.get("/users?id=1&at_least=2").results().get("email"), None);
}

#[test]
fn no_client_can_test_whether_an_address_has_an_account() {
    let system = System::builder().secured().start();
    let (kim, _lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    let boss = Person::admin(&system, "boss");
    for email in ["lee@example.com", "nobody@example.com"] {
        let path = format!("/users?email={email}");
        assert_log_in_first(&system.http().get(&path));
        assert_eq!(kim.get(&path).status, 403);
    }
    assert_eq!(kim.get("/users?email=KIM@example.com").results()[0]["email"], kim.email);
    assert_eq!(boss.get("/users?email=lee@example.com").results()[0]["email"], "lee@example.com");
    assert_eq!(boss.get("/users?email=nobody@example.com").results(), json!([]));
}

#[test]
fn an_admin_may_change_and_delete_everybody() {
    let system = System::builder().secured().start();
    let kim = Person::new(&system, "kim");
    let boss = Person::admin(&system, "boss");
    assert_eq!(boss.patch(&kim.path(), &json!({ "name": "Kimberly" })).results()["email"], kim.email);
    assert_eq!(boss.patch(&kim.path(), &json!({ "password": "a new one for Kim" })).status, 200);
    assert_eq!(kim.get(&kim.path()).status, 401, "a new password ends all tokens, also if an admin sets it");
    Person::log_in(&system, &kim.email, "a new one for Kim");
    assert_eq!(boss.delete(&kim.path()).status, 200);
    assert_eq!(boss.delete(&kim.path()).status, 404);
    let role = boss.patch(&boss.path(), &json!({ "role": "user" }));
    assert_eq!(role.status, 400, "the network cannot grant or revoke the admin role");
}

#[test]
fn the_two_views_of_a_user_have_different_entity_tags_and_if_match_takes_either() {
    let system = System::builder().secured().start();
    let kim = Person::new(&system, "kim");
    let (public, own) = (system.http().get(&kim.path()), kim.get(&kim.path()));
    let (public, own) = (public.header("ETag").unwrap(), own.header("ETag").unwrap());
    assert_ne!(public, own, "each view has its own entity tag");
    let get = |http: Http, tag: &str, authorization: Option<&str>| {
        let mut headers = vec![("If-None-Match", tag)];
        headers.extend(authorization.map(|shown| ("Authorization", shown)));
        http.request("GET", &kim.path(), &headers, b"").status
    };
    let shown = Some(kim.authorization.as_str());
    assert_eq!((get(kim.http, public, None), get(kim.http, public, shown)), (304, 200));
    assert_eq!((get(kim.http, own, None), get(kim.http, own, shown)), (200, 304));

    let patch = |tag: &str, name: &str| {
        let headers = [
            ("Authorization", kim.authorization.as_str()),
            ("Content-Type", "application/json"),
            ("If-Match", tag),
        ];
        kim.http.request("PATCH", &kim.path(), &headers, json!({ "name": name }).to_string().as_bytes())
    };
    let first = patch(public, "first");
    assert_eq!(first.status, 200, "{}", first.text());
    assert_eq!(patch(public, "second").status, 412);
    assert_eq!(patch(own, "second").status, 412);
    assert_eq!(patch(first.header("ETag").unwrap(), "second").status, 200);
}

#[test]
fn a_forbidden_write_is_rejected_before_a_password_is_hashed() {
    let system = System::builder().secured().start();
    let (kim, lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    // The hashing queue has 64 places. If these requests were hashed before their rejection, most would get 503.
    let pending: Vec<_> = (0..200)
        .map(|number| {
            let mut connection = system.http().connect();
            let body = json!({ "password": format!("a new password {number}") }).to_string();
            let mut headers = vec![("Content-Type", "application/json")];
            if number % 2 == 0 {
                headers.push(("Authorization", &lee.authorization));
            }
            connection.send_request("PATCH", &kim.path(), &headers, body.as_bytes());
            (connection, if number % 2 == 0 { 403 } else { 401 })
        })
        .collect();
    for (mut connection, status) in pending {
        assert_eq!(connection.receive().unwrap().status, status);
    }
}
