//! The database file: its choice, and its permissions.

use super::create;
use crate::harness::{Output, Program, Scratch, System};

#[test]
fn a_database_of_a_newer_version_is_refused_in_one_sentence() {
    let scratch = Scratch::new();
    let file = scratch.file("users.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 7).unwrap();
    let message = refused_database(&scratch, file.to_str().unwrap());
    assert!(message.contains("version 7") && message.contains("newer"), "{message}");
}

#[test]
fn a_database_that_cannot_be_opened_is_refused_in_one_sentence() {
    let scratch = Scratch::new();
    let text = scratch.file("text.db");
    std::fs::write(&text, "this is no database, however one looks at it\n".repeat(100)).unwrap();
    let nowhere = scratch.file("no/such/directory/users.db");
    for file in [scratch.path(), &text, &nowhere] {
        refused_database(&scratch, file.to_str().unwrap());
    }
}

#[test]
fn a_database_in_memory_is_refused_since_the_instances_could_not_share_it() {
    let scratch = Scratch::new();
    for name in [":memory:", "file:users.db?mode=memory"] {
        let message = refused_database(&scratch, name);
        assert!(message.contains("name a file"), "{message}");
        assert!(!scratch.file(name).exists());
    }
}

/// Starts users on a database that it cannot use. Returns the one sentence that it prints.
fn refused_database(scratch: &Scratch, file: &str) -> String {
    let flags = ["--listen", "127.0.0.1:0", "--database", file];
    let users = Program::at(env!("CARGO_BIN_EXE_users")).directory(scratch.path()).flags(flags);
    let Output { status, stdout, stderr } = users.only_variables(&[]).run();
    assert_eq!((status, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with(&format!("users: cannot open the database {file}: ")), "{stderr}");
    stderr
}

#[cfg(unix)]
#[test]
fn the_database_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let system = System::start();
    create(&system.http(), "kim@example.com", "Kim", None);
    for file in ["users.db", "users.db-wal", "users.db-shm"] {
        let mode = std::fs::metadata(system.scratch.file(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}
