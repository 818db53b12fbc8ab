//! A recording that is sent again.

use std::path::Path;

use serde_json::json;

use super::{Tap, Tapped, lines_of, program};
use crate::harness::{Output, Packets, Program, SECRET, Scratch, eventually};

/// Waits until the recording has this many replies.
fn await_replies(recording: &Path, count: usize) {
    eventually(&format!("{count} replies are recorded"), || {
        let replies = lines_of(recording).into_iter().filter(|line| line["direction"] == "from").count();
        (replies == count).then_some(())
    });
}

/// Replays this recording. Returns the exit status, stdout and stderr.
fn replay(node: &str, recording: &str, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let replay = Program::at(&program()).flags([node, "--replay", recording]).variables(variables);
    let Output { status, stdout, stderr } = replay.run();
    (status, stdout, stderr)
}

#[test]
fn a_recording_replays_without_differences_until_the_database_changes() {
    let scratch = Scratch::new();
    let recording = scratch.file("recording");
    let file = recording.to_str().unwrap();
    let tapped = Tapped::start(&["--record", file]);
    tapped.create_user("Kim");
    let statuses = ["/users/1", "/users", "/users/99"].map(|path| tapped.http().get(path).status);
    assert_eq!(statuses, [200, 200, 404]);
    let login = json!({ "email": "Kim@example.com", "password": "a password that is wrong" });
    assert_eq!(tapped.http().post("/users/login", &login).status, 401);
    await_replies(&recording, 4);

    let users = tapped.users.address().to_string();
    let replay = || replay(&users, file, &[]);
    let (status, out, stderr) = replay();
    assert_eq!(status, Some(0), "{out} {stderr}");
    assert_eq!(
        out,
        "skipped 1 of 4 requests, because a secret in them is masked\nsent 3 requests: all replies are as recorded"
    );

    tapped.users.packets().call("PATCH", "/users", &json!({ "params": "1", "name": "Lee" }), 1);
    let (status, out, stderr) = replay();
    assert_eq!(status, Some(1), "{out}");
    assert!(out.contains(r#"GET /users key 1: results.name: recorded "Kim", now "Lee""#), "{out}");
    assert!(out.contains(r#"results[0].name: recorded "Kim", now "Lee""#), "{out}");
    assert!(!out.contains("key 3") && !out.contains("updated_at"), "{out}");
    assert!(stderr.contains("the replies to 2 of them differ"), "{stderr}");

    drop(tapped);
    let (status, _, stderr) = replay();
    assert!(status == Some(1) && stderr.contains("cannot connect"), "{stderr}");
}

#[test]
fn a_replay_proves_the_cluster_secret() {
    let scratch = Scratch::new();
    let recording = scratch.file("recording");
    let file = recording.to_str().unwrap();
    let variables = [("PILCROW_SECRET", SECRET)];
    let distributor = Program::distributor().variables(&variables).start();
    let users = Program::users(distributor.address(), &scratch).variables(&variables).start();
    let tap = Tap::start(users.address(), &["--record", file]);
    let mut packets = Packets::proven(tap.address(), SECRET);
    assert_eq!(packets.call("GET", "/users", &json!({}), 1)["errorcode"], 0);
    // The challenge and the proof are packets too.
    await_replies(&recording, 3);
    let users = users.address().to_string();
    let (status, out, stderr) = replay(&users, file, &variables);
    assert_eq!((status, out.as_str()), (Some(0), "sent 1 requests: all replies are as recorded"), "{stderr}");
    let (status, out, _) = replay(&users, file, &[]);
    assert!(status == Some(1) && out.contains("#1 GET /users key 1: "), "{out}");
}

#[test]
fn a_file_that_is_no_recording_is_rejected_with_its_line() {
    let scratch = Scratch::new();
    let file = scratch.file("recording");
    std::fs::write(&file, "{\"ms\":1,\"connection\":1,\"note\":\"closed\"}\nhello\n").unwrap();
    let (status, _, stderr) = replay("127.0.0.1:9", file.to_str().unwrap(), &[]);
    assert!(status == Some(1) && stderr.contains("line 2: this is no line of a recording"), "{stderr}");
}
