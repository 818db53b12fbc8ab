//! All nodes of the course beside all of ours, for a minute, while instances are killed and restarted.
//!
//! There are two parts, each with the same nodes: one around our distributor, one around a distributor of the course.
//! Clients send requests to our gateways and those of the course. They count answers, not successes. A course gateway
//! drops a URL when one of its instances dies. It then answers 404 until the next list arrives, as it always did.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{DIALECTS, assert_alive, await_success, course_js, port_of};
use crate::harness::{Connection, Http, Process, Random, Response, Scratch, await_instances, free_port};

const CLIENTS: usize = 64;

/// The time limit for every answer of our gateways: 5 s, plus some for a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// A client of a course gateway gives up after this time.
const GATE_LIMIT: Duration = Duration::from_secs(5);

/// The services that are killed and restarted in turn. Each service has another instance that stays up.
const VICTIMS: [&str; 3] = ["users", "template", "book"];

/// One distributor, and all nodes registered there.
struct Part {
    distributor: Process,
    scratch: Scratch,
    gateway: Process,
    /// A course gateway of each dialect.
    gates: Vec<Process>,
    /// Processes that are never killed.
    services: Vec<Process>,
    /// In the order of [`VICTIMS`].
    victims: Vec<Process>,
    kills: Arc<Kills>,
}

/// The service that lost an instance, and the time.
#[derive(Default)]
struct Kills(Mutex<Vec<(&'static str, Instant)>>);

impl Part {
    fn start(distributor: Process) -> Self {
        let scratch = Scratch::in_memory();
        let joined = port_of(&distributor);
        let gateway = Process::gateway(&distributor, &[]);
        let gate = |dialect: &str| course_js(&["gate", &joined, "--dialect", dialect]).unwrap();
        let gates = DIALECTS.map(|(dialect, ..)| gate(dialect)).into();
        let mut part = Self {
            distributor,
            scratch,
            gateway,
            gates,
            services: Vec::new(),
            victims: Vec::new(),
            kills: Arc::default(),
        };
        part.services = VICTIMS.map(|name| part.start_service(name, 0)).into();
        let more = [
            ["--name", "goods", "--urls", "GET/goods,POST/goods", "--store"].as_slice(),
            &["--name", "friends", "--urls", "GET/friends", "--calls", "/users"],
        ];
        part.services.extend(more.map(|flags| course_js(&[&["service", &joined], flags].concat()).unwrap()));
        part.victims = VICTIMS.map(|name| part.start_service(name, free_port())).into();
        for (name, count) in VICTIMS.map(|name| (name, 2)).into_iter().chain([("goods", 1), ("friends", 1)]) {
            await_instances(&part.gateway, "GET", &format!("/{name}"), count);
        }
        part.create_friends();
        part
    }

    /// Two users that friends requests. The name of the second has no `¶`, since friends does not escape it.
    fn create_friends(&self) {
        for (email, name) in [("kim@example.com", "김 ¶ 철수"), ("lee@example.com", "이영희")] {
            let answer = self.gateway.http().post("/users", &json!({ "email": email, "name": name }));
            assert_eq!(answer.status, 201, "{}", answer.text());
        }
    }

    fn start_service(&self, name: &str, port: u16) -> Process {
        if name == "users" {
            let listen = format!("127.0.0.1:{port}");
            return Process::users(&self.distributor, &self.scratch, &["--listen", &listen]);
        }
        let urls = format!("GET/{name},POST/{name}");
        let distributor = port_of(&self.distributor);
        let flags = ["--dialect", name, "--name", name, "--urls", &urls, "--port", &port.to_string()]
            .map(str::to_owned);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        course_js(&[&["service", &distributor], &flags[..]].concat()).unwrap()
    }

    /// Kills an instance and restarts it at the same address.
    fn replace(&mut self, number: usize, pause: Duration) {
        let name = VICTIMS[number];
        let victim = self.victims.remove(number);
        let port = victim.port();
        self.kills.0.lock().unwrap().push((name, Instant::now()));
        victim.kill();
        thread::sleep(pause);
        let again = self.start_service(name, port);
        self.victims.insert(number, again);
        await_instances(&self.gateway, "GET", &format!("/{name}"), 2);
    }

    fn assert_all_alive(&mut self) {
        let ours = [&mut self.distributor, &mut self.gateway].into_iter();
        ours.chain(&mut self.gates).chain(&mut self.services).chain(&mut self.victims).for_each(assert_alive);
    }
}

impl Kills {
    /// Whether a kill may explain a missing answer of a course gateway to a request sent at this time.
    fn explain(&self, service: &str, sent: Instant) -> bool {
        // Friends calls users.
        let service = if service == "friends" { "users" } else { service };
        let (before, after) = (Duration::from_secs(1), Duration::from_secs(2));
        let kills = self.0.lock().unwrap();
        kills.iter().any(|(name, at)| *name == service && *at <= sent + after && sent <= *at + before)
    }
}

/// One request, and the expected content of an answer 200 or 201.
struct Request {
    service: &'static str,
    method: &'static str,
    path: String,
    body: Value,
    /// The value that the reply has at one of these places: the number of the request, or a name.
    expected: Value,
    /// The statuses that our gateway may answer.
    statuses: &'static [u16],
}

struct Client {
    number: usize,
    turn: usize,
    random: Random,
    http: Http,
    is_behind_course_gate: bool,
    /// The dialect of its course gateway. That gateway can ask only services of the same dialect, and ours.
    dialect: Option<&'static str>,
    connection: Option<Connection>,
    kills: Arc<Kills>,
    results: ClientResults,
}

#[derive(Debug, Default)]
struct ClientResults {
    requests: usize,
    succeeded: usize,
    unanswered: usize,
    longest: Duration,
    wrong: Vec<String>,
}

/// Reads succeed, because there is a second instance. A write in flight to the killed instance is lost.
const READ: &[u16] = &[200];
const WRITE: &[u16] = &[200, 201, 502, 503];

impl Client {
    fn next_request(&mut self) -> Request {
        self.turn += 1;
        let number = self.number * 1_000_000 + self.turn;
        let own = self.is_behind_course_gate;
        let dialect = self.dialect.unwrap_or(DIALECTS[self.random.index(2)].0);
        let request = |service, method, path: &str, body, expected, statuses| {
            let path = path.to_owned();
            Request { service, method, path, body, expected, statuses }
        };
        let get = |service, path: &str, expected| request(service, "GET", path, Value::Null, expected, READ);
        // A course node does not escape ¶, and other course nodes crash on it. Behind a course gateway only our
        // services get it.
        let name = if own { "사과와 배" } else { "사과 ¶ 배" };
        let choices = match self.dialect {
            None => 9,
            Some("template") => 6,
            // The other services belong to the template.
            Some(_) => 4,
        };
        match self.random.below(choices) {
            0 => get("users", "/users?id=1", json!("김 ¶ 철수")),
            1 => {
                let (email, name) = (format!("u{number}@example.com"), format!("박 ¶ {number}"));
                let body = json!({ "email": email, "name": name });
                request("users", "POST", "/users", body, json!(name), WRITE)
            }
            2 => {
                get(dialect, &format!("/{dialect}?name=%ED%95%9C&number={number}"), json!(number.to_string()))
            }
            3 => {
                let text = "한".repeat(self.random.index(if own { 50 } else { 2700 }));
                let body = json!({ "text": text, "number": number });
                request(dialect, "POST", &format!("/{dialect}"), body, json!(number), WRITE)
            }
            4 => request("goods", "POST", "/goods", json!({ "name": name }), Value::Null, READ),
            // A user whose name has no ¶, for the same reason.
            5 if own => get("friends", "/friends?id=2", json!("이영희")),
            5 => {
                let path = "/friends?id=1";
                // The call from friends may be lost with the killed instance of users, and has no timeout.
                request("friends", "GET", path, Value::Null, json!("김 ¶ 철수"), &[200, 504])
            }
            6 | 7 => get("goods", "/goods", Value::Null),
            _ => {
                let body = json!({ "text": "한".repeat(25_000) });
                request(dialect, "POST", &format!("/{dialect}"), body, Value::Null, &[413])
            }
        }
    }

    fn ask(&mut self) {
        let request = self.next_request();
        let sent = Instant::now();
        let answer = self.exchange(&request);
        let took = sent.elapsed();
        self.results.requests += 1;
        self.results.longest = self.results.longest.max(took);
        let describe = |status: u16, text: &str| {
            format!("{} {} after {took:.1?}: {status} {text:.300}", request.method, request.path)
        };
        let Some(answer) = answer else {
            self.results.unanswered += 1;
            if !self.is_behind_course_gate || !self.kills.explain(request.service, sent) {
                self.results.wrong.push(describe(0, "no answer"));
            }
            return;
        };
        let is_success = [200, 201].contains(&answer.status);
        self.results.succeeded += usize::from(is_success);
        let statuses = if self.is_behind_course_gate { &[200, 404] } else { request.statuses };
        let is_late = !self.is_behind_course_gate && took > ANSWER_LIMIT;
        if is_late || !statuses.contains(&answer.status) || is_success && !request.is_answered_by(&answer) {
            self.results.wrong.push(describe(answer.status, &answer.text()));
        }
    }

    fn exchange(&mut self, request: &Request) -> Option<Response> {
        // A course gateway keeps a connection open while its client waits, so each request uses a new one.
        let kept = self.connection.take().filter(|_| !self.is_behind_course_gate);
        let mut connection = kept.or_else(|| self.http.try_connect())?;
        let limit = if self.is_behind_course_gate { GATE_LIMIT } else { 2 * ANSWER_LIMIT };
        connection.stream().set_read_timeout(Some(limit)).unwrap();
        let body = if request.body.is_null() { String::new() } else { request.body.to_string() };
        let headers = [("Content-Type", "application/json")];
        connection.send_request(
            request.method,
            &request.path,
            &headers[..usize::from(!body.is_empty())],
            body.as_bytes(),
        );
        let answer = connection.receive_for(request.method)?;
        self.connection = (answer.header("Connection") != Some("close")).then_some(connection);
        Some(answer)
    }
}

impl Request {
    fn is_answered_by(&self, answer: &Response) -> bool {
        let reply = answer.reply();
        let results = reply.get("results").or_else(|| reply.get("data")).unwrap_or(&Value::Null);
        match self.service {
            _ if self.expected.is_null() => !results.is_null(),
            "users" => results["name"] == self.expected,
            "friends" => results["results"]["name"] == self.expected,
            _ => results["params"]["number"] == self.expected,
        }
    }
}

impl ClientResults {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.succeeded += other.succeeded;
        self.unanswered += other.unanswered;
        self.longest = self.longest.max(other.longest);
        self.wrong.extend(other.wrong);
    }
}

/// The clients of one part. Most of them use our gateway, the others use those of the course.
fn start_clients(
    part: &Part,
    numbers: std::ops::Range<usize>,
    random: &mut Random,
    ended: &Arc<AtomicBool>,
) -> Vec<thread::JoinHandle<(bool, ClientResults)>> {
    let start = |number: usize| {
        let gate = part.gates.get(number % 5);
        let mut client = Client {
            number,
            turn: 0,
            random: random.split(),
            http: gate.unwrap_or(&part.gateway).http(),
            is_behind_course_gate: gate.is_some(),
            dialect: gate.and_then(|_| Some(DIALECTS.get(number % 5)?.0)),
            connection: None,
            kills: part.kills.clone(),
            results: ClientResults::default(),
        };
        let ended = ended.clone();
        thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                client.ask();
            }
            (client.is_behind_course_gate, client.results)
        })
    };
    numbers.map(start).collect()
}

/// Ends the clients, also when the story fails.
struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn run_constellation(time: Duration) {
    let Some(theirs) = course_js(&["distributor"]) else { return };
    let mut random = Random::from_env();
    let mut parts = [Process::distributor(&[]), theirs].map(Part::start);
    let ended = Arc::new(AtomicBool::new(false));
    let end_clients = EndOnDrop(ended.clone());
    let mut clients = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let numbers = number * CLIENTS / 2..(number + 1) * CLIENTS / 2;
        clients.extend(start_clients(part, numbers, &mut random, &ended));
    }
    let end = Instant::now() + time;
    let mut kills = 0;
    while Instant::now() < end {
        let next = Instant::now() + Duration::from_millis(500 + random.below(1000));
        let pause = Duration::from_millis(random.below(1000));
        parts[kills % 2].replace(kills / 2 % VICTIMS.len(), pause);
        parts.iter_mut().for_each(Part::assert_all_alive);
        kills += 1;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    drop(end_clients);
    let mut results = [ClientResults::default(), ClientResults::default()];
    for client in clients {
        let (is_behind_course_gate, one) = client.join().unwrap();
        results[usize::from(is_behind_course_gate)].add(one);
    }
    for (name, results) in ["our gateways", "course gateways"].iter().zip(&results) {
        println!(
            "{name}: {} requests, {} successes, {} without an answer, {kills} kills, longest {:.1?}",
            results.requests, results.succeeded, results.unanswered, results.longest
        );
        assert!(
            results.wrong.is_empty(),
            "{name}: {} are wrong: {:#?}",
            results.wrong.len(),
            &results.wrong[..results.wrong.len().min(20)]
        );
        assert!(results.succeeded > results.requests / 4, "{name}: {results:?}");
    }
    for part in &mut parts {
        for gateway in part.gates.iter().chain([&part.gateway]) {
            await_success(gateway, "/users?id=1");
        }
        await_success(&part.gates[0], "/template");
        await_success(&part.gates[1], "/book");
        for path in ["/template", "/book", "/goods", "/friends?id=1"] {
            await_success(&part.gateway, path);
        }
        part.assert_all_alive();
    }
}

#[test]
fn course_nodes_beside_ours_answer_every_request_while_instances_are_killed() {
    run_constellation(Duration::from_secs(5));
}

#[test]
#[ignore = "slow: a minute"]
fn the_whole_constellation_answers_every_request_for_a_minute_while_instances_are_killed() {
    run_constellation(Duration::from_secs(60));
}
