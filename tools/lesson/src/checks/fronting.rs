//! Lesson 4: HTTP in front. The program is the gateway; distributor and users are real.

use std::time::Duration;

use serde_json::{Value, json};

use super::calling;
use super::relay::Service;
use crate::check::{Check, Failure, Verdict};
use crate::http;
use crate::language::text;
use crate::setup::{Running, Setup};

/// A reconnection every 3 s, and some time for a slow machine.
const JOIN_TIME: Duration = Duration::from_secs(5);
/// How long a gateway may wait for a frozen service.
const FROZEN_TIME: Duration = Duration::from_secs(3);
const OTHERS_TIME: Duration = Duration::from_secs(1);
/// So many clients ask a frozen service.
const FROZEN_CLIENTS: usize = 4;

pub const CHECKS: &[Check] = &[
    Check {
        name: "crud",
        claim: [
            "Users are created, read, changed and deleted over HTTP.",
            "HTTP로 사용자를 만들고 읽고 바꾸고 지웁니다.",
        ],
        hint: [
            "Method and path name the route. If the path is no route, its last segment becomes params.params. The status is `status`, else errorcode, else 200.",
            "메서드와 경로가 라우트입니다. 경로가 라우트가 아니면 마지막 조각이 params.params가 됩니다. 상태 코드는 `status`, 없으면 errorcode, 그것도 0이면 200입니다.",
        ],
        run: crud,
    },
    Check {
        name: "not-found",
        claim: ["An unknown path gets 404.", "모르는 경로에는 404로 응답합니다."],
        hint: [
            "No entry in the list has this route, nor that of the parent path.",
            "목록에 이 라우트도, 상위 경로의 라우트도 없는 경우입니다.",
        ],
        run: not_found,
    },
    Check {
        name: "no-instance",
        claim: [
            "A route whose only instance has ended gets 503.",
            "유일한 인스턴스가 종료된 라우트에는 503으로 응답합니다.",
        ],
        hint: [
            "Remember every route that was ever in a list. Without a live link it is 503, and not 404.",
            "목록에 한 번이라도 있던 라우트를 기억하십시오. 살아 있는 링크가 없으면 404가 아니라 503입니다.",
        ],
        run: no_instance,
    },
    Check {
        name: "frozen-service",
        claim: [
            "A frozen service gets 504 within 3 s, and others are answered meanwhile.",
            "멈춘 서비스에는 3초 안에 504로 응답하고, 그동안 다른 요청은 정상적으로 처리합니다.",
        ],
        hint: [
            "Answer from several threads, and give every wait a deadline (recv_timeout).",
            "여러 스레드에서 응답하고, 모든 대기에 기한을 두십시오(recv_timeout).",
        ],
        run: frozen_service,
    },
    Check {
        name: "restarted-service",
        claim: [
            "A restarted service is reached again within 5 s.",
            "다시 시작한 서비스를 5초 안에 다시 호출할 수 있습니다.",
        ],
        hint: [
            "Each link has a thread that connects again every 3 s. Do not remove the instance with its link.",
            "링크마다 3초마다 다시 연결하는 스레드를 두십시오. 링크가 끊겼다고 인스턴스를 지우지 마십시오.",
        ],
        run: restarted_service,
    },
    Check {
        name: "two-callers",
        claim: [
            "Two clients at the same time get their own replies.",
            "동시에 요청한 두 클라이언트가 각자의 응답을 받습니다.",
        ],
        hint: [
            "Replies come in any order. Look up the key of the reply in the pending table.",
            "응답은 어떤 순서로든 옵니다. 응답의 키를 대기 테이블에서 찾으십시오.",
        ],
        run: calling::two_callers,
    },
];

/// The real distributor and the real users behind the program.
struct System<'a> {
    distributor: Running<'a>,
    users: Running<'a>,
    gateway: Running<'a>,
}

/// Starts all, and waits until the gateway reaches users.
fn start<'a>(setup: &'a Setup) -> Result<System<'a>, Failure> {
    let distributor = setup.distributor()?;
    let users = setup.users(distributor.address)?;
    let gateway = setup.start_beside(distributor.address)?;
    http::expect_soon(&gateway, ("GET", "/users", &Value::Null), 200, &Value::Null, JOIN_TIME)?;
    Ok(System { distributor, users, gateway })
}

fn crud(setup: &Setup) -> Verdict {
    let System { gateway, .. } = &start(setup)?;
    let none = &Value::Null;
    let kim = json!({ "email": "kim@example.com", "name": "김 ¶" });
    let created = http::expect(gateway, ("POST", "/users", &kim), 201, &json!({ "results": kim }))?;
    let path = format!("/users/{}", created["results"]["id"]);
    http::expect(gateway, ("GET", &path, none), 200, &json!({ "errorcode": 0, "results": kim }))?;
    http::expect(gateway, ("GET", "/users?limit=1", none), 200, &json!({ "errorcode": 0 }))?;
    let change = json!({ "name": "Kimberly" });
    http::expect(gateway, ("PATCH", &path, &change), 200, &json!({ "results": change }))?;
    http::expect(gateway, ("GET", &path, none), 200, &json!({ "results": change }))?;
    http::expect(gateway, ("DELETE", &path, none), 200, &json!({ "errorcode": 0 }))?;
    http::expect(gateway, ("GET", &path, none), 404, &json!({ "errorcode": 404 })).map(drop)
}

fn not_found(setup: &Setup) -> Verdict {
    let System { gateway, .. } = &start(setup)?;
    let fields = json!({ "errorcode": 404, "errormessage": "…" });
    http::expect(gateway, ("GET", "/nothing", &Value::Null), 404, &fields).map(drop)
}

fn no_instance(setup: &Setup) -> Verdict {
    let System { gateway, users, .. } = &start(setup)?;
    users.kill();
    // The first answer may still be the 502 of the lost link.
    let fields = json!({ "errorcode": 503, "errormessage": "…" });
    http::expect_soon(gateway, ("GET", "/users", &Value::Null), 503, &fields, OTHERS_TIME * 2).map(drop)
}

fn frozen_service(setup: &Setup) -> Verdict {
    let System { distributor, gateway, .. } = &start(setup)?;
    let mut frozen = Service::open(["frozen service", "멈춘 서비스"], &setup.transcript)?;
    let _registration = frozen.register(distributor, "frozen")?;
    frozen.accept(JOIN_TIME)?;
    // The link is up a moment after it was accepted.
    std::thread::sleep(OTHERS_TIME / 5);
    let who = text!("client", "클라이언트");
    let ask = || http::ask(gateway, &who, "GET", "/frozen", &Value::Null);
    let asked = (0..FROZEN_CLIENTS).map(|_| ask()).collect::<Result<Vec<_>, _>>()?;
    let other = http::ask(gateway, &text!("other client", "다른 클라이언트"), "GET", "/users", &Value::Null)?;
    other.expect(OTHERS_TIME, 200, &json!({ "errorcode": 0 }))?;
    for one in asked {
        one.expect(FROZEN_TIME, 504, &json!({ "errorcode": 504, "errormessage": "…" }))?;
    }
    Ok(())
}

fn restarted_service(setup: &Setup) -> Verdict {
    let System { gateway, users, distributor: _distributor } = &mut start(setup)?;
    users.kill();
    users.restart()?;
    http::expect_soon(gateway, ("GET", "/users", &Value::Null), 200, &json!({ "errorcode": 0 }), JOIN_TIME)
        .map(drop)
}
