//! The page in a real browser. Each story ends with an empty console and no request to another host.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{by_address, look, url};
use crate::harness::{Browser, Echo, Process, System, await_instances, eventually};

/// A system with two instances, its page, and a browser that shows it.
struct Shown {
    browser: Browser,
    look: Process,
    system: System,
}

impl Shown {
    /// `None` if there is no browser on this machine.
    fn start() -> Option<Self> {
        let browser = Browser::start()?;
        let system = System::builder().users(2).start();
        system.await_instances("GET", "/users", 2);
        let look = look(&system);
        browser.open(&url(&look));
        let shown = Self { browser, look, system };
        shown.browser.await_value("document.querySelectorAll('[data-box][data-state=\"up\"]').length >= 4");
        Some(shown)
    }

    fn assert_clean(&self) {
        self.browser.assert_clean(&url(&self.look));
    }

    /// Waits until the box of this process has this state.
    fn await_box(&self, process: &str, state: &str) {
        let selector = format!("[data-box=\"{process}\"][data-state=\"{state}\"]");
        self.browser.await_value(&format!("document.querySelector({}) !== null", json!(selector)));
    }

    /// Waits until the page follows the change feed.
    fn await_feed(&self) {
        eventually("the feed is read", || {
            (by_address(&self.look).get("/system.json").reply()["changes"] == "on").then_some(())
        });
    }

    /// Opens the journey of the request with this id.
    fn open_journey(&self, id: &str) {
        self.browser.click("#tab-requests");
        self.browser.click(&format!("[data-id=\"{id}\"]"));
        self.browser.await_value("document.querySelector('#journey-body')?.hidden === false");
    }
}

#[test]
fn the_page_shows_every_process_and_its_links_without_a_click() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, system, .. } = &shown;
    shown.await_box(&system.gateway.address().to_string(), "up");
    shown.await_box(&system.distributor.address().to_string(), "up");
    for users in &system.users {
        shown.await_box(&users.address().to_string(), "up");
        let link = format!("{} {}", system.gateway.address(), users.address());
        let link = format!("document.querySelector('[data-link=\"{link}\"][data-state=\"up\"]') !== null");
        browser.await_value(&link);
    }
    browser.await_text("#health", "2 instances");
    browser.click("#send-first");
    browser.await_text("#send-result", "201");
    browser.await_text("#latest-packet", "¶");
    browser.await_text("#requests-list", "POST /users");
    shown.assert_clean();
}

#[test]
fn a_killed_instance_is_shown_as_down_within_a_second_and_recovers() {
    let Some(mut shown) = Shown::start() else { return };
    let address = shown.system.users[1].address().to_string();
    let mut took = Vec::new();
    // Other tests may keep the browser waiting, so the fastest of three counts.
    for _ in 0..3 {
        let killed = Instant::now();
        shown.system.users.remove(1).kill();
        shown.await_box(&address, "down");
        took.push(killed.elapsed());
        shown.browser.await_text("#health", &address);
        let System { distributor, scratch, .. } = &shown.system;
        let again = Process::users(distributor, scratch, &["--listen", &address]);
        shown.await_box(&address, "up");
        shown.system.users.push(again);
    }
    assert!(took.iter().any(|took| *took < Duration::from_secs(1)), "it took {took:?}");
    shown.assert_clean();
}

#[test]
fn a_journey_visits_the_processes_in_the_order_of_the_request() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, system, .. } = &shown;
    system.http().request("GET", "/users/99", &[("X-Request-Id", "the-one")], b"");
    shown.open_journey("the-one");
    let active = "document.querySelector('[data-box][data-active]')?.dataset.box ?? 'none'";
    let mut visited: Vec<Value> = vec![browser.value(active)];
    for _ in 0..64 {
        browser.click("#journey-step");
        let now = browser.value(active);
        if visited.last() != Some(&now) {
            visited.push(now);
        }
        if browser.value("document.querySelector('#journey-step').disabled") == true {
            break;
        }
    }
    let gateway = json!(system.gateway.address().to_string());
    assert_eq!((visited.len(), &visited[0], &visited[2]), (3, &gateway, &gateway), "{visited:?}");
    let instances: Vec<Value> = system.users.iter().map(|users| json!(users.address().to_string())).collect();
    assert!(instances.contains(&visited[1]), "{visited:?}");
    browser.await_text("#journey-detail", "404");
    shown.assert_clean();
}

#[test]
fn a_step_shows_its_packet_and_its_source_file() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, system, .. } = &shown;
    system.http().request("GET", "/users", &[("X-Request-Id", "the-one")], b"");
    shown.open_journey("the-one");
    let rows = browser.value("document.querySelectorAll('#journey-steps > *').length").as_u64().unwrap();
    let link = (1..=rows).find(|row| {
        browser.click(&format!("#journey-steps > :nth-child({row}) button"));
        browser.text("#journey-detail").contains("src/net/link.rs")
    });
    assert!(link.is_some(), "no step is of the link");
    browser.await_text("#journey-detail", r#"{"uri":"/users","method":"GET","#);
    browser.await_text("#journey-detail", "The calling side: one link to one instance.");
    shown.assert_clean();
}

#[test]
fn a_change_in_one_window_appears_in_a_second_one() {
    let Some(shown) = Shown::start() else { return };
    let Some(second) = Browser::start() else { return };
    let page = url(&shown.look);
    second.open(&page);
    for browser in [&shown.browser, &second] {
        browser.await_value("document.querySelector('#tab-changes')");
        browser.click("#tab-changes");
    }
    shown.await_feed();
    shown.browser.enter("#change-name", "Kim 김");
    shown.browser.enter("#change-email", "kim@example.com");
    shown.browser.click("#change-send");
    for browser in [&shown.browser, &second] {
        browser.await_text("#changes-list", "Kim 김");
    }
    second.assert_clean(&page);
    shown.assert_clean();
}

#[test]
fn the_page_speaks_korean() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, look, .. } = &shown;
    assert_eq!(browser.value("document.documentElement.lang"), "en");
    browser.click("#language");
    browser.await_value("document.documentElement.lang === 'ko'");
    browser.await_text("#tab-requests", "요청");
    browser.await_text("#health", "인스턴스");
    browser.open(&format!("{}?lang=ko", url(look)));
    browser.await_value("document.documentElement.lang === 'ko'");
    // No word of the page is left in English alone, apart from names, addresses and terms.
    let english = "[...document.querySelectorAll('[data-t]')].filter((node) => node.textContent && !/[가-힣]/.test(node.textContent)).map((node) => node.textContent)";
    assert_eq!(browser.value(english), json!([]));
    shown.assert_clean();
}

#[test]
fn text_from_clients_and_services_stays_text() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, system, .. } = &shown;
    let hostile = "<img src=x onerror=alert(1)>";
    let _echo = Echo::start(&system.distributor, hostile, &["GET/<img src=x onerror=alert(1)>", "GET/echo"]);
    await_instances(&system.gateway, "GET", "/echo", 1);
    browser.click("#tab-changes");
    shown.await_feed();
    system.create_user("\"<img/src=x/onerror=alert(1)>\"@example.com", hostile);
    browser.await_text("#changes-list", hostile);
    browser.await_text("#map", "<img");
    let path = "/%3Cimg%20src=x%20onerror=alert(1)%3E";
    system.http().request("GET", path, &[("X-Request-Id", "hostile")], b"");
    shown.open_journey("hostile");
    browser.await_text("#journey-steps", "img");
    assert_eq!(browser.value("document.querySelectorAll('img, script:not([src])').length"), json!(0));
    shown.assert_clean();
}

#[test]
fn the_page_can_be_used_with_the_keyboard() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, system, .. } = &shown;
    system.http().request("GET", "/users", &[("X-Request-Id", "the-one")], b"");
    browser.await_value("document.querySelector('[data-id=\"the-one\"]')");
    let unreachable = "[...document.querySelectorAll('button, a, input, select')].filter((node) => node.offsetParent && node.tabIndex < 0 && node.getAttribute('role') !== 'tab').map((node) => node.outerHTML)";
    assert_eq!(browser.value(unreachable), json!([]));
    browser.enter("[data-id=\"the-one\"]", "\u{e007}");
    browser.await_value("document.querySelector('#journey-body')?.hidden === false");
    let step = browser.value("document.querySelector('#journey-steps [aria-current]')?.innerText ?? ''");
    browser.enter("#journey-step", "\u{e007}");
    browser.await_value(&format!(
        "(document.querySelector('#journey-steps [aria-current]')?.innerText ?? '') !== {step}"
    ));
    shown.assert_clean();
}

#[test]
fn the_page_says_that_its_server_has_ended() {
    let Some(shown) = Shown::start() else { return };
    let Shown { browser, look, system } = shown;
    assert_eq!(browser.value("document.querySelector('#connection').innerText.includes('connected')"), true);
    look.kill();
    browser.await_value("!document.querySelector('#connection').innerText.startsWith('connected')");
    drop(system);
}
