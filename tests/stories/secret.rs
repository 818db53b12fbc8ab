//! The cluster secret: access control for nodes, and the behaviour of a process without one.
//!
//! | file | tests |
//! | --- | --- |
//! | [`switch`] | the setting: its sources, the rejected values, and its effect |
//! | [`nodes`] | nodes with another secret, without one, or with a false distributor |
//! | [`strangers`] | peers that connect and do not know the secret |

mod nodes;
mod strangers;
mod switch;

use serde_json::json;

use crate::harness::{Output, Program, SECRET, System};

#[test]
fn with_one_secret_everywhere_the_walk_passes() {
    let system = System::builder().secured().users(2).start();
    let made = system.create_user("kim@example.com", "Kim");
    let read = system.http().get(&format!("/users/{}", made["id"]));
    assert_eq!((read.status, &read.results()["name"]), (200, &json!("Kim")));
    assert_eq!(system.http().get("/goods").status, 404);
}

/// The program that `docs/protocol.md` shows, for this distributor.
fn documented(system: &System) -> String {
    let page = include_str!("../../docs/protocol.md");
    let (_, section) = page.split_once("## 9. The cluster secret").unwrap();
    let (_, program) = section.split_once("```bash\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    assert!(program.contains("127.0.0.1/9000"), "{program}");
    program.replace("127.0.0.1/9000", &system.distributor.address().to_string().replace(':', "/"))
}

#[cfg(unix)]
#[test]
fn the_proof_by_hand_of_the_documents_is_accepted() {
    let has = |program: &str, flag| std::process::Command::new(program).arg(flag).output().is_ok();
    for (program, flag) in [("bash", "--version"), ("openssl", "version")] {
        if !has(program, flag) {
            return crate::harness::skip(program, "not installed on this machine");
        }
    }
    let system = System::builder().secured().start();
    let program = documented(&system);
    let run =
        |secret| Program::at("bash").flags(["-c", &program]).variables(&[("PILCROW_SECRET", secret)]).run();
    let Output { status, stdout, stderr } = run(SECRET);
    assert_eq!(status, Some(0), "{stdout} {stderr}");
    let list: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&list["uri"], list["params"].as_array().unwrap().len()), (&json!("/distributes"), 2));
    let Output { status, stdout, .. } = run("another secret that is long enough");
    assert_eq!(status, Some(1));
    assert!(stdout.contains("does not know the secret") && stdout.contains("401"), "{stdout}");
}
