//! A complete service: `cargo run --example greetings`, then `curl 'http://127.0.0.1:8000/greetings?name=Kim'`.

use std::process::ExitCode;

use pilcrow::service::{Failure, Reply, Request, Service};

fn main() -> ExitCode {
    Service::new("greetings", 9040).route("GET", "/greetings", greet).run()
}

/// The query's `name` arrives in `params`. The returned text becomes `results`; a failure states what is wrong.
fn greet(request: &Request) -> Result<Reply, Failure> {
    match request.text("name")?.trim() {
        "" => Err(Failure::bad_request("name is empty: say whom to greet")),
        name => Reply::ok(format!("Hello, {name}!")),
    }
}
