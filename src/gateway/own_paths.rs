//! The paths that the gateway answers itself.
//!
//! `/healthz`, `/readyz`, `/routes` and `/metrics` are reserved: no node may register them. `/` is not reserved. A
//! service may register `GET /`, and then it answers. Otherwise the gateway lists its paths and routes. A browser gets a
//! link to the live page, if one is registered. `/journeys` is a stream, so [`super::journeys`] answers it.

use serde::Serialize;
use serde_json::json;

use super::translate::{failure_answer, method_not_allowed_answer};
use crate::http::{HttpAnswer, HttpRequest};
use crate::mesh::Mesh;
use crate::node::{GATEWAY_PATHS, LOOK};
use crate::observe::metrics;
use crate::packet::Failure;

/// Whether a path is reserved for the gateway.
#[must_use]
pub fn is_own(path: &str) -> bool {
    GATEWAY_PATHS.contains(&path)
}

/// Answers a request to a reserved path.
#[inline(never)] // its stack would be taken for every request
pub fn answer(mesh: &Mesh, method: &str, path: &str) -> Result<HttpAnswer, HttpAnswer> {
    if method != "GET" {
        return Err(reject_method(method, path, Vec::new()));
    }
    Ok(match path {
        "/healthz" => success(&"serving"),
        "/metrics" => HttpAnswer::text(metrics::CONTENT_TYPE, metrics::text()),
        "/readyz" if mesh.ready() => success(&"ready"),
        "/readyz" => failure_answer(&Failure::new(
            503,
            "no route has a live instance yet: start a service, or wait until it has registered",
        )),
        "/routes" => success(&mesh.routes()),
        // `/journeys` is a stream. A client that asks for its head alone gets the head.
        _ => HttpAnswer::text("text/event-stream", String::new()),
    })
}

/// Answers a request to `/` that no service has registered. `methods` are those that services have registered for `/`.
#[inline(never)]
pub fn answer_root(
    mesh: &Mesh,
    request: &HttpRequest,
    method: &str,
    methods: Vec<String>,
) -> Result<HttpAnswer, HttpAnswer> {
    if method != "GET" {
        return Err(reject_method(method, "/", methods));
    }
    let wants_page = request.header("Accept").is_some_and(|types| types.contains("text/html"));
    Ok(match mesh.address_of(LOOK).filter(|_| wants_page) {
        Some(address) => HttpAnswer::text("text/html; charset=utf-8", link_page(&address)),
        None => success(&json!({ "routes": mesh.routes(), "gateway": GATEWAY_PATHS })),
    })
}

/// A page that links to the live page. Another node has chosen the address.
fn link_page(address: &str) -> String {
    let address = address.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<title>Pilcrow</title>\n<p>This is a gateway of Pilcrow.\n\
         <p>Watch it work: <a href=\"http://{address}/\">the live page at {address}</a>\n\
         <p>See its routes: <a href=\"/routes\">/routes</a>\n"
    )
}

/// 405 for a path that accepts GET, as each of ours does, and these methods.
fn reject_method(method: &str, path: &str, mut methods: Vec<String>) -> HttpAnswer {
    methods.push("GET".to_owned());
    methods.sort();
    methods.dedup();
    method_not_allowed_answer(method, path, &methods)
}

fn success<T: Serialize>(results: &T) -> HttpAnswer {
    HttpAnswer::json(200, &json!({ "errorcode": 0, "errormessage": "success", "results": results }))
}
