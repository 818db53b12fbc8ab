//! The backup of `docs/deployment.md`.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;

use super::have;
use crate::harness::{Process, Scratch, System, await_instances};

#[test]
fn a_backup_of_a_database_in_use_is_whole() {
    if !have(&["sqlite3"]) {
        return;
    }
    let system = System::builder().users(2).start();
    for number in 1..=50 {
        system.create_user(&format!("{number}@example.com"), "Kim");
    }
    let restored = Scratch::new();
    let database = system.scratch.file("users.db");
    let copy = restored.file("users.db");
    let (http, ended) = (system.http(), AtomicBool::new(false));
    thread::scope(|scope| {
        // Writes continue during the backup.
        scope.spawn(|| {
            for number in 51.. {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let user = json!({ "email": format!("{number}@example.com"), "name": "Lee" });
                assert_eq!(http.post("/users", &user).status, 201);
            }
        });
        let command = format!(".backup '{}'", copy.display());
        let output =
            Command::new("sqlite3").args(["-cmd", ".timeout 5000"]).arg(&database).arg(command).output();
        ended.store(true, Ordering::SeqCst);
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    let checked = Command::new("sqlite3").arg(&copy).arg("PRAGMA integrity_check").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "ok\n");
    let distributor = Process::distributor(&[]);
    let users = Process::users(&distributor, &restored, &[]);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/users", 1);
    for id in 1..=50 {
        let answer = gateway.http().get(&format!("/users/{id}"));
        assert_eq!(answer.results()["email"], json!(format!("{id}@example.com")), "user {id}");
    }
    drop(users);
}
