//! Lesson 3: whose reply is this? We play the callers and the service, and the program is between them.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::relay::{Caller, Relay};
use crate::check::{Check, Failure, Verdict, ensure};
use crate::connection::seconds;
use crate::language::{Text, text};
use crate::setup::Setup;

const A: [&str; 2] = ["caller A", "호출자 A"];
const B: [&str; 2] = ["caller B", "호출자 B"];
/// A reply that comes earlier was not the deadline.
const EARLIEST: Duration = Duration::from_millis(500);
/// A lost connection is answered before the deadline.
const AT_ONCE: Duration = Duration::from_millis(700);
/// The reconnection every 3 s, and a second for a slow machine.
const RECONNECT: Duration = Duration::from_secs(4);
const MOMENT: Duration = Duration::from_millis(300);

pub const CHECKS: &[Check] = &[
    Check {
        name: "one-call",
        claim: ["One call is forwarded and answered.", "호출 하나를 전달하고 응답을 돌려줍니다."],
        hint: [
            "Forward the request with a key of your own. Answer with the key of the caller.",
            "요청은 자신의 키로 전달하고, 응답은 호출자의 키로 돌려주십시오.",
        ],
        run: one_call,
    },
    Check {
        name: "two-callers",
        claim: [
            "Two callers with the same key get their own replies.",
            "같은 키를 쓴 두 호출자가 각자의 응답을 받습니다.",
        ],
        hint: [
            "Replies come in any order. Look up the key of the reply in the pending table.",
            "응답은 어떤 순서로든 옵니다. 응답의 키를 대기 테이블에서 찾으십시오.",
        ],
        run: two_callers,
    },
    Check {
        name: "deadline",
        claim: [
            "A silent service ends in errorcode 504.",
            "서비스가 응답하지 않으면 호출은 errorcode 504로 끝납니다.",
        ],
        hint: [
            "Wait with recv_timeout. At the deadline, answer 504 and remove the key from the pending table.",
            "recv_timeout으로 기다리십시오. 기한이 되면 504로 응답하고 대기 테이블에서 키를 지우십시오.",
        ],
        run: deadline,
    },
    Check {
        name: "late-reply",
        claim: [
            "A reply after its deadline reaches nobody else.",
            "기한이 지난 응답은 다른 호출자에게 가지 않습니다.",
        ],
        hint: [
            "Nobody waits for its key any more: drop the reply. Never use a key twice.",
            "그 키를 기다리는 호출자가 없으므로 응답을 버리십시오. 키를 재사용하지 마십시오.",
        ],
        run: late_reply,
    },
    Check {
        name: "lost-connection",
        claim: [
            "A lost connection ends its calls at once with errorcode 502.",
            "연결이 끊기면 그 호출은 바로 errorcode 502로 끝납니다.",
        ],
        hint: [
            "When the reader ends, empty the pending table. Dropping a sender wakes its receiver.",
            "읽기 스레드가 끝나면 대기 테이블을 비우십시오. sender를 drop하면 receiver가 깨어납니다.",
        ],
        run: lost_connection,
    },
    Check {
        name: "reconnects",
        claim: ["The connection comes back within 4 s.", "연결은 4초 안에 다시 열립니다."],
        hint: [
            "A thread opens the connection again every 3 s, as often as necessary.",
            "스레드 하나가 3초마다 연결을 다시 시도하게 하십시오.",
        ],
        run: reconnects,
    },
    Check {
        name: "unique-keys",
        claim: ["Every call that waits has a key of its own.", "대기 중인 호출마다 키가 다릅니다."],
        hint: [
            "Count the keys up from 1, in one counter for all callers.",
            "모든 호출자가 함께 쓰는 카운터 하나로 키를 1부터 세십시오.",
        ],
        run: unique_keys,
    },
];

fn one_call(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let mut a = relay.caller(A)?;
    a.call("A")?;
    let request = relay.service.request()?;
    relay.service.reply(&request)?;
    a.expect_greeting("A")
}

pub fn two_callers(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let (mut a, mut b) = (relay.caller(A)?, relay.caller(B)?);
    a.call("A")?;
    let first = relay.service.request()?;
    b.call("B")?;
    let second = relay.service.request()?;
    relay.service.reply(&second)?;
    relay.service.reply(&first)?;
    b.expect_greeting("B")?;
    a.expect_greeting("A")
}

fn deadline(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let mut a = relay.caller(A)?;
    a.call("A")?;
    relay.service.request()?;
    expect_deadline(&relay, &mut a)
}

fn late_reply(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let (mut a, mut b) = (relay.caller(A)?, relay.caller(B)?);
    a.call("A")?;
    let late = relay.service.request()?;
    expect_deadline(&relay, &mut a)?;
    b.call("B")?;
    let request = relay.service.request()?;
    relay.service.reply(&late)?;
    thread::sleep(MOMENT);
    relay.service.reply(&request)?;
    b.expect_greeting("B")?;
    a.expect_silence(MOMENT)
}

fn lost_connection(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let mut a = relay.caller(A)?;
    a.call("A")?;
    relay.service.request()?;
    relay.service.close();
    a.expect_error(502, AT_ONCE)
}

fn reconnects(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let mut a = relay.caller(A)?;
    a.call("A")?;
    let request = relay.service.request()?;
    relay.service.reply(&request)?;
    a.expect_greeting("A")?;
    relay.service.close();
    relay.service.accept(RECONNECT)?;
    let mut b = relay.caller(B)?;
    b.call("B")?;
    let request = relay.service.request()?;
    relay.service.reply(&request)?;
    b.expect_greeting("B")
}

fn unique_keys(setup: &Setup) -> Verdict {
    let mut relay = Relay::start(setup)?;
    let names = ["A", "B", "C", "D", "E", "F"];
    let mut callers = Vec::new();
    let mut requests = Vec::new();
    for name in names {
        let mut caller = relay.caller(["caller", "호출자"])?;
        caller.call(name)?;
        callers.push(caller);
        requests.push(relay.service.request()?);
    }
    let keys: BTreeSet<u64> = requests.iter().map(|request| request.key).collect();
    let all: Vec<u64> = requests.iter().map(|request| request.key).collect();
    ensure(keys.len() == names.len() && !keys.contains(&0), || {
        Failure::new(
            text!("six different keys from 1 up", "1 이상의 서로 다른 키 6개"),
            Text::same(format!("{all:?}")),
        )
    })?;
    for request in requests.iter().rev() {
        relay.service.reply(request)?;
    }
    callers.iter_mut().zip(names).try_for_each(|(caller, name)| caller.expect_greeting(name))
}

/// The error 504 comes at the deadline: not much earlier, and not later than allowed.
fn expect_deadline(relay: &Relay, caller: &mut Caller) -> Verdict {
    let begin = Instant::now();
    caller.expect_error(504, relay.latest())?;
    let took = begin.elapsed();
    ensure(took >= EARLIEST, || {
        let ((en, ko), (took_en, took_ko)) = (seconds(EARLIEST), seconds(took));
        Failure::new(
            text!("errorcode 504 not before {en}", "{ko}가 지난 뒤의 errorcode 504"),
            text!("it came after {took_en}", "{took_ko} 뒤에 왔습니다"),
        )
    })
}
