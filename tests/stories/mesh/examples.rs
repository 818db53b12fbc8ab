//! The programs in `examples/` do what their documentation says.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Output, Packets, Process, Program, Response, System, Watched, eventually};

/// The program of an example, which joins this distributor. Cargo builds it together with the tests.
fn example(name: &str, distributor: &Process) -> Program {
    let tests = std::env::current_exe().unwrap();
    let built: PathBuf = tests.ancestors().nth(2).unwrap().join("examples");
    let program = built.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(program.exists(), "{} is not built; cargo build --examples does it", program.display());
    Program::at(program.to_str().unwrap()).flags(["--distributor", &distributor.address().to_string()])
}

/// Starts an example that is a service, and waits until the gateway knows it.
fn start(system: &System, name: &str) -> Process {
    let process = example(name, &system.distributor).flags(["--listen", "127.0.0.1:0"]).start();
    system.await_instances("GET", &format!("/{name}"), 1);
    process
}

#[test]
fn the_greetings_example_greets() {
    let system = System::start();
    let _greetings = start(&system, "greetings");
    let http = system.http();
    assert_eq!(http.get("/greetings?name=Kim").results(), "Hello, Kim!");
    for path in ["/greetings", "/greetings?name=%20"] {
        let refused = http.get(path);
        assert_eq!(refused.status, 400, "{path}");
        assert!(refused.message().contains("name"), "{}", refused.message());
    }
}

/// Orders an item, as soon as the service can reach `users`.
fn order(system: &System, user_id: u64, item: &str) -> Response {
    let order = json!({ "user_id": user_id, "item": item });
    eventually("orders reaches users", || {
        Some(system.http().post("/orders", &order)).filter(|answer| answer.status != 503)
    })
}

/// The names in the list of orders.
fn names(system: &System) -> Vec<Value> {
    let answer = system.http().get("/orders");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.results().as_array().unwrap().iter().map(|order| order["user"].clone()).collect()
}

fn await_names(system: &System, expected: &[Value]) {
    eventually(&format!("the names in the orders are {expected:?}"), || {
        (names(system) == expected).then_some(())
    });
}

/// A system in which Kim and Lee have orders, and Max has none.
fn shop() -> (System, Process) {
    let system = System::start();
    for name in ["Kim", "Lee", "Max"] {
        system.create_user(&format!("{name}@example.com"), name);
    }
    let orders = start(&system, "orders");
    // The program knows no other service until it has the list.
    eventually("Kim's order is accepted", || (order(&system, 1, "tea").status == 201).then_some(()));
    assert_eq!(order(&system, 2, "milk").status, 201);
    await_names(&system, &[json!("Kim"), json!("Lee")]);
    (system, orders)
}

#[test]
fn orders_accepts_orders_of_existing_users_and_lists_them_with_their_names() {
    let (system, _orders) = shop();
    let taken = order(&system, 1, "bread");
    assert_eq!((taken.status, taken.results()), (201, json!({ "id": 3, "user": "Kim", "item": "bread" })));
    // A form can send only text.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let taken = system.http().request("POST", "/orders", &form, b"user_id=2&item=salt");
    assert_eq!((taken.status, taken.results()), (201, json!({ "id": 4, "user": "Lee", "item": "salt" })));
    let refused = order(&system, 99, "bread");
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.message().contains("99"), "{}", refused.message());
    for wrong in [json!({ "user_id": 1 }), json!({ "item": "tea" }), json!({ "user_id": "x", "item": "tea" })]
    {
        assert_eq!(system.http().post("/orders", &wrong).status, 400, "{wrong}");
    }
    let all = system.http().get("/orders").results();
    assert_eq!(all[2], json!({ "id": 3, "user_id": 1, "user": "Kim", "item": "bread" }));
    assert_eq!(all.as_array().unwrap().len(), 4);
}

#[test]
fn the_list_of_orders_shows_a_new_name_without_a_call_to_users() {
    let (system, _orders) = shop();
    let count_reads =
        |users: &Process| users.log().iter().filter(|line| line.contains("request GET /users,")).count();
    let before = count_reads(&system.users[0]);
    let mut times = Vec::new();
    for round in 0..20 {
        let name = json!(format!("Kim {round}"));
        let began = Instant::now();
        assert_eq!(system.http().patch("/users/1", &json!({ "name": name })).status, 200);
        await_names(&system, &[name, json!("Lee")]);
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "from PATCH to GET /orders: median {:?}, longest {:?} (polled every 5 ms)",
        times[10], times[19]
    );
    assert_eq!(system.http().delete("/users/2").status, 200);
    await_names(&system, &[json!("Kim 19"), Value::Null]);
    assert_eq!(count_reads(&system.users[0]), before);
}

#[test]
fn orders_learns_every_change_that_it_missed_while_users_was_out_of_reach() {
    let (mut system, _orders) = shop();
    let log = system.users.remove(0);
    log.kill();
    // A users process in another cluster, on the same database. The orders service cannot see it.
    let elsewhere = Process::distributor(&[]);
    let hidden = Process::users(&elsewhere, &system.scratch, &[]);
    let mut packets: Packets = hidden.packets();
    for (id, name) in [(1, "Bob"), (2, "Ada"), (1, "Ida")] {
        let reply = packets.call("PATCH", "/users", &json!({ "id": id, "name": name }), 1);
        assert_eq!(reply["errorcode"], 0, "{reply}");
    }
    assert!(hidden.stop().success());
    assert_eq!(names(&system), ["Kim", "Lee"], "the last known names");
    system.users.push(Process::users(&system.distributor, &system.scratch, &[]));
    await_names(&system, &[json!("Ida"), json!("Ada")]);
    // It continues with the new process.
    assert_eq!(order(&system, 3, "salt").status, 201);
    assert_eq!(system.users[0].packets().call("DELETE", "/users", &json!({ "id": 3 }), 1)["errorcode"], 0);
    await_names(&system, &[json!("Ida"), json!("Ada"), Value::Null]);
}

#[test]
fn orders_lists_the_last_known_names_after_users_has_stopped() {
    let (mut system, _orders) = shop();
    assert!(system.users.remove(0).stop().success());
    for _ in 0..5 {
        assert_eq!(names(&system), ["Kim", "Lee"]);
    }
    let refused = system.http().post("/orders", &json!({ "user_id": 1, "item": "tea" }));
    assert_eq!(refused.status, 503, "{}", refused.text());
}

/// The numbers in this many lines of `watch`.
fn numbers(watch: &mut Watched, count: usize) -> Vec<u64> {
    let number = |line: String| {
        let (_, rest) = line.split_once('#').unwrap_or_else(|| panic!("no number: {line}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    (0..count).map(|_| number(watch.line().expect("a further line"))).collect()
}

#[test]
fn watch_prints_each_change_once_although_users_is_killed_again_and_again() {
    let mut system = System::start();
    system.create_user("kim@example.com", "Kim");
    let mut watch = example("watch", &system.distributor).flags(["--after", "0"]).watch();
    let line = watch.line().unwrap();
    assert!(["#1 ", "created", "user 1", "\"Kim\""].iter().all(|word| line.contains(word)), "{line}");
    let mut expected = 2;
    for round in 0..3 {
        for _ in 0..5 {
            assert_eq!(
                system.users[0].packets().call("PATCH", "/users", &json!({ "id": 1, "name": "Lee" }), 1)["seq"],
                expected
            );
            expected += 1;
        }
        assert_eq!(numbers(&mut watch, 4), (expected - 5..expected - 1).collect::<Vec<_>>(), "round {round}");
        system.users.remove(0).kill();
        system.users.push(Process::users(&system.distributor, &system.scratch, &[]));
        assert_eq!(numbers(&mut watch, 1), [expected - 1], "round {round}");
    }
    system.users[0].packets().call("DELETE", "/users", &json!({ "id": 1 }), 1);
    let line = watch.line().unwrap();
    assert!(line.contains(&format!("#{expected} ")) && line.contains("deleted"), "{line}");
}

#[test]
fn watch_without_a_start_prints_only_new_changes() {
    let system = System::start();
    let mut watch = example("watch", &system.distributor).watch();
    system.users[0].await_log(&["request GET /users/changes"]);
    // The stream starts shortly after the request.
    let mut first = 0;
    eventually("a change is printed", || {
        first += 1;
        system.create_user(&format!("{first}@example.com"), "Kim");
        watch.try_line()
    });
}

#[test]
fn watch_ends_with_a_reason_when_the_requested_changes_are_gone() {
    let system = System::builder().users_flags(&["--keep-changes", "2"]).start();
    (0..5).for_each(|number| drop(system.create_user(&format!("{number}@example.com"), "Kim")));
    let Output { status, stdout, stderr } =
        example("watch", &system.distributor).flags(["--after", "1"]).run();
    assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("watch: changes up to 3 have expired"), "{stderr}");
}

// ---- services in other languages

/// A service in another language: its program, its file, and its route.
struct Foreign {
    interpreter: &'static str,
    script: &'static str,
    path: &'static str,
}

const NODE: Foreign = Foreign {
    interpreter: "node",
    script: concat!(env!("CARGO_MANIFEST_DIR"), "/examples/node/greetings.js"),
    path: "/hello",
};

const PYTHON: Foreign = Foreign {
    interpreter: "python3",
    script: concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/greetings.py"),
    path: "/hi",
};

impl Foreign {
    /// Starts it on a free port. If its interpreter is missing, prints the reason and returns `None`.
    fn start(&self, distributor: &Process) -> Option<Process> {
        let mut version = Command::new(self.interpreter);
        let version = version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        if !version.status().is_ok_and(|status| status.success()) {
            crate::harness::skip(self.interpreter, "not found on the PATH");
            return None;
        }
        let program = Program::at(self.interpreter).flags([self.script, "0"]);
        Some(program.variables(&[("DIS_PORT", &distributor.port().to_string())]).start())
    }

    /// A request for its greeting, with this key.
    fn request(&self, key: &Value, name: &str) -> Value {
        json!({ "uri": self.path, "method": "GET", "key": key, "params": { "name": name } })
    }
}

fn assert_greets_through_the_gateway(foreign: &Foreign) {
    let system = System::start();
    let Some(mut service) = foreign.start(&system.distributor) else { return };
    system.await_instances("GET", foreign.path, 1);
    let http = system.http();
    for (query, name) in [("Kim", "Kim"), ("%EA%B9%80", "김"), ("a%C2%B6b", "a¶b"), ("%F0%9F%A6%80", "🦀")]
    {
        let answer = http.get(&format!("{}?name={query}", foreign.path));
        assert_eq!((answer.status, answer.results()), (200, json!(format!("Hello, {name}!"))));
    }
    let refused = http.get(foreign.path);
    assert_eq!(refused.status, 400);
    assert!(refused.message().contains("name=Kim"), "{}", refused.message());
    // Its log shows one connection to the gateway that was never closed.
    assert!(!service.log().iter().any(|line| line.contains("closed")), "{:?}", service.log());
    assert!(service.is_alive());
}

fn assert_keeps_the_rules_of_the_wire(foreign: &Foreign) {
    let distributor = Process::distributor(&[]);
    let Some(mut service) = foreign.start(&distributor) else { return };
    let mut packets = service.packets();
    // It echoes any key unchanged, also key 0.
    for key in [json!(1), json!(0), json!("seven ¶"), json!([1.5, { "a": null }]), Value::Null] {
        packets.send(&foreign.request(&key, "a¶b"));
        let text = packets.receive_text().unwrap();
        let reply: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&reply["key"], &reply["results"]), (&key, &json!("Hello, a¶b!")));
    }
    packets.send(&json!({ "uri": foreign.path, "method": "GET", "params": { "name": "Kim", "key": 0 } }));
    assert_eq!(packets.receive().unwrap()["key"], 0);
    packets.send(&json!({ "uri": foreign.path, "method": "GET", "params": { "name": "Kim" } }));
    assert_eq!(packets.receive().unwrap().get("key"), None);
    // A notice gets no reply; an unknown route gets a failure.
    packets.send(&json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": {} }));
    packets.send(&json!({ "uri": foreign.path, "method": "CANCEL", "key": 1 }));
    packets.send(&json!({ "uri": "/none", "method": "GET", "key": 9 }));
    let failure = packets.receive().unwrap();
    assert_eq!((&failure["key"], &failure["errorcode"]), (&json!(9), &json!(404)));
    // A frame arrives byte by byte, then many frames arrive at once, with white space and empty frames between.
    let frame = format!("{}¶", foreign.request(&json!(10), "ö한"));
    for byte in frame.bytes() {
        packets.send_raw(&[byte]);
    }
    assert_eq!(packets.receive().unwrap()["results"], "Hello, ö한!");
    packets.send_raw(format!("\r\n¶ {}\n", frame.repeat(100)).as_bytes());
    for _ in 0..100 {
        assert_eq!(packets.receive().unwrap()["results"], "Hello, ö한!");
    }
    // An invalid packet closes its connection and no other.
    let long = vec![b'x'; 1_100_000];
    for bad in [b"hello\xc2\xb6".as_slice(), b"[1]\xc2\xb6", b"{\"a\":\"\xff\"}\xc2\xb6", &long] {
        let mut other = service.packets();
        other.send_raw(bad);
        assert_eq!(other.receive_text(), None, "{:?}", &bad[..5]);
    }
    packets.send_raw(frame.as_bytes());
    assert_eq!(packets.receive().unwrap()["key"], 10);
    assert!(service.is_alive());
}

fn assert_registers_again_with_a_new_distributor(foreign: &Foreign) {
    let distributor = Process::distributor(&[]);
    let Some(_service) = foreign.start(&distributor) else { return };
    let entries = |list: &[Value]| {
        list.iter().filter(|entry| entry["urls"][0] == format!("GET{}", foreign.path)).count()
    };
    let address = distributor.address().to_string();
    eventually("it is registered", || {
        let list = distributor.packets().receive()?["params"].as_array()?.clone();
        (entries(&list) == 1).then_some(())
    });
    distributor.kill();
    let distributor = Process::distributor(&["--listen", &address]);
    eventually("it has registered again", || {
        let list = distributor.packets().receive()?["params"].as_array()?.clone();
        (entries(&list) == 1).then_some(())
    });
}

#[test]
fn the_javascript_service_greets_keeps_the_rules_and_registers_again() {
    assert_greets_through_the_gateway(&NODE);
    assert_keeps_the_rules_of_the_wire(&NODE);
    assert_registers_again_with_a_new_distributor(&NODE);
}

#[test]
fn the_python_service_greets_keeps_the_rules_and_registers_again() {
    assert_greets_through_the_gateway(&PYTHON);
    assert_keeps_the_rules_of_the_wire(&PYTHON);
    assert_registers_again_with_a_new_distributor(&PYTHON);
}
