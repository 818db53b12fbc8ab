//! The processes that run together: they start one after the other, are watched, and stop in reverse order.
//!
//! *Invariant:* when one process ends by itself, all are stopped. None is restarted, so that a failure is visible.
//! Only [`OnEnd`] makes exceptions: for an end that a [`crate::switch`] caused, and for the page.

mod switches;
#[cfg(all(test, unix))]
mod tests;

use std::collections::VecDeque;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde_json::json;

use crate::event::{Event, SAME_MOMENT, Source, Stop};
use crate::member::{Member, OnEnd, Part, Program, State};
use crate::process::Process;
use crate::screen::Screen;
use crate::switch;

/// How long the start of all processes may take.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long processes of one program may take to stop before they are killed: slightly longer than their own drain.
const STOP_WITHIN: Duration = Duration::from_secs(12);

/// How many commands may wait while one is carried out.
const WAITING_COMMANDS: usize = 16;

/// Before these words on its stdout, the page has no command.
const SWITCH: &str = "switch: ";

/// Follows the reason why the page does not run.
const WITHOUT_PAGE: &str = "The others run without the page.";

/// The processes, and the receiving end of all their events. A process has the number of its place in `members`, also
/// after a restart, because it is never restarted before its end was reported.
pub struct Crew {
    members: Vec<Member>,
    interrupted: bool,
    /// The commands that were received and not yet carried out, oldest first.
    commands: VecDeque<String>,
    /// The list of processes that the page received last.
    reported: String,
    /// The program that disturbs packets. `None`: nothing may be broken on purpose.
    tap: Option<PathBuf>,
    screen: Screen,
    events: Receiver<Event>,
    /// Cloned for the threads of each process.
    sender: Sender<Event>,
    ready_within: Duration,
    stop_within: Duration,
}

impl Crew {
    /// A crew without processes. Switches exist if it has a tap.
    pub fn new(sender: Sender<Event>, events: Receiver<Event>, screen: Screen, tap: Option<PathBuf>) -> Self {
        Self {
            members: Vec::new(),
            interrupted: false,
            commands: VecDeque::new(),
            reported: String::new(),
            tap,
            screen,
            events,
            sender,
            ready_within: READY_WITHIN,
            stop_within: STOP_WITHIN,
        }
    }

    /// Starts the parts in order. Each starts when the one before it is ready, so that no process has to reconnect.
    pub fn start(&mut self, parts: Vec<Part>) -> Result<(), Stop> {
        let deadline = Instant::now() + self.ready_within;
        for part in parts {
            let program = part.program;
            let started = self.add(part).map_err(Stop::Failed).and_then(|id| self.launch(id, deadline));
            match started {
                Err(Stop::Failed(reason)) if program == Program::Look => {
                    self.say(&format!("{reason}\n{WITHOUT_PAGE}"));
                }
                started => started?,
            }
        }
        Ok(())
    }

    /// Shows the output of the processes and carries out commands, until there is a reason to stop.
    pub fn watch(&mut self) -> Stop {
        loop {
            if let Some(stop) = self.reason_to_stop() {
                return stop;
            }
            if let Some(command) = self.commands.pop_front() {
                self.carry_out(&command);
            } else if let Ok(event) = self.events.recv() {
                self.note(event);
            }
        }
    }

    /// Stops the running processes, one program after the other. The frozen ones run again first, so that no other
    /// process waits for their answers.
    pub fn stop(&mut self) {
        for process in self.members.iter().filter_map(|member| member.process.as_ref()) {
            process.resume();
        }
        for program in Program::ALL.into_iter().rev() {
            let ids: Vec<usize> =
                (0..self.members.len()).filter(|id| self.members[*id].part.program == program).collect();
            self.end(&ids, Process::terminate);
        }
    }

    /// Shows a text of this program.
    pub fn say(&mut self, text: &str) {
        self.screen.say(text);
    }

    /// The address of the first process of this program that serves.
    pub fn address(&self, program: Program) -> Option<SocketAddr> {
        let serves =
            |member: &&Member| member.part.program == program && matches!(member.state, State::Serving);
        self.members.iter().find(serves)?.address
    }

    /// Adds a process without starting it. A further instance of a program listens beside the first one.
    fn add(&mut self, part: Part) -> Result<usize, String> {
        let name = part.program.name();
        let mut same = self.members.iter().filter(|member| member.part.program == part.program);
        let first = same.next().map(|member| member.address);
        let number = 1 + usize::from(first.is_some()) + same.count();
        let (label, address) = match first {
            None => (name.to_owned(), None),
            Some(address) => (format!("{name}-{number}"), beside(address, number - 1)?),
        };
        self.members.push(Member::new(part, label, address));
        Ok(self.members.len() - 1)
    }

    /// Starts the process of a member and waits until it serves. If it does not, the error says why, and the caller
    /// decides what that means for the others.
    fn launch(&mut self, id: usize, deadline: Instant) -> Result<(), Stop> {
        let member = &mut self.members[id];
        let mut command = member.command();
        if self.screen.colour && env::var_os("RUST_LOG_STYLE").is_none() {
            // The services write into a pipe, so they cannot detect that a terminal is at its other end.
            command.env("RUST_LOG_STYLE", "always");
        }
        let process = Process::start(id, &member.label, &mut command, &self.sender).map_err(|error| {
            Stop::Failed(format!(
                "{} cannot be started ({}): {error}",
                member.label,
                member.part.path.display()
            ))
        })?;
        member.process = Some(process);
        (member.state, member.on_end, member.is_frozen) = (State::Starting, OnEnd::Ignore, false);
        member.last_lines.clear();
        self.report();
        self.await_ready(id, deadline)?;
        if self.members[id].part.program == Program::Look {
            self.members[id].on_end = OnEnd::Report;
            self.reported.clear();
            self.report();
        } else {
            self.members[id].on_end = OnEnd::StopEverything;
        }
        Ok(())
    }

    /// Waits until a process serves. It is killed if it does not before the deadline.
    fn await_ready(&mut self, id: usize, deadline: Instant) -> Result<(), Stop> {
        loop {
            if let Some(stop) = self.reason_to_stop() {
                return Err(stop);
            }
            let state = self.members[id].state;
            match state {
                State::Serving => return Ok(()),
                State::Ended(_) if self.is_interrupted_now() => return Err(Stop::Interrupted),
                State::Ended(_) => {
                    return Err(Stop::Failed(self.members[id].describe_end("ended by itself")));
                }
                State::Starting => {}
            }
            if !self.note_event_before(deadline) {
                let reason = self.members[id].describe_end("was not ready in time");
                self.end(&[id], Process::kill);
                return Err(Stop::Failed(reason));
            }
        }
    }

    /// Ends these processes on purpose, all at once. One that takes too long is killed.
    fn end(&mut self, ids: &[usize], how: fn(&Process)) {
        self.request_end(ids, how);
        for member in ids.iter().map(|id| &self.members[*id]).filter(|member| member.runs()) {
            self.screen.say(&format!("{} does not stop; killing it", member.label));
        }
        self.request_end(ids, Process::kill);
    }

    /// Tells the processes that still run to end, and waits for that.
    fn request_end(&mut self, ids: &[usize], how: fn(&Process)) {
        for id in ids {
            let member = &mut self.members[*id];
            member.on_end = OnEnd::Ignore;
            if let Some(process) = member.process.as_ref().filter(|_| member.runs()) {
                how(process);
            }
        }
        let deadline = Instant::now() + self.stop_within;
        while ids.iter().any(|id| self.members[*id].runs()) && self.note_event_before(deadline) {}
    }

    /// The reason to stop: Ctrl-C, or the unexpected end of a process. Ctrl-C takes precedence, since it explains such
    /// an end.
    fn reason_to_stop(&mut self) -> Option<Stop> {
        let is_surprise = |member: &Member| !member.runs() && member.on_end != OnEnd::Ignore;
        let ended = self.members.iter().position(is_surprise);
        if self.interrupted || (ended.is_some() && self.is_interrupted_now()) {
            return Some(Stop::Interrupted);
        }
        let member = &mut self.members[ended?];
        let reason = member.describe_end("ended by itself");
        if member.on_end == OnEnd::StopEverything {
            return Some(Stop::Failed(reason));
        }
        member.on_end = OnEnd::Ignore;
        self.say(&format!("{reason}\n{WITHOUT_PAGE}"));
        None
    }

    /// Whether Ctrl-C explains that a process has just ended.
    fn is_interrupted_now(&mut self) -> bool {
        let deadline = Instant::now() + SAME_MOMENT;
        while !self.interrupted && self.note_event_before(deadline) {}
        self.interrupted
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
            Event::Line { id, source, text } => self.note_line(id, source, text),
            Event::Ready { id, address } => {
                let Some(member) = self.members.get_mut(id) else { return };
                if member.behind_tap.is_none() {
                    member.address = Some(address);
                }
                self.set(id, State::Serving);
            }
            Event::Exited { id, status } => self.set(id, State::Ended(status)),
            Event::Typed(text) => self.queue(text),
            Event::Interrupt => self.interrupted = true,
        }
    }

    fn note_line(&mut self, id: usize, source: Source, text: String) {
        let Some(member) = self.members.get_mut(id) else { return };
        let command = match (member.part.program, source) {
            (Program::Look, Source::Stdout) => text.strip_prefix(SWITCH),
            _ => None,
        };
        if let Some(command) = command {
            // The answer names it, without anything that could control the terminal.
            return self.queue(command.to_owned());
        }
        self.screen.line(id, &member.label, &text);
        if source == Source::Stderr {
            member.remember(text);
        }
    }

    /// Stores a command until [`Self::watch`] carries it out.
    fn queue(&mut self, command: String) {
        if self.commands.len() < WAITING_COMMANDS {
            self.commands.push_back(command);
        } else {
            self.say(&format!("too many commands wait; `{}` is ignored", switch::shown(&command)));
        }
    }

    /// No state follows the end: a line that was still in the pipe does not make a process ready again.
    fn set(&mut self, id: usize, state: State) {
        if let Some(member) = self.members.get_mut(id).filter(|member| member.runs()) {
            member.state = state;
            self.report();
        }
    }

    /// Sends the list of processes to the page if it has changed.
    fn report(&mut self) {
        let shown = self.members.iter().filter(|member| member.part.program.has_switches());
        let list = json!({ "processes": shown.map(Member::to_json).collect::<Vec<_>>() }).to_string();
        if list != self.reported {
            self.tell_page(list.clone());
            self.reported = list;
        }
    }

    /// Writes a line to the page, if it runs.
    fn tell_page(&self, line: String) {
        let page = self.members.iter().find(|member| member.part.program == Program::Look && member.runs());
        if let Some(process) = page.and_then(|page| page.process.as_ref()) {
            process.tell(line);
        }
    }
}

/// The address that is `ports` above `first`, or a sentence that states why it does not exist.
fn beside(first: Option<SocketAddr>, ports: usize) -> Result<Option<SocketAddr>, String> {
    let Some(first) = first else { return Ok(None) };
    let port = u16::try_from(ports).ok().and_then(|ports| first.port().checked_add(ports));
    let port = port.ok_or_else(|| format!("there is no port {ports} above {first}"))?;
    Ok(Some(SocketAddr::new(first.ip(), port)))
}
