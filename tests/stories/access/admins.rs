//! `users --admin`: the only way to become an admin.

use serde_json::json;

use super::{PASSWORD, Person, make_admin};
use crate::harness::{Scratch, System};

#[test]
fn an_admin_is_made_while_users_processes_run_and_the_change_is_in_the_feed() {
    let system = System::secured(2);
    let mut events = system.http().events("/users/changes?after=0", &[]).unwrap();
    let (status, told, log) = make_admin(&system.scratch, "boss@example.com", &format!("{PASSWORD}\n"));
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(told, "boss@example.com, user 1, is new and an admin");
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
    let system = System::secured(1);
    let kim = Person::new(&system, "kim");
    let (status, told, log) = make_admin(&system.scratch, "KIM@example.com", "some other password\n");
    assert_eq!(status, Some(0), "{log}");
    assert_eq!(told, "kim@example.com, user 1, is an admin now, with the password that it has");
    assert_eq!(kim.get("/users/1").results()["role"], "admin");
    assert_eq!(Person::log_in(&system, &kim.email, PASSWORD).get("/users").status, 200);
    let changes = || system.http().get("/users/changes?limit=10").results().as_array().unwrap().len();
    assert_eq!(changes(), 2);
    let (status, again, _) = make_admin(&system.scratch, "kim@example.com", "");
    assert_eq!((status, again), (Some(0), told), "a second run has no effect");
    assert_eq!(changes(), 2, "and no further change");
    let nobodys = json!({ "email": "lee@example.com", "name": "Lee" });
    assert_eq!(system.http().post("/users", &nobodys).status, 201);
    let (status, told, _) = make_admin(&system.scratch, "lee@example.com", "");
    assert_eq!(status, Some(0));
    assert!(told.contains("has no password and cannot log in"), "{told}");
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
        let (status, out, told) = make_admin(&scratch, email, stdin);
        assert_eq!((status, out.as_str()), (Some(1), ""), "{told}");
        let last = told.lines().last().unwrap();
        assert!(last.starts_with("users: ") && last.contains(why), "{told}");
        assert!(stdin.trim().is_empty() || !told.contains(stdin.trim()), "{told}");
    }
    // The line end of another system is not part of the password.
    let (status, _, told) = make_admin(&scratch, "boss@example.com", "a good password\r\nand another line\n");
    assert_eq!(status, Some(0), "{told}");
    let system = System::on(scratch, crate::harness::Process::distributor(&[]), 1, &[]);
    Person::log_in(&system, "boss@example.com", "a good password");
}
