//! `cargo up`: builds Pilcrow, starts its processes, shows their logs, and stops them.
//!
//! Only the main thread holds state. It receives [`event::Event`]s over one channel: a process wrote a line, is ready
//! or has ended, or the user pressed Ctrl-C.
//!
//! Read in this order: this file (what runs, and in which order), [`crew`] (start, watch, stop), [`process`] (one child
//! and its threads), [`build`] (where the binaries are), [`screen`] (the coloured names).

mod build;
mod crew;
mod event;
mod process;
mod screen;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::build::Binaries;
use crate::crew::{Crew, Listen, Part};
use crate::event::{Event, Stop};
use crate::screen::Screen;

/// How many events may wait for the main thread. If a process logs faster than the terminal shows, its output waits in
/// its pipe and does not fill our memory.
const WAITING_EVENTS: usize = 1024;

/// Builds Pilcrow, starts its processes, shows their logs, and stops them on Ctrl-C.
#[derive(Parser)]
#[command(name = "cargo up", bin_name = "cargo up", version)]
struct Options {
    /// How many instances of the users service to start, on consecutive ports and one database
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    users: u16,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Stop::Interrupted => ExitCode::SUCCESS,
        Stop::Failed(reason) => {
            // A closed terminal cannot show this error, so it is ignored.
            let _ = writeln!(io::stderr(), "cargo up: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Builds, starts and watches the processes. Returns the reason why they stopped.
fn run(options: &Options) -> Stop {
    let (sender, events) = crossbeam_channel::bounded(WAITING_EVENTS);
    let interrupt = sender.clone();
    // Before the first child starts: from here on, no signal ends this process while its children still run.
    if let Err(error) = ctrlc::set_handler(move || drop(interrupt.send(Event::Interrupt))) {
        return Stop::Failed(format!("cannot handle Ctrl-C: {error}"));
    }
    let binaries = match build::build(&sender, &events) {
        Ok(binaries) => binaries,
        Err(stop) => return stop,
    };
    let parts = plan(&binaries, options.users);
    let mut crew = Crew::new(sender, events, Screen::new(parts.iter().map(|part| part.label.as_str())));
    let stop = match crew.start(parts) {
        Ok(addresses) => {
            crew.say(&addresses.last().map_or_else(String::new, |gateway| welcome(*gateway, is_secured())));
            crew.watch()
        }
        Err(stop) => stop,
    };
    crew.stop();
    stop
}

/// The processes in the order of their start. No flag repeats a default, so the environment and `.env` still apply.
fn plan(binaries: &Binaries, users: u16) -> Vec<Part> {
    let mut parts = vec![Part {
        name: "distributor",
        label: "distributor".to_owned(),
        command: command(binaries, "distributor"),
        listen: Listen::AsConfigured,
    }];
    let first_user = parts.len();
    for instance in 1..=users {
        parts.push(Part {
            name: "users",
            label: if instance == 1 { "users".to_owned() } else { format!("users-{instance}") },
            command: command(binaries, "users"),
            listen: match instance {
                1 => Listen::AsConfigured,
                _ => Listen::Beside { part: first_user, ports: instance - 1 },
            },
        });
    }
    parts.push(Part {
        name: "gateway",
        label: "gateway".to_owned(),
        command: command(binaries, "gateway"),
        listen: Listen::AsConfigured,
    });
    parts
}

/// A process runs in the workspace, where `data/` and `.env` are, even if `cargo up` was started elsewhere.
fn command(binaries: &Binaries, name: &str) -> Command {
    let mut command = Command::new(binaries.path(name));
    command.current_dir(build::WORKSPACE);
    command
}

/// Commands to try when every process is ready. They use form bodies, which need no quotes in any shell.
fn welcome(gateway: SocketAddr, secured: bool) -> String {
    let url = reachable(gateway);
    let logins = if secured {
        "\nA cluster secret is set, so PATCH and DELETE need a login: add\n\n  \
         -H 'Authorization: Bearer TOKEN'\n\nto them, with the token from the login.\n"
    } else {
        ""
    };
    format!(
        "
Pilcrow is up. Try in another terminal:

  curl {url}/users -d name=Kim -d email=kim@example.com -d password=correct-horse
  curl {url}/users
  curl {url}/users/1
  curl {url}/users/1 -X PATCH -d name=Kimberly
  curl {url}/users/login -d email=kim@example.com -d password=correct-horse
  curl {url}/users/1 -X DELETE
  curl {url}/routes
{logins}
and in a third one, to see every change as it happens:

  curl -N -H 'Accept: text/event-stream' {url}/users/changes

Ctrl-C stops everything.
"
    )
}

/// Whether the processes will find a cluster secret. They read the same environment and the same `.env`.
fn is_secured() -> bool {
    let file = std::fs::read_to_string(format!("{}/.env", build::WORKSPACE)).unwrap_or_default();
    let in_file = file.lines().any(|line| line.trim_start().starts_with("PILCROW_SECRET"));
    in_file || ["PILCROW_SECRET", "PILCROW_SECRET_FILE"].iter().any(|name| std::env::var_os(name).is_some())
}

/// The address at which a client on this machine reaches a server. A server on all addresses is reachable at the
/// loopback.
fn reachable(server: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(if server.ip().is_unspecified() { loopback } else { server.ip() }, server.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_follow_the_distributor_and_the_gateway_comes_last() {
        let parts = plan(&Binaries::default(), 3);
        let labels: Vec<_> = parts.iter().map(|part| part.label.as_str()).collect();
        assert_eq!(labels, ["distributor", "users", "users-2", "users-3", "gateway"]);
        assert_eq!(parts[3].listen, Listen::Beside { part: 1, ports: 2 });
        assert!(parts.iter().all(|part| part.command.get_args().len() == 0), "defaults are not repeated");
    }

    #[test]
    fn a_gateway_on_every_address_is_tried_at_the_loopback() {
        assert!(welcome(([0, 0, 0, 0], 8080).into(), false).contains("curl 127.0.0.1:8080/routes"));
        assert!(welcome(([127, 0, 0, 1], 8000).into(), false).contains("curl 127.0.0.1:8000/routes"));
    }

    #[test]
    fn with_a_secret_one_is_told_to_log_in() {
        let told =
            |secured| welcome(([127, 0, 0, 1], 8000).into(), secured).contains("Authorization: Bearer");
        assert!(told(true) && !told(false));
    }

    #[test]
    fn options_have_bounds() {
        assert!(Options::try_parse_from(["up"]).is_ok_and(|options| options.users == 1));
        assert!(Options::try_parse_from(["up", "--users", "16"]).is_ok_and(|options| options.users == 16));
        assert!(Options::try_parse_from(["up", "--users", "0"]).is_err());
        assert!(Options::try_parse_from(["up", "--users", "17"]).is_err());
    }
}
