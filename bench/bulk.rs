//! A service of any size: it sets the number of routes and the length of replies. It is only for the benchmark
//! (`bench/README.md`), which measures how the cost grows with routes and with replies.
//!
//! `GET /bulk?bytes=16384` answers with a text of that length. `BULK_ROUTES=1000` registers 999 more routes, which
//! receive no requests. The limit of one node is 1,000.

use std::process::ExitCode;

use pilcrow::service::{Failure, Reply, Request, Service};

/// The longest text, so that the reply stays within a frame.
const MAX_TEXT_BYTES: usize = 512 * 1024;

fn main() -> ExitCode {
    let routes = std::env::var("BULK_ROUTES").ok().and_then(|number| number.parse().ok()).unwrap_or(1);
    let service = Service::new("bulk", 9050).route("GET", "/bulk", bulk);
    (1..routes)
        .fold(service, |service, number: usize| service.route("GET", &format!("/bulk/of/{number}"), bulk))
        .run()
}

fn bulk(request: &Request) -> Result<Reply, Failure> {
    match request.text("bytes")?.parse() {
        Ok(bytes) if bytes <= MAX_TEXT_BYTES => Reply::ok("x".repeat(bytes)),
        _ => Err(Failure::bad_request(format!("bytes must be a number up to {MAX_TEXT_BYTES}"))),
    }
}
