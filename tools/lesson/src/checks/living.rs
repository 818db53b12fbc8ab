//! Lesson 5: who is alive? The program is the distributor, and we play its nodes.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::list::{self, Entry, await_entry, await_list, has_entry};
use crate::check::{Check, Failure, Verdict, ensure};
use crate::connection::Connection;
use crate::http;
use crate::language::text;
use crate::setup::{Running, Setup};

/// Two instances of one service, and a node that watches. Nobody listens on these ports.
const A: Entry = ("hello", 9101);
const B: Entry = ("hello", 9102);
const WATCHER: Entry = ("watcher", 9103);
const PUSH_TIME: Duration = Duration::from_secs(2);
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// A reconnection every 3 s, and some time for a slow machine.
const JOIN_TIME: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(200);

pub const CHECKS: &[Check] = &[
    Check {
        name: "list-on-connect",
        claim: ["A node that connects gets the list at once.", "연결하면 바로 노드 목록을 받습니다."],
        hint: [
            "Send the list before you read the first packet of a connection.",
            "연결에서 첫 패킷을 읽기 전에 목록을 보내십시오.",
        ],
        run: list_on_connect,
    },
    Check {
        name: "push-on-change",
        claim: [
            "A registration is pushed to all registered nodes.",
            "등록이 생기면 등록된 모든 노드에 목록이 전달됩니다.",
        ],
        hint: [
            "Keep the writers of all connections. Fill in `host` from the address of the peer.",
            "모든 연결의 쓰기 쪽을 보관하십시오. `host`는 피어의 주소로 채우십시오.",
        ],
        run: push_on_change,
    },
    Check {
        name: "one-of-two-leaves",
        claim: [
            "When one of two instances leaves, the other keeps its routes.",
            "두 인스턴스 중 하나가 떠나도 다른 하나의 라우트는 남습니다.",
        ],
        hint: [
            "Remove the entry of this connection only, and not all entries with its name.",
            "같은 이름의 항목 전체가 아니라 그 연결의 항목만 지우십시오.",
        ],
        run: one_of_two_leaves,
    },
    Check {
        name: "gone-at-once",
        claim: [
            "A node whose connection is closed leaves the list within 1 s.",
            "연결이 닫힌 노드는 1초 안에 목록에서 빠집니다.",
        ],
        hint: [
            "The end of the read loop is the end of the registration. Then push the list.",
            "읽기 루프의 끝이 곧 등록의 끝입니다. 그때 목록을 보내십시오.",
        ],
        run: gone_at_once,
    },
    Check {
        name: "restart",
        claim: [
            "A restart of the distributor disturbs no request, and all nodes come back.",
            "분배기가 다시 시작되어도 요청은 계속 처리되고 모든 노드가 다시 등록됩니다.",
        ],
        hint: [
            "Free the port at once, accept every registration, and remember nothing from before.",
            "포트를 바로 다시 열고 모든 등록을 받으십시오. 이전 상태는 기억하지 않아도 됩니다.",
        ],
        run: restart,
    },
    Check {
        name: "bad-packet",
        claim: [
            "Bytes that are no packet end only their own connection.",
            "패킷이 아닌 바이트는 그 연결만 끝냅니다.",
        ],
        hint: [
            "Return an error from the read loop of this connection. Do not panic, above all not with a lock.",
            "그 연결의 읽기 루프에서 오류를 반환하십시오. panic하지 마십시오. 락을 쥔 상태라면 더욱 안 됩니다.",
        ],
        run: bad_packet,
    },
];

/// Connects as a node, reads the first list, and registers.
fn join(distributor: &Running, who: [&'static str; 2], entry: Entry) -> Result<Connection, Failure> {
    let mut node = distributor.connect(who)?;
    let expected = text!("the list at once", "연결 즉시 노드 목록");
    await_list(&mut node, PUSH_TIME, &expected, |list| list["params"].is_array())?;
    node.send(&list::registration(entry))?;
    Ok(node)
}

fn await_both(node: &mut Connection) -> Result<Value, Failure> {
    let expected = text!("a list with the ports 9101 and 9102", "포트 9101과 9102가 있는 목록");
    await_list(node, PUSH_TIME, &expected, |list| has_entry(list, A) && has_entry(list, B))
}

/// Waits until A is gone, and checks that B is still there.
fn await_without_a(node: &mut Connection, within: Duration) -> Verdict {
    let expected = text!("a list without port 9101, but with port 9102", "포트 9101은 없고 9102는 있는 목록");
    let is_expected = |list: &Value| {
        let entries = list["params"].as_array().into_iter().flatten();
        let mut b = entries.filter(|entry| entry["port"] == B.1);
        let has_route = b.any(|entry| entry["urls"] == json!(["GET/hello"]));
        !has_entry(list, A) && has_route
    };
    await_list(node, within, &expected, is_expected).map(drop)
}

fn list_on_connect(setup: &Setup) -> Verdict {
    let distributor = setup.start()?;
    let mut node = distributor.connect(["node", "노드"])?;
    node.expect(&list::list_packet(&[]))
}

fn push_on_change(setup: &Setup) -> Verdict {
    let distributor = setup.start()?;
    let mut a = join(&distributor, ["node A", "노드 A"], A)?;
    let mut b = join(&distributor, ["node B", "노드 B"], B)?;
    await_both(&mut a)?;
    let list = await_both(&mut b)?;
    let entries = list["params"].as_array().into_iter().flatten();
    let has_hosts = entries.into_iter().all(|entry| entry["host"] == "127.0.0.1");
    ensure(has_hosts, || {
        let expected = text!("\"host\":\"127.0.0.1\" in each entry", "각 항목의 \"host\":\"127.0.0.1\"");
        Failure::new(expected, crate::language::Text::same(crate::packet::text(&list)))
    })
}

fn one_of_two_leaves(setup: &Setup) -> Verdict {
    let distributor = setup.start()?;
    let a = join(&distributor, ["node A", "노드 A"], A)?;
    let _b = join(&distributor, ["node B", "노드 B"], B)?;
    let mut watcher = join(&distributor, ["watcher", "관찰자"], WATCHER)?;
    await_both(&mut watcher)?;
    a.close();
    setup.transcript.happened(&text!("node A closes its connection", "노드 A가 연결을 닫음"));
    await_without_a(&mut watcher, PUSH_TIME)?;
    // Someone who connects now must see the same.
    let mut late = distributor.connect(["new node", "새 노드"])?;
    await_without_a(&mut late, PUSH_TIME)
}

fn gone_at_once(setup: &Setup) -> Verdict {
    let distributor = setup.start()?;
    let a = join(&distributor, ["node A", "노드 A"], A)?;
    let mut watcher = join(&distributor, ["watcher", "관찰자"], WATCHER)?;
    let with_a = text!("a list with port 9101", "포트 9101이 있는 목록");
    await_list(&mut watcher, PUSH_TIME, &with_a, |list| has_entry(list, A))?;
    a.close();
    setup.transcript.happened(&text!("node A closes its connection", "노드 A가 연결을 닫음"));
    let expected = text!("a list without port 9101 within 1 s", "1초 안에 포트 9101이 없는 목록");
    await_list(&mut watcher, LEAVE_TIME, &expected, |list| !has_entry(list, A)).map(drop)
}

fn restart(setup: &Setup) -> Verdict {
    let mut distributor = setup.start()?;
    let users = setup.users(distributor.address)?;
    let gateway = setup.gateway(distributor.address)?;
    let list_users = ("GET", "/users", &Value::Null);
    http::expect_soon(&gateway, list_users, 200, &Value::Null, JOIN_TIME)?;
    distributor.kill();
    http::expect(&gateway, list_users, 200, &Value::Null)?;
    distributor.restart()?;
    // A list without `users` must not reach the gateway as an order to forget it.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        let lines = setup.transcript.lines().len();
        http::expect(&gateway, list_users, 200, &Value::Null)?;
        setup.transcript.truncate(lines);
        thread::sleep(ASK_EVERY);
    }
    await_entry(&distributor, ("users", users.address.port()), JOIN_TIME)?;
    await_entry(&distributor, ("gate", gateway.address.port()), JOIN_TIME)?;
    http::expect(&gateway, list_users, 200, &Value::Null).map(drop)
}

fn bad_packet(setup: &Setup) -> Verdict {
    let distributor = setup.start()?;
    let mut a = join(&distributor, ["node A", "노드 A"], A)?;
    let with_a = text!("a list with port 9101", "포트 9101이 있는 목록");
    await_list(&mut a, PUSH_TIME, &with_a, |list| has_entry(list, A))?;
    let mut stranger = distributor.connect(["stranger", "낯선 노드"])?;
    stranger.write("this is no packet¶".as_bytes())?;
    let mut lacking = distributor.connect(["stranger", "낯선 노드"])?;
    lacking.write("{\"uri\":\"/distributes\",\"method\":\"POST\",\"key\":0,\"params\":7}¶".as_bytes())?;
    let _b = join(&distributor, ["node B", "노드 B"], B)?;
    await_both(&mut a).map(drop)
}
