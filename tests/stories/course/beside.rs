//! Services, gateways and a distributor of the course beside ours.

use serde_json::json;

use super::{DIALECTS, assert_alive, course_js, create_many_users, links, port_of};
use crate::harness::{Echo, Process, ReceivedRequest, Scratch, System, await_instances, eventually};

#[test]
fn course_services_live_behind_our_distributor_and_our_gateway() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let http = gateway.http();
    for (dialect, payload, errorcode) in DIALECTS {
        let urls = format!("GET/{dialect},POST/{dialect},DELETE/{dialect},PATCH/{dialect}");
        let arguments =
            ["service", &port_of(&distributor), "--dialect", dialect, "--name", dialect, "--urls", &urls];
        let Some(mut service) = course_js(&arguments) else { return };
        let path = format!("/{dialect}");
        await_instances(&gateway, "GET", &path, 1);

        let answer = http.get(&format!("{path}/5?name=%C3%B6%ED%95%9C%F0%9F%A6%80"));
        let reply = answer.reply();
        assert_eq!(
            (answer.status, &reply[errorcode], &reply["errormessage"]),
            (200, &json!(0), &json!("success"))
        );
        let echo = &reply[payload];
        assert_eq!(
            (&echo["dialect"], &echo["method"], &echo["uri"]),
            (&json!(dialect), &json!("GET"), &json!(path))
        );
        assert_eq!((&echo["params"]["params"], &echo["params"]["name"]), (&json!("5"), &json!("ö한🦀")));
        let posted = http.post(&path, &json!({ "deep": { "ö": [1, null, "글"] } })).reply();
        assert_eq!(posted[payload]["params"]["deep"], json!({ "ö": [1, null, "글"] }));
        // The course's own gateway loses form bodies.
        let form = [("Content-Type", "application/x-www-form-urlencoded")];
        let posted = http.request("POST", &path, &form, b"name=Kim&colour=red").reply();
        assert_eq!(
            (&posted[payload]["params"]["name"], &posted[payload]["params"]["colour"]),
            (&json!("Kim"), &json!("red"))
        );

        // It accepts a ¶ that is escaped. It cannot echo one, because its own are raw.
        let failed = http.get(&format!("{path}?fail=1&%C2%B6=a%C2%B6b"));
        assert_eq!((failed.status, &failed.reply()[errorcode]), (200, &json!(1)));
        assert_eq!(failed.reply()["errormessage"], json!({ "message": "failed" }));
        assert_eq!(http.get(&format!("{path}?nokey=1")).reply()[payload]["params"]["nokey"], "1");
        let unhandled = http.patch(&format!("{path}/1"), &json!({ "name": "Kim" }));
        assert_eq!((unhandled.status, &unhandled.reply()["errorcode"]), (501, &json!(501)));
        assert_alive(&mut service);
    }
}

#[test]
fn a_course_service_lives_through_two_hundred_requests_at_once() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let services = DIALECTS.map(|(dialect, ..)| {
        let urls = format!("GET/{dialect}");
        course_js(&[
            "service",
            &port_of(&distributor),
            "--dialect",
            dialect,
            "--name",
            dialect,
            "--urls",
            &urls,
        ])
    });
    let [Some(template), Some(book)] = services else { return };
    for ((dialect, payload, _), mut service) in DIALECTS.into_iter().zip([template, book]) {
        await_instances(&gateway, "GET", &format!("/{dialect}"), 1);
        // Each client has sent its request before the first reads its answer.
        let mut clients: Vec<_> = (0..200).map(|_| gateway.http().connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_request("GET", &format!("/{dialect}/{number}"), &[], b"");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.receive().unwrap();
            assert_eq!(answer.reply()[payload]["params"]["params"], number.to_string(), "{}", answer.text());
        }
        assert_alive(&mut service);
        assert_eq!(links(&gateway, service.port()), 1);
    }
}

#[test]
fn course_gates_work_in_front_of_our_users() {
    let system = System::builder().scratch(Scratch::in_memory()).start();
    let first = system.create_user("kim@example.com", "Kim ¶");
    create_many_users(&system.users[0]);
    let count_lists = || system.users[0].log().iter().filter(|line| line.contains("list of 3 nodes")).count();
    for (dialect, ..) in DIALECTS {
        let before = count_lists();
        let arguments = ["gate", &port_of(&system.distributor), "--dialect", dialect];
        let Some(mut gate) = course_js(&arguments) else { return };
        let http = gate.http();
        let reply = eventually("the course gate knows users", || {
            Some(http.get("/users?id=1")).filter(|answer| answer.status == 200).map(|answer| answer.reply())
        });
        assert_eq!((&reply["errorcode"], &reply["results"]), (&json!(0), &first));
        let email = format!("{dialect}@example.com");
        let created = http.post("/users", &json!({ "email": email, "name": "ö한🦀" }));
        assert_eq!((created.status, &created.reply()["errorcode"]), (200, &json!(0)), "{}", created.text());
        assert_eq!(
            (&created.results()["email"], &created.results()["name"]),
            (&json!(email), &json!("ö한🦀"))
        );
        assert_eq!(http.post("/users", &json!({ "email": email, "name": "x" })).reply()["errorcode"], 409);
        assert_eq!(http.post("/users", &json!({ "name": "x" })).reply()["errorcode"], 400);
        let id = created.results()["id"].to_string();
        assert_eq!(http.delete(&format!("/users?id={id}")).reply()["errorcode"], 0);
        assert_eq!(http.get(&format!("/users?id={id}")).reply()["errorcode"], 404);

        // A reply in pieces would kill it. Until users knows the gate, users would send one.
        eventually("users knows this course gate", || (count_lists() > before).then_some(()));
        let refused = http.get("/users?limit=500").reply();
        assert!(refused["errormessage"].as_str().unwrap().contains("ask for less"), "{refused}");
        assert_eq!(http.get("/users?limit=100").results().as_array().unwrap().len(), 100);
        assert_eq!(system.http().get("/users?limit=500").results().as_array().unwrap().len(), 500);
        let mut clients: Vec<_> = (0..50).map(|_| http.connect()).collect();
        for client in &mut clients {
            client.send_request("GET", "/users?id=1", &[], b"");
        }
        for client in &mut clients {
            assert_eq!(client.receive().unwrap().results(), first);
        }
        assert_alive(&mut gate);
    }
}

#[test]
fn our_gateway_and_users_work_with_a_course_distributor() {
    for flags in [["distributor"].as_slice(), &["distributor", "--fragile"]] {
        let Some(distributor) = course_js(flags) else { return };
        let mut system =
            System::builder().scratch(Scratch::in_memory()).distributor(distributor).users(2).start();
        let user = system.create_user("kim@example.com", "Kim ¶");
        let http = system.http();
        assert_eq!(http.get("/users/1").results(), user);
        assert_eq!(http.patch("/users/1", &json!({ "name": "Lee", "password": "hunter22" })).status, 200);
        assert_eq!(http.get("/users?email=kim@example.com").results()[0]["name"], "Lee");
        let login = http.post("/users/login", &json!({ "email": "kim@example.com", "password": "hunter22" }));
        assert_eq!(login.status, 200, "{}", login.text());
        assert_eq!(http.post("/users", &json!({ "email": "x" })).status, 400);
        assert_eq!(http.get("/users/99").status, 404);

        let _late = Echo::course(&system.distributor, "late", &["GET/late"], ReceivedRequest::echo);
        await_instances(&system.gateway, "GET", "/late", 1);
        assert!(system.users.remove(0).stop().success());
        system.await_instances("GET", "/users", 1);
        assert_eq!(system.http().delete("/users/1").status, 200);
        assert_alive(&mut system.distributor);
        // All other services continue without it.
        let System { gateway, users: _users, distributor, scratch: _scratch } = system;
        distributor.kill();
        gateway.await_log(&["distributor", "trying again"]);
        assert_eq!(gateway.http().get("/users").status, 200);
    }
}
