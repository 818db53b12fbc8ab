//! Clients that read and write without a pause, and remember the answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Connection, Http, Response, eventually};

/// The time after its timeout within which a request must be answered.
const GRACE: Duration = Duration::from_secs(1);

/// A load of mixed reads and writes. Each client has a separate user, changes its name repeatedly, and reads it.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Client>>,
}

struct Shared {
    ended: AtomicBool,
    answered: AtomicUsize,
}

/// The results of a load.
#[derive(Debug)]
pub struct LoadResults {
    pub reads: usize,
    pub writes: usize,
    pub failed_reads: Vec<String>,
    pub failed_writes: Vec<String>,
    /// The duration of the slowest request.
    pub longest: Duration,
    /// By name: whether the write of it was acknowledged.
    names: HashMap<String, bool>,
}

struct Client {
    number: usize,
    http: Http,
    connection: Option<Connection>,
    user: u64,
    results: LoadResults,
    /// The possible names of the user: the last acknowledged one, and those with an unknown outcome.
    possible: Vec<String>,
}

impl Load {
    /// Starts this many clients of the gateway, whose `--timeout` is this.
    pub fn start(gateway: Http, clients: usize, timeout: Duration) -> Self {
        let shared = Arc::new(Shared { ended: AtomicBool::new(false), answered: AtomicUsize::new(0) });
        let start = |number| {
            let (shared, mut client) = (shared.clone(), Client::new(number, gateway));
            thread::spawn(move || {
                for turn in 0.. {
                    if shared.ended.load(Ordering::SeqCst) {
                        break;
                    }
                    client.write(turn, timeout);
                    client.read(turn, timeout);
                    client.read(turn, timeout);
                    shared.answered.fetch_add(3, Ordering::SeqCst);
                }
                client
            })
        };
        Self { clients: (0..clients).map(start).collect(), shared }
    }

    /// Waits until this many more requests have been answered.
    pub fn await_more(&self, more: usize) {
        let wanted = self.shared.answered.load(Ordering::SeqCst) + more;
        eventually(&format!("{wanted} requests are answered"), || {
            (self.shared.answered.load(Ordering::SeqCst) >= wanted).then_some(())
        });
    }

    /// Ends the load, compares the answers with the changes that really happened, and returns the results.
    ///
    /// # Panics
    /// If an acknowledged write is lost, or any write was carried out twice.
    pub fn end(self, gateway: Http) -> LoadResults {
        self.shared.ended.store(true, Ordering::SeqCst);
        let mut all = LoadResults::default();
        for client in self.clients {
            all.add(client.join().unwrap().results);
        }
        let mut carried_out: HashMap<String, usize> = HashMap::new();
        for change in all_changes(gateway) {
            let name = change["user"]["name"].as_str().unwrap_or_default().to_owned();
            *carried_out.entry(name).or_default() += 1;
        }
        for (name, acknowledged) in &all.names {
            match carried_out.get(name).copied().unwrap_or(0) {
                0 if *acknowledged => panic!("the acknowledged write of {name} is lost"),
                0 | 1 => {}
                times => panic!("the write of {name} was carried out {times} times"),
            }
        }
        println!(
            "{} reads, {} failed; {} writes, {} failed; longest {:.0?}",
            all.reads,
            all.failed_reads.len(),
            all.writes,
            all.failed_writes.len(),
            all.longest
        );
        all
    }
}

impl Default for LoadResults {
    fn default() -> Self {
        let (failed_reads, failed_writes, names) = (Vec::new(), Vec::new(), HashMap::new());
        Self { reads: 0, writes: 0, failed_reads, failed_writes, longest: Duration::ZERO, names }
    }
}

impl LoadResults {
    fn add(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.failed_reads.extend(other.failed_reads);
        self.failed_writes.extend(other.failed_writes);
        self.longest = self.longest.max(other.longest);
        self.names.extend(other.names);
    }

    /// No request failed.
    pub fn assert_all_succeeded(&self) {
        assert!(self.failed_reads.is_empty(), "{:#?}", self.failed_reads);
        assert!(self.failed_writes.is_empty(), "{:#?}", self.failed_writes);
    }
}

impl Client {
    fn new(number: usize, http: Http) -> Self {
        let body = json!({ "email": format!("client-{number}@example.com"), "name": "new" });
        let created = http.post("/users", &body);
        assert_eq!(created.status, 201, "{}", created.text());
        let user = created.results()["id"].as_u64().unwrap();
        let possible = vec!["new".to_owned()];
        Self { number, http, connection: None, user, results: LoadResults::default(), possible }
    }

    fn write(&mut self, turn: usize, timeout: Duration) {
        let name = format!("name {} of client {}", turn, self.number);
        let body = json!({ "name": name }).to_string();
        let answer = self.ask("PATCH", turn, body.as_bytes(), timeout);
        self.results.writes += 1;
        let succeeded = answer.as_ref().is_some_and(|answer| answer.status == 200);
        self.results.names.insert(name.clone(), succeeded);
        if succeeded {
            self.possible = vec![name];
        } else {
            self.possible.push(name);
            self.results.failed_writes.push(describe_failure(answer.as_ref()));
        }
    }

    fn read(&mut self, turn: usize, timeout: Duration) {
        let answer = self.ask("GET", turn, b"", timeout);
        self.results.reads += 1;
        match answer {
            Some(answer) if answer.status == 200 => {
                let user = answer.results();
                assert_eq!(user["id"], self.user, "another client's answer: {}", answer.text());
                let name = user["name"].as_str().unwrap();
                assert!(
                    self.possible.iter().any(|one| one == name),
                    "{name} is not one of {:?}",
                    self.possible
                );
            }
            answer => self.results.failed_reads.push(describe_failure(answer.as_ref())),
        }
    }

    fn ask(&mut self, method: &str, turn: usize, body: &[u8], timeout: Duration) -> Option<Response> {
        let began = Instant::now();
        let id = format!("{}-{turn}", self.number);
        let headers = [("Content-Type", "application/json"), ("X-Request-Id", &id)];
        let mut connection = self.connection.take().or_else(|| self.http.try_connect())?;
        connection.send_request(method, &format!("/users/{}", self.user), &headers, body);
        let answer = connection.receive_for(method)?;
        let took = began.elapsed();
        assert!(took <= timeout + GRACE, "{method} was answered after {took:?}: {}", answer.text());
        assert_eq!(answer.header("X-Request-Id"), Some(id.as_str()), "another client's answer");
        self.results.longest = self.results.longest.max(took);
        self.connection = (answer.header("Connection") != Some("close")).then_some(connection);
        Some(answer)
    }
}

fn describe_failure(answer: Option<&Response>) -> String {
    answer.map_or_else(|| "no answer".to_owned(), |answer| format!("{} {}", answer.status, answer.message()))
}

fn all_changes(gateway: Http) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), json!(0));
    while !after.is_null() {
        let page = eventually("the changes can be read", || {
            let page = gateway.get(&format!("/users/changes?limit=500&after={after}"));
            (page.status == 200).then_some(page)
        });
        all.extend(page.results().as_array().unwrap().iter().cloned());
        after = page.reply()["next"].clone();
    }
    all
}
