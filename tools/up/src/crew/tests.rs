use std::thread;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::*;
use Program::{Distributor, Gateway, Look, Users};

/// Serves until it receives a stop signal.
const SERVES: &str = "echo \"pid $$\" >&2; echo part listening on 127.0.0.1:9020; exec sleep 60";

/// A program that is a shell script. Its flags arrive as `$0` and `$1`.
fn part(program: Program, script: &str) -> Part {
    Part { program, path: "sh".into(), args: vec!["-c".to_owned(), script.to_owned()] }
}

fn crew() -> Crew {
    let (sender, events) = crossbeam_channel::bounded(16);
    Crew::new(sender, events, Screen::off(), Some("/nowhere/tap".into()))
}

/// The ids of the processes that scripts wrote and that still exist.
fn alive(crew: &Crew) -> Vec<Pid> {
    let lines = crew.members.iter().flat_map(|member| &member.last_lines);
    let pids = lines.filter_map(|line| line.strip_prefix("pid ")?.parse().ok()).map(Pid::from_raw);
    pids.filter(|pid| kill(*pid, None).is_ok()).collect()
}

/// Handles events until the scripts of all that were started have written their process id.
fn hear_pids(crew: &mut Crew) {
    while crew.members.iter().any(|member| member.process.is_some() && member.last_lines.is_empty()) {
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
    let started = crew.start(vec![part(Distributor, SERVES), part(Users, SERVES), part(Gateway, SERVES)]);
    assert_eq!(started, Ok(()));
    assert_eq!(crew.address(Gateway), Some(([127, 0, 0, 1], 9020).into()));
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
    let failing = part(Users, "echo starting >&2; echo 'the address is in use' >&2; exit 7");
    let started = crew.start(vec![part(Distributor, SERVES), failing, part(Gateway, SERVES)]);
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
    let started = crew.start(vec![part(Users, "echo users listening on 127.0.0.1:1; sleep 0.2")]);
    assert!(started.is_ok());
    assert_eq!(reason(crew.watch()), "users ended by itself (exit status: 0) and logged nothing.");
}

#[test]
fn an_end_at_the_moment_of_an_interrupt_is_obedience() {
    let mut crew = crew();
    assert!(crew.start(vec![part(Users, "echo users listening on 127.0.0.1:1; sleep 0.1")]).is_ok());
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
    let missing = Part { path: "/nowhere/users".into(), ..part(Users, "") };
    let started = crew.start(vec![part(Distributor, SERVES), missing]);
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
    let started = crew.start(vec![part(Users, "echo waiting for nothing >&2; exec sleep 60")]);
    let reason = started.err().map(reason);
    assert_eq!(
        reason.as_deref(),
        Some("users was not ready in time. Its last log lines:\n    waiting for nothing")
    );
}

#[test]
fn one_that_writes_instead_of_ending_is_killed() {
    let mut crew = Crew { stop_within: Duration::from_millis(300), ..crew() };
    let stubborn =
        "trap '' TERM; echo \"pid $$\" >&2; echo part listening on 127.0.0.1:1; while :; do echo no; done";
    assert!(crew.start(vec![part(Users, stubborn)]).is_ok());
    hear_pids(&mut crew);
    let [pid] = alive(&crew)[..] else { unreachable!("it runs") };
    crew.stop();
    drop(crew);
    assert!(kill(pid, None).is_err());
}

#[test]
fn the_last_started_is_stopped_first_and_those_of_one_program_together() {
    let says_bye =
        "trap 'echo bye >&2; exit' TERM; echo part listening on 127.0.0.1:1; while :; do sleep 0.1; done";
    let mut crew = crew();
    let programs = [Distributor, Users, Users, Gateway];
    assert!(crew.start(programs.map(|program| part(program, says_bye)).into()).is_ok());
    // Only the order of the programs is guaranteed. `end` returns when all have ended.
    crew.end(&[3], Process::terminate);
    assert_eq!(crew.members.iter().map(Member::runs).collect::<Vec<_>>(), [true, true, true, false]);
    crew.stop();
    assert!(!crew.members.iter().any(Member::runs));
    assert!(crew.members.iter().all(|member| member.last_lines.back().is_some_and(|line| line == "bye")));
}

#[test]
fn further_instances_listen_beside_the_first() {
    let mut crew = crew();
    let further = part(Users, "echo \"$0 $1\" >&2; echo users listening on \"$1\"; exec sleep 60");
    assert_eq!(crew.start(vec![part(Users, SERVES), further.clone(), further]), Ok(()));
    hear_pids(&mut crew);
    let labels: Vec<&str> = crew.members.iter().map(|member| member.label.as_str()).collect();
    assert_eq!(labels, ["users", "users-2", "users-3"]);
    assert_eq!(crew.members[2].last_lines, ["--listen 127.0.0.1:9022"]);
    assert!(beside(Some(([127, 0, 0, 1], 65535).into()), 1).is_err());
}

/// Serves until it is killed. The address is the one of its flag after a restart.
const RESTARTS: &str = "echo \"pid $$\" >&2; case $0 in --listen) ;; *) set 127.0.0.1:9020;; esac; echo x listening on $1; exec sleep 60";

#[test]
fn an_end_that_a_switch_caused_stops_nothing_and_another_end_does() {
    let mut crew = crew();
    assert_eq!(crew.start(vec![part(Distributor, RESTARTS), part(Users, RESTARTS)]), Ok(()));
    for command in ["kill users", "restart users", "stop distributor", "freeze users", "restart users"] {
        crew.carry_out(command);
        assert_eq!(crew.reason_to_stop(), None, "{command}");
    }
    hear_pids(&mut crew);
    let [pid] = alive(&crew)[..] else { unreachable!("only users run") };
    assert!(kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok());
    assert!(reason(crew.watch()).starts_with("users ended by itself (signal: 9"));
}

#[test]
fn a_frozen_process_stops_with_the_others() {
    let mut crew = crew();
    assert_eq!(crew.start(vec![part(Distributor, SERVES), part(Users, SERVES)]), Ok(()));
    hear_pids(&mut crew);
    let pids = alive(&crew);
    crew.carry_out("freeze users");
    crew.carry_out("freeze distributor");
    let began = Instant::now();
    crew.stop();
    assert!(began.elapsed() < STOP_WITHIN, "nothing had to be killed");
    assert!(pids.len() == 2 && pids.iter().all(|pid| kill(*pid, None).is_err()));
}

#[test]
fn a_switch_that_cannot_work_says_why_and_stops_nothing() {
    let mut crew = crew();
    let (out, screen) = Screen::shared();
    crew.screen = screen;
    assert_eq!(crew.start(vec![part(Distributor, SERVES), part(Users, SERVES)]), Ok(()));
    let table = [
        ("freeze look", "there is no process `look`; expected one of: distributor, users\n"),
        ("continue users", "users is not frozen\n"),
        ("cut distributor", "distributor has no link to disturb; only instances of users have\n"),
        ("heal users", "users is not disturbed\n"),
        (
            "delay users 5",
            "users-tap cannot be started (/nowhere/tap): No such file or directory (os error 2)\n",
        ),
        ("load 5", "the page sends the load, and it does not run\n"),
        ("break users", "unknown command `break`; expected one of: "),
        (" ", ""),
    ];
    for (command, answer) in table {
        out.lock().unwrap().clear();
        crew.carry_out(command);
        let said = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        assert!(said.contains(answer), "{command}: {said}");
        assert_eq!(crew.reason_to_stop(), None, "{command}");
    }
    crew.tap = None;
    out.lock().unwrap().clear();
    crew.carry_out("kill users");
    assert!(
        String::from_utf8_lossy(&out.lock().unwrap()).starts_with("switches exist only in development mode")
    );
    assert!(crew.members[..2].iter().all(Member::runs));
}

#[test]
fn an_instance_that_a_switch_starts_and_that_ends_at_once_stops_nothing() {
    let mut crew = crew();
    let only_first =
        "case $0 in --listen) exit 3;; esac; echo users listening on 127.0.0.1:9020; exec sleep 60";
    assert_eq!(crew.start(vec![part(Users, only_first)]), Ok(()));
    crew.carry_out("start users");
    assert_eq!(crew.reason_to_stop(), None);
    assert_eq!(crew.members.iter().map(Member::runs).collect::<Vec<_>>(), [true, false]);
    assert_eq!(crew.members[1].address, Some(([127, 0, 0, 1], 9021).into()));
}

#[test]
fn there_are_at_most_sixteen_instances() {
    let mut crew = crew();
    assert_eq!(crew.start((0..15).map(|_| part(Users, RESTARTS)).collect()), Ok(()));
    crew.carry_out("start users");
    crew.carry_out("start users");
    assert_eq!(crew.members.len(), 16);
}

#[test]
fn the_page_is_optional_and_receives_the_processes_and_the_answers() {
    let mut crew = crew();
    let missing = Part { path: "/nowhere/look".into(), ..part(Look, "") };
    assert_eq!(crew.start(vec![part(Users, SERVES), missing]), Ok(()));

    let repeats = "echo look listening on 127.0.0.1:8080; echo switch: freeze users; while read line; do echo \"$line\" >&2; done";
    assert_eq!(crew.start(vec![part(Look, repeats)]), Ok(()));
    while crew.members[2].last_lines.len() < LINES_UNTIL_ANSWER {
        if let Some(command) = crew.commands.pop_front() {
            crew.carry_out(&command);
        } else if let Ok(event) = crew.events.recv() {
            crew.note(event);
        }
    }
    let lines = &crew.members[2].last_lines;
    assert!(lines[0].contains(r#""address":"127.0.0.1:9020""#) && lines[0].contains(r#""state":"running""#));
    assert!(lines[1].contains(r#""state":"frozen""#), "{lines:?}");
    assert!(lines[2].starts_with(r#"{"said":"users is frozen; look: "#), "{lines:?}");
    crew.end(&[2], Process::kill);
    crew.members[2].on_end = OnEnd::Report;
    assert_eq!(crew.reason_to_stop(), None, "the end of the page stops nothing");
}

/// The processes before and after a command, and its answer.
const LINES_UNTIL_ANSWER: usize = 3;
