//! Lesson 6: answered means saved. The program is `users` on SQLite.

use std::time::Duration;

use serde_json::{Value, json};

use super::users::{User, Users};
use crate::check::{Check, Failure, Verdict, ensure};
use crate::connection::Connection;
use crate::http;
use crate::language::{Text, text};
use crate::packet;
use crate::setup::{Running, Setup};

/// So many requests are sent at once, and after so many replies the program is killed.
const SENT: u64 = 40;
const ANSWERED: usize = 10;
const JOIN_TIME: Duration = Duration::from_secs(5);
/// How long replies that were on their way may take.
const REST_TIME: Duration = Duration::from_secs(1);

pub const CHECKS: &[Check] = &[
    Check {
        name: "crud",
        claim: ["Users are created, read, changed and deleted.", "사용자를 만들고 읽고 바꾸고 지웁니다."],
        hint: [
            "The id is in params.params, as text: it comes from a path. Without it, GET lists all users.",
            "id는 params.params에 문자열로 옵니다(경로에서 온 값입니다). 없으면 GET은 전체 목록입니다.",
        ],
        run: crud,
    },
    Check {
        name: "email-is-unique",
        claim: [
            "A repeated request creates no second user.",
            "같은 요청을 반복해도 사용자가 둘 생기지 않습니다.",
        ],
        hint: [
            "Let the database decide: `email TEXT UNIQUE`. Answer 409 if the insert violates it.",
            "판단은 데이터베이스에 맡기십시오: `email TEXT UNIQUE`. INSERT가 이를 어기면 409로 응답하십시오.",
        ],
        run: email_is_unique,
    },
    Check {
        name: "kill-9",
        claim: [
            "After kill -9, every acknowledged user is still there.",
            "kill -9 뒤에도 생성 응답을 보낸 사용자는 모두 남아 있습니다.",
        ],
        hint: [
            "Reply only after the commit. A reply is a promise; memory does not survive.",
            "커밋한 뒤에만 응답하십시오. 응답은 약속이며, 메모리의 내용은 사라집니다.",
        ],
        run: kill_9,
    },
    Check {
        name: "bad-input",
        claim: [
            "Wrong input gets errorcode 400, and the connection lives.",
            "잘못된 입력에는 errorcode 400으로 응답하고 연결은 유지됩니다.",
        ],
        hint: [
            "Check each field before the insert: name and email must be text, and an email has an @.",
            "INSERT 전에 각 필드를 확인하십시오. name과 email은 문자열이어야 하고 email에는 @가 있어야 합니다.",
        ],
        run: bad_input,
    },
    Check {
        name: "through-the-gateway",
        claim: [
            "The real gateway reaches the program.",
            "실제 게이트웨이를 통해 프로그램을 호출할 수 있습니다.",
        ],
        hint: [
            "Register as `users` with GET/users, POST/users, PATCH/users and DELETE/users.",
            "이름 `users`와 GET/users, POST/users, PATCH/users, DELETE/users로 등록하십시오.",
        ],
        run: through_the_gateway,
    },
];

fn crud(setup: &Setup) -> Verdict {
    let program = setup.start()?;
    let mut users = Users::connect(&program)?;
    let kim = User::new("kim");
    let id = users.create(&kim)?;
    let id_text = id.to_string();
    users.expect("GET", &json!({ "params": id_text }), json!({ "errorcode": 0, "results": kim.fields() }))?;
    let change = json!({ "name": "Kimberly" });
    users.expect("PATCH", &json!({ "params": id_text, "name": "Kimberly" }), json!({ "errorcode": 0 }))?;
    users.expect("GET", &json!({ "params": id_text }), json!({ "errorcode": 0, "results": change }))?;
    users.expect("DELETE", &json!({ "params": id_text }), json!({ "errorcode": 0 }))?;
    users.expect("GET", &json!({ "params": id_text }), json!({ "errorcode": 404, "errormessage": "…" }))?;
    users.expect("GET", &json!({}), json!({ "errorcode": 0, "results": [] }))
}

fn email_is_unique(setup: &Setup) -> Verdict {
    let program = setup.start()?;
    let mut users = Users::connect(&program)?;
    let kim = User::new("kim");
    users.create(&kim)?;
    users.expect("POST", &kim.fields(), json!({ "errorcode": 409, "errormessage": "…" }))?;
    let list = users.list()?;
    ensure(list.len() == 1, || {
        Failure::new(
            text!("one user in the list", "목록에 사용자 한 명"),
            Text::same(Value::from(list).to_string()),
        )
    })
}

fn kill_9(setup: &Setup) -> Verdict {
    let mut program = setup.start()?;
    let keys = kill_while_writing(&mut program)?;
    program.restart()?;
    let users = Users::connect(&program)?.list()?;
    let is_saved = |key: &u64| users.iter().any(|user| user["email"] == format!("user{key}@example.com"));
    let lost: Vec<u64> = keys.iter().copied().filter(|key| !is_saved(key)).collect();
    ensure(lost.is_empty(), || {
        let (answered, listed) = (keys.len(), users.len());
        Failure::new(
            text!(
                "all {answered} acknowledged users after the restart",
                "다시 시작한 뒤 응답한 사용자 {answered}명 모두"
            ),
            text!(
                "{listed} users; lost are those with these keys: {lost:?}",
                "사용자 {listed}명. 사라진 사용자의 키: {lost:?}"
            ),
        )
    })
}

/// Creates many users, and kills the program in the middle. Returns the keys of the acknowledged requests.
pub fn kill_while_writing(program: &mut Running) -> Result<Vec<u64>, Failure> {
    let mut connection = program.connect(["writer", "쓰기 클라이언트"])?;
    for number in 1..=SENT {
        connection.send(&User::new(&format!("user{number}")).creation(number))?;
    }
    let expected = text!("{{\"key\":…,\"errorcode\":0,…}}¶", "{{\"key\":…,\"errorcode\":0,…}}¶");
    let mut answered = Vec::new();
    while answered.len() < ANSWERED {
        answered.push(created_key(&connection.receive(&expected)?, &expected)?);
    }
    program.kill();
    for reply in rest(&mut connection, &expected) {
        answered.push(created_key(&reply, &expected)?);
    }
    Ok(answered)
}

/// The key of a reply that says that a user was created.
fn created_key(reply: &Value, expected: &Text) -> Result<u64, Failure> {
    let key = reply["key"].as_u64().filter(|_| reply["errorcode"] == 0);
    key.ok_or_else(|| Failure::new(expected.clone(), Text::same(packet::text(reply))))
}

/// The replies that had left before the program was killed.
fn rest(connection: &mut Connection, expected: &Text) -> Vec<Value> {
    std::iter::from_fn(|| connection.receive_within(REST_TIME, expected).ok()).collect()
}

fn bad_input(setup: &Setup) -> Verdict {
    let program = setup.start()?;
    let mut users = Users::connect(&program)?;
    let refused = json!({ "errorcode": 400, "errormessage": "…" });
    users.expect("POST", &json!({ "name": "Kim" }), refused.clone())?;
    users.expect("POST", &json!({ "email": "kim@example.com" }), refused.clone())?;
    users.expect("POST", &json!({ "email": "kim@example.com", "name": 7 }), refused.clone())?;
    users.expect("POST", &json!({ "email": "no address", "name": "Kim" }), refused)?;
    users.create(&User::new("kim")).map(drop)
}

fn through_the_gateway(setup: &Setup) -> Verdict {
    let distributor = setup.distributor()?;
    let gateway = setup.gateway(distributor.address)?;
    let _program = setup.start_beside(distributor.address)?;
    let none = &Value::Null;
    http::expect_soon(&gateway, ("GET", "/users", none), 200, &json!({ "errorcode": 0 }), JOIN_TIME)?;
    let kim = User::new("kim").fields();
    let created = http::expect(&gateway, ("POST", "/users", &kim), 201, &json!({ "results": kim }))?;
    let path = format!("/users/{}", created["results"]["id"]);
    http::expect(&gateway, ("GET", &path, none), 200, &json!({ "results": kim }))?;
    http::expect(&gateway, ("DELETE", &path, none), 200, &json!({ "errorcode": 0 }))?;
    http::expect(&gateway, ("GET", &path, none), 404, &json!({ "errorcode": 404 })).map(drop)
}
