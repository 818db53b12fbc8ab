//! The page as the child of `cargo up`. In most stories, a script plays it.

use std::fs;

use serde_json::json;

use crate::harness::{Browser, eventually};

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

#[test]
fn a_person_breaks_an_instance_on_the_page_and_sees_how_the_system_reacts() {
    let Some(browser) = Browser::start() else { return };
    let up = Up::with_page(&Page::Real);
    up.command("start users", "users-2 has started; look: ");
    up.await_instances(2);
    let url = format!("http://{}/", up.address_of("look"));
    browser.open(&url);
    browser.click("#tab-switches");
    browser.click("[data-process=\"users-2\"]");
    let state = |state: &str| {
        let process = format!("[data-process=\"users-2\"][data-state=\"{state}\"]");
        browser.await_value(&format!("document.querySelector({}) !== null", json!(process)));
    };
    state("running");
    browser.click("[data-switch=\"freeze\"]");
    state("frozen");
    browser.await_text("#said", "users-2 is frozen; look: ");
    browser.await_text("#health", "users-2");
    // The switch has turned the load on, and no request of it fails: reads go to the other instance.
    let answered = || up.http_of("look").get("/system.json").reply()["load"].clone();
    eventually("the load is answered", || {
        let load = answered();
        (load["answered"].as_u64()? >= 20).then(|| assert_eq!(load["failed"], 0, "{load}"))
    });
    browser.click("[data-switch=\"continue\"]");
    state("running");
    browser.click("[data-switch=\"delay\"]");
    browser.await_text("[data-process=\"users-2\"]", "delay 200");
    state("running");
    browser.click("[data-switch=\"heal\"]");
    browser.await_text("#said", "users-2 is healed; look: ");
    browser.click("#load-off");
    eventually("the load is off", || (answered()["per_second"] == 0).then_some(()));
    browser.assert_clean(&url);
}
