//! `gateway`: HTTP in front, packets behind.

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use pilcrow::address::canonical;
use pilcrow::gateway::explain::ExplainPolicy;
use pilcrow::gateway::{GATEWAY, Gateway, Settings, tiny_front};
use pilcrow::http::HttpServer;
use pilcrow::mesh::Mesh;
use pilcrow::metrics_page;
use pilcrow::net::link::LinkLimits;
use pilcrow::node::{GATE, Node};
use pilcrow::pool::no_thread;
use pilcrow::process::{self, Common, Join, Switch};

/// Pilcrow's HTTP gateway: turns HTTP requests into packets for the services that the distributor lists.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    join: Join,

    /// How long a client waits for a reply at most, in seconds
    #[arg(long, env = "GATEWAY_TIMEOUT", value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// How many requests may be in flight, in all and to each instance; the next is answered 503
    #[arg(long, env = "GATEWAY_MAX_IN_FLIGHT", value_name = "N", default_value_t = 2048)]
    #[arg(value_parser = process::at_least_one)]
    max_in_flight: usize,

    /// How many streams of events may be open; the next is answered 503
    #[arg(long, env = "GATEWAY_MAX_STREAMS", value_name = "N", default_value_t = 1000)]
    max_streams: usize,

    /// The address of a proxy in front of this gateway; several, separated by commas. The client's address is then
    /// the last one in its X-Forwarded-For
    #[arg(long, env = "GATEWAY_TRUSTED_PROXY", value_name = "ADDRESS", value_delimiter = ',')]
    trusted_proxy: Vec<IpAddr>,

    /// Whether clients may ask for the steps of a request with the header X-Explain. By default on without a secret,
    /// and off with one. With a secret, only admins may ask
    #[arg(long, env = "GATEWAY_EXPLAIN", value_enum)]
    explain: Option<Switch>,

    /// What reads HTTP
    #[arg(long, env = "GATEWAY_FRONT", value_enum, default_value_t = FrontKind::Own)]
    front: FrontKind,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FrontKind {
    /// Pilcrow's own front
    Own,
    /// The server of the tiny_http package as it is, for comparison
    TinyHttp,
}

/// The path of the client's own record. Only this file names a service: the gateway itself knows none.
const SESSION_PATH: &str = "/users/me";

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "must be a number of seconds")?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(timeout) if timeout >= Duration::from_millis(1) && timeout <= Duration::from_secs(3600) => {
            Ok(timeout)
        }
        _ => Err("must be from 0.001 to 3600 seconds".to_owned()),
    }
}

fn main() -> ExitCode {
    process::run(GATEWAY, |args: Args| serve(&args))
}

fn serve(args: &Args) -> Result<(), String> {
    let stop = process::stop_signal()?;
    let listener = args.common.bind()?;
    let _metrics = metrics_page::serve(&args.common)?;
    let address = listener.address();
    let id = process::new_id()?;
    let node = args.join.advertised(Node::ours(GATE, address.port(), Vec::new(), &id));
    let limits = LinkLimits { max_frame_bytes: args.common.max_frame, max_pending: args.max_in_flight };
    let (mesh, membership) =
        Mesh::join(&args.join.distributor, node, limits, args.common.secret()).map_err(no_thread)?;
    let Args { timeout, max_in_flight, max_streams, .. } = *args;
    let trusted_proxies = args.trusted_proxy.iter().copied().map(canonical).collect();
    let explain = match (args.explain, args.common.secret()) {
        (Some(Switch::Off), _) | (None, Some(_)) => ExplainPolicy::Off,
        (Some(Switch::On), Some(_)) => ExplainPolicy::Admins(SESSION_PATH),
        (_, None) => ExplainPolicy::Everyone,
    };
    let settings = Settings { timeout, max_in_flight, max_streams, trusted_proxies, explain };
    let gateway = Arc::new(Gateway::new(mesh, membership, settings, id));
    match args.front {
        FrontKind::Own => {
            let server = Arc::new(HttpServer::new(gateway.clone()));
            let serving = listener.serve("http", args.common.max_connections, server).map_err(no_thread)?;
            process::ready(GATEWAY.name, address);
            let _ = stop.recv();
            log::info!("gateway: asked to end; finishing what is in progress");
            gateway.leave();
            serving.drain(args.common.drain_limit());
        }
        FrontKind::TinyHttp => {
            let server = tiny_front::start(listener.into_socket(), &gateway)?;
            process::ready(GATEWAY.name, address);
            let _ = stop.recv();
            tiny_front::stop(&server);
        }
    }
    Ok(())
}
