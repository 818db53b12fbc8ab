//! Lesson 2: one thread per connection, joining the cluster.

use std::time::Duration;

use serde_json::{Value, json};

use super::Face;
use super::list::{self, await_entry};
use crate::check::{Check, Failure, Verdict, ensure};
use crate::http;
use crate::language::{Text, text};
use crate::listening::Listening;
use crate::packet;
use crate::setup::Setup;

/// A reconnection every 3 s, and some time for a slow machine.
const JOIN_TIME: Duration = Duration::from_secs(5);

pub const CHECKS: &[Check] = &[
    Check {
        name: "slow-client",
        claim: [
            "A client that sends half a packet does not block another.",
            "패킷을 절반만 보낸 클라이언트가 다른 클라이언트를 막지 않습니다.",
        ],
        hint: [
            "Start a thread for each accepted connection. The first thread only accepts.",
            "연결을 받을 때마다 스레드를 시작하십시오. 처음 스레드는 연결을 받기만 합니다.",
        ],
        run: slow_client,
    },
    Check {
        name: "registers",
        claim: ["The program registers at the distributor.", "프로그램이 분배기에 등록합니다."],
        hint: [
            "A thread connects to the distributor (the second argument) and sends POST /distributes with key 0.",
            "스레드 하나가 분배기(두 번째 인자)에 연결해 키 0으로 POST /distributes를 보내게 하십시오.",
        ],
        run: registers,
    },
    Check {
        name: "reached-through-the-gateway",
        claim: [
            "The real gateway reaches the program.",
            "실제 게이트웨이를 통해 프로그램을 호출할 수 있습니다.",
        ],
        hint: [
            "Keep the connection to the distributor open: the registration lives as long as it.",
            "분배기와의 연결을 열어 두십시오. 등록은 그 연결이 열려 있는 동안만 유지됩니다.",
        ],
        run: reached_through_the_gateway,
    },
    Check {
        name: "distributor-restarts",
        claim: [
            "After a restart of the distributor, the program is known again.",
            "분배기가 다시 시작되면 프로그램이 다시 등록됩니다.",
        ],
        hint: [
            "When the connection to the distributor ends, wait 3 s, connect and register again, for ever.",
            "분배기와의 연결이 끊기면 3초 뒤에 다시 연결하고 등록하십시오. 이를 계속 반복하십시오.",
        ],
        run: distributor_restarts,
    },
];

fn slow_client(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut slow = service.connect(["slow client", "느린 클라이언트"])?;
    let request = packet::text(&face.request(1, "Kim"));
    let (first, second) = request.as_bytes().split_at(20);
    slow.write(first)?;
    let mut other = service.connect(["other client", "다른 클라이언트"])?;
    other.send(&face.request(1, "Lee"))?;
    other.expect(&face.reply(1, "Lee"))?;
    slow.write(second)?;
    slow.expect(&face.reply(1, "Kim"))
}

fn registers(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let played = Listening::open(["distributor", "분배기"], &setup.transcript)?;
    let service = setup.start_beside(played.address)?;
    let mut link = played.accept(JOIN_TIME)?;
    link.send(&list::list_packet(&[]))?;
    let params = json!({
        "port": service.address.port(), "name": face.name, "urls": [format!("GET{}", face.uri)],
    });
    let expected = json!({ "uri": "/distributes", "method": "POST", "key": 0, "params": params });
    let wanted = Text::same(packet::text(&expected));
    let got = link.receive(&wanted)?;
    ensure(is_registration(&got, &expected), || Failure::new(wanted, Text::same(packet::text(&got))))
}

/// A service may have more routes than we ask for.
fn is_registration(got: &Value, expected: &Value) -> bool {
    let mut wanted = expected.clone();
    let route = wanted["params"]["urls"][0].take();
    wanted["params"]["urls"] = got["params"]["urls"].clone();
    // A port may be text.
    let port = &got["params"]["port"];
    if port.as_str() == Some(&wanted["params"]["port"].to_string()) {
        wanted["params"]["port"] = port.clone();
    }
    packet::has(got, &wanted) && got["params"]["urls"].as_array().is_some_and(|urls| urls.contains(&route))
}

fn reached_through_the_gateway(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let distributor = setup.distributor()?;
    let gateway = setup.gateway(distributor.address)?;
    let _service = setup.start_beside(distributor.address)?;
    let (target, results) = match face.name {
        "hello" => ("/hello?name=Kim", json!({ "errorcode": 0, "results": "hello Kim" })),
        _ => (face.uri, json!({ "errorcode": 0, "results": [] })),
    };
    http::expect_soon(&gateway, ("GET", target, &Value::Null), 200, &results, JOIN_TIME)?;
    Ok(())
}

fn distributor_restarts(setup: &Setup) -> Verdict {
    let mut distributor = setup.distributor()?;
    let service = setup.start_beside(distributor.address)?;
    let entry = (Face::of(setup.program).name, service.address.port());
    await_entry(&distributor, entry, JOIN_TIME)?;
    distributor.kill();
    distributor.restart()?;
    await_entry(&distributor, entry, JOIN_TIME).map_err(|failure| {
        let Text { en, ko } = failure.expected;
        Failure { expected: text!("{en}, after the restart", "다시 시작한 뒤 {ko}"), ..failure }
    })
}
