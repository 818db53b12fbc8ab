//! `cargo up`: builds Pilcrow, starts its processes, shows their logs, and stops them.
//!
//! Only the main thread holds state. It receives [`event::Event`]s over one channel: a process wrote a line, is ready
//! or has ended, or the user typed a command or pressed Ctrl-C.
//!
//! Read in this order: this file (what runs, and in which order), [`crew`] (start, watch, stop), [`member`] (one process
//! as the crew knows it), [`process`] (one child and its threads), [`build`] (where the binaries are), [`screen`] (the
//! coloured names). Then what breaks things on purpose: [`switch`] (the commands), `crew/switches.rs` (what they do),
//! [`reaction`] (what to look for).

mod build;
mod crew;
mod event;
mod keyboard;
mod member;
mod process;
mod reaction;
mod screen;
mod switch;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

use crate::build::Binaries;
use crate::crew::Crew;
use crate::event::{Event, Stop};
use crate::member::{Part, Program, reachable};
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

    /// Do not start the page
    #[arg(long)]
    no_look: bool,
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
    let is_secured = is_secured();
    let tap = (!is_secured).then(|| binaries.path("pilcrow-tap"));
    let mut crew = Crew::new(sender.clone(), events, Screen::new(), tap);
    let stop = match crew.start(plan(&binaries, options, is_secured)) {
        Ok(()) => {
            crew.say(&welcome(crew.address(Program::Gateway), crew.address(Program::Look), is_secured));
            match keyboard::read_keyboard(sender) {
                Ok(()) => crew.watch(),
                Err(error) => Stop::Failed(format!("cannot start another thread: {error}")),
            }
        }
        Err(stop) => stop,
    };
    crew.stop();
    stop
}

/// The processes in the order of their start. No flag repeats a default, so the environment and `.env` still apply.
fn plan(binaries: &Binaries, options: &Options, is_secured: bool) -> Vec<Part> {
    let part = |program: Program| Part { program, path: binaries.path(program.name()), args: Vec::new() };
    let mut parts = vec![part(Program::Distributor)];
    parts.extend((0..options.users).map(|_| part(Program::Users)));
    parts.push(part(Program::Gateway));
    if !options.no_look {
        let args = if is_secured { vec![] } else { vec!["--switches".to_owned()] };
        parts.push(Part { path: binaries.path("pilcrow-look"), args, ..part(Program::Look) });
    }
    parts
}

/// Commands to try when every process is ready. They use form bodies, which need no quotes in any shell.
fn welcome(gateway: Option<SocketAddr>, look: Option<SocketAddr>, is_secured: bool) -> String {
    let url = gateway.map_or_else(String::new, |gateway| reachable(gateway).to_string());
    let page = look.map_or_else(String::new, |look| {
        format!("\nor see the same in a browser:\n\n  http://{}/\n", reachable(look))
    });
    let logins = if is_secured {
        "\nA cluster secret is set, so PATCH and DELETE need a login: add\n\n  \
         -H 'Authorization: Bearer TOKEN'\n\nto them, with the token from the login.\n"
    } else {
        ""
    };
    let switches = if is_secured { "" } else { "Type `help` here to break things on purpose. " };
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
{page}
{switches}Ctrl-C stops everything.
"
    )
}

/// Whether the processes will find a cluster secret. They read the same environment and the same `.env`.
fn is_secured() -> bool {
    let file = std::fs::read_to_string(format!("{}/.env", build::WORKSPACE)).unwrap_or_default();
    let in_file = file.lines().any(|line| line.trim_start().starts_with("PILCROW_SECRET"));
    in_file || ["PILCROW_SECRET", "PILCROW_SECRET_FILE"].iter().any(|name| std::env::var_os(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(flags: &[&str], is_secured: bool) -> Vec<Part> {
        let options = Options::try_parse_from([&["up"], flags].concat());
        options.map(|options| plan(&Binaries::default(), &options, is_secured)).unwrap_or_default()
    }

    #[test]
    fn users_follow_the_distributor_and_the_page_comes_last() {
        use Program::{Distributor, Gateway, Look, Users};
        let parts = planned(&["--users", "2"], false);
        let programs: Vec<_> = parts.iter().map(|part| part.program).collect();
        assert_eq!(programs, [Distributor, Users, Users, Gateway, Look]);
        assert!(parts[..4].iter().all(|part| part.args.is_empty()), "defaults are not repeated");
        assert_eq!(parts[4].args, ["--switches"]);
    }

    #[test]
    fn with_a_secret_the_page_has_no_switches_and_it_can_be_left_out() {
        let has_page = |parts: &[Part]| parts.iter().any(|part| part.program == Program::Look);
        let secured = planned(&[], true);
        assert!(has_page(&secured) && secured.iter().all(|part| part.args.is_empty()));
        assert!(!has_page(&planned(&["--no-look"], false)));
    }

    #[test]
    fn a_gateway_on_every_address_is_tried_at_the_loopback() {
        let welcome = |gateway: ([u8; 4], u16)| welcome(Some(gateway.into()), None, false);
        assert!(welcome(([0, 0, 0, 0], 8080)).contains("curl 127.0.0.1:8080/routes"));
        assert!(welcome(([127, 0, 0, 1], 8000)).contains("curl 127.0.0.1:8000/routes"));
    }

    #[test]
    fn the_welcome_names_the_page_only_if_it_runs() {
        let welcome = |look: Option<SocketAddr>| welcome(Some(([127, 0, 0, 1], 8000).into()), look, false);
        assert!(welcome(Some(([127, 0, 0, 1], 8080).into())).contains("http://127.0.0.1:8080/"));
        assert!(!welcome(None).contains("http://"));
    }

    #[test]
    fn with_a_secret_one_is_told_to_log_in() {
        let told = |secured| welcome(None, None, secured).contains("Authorization: Bearer");
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
