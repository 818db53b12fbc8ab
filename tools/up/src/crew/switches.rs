//! Breaks things on purpose: what each [`Switch`] does to the processes.
//!
//! A command is carried out to its end before the next one. Meanwhile the events of all processes are handled.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

use serde_json::json;

use super::Crew;
use crate::event::Stop;
use crate::member::{Member, Part, Program};
use crate::process::Process;
use crate::reaction;
use crate::switch::{Fault, Switch, shown};

/// How many instances of `users` there may be.
const MOST_USERS: usize = 16;

impl Crew {
    /// Carries out a command, and answers it on the screen and on the page.
    pub(super) fn carry_out(&mut self, command: &str) {
        if command.trim().is_empty() {
            return;
        }
        let answer = if self.tap.is_none() {
            Err("switches exist only in development mode, which is without a secret".to_owned())
        } else {
            Switch::parse(command).and_then(|switch| self.turn(&switch))
        };
        let said = answer.unwrap_or_else(|error| error);
        self.report();
        self.say(&said);
        self.tell_page(json!({ "said": said }).to_string());
    }

    /// The answer is a sentence, and so is the error.
    fn turn(&mut self, switch: &Switch) -> Result<String, String> {
        if cfg!(not(unix)) && matches!(switch, Switch::Freeze(_) | Switch::Disturb(_, Fault::Cut)) {
            return Err("freeze and cut are not available here: only Unix can freeze a process".to_owned());
        }
        let done = match switch {
            Switch::Freeze(name) => self.freeze(name),
            Switch::Continue(name) => self.resume(name),
            Switch::Kill(name) => self.end_one(name, Process::kill, "was killed"),
            Switch::Stop(name) => self.end_one(name, Process::terminate, "has stopped"),
            Switch::StartUsers => self.start_users(),
            Switch::Restart(name) => self.restart(name),
            Switch::Disturb(name, fault) => self.disturb(name, *fault),
            Switch::Heal(name) => self.heal(name),
            Switch::Load(per_second) => self.load(*per_second),
            Switch::Help => return Ok(Switch::help()),
        };
        done.map(|(done, program)| format!("{done}; look: {}", reaction::expected(switch, program)))
    }

    fn freeze(&mut self, name: &str) -> Done {
        let id = self.find_running(name)?;
        self.set_frozen(id, true);
        Ok((format!("{name} is frozen"), self.members[id].part.program))
    }

    fn resume(&mut self, name: &str) -> Done {
        let id = self.find_running(name)?;
        if !self.members[id].is_frozen {
            return Err(format!("{name} is not frozen"));
        }
        self.set_frozen(id, false);
        Ok((format!("{name} continues"), self.members[id].part.program))
    }

    fn end_one(&mut self, name: &str, how: fn(&Process), done: &str) -> Done {
        let id = self.find_running(name)?;
        self.end(&[id], how);
        Ok((format!("{name} {done}"), self.members[id].part.program))
    }

    fn start_users(&mut self) -> Done {
        let mut users = self.members.iter().filter(|member| member.part.program == Program::Users);
        let part = users.next().ok_or("there is no first instance of users")?.part.clone();
        if users.count() + 1 >= MOST_USERS {
            return Err(format!("there are {MOST_USERS} instances of users, and no more are possible"));
        }
        let id = self.add(part)?;
        self.launch_by_switch(id)?;
        Ok((format!("{} has started", self.members[id].label), Program::Users))
    }

    fn restart(&mut self, name: &str) -> Done {
        let id = self.find(name)?;
        self.restart_one(id)?;
        Ok((format!("{name} has started again"), self.members[id].part.program))
    }

    /// Puts a tap with this fault in front of an instance, or changes the fault of its tap. The tap takes over the
    /// address of the instance, so the others see no new one. Cutting a tap that is there keeps its connections: they
    /// swallow every packet.
    fn disturb(&mut self, name: &str, fault: Fault) -> Done {
        let id = self.find_running(name)?;
        if self.members[id].part.program != Program::Users {
            return Err(format!("{name} has no link to disturb; only instances of users have"));
        }
        let tap = self.find_or_add_tap(id)?;
        let had_tap = self.members[id].behind_tap.is_some();
        if !had_tap {
            let free = free_address().map_err(|error| format!("there is no free port: {error}"))?;
            self.end(&[id], Process::terminate);
            self.members[id].behind_tap = Some(free);
        }
        let keeps_tap = had_tap && self.members[tap].runs() && fault == Fault::Cut;
        let tapped = if keeps_tap { Ok(()) } else { self.restart_tap(tap, id, fault) };
        if !had_tap {
            // Without its tap, the instance starts as it was.
            let behind_tap = &mut self.members[id].behind_tap;
            *behind_tap = behind_tap.filter(|_| tapped.is_ok());
            self.launch_by_switch(id)?;
        }
        tapped?;
        self.members[id].fault = Some(fault);
        self.set_frozen(tap, fault == Fault::Cut);
        Ok((format!("{name} is disturbed ({fault})"), Program::Users))
    }

    fn heal(&mut self, name: &str) -> Done {
        let id = self.find(name)?;
        if self.members[id].behind_tap.is_none() {
            return Err(format!("{name} is not disturbed"));
        }
        let tap = self.find_or_add_tap(id)?;
        self.end(&[tap], Process::kill);
        (self.members[id].behind_tap, self.members[id].fault) = (None, None);
        self.restart_one(id)?;
        Ok((format!("{name} is healed"), Program::Users))
    }

    fn load(&mut self, per_second: u32) -> Done {
        if self.address(Program::Look).is_none() {
            return Err("the page sends the load, and it does not run".to_owned());
        }
        self.tell_page(json!({ "load": per_second }).to_string());
        Ok((format!("the load is {per_second} requests per second"), Program::Look))
    }

    /// The process with this label. The error names those that exist.
    fn find(&self, name: &str) -> Result<usize, String> {
        let has_switches = |member: &&Member| member.part.program.has_switches();
        let found = self.members.iter().position(|member| member.label == name && has_switches(&member));
        found.ok_or_else(|| {
            let labels: Vec<&str> =
                self.members.iter().filter(has_switches).map(|member| member.label.as_str()).collect();
            format!("there is no process `{}`; expected one of: {}", shown(name), labels.join(", "))
        })
    }

    fn find_running(&self, name: &str) -> Result<usize, String> {
        let id = self.find(name)?;
        if self.members[id].runs() {
            Ok(id)
        } else {
            Err(format!("{name} has ended; `restart {name}` starts it"))
        }
    }

    /// The tap of an instance. Its label is that of the instance with a word more.
    fn find_or_add_tap(&mut self, id: usize) -> Result<usize, String> {
        let label = format!("{}-tap", self.members[id].label);
        if let Some(tap) = self.members.iter().position(|member| member.label == label) {
            return Ok(tap);
        }
        let path = self.tap.clone().ok_or("there is no tap")?;
        let part = Part { program: Program::Tap, path, args: Vec::new() };
        self.members.push(Member::new(part, label, self.members[id].address));
        Ok(self.members.len() - 1)
    }

    /// Starts the tap of instance `id` with this fault. A cut is no fault of the tap: it is frozen later.
    fn restart_tap(&mut self, tap: usize, id: usize, fault: Fault) -> Result<(), String> {
        let node = self.members[id].behind_tap;
        let node = node.ok_or_else(|| format!("{} is not behind a tap", self.members[id].label))?;
        self.end(&[tap], Process::kill);
        let flags = match fault {
            Fault::Delay(ms) => vec!["--delay".to_owned(), ms.to_string()],
            Fault::Drop(every) => vec!["--drop".to_owned(), every.to_string()],
            Fault::Cut => Vec::new(),
        };
        self.members[tap].part.args = [vec![node.to_string()], flags].concat();
        self.launch_by_switch(tap)
    }

    fn restart_one(&mut self, id: usize) -> Result<(), String> {
        self.end(&[id], Process::terminate);
        self.launch_by_switch(id)
    }

    /// A process that a switch starts must not stop the others if it cannot start. The error says why.
    fn launch_by_switch(&mut self, id: usize) -> Result<(), String> {
        let deadline = Instant::now() + self.ready_within;
        self.launch(id, deadline).map_err(|stop| match stop {
            Stop::Failed(reason) => reason,
            Stop::Interrupted => "everything stops".to_owned(),
        })
    }

    fn set_frozen(&mut self, id: usize, is_frozen: bool) {
        let member = &mut self.members[id];
        if let Some(process) = &member.process {
            if is_frozen {
                process.freeze();
            } else {
                process.resume();
            }
            member.is_frozen = is_frozen;
        }
    }
}

/// A port that nobody uses now.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// What was done, and to which program; or a sentence that says why not.
type Done = Result<(String, Program), String>;
