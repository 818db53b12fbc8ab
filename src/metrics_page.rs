//! `--metrics-listen`: metrics over HTTP, on a port of their own, for any process.
//!
//! It is the gateway's HTTP front with another site behind it, so it has the same limits and deadlines. There is
//! nothing here but `/metrics` and `/healthz`; who may read them is decided by where the port can be reached.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;
use tiny_http::{Header, Method};

use crate::gateway::http::{Front, Site};
use crate::gateway::translate::{HttpAnswer, Target};
use crate::gateway::{Answer, HttpRequest};
use crate::net::listener::Serving;
use crate::observe::metrics;
use crate::packet::Failure;
use crate::pool::no_thread;
use crate::process::Common;

/// How many connections the page takes: those who scrape are few.
const MAX_CONNECTIONS: usize = 32;

/// Serves the page where the settings want it. It is there until the returned value is dropped.
///
/// # Errors
/// A sentence that says why the port cannot be had.
pub fn serve(common: &Common) -> Result<Option<Serving>, String> {
    let Some(address) = &common.metrics_listen else { return Ok(None) };
    let listener = common.bind_to(address, "--metrics-listen")?;
    log::info!("metrics are shown at http://{}/metrics", listener.address());
    let front = Arc::new(Front::new(Arc::new(Page)));
    listener.serve("metrics", MAX_CONNECTIONS, front).map(Some).map_err(no_thread)
}

/// The page.
struct Page;

impl Site for Page {
    fn answer(&self, request: &HttpRequest) -> Answer {
        Answer::Whole(page(request).unwrap_or_else(|refusal| refusal))
    }

    fn refuse(&self, answer: HttpAnswer, _headers: &[Header], _peer: IpAddr) -> HttpAnswer {
        answer
    }
}

fn page(request: &HttpRequest) -> Result<HttpAnswer, HttpAnswer> {
    let target = Target::parse(&request.target)?;
    if !matches!(&*target.path, "/metrics" | "/healthz") {
        let message = "here are /metrics and /healthz, nothing else";
        return Err(HttpAnswer::failure(&Failure::not_found(message)));
    }
    if !matches!(request.method, Method::Get | Method::Head) {
        let failure = Failure::new(405, format!("{} takes GET, HEAD", target.path));
        return Err(HttpAnswer::failure(&failure).with_header("Allow", "GET, HEAD"));
    }
    Ok(match &*target.path {
        "/metrics" => HttpAnswer::text(metrics::CONTENT_TYPE, metrics::text()),
        _ => {
            HttpAnswer::json(200, &json!({ "errorcode": 0, "errormessage": "success", "results": "serving" }))
        }
    })
}
