//! One process as the main thread knows it: how it is started, and its state.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use crate::build::WORKSPACE;
use crate::process::Process;
use crate::switch::Fault;

/// How many of its last log lines explain the end of a process.
const LAST_LINES: usize = 3;

/// The programs in the order of their start. They stop in the reverse order: so the services still answer the last
/// requests of the gateway, and the distributor stops last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    Distributor,
    /// It stands between a users instance and its peers.
    Tap,
    Users,
    Gateway,
    /// The page. It is optional: everything else runs without it.
    Look,
}

/// How a process is started.
#[derive(Clone, Debug)]
pub struct Part {
    pub program: Program,
    pub path: PathBuf,
    pub args: Vec<String>,
}

/// What happens when a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEnd {
    /// Everything stops, so that a failure is visible.
    StopEverything,
    /// The end is reported, and the others continue.
    Report,
    /// It is no surprise: a switch ended it, or it never served and its start is reported as a failure.
    Ignore,
}

/// The state of a process.
#[derive(Clone, Copy, Debug)]
pub enum State {
    Starting,
    Serving,
    Ended(Option<ExitStatus>),
}

/// A process that was started at least once.
pub struct Member {
    pub part: Part,
    pub label: String,
    /// `None` before its first start.
    pub process: Option<Process>,
    pub state: State,
    pub on_end: OnEnd,
    pub is_frozen: bool,
    /// Where the others reach it. `None` until its first start has told. A restart uses the same address.
    pub address: Option<SocketAddr>,
    /// Where it listens while a tap stands at its address.
    pub behind_tap: Option<SocketAddr>,
    pub fault: Option<Fault>,
    /// The last lines of its log, oldest line first.
    pub last_lines: VecDeque<String>,
}

impl Program {
    pub const ALL: [Self; 5] = [Self::Distributor, Self::Tap, Self::Users, Self::Gateway, Self::Look];

    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Distributor => "distributor",
            Self::Tap => "tap",
            Self::Users => "users",
            Self::Gateway => "gateway",
            Self::Look => "look",
        }
    }

    /// True for the programs that a switch may break: the page and the taps are no part of the system that it shows.
    pub fn has_switches(self) -> bool {
        !matches!(self, Self::Tap | Self::Look)
    }
}

impl Member {
    /// A process that has not started yet. It gets this address, or the one that its defaults, the environment and
    /// `.env` define.
    pub fn new(part: Part, label: String, address: Option<SocketAddr>) -> Self {
        Self {
            part,
            label,
            process: None,
            state: State::Ended(None),
            on_end: OnEnd::Ignore,
            is_frozen: false,
            address,
            behind_tap: None,
            fault: None,
            last_lines: VecDeque::new(),
        }
    }

    /// The command that starts it. A process runs in the workspace, where `data/` and `.env` are, even if `cargo up`
    /// was started elsewhere.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.part.path);
        command.current_dir(WORKSPACE).args(&self.part.args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match self.part.program {
            // Its stdout has every packet. It reports on stderr that it is ready.
            Program::Tap => command.stdout(Stdio::null()),
            Program::Look => command.stdin(Stdio::piped()),
            _ => &mut command,
        };
        let advertised = self.behind_tap.and(self.address);
        for (flag, address) in [("--listen", self.behind_tap.or(self.address)), ("--advertise", advertised)] {
            command.args(address.into_iter().flat_map(|address| [flag.to_owned(), address.to_string()]));
        }
        command
    }

    /// True until its end was reported.
    pub fn runs(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }

    /// Keeps a line of its log.
    pub fn remember(&mut self, line: String) {
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    /// Describes the end of a process: the reason, the exit status, and its last log lines.
    pub fn describe_end(&self, what: &str) -> String {
        let status = match self.state {
            State::Ended(Some(status)) => format!(" ({status})"),
            State::Ended(None) => " (exit status unknown)".to_owned(),
            State::Starting | State::Serving => String::new(),
        };
        let words: String = self.last_lines.iter().map(|line| ["\n    ", line].concat()).collect();
        if words.is_empty() {
            return format!("{} {what}{status} and logged nothing.", self.label);
        }
        format!("{} {what}{status}. Its last log lines:{words}", self.label)
    }

    /// The process as the page shows it.
    pub fn to_json(&self) -> Value {
        let state = match self.state {
            State::Ended(_) => "ended",
            State::Starting => "starting",
            State::Serving if self.is_frozen => "frozen",
            State::Serving => "running",
        };
        json!({
            "label": self.label,
            "program": self.part.program.name(),
            "address": self.address.map(|address| reachable(address).to_string()),
            "state": state,
            "fault": self.fault.map_or_else(String::new, |fault| fault.to_string()),
        })
    }
}

/// The address at which a client on this machine reaches a server. A server on all addresses is reachable at the
/// loopback.
pub fn reachable(server: SocketAddr) -> SocketAddr {
    let loopback: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(if server.ip().is_unspecified() { loopback } else { server.ip() }, server.port())
}
