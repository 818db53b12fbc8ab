//! A database of an older version is upgraded with all its content.

use serde_json::json;

use super::{PASSWORD, Person};
use crate::harness::{Program, Scratch, System};

#[test]
fn a_database_of_version_2_keeps_its_users_and_tokens_and_has_no_admin() {
    let scratch = Scratch::new();
    // A current process creates the password's hash.
    let (hash, token) = {
        let other = System::start();
        let kim = Person::new(&other, "kim");
        let database = rusqlite::Connection::open(other.scratch.file("users.db")).unwrap();
        let hash: String =
            database.query_row("SELECT password_hash FROM users", [], |row| row.get(0)).unwrap();
        let token: Vec<u8> = database.query_row("SELECT hash FROM tokens", [], |row| row.get(0)).unwrap();
        (hash, (token, kim.authorization))
    };
    let database = rusqlite::Connection::open(scratch.file("users.db")).unwrap();
    database.execute_batch(include_str!("../../../data/schema.sql")).unwrap();
    database.execute_batch(include_str!("../../../data/schema-2.sql")).unwrap();
    database.pragma_update(None, "user_version", 2).unwrap();
    let user = r#"{"id":1,"email":"kim@example.com","name":"Kim","created_at":"2026-01-01T00:00:00.000Z","updated_at":"2026-01-01T00:00:00.000Z"}"#;
    database
        .execute(
            "INSERT INTO users VALUES (1, 'kim@example.com', 'kim@example.com', 'Kim', ?1,
             '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', 1)",
            [hash],
        )
        .unwrap();
    database
        .execute(
            "INSERT INTO tokens VALUES (?1, 1, '2026-01-01T00:00:00.000Z', '2099-01-01T00:00:00.000Z')",
            [token.0],
        )
        .unwrap();
    database
        .execute("INSERT INTO changes VALUES (1, 'created', 1, ?1, '2026-01-01T00:00:00.000Z')", [user])
        .unwrap();
    drop(database);

    let variables = [("PILCROW_SECRET", crate::harness::SECRET)];
    let distributor = Program::distributor().variables(&variables).start();
    let users = Program::users(distributor.address(), &scratch).variables(&variables).start();
    let gateway = Program::gateway(distributor.address()).variables(&variables).start();
    crate::harness::await_instances(&gateway, "GET", "/users", 1);
    users.await_log(&["schema version 3"]);
    let http = gateway.http();
    let get = |path: &str| http.request("GET", path, &[("Authorization", &token.1)], b"").results();
    assert_eq!(get("/users/1")["email"], "kim@example.com", "the old token is valid");
    assert_eq!(get("/users/1").get("role"), None);
    assert_eq!(http.get("/users/1").results().get("email"), None);
    assert_eq!(get("/users/changes?limit=5")[0]["user"]["email"], "kim@example.com");
    let public = http.get("/users/changes?limit=5").results();
    assert_eq!((&public[0]["user"]["name"], public[0]["user"].get("email")), (&json!("Kim"), None));
    let login = json!({ "email": "kim@example.com", "password": PASSWORD });
    assert_eq!(http.post("/users/login", &login).status, 200);
}
