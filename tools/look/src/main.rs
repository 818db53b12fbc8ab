//! `cargo look`: a page in the browser that shows a running Pilcrow, packet by packet.
//!
//! ```text
//!   browsers ◄── GET /live ── look ◄── GET /journeys ── every gateway
//!                              ▲ ▲
//!            list, change feed ┘ └ processes (`cargo up`, over stdin and stdout)
//! ```
//!
//! It is an ordinary node: it registers as `look`, follows the list, and reads the change feed of `users`. It asks the
//! gateways for journeys only while someone watches the page.
//!
//! Read in this order: this file (the settings), [`site`] (which request gets which answer), [`page`] (the files of the
//! page), [`board`] (what is known, in [`system`], [`rates`] and [`kept`]), [`watch`] (the threads that learn it),
//! [`gateway`] (HTTP to a gateway), [`load`] (the background load), [`switches`] (the talk with `cargo up`).

mod board;
mod gateway;
mod kept;
mod load;
mod page;
mod rates;
mod site;
mod switches;
mod system;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use pilcrow::http::HttpServer;
use pilcrow::mesh::Mesh;
use pilcrow::metrics_page;
use pilcrow::net::link::LinkLimits;
use pilcrow::net::membership::Membership;
use pilcrow::node::{LOOK, Node};
use pilcrow::pool::no_thread;
use pilcrow::process::{self, Common, Identity, Join};

use crate::board::Board;
use crate::site::Site;

const LOOK_IDENTITY: Identity = Identity { name: LOOK, port: 8080, port_variable: "LOOK_PORT" };

/// Shows a running Pilcrow on a page in the browser. It needs only the address of the distributor.
#[derive(Parser)]
#[command(bin_name = "cargo look", version)]
struct Options {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    join: Join,

    /// Take part in the switches of `cargo up`, over stdin and stdout
    #[arg(long, hide = true)]
    switches: bool,
}

fn main() -> ExitCode {
    process::run(LOOK_IDENTITY, |options: Options| serve(&options))
}

fn serve(options: &Options) -> Result<(), String> {
    let Options { common, join, switches } = options;
    let stop = process::stop_signal()?;
    let listener = common.bind()?;
    let address = listener.address();
    if !address.ip().is_loopback() {
        return Err(format!(
            "cannot listen on {address}: the page is for loopback addresses such as 127.0.0.1; forward a port to it \
             from another machine, for example with ssh -L"
        ));
    }
    let _metrics = metrics_page::serve(common)?;
    let node = join.advertised(Node::ours(LOOK, address.port(), Vec::new(), &process::new_id()?));
    let mesh = Mesh::new(LinkLimits::default());
    let on_list = mesh.on_list(common.secret());
    let membership = Membership::join(&join.distributor, node, common.max_frame, common.secret(), &on_list)
        .map_err(no_thread)?;
    let has_switches = *switches && !common.secured();
    let board = Arc::new(Board::new(common.secured(), has_switches));
    watch::start(&board, mesh, membership, &join.distributor).map_err(no_thread)?;
    load::start(&board).map_err(no_thread)?;
    if has_switches {
        switches::read_stdin(&board).map_err(no_thread)?;
    }
    let server = Arc::new(HttpServer::new(Arc::new(Site::new(board.clone(), address))));
    let serving = listener.serve("page", common.max_connections, server).map_err(no_thread)?;
    process::ready(LOOK, address);
    let _ = stop.recv();
    board.close();
    serving.drain(common.drain_limit());
    Ok(())
}
