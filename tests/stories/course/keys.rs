//! Keys as course nodes use them: from 0, as text, and among the arguments of a client.

use serde_json::json;

use super::{DIALECTS, assert_alive, await_success, course_js, port_of};
use crate::harness::{Process, System, await_instances, eventually};

#[test]
fn the_first_request_of_a_course_gate_is_answered() {
    for (dialect, ..) in DIALECTS {
        let system = System::start();
        let Some(mut gate) = course_js(&["gate", &port_of(&system.distributor), "--dialect", dialect]) else {
            return;
        };
        let kim = json!({ "email": "kim@example.com", "name": "김 ¶ 철수" });
        // Without a route it answers 404, and assigns no key.
        let created = eventually("the course gate knows users", || {
            Some(gate.http().post("/users", &kim)).filter(|answer| answer.status == 200)
        });
        let reply = created.reply();
        assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(0)), "{reply}");
        assert_eq!(reply["results"]["name"], "김 ¶ 철수");
        let again = gate.http().post("/users", &kim).reply();
        assert_eq!((&again["key"], &again["errorcode"]), (&json!(1), &json!(409)), "{again}");
        assert_alive(&mut gate);
    }
}

#[test]
fn a_course_service_that_calls_ours_with_key_0_is_answered() {
    let system = System::start();
    system.create_user("kim@example.com", "김 ¶ 철수");
    system.create_user("lee@example.com", "이영희");
    let port = port_of(&system.distributor);
    for (dialect, payload, _) in DIALECTS {
        let urls = format!("GET/{dialect}");
        let flags = ["--dialect", dialect, "--name", dialect, "--urls", &urls, "--calls", "/users"];
        let Some(mut service) = course_js(&[&["service", &port], &flags[..]].concat()) else { return };
        let mut gate = course_js(&["gate", &port, "--dialect", dialect]).unwrap();
        // The service forwards the name with a raw ¶, which would kill the course gate.
        for (gateway, id, name) in [(&system.gateway, 1, "김 ¶ 철수"), (&gate, 2, "이영희")] {
            let path = format!("/{dialect}?id={id}");
            // The service makes no calls until it knows users.
            let called = eventually("the course service has called users", || {
                let answer = gateway.http().get(&path);
                if answer.status != 200 {
                    return None;
                }
                Some(answer.reply()[payload].clone()).filter(|called| !called.is_null())
            });
            assert_eq!((&called["key"], &called["errorcode"]), (&json!(0), &json!(0)), "{called}");
            assert_eq!(called["results"]["name"], name);
        }
        // A failed call also has key 0.
        let failed = system.http().get(&format!("/{dialect}?id=99")).reply()[payload].clone();
        assert_eq!((&failed["key"], &failed["errorcode"]), (&json!(0), &json!(404)), "{failed}");
        assert_alive(&mut service);
        assert_alive(&mut gate);
    }
    let counted = |errorcode: &str| {
        let labels = [("method", "GET"), ("route", "/users"), ("errorcode", errorcode)];
        system.users[0].metrics().find("pilcrow_service_requests_total", &labels)
    };
    eventually("each call is counted", || (counted("0")? >= 4.0 && counted("404")? >= 2.0).then_some(()));
}

#[test]
fn a_clients_own_key_reaches_a_template_service_once_the_dialect_is_known() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let http = gateway.http();
    for (dialect, payload, _) in DIALECTS {
        let urls = format!("GET/{dialect},POST/{dialect}");
        let flags = ["--dialect", dialect, "--name", dialect, "--urls", &urls];
        let Some(mut service) = course_js(&[&["service", &port_of(&distributor)], &flags[..]].concat())
        else {
            return;
        };
        let path = format!("/{dialect}");
        await_instances(&gateway, "GET", &path, 1);
        assert_eq!(await_success(&gateway, &path).reply()[payload]["dialect"], dialect);
        for own in ["5", "mine", "0"] {
            let echo = http.get(&format!("{path}/7?key={own}&name=Kim")).reply()[payload].clone();
            assert_eq!((&echo["params"]["params"], &echo["params"]["name"]), (&json!("7"), &json!("Kim")));
            let posted = http.post(&path, &json!({ "key": own, "name": "Kim" })).reply()[payload].clone();
            assert_eq!(posted["params"]["name"], "Kim", "{posted}");
            // A service of the book has its only key among the params.
            if dialect == "template" {
                assert_eq!((&echo["params"]["key"], &posted["params"]["key"]), (&json!(own), &json!(own)));
            }
        }
        // It gets no field that the client did not send.
        let echo = http.get(&path).reply()[payload].clone();
        if dialect == "template" {
            assert_eq!(echo["params"], json!({}));
        }
        assert_alive(&mut service);
    }
}

#[test]
fn a_key_that_comes_back_as_text_belongs_to_its_request() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    for (dialect, payload, _) in DIALECTS {
        let urls = format!("GET/{dialect}");
        let flags = ["--dialect", dialect, "--name", dialect, "--urls", &urls];
        let Some(mut service) = course_js(&[&["service", &port_of(&distributor)], &flags[..]].concat())
        else {
            return;
        };
        await_instances(&gateway, "GET", &format!("/{dialect}"), 1);
        // Many requests at once. With several pending, no reply can be matched to the only one.
        let mut clients: Vec<_> = (0..20).map(|_| gateway.http().connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_request("GET", &format!("/{dialect}/{number}?textkey=1"), &[], b"");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.receive().unwrap();
            let reply = answer.reply();
            assert_eq!(reply[payload]["params"]["params"], number.to_string(), "{}", answer.text());
            assert!(reply["key"].is_string(), "{reply}");
        }
        assert_alive(&mut service);
    }
}
