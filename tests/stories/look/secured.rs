//! The page of a cluster with a secret.

use serde_json::json;

use super::{by_address, look_with, url};
use crate::harness::{Browser, Program, SECRET, System, eventually, tool};

const SECURED: [(&str, &str); 1] = [("PILCROW_SECRET", SECRET)];

#[test]
fn with_a_secret_the_page_only_reads() {
    let system = System::builder().secured().start();
    let look = look_with(&system, &SECURED);
    let shown = eventually("the gateway is read", || {
        Some(by_address(&look).get("/system.json").reply())
            .filter(|shown| shown["gateways"][0]["state"] == "up")
    });
    assert_eq!(shown["mode"], "secured");
    assert_eq!(shown["gateways"][0]["journeys"], "off");
    assert_eq!(shown["gateways"][0]["links"][0]["state"], "up");
    let send = json!({ "method": "GET", "path": "/users" });
    assert_eq!(by_address(&look).post("/send", &send).status, 403);
    assert_eq!(by_address(&look).post("/switch", &json!({ "command": "kill users" })).status, 403);
    assert_eq!(by_address(&look).get("/source/src/net/link.rs").status, 404);
    let Some(browser) = Browser::start() else { return };
    browser.open(&url(&look));
    browser.await_value("document.querySelector('[data-box][data-state=\"up\"]') !== null");
    assert_eq!(browser.value("document.querySelector('#send-first')?.offsetParent ?? null"), json!(null));
    browser.assert_clean(&url(&look));
}

#[test]
fn with_a_secret_the_page_listens_on_loopback_addresses_only() {
    let output = Program::at(tool("pilcrow-look").to_str().unwrap())
        .flags(["--listen", "0.0.0.0:0", "--distributor", "127.0.0.1:1"])
        .variables(&SECURED)
        .run();
    assert_eq!(output.status, Some(1));
    assert!(output.stderr.contains("the page is for loopback addresses"), "{}", output.stderr);
}
