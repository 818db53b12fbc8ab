//! `cargo look`: the page in a real browser, and its data over HTTP.

mod data;
mod page;
mod secured;

use crate::harness::{Http, Process, Program, System, eventually, tool};

/// The page of this system.
pub fn look(system: &System) -> Process {
    look_with(system, &[])
}

/// The page of this system, with these variables.
fn look_with(system: &System, variables: &[(&str, &str)]) -> Process {
    let distributor = system.distributor.address().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--distributor", &distributor];
    let look = Program::at(tool("pilcrow-look").to_str().unwrap()).flags(flags).variables(variables).start();
    eventually("the page knows all nodes", || {
        let shown = by_address(&look).get("/system.json").reply();
        let count = |name: &str| shown[name].as_array().map_or(0, Vec::len);
        (count("gateways") == 1 && count("instances") == system.users.len()).then_some(())
    });
    look
}

/// A client that uses the page under its own name, as a browser does.
fn by_address(look: &Process) -> Http {
    Http::by_address(look.address())
}

/// The address of the page in a browser.
fn url(look: &Process) -> String {
    format!("http://{}/", look.address())
}
