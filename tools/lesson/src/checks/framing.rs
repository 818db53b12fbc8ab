//! Lesson 1: one read is not one packet.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::Face;
use crate::check::{Check, Failure, Verdict, ensure};
use crate::language::text;
use crate::packet;
use crate::setup::Setup;

/// The pause between two writes, so that they arrive one after the other.
const PAUSE: Duration = Duration::from_millis(150);
const CALLER: [&str; 2] = ["caller", "호출자"];

pub const CHECKS: &[Check] = &[
    Check {
        name: "one-packet",
        claim: ["One packet gets one reply.", "패킷 하나에 응답 하나가 옵니다."],
        hint: [
            "Read until ¶, decode the JSON before it, and write the reply with its ¶.",
            "¶까지 읽고, 그 앞의 JSON을 해석한 뒤, 응답 끝에 ¶를 붙여 보내십시오.",
        ],
        run: one_packet,
    },
    Check {
        name: "two-in-one-write",
        claim: [
            "Two packets in one write get two replies in order.",
            "한 번의 write로 보낸 패킷 두 개에 응답 두 개가 순서대로 옵니다.",
        ],
        hint: [
            "One read may return two packets. Answer each, and keep what follows the last ¶.",
            "read 한 번에 패킷 두 개가 올 수 있습니다. 모두 응답하고, 마지막 ¶ 뒤의 바이트는 보관하십시오.",
        ],
        run: two_in_one_write,
    },
    Check {
        name: "split-inside-a-character",
        claim: [
            "A packet may arrive in pieces that are cut anywhere.",
            "패킷은 어디에서든 잘려 여러 조각으로 도착할 수 있습니다.",
        ],
        hint: [
            "Collect bytes, not text: 김 has three bytes, and ¶ has two. Decode only whole packets.",
            "문자열이 아니라 바이트를 모으십시오. 김은 3바이트, ¶는 2바이트입니다. 온전한 패킷만 디코딩하십시오.",
        ],
        run: split_inside_a_character,
    },
    Check {
        name: "pilcrow-in-a-name",
        claim: ["A ¶ in a name does not end the reply.", "이름에 든 ¶는 응답을 끝내지 않습니다."],
        hint: [
            "Write \\u00b6 for every ¶ inside the JSON. JSON reads both as the same character.",
            "JSON 안의 ¶는 모두 \\u00b6으로 쓰십시오. JSON에서는 둘 다 같은 문자입니다.",
        ],
        run: pilcrow_in_a_name,
    },
    Check {
        name: "unknown-route",
        claim: [
            "An unknown route gets errorcode 404, and the connection lives.",
            "모르는 라우트에는 errorcode 404로 응답하고 연결은 유지됩니다.",
        ],
        hint: [
            "Compare uri and method. A wrong request is no reason to close the connection.",
            "uri와 method를 비교하십시오. 잘못된 요청은 연결을 닫을 이유가 아닙니다.",
        ],
        run: unknown_route,
    },
    Check {
        name: "garbage",
        claim: [
            "Bytes that are no packet end only their own connection.",
            "패킷이 아닌 바이트는 그 연결만 끝냅니다.",
        ],
        hint: [
            "If the JSON cannot be read, close this connection. Do not panic, and accept the next one.",
            "JSON을 읽을 수 없으면 그 연결만 닫으십시오. panic하지 말고 다음 연결을 받으십시오.",
        ],
        run: garbage,
    },
];

fn one_packet(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut caller = service.connect(CALLER)?;
    caller.send(&face.request(1, "Kim"))?;
    caller.expect(&face.reply(1, "Kim"))?;
    caller.expect_silence(PAUSE)
}

fn two_in_one_write(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut caller = service.connect(CALLER)?;
    let both = packet::text(&face.request(1, "Kim")) + &packet::text(&face.request(2, "Lee"));
    caller.write(both.as_bytes())?;
    caller.expect(&face.reply(1, "Kim"))?;
    caller.expect(&face.reply(2, "Lee"))
}

fn split_inside_a_character(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut caller = service.connect(CALLER)?;
    let text = packet::text(&face.request(1, "김"));
    let inside_kim = text.find('김').unwrap_or_default() + 1;
    let inside_pilcrow = text.len() - 1;
    caller.write(&text.as_bytes()[..inside_kim])?;
    thread::sleep(PAUSE);
    caller.write(&text.as_bytes()[inside_kim..inside_pilcrow])?;
    thread::sleep(PAUSE);
    caller.write(&text.as_bytes()[inside_pilcrow..])?;
    caller.expect(&face.reply(1, "김"))
}

fn pilcrow_in_a_name(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut caller = service.connect(CALLER)?;
    caller.send(&face.request(1, "a¶b"))?;
    caller.expect(&face.reply(1, "a¶b"))?;
    caller.send(&face.request(2, "Kim"))?;
    caller.expect(&face.reply(2, "Kim"))
}

fn unknown_route(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut caller = service.connect(CALLER)?;
    caller.send(&json!({ "uri": "/nothing", "method": "GET", "key": 1, "params": {} }))?;
    caller.expect(&json!({ "key": 1, "errorcode": 404, "errormessage": "…" }))?;
    caller.send(&face.request(2, "Kim"))?;
    caller.expect(&face.reply(2, "Kim"))
}

fn garbage(setup: &Setup) -> Verdict {
    let face = Face::of(setup.program);
    let service = setup.start()?;
    let mut caller = service.connect(CALLER)?;
    caller.write("this is no packet¶".as_bytes())?;
    let expected =
        text!("a closed connection, or a reply with an errorcode", "연결 종료 또는 errorcode가 있는 응답");
    let reply = caller.receive_or_close(&expected)?;
    let is_error =
        reply.as_ref().is_none_or(|reply| reply["errorcode"].as_i64().is_some_and(|code| code != 0));
    ensure(is_error, || {
        Failure::new(expected, crate::language::Text::same(packet::text(&reply.unwrap_or_default())))
    })?;
    let mut next = service.connect(["next caller", "다음 호출자"])?;
    next.send(&face.request(1, "Kim"))?;
    next.expect(&face.reply(1, "Kim"))
}
