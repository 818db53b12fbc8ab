//! `--front tiny-http`: the same gateway on `tiny_http::Server`, for lessons and comparison.
//!
//! It is the shortest gateway that tiny_http allows. `docs/decisions.md` states the cost. The default front,
//! [`crate::http`], avoids these problems.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tiny_http::{Request, Server};

use super::Gateway;
use crate::address::canonical;
use crate::http::{HttpHandler, HttpOutcome, HttpRequest, MAX_BODY_BYTES, RequestError};
use crate::pool::no_thread;

/// How many requests are answered at the same time. Each waits for its reply on a separate thread.
const WORKERS: usize = 64;

/// Serves HTTP on this socket until [`stop`]. The error is a sentence that states why the server does not start.
pub fn start(socket: TcpListener, gateway: &Arc<Gateway>) -> Result<Arc<Server>, String> {
    log::warn!(
        "front tiny-http has known traps: (1) connections that arrive together may never be served, \
         (2) at the descriptor limit it stops accepting for good, \
         (3) one head with a huge Content-Length ends the process; see docs/decisions.md"
    );
    let server =
        Server::from_listener(socket, None).map_err(|error| format!("tiny_http does not start: {error}"))?;
    let server = Arc::new(server);
    for number in 1..=WORKERS {
        let (server, gateway) = (server.clone(), gateway.clone());
        thread::Builder::new()
            .name(format!("tiny {number}"))
            .spawn(move || work(&server, &gateway))
            .map_err(no_thread)?;
    }
    Ok(server)
}

/// Ends all workers.
pub fn stop(server: &Server) {
    (0..WORKERS).for_each(|_| server.unblock());
}

fn work(server: &Server, gateway: &Gateway) {
    while let Ok(mut request) = server.recv() {
        let peer = peer(&request);
        let answer = match read(&mut request) {
            Ok(read) => match gateway.answer(&read) {
                HttpOutcome::Answer(answer) => answer,
                HttpOutcome::Events(_) => gateway.reject(no_streams(), request.headers(), peer),
            },
            Err(error) => gateway.reject(error, request.headers(), peer),
        };
        if let Err(error) = request.respond(answer.into_response()) {
            log::debug!("a client was gone before its answer: {error}");
        }
    }
}

fn peer(request: &Request) -> IpAddr {
    request.remote_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| canonical(peer.ip()))
}

fn no_streams() -> RequestError {
    RequestError::new(501, "this front cannot stream; start the gateway without --front")
}

fn read(request: &mut Request) -> Result<HttpRequest, RequestError> {
    let mut body = Vec::new();
    let limit = MAX_BODY_BYTES as u64 + 1;
    request.as_reader().take(limit).read_to_end(&mut body).map_err(|error| {
        RequestError::bad_request(format!("the body did not arrive: {error}; send the request again"))
    })?;
    if body.len() > MAX_BODY_BYTES {
        let message = format!("the body is longer than {MAX_BODY_BYTES} bytes; send less");
        return Err(RequestError::new(413, message));
    }
    let (method, target, began) = (request.method().clone(), request.url().to_owned(), Instant::now());
    let headers = request.headers().to_vec();
    Ok(HttpRequest { method, target, headers, body, peer: peer(request), began })
}
