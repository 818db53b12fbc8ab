//! `users --admin`: the only way to become an admin.

use serde_json::json;

use super::{PASSWORD, Person, make_admin};
use crate::harness::{Output, Scratch, System};

#[test]
fn an_admin_is_made_while_users_processes_run_and_the_change_is_in_the_feed() {
    let system = System::builder().secured().users(2).start();
    let mut events = system.http().events("/users/changes?after=0", &[]).unwrap();
    let Output { status, stdout, stderr } =
        make_admin(&system.scratch, "boss@example.com", &format!("{PASSWORD}\n"));
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(stdout, "boss@example.com, user 1, is new and an admin");
    let change = events.change();
    assert_eq!((&change["kind"], &change["user"]["name"]), (&json!("created"), &json!("Admin")));
    assert_eq!(change["user"]["role"], "admin");
    let boss = Person::log_in(&system, "boss@example.com", PASSWORD);
    assert_eq!(boss.get("/users/1").results()["role"], "admin");
    assert_eq!(
        Person::new(&system, "kim").get("/users/2").results().get("role"),
        None,
        "only an admin's record shows a role"
    );
}

#[test]
fn a_user_that_exists_is_made_an_admin_and_keeps_its_password() {
    let system = System::builder().secured().start();
    let kim = Person::new(&system, "kim");
    let first = make_admin(&system.scratch, "KIM@example.com", "some other password\n");
    assert_eq!(first.status, Some(0), "{}", first.stderr);
    assert_eq!(first.stdout, "kim@example.com, user 1, is an admin now, with the password that it has");
    assert_eq!(kim.get("/users/1").results()["role"], "admin");
    assert_eq!(Person::log_in(&system, &kim.email, PASSWORD).get("/users").status, 200);
    let changes = || system.http().get("/users/changes?limit=10").results().as_array().unwrap().len();
    assert_eq!(changes(), 2);
    let second = make_admin(&system.scratch, "kim@example.com", "");
    assert_eq!((second.status, second.stdout), (Some(0), first.stdout), "a second run has no effect");
    assert_eq!(changes(), 2, "and no further change");
    let nobodys = json!({ "email": "lee@example.com", "name": "Lee" });
    assert_eq!(system.http().post("/users", &nobodys).status, 201);
    let Output { status, stdout, .. } = make_admin(&system.scratch, "lee@example.com", "");
    assert_eq!(status, Some(0));
    assert!(stdout.contains("has no password and cannot log in"), "{stdout}");
}

#[test]
fn invalid_input_creates_no_admin_and_gets_one_sentence() {
    let scratch = Scratch::new();
    let refused = [
        ("boss@example.com", "short\n", "password must have 8 to 128 characters"),
        ("boss@example.com", "", "password must have 8 to 128 characters"),
        ("boss", "a good password\n", "email must be an e-mail address"),
    ];
    for (email, stdin, why) in refused {
        let Output { status, stdout, stderr } = make_admin(&scratch, email, stdin);
        assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(last.starts_with("users: ") && last.contains(why), "{stderr}");
        assert!(stdin.trim().is_empty() || !stderr.contains(stdin.trim()), "{stderr}");
    }
    // The line end of another system is not part of the password.
    let Output { status, stderr, .. } =
        make_admin(&scratch, "boss@example.com", "a good password\r\nand another line\n");
    assert_eq!(status, Some(0), "{stderr}");
    let system = System::builder().scratch(scratch).start();
    Person::log_in(&system, "boss@example.com", "a good password");
}
