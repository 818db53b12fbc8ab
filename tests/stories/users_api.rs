//! The users service: every row of its table, through the gateway and straight over packets, and what it promises
//! beyond the table: texts come back exactly, nobody reads old news, and nothing that was answered is lost.

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Echo, Http, Packets, Process, Response, Scratch, System, eventually};

const PASSWORD: &str = "correct horse battery staple";

#[test]
fn a_user_is_created_read_changed_and_deleted() {
    let system = System::start();
    let http = system.http();
    let created = http.post("/users", &json!({ "email": "kim@example.com", "name": "Kim" }));
    assert_eq!(created.status, 201);
    let user = created.results();
    assert_eq!(
        (&user["id"], &user["email"], &user["name"]),
        (&json!(1), &json!("kim@example.com"), &json!("Kim"))
    );
    assert_eq!(http.get("/users/1").results(), user);
    assert_eq!(http.get("/users?id=1").results(), user);
    let changed = http.patch("/users/1", &json!({ "name": "Lee" }));
    assert_eq!((changed.status, &changed.results()["name"]), (200, &json!("Lee")));
    assert_eq!(http.get("/users/1").results()["name"], "Lee");
    assert_eq!(http.delete("/users/1").status, 200);
    assert_eq!(http.get("/users/1").status, 404);
}

#[test]
fn a_user_is_shown_with_utc_dates_and_without_a_password() {
    let system = System::start();
    let http = system.http();
    let created = create(&http, "kim@example.com", "Kim", Some(PASSWORD));
    let fields: Vec<&String> = created.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["created_at", "email", "id", "name", "updated_at"]);
    assert_eq!(created["created_at"], created["updated_at"]);
    assert!((moment(&created["created_at"]) - now()).abs() < 600, "{created}");
    let everywhere = [
        http.get("/users/1"),
        http.get("/users"),
        http.patch("/users/1", &json!({ "password": "another password" })),
        log_in(&http, "kim@example.com", "another password"),
        http.delete("/users/1"),
    ];
    for answer in everywhere {
        assert_eq!(answer.status, 200);
        assert!(
            !answer.text().contains("argon2") && !answer.text().contains("password"),
            "{}",
            answer.text()
        );
    }
}

#[test]
fn an_email_that_is_taken_is_refused_with_409_whatever_its_case() {
    let system = System::start();
    let http = system.http();
    let taken = [
        ("kim@example.com", ["kim@example.com", "KIM@example.com", "Kim@EXAMPLE.com"]),
        ("müller@example.com", ["müller@example.com", "MÜLLER@example.com", "Müller@Example.com"]),
        ("ÉCLAIR@exämple.com", ["éclair@exämple.com", "Éclair@EXÄMPLE.com", "ÉCLAIR@EXÄMPLE.COM"]),
    ];
    for (first, others) in taken {
        let user = create(&http, first, "First", None);
        assert_eq!(user["email"], first, "an e-mail is shown as it was written");
        for email in others {
            let answer = http.post("/users", &json!({ "email": email, "name": "Second" }));
            assert_eq!(answer.status, 409, "{email}: {}", answer.text());
            assert!(answer.message().contains("email"), "{}", answer.message());
        }
    }
    assert_eq!(http.get("/users").results().as_array().unwrap().len(), 3);
}

#[test]
fn of_many_who_want_the_same_email_at_once_exactly_one_gets_it() {
    let system = System::with(2, &[]);
    let start = Arc::new(Barrier::new(8));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (http, start) = (system.http(), start.clone());
            thread::spawn(move || {
                start.wait();
                let ask = |round| {
                    let email = format!("round{round}@example.com");
                    http.post("/users", &json!({ "email": email, "name": format!("{client}") })).status
                };
                (0..5).map(ask).collect::<Vec<u16>>()
            })
        })
        .collect();
    let answers: Vec<Vec<u16>> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    for round in 0..5 {
        let mut statuses: Vec<u16> = answers.iter().map(|of_client| of_client[round]).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409, 409, 409]);
    }
}

#[test]
fn a_list_comes_in_pages_by_id_and_next_leads_through_all_of_them() {
    let system = System::start();
    let http = system.http();
    assert_eq!(page(&http, "/users"), (vec![], Value::Null));
    create_many(&mut system.users[0].packets(), 501);

    assert_eq!(page(&http, "/users"), ((1..=50).collect(), json!(50)), "50 unless told otherwise");
    assert_eq!(page(&http, "/users?after=50").0, (51..=100).collect::<Vec<_>>());
    assert_eq!(page(&http, "/users?limit=500"), ((1..=500).collect(), json!(500)));
    assert_eq!(page(&http, "/users?limit=500&after=500"), (vec![501], Value::Null));
    assert_eq!(page(&http, "/users?after=451").1, Value::Null, "a full page may be the last");
    assert_eq!(page(&http, "/users?after=9223372036854775807"), (vec![], Value::Null));

    assert_eq!(http.delete("/users/100").status, 200);
    let (mut walked, mut after) = (Vec::new(), json!(0));
    while after != Value::Null {
        let (ids, next) = page(&http, &format!("/users?limit=77&after={after}"));
        walked.extend(ids);
        after = next;
    }
    assert_eq!(walked, (1..=501).filter(|id| *id != 100).collect::<Vec<_>>());
}

#[test]
fn a_list_can_be_asked_for_one_email_whatever_its_case() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", None);
    let second = create(&http, "Müller@example.com", "Müller", None);
    for email in ["Müller@example.com", "MÜLLER@EXAMPLE.COM"] {
        let answer = http.get(&format!("/users?email={}", encoded(email)));
        assert_eq!((answer.status, answer.results()), (200, json!([second])));
        assert_eq!(answer.reply()["next"], Value::Null);
    }
    assert_eq!(http.get("/users?email=lee@example.com").results(), json!([]), "nobody: an empty list");
    assert_eq!(http.get("/users?email=kim@example.com&after=1").results(), json!([]));
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let system = System::start();
    let http = system.http();
    let first = create(&http, "kim@example.com", "Kim", Some(PASSWORD));

    let named = http.patch("/users/1", &json!({ "name": "Lee" })).results();
    assert_eq!((&named["name"], &named["email"]), (&json!("Lee"), &first["email"]));
    let mailed = http.patch("/users?id=1", &json!({ "email": "lee@example.com" })).results();
    assert_eq!((&mailed["name"], &mailed["email"]), (&json!("Lee"), &json!("lee@example.com")));
    assert_eq!(log_in(&http, "lee@example.com", PASSWORD).status, 200, "the password is still the same");
    assert_eq!(log_in(&http, "kim@example.com", PASSWORD).status, 401, "the old e-mail is free again");
    create(&http, "kim@example.com", "Another Kim", None);

    let both = http.patch("/users/1", &json!({ "email": "L@example.com", "name": "L" })).results();
    assert_eq!(
        (&both["id"], &both["name"], &both["email"]),
        (&json!(1), &json!("L"), &json!("L@example.com"))
    );
    assert_eq!(http.get("/users/1").results(), both);
    eventually("updated_at moves on and created_at stays", || {
        let user = http.patch("/users/1", &json!({ "name": "Later" })).results();
        assert_eq!(user["created_at"], first["created_at"]);
        (user["updated_at"].as_str() > first["updated_at"].as_str()).then_some(())
    });
}

#[test]
fn a_patch_to_a_taken_email_is_409_and_to_ones_own_in_another_case_is_fine() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", None);
    let second = create(&http, "müller@example.com", "Müller", None);
    for email in ["kim@example.com", "KIM@EXAMPLE.COM"] {
        let answer = http.patch("/users/2", &json!({ "email": email, "name": "not taken over either" }));
        assert_eq!(answer.status, 409);
        assert!(answer.message().contains("email"), "{}", answer.message());
        assert_eq!(http.get("/users/2").results(), second, "a refused change changes nothing");
    }
    for email in ["MÜLLER@example.com", "müller@example.com"] {
        let answer = http.patch("/users/2", &json!({ "email": email }));
        assert_eq!((answer.status, &answer.results()["email"]), (200, &json!(email)));
    }
}

#[test]
fn an_id_that_was_deleted_is_never_given_out_again() {
    let system = System::start();
    let http = system.http();
    create(&http, "one@example.com", "One", None);
    let two = create(&http, "two@example.com", "Two", Some(PASSWORD));
    let deleted = http.delete("/users?id=2");
    assert_eq!((deleted.status, deleted.results()), (200, two), "the answer shows who is gone");
    assert_eq!(http.delete("/users/2").status, 404);
    assert_eq!(log_in(&http, "two@example.com", PASSWORD).status, 401);
    assert_eq!(create(&http, "two@example.com", "Two again", None)["id"], 3);
    assert_eq!(page(&http, "/users").0, [1, 3]);
}

#[test]
fn who_is_not_there_is_404_and_the_answer_names_the_id() {
    let system = System::start();
    let http = system.http();
    for id in ["99", "9223372036854775807"] {
        let path = format!("/users/{id}");
        let answers = [
            http.get(&path),
            http.get(&format!("/users?id={id}")),
            http.patch(&path, &json!({ "name": "Kim" })),
            http.patch(&path, &json!({ "password": PASSWORD })),
            http.delete(&path),
        ];
        for answer in answers {
            assert_eq!((answer.status, answer.message()), (404, format!("no user has id {id}")));
        }
    }
}

#[test]
fn a_login_gives_the_user_and_a_new_opaque_token_that_expires() {
    let system = System::start();
    let http = system.http();
    let user = create(&http, "Müller@example.com", "Müller", Some(PASSWORD));
    let mut tokens = HashSet::new();
    for email in ["Müller@example.com", "Müller@example.com", "MÜLLER@EXAMPLE.COM"] {
        let answer = log_in(&http, email, PASSWORD);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let results = answer.results();
        assert_eq!(results["user"], user);
        assert!(moment(&results["expires_at"]) > now() + 60, "{results}");
        let token = results["token"].as_str().unwrap().to_owned();
        assert!(token.len() >= 43 && token.bytes().all(|byte| byte.is_ascii_graphic()), "256 bits: {token}");
        assert!(tokens.insert(token), "each login has a token of its own");
    }
}

#[test]
fn a_login_fails_in_the_same_words_and_after_the_same_work_whatever_was_wrong() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", Some(PASSWORD));
    create(&http, "lee@example.com", "Lee without a password", None);
    let wrong = [
        ("kim@example.com", "a wrong password"),
        ("nobody@example.com", PASSWORD),
        ("lee@example.com", PASSWORD),
        ("kim@example.com", "short"),
        ("kim@example.com", ""),
        ("no e-mail at all", PASSWORD),
    ];
    let mut quickest = vec![Duration::MAX; wrong.len()];
    let mut answers = HashSet::new();
    for _ in 0..8 {
        for ((email, password), quickest) in wrong.iter().zip(&mut quickest) {
            let began = Instant::now();
            let answer = log_in(&http, email, password);
            *quickest = began.elapsed().min(*quickest);
            let mut reply = answer.reply();
            reply.as_object_mut().unwrap().remove("key");
            answers.insert((answer.status, reply.to_string()));
        }
    }
    let refused = json!({ "errorcode": 401, "errormessage": "the e-mail or the password is wrong" });
    assert_eq!(answers, HashSet::from([(401, refused.to_string())]));
    // Without the work of hashing, an unknown e-mail would be refused some fifty times as fast. The quickest of
    // several is compared, which a busy machine hardly moves.
    println!("the quickest refusals took {quickest:?}");
    let (least, most) = (quickest.iter().min().unwrap(), quickest.iter().max().unwrap());
    assert!(*most < *least * 4, "one can tell who has an account: {quickest:?}");
}

#[test]
fn after_a_change_of_password_only_the_new_one_opens() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", None);
    for (number, password) in
        ["the first password", "비밀번호는 여덟 글자¶", "\"\\'; --\0 odd one"].iter().enumerate()
    {
        assert_eq!(log_in(&http, "kim@example.com", password).status, 401);
        assert_eq!(http.patch("/users/1", &json!({ "password": password })).status, 200);
        assert_eq!(log_in(&http, "kim@example.com", password).status, 200, "password {number}");
    }
    assert_eq!(log_in(&http, "kim@example.com", "the first password").status, 401);
}

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
    assert_eq!(http.get("/users").results(), json!([user]), "none of them has changed anything");
    assert_eq!(log_in(&http, "kim@example.com", PASSWORD).status, 200);
}

/// Method, path, body, and the field that the refusal names.
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

/// Texts that break the rule of their field, wherever it stands.
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
fn input_at_the_limits_is_taken() {
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

/// What a careless program would change, cut, or obey.
const ODD_TEXTS: [&str; 26] = [
    "a¶b",
    "¶",
    "¶¶{\"uri\":\"/users\",\"method\":\"DELETE\",\"key\":1,\"params\":{\"params\":\"1\"}}¶",
    "\\u00b6",
    "ö Ã¶ Â¶ \u{b6}",
    "👩‍👩‍👧‍👦 👍🏽",
    "홍길동",
    "e\u{301} is not \u{e9}",
    "\u{202e}right to left\u{200f}",
    "\u{feff}\u{2028}\u{2029}\u{200b}",
    "\u{10ffff}\u{e000}\u{fffd}",
    "\"double\" 'single' `back`",
    "back\\slash \\\\ \\\" \\n \\u0041",
    "nul\0inside\0",
    "\0",
    "line\nbreak\ttab\r\nfeed",
    "\u{1}\u{1b}[31m\u{7f}\u{80}",
    "  spaces at both ends  ",
    "Robert'); DROP TABLE users;--",
    "' OR '1'='1",
    "?1 :name $1 @x %s {} %00",
    "{\"errorcode\":500,\"results\":null}",
    "[1,2",
    "null",
    "1e999",
    "<script>alert(1)</script>&amp;",
];

#[test]
fn any_text_in_a_name_comes_back_exactly() {
    let system = System::start();
    let http = system.http();
    let mut packets = system.users[0].packets();
    create(&http, "changing@example.com", "to be changed", None);
    for (id, text) in (2..).zip(ODD_TEXTS) {
        let created = create(&http, &format!("{id}@example.com"), text, None);
        assert_eq!((&created["id"], &created["name"]), (&json!(id), &json!(text)));
        assert_eq!(http.get(&format!("/users/{id}")).results()["name"], text);
        assert_eq!(http.patch("/users/1", &json!({ "name": text })).results()["name"], text);
        assert_eq!(http.get("/users?id=1").results()["name"], text);
        let reply = packets.call("GET", "/users", &json!({ "params": "1" }), id);
        assert_eq!(reply["results"]["name"], text);
        let reply = packets.call("PATCH", "/users", &json!({ "params": "1", "name": text }), id);
        assert_eq!(reply["results"]["name"], text);
    }
    let listed = http.get("/users?limit=500&after=1").results();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap()).collect();
    assert_eq!(names, ODD_TEXTS);
}

#[test]
fn any_email_comes_back_exactly_and_finds_its_user() {
    let system = System::start();
    let http = system.http();
    let emails = [
        "홍길동@example.com",
        "ñandú@example.com",
        "o'neil+tag@example.com",
        "x'or'1'='1@example.com",
        "{json}@example.com",
        "a&b=c?d#e%41/f@example.com",
        "\"quoted local part\"@example.com",
        "\"a\\\"; DROP TABLE users;--\"@example.com",
        "kim@홍길동.example",
    ];
    for (id, email) in (1..).zip(emails) {
        let user = create(&http, email, "Kim", None);
        assert_eq!((&user["id"], &user["email"]), (&json!(id), &json!(email)));
        let found = http.get(&format!("/users?email={}", encoded(email)));
        assert_eq!(found.results(), json!([user]), "{email}");
    }
}

#[test]
fn the_whole_table_is_answered_straight_over_packets_as_well() {
    let system = System::start();
    let mut packets = system.users[0].packets();
    let mut key = 0;
    let mut call = |method: &str, uri: &str, params: Value| {
        key += 1;
        packets.call(method, uri, &params, key)
    };
    let created =
        call("POST", "/users", json!({ "email": "kim@example.com", "name": "a¶b", "password": PASSWORD }));
    assert_eq!((&created["errorcode"], &created["status"]), (&json!(0), &json!(201)));
    assert_eq!(created["errormessage"], "success");
    let user = &created["results"];
    assert_eq!((&user["id"], &user["name"]), (&json!(1), &json!("a¶b")));
    assert_eq!(
        call("POST", "/users", json!({ "email": "KIM@example.com", "name": "Lee" }))["errorcode"],
        409
    );
    for params in [json!({ "params": "1" }), json!({ "id": 1 }), json!({ "id": "1" }), json!({ "params": 1 })]
    {
        let reply = call("GET", "/users", params);
        assert_eq!((&reply["errorcode"], &reply["results"]), (&json!(0), user));
    }
    call("POST", "/users", json!({ "email": "lee@example.com", "name": "Lee" }));
    let list = call("GET", "/users", json!({ "limit": 1 }));
    assert_eq!((&list["results"], &list["next"]), (&json!([user]), &json!(1)));
    let list = call("GET", "/users", json!({ "limit": "1", "after": list["next"] }));
    assert_eq!((&list["results"][0]["id"], &list["next"]), (&json!(2), &Value::Null));
    assert!(list.as_object().unwrap().contains_key("next"), "the last page says so: {list}");
    assert_eq!(call("GET", "/users", json!({ "email": "LEE@example.com" }))["results"][0]["id"], 2);

    let changed = call("PATCH", "/users", json!({ "params": "1", "name": "K", "email": "k@example.com" }));
    assert_eq!((&changed["errorcode"], &changed["results"]["email"]), (&json!(0), &json!("k@example.com")));
    assert_eq!(call("PATCH", "/users", json!({ "id": 1, "email": "lee@example.com" }))["errorcode"], 409);
    let login = call("POST", "/users/login", json!({ "email": "K@example.com", "password": PASSWORD }));
    assert_eq!((&login["errorcode"], &login["results"]["user"]), (&json!(0), &changed["results"]));
    assert!(login["results"]["token"].is_string() && login["results"]["expires_at"].is_string());
    let login = call("POST", "/users/login", json!({ "email": "k@example.com", "password": "wrong one" }));
    assert_eq!((&login["errorcode"], login.get("results")), (&json!(401), None));

    assert_eq!(call("DELETE", "/users", json!({ "params": "2" }))["results"]["id"], 2);
    for method in ["GET", "PATCH", "DELETE"] {
        let mut params = json!({ "params": "2" });
        if method == "PATCH" {
            params["name"] = json!("Lee");
        }
        let reply = call(method, "/users", params);
        assert_eq!((&reply["errorcode"], &reply["errormessage"]), (&json!(404), &json!("no user has id 2")));
    }
    let refused = [
        ("GET", "/users", json!([1]), 400),
        ("GET", "/users", json!("1"), 400),
        ("GET", "/users", json!(null), 400),
        ("POST", "/users", json!({ "email": "kim", "name": "Kim" }), 400),
        ("POST", "/users/login", json!({ "email": "k@example.com", "password": 12_345_678 }), 400),
        ("PUT", "/users", json!({}), 405),
        ("GET", "/users/login", json!({}), 405),
        ("GET", "/user", json!({}), 404),
        ("GET", "/users/1", json!({}), 404),
    ];
    for (method, uri, params, status) in refused {
        let reply = call(method, uri, params.clone());
        assert_eq!(reply["errorcode"], status, "{method} {uri} {params}: {reply}");
        assert!(!reply["errormessage"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_read_that_starts_after_a_write_was_answered_sees_it_through_any_instance() {
    let system = System::with(2, &[]);
    create(&system.http(), "kim@example.com", "0", None);
    // The gateway lets instances take turns, for each route by itself. One more read to begin with: from then on
    // every write is read back through the other instance.
    let mut connection = system.http().connect();
    let mut ask = |method: &str, body: &[u8]| {
        connection.send_request(method, "/users/1", &[("Content-Type", "application/json")], body);
        let answer = connection.receive().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.results()["name"].clone()
    };
    ask("GET", b"");
    let mut direct: Vec<Packets> = system.users.iter().map(Process::packets).collect();
    let mut stale = Vec::new();
    for round in 1..=1000 {
        let written = json!(round.to_string());
        assert_eq!(ask("PATCH", json!({ "name": written }).to_string().as_bytes()), written);
        let read = ask("GET", b"");
        if read != written {
            stale.push((round, read));
        }
        for (instance, packets) in direct.iter_mut().enumerate() {
            let reply = packets.call("GET", "/users", &json!({ "params": "1" }), round);
            if reply["results"]["name"] != written {
                stale.push((round, json!({ "instance": instance, "reply": reply })));
            }
        }
    }
    assert!(stale.is_empty(), "{} stale reads: {stale:?}", stale.len());
}

#[test]
fn what_was_answered_survives_kill_9() {
    let mut system = System::start();
    let mut known: Vec<Value> = Vec::new();
    for round in 0..3 {
        let writers: Vec<_> = (0..4).map(|writer| write_until_refused(&system, round, writer)).collect();
        eventually("some writes are answered", || {
            let mut packets = system.users[0].packets();
            let count = list_all(&mut packets).len();
            (count >= known.len() + 40).then_some(())
        });
        system.users.remove(0).kill();
        known.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));

        system.users.push(Process::users(&system.distributor, &system.scratch, &[]));
        let mut packets = system.users[0].packets();
        let listed = list_all(&mut packets);
        for user in &known {
            assert!(listed.contains(user), "answered and lost in round {round}: {user}");
        }
        let address = system.users[0].address().to_string();
        eventually("the gateway uses the new instance", || {
            system.http().get("/routes").text().contains(&format!("[\"{address}\"]")).then_some(())
        });
    }
    assert!(known.len() >= 100, "{} writes were answered", known.len());
}

/// Creates users, one after the other, until one creation fails. All those that were answered.
fn write_until_refused(system: &System, round: u32, writer: u32) -> thread::JoinHandle<Vec<Value>> {
    let http = system.http();
    thread::spawn(move || {
        let mut answered = Vec::new();
        for number in 0.. {
            let email = format!("{round}-{writer}-{number}@example.com");
            let answer = http.post("/users", &json!({ "email": email, "name": "Kim" }));
            if answer.status != 201 {
                assert!(matches!(answer.status, 502 | 503), "{}", answer.text());
                break;
            }
            answered.push(answer.results());
        }
        answered
    })
}

#[test]
fn many_clients_create_at_once_through_two_instances_and_nothing_is_lost() {
    let system = System::with(2, &[]);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let http = system.http();
            thread::spawn(move || {
                let mut connection = http.connect();
                let mut create = |number| {
                    let email = format!("{client}-{number}@example.com");
                    let body = json!({ "email": email, "name": email }).to_string();
                    let json = [("Content-Type", "application/json")];
                    connection.send_request("POST", "/users", &json, body.as_bytes());
                    let answer = connection.receive().unwrap();
                    assert_eq!(answer.status, 201, "{}", answer.text());
                    answer.results()
                };
                (0..50).map(&mut create).collect::<Vec<Value>>()
            })
        })
        .collect();
    let mut created: Vec<Value> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    created.sort_by_key(|user| user["id"].as_u64());
    let ids: Vec<u64> = created.iter().map(|user| user["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=400).collect::<Vec<_>>());
    for users in &system.users {
        assert_eq!(list_all(&mut users.packets()), created);
    }
}

#[test]
fn a_login_delays_nobody_elses_packet() {
    const LOGINS: u64 = 24;
    let system = System::start();
    create(&system.http(), "kim@example.com", "Kim", Some(PASSWORD));
    let mut packets = system.users[0].packets();
    let login = json!({ "email": "kim@example.com", "password": PASSWORD });
    for key in 1..=LOGINS {
        packets.send(&json!({ "uri": "/users/login", "method": "POST", "key": key, "params": login }));
    }
    let read = LOGINS + 1;
    packets.send(&json!({ "uri": "/users", "method": "GET", "key": read, "params": { "params": "1" } }));
    let replies: Vec<Value> = (0..read).map(|_| packets.receive().unwrap()).collect();
    assert!(replies.iter().all(|reply| reply["errorcode"] == 0), "{replies:?}");
    let place = replies.iter().position(|reply| reply["key"] == read).unwrap();
    // Answered in turn it would be the last. It is the first, unless the machine is very busy.
    println!("the read that was sent after {LOGINS} logins was answered as number {}", place + 1);
    assert!(place < 12, "the read waited for {place} logins");
}

#[test]
fn passwords_and_tokens_are_stored_as_hashes_alone() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", Some(PASSWORD));
    let login = log_in(&http, "kim@example.com", PASSWORD).results();
    let token = login["token"].as_str().unwrap();
    let mut stored = Vec::new();
    for file in ["users.db", "users.db-wal"] {
        stored.extend(std::fs::read(system.scratch.file(file)).unwrap_or_default());
    }
    let holds = |text: &str| stored.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(holds("kim@example.com") && holds("$argon2id$v=19$"));
    assert!(!holds(PASSWORD) && !holds(token));
}

#[cfg(unix)]
#[test]
fn passwords_and_tokens_stand_in_no_log_not_even_at_trace() {
    let scratch = Scratch::new();
    let trace = [("RUST_LOG", "trace")];
    let start = |program, flags: &[&str]| {
        let flags = [&["--listen", "127.0.0.1:0"], flags].concat();
        Process::start_in(scratch.path(), program, &flags, &trace)
    };
    let distributor = start(env!("CARGO_BIN_EXE_distributor"), &["--max-frame", "4096"]);
    let joined = distributor.address().to_string();
    let flags = ["--distributor", &joined, "--database", "users.db", "--max-frame", "4096"];
    let users = start(env!("CARGO_BIN_EXE_users"), &flags);
    let gateway = start(env!("CARGO_BIN_EXE_gateway"), &["--distributor", &joined]);
    crate::harness::await_instances(&gateway, "POST", "/users/login", 1);

    let mut secrets = Secrets::default();
    use_passwords_well(&gateway.http(), &mut secrets);
    use_passwords_badly(&gateway.http(), &mut secrets);
    for port in [users.address(), distributor.address()] {
        for frame in broken_frames(&mut secrets) {
            let mut packets = Packets::to(port);
            packets.send_raw(&frame);
            let _ = packets.stream().shutdown(std::net::Shutdown::Write);
            while packets.receive_text().is_some() {} // until it is closed
        }
    }
    let careless = secrets.new();
    let leaky = Echo::answering(&distributor, "leaky", &["GET/leaky"], move |asked| {
        asked.raw(format!("{{\"key\":1,\"results\":{{\"token\":\"{careless}\"}}¶").as_bytes());
    });
    crate::harness::await_instances(&gateway, "GET", "/leaky", 1);
    assert_eq!(gateway.http().get("/leaky").status, 502);
    drop(leaky);

    let term = nix::sys::signal::Signal::SIGTERM;
    let logs = [gateway, users, distributor].map(|process| process.end_by(term).log);
    for (log, broken) in logs.iter().zip([1, 8, 8]) {
        let noticed = log.iter().filter(|line| line.contains(" closed: ")).count();
        assert_eq!(noticed, broken, "{log:#?}");
        for secret in &secrets.0 {
            let told: Vec<&String> = log.iter().filter(|line| line.contains(secret)).collect();
            assert!(told.is_empty(), "the log tells the secret {secret}: {told:#?}");
        }
    }
}

/// Passwords and tokens that were in use, each recognisable by itself.
#[cfg(unix)]
#[derive(Default)]
struct Secrets(Vec<String>);

#[cfg(unix)]
impl Secrets {
    fn new(&mut self) -> String {
        self.0.push(format!("hush-{}-hush", self.0.len()));
        self.0.last().unwrap().clone()
    }
}

#[cfg(unix)]
fn use_passwords_well(http: &Http, secrets: &mut Secrets) {
    let (first, second) = (secrets.new(), secrets.new());
    create(http, "kim@example.com", "Kim", Some(&first));
    assert_eq!(log_in(http, "kim@example.com", &first).status, 200);
    assert_eq!(http.patch("/users/1", &json!({ "password": second })).status, 200);
    let login = log_in(http, "kim@example.com", &second);
    secrets.0.push(login.results()["token"].as_str().unwrap().to_owned());
    let form = format!("email=kim%40example.com&password={second}");
    let typed = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(http.request("POST", "/users/login", &typed, form.as_bytes()).status, 200);
}

#[cfg(unix)]
fn use_passwords_badly(http: &Http, secrets: &mut Secrets) {
    let (email, json) = ("kim@example.com", [("Content-Type", "application/json")]);
    assert_eq!(log_in(http, email, &secrets.new()).status, 401);
    let long = secrets.new().repeat(20);
    let refused = [
        http.post("/users", &json!({ "email": "lee@example.com", "name": "Lee", "password": long })),
        http.post(
            "/users",
            &json!({ "email": "lee@example.com", "name": "Lee", "password": [secrets.new()] }),
        ),
        http.post("/users/login", &json!({ "email": email, "pasword": secrets.new() })),
        http.post("/users/login", &json!({ "email": email, "password": { secrets.new(): secrets.new() } })),
        http.request("POST", &format!("/users/login?email={email}&pass={}", secrets.new()), &[], b""),
        http.request("POST", "/users/login", &json, format!("{{\"password\":\"{}", secrets.new()).as_bytes()),
        http.request("POST", "/users/login", &json, format!("\"password {}\"", secrets.new()).as_bytes()),
    ];
    for answer in refused {
        assert_eq!(answer.status, 400, "{}", answer.text());
    }
    let typed = [("Content-Type", "text/plain"), ("X-Request-Id", &*secrets.new().repeat(10))];
    assert_eq!(http.request("POST", "/users/login", &typed, secrets.new().as_bytes()).status, 415);
    assert_eq!(
        http.request(
            "PUT",
            "/users/login",
            &json,
            format!("{{\"password\":\"{}\"}}", secrets.new()).as_bytes()
        )
        .status,
        405
    );
    let in_path = http.request("GET", &format!("/nowhere?token={}", secrets.new()), &[], b"");
    assert_eq!(in_path.status, 404);
    assert!(http.raw(format!("GET /users?token={} HTTP/9.9\r\n\r\n", secrets.new()).as_bytes()).is_some());
}

/// Login packets that break the rules of the wire, each in its own way.
#[cfg(unix)]
fn broken_frames(secrets: &mut Secrets) -> Vec<Vec<u8>> {
    let mut login = || {
        let params = json!({ "email": "kim@example.com", "password": secrets.new() });
        json!({ "uri": "/users/login", "method": "POST", "key": 1, "params": params }).to_string()
    };
    let wrap = |text: String| [text.as_bytes(), "¶".as_bytes()].concat();
    let mut not_utf8 = wrap(login());
    not_utf8.insert(3, 0xFF);
    vec![
        wrap(login() + "}"),
        wrap(login().replace("\"params\"", "'params'")),
        wrap(login().replace("-hush", "¶-hush")), // a raw ¶ in the password
        wrap(json!(login()).to_string()),         // JSON in a JSON text
        wrap(json!([login()]).to_string()),       // an array
        wrap(login().replace("kim@", &"k".repeat(5000))), // too long
        not_utf8,
        login().into_bytes(), // the connection ends before the ¶
    ]
}

#[test]
fn a_database_of_a_newer_version_is_refused_in_one_sentence() {
    let scratch = Scratch::new();
    let file = scratch.file("users.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let told = refused_database(&scratch, file.to_str().unwrap());
    assert!(told.contains("version 7") && told.contains("newer"), "{told}");
}

#[test]
fn a_database_that_cannot_be_opened_is_refused_in_one_sentence() {
    let scratch = Scratch::new();
    let text = scratch.file("text.db");
    std::fs::write(&text, "this is no database, however one looks at it\n".repeat(100)).unwrap();
    let nowhere = scratch.file("no/such/directory/users.db");
    for file in [scratch.path(), &text, &nowhere] {
        refused_database(&scratch, file.to_str().unwrap());
    }
}

#[test]
fn a_database_in_memory_is_refused_since_the_instances_could_not_share_it() {
    let scratch = Scratch::new();
    for name in [":memory:", "file:users.db?mode=memory"] {
        let told = refused_database(&scratch, name);
        assert!(told.contains("name a file"), "{told}");
        assert!(!scratch.file(name).exists());
    }
}

/// Starts users on a database that it cannot use; the one sentence that it says.
fn refused_database(scratch: &Scratch, file: &str) -> String {
    let flags = ["--listen", "127.0.0.1:0", "--database", file];
    let (status, out, told) = Process::run_in(scratch.path(), env!("CARGO_BIN_EXE_users"), &flags, &[]);
    assert_eq!((status, out.as_str()), (Some(1), ""), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with(&format!("users: cannot open the database {file}: ")), "{told}");
    told
}

#[cfg(unix)]
#[test]
fn the_database_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let system = System::start();
    create(&system.http(), "kim@example.com", "Kim", None);
    for file in ["users.db", "users.db-wal", "users.db-shm"] {
        let mode = std::fs::metadata(system.scratch.file(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

fn create(http: &Http, email: &str, name: &str, password: Option<&str>) -> Value {
    let mut body = json!({ "email": email, "name": name });
    if let Some(password) = password {
        body["password"] = json!(password);
    }
    let answer = http.post("/users", &body);
    assert_eq!(answer.status, 201, "{body}: {}", answer.text());
    answer.results()
}

fn log_in(http: &Http, email: &str, password: &str) -> Response {
    http.post("/users/login", &json!({ "email": email, "password": password }))
}

/// Creates users 1 to `count`, all asked for at once.
fn create_many(packets: &mut Packets, count: u64) {
    for key in 1..=count {
        let params = json!({ "email": format!("{key}@example.com"), "name": "Kim" });
        packets.send(&json!({ "uri": "/users", "method": "POST", "key": key, "params": params }));
    }
    for _ in 1..=count {
        let reply = packets.receive().unwrap();
        assert_eq!(reply["errorcode"], 0, "{reply}");
    }
}

/// The ids on one page of the list, and its `next`.
fn page(http: &Http, path: &str) -> (Vec<u64>, Value) {
    let answer = http.get(path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let ids = answer.results().as_array().unwrap().iter().map(|user| user["id"].as_u64().unwrap()).collect();
    (ids, answer.reply()["next"].clone())
}

/// Everybody, read page by page from one instance.
fn list_all(packets: &mut Packets) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), json!(0));
    while after != Value::Null {
        let reply = packets.call("GET", "/users", &json!({ "limit": 500, "after": after }), 1);
        all.extend(reply["results"].as_array().unwrap().iter().cloned());
        after = reply["next"].clone();
    }
    all
}

/// An e-mail address of so many characters.
fn long_email(characters: usize) -> String {
    let local = "k".repeat(64);
    let labels = ["d".repeat(60), "e".repeat(60)].join(".");
    let rest = characters - local.len() - 1 - labels.len() - 1;
    format!("{local}@{labels}.{}.com", "f".repeat(rest - 4))
}

/// Every byte as a percent code.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A date as seconds since 1970, if it is one of RFC 3339 in UTC.
fn moment(date: &Value) -> i64 {
    let text = date.as_str().unwrap();
    assert!(text.len() >= 20 && text.ends_with('Z') && &text[10..11] == "T", "{text}");
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days since 1 March of the year 0, whose leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19)
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}
