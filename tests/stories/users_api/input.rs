//! Input that is rejected with 400, and input that is accepted, to the last character.

use serde_json::{Value, json};

use super::{PASSWORD, create, log_in, page};
use crate::harness::System;

#[test]
fn input_that_breaks_a_rule_is_400_and_the_answer_names_the_field() {
    let system = System::start();
    let http = system.http();
    let user = create(&http, "kim@example.com", "Kim", Some(PASSWORD));
    let mut wrong = Vec::new();
    let breaches = breaches();
    for (method, path, body, field) in &breaches {
        let answer = match body {
            Some(body) => http.json(method, path, body),
            None => http.request(method, path, &[], b""),
        };
        let message = answer.message();
        let names_it = message.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == *field);
        if (answer.status, names_it) != (400, true) {
            wrong.push(format!("{method} {path} {body:?}: not a 400 that names {field}: {}", answer.text()));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), breaches.len(), wrong.join("\n"));
    assert_eq!(http.get("/users").results(), json!([user]), "no rejected request changed a user");
    assert_eq!(log_in(&http, "kim@example.com", PASSWORD).status, 200);
}

/// Method, path, body, and the field that the rejection names.
type Breach = (&'static str, String, Option<Value>, &'static str);

fn breaches() -> Vec<Breach> {
    let mut all: Vec<Breach> = Vec::new();
    let mut post = |path: &str, body: Value, field| all.push(("POST", path.to_owned(), Some(body), field));
    let (email, name) = ("lee@example.com", "Lee");
    post("/users", json!({}), "email");
    post("/users", json!({ "name": name }), "email");
    post("/users", json!({ "email": email }), "name");
    post("/users", json!({ "email": email, "name": name, "nickname": "L" }), "nickname");
    post("/users", json!({ "email": email, "name": name, "id": 7 }), "id");
    post(
        "/users",
        json!({ "email": email, "name": name, "created_at": "2026-01-01T00:00:00Z" }),
        "created_at",
    );
    post("/users?page=1", json!({ "email": email, "name": name }), "page");
    post("/users/1", json!({ "email": email, "name": name }), "path");
    post("/users/login/1", json!({ "email": email, "password": PASSWORD }), "path");
    post("/users/login", json!({}), "email");
    post("/users/login", json!({ "password": PASSWORD }), "email");
    post("/users/login", json!({ "email": email }), "password");
    post("/users/login", json!({ "email": email, "password": PASSWORD, "name": name }), "name");
    post("/users/login", json!({ "email": "", "password": PASSWORD }), "email");
    post("/users/login", json!({ "email": long_email(255), "password": PASSWORD }), "email");
    post("/users/login", json!({ "email": email, "password": "x".repeat(129) }), "password");
    for wrong_type in [json!(null), json!(5), json!(true), json!(["text"]), json!({ "text": "text" })] {
        post("/users", json!({ "email": wrong_type, "name": name }), "email");
        post("/users", json!({ "email": email, "name": wrong_type }), "name");
        post("/users", json!({ "email": email, "name": name, "password": wrong_type }), "password");
        post("/users/login", json!({ "email": wrong_type, "password": PASSWORD }), "email");
        post("/users/login", json!({ "email": email, "password": wrong_type }), "password");
    }
    for (field, value) in bad_values() {
        let mut body = json!({ "email": email, "name": name });
        body[field] = value;
        post("/users", body, field);
    }

    let mut patch = |path: &str, body: Value, field| all.push(("PATCH", path.to_owned(), Some(body), field));
    for field in ["email", "name", "password"] {
        patch("/users/1", json!({}), field); // what may be changed is named
        for wrong_type in [json!(null), json!(5), json!(false), json!([]), json!({})] {
            patch("/users/1", json!({ field: wrong_type }), field);
        }
    }
    for (field, value) in bad_values() {
        patch("/users/1", json!({ field: value }), field);
    }
    patch("/users/1", json!({ "name": name, "nickname": "L" }), "nickname");
    patch("/users/1", json!({ "updated_at": "2026-01-01T00:00:00Z" }), "updated_at");
    patch("/users/1", json!({ "name": name, "id": 2 }), "id");
    patch("/users/1?id=2", json!({ "name": name }), "id");
    patch("/users", json!({ "name": name }), "id");
    patch("/users", json!({ "name": name, "id": 1.5 }), "id");
    patch("/users", json!({ "name": name, "id": null }), "id");

    let mut plain = |method, path: String, field| all.push((method, path, None, field));
    for id in
        ["0", "-1", "1.5", "abc", "99999999999999999999", "%20", "1%00", "%2B1", "1e3", "0x1", "%EF%BC%91"]
    {
        for method in ["GET", "PATCH", "DELETE"] {
            plain(method, format!("/users/{id}"), "id");
            plain(method, format!("/users?id={id}"), "id");
        }
    }
    for method in ["GET", "PATCH", "DELETE"] {
        plain(method, "/users?id=".to_owned(), "id");
        plain(method, "/users?id=1&id=1".to_owned(), "id");
        plain(method, "/users/1?id=2".to_owned(), "id");
    }
    for limit in ["0", "501", "x", "-1", "1.5", "", "99999999999999999999", "5&limit=5"] {
        plain("GET", format!("/users?limit={limit}"), "limit");
    }
    for after in ["-1", "x", "1.5", "", "99999999999999999999", "1&after=1"] {
        plain("GET", format!("/users?after={after}"), "after");
    }
    for email in ["", "kim", "kim@example.com&email=lee@example.com"] {
        plain("GET", format!("/users?email={email}"), "email");
    }
    plain("GET", "/users?page=2".to_owned(), "page");
    plain("GET", "/users/1?limit=5".to_owned(), "limit");
    plain("DELETE", "/users".to_owned(), "id");
    plain("DELETE", "/users/1?name=Kim".to_owned(), "name");
    all
}

/// Texts that violate the rule of their field, wherever it occurs.
fn bad_values() -> Vec<(&'static str, Value)> {
    let mut bad: Vec<(&str, String)> = Vec::new();
    bad.extend(["", " ", "\t\r\n", "\u{3000}\u{a0}"].map(|name| ("name", name.to_owned())));
    bad.push(("name", "x".repeat(101)));
    bad.push(("name", "홍".repeat(101)));
    bad.extend(["x".repeat(7), "암".repeat(7), String::new(), "x".repeat(129)].map(|it| ("password", it)));
    bad.push(("email", long_email(255)));
    let no_emails = [
        "",
        " ",
        "kim",
        "@example.com",
        "kim@",
        "kim@@example.com",
        "kim@example..com",
        "kim@.com",
        ".kim@example.com",
        "kim@example.com.",
        "kim lee@example.com",
        " kim@example.com",
        "kim@example.com ",
        "kim@exa mple.com",
        "Kim <kim@example.com>",
        "kim@example.com,lee@example.com",
        "kim\n@example.com",
        "kim@example.com\n",
        "kim\0@example.com",
        "kim@example.com\0",
        "kim@-example.com",
    ];
    bad.extend(no_emails.map(|email| ("email", email.to_owned())));
    bad.into_iter().map(|(field, value)| (field, Value::String(value))).collect()
}

#[test]
fn input_at_the_limits_is_accepted() {
    let system = System::start();
    let http = system.http();
    let names = ["x".to_owned(), "홍".repeat(100), "👍".repeat(100), " padded ".to_owned()];
    for (number, name) in names.iter().enumerate() {
        let user = create(&http, &format!("{number}@example.com"), name, None);
        assert_eq!(user["name"], *name);
    }
    let longest = long_email(254);
    assert_eq!(create(&http, &longest, "Long", None)["email"], longest);
    for (number, password) in
        ["12345678", "암호는여덟글자다", &"x".repeat(128), &"암".repeat(128)].iter().enumerate()
    {
        let email = format!("password{number}@example.com");
        create(&http, &email, "Kim", Some(password));
        assert_eq!(log_in(&http, &email, password).status, 200);
    }
    assert_eq!(page(&http, "/users?limit=1"), (vec![1], json!(1)));
    assert_eq!(http.get("/users?limit=500&after=0").status, 200);
    assert_eq!(http.patch("/users/1?id=1", &json!({ "name": "y" })).status, 200, "the same id twice");
    assert_eq!(http.patch("/users", &json!({ "id": 1, "name": "z" })).status, 200, "an id as a number");
}

/// An e-mail address with this many characters.
fn long_email(characters: usize) -> String {
    let local = "k".repeat(64);
    let labels = ["d".repeat(60), "e".repeat(60)].join(".");
    let rest = characters - local.len() - 1 - labels.len() - 1;
    format!("{local}@{labels}.{}.com", "f".repeat(rest - 4))
}
