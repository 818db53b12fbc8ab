//! The capstone: the three programs of the learner as one system under load, while each process is killed once. The real
//! system gets the same load, and a score card shows both.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::check::Failure;
use crate::checks::users::Follower;
use crate::http::{self, Client};
use crate::language::{Text, Words, text};
use crate::program::Program;
use crate::report::{self, Report};
use crate::run::Passed;
use crate::setup::{Running, Setup};

const WRITERS: u64 = 4;
const READERS: u64 = 4;
/// The pause before a process is killed, and after the last one.
const CALM: Duration = Duration::from_secs(4);
/// How long all may take to find each other.
const JOIN_TIME: Duration = Duration::from_secs(10);
/// How long a client waits for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(6);
/// The pause after a request without an answer.
const RETRY: Duration = Duration::from_millis(50);
/// When no change comes for this time, the feed has been read to its end.
const FEED_PAUSE: Duration = Duration::from_secs(2);

/// The programs of the learner.
pub struct Programs {
    pub distributor: Program,
    pub users: Program,
    pub gateway: Program,
}

struct System<'a> {
    distributor: Running<'a>,
    users: Running<'a>,
    gateway: Running<'a>,
}

/// What the clients share.
#[derive(Default)]
struct Load {
    is_over: AtomicBool,
    reads: AtomicU64,
    unanswered: AtomicU64,
}

/// The result of one system.
struct Score {
    writes: u64,
    reads: u64,
    unanswered: u64,
    lost: u64,
    duplicated: u64,
    per_second: u64,
}

/// Measures both systems, and prints the score card. It has passed if nothing was lost and nothing was created twice.
pub fn run(report: Report, programs: &Programs) -> Passed {
    let own = measure(report, programs, true)?;
    let real = measure(report, programs, false)?;
    let (Some(own), Some(real)) = (own, real) else { return Ok(false) };
    let language = report.language;
    report::say(&format!(
        "\n{}{:>10}{:>10}",
        " ".repeat(40),
        language.pick(["yours", "작성"]),
        language.pick(["real", "실제"])
    ));
    for (name, value) in ROWS {
        let name = language.pick(name);
        let padding = " ".repeat(40_usize.saturating_sub(report::columns(name)));
        report::say(&format!("{name}{padding}{:>10}{:>10}", value(&own), value(&real)));
    }
    let has_passed = own.writes > 0 && own.lost == 0 && own.duplicated == 0;
    report.tell(&if has_passed {
        text!("\nNothing was lost, and nothing was created twice.", "\n사라지거나 중복된 데이터가 없습니다.")
    } else {
        text!(
            "\nA system must lose nothing and create nothing twice.",
            "\n데이터가 사라지거나 중복되어서는 안 됩니다."
        )
    });
    Ok(has_passed)
}

type Row = (Words, fn(&Score) -> u64);

const ROWS: [Row; 6] = [
    (["answered writes", "응답한 쓰기"], |score| score.writes),
    (["answered reads", "응답한 읽기"], |score| score.reads),
    (["requests without an answer", "응답을 받지 못한 요청"], |score| score.unanswered),
    (["lost (acknowledged and gone)", "유실(응답했으나 사라짐)"], |score| score.lost),
    (["duplicated", "중복"], |score| score.duplicated),
    (["requests per second", "초당 요청"], |score| score.per_second),
];

/// `None` if the system could not be measured; the reason has been shown.
fn measure(report: Report, programs: &Programs, is_own: bool) -> Result<Option<Score>, Text> {
    let name: Words =
        if is_own { ["Your system", "작성한 시스템"] } else { ["The real system", "실제 시스템"] };
    let name = report.language.pick(name);
    report.tell(&text!(
        "{name}: load, and kill -9 of each process once …",
        "{name}: 부하를 걸고 각 프로세스를 한 번씩 kill -9 합니다 …"
    ));
    let mut setup = Setup::new(&programs.users)?;
    // Under load, a line for each request is no flood.
    setup.max_output = usize::MAX;
    let score = start(&setup, programs, is_own).and_then(|mut system| put_under_load(&mut system));
    score.map(Some).or_else(|failure| {
        report.explain(&failure, &setup.transcript.lines(), &setup.states());
        Ok(None)
    })
}

fn start<'a>(setup: &'a Setup, programs: &Programs, is_own: bool) -> Result<System<'a>, Failure> {
    let system = if is_own {
        let distributor = setup.start_program(&programs.distributor, crate::setup::free_address())?;
        let users = setup.start_program(&programs.users, distributor.address)?;
        let gateway = setup.start_program(&programs.gateway, distributor.address)?;
        System { distributor, users, gateway }
    } else {
        let distributor = setup.distributor()?;
        let users = setup.users(distributor.address)?;
        let gateway = setup.gateway(distributor.address)?;
        System { distributor, users, gateway }
    };
    await_answers(&system.gateway)?;
    Ok(system)
}

fn await_answers(gateway: &Running) -> Result<(), Failure> {
    let request = ("GET", "/users?limit=1", &Value::Null);
    http::expect_soon(gateway, request, 200, &json!({ "errorcode": 0 }), JOIN_TIME).map(drop)
}

fn put_under_load(system: &mut System) -> Result<Score, Failure> {
    let (address, load, begin) = (system.gateway.address, Load::default(), Instant::now());
    let (writes, disturbed) = thread::scope(|scope| {
        let load = &load;
        let client = |number: u64| thread::Builder::new().name(format!("client-{number}"));
        // Without a thread there is less load.
        let writers = (0..WRITERS).filter_map(|number| {
            client(number).spawn_scoped(scope, move || write(load, address, number)).ok()
        });
        let writers: Vec<_> = writers.collect();
        for number in 0..READERS {
            let _ = client(WRITERS + number).spawn_scoped(scope, move || read(load, address));
        }
        let disturbed = disturb(system);
        load.is_over.store(true, Ordering::Relaxed);
        // A writer that has panicked has no writes.
        let emails: Vec<String> =
            writers.into_iter().flat_map(|one| one.join().unwrap_or_default()).collect();
        (emails, disturbed)
    });
    disturbed?;
    let took = begin.elapsed();
    await_answers(&system.gateway)?;
    let created = read_feed(&system.users)?;
    let lost = writes.iter().filter(|email| !created.contains_key(*email)).count();
    let reads = load.reads.into_inner();
    Ok(Score {
        writes: writes.len() as u64,
        reads,
        unanswered: load.unanswered.into_inner(),
        lost: lost as u64,
        duplicated: created.values().map(|times| times - 1).sum(),
        per_second: (writes.len() as u64 + reads) * 1000
            / u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1),
    })
}

/// Kills each process once, and starts it again at once.
fn disturb(system: &mut System) -> Result<(), Failure> {
    for one in [&mut system.gateway, &mut system.users, &mut system.distributor] {
        thread::sleep(CALM);
        one.kill();
        one.restart()?;
    }
    thread::sleep(CALM);
    Ok(())
}

/// Creates users until the load is over. Without an answer, it sends the same request again: 409 then means that the
/// first one has arrived. Returns the e-mail addresses of the acknowledged users.
fn write(load: &Load, gateway: SocketAddr, writer: u64) -> Vec<String> {
    let mut client = Client::new(gateway);
    let mut acknowledged = Vec::new();
    let mut number = 0;
    let mut is_repeated = false;
    while !load.is_over.load(Ordering::Relaxed) {
        let email = format!("w{writer}-{number}@example.com");
        let body = json!({ "email": email, "name": "Kim" });
        let status = client.request("POST", "/users", &body, ANSWER_TIME).unwrap_or_default();
        if status == 201 || (status == 409 && is_repeated) {
            acknowledged.push(email);
            (number, is_repeated) = (number + 1, false);
            continue;
        }
        load.unanswered.fetch_add(1, Ordering::Relaxed);
        is_repeated = true;
        thread::sleep(RETRY);
    }
    acknowledged
}

fn read(load: &Load, gateway: SocketAddr) {
    let mut client = Client::new(gateway);
    while !load.is_over.load(Ordering::Relaxed) {
        let status = client.request("GET", "/users/1", &Value::Null, ANSWER_TIME);
        // At the very beginning, there is no user yet.
        if matches!(status, Some(200 | 404)) {
            load.reads.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        load.unanswered.fetch_add(1, Ordering::Relaxed);
        thread::sleep(RETRY);
    }
}

/// How often each e-mail address was created, by the feed.
fn read_feed(users: &Running) -> Result<HashMap<String, u64>, Failure> {
    let changes = Follower::start(users, ["auditor", "감사자"], 0)?.read_all(FEED_PAUSE)?;
    let mut created = HashMap::new();
    for change in changes.iter().filter(|change| change["kind"] == "created") {
        *created.entry(change["user"]["email"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    // The text of 20,000 changes would hide what comes after it.
    users.transcript().truncate(0);
    users.transcript().happened(&Text::from(["load", "부하"]));
    Ok(created)
}
