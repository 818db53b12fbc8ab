//! `--metrics-listen`: serves metrics over HTTP on a separate port, for any process.
//!
//! The page uses the same HTTP layer as the gateway, with the same limits and deadlines. It has only `/metrics` and
//! `/healthz`. Anyone who can reach the port may read them.

use std::sync::Arc;

use serde_json::json;

use crate::http::{
    HttpAnswer, HttpHandler, HttpOutcome, HttpRequest, HttpServer, NoEvents, RequestError, Target,
};
use crate::net::listener::Serving;
use crate::observe::metrics;
use crate::pool::no_thread;
use crate::process::Common;

/// How many connections the page accepts. Few programs scrape it.
const MAX_CONNECTIONS: usize = 32;

/// Serves the page until the returned value is dropped, if the settings name a port for it. The error is a sentence
/// that states why the port cannot be used.
pub fn serve(common: &Common) -> Result<Option<Serving>, String> {
    let Some(address) = &common.metrics_listen else { return Ok(None) };
    let listener = common.bind_to(address, "--metrics-listen")?;
    log::info!("metrics are shown at http://{}/metrics", listener.address());
    let server = Arc::new(HttpServer::new(Arc::new(MetricsPage)));
    listener.serve("metrics", MAX_CONNECTIONS, server).map(Some).map_err(no_thread)
}

struct MetricsPage;

impl HttpHandler for MetricsPage {
    type Events = NoEvents;

    const HEADERS: &'static [&'static str] = &[];

    fn answer(&self, request: &HttpRequest) -> HttpOutcome<NoEvents> {
        HttpOutcome::Answer(page(request).unwrap_or_else(|answer| answer))
    }
}

fn page(request: &HttpRequest) -> Result<HttpAnswer, HttpAnswer> {
    let target = Target::parse(&request.target)?;
    if !matches!(&*target.path, "/metrics" | "/healthz") {
        return Err(RequestError::new(404, "this port has only /metrics and /healthz").into());
    }
    if !request.is_read() {
        let message = format!("{} does not accept {}; it accepts GET, HEAD", target.path, request.method);
        return Err(HttpAnswer::from(RequestError::new(405, message)).with_header("Allow", "GET, HEAD"));
    }
    Ok(match &*target.path {
        "/metrics" => HttpAnswer::text(metrics::CONTENT_TYPE, metrics::text()),
        _ => {
            HttpAnswer::json(200, &json!({ "errorcode": 0, "errormessage": "success", "results": "serving" }))
        }
    })
}
