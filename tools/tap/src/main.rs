//! `cargo tap`: stands between a node and its peers, passes every byte on, and shows the packets.
//!
//! ```text
//!   peer ──── to the node ───► tap ───► node
//!        ◄─── from the node ──     ◄───
//! ```
//!
//! Each connection has two threads, one for each direction. A thread reads, hands a [`line::Line`](mod@line) for each packet
//! to the output, and writes to the other side. A fault changes what it writes.
//!
//! Read in this order: this file (the settings), [`relay`] (one connection), [`fault`] (what may go wrong on request),
//! [`mod@line`] (a packet as text), [`output`] (terminal and recording), [`replay`] and [`compare`] (a recording, sent
//! again).

mod compare;
mod fault;
mod line;
mod output;
mod relay;
mod replay;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use pilcrow::net::listener::DEFAULT_MAX_CONNECTIONS;
use pilcrow::packet::DEFAULT_MAX_FRAME_BYTES;
use pilcrow::pool::no_thread;
use pilcrow::process::{self, Cluster, Common, Identity, Switch, host_port};

use crate::fault::Faults;
use crate::output::Output;
use crate::relay::Relay;
use crate::replay::Replay;

/// Port 0 takes a free port.
const TAP: Identity = Identity { name: "tap", port: 0, port_variable: "" };

/// Shows every packet between a node and the peers that connect to the tap instead. Every byte passes unchanged, unless
/// a fault is requested. The output is for people on a terminal, and JSON lines otherwise.
#[derive(Parser)]
#[command(bin_name = "cargo tap", version)]
struct Options {
    /// The node: a distributor, or a service
    #[arg(value_name = "HOST:PORT", value_parser = host_port)]
    node: String,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    listen: String,

    /// Write the packets to this file too, as JSON lines. Secrets are masked there too
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Send the requests of this recording to the node again, and report the replies that differ
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "faults"])]
    replay: Option<PathBuf>,

    /// The fields that --replay does not compare, at any depth
    #[arg(long, value_name = "FIELD", value_delimiter = ',', default_value = "created_at,updated_at")]
    ignore: Vec<String>,

    #[command(flatten)]
    cluster: Cluster,

    #[command(flatten)]
    faults: Faults,
}

fn main() -> ExitCode {
    process::run(TAP, |options: Options| match &options.replay {
        Some(recording) => {
            Replay { node: &options.node, secret: options.cluster.secret(), ignored: &options.ignore }
                .run(recording)
        }
        None => tap(options),
    })
}

/// Serves until a signal stops it.
fn tap(options: Options) -> Result<(), String> {
    let stop = process::stop_signal()?;
    let Options { node, listen, record, cluster, faults, .. } = options;
    let settings = Common {
        listen,
        max_connections: DEFAULT_MAX_CONNECTIONS,
        max_frame: DEFAULT_MAX_FRAME_BYTES,
        drain: 0,
        metrics_listen: None,
        access_log: Switch::Off,
        cluster,
    };
    let listener = settings.bind_to(&settings.listen, "--listen")?;
    let output = Arc::new(Output::start(record.as_deref())?);
    let address = listener.address();
    let relay = Relay::new(node, faults, output.clone());
    // On stderr, because stdout has JSON lines and nothing else.
    eprintln!("tap for {} listening on {address}", relay.node());
    output.introduce();
    let serving = listener.serve("tap", settings.max_connections, Arc::new(relay)).map_err(no_thread)?;
    let _ = stop.recv();
    serving.drain(Duration::ZERO);
    output.finish();
    Ok(())
}
