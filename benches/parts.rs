//! The cost of each part: the codec, the route lookup, a call over a link, the database.
//!
//! Codec and routes are values without sockets, so these are pure processor times. A call is the cost of a hop on an
//! idle machine: two thread wake-ups, and two system calls on each side. With 32 callers the same link carries many
//! packets in each system call. This shows the gain of batching.
//!
//! `cargo bench --bench parts`, or `cargo bench --bench parts -- routes` for benchmarks whose names contain `routes`.

#![allow(clippy::unwrap_used, reason = "a bench whose parts do not work has nothing to go on with")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use pilcrow::net::link::{Link, LinkLimits, ReplyFrame};
use pilcrow::net::listener::{Listener, Serving};
use pilcrow::net::peer::{Answerer, PacketServer, Peer};
use pilcrow::packet::frame::FrameReader;
use pilcrow::packet::{Answer, DEFAULT_MAX_FRAME_BYTES, Dialect, Head, Origin, Outgoing, Reply, Timing};
use pilcrow::routes::Routes;
use pilcrow::users::access::Credential;
use pilcrow::users::database::Database;
use pilcrow::users::operations::{CreateUser, UpdateUser};
use pilcrow::users::sqlite::Sqlite;
use pilcrow::users::store::{UserReader, View};
use pilcrow::users::values::{NewUser, Role, UserUpdate};
use serde_json::value::RawValue;

/// A request as the gateway sends it for `GET /users/1`.
const REQUEST: &str = r#"{"uri":"/users","method":"GET","key":4711,"params":{"params":"1"},"deadline_ms":5000,"sent_ms":123456,"request_id":"cf1199fd0815ded5-b","client":"127.0.0.1"}"#;

/// The reply to it.
const REPLY: &str = r#"{"key":4711,"errorcode":0,"errormessage":"success","results":{"id":1,"email":"kim@example.com","name":"Kim","created_at":"2026-11-22T18:15:08.318Z","updated_at":"2026-11-22T18:15:08.318Z"},"seq":1,"etag":"1"}"#;

/// How many callers share one link, and how many writes one commit.
const TOGETHER: u32 = 32;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    codec(&mut criterion);
    routes(&mut criterion);
    calls(&mut criterion);
    store(&mut criterion);
    criterion.final_summary();
}

/// Encodes and decodes packets, without sockets.
fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let params = RawValue::from_string(r#"{"params":"1"}"#.to_owned()).unwrap();
    let client = Some([127, 0, 0, 1].into());
    let origin = Origin { request_id: "cf1199fd0815ded5-b".to_owned(), client, authorization: None };
    let request = Outgoing {
        uri: "/users",
        method: "GET",
        params: &params,
        hops: 0,
        origin: Some(&origin),
        explanation: None,
    };
    let timing = Timing { deadline_ms: 5000, sent_ms: 123_456 };
    let mut buffer = Vec::with_capacity(1024);
    request.write(&mut buffer, 4711, timing).unwrap();
    assert_eq!(buffer, format!("{REQUEST}¶").as_bytes(), "this is what the gateway sends");

    group.throughput(packets(1, REQUEST.len()));
    group.bench_function("encode a request", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            request.write(&mut buffer, black_box(4711), timing).unwrap();
            buffer.len()
        });
    });
    group.bench_function("look into a request", |bencher| {
        bencher.iter(|| Head::parse(black_box(REQUEST)).unwrap().number());
    });

    let results: serde_json::Value =
        serde_json::from_str(Head::parse(REPLY).unwrap().results.unwrap().get()).unwrap();
    let key = Head::parse(REPLY).unwrap().answer_key();
    group.throughput(packets(1, REPLY.len()));
    group.bench_function("encode a reply", |bencher| {
        bencher.iter(|| {
            let outcome =
                Reply::ok(black_box(&results)).and_then(|reply| reply.with("seq", 1)?.with("etag", "1"));
            Answer { key: key.as_ref(), outcome: &outcome, more: false }.encode().unwrap()
        });
    });
    group.bench_function("scan a reply for its key", |bencher| {
        bencher.iter(|| Head::parse(black_box(REPLY)).unwrap().number());
    });
    group.bench_function("take a reply apart and keep it", |bencher| {
        bencher.iter(|| ReplyFrame::parse(black_box(REPLY)).unwrap());
    });

    // As on a busy link: many packets in one read.
    let wire = format!("{REPLY}¶").repeat(1000);
    group.throughput(packets(1000, wire.len()));
    group.bench_function("cut 1,000 frames", |bencher| {
        bencher.iter(|| {
            let mut reader =
                FrameReader::new(black_box(wire.as_bytes()), DEFAULT_MAX_FRAME_BYTES, Dialect::Pilcrow);
            let mut count = 0;
            while reader.next_frame().unwrap().is_some() {
                count += 1;
            }
            assert_eq!(count, 1000);
        });
    });
    group.finish();
}

fn packets(elements: u64, bytes: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements, bytes: bytes as u64 }
}

/// Resolves `GET /service-N/users/1` to its route and an instance, with an increasing number of routes.
fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("routes");
    group.throughput(Throughput::Elements(1));
    for count in [10, 100, 1_000, 10_000] {
        let mut routes = Routes::default();
        let urls: Vec<String> = (0..count).map(|number| format!("GET/service-{number}/users")).collect();
        for node in ["127.0.0.1:9020", "127.0.0.1:9021"] {
            routes.set(node, "users", &urls, &node);
        }
        let path = format!("/service-{}/users/1", count / 2);
        group.bench_function(BenchmarkId::new("resolve and pick", count), |bencher| {
            bencher.iter(|| {
                let resolved = routes.resolve("GET", black_box(&path));
                let uri = path.trim_end_matches("/1");
                (resolved, routes.pick("GET", uri, |_, _| Some(0)).unwrap())
            });
        });
    }
    group.finish();
}

/// Answers every request with the same reply, on the thread that reads.
struct Echo;

impl Answerer for Echo {
    fn packet(&self, peer: &Arc<Peer>, head: &Head<'_>, _batch: Option<&Arc<pilcrow::net::batch::Batch>>) {
        peer.answer(head.answer_key().as_ref(), &Reply::ok("here"), DEFAULT_MAX_FRAME_BYTES, None);
    }
}

/// A call over a link on loopback: alone, and with others in parallel.
fn calls(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("calls");
    let (serving, link) = echo();
    let params = RawValue::from_string("{}".to_owned()).unwrap();
    let call = |link: &Link| {
        let request = Outgoing {
            uri: "/echo",
            method: "GET",
            params: &params,
            hops: 0,
            origin: None,
            explanation: None,
        };
        link.call(&request, Instant::now() + Duration::from_secs(5)).unwrap()
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("one caller", |bencher| bencher.iter(|| call(&link)));
    group.throughput(Throughput::Elements(TOGETHER.into()));
    group.bench_function(format!("{TOGETHER} callers, a call each"), |bencher| {
        bencher.iter_custom(|times| {
            let began = Instant::now();
            thread::scope(|scope| {
                for _ in 0..TOGETHER {
                    scope.spawn(|| (0..times).for_each(|_| drop(call(&link))));
                }
            });
            began.elapsed()
        });
    });
    group.finish();
    drop(link);
    serving.drain(Duration::from_secs(5));
}

/// A port that answers, and a link to it that is up.
fn echo() -> (Serving, Link) {
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let address = listener.address().to_string();
    let server = PacketServer::new(Arc::new(Echo), DEFAULT_MAX_FRAME_BYTES, None);
    let serving = listener.serve("echo", 16, Arc::new(server)).unwrap();
    let (report, news) = channel();
    let on_change = move |_: &str, up: bool| report.send(up).unwrap_or_default();
    let limits = LinkLimits::default();
    let link = Link::open(&address, Dialect::Pilcrow, limits, None, Box::new(on_change)).unwrap();
    assert!(news.recv_timeout(Duration::from_secs(10)).unwrap(), "the link comes up");
    (serving, link)
}

/// The users' database, with `synchronous=FULL` as always: a write is on the disk before its measurement ends.
fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    // In the build directory, since /tmp may be in memory, where an fsync costs nothing.
    let folder =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("parts-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let store = Database::open(&folder.join("users.db"), 100_000).unwrap();
    for number in 0..1000 {
        let (email, name) = (format!("user{number}@example.com"), format!("User {number}"));
        let new = NewUser { email, name, password: None, role: Role::User };
        let create = CreateUser(new);
        if number % 500 == 499 {
            store.write_now(create).unwrap(); // the queue is bounded: let it become empty
        } else {
            store.write(None, create, |_| ());
        }
    }

    group.throughput(Throughput::Elements(1));
    group.bench_function("read one", |bencher| {
        bencher.iter(|| store.reader(View::Newest).unwrap().get(black_box(500)).unwrap());
    });
    group.bench_function("list 50", |bencher| {
        bencher.iter(|| store.reader(View::Snapshot).unwrap().list(50, black_box(100), None).unwrap());
    });
    for together in [1, TOGETHER] {
        group.throughput(Throughput::Elements(together.into()));
        group.bench_function(BenchmarkId::new("write, waiting together", together), |bencher| {
            bencher.iter(|| write(&store, together));
        });
    }
    group.finish();
    drop(store);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Writes this number of changes, which wait for the writer together, until the last is on the disk.
fn write(store: &Database<Sqlite>, together: u32) {
    let (done, outcomes) = channel();
    for id in 1..=together {
        let update = UserUpdate { name: Some("Kim".to_owned()), ..UserUpdate::default() };
        let credential = Credential::Unchecked;
        let update = UpdateUser { id: id.into(), update, expected: None, credential };
        let done = done.clone();
        store.write(None, update, move |outcome| drop(done.send(outcome.map(drop))));
    }
    for _ in 0..together {
        outcomes.recv().unwrap().unwrap();
    }
}
