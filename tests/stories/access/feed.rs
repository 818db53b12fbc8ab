//! The change feed in a secured cluster: all readers get the same changes, only owners get e-mail addresses.

use serde_json::{Value, json};

use super::{PASSWORD, Person};
use crate::harness::{Events, Output, Piece, System};

/// The e-mail addresses in changes, by change.
fn emails(changes: &[Value]) -> Vec<Option<&str>> {
    changes.iter().map(|change| change["user"].get("email").map(|email| email.as_str().unwrap())).collect()
}

/// The comment that confirms a stream.
fn await_standing(events: &mut Events) {
    assert!(matches!(events.piece(), Some(Piece::Comment(_))));
}

#[test]
fn each_subscriber_gets_only_the_email_addresses_that_it_may_see() {
    let system = System::builder().secured().users(2).start();
    let (kim, lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    let boss = Person::admin(&system, "boss");
    let stranger = || system.http().events("/users/changes", &[]).unwrap();
    let mut live = [
        (stranger(), [None, None]),
        (kim.follow("/users/changes").unwrap(), [Some("kim@example.com"), None]),
        (lee.follow("/users/changes").unwrap(), [None, Some("lee@example.com")]),
        (boss.follow("/users/changes").unwrap(), [Some("kim@example.com"), Some("lee@example.com")]),
    ];
    for (events, _) in &mut live {
        await_standing(events);
    }
    for person in [&kim, &lee] {
        assert_eq!(person.patch(&person.path(), &json!({ "name": "changed ¶" })).status, 200);
    }
    for (events, expected) in &mut live {
        let changes = events.changes(2);
        assert_eq!(emails(&changes), *expected, "{changes:?}");
        assert_eq!(changes[0]["user"]["name"], "changed ¶");
    }
    let all = [Some("kim@example.com"), Some("lee@example.com"), Some("boss@example.com")];
    let mine = |own: usize| {
        let mut mine = [None; 5];
        let mut show = |at: usize| mine[at] = [all[0], all[1], all[2], all[0], all[1]][at];
        (0..5).filter(|at| *at == own || *at == own + 3).for_each(&mut show);
        mine.to_vec()
    };
    for (person, expected) in
        [(&kim, mine(0)), (&lee, mine(1)), (&boss, vec![all[0], all[1], all[2], all[0], all[1]])]
    {
        let changes = person.follow("/users/changes?after=0").unwrap().changes(5);
        assert_eq!(emails(&changes), expected, "replayed: {changes:?}");
        let page = person.get("/users/changes?limit=10").results();
        assert_eq!(emails(page.as_array().unwrap()), expected, "as a page: {page}");
    }
    let replayed = system.http().events("/users/changes?after=0", &[]).unwrap().changes(5);
    assert_eq!(emails(&replayed), [None; 5]);
    assert_eq!(emails(system.http().get("/users/changes?limit=10").results().as_array().unwrap()), [None; 5]);
}

/// Panics unless this stream ends because its token did, without any further event.
#[track_caller]
fn assert_ends(mut events: Events) {
    let last = events.event().expect("a last event with the reason");
    assert_eq!(last.name.as_deref(), Some("error"), "{last:?}");
    assert!(last.data.contains("401") && last.data.contains("POST /users/login"), "{last:?}");
    assert_eq!(events.piece(), None);
}

#[test]
fn a_stream_ends_with_its_token_and_others_continue() {
    let system = System::builder().secured().users(2).start();
    let kim = Person::new(&system, "kim");
    let [out, changed] = [(); 2].map(|()| Person::log_in(&system, &kim.email, PASSWORD));
    let boss = Person::admin(&system, "boss");
    let mut streams = [&out, &changed, &boss].map(|one| one.follow("/users/changes?after=0").unwrap());
    for events in &mut streams {
        events.changes(2);
    }
    let [of_out, mut of_changed, mut of_boss] = streams;

    assert_eq!(out.log_out().status, 200);
    assert_ends(of_out);
    assert_eq!(kim.patch(&kim.path(), &json!({ "name": "K" })).status, 200);
    assert_eq!(of_changed.change()["user"]["email"], kim.email, "another token of the same user");
    assert_eq!(boss.patch(&kim.path(), &json!({ "password": "a new password" })).status, 200);
    assert_ends(of_changed);
    assert_eq!(boss.delete(&kim.path()).status, 200);
    let seen = of_boss.changes(3);
    assert_eq!(
        seen.iter().map(|change| &change["kind"]).collect::<Vec<_>>(),
        ["updated", "updated", "deleted"]
    );
}

#[test]
fn nothing_that_happens_after_a_logout_is_sent_to_its_streams() {
    let system = System::builder().secured().users(2).start();
    let boss = Person::admin(&system, "boss");
    for round in 0..20 {
        let admin = Person::log_in(&system, &boss.email, PASSWORD);
        let mut events = admin.follow("/users/changes").unwrap();
        await_standing(&mut events);
        assert_eq!(admin.log_out().status, 200);
        system.create_user(&format!("{round}@example.com"), "Secret");
        assert_ends(events);
    }
}

#[test]
fn a_stream_ends_when_its_token_expires_even_if_nothing_happens() {
    let system = System::builder().secured().users_flags(&["--token-ttl", "2"]).start();
    let kim = Person::new(&system, "kim");
    let mut events = kim.follow("/users/changes").unwrap();
    await_standing(&mut events);
    assert_ends(events);
}

#[test]
fn a_new_admin_sees_all_addresses_from_then_on() {
    let system = System::builder().secured().start();
    let (kim, lee) = (Person::new(&system, "kim"), Person::new(&system, "lee"));
    let mut events = kim.follow("/users/changes").unwrap();
    await_standing(&mut events);
    let Output { status, stderr, .. } = super::make_admin(&system.scratch, &kim.email, "");
    assert_eq!(status, Some(0), "{stderr}");
    let change = events.change();
    assert_eq!((&change["kind"], &change["user"]["role"]), (&json!("updated"), &json!("admin")));
    assert_eq!(lee.patch(&lee.path(), &json!({ "name": "L" })).status, 200);
    assert_eq!(events.change()["user"]["email"], lee.email);
}
