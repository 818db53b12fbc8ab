//! The page as the child of `cargo up`. In most stories, a script plays it.

use std::fs;

use serde_json::json;

use crate::harness::eventually;

use super::up::{Page, Up};

#[test]
fn the_page_receives_every_change_and_sends_commands() {
    let up = Up::with_page(&Page::sends("freeze users"));
    up.await_line("users is frozen; look: ");
    let heard = || fs::read_to_string(up.heard_by_the_page()).unwrap_or_default();
    eventually("the page has heard of the frozen process and the answer", || {
        let heard = heard();
        let frozen = heard.find(r#""program":"users","state":"frozen""#)?;
        let said = heard.find(r#"{"said":"users is frozen; look: "#)?;
        (frozen < said).then_some(())
    });
    up.command("load 20", "the load is 20 requests per second; look: ");
    eventually("the page has heard of the load", || heard().contains(r#"{"load":20}"#).then_some(()));
    assert!(up.shows("http://127.0.0.1:1/") && up.shows("the flags of the page: --switches"));
}

#[test]
fn without_the_page_everything_else_runs() {
    for page in [Page::Missing, Page::CannotListen, Page::EndsSoon] {
        let up = Up::with_page(&page);
        up.await_line("The others run without the page.");
        up.await_instances(1);
        up.command("load 20", "the page sends the load, and it does not run");
        up.command("kill users", "users was killed; look: ");
    }
}

#[test]
fn with_a_secret_there_are_no_switches() {
    let up = Up::secured(&Page::sends("kill users"));
    up.await_line("switches exist only in development mode");
    up.command("kill gateway", "switches exist only in development mode");
    assert!(up.shows("the flags of the page: ") && !up.shows("--switches") && !up.shows("Type `help` here"));
    assert_eq!(up.children().len(), 4);
}

#[test]
fn the_real_page_shows_the_processes_and_switches_them() {
    let up = Up::with_page(&Page::Real);
    let page = up.http_of("look");
    let process = |label: &str| {
        let system = page.get("/system.json").reply();
        let process =
            system["processes"].as_array()?.iter().find(|process| process["label"] == label)?.clone();
        Some((process, system["said"].as_str()?.to_owned()))
    };
    eventually("the page knows the processes", || {
        process("gateway").filter(|(one, _)| one["state"] == "running")
    });
    for (command, state, fault, said) in [
        ("freeze users", "frozen", "", "users is frozen; look: "),
        ("delay users 20", "running", "delay 20", "users is disturbed (delay 20); look: "),
        ("kill users", "ended", "delay 20", "users was killed; look: "),
    ] {
        assert_eq!(page.post("/switch", &json!({ "command": command })).status, 202);
        eventually(command, || {
            let (users, last) = process("users")?;
            (users["state"] == state && users["fault"] == fault && last.starts_with(said)).then_some(())
        });
    }
    up.await_line("users was killed; look: ");
}
