//! Prints the change feed of `users` live, in colours. You can stop and start any process meanwhile. This program
//! reconnects, resumes after the last change that it read, and misses nothing.
//!
//! `cargo run --example watch`, or from the beginning: `cargo run --example watch -- --after 0`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use pilcrow::context::Context;
use pilcrow::mesh::Mesh;
use pilcrow::net::link::LinkLimits;
use pilcrow::net::listener::Listener;
use pilcrow::node::Node;
use pilcrow::process::{self, Cluster};
use pilcrow::subscription::Subscription;
use serde_json::{Map, Value};

/// Prints every change of a user as it happens.
#[derive(Debug, Parser)]
struct Args {
    /// Where the distributor listens
    #[arg(long, default_value = "127.0.0.1:9000")]
    distributor: String,

    /// The number of the change after which to begin; without it, from now on
    #[arg(long)]
    after: Option<u64>,

    #[command(flatten)]
    cluster: Cluster,
}

fn main() -> ExitCode {
    match watch(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("watch: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn watch(args: &Args) -> Result<(), String> {
    // A node that reads the list must register, and a registration has a port. No client calls this port.
    let listener = Listener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let node = Node::ours("watch", listener.address().port(), Vec::new(), &process::new_id()?);
    let (mesh, _membership) = Mesh::join(
        std::slice::from_ref(&args.distributor),
        node,
        LinkLimits::default(),
        args.cluster.secret(),
    )
    .map_err(|error| error.to_string())?;
    let mut after = args.after;
    loop {
        let params = after.map(|after| ("after".to_owned(), Value::from(after))).into_iter();
        let mut feed =
            Subscription::new(&mesh, &Context::default(), "/users/changes", params.collect::<Map<_, _>>());
        let failure = loop {
            match feed.next(Instant::now() + Duration::from_secs(60)) {
                Ok(Some(reply)) => reply.results().into_iter().for_each(print_change),
                Ok(None) => {}
                Err(failure) => break failure,
            }
        };
        if failure.errorcode == 410 {
            return Err(failure.errormessage);
        }
        after = feed.after();
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn print_change(json: &str) {
    let Ok(change) = serde_json::from_str::<Value>(json) else { return };
    let kind = change["kind"].as_str().unwrap_or_default();
    let colour = match kind {
        "created" => 32,
        "updated" => 33,
        _ => 31,
    };
    let (seq, id, at) = (&change["seq"], &change["user_id"], change["at"].as_str().unwrap_or_default());
    let user = &change["user"];
    println!("{at}  #{seq}  \x1b[{colour}m{kind:8}\x1b[0m  user {id}  {} {}", user["name"], user["email"]);
}
