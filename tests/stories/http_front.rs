//! The HTTP front of the gateway.

use serde_json::json;

use crate::harness::{Echo, Process, await_instances};

#[test]
fn a_played_service_shows_what_it_is_asked() {
    let distributor = Process::distributor(&[]);
    let gateway = Process::gateway(&distributor, &[]);
    let echo = Echo::start(&distributor, "echo", &["GET/echo"]);
    await_instances(&gateway, "GET", "/echo", 1);
    let asked = gateway.http().get("/echo/1?word=hello").results();
    let params = json!({ "params": "1", "word": "hello" });
    assert_eq!(asked, json!({ "uri": "/echo", "method": "GET", "params": params }));
    assert_eq!(echo.await_asked(1)[0].params(), &params);
}
