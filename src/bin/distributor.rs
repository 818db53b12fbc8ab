//! `distributor`: the service registry. Nodes register here and receive the list of all nodes.

use std::process::ExitCode;

use clap::Parser;
use pilcrow::distributor::Distributor;
use pilcrow::metrics_page;
use pilcrow::pool::no_thread;
use pilcrow::process::{self, Common, DISTRIBUTOR};

/// Pilcrow's service registry: nodes register here and are told who else there is.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    process::run(DISTRIBUTOR, |args: Args| serve(&args.common))
}

fn serve(common: &Common) -> Result<(), String> {
    let stop = process::stop_signal()?;
    let distributor =
        Distributor::start(common.bind()?, common.max_connections, common.max_frame, common.secret())
            .map_err(no_thread)?;
    let _metrics = metrics_page::serve(common)?;
    process::ready(DISTRIBUTOR.name, distributor.address());
    let _ = stop.recv();
    log::info!("distributor: asked to end");
    distributor.stop(common.drain_limit());
    Ok(())
}
