//! Lesson 7: every change, once and at once. The program is `users` with its change feed.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::users::{Follower, User, Users};
use crate::check::{Check, Failure, Verdict, ensure};
use crate::language::{Text, text};
use crate::setup::Setup;

const FOLLOWER: [&str; 2] = ["follower", "구독자"];
/// A change must reach a follower within this time.
const LIVE_TIME: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(500);

pub const CHECKS: &[Check] = &[
    Check {
        name: "numbers",
        claim: [
            "Changes have the numbers 1, 2, 3 … without a gap.",
            "변경에는 1, 2, 3 … 순번이 빠짐없이 붙습니다.",
        ],
        hint: [
            "Write the user and its change in one transaction. The next number is max(seq) + 1 inside it.",
            "사용자와 변경을 한 트랜잭션에서 쓰십시오. 다음 순번은 그 안에서 max(seq) + 1입니다.",
        ],
        run: numbers,
    },
    Check {
        name: "live",
        claim: ["A change reaches a follower within 1 s.", "변경은 1초 안에 구독자에게 도달합니다."],
        hint: [
            "After the old changes, keep looking for new ones: a thread for each stream, and more:true in each reply.",
            "이전 변경을 보낸 뒤에도 새 변경을 계속 확인하십시오. 스트림마다 스레드를 두고 응답마다 more:true를 넣으십시오.",
        ],
        run: live,
    },
    Check {
        name: "resume",
        claim: [
            "A follower that comes back with after=N gets exactly the rest.",
            "after=N으로 돌아온 구독자는 나머지를 정확히 받습니다.",
        ],
        hint: [
            "Read old and new changes from one place: SELECT … WHERE seq > after ORDER BY seq.",
            "이전 변경과 새 변경을 한곳에서 읽으십시오: SELECT … WHERE seq > after ORDER BY seq.",
        ],
        run: resume,
    },
    Check {
        name: "two-instances",
        claim: [
            "A change through one instance is seen at once through the other.",
            "한 인스턴스로 바꾼 내용이 다른 인스턴스에서도 바로 보입니다.",
        ],
        hint: [
            "Keep nothing in memory that the other process can change. Both read the one database file.",
            "다른 프로세스가 바꿀 수 있는 것을 메모리에 두지 마십시오. 두 프로세스가 데이터베이스 파일 하나를 읽습니다.",
        ],
        run: two_instances,
    },
    Check {
        name: "kill-9-keeps-numbers",
        claim: [
            "After kill -9, every acknowledged change is in the feed once.",
            "kill -9 뒤에도 응답한 변경은 모두 피드에 한 번씩 있습니다.",
        ],
        hint: [
            "The change belongs into the transaction of the user, and the reply comes after the commit.",
            "변경은 사용자와 같은 트랜잭션에 넣고, 응답은 커밋 뒤에 보내십시오.",
        ],
        run: kill_9_keeps_numbers,
    },
];

fn numbers(setup: &Setup) -> Verdict {
    let program = setup.start()?;
    let mut users = Users::connect(&program)?;
    let kim = users.create(&User::new("kim"))?;
    let lee = users.create(&User::new("lee"))?;
    users.expect(
        "PATCH",
        &json!({ "params": kim.to_string(), "name": "Kimberly" }),
        json!({ "errorcode": 0 }),
    )?;
    users.expect("DELETE", &json!({ "params": lee.to_string() }), json!({ "errorcode": 0 }))?;
    let mut follower = Follower::start(&program, FOLLOWER, 0)?;
    let ids = ["created", "created", "updated", "deleted"].map(|kind| follower.expect(kind));
    let ids = ids.into_iter().collect::<Result<Vec<u64>, Failure>>()?;
    ensure(ids == [kim, lee, kim, lee], || {
        Failure::new(
            text!("user_id {kim}, {lee}, {kim}, {lee}", "user_id {kim}, {lee}, {kim}, {lee}"),
            Text::same(format!("{ids:?}")),
        )
    })?;
    follower.expect_silence(MOMENT)
}

fn live(setup: &Setup) -> Verdict {
    let program = setup.start()?;
    let mut follower = Follower::start(&program, FOLLOWER, 0)?;
    let mut second = Follower::start(&program, ["second follower", "두 번째 구독자"], 0)?;
    let mut users = Users::connect(&program)?;
    for name in ["kim", "lee"] {
        users.create(&User::new(name))?;
        follower.expect_within(LIVE_TIME, "created")?;
        second.expect_within(LIVE_TIME, "created")?;
    }
    Ok(())
}

fn resume(setup: &Setup) -> Verdict {
    let program = setup.start()?;
    let mut users = Users::connect(&program)?;
    for name in ["kim", "lee", "park", "choi"] {
        users.create(&User::new(name))?;
    }
    let mut follower = Follower::start(&program, FOLLOWER, 2)?;
    follower.expect("created")?;
    follower.expect("created")?;
    follower.expect_silence(MOMENT)?;
    // From the old changes to the new ones there is no gap, and nothing comes twice.
    users.create(&User::new("jung"))?;
    follower.expect("created")?;
    follower.expect_silence(MOMENT)
}

fn two_instances(setup: &Setup) -> Verdict {
    let first = setup.start()?;
    let second = setup.start()?;
    setup
        .transcript
        .happened(&text!("two instances, one database file", "인스턴스 두 개, 데이터베이스 파일 하나"));
    let mut follower = Follower::start(&second, ["follower of instance 2", "인스턴스 2의 구독자"], 0)?;
    let (mut writer, mut reader) = (Users::connect(&first)?, Users::connect(&second)?);
    for name in ["kim", "lee", "park"] {
        let id = writer.create(&User::new(name))?;
        let found = json!({ "errorcode": 0, "results": User::new(name).fields() });
        reader.expect("GET", &json!({ "params": id.to_string() }), found)?;
        follower.expect_within(LIVE_TIME, "created")?;
        let change = json!({ "params": id.to_string(), "name": "new" });
        writer.expect("PATCH", &change, json!({ "errorcode": 0 }))?;
        let found = json!({ "errorcode": 0, "results": { "name": "new" } });
        reader.expect("GET", &json!({ "params": id.to_string() }), found)?;
        follower.expect_within(LIVE_TIME, "updated")?;
    }
    // And back: the numbers of both instances are one sequence.
    reader.create(&User::new("choi"))?;
    follower.expect_within(LIVE_TIME, "created").map(drop)
}

fn kill_9_keeps_numbers(setup: &Setup) -> Verdict {
    let mut program = setup.start()?;
    let answered = super::saving::kill_while_writing(&mut program)?;
    program.restart()?;
    let changes = Follower::start(&program, FOLLOWER, 0)?.read_all(LIVE_TIME)?;
    let emails: Vec<&Value> = changes.iter().map(|change| &change["user"]["email"]).collect();
    let different: BTreeSet<String> = emails.iter().map(ToString::to_string).collect();
    let is_there = |key: &u64| emails.iter().any(|email| **email == format!("user{key}@example.com"));
    let lost: Vec<u64> = answered.iter().copied().filter(|key| !is_there(key)).collect();
    ensure(lost.is_empty() && different.len() == emails.len(), || {
        let (count, in_feed) = (answered.len(), emails.len());
        Failure::new(
            text!("{count} acknowledged changes, each once", "응답한 변경 {count}개가 한 번씩"),
            text!(
                "{in_feed} changes; lost are these keys: {lost:?}",
                "변경 {in_feed}개. 사라진 키: {lost:?}"
            ),
        )
    })?;
    let mut follower = Follower::start(&program, FOLLOWER, changes.len() as u64)?;
    Users::connect(&program)?.create(&User::new("next"))?;
    follower.expect("created").map(drop)
}
