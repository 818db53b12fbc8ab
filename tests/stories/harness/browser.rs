//! A real browser: headless Chromium, driven over HTTP by its driver (`WebDriver`).

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::{Http, Program, Watched, eventually, skip};

/// The name under which the driver returns an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one window. Dropping it closes it.
pub struct Browser {
    driver: Http,
    session: String,
    _process: Watched,
}

impl Browser {
    /// Starts a browser. `None`, with a note, if there is no Chromium on this machine.
    pub fn start() -> Option<Self> {
        for program in ["chromedriver", "chromium"] {
            let is_there = std::process::Command::new(program).arg("--version").output().is_ok();
            if !is_there {
                skip(program, "not installed on this machine");
                return None;
            }
        }
        let mut process = Program::at("chromedriver").flags(["--port=0"]).watch();
        let port = loop {
            let line = process.line().expect("chromedriver starts");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        let driver = Http::by_address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let flags =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", "--lang=en"];
        let options = json!({
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let session =
            command(&driver, "POST", "/session", &json!({ "capabilities": { "alwaysMatch": options } }));
        let session =
            session["sessionId"].as_str().unwrap_or_else(|| panic!("no browser: {session}")).to_owned();
        Some(Self { driver, session, _process: process })
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// The value of an expression in the page.
    pub fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.command("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression in the page is true, or has any other value than null, false and "".
    pub fn await_value(&self, expression: &str) -> Value {
        eventually(&format!("in the page: {expression}"), || {
            Some(self.value(expression)).filter(|value| !matches!(value, Value::Null | Value::Bool(false)))
        })
    }

    /// The visible text of the first element.
    pub fn text(&self, selector: &str) -> String {
        // An SVG element has no `innerText`.
        let node = format!("document.querySelector({})", json!(selector));
        let text = self.value(&format!("{node}?.innerText ?? {node}?.textContent ?? ''"));
        text.as_str().unwrap().to_owned()
    }

    /// Waits until the visible text of an element contains these words.
    pub fn await_text(&self, selector: &str, words: &str) {
        eventually(&format!("{selector} contains {words:?}; it is {:?}", self.text(selector)), || {
            self.text(selector).contains(words).then_some(())
        });
    }

    /// Clicks an element as a person does: it must be visible.
    pub fn click(&self, selector: &str) {
        let element = self.element(selector);
        self.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Types into an element.
    pub fn enter(&self, selector: &str, text: &str) {
        let element = self.element(selector);
        self.command("POST", &format!("/element/{element}/value"), &json!({ "text": text }));
    }

    fn element(&self, selector: &str) -> String {
        eventually(&format!("the page has {selector}"), || {
            let found = json!({ "using": "css selector", "value": selector });
            let found = self.command("POST", "/element", &found);
            found[ELEMENT].as_str().map(str::to_owned)
        })
    }

    /// Checks that the console is empty and that every request went to this address.
    pub fn assert_clean(&self, base: &str) {
        let log = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        assert_eq!(log, json!([]), "the console has messages");
        let events = self.command("POST", "/se/log", &json!({ "type": "performance" }));
        let messages = events.as_array().unwrap().iter().filter_map(|event| event["message"].as_str());
        let messages = messages.map(|message| serde_json::from_str::<Value>(message).unwrap());
        let sent = messages.filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        let urls: Vec<String> = sent
            .map(|sent| sent["message"]["params"]["request"]["url"].as_str().unwrap().to_owned())
            .collect();
        assert!(urls.iter().any(|url| url.starts_with(base)), "no request was seen: {urls:?}");
        let foreign: Vec<&String> = urls.iter().filter(|url| !url.starts_with(base)).collect();
        assert!(foreign.is_empty(), "requests to other hosts: {foreign:?}");
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        command(&self.driver, method, &format!("/session/{}{path}", self.session), body)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the processes of the browser.
        self.driver.try_request("DELETE", &format!("/session/{}", self.session), &[], b"");
    }
}

fn command(driver: &Http, method: &str, path: &str, body: &Value) -> Value {
    driver.json(method, path, body).reply()["value"].clone()
}
