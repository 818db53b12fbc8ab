//! Every row of the table, through the gateway and directly over packets.

use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::{Value, json};

use super::{PASSWORD, create, create_many, encoded, log_in, moment, now, page};
use crate::harness::{System, eventually};

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
fn a_user_has_utc_dates_and_no_password() {
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
fn a_taken_email_gets_409_in_any_case() {
    let system = System::start();
    let http = system.http();
    let taken = [
        ("kim@example.com", ["kim@example.com", "KIM@example.com", "Kim@EXAMPLE.com"]),
        ("müller@example.com", ["müller@example.com", "MÜLLER@example.com", "Müller@Example.com"]),
        ("ÉCLAIR@exämple.com", ["éclair@exämple.com", "Éclair@EXÄMPLE.com", "ÉCLAIR@EXÄMPLE.COM"]),
    ];
    for (first, others) in taken {
        let user = create(&http, first, "First", None);
        assert_eq!(user["email"], first, "an e-mail is shown in its original spelling");
        for email in others {
            let answer = http.post("/users", &json!({ "email": email, "name": "Second" }));
            assert_eq!(answer.status, 409, "{email}: {}", answer.text());
            assert!(answer.message().contains("email"), "{}", answer.message());
        }
    }
    assert_eq!(http.get("/users").results().as_array().unwrap().len(), 3);
}

#[test]
fn exactly_one_of_many_simultaneous_creates_gets_the_email() {
    let system = System::builder().users(2).start();
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

    assert_eq!(page(&http, "/users"), ((1..=50).collect(), json!(50)), "50 by default");
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
fn a_list_can_be_filtered_by_email_in_any_case() {
    let system = System::start();
    let http = system.http();
    create(&http, "kim@example.com", "Kim", None);
    let second = create(&http, "Müller@example.com", "Müller", None);
    for email in ["Müller@example.com", "MÜLLER@EXAMPLE.COM"] {
        let answer = http.get(&format!("/users?email={}", encoded(email)));
        assert_eq!((answer.status, answer.results()), (200, json!([second])));
        assert_eq!(answer.reply()["next"], Value::Null);
    }
    assert_eq!(http.get("/users?email=lee@example.com").results(), json!([]), "no match: an empty list");
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
    eventually("updated_at increases and created_at stays", || {
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
        assert_eq!(http.get("/users/2").results(), second, "a rejected change has no effect");
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
    assert_eq!((deleted.status, deleted.results()), (200, two), "the answer shows the deleted user");
    assert_eq!(http.delete("/users/2").status, 404);
    assert_eq!(log_in(&http, "two@example.com", PASSWORD).status, 401);
    assert_eq!(create(&http, "two@example.com", "Two again", None)["id"], 3);
    assert_eq!(page(&http, "/users").0, [1, 3]);
}

#[test]
fn an_unknown_user_gets_404_with_the_id() {
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
    assert!(list.as_object().unwrap().contains_key("next"), "the last page is marked: {list}");
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
