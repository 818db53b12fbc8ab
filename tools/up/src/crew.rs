//! The processes that run together: they start one after the other, are watched, and stop in reverse order.
//!
//! *Invariant:* when one process ends, all are stopped. None is restarted, so that a failure is visible.

use std::collections::VecDeque;
use std::env;
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::event::{Event, SAME_MOMENT, Source, Stop};
use crate::process::Process;
use crate::screen::Screen;

/// How long the start of all processes may take.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long processes of one name may take to stop before they are killed: slightly longer than their own drain.
const STOP_WITHIN: Duration = Duration::from_secs(12);

/// How many of its last log lines explain the end of a process.
const LAST_LINES: usize = 3;

/// One process to start.
pub struct Part {
    /// The name of the program. Adjacent parts with one name are stopped together.
    pub name: &'static str,
    /// The name of this process on the screen.
    pub label: String,
    /// The command that starts it.
    pub command: Command,
    /// The address on which it listens.
    pub listen: Listen,
}

/// The address on which a part listens.
#[derive(Debug, PartialEq, Eq)]
pub enum Listen {
    /// The address that its defaults, the environment and `.env` define.
    AsConfigured,
    /// The address of an earlier part, with a port that is `ports` higher.
    Beside { part: usize, ports: u16 },
}

/// The processes, and the receiving end of all their events.
pub struct Crew {
    members: Vec<Member>,
    interrupted: bool,
    screen: Screen,
    events: Receiver<Event>,
    /// Cloned for the threads of each process.
    sender: Sender<Event>,
    ready_within: Duration,
    stop_within: Duration,
}

/// A started process and its known state.
struct Member {
    name: &'static str,
    label: String,
    process: Process,
    state: State,
    /// The last lines of its log, oldest line first.
    last_lines: VecDeque<String>,
}

/// The state of a process.
#[derive(Clone, Copy)]
enum State {
    Starting,
    Serving(SocketAddr),
    Ended(Option<ExitStatus>),
}

impl Crew {
    /// A crew without processes.
    pub fn new(sender: Sender<Event>, events: Receiver<Event>, screen: Screen) -> Self {
        Self {
            members: Vec::new(),
            interrupted: false,
            screen,
            events,
            sender,
            ready_within: READY_WITHIN,
            stop_within: STOP_WITHIN,
        }
    }

    /// Starts the parts in order. Each starts when the one before it is ready, so that no process has to reconnect.
    /// Returns their addresses in the same order.
    pub fn start(&mut self, parts: Vec<Part>) -> Result<Vec<SocketAddr>, Stop> {
        let deadline = Instant::now() + self.ready_within;
        let mut addresses = Vec::new();
        for mut part in parts {
            if let Listen::Beside { part: earlier, ports } = part.listen {
                let address = beside(addresses[earlier], ports).map_err(Stop::Failed)?;
                part.command.args(["--listen", &address.to_string()]);
            }
            addresses.push(self.start_one(part, deadline)?);
        }
        Ok(addresses)
    }

    /// Shows the output of the processes until there is a reason to stop.
    pub fn watch(&mut self) -> Stop {
        loop {
            if let Some(stop) = self.reason_to_stop() {
                return stop;
            }
            if let Ok(event) = self.events.recv() {
                self.note(event);
            }
        }
    }

    /// Stops the running processes, in reverse order of their start. So the services still answer the last requests of
    /// the gateway, and the distributor stops last.
    pub fn stop(&mut self) {
        let mut rest = self.members.len();
        while let Some(last) = self.members[..rest].last() {
            let name = last.name;
            let first =
                self.members[..rest].iter().rposition(|member| member.name != name).map_or(0, |at| at + 1);
            self.stop_some(first, rest);
            rest = first;
        }
    }

    /// Shows a text of this program.
    pub fn say(&mut self, text: &str) {
        self.screen.say(text);
    }

    fn start_one(&mut self, mut part: Part, deadline: Instant) -> Result<SocketAddr, Stop> {
        let id = self.members.len();
        part.command.stderr(Stdio::piped());
        if self.screen.colour && env::var_os("RUST_LOG_STYLE").is_none() {
            // The services write into a pipe, so they cannot detect that a terminal is at its other end.
            part.command.env("RUST_LOG_STYLE", "always");
        }
        let process = Process::start(id, &part.label, &mut part.command, &self.sender).map_err(|error| {
            let program = part.command.get_program().display();
            Stop::Failed(format!("{} cannot be started ({program}): {error}", part.label))
        })?;
        let (name, label) = (part.name, part.label);
        self.members.push(Member {
            name,
            label,
            process,
            state: State::Starting,
            last_lines: VecDeque::new(),
        });
        loop {
            if let Some(stop) = self.reason_to_stop() {
                return Err(stop);
            }
            if let State::Serving(address) = self.members[id].state {
                return Ok(address);
            }
            if !self.note_event_before(deadline) {
                return Err(Stop::Failed(self.members[id].describe_end("was not ready in time")));
            }
        }
    }

    /// Stops `members[first..end]`, which share a name, all at once.
    fn stop_some(&mut self, first: usize, end: usize) {
        for member in self.members[first..end].iter().filter(|member| member.runs()) {
            member.process.terminate();
        }
        let deadline = Instant::now() + self.stop_within;
        while self.members[first..end].iter().any(Member::runs) && self.note_event_before(deadline) {}
        for member in self.members[first..end].iter().filter(|member| member.runs()) {
            self.screen.say(&format!("{} does not stop; killing it", member.label));
            member.process.kill();
        }
    }

    /// The reason to stop: Ctrl-C, or the unexpected end of a process. Ctrl-C takes precedence, since it explains such
    /// an end.
    fn reason_to_stop(&mut self) -> Option<Stop> {
        let ended = self.members.iter().position(|member| !member.runs());
        if ended.is_some() {
            let deadline = Instant::now() + SAME_MOMENT;
            while !self.interrupted && self.note_event_before(deadline) {}
        }
        if self.interrupted {
            return Some(Stop::Interrupted);
        }
        ended.map(|id| Stop::Failed(self.members[id].describe_end("ended by itself")))
    }

    /// Handles one event. Returns `false` after the deadline, even if more events wait: a process that never stops
    /// writing must not prevent us from stopping it.
    fn note_event_before(&mut self, deadline: Instant) -> bool {
        if Instant::now() >= deadline {
            return false;
        }
        match self.events.recv_deadline(deadline) {
            Ok(event) => {
                self.note(event);
                true
            }
            Err(_) => false,
        }
    }

    /// The only place where an event changes the known state.
    fn note(&mut self, event: Event) {
        match event {
            Event::Line { id, source, text } => {
                let Some(member) = self.members.get_mut(id) else { return };
                self.screen.line(id, &member.label, &text);
                if source == Source::Stderr {
                    member.remember(text);
                }
            }
            Event::Ready { id, address } => self.set(id, State::Serving(address)),
            Event::Exited { id, status } => self.set(id, State::Ended(status)),
            Event::Interrupt => self.interrupted = true,
        }
    }

    /// No state follows the end: a line that was still in the pipe does not make a process ready again.
    fn set(&mut self, id: usize, state: State) {
        if let Some(member) = self.members.get_mut(id).filter(|member| member.runs()) {
            member.state = state;
        }
    }
}

impl Member {
    fn runs(&self) -> bool {
        !matches!(self.state, State::Ended(_))
    }

    fn remember(&mut self, line: String) {
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line);
    }

    /// Describes the end of a process: the reason, the exit status, and its last log lines.
    fn describe_end(&self, what: &str) -> String {
        let status = match self.state {
            State::Ended(Some(status)) => format!(" ({status})"),
            State::Ended(None) => " (exit status unknown)".to_owned(),
            State::Starting | State::Serving(_) => String::new(),
        };
        let words: String = self.last_lines.iter().map(|line| ["\n    ", line].concat()).collect();
        if words.is_empty() {
            return format!("{} {what}{status} and logged nothing.", self.label);
        }
        format!("{} {what}{status}. Its last log lines:{words}", self.label)
    }
}

/// The address that is `ports` above `first`, or a sentence that states why it does not exist.
fn beside(first: SocketAddr, ports: u16) -> Result<SocketAddr, String> {
    let port =
        first.port().checked_add(ports).ok_or_else(|| format!("there is no port {ports} above {first}"))?;
    Ok(SocketAddr::new(first.ip(), port))
}

#[cfg(all(test, unix))]
mod tests {
    use std::thread;

    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    use super::*;

    /// Serves until it receives a stop signal.
    const SERVES: &str = "echo \"pid $$\" >&2; echo part listening on 127.0.0.1:9020; exec sleep 60";

    /// A service that is a shell script. Its flags arrive as `$0` and `$1`.
    fn part(name: &'static str, script: &str) -> Part {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Part { name, label: name.to_owned(), command, listen: Listen::AsConfigured }
    }

    fn crew() -> Crew {
        let (sender, events) = crossbeam_channel::bounded(16);
        Crew::new(sender, events, Screen::off())
    }

    /// The ids of the processes that scripts wrote and that still exist.
    fn alive(crew: &Crew) -> Vec<Pid> {
        let lines = crew.members.iter().flat_map(|member| &member.last_lines);
        let pids = lines.filter_map(|line| line.strip_prefix("pid ")?.parse().ok()).map(Pid::from_raw);
        pids.filter(|pid| kill(*pid, None).is_ok()).collect()
    }

    /// Handles events until the scripts of all members have written their process id.
    fn hear_pids(crew: &mut Crew) {
        while crew.members.iter().any(|member| member.last_lines.is_empty()) {
            if let Ok(event) = crew.events.recv() {
                crew.note(event);
            }
        }
    }

    fn reason(stop: Stop) -> String {
        match stop {
            Stop::Failed(reason) => reason,
            Stop::Interrupted => "interrupted".to_owned(),
        }
    }

    #[test]
    fn everybody_is_started_and_stopped_on_interrupt() {
        let mut crew = crew();
        let started =
            crew.start(vec![part("distributor", SERVES), part("users", SERVES), part("gateway", SERVES)]);
        assert_eq!(started, Ok(vec![([127, 0, 0, 1], 9020).into(); 3]));
        hear_pids(&mut crew);
        assert_eq!(alive(&crew).len(), 3);
        let sender = crew.sender.clone();
        thread::spawn(move || sender.send(Event::Interrupt));
        assert_eq!(crew.watch(), Stop::Interrupted);
        crew.stop();
        assert!(!crew.members.iter().any(Member::runs));
        assert_eq!(alive(&crew), []);
    }

    #[test]
    fn the_end_of_one_is_told_with_its_own_words() {
        let mut crew = crew();
        let failing = part("users", "echo starting >&2; echo 'the address is in use' >&2; exit 7");
        let started = crew.start(vec![part("distributor", SERVES), failing, part("gateway", SERVES)]);
        let reason = started.err().map(reason);
        assert_eq!(
            reason.as_deref(),
            Some(
                "users ended by itself (exit status: 7). Its last log lines:\n    starting\n    the address is in use"
            )
        );
        crew.stop();
        assert_eq!(crew.members.len(), 2, "the gateway was not started");
        assert_eq!(alive(&crew), []);
    }

    #[test]
    fn a_success_nobody_asked_for_is_a_failure_too() {
        let mut crew = crew();
        let started = crew.start(vec![part("users", "echo users listening on 127.0.0.1:1; sleep 0.2")]);
        assert!(started.is_ok());
        assert_eq!(reason(crew.watch()), "users ended by itself (exit status: 0) and logged nothing.");
    }

    #[test]
    fn an_end_at_the_moment_of_an_interrupt_is_obedience() {
        let mut crew = crew();
        assert!(crew.start(vec![part("users", "echo users listening on 127.0.0.1:1; sleep 0.1")]).is_ok());
        while crew.members[0].runs() {
            assert!(crew.events.recv().map(|event| crew.note(event)).is_ok());
        }
        let sender = crew.sender.clone();
        thread::spawn(move || sender.send(Event::Interrupt));
        assert_eq!(crew.watch(), Stop::Interrupted);
    }

    #[test]
    fn one_that_cannot_start_leaves_nobody_behind() {
        let mut crew = crew();
        let missing = Part { command: Command::new("/nowhere/users"), ..part("users", "") };
        let started = crew.start(vec![part("distributor", SERVES), missing]);
        let reason = started.err().map_or_else(String::new, reason);
        assert!(reason.starts_with("users cannot be started (/nowhere/users): "), "{reason}");
        hear_pids(&mut crew);
        let [pid] = alive(&crew)[..] else { unreachable!("the distributor runs") };
        drop(crew);
        assert!(kill(pid, None).is_err(), "dropping the crew ends its processes");
    }

    #[test]
    fn one_that_never_serves_is_told() {
        let mut crew = Crew { ready_within: Duration::from_secs(1), ..crew() };
        let started = crew.start(vec![part("users", "echo waiting for nothing >&2; exec sleep 60")]);
        let reason = started.err().map(reason);
        assert_eq!(
            reason.as_deref(),
            Some("users was not ready in time. Its last log lines:\n    waiting for nothing")
        );
    }

    #[test]
    fn one_that_writes_instead_of_ending_is_killed() {
        let mut crew = Crew { stop_within: Duration::from_millis(300), ..crew() };
        let stubborn = "trap '' TERM; echo \"pid $$\" >&2; echo part listening on 127.0.0.1:1; while :; do echo no; done";
        assert!(crew.start(vec![part("users", stubborn)]).is_ok());
        hear_pids(&mut crew);
        let [pid] = alive(&crew)[..] else { unreachable!("it runs") };
        crew.stop();
        drop(crew);
        assert!(kill(pid, None).is_err());
    }

    #[test]
    fn the_last_started_is_stopped_first_and_those_of_one_name_together() {
        let says_bye =
            "trap 'echo bye >&2; exit' TERM; echo part listening on 127.0.0.1:1; while :; do sleep 0.1; done";
        let mut crew = crew();
        let names = ["distributor", "users", "users", "gateway"];
        assert!(crew.start(names.map(|name| part(name, says_bye)).into()).is_ok());
        // Only the order of the groups is guaranteed. `stop_some` returns when the group has ended.
        crew.stop_some(3, 4);
        assert_eq!(crew.members.iter().map(Member::runs).collect::<Vec<_>>(), [true, true, true, false]);
        crew.stop();
        assert!(!crew.members.iter().any(Member::runs));
        assert!(crew.members.iter().all(|member| member.last_lines.back().is_some_and(|line| line == "bye")));
    }

    #[test]
    fn further_instances_listen_beside_the_first() {
        let mut crew = crew();
        let second = Part {
            listen: Listen::Beside { part: 0, ports: 2 },
            ..part("users", "echo \"$0 $1\" >&2; echo users listening on \"$1\"; exec sleep 60")
        };
        let started = crew.start(vec![part("users", SERVES), second]);
        assert_eq!(started.map(|addresses| addresses[1]), Ok(([127, 0, 0, 1], 9022).into()));
        hear_pids(&mut crew);
        assert_eq!(crew.members[1].last_lines, ["--listen 127.0.0.1:9022"]);
        assert!(beside(([127, 0, 0, 1], 65535).into(), 1).is_err());
    }
}
