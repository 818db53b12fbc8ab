//! Registrations that ask for routes and addresses of other services.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::harness::{Echo, Packets, Process, Program, Scratch, System, await_instances, eventually};

/// Registers with a key, so that there is a reply. Returns its code and its message.
fn claim(packets: &mut Packets, name: &str, port: u16, urls: &Value, key: u64) -> (u64, String) {
    let params = json!({ "port": port, "name": name, "urls": urls, "proto": "pilcrow/1" });
    let reply = packets.call("POST", "/distributes", &params, key);
    let words = reply["errormessage"].as_str().unwrap_or_default().to_owned();
    (reply["errorcode"].as_u64().unwrap(), words)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().filter_map(|entry| entry["name"].as_str()).collect()
}

/// The names in the list.
fn listed(distributor: &Process) -> Vec<String> {
    let reply = distributor.packets().call("GET", "/distributes", &json!({}), 1);
    names(&reply["results"]).into_iter().map(str::to_owned).collect()
}

#[test]
fn a_route_of_another_service_is_rejected_while_its_owner_lives_and_accepted_afterwards() {
    let mut system = System::builder().users(2).start();
    let user = system.create_user("kim@example.com", "Kim");
    let ports = [system.users[0].port(), system.users[1].port()];
    let urls = ["GET/thief", "GET/users"];
    let thief = Echo::start(&system.distributor, "thief", &urls);
    let line = system.distributor.await_log(&["WARN", "registration rejected", "thief", "GET/users"]);
    let me = thief.membership.stream().local_addr().unwrap().to_string();
    let owner = ports.iter().any(|port| line.contains(&format!("belongs to users at 127.0.0.1:{port}")));
    assert!(owner && line.contains(&me), "{line}");
    // A request with a key gets the reason. Then the connection is closed.
    let mut asking = system.distributor.packets();
    let (code, words) = claim(&mut asking, "second thief", 9, &json!(["DELETE/users"]), 1);
    assert_eq!(code, 409, "{words}");
    assert!(words.contains("the route DELETE/users belongs to users at 127.0.0.1:"), "{words}");
    assert_eq!(asking.receive_text(), None);

    system.users.remove(0).kill();
    system.await_instances("GET", "/users", 1);
    let again = Echo::start(&system.distributor, "thief", &urls);
    let me = again.membership.stream().local_addr().unwrap().to_string();
    system.distributor.await_log(&["registration rejected", &me]);
    assert!((0..20).all(|_| system.http().get("/users/1").results() == user), "one instance owns the route");
    assert_eq!(system.http().get("/thief").status, 404);
    assert!(thief.requests().is_empty() && again.requests().is_empty());

    let last = system.users.remove(0);
    let last_address = last.address().to_string();
    last.kill();
    system.distributor.await_log(&["gone: users at", &last_address]);
    let accepted = Echo::start(&system.distributor, "thief", &urls);
    await_instances(&system.gateway, "GET", "/thief", 1);
    eventually("it owns the routes", || (system.http().get("/users").status == 200).then_some(()));
    assert_eq!(accepted.requests()[0].packet["uri"], "/users");
}

#[test]
fn our_own_service_retries_a_rejected_registration_and_logs_the_reason_once() {
    let (distributor, scratch) = (Process::distributor(&[]), Scratch::new());
    let owner = Echo::start(&distributor, "people", &["GET/users"]);
    distributor.await_log(&["registered: people"]);
    let users = Process::users(&distributor, &scratch, &[]);
    let reason = ["WARN", "409", "the route GET/users belongs to people", "trying again every 3 s"];
    users.await_log(&reason);
    let rejections =
        || distributor.log().iter().filter(|line| line.contains("registration rejected")).count();
    eventually("it retries", || (rejections() >= 2).then_some(()));
    assert!(!users.log().iter().any(|line| line.contains("registered as")), "{:#?}", users.log());
    drop(owner);
    users.await_log(&["INFO", "registered as users with distributor"]);
    let warnings = users.log().iter().filter(|line| reason.iter().all(|word| line.contains(word))).count();
    assert_eq!(warnings, 1, "{:#?}", users.log());
    assert_eq!(listed(&distributor), ["users"]);
    // The reason comes before the end of the connection.
    let log = distributor.log();
    let first = |words: &str| log.iter().position(|line| line.contains(words));
    assert!(first("registration rejected") < first("gone; it was not registered"), "{log:#?}");
}

#[test]
fn a_course_node_whose_registration_is_rejected_gets_no_packet_and_its_connection_ends() {
    let distributor = Process::distributor(&[]);
    let _owner = Echo::start(&distributor, "goods", &["GET/goods"]);
    distributor.await_log(&["registered: goods"]);
    let mut course_node = distributor.packets();
    course_node.register("wares", 9001, &["GET/goods"], &json!({}));
    let first = course_node.receive().expect("the list, which every peer gets");
    assert_eq!((&first["uri"], names(&first["params"])), (&json!("/distributes"), vec!["goods"]));
    assert_eq!(course_node.receive_text(), None);
    // A node of ours gets the reason with key 0.
    let mut ours = distributor.packets();
    ours.register("wares", 9001, &["GET/goods"], &json!({ "proto": "pilcrow/1" }));
    assert!(ours.receive().is_some_and(|list| list["params"].is_array()));
    let reply = ours.receive().expect("the reason");
    assert_eq!((&reply["key"], &reply["errorcode"]), (&json!(0), &json!(409)), "{reply}");
    assert_eq!(ours.receive_text(), None);
    assert_eq!(listed(&distributor), ["goods"]);
}

#[test]
fn an_address_is_not_listed_under_a_name_other_than_its_owners() {
    let system = System::start();
    let port = system.users[0].port();
    for urls in [json!(["GET/evil"]), json!([])] {
        let (code, words) = claim(&mut system.distributor.packets(), "evil", port, &urls, 1);
        assert_eq!(code, 409, "{words}");
        assert!(words.contains(&format!("the address 127.0.0.1:{port} belongs to users")), "{words}");
    }
    let params = json!({ "port": port, "name": "evil", "urls": [], "advertise": "127.0.0.1" });
    let reply = system.distributor.packets().call("POST", "/distributes", &params, 1);
    assert_eq!(reply["errorcode"], 409, "{reply}");
    assert_eq!(system.http().get("/users").status, 200);
    assert_eq!(listed(&system.distributor).iter().filter(|name| *name == "evil").count(), 0);
}

#[test]
fn a_rejected_registration_leaves_the_one_before_it_as_it_was() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let _goods = Echo::start(&distributor, "goods", &["GET/goods"]);
    let mut echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/goods", 1);
    await_instances(&gateway, "GET", "/echo", 1);
    let port = echo.port();
    let attempts = [
        (json!(["GET/goods"]), 409),
        (json!(["GET/healthz"]), 403),
        (json!((0..10_000).map(|number| format!("GET/{number}")).collect::<Vec<_>>()), 400),
    ];
    for (key, (urls, code)) in (1..).zip(attempts) {
        assert_eq!(claim(&mut echo.membership, "echo", port, &urls, key).0, code);
        assert_eq!(gateway.http().get("/echo/1").results()["params"]["params"], "1");
    }
    let mut names = listed(&distributor);
    names.sort_unstable();
    assert_eq!(names, ["echo", "gate", "goods"]);
}

#[test]
fn no_node_can_take_the_gateways_paths_or_name() {
    let distributor = Process::distributor(&[]);
    let paths = ["/healthz", "/readyz", "/routes", "/metrics", "/journeys"];
    let methods = ["GET", "HEAD", "POST", "DELETE", "X-ANY"];
    let stolen = paths.iter().flat_map(|path| methods.map(|method| format!("{method}{path}")));
    for url in stolen {
        let (code, words) = claim(&mut distributor.packets(), "thief", 9001, &json!(["GET/own", url]), 1);
        assert_eq!(code, 403, "{url}: {words}");
        assert!(words.contains(&format!("{url} is the gateway's own")), "{words}");
    }
    let (code, words) = claim(&mut distributor.packets(), "gate", 9001, &json!(["GET/own"]), 1);
    assert!(code == 403 && words.contains("nothing called gate may register GET/own"), "{code}: {words}");
    distributor.await_log(&["WARN", "thief: GET/healthz is the gateway's own"]);
    assert_eq!(listed(&distributor), [""; 0]);
}

#[test]
fn a_gateway_ignores_its_own_paths_in_the_list_of_a_distributor_that_permits_them() {
    let ours = Process::distributor(&[]);
    let thief = Echo::start(&ours, "thief", &["GET/thief"]);
    let played = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = Program::gateway(played.local_addr().unwrap()).start();
    let mut joined = Packets::on(played.accept().unwrap().0);
    let urls = ["GET/healthz", "POST/healthz", "GET/readyz", "GET/routes", "GET/thief"];
    let entry = json!({ "port": thief.port(), "host": "127.0.0.1", "name": "thief", "urls": urls });
    joined.send(&json!({ "uri": "/distributes", "method": "GET", "key": 0, "params": [entry] }));
    await_instances(&gateway, "GET", "/thief", 1);
    assert_eq!(gateway.http().get("/healthz").results(), "serving");
    assert_eq!(gateway.http().get("/readyz").results(), "ready");
    assert!(gateway.http().get("/routes").results().is_array());
    assert_eq!(gateway.http().request("POST", "/healthz", &[], b"").status, 405);
    assert!(thief.requests().is_empty());
}

#[test]
fn ten_thousand_routes_of_one_node_are_rejected_and_a_thousand_are_accepted() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let routes = |count: usize| json!((0..count).map(|number| format!("GET/r{number}")).collect::<Vec<_>>());
    for count in [10_000, 1001] {
        let (code, words) = claim(&mut distributor.packets(), "greedy", 9001, &routes(count), 1);
        assert_eq!(code, 400);
        assert!(words.contains(&format!("urls must have at most 1000 entries, not {count}")), "{words}");
    }
    distributor.await_log(&["WARN", "at most 1000 entries, not 10000"]);
    let mut greedy = distributor.packets();
    assert_eq!(claim(&mut greedy, "greedy", 9001, &routes(1000), 1).0, 0);
    eventually("the gateway knows all of them", || {
        (gateway.http().get("/routes").results().as_array().unwrap().len() == 1000).then_some(())
    });
}

#[test]
fn no_registration_makes_the_list_longer_than_its_readers_can_take() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let mut hoarders: Vec<Packets> = (0..4).map(|_| distributor.packets()).collect();
    let mut refused = 0;
    for (hoarder, port) in hoarders.iter_mut().zip(9001..) {
        let ballast = "x".repeat(400_000);
        let params =
            json!({ "port": port, "name": "hoarder", "urls": [], "ballast": ballast, "proto": "pilcrow/1" });
        let reply = hoarder.call("POST", "/distributes", &params, 1);
        refused += usize::from(reply["errorcode"] == 413);
    }
    assert_eq!(refused, 2);
    distributor.await_log(&["WARN", "hoarder: with it the list could have"]);
    // The gateway still follows the list.
    let _late = Echo::start(&distributor, "late", &["GET/late"]);
    await_instances(&gateway, "GET", "/late", 1);
    assert!(!gateway.log().iter().any(|line| line.contains("too long")), "{:#?}", gateway.log());
}

#[test]
fn the_text_of_names_and_routes_forges_no_log_line_and_no_header() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let _owner = Echo::start(&distributor, "own\r\n2026 WARN er", &["GET/echo", "GET/nul"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let mut forger = distributor.packets();
    let name = "f\r\n2026-11-22 WARN forged\u{1b}[2J\0\u{85}";
    let urls =
        json!(["GET/echo", "G\r\nX: y/echo", "GET/a\r\nb", "GET/nul\0", "\u{1b}/esc", "G,T/echo", "", "/"]);
    let (code, words) = claim(&mut forger, name, 9001, &urls, 1);
    assert!(code == 409 && words.contains("GET/echo belongs to own\r\n2026"), "{words}");
    let mut forger = distributor.packets();
    let free: Vec<&Value> = urls.as_array().unwrap().iter().skip(1).collect();
    assert_eq!(claim(&mut forger, name, 9001, &json!(free), 2).0, 0);
    // No request can reach any of these routes. The gateway has read the list once it dials the node.
    gateway.await_log(&["127.0.0.1:9001"]);
    let answer = gateway.http().request("POST", "/echo", &[], b"");
    assert_eq!((answer.status, answer.header("Allow"), answer.header("X")), (405, Some("GET, HEAD"), None));
    drop(forger);
    distributor.await_log(&["gone", "forged"]);
    for process in [&distributor, &gateway] {
        for line in process.log() {
            assert!(
                !line.contains(char::is_control) && !line.starts_with("2026-11-22 WARN forged"),
                "{line:?}"
            );
        }
    }
}
