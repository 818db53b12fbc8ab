//! `cargo up` and its switches: what breaks on purpose, what still stops everything, and what nothing outlives.
//!
//! A script plays cargo, so nothing is built. It names the programs of these tests.
//!
//! | file | contains |
//! | --- | --- |
//! | [`up`] | `cargo up` with a keyboard, and what it shows |
//! | [`page`] | the page as its child |

mod page;
mod up;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::eventually;
use up::Up;

#[test]
fn a_killed_instance_stops_no_other_and_can_be_restarted() {
    let up = Up::start(2);
    up.await_instances(2);
    up.command("kill users-2", "users-2 was killed; look: ");
    up.await_instances(1);
    assert_eq!(up.http().get("/users").status, 200);
    up.command("kill users-2", "users-2 has ended; `restart users-2` starts it");
    up.command("restart users-2", "users-2 has started again; look: ");
    up.await_instances(2);
    up.command("stop users", "users has stopped; look: ");
    assert_eq!(up.http().get("/users").status, 200);
    up.command("restart users", "users has started again; look: ");
    up.await_instances(2);
}

#[test]
fn one_more_instance_listens_beside_the_others_and_gets_requests() {
    let up = Up::start(1);
    up.command("start users", "users-2 has started; look: ");
    up.await_instances(2);
    assert!(up.shows(&format!("users-2     │ users listening on 127.0.0.1:{}", up.users_port() + 1)));
}

#[test]
fn a_frozen_instance_is_silent_until_it_continues() {
    let up = Up::start(1);
    up.await_instances(1);
    up.command("freeze users", "users is frozen; look: ");
    assert_eq!(up.http().get("/users").status, 504);
    up.command("continue users", "users continues; look: ");
    eventually("it answers again", || (up.http().get("/users").status == 200).then_some(()));
    up.command("continue users", "users is not frozen");
}

#[test]
fn a_client_notices_a_delay_until_the_instance_is_healed() {
    let up = Up::start(1);
    up.await_instances(1);
    let delay = Duration::from_millis(400);
    let read = || {
        let began = Instant::now();
        let status = up.http().get("/users").status;
        (status == 200).then(|| began.elapsed())
    };
    up.command("delay users 5", "users is disturbed (delay 5); look: ");
    eventually("it answers behind the tap", read);
    up.command("delay users 200", "users is disturbed (delay 200); look: ");
    eventually("a read is delayed in both directions", || read().filter(|took| *took >= delay));
    up.command("heal users", "users is healed; look: ");
    eventually("a read is fast again", || read().filter(|took| *took < delay));
}

#[test]
fn reads_avoid_an_instance_whose_network_swallows_every_packet() {
    let up = Up::start(2);
    up.await_instances(2);
    up.command("cut users-2", "users-2 is disturbed (cut); look: ");
    up.await_instances(2);
    eventually("the instance is set aside, and no read fails", || {
        assert_eq!(up.http().get("/users").status, 200);
        up.shows("set aside for").then_some(())
    });
    up.command("heal users-2", "users-2 is healed; look: ");
    up.await_instances(2);
    assert_eq!(up.http().get("/users").status, 200);
}

#[test]
fn without_the_distributor_requests_still_work_and_processes_join_when_it_is_back() {
    let up = Up::start(1);
    up.await_instances(1);
    up.command("freeze distributor", "distributor is frozen; look: ");
    up.command("start users", "users-2 has started; look: ");
    assert_eq!(up.http().get("/users").status, 200);
    up.command("continue distributor", "distributor continues; look: ");
    up.await_instances(2);
    up.command("stop distributor", "distributor has stopped; look: ");
    assert_eq!(up.http().get("/users").status, 200);
    up.command("restart users-2", "users-2 has started again; look: ");
    up.command("restart distributor", "distributor has started again; look: ");
    up.await_instances(2);
}

#[test]
fn an_unknown_command_names_the_known_ones() {
    let up = Up::start(1);
    up.command(
        "break users",
        "unknown command `break`; expected one of: freeze NAME, continue NAME, kill NAME",
    );
    up.command("kill nobody", "there is no process `nobody`; expected one of: distributor, users, gateway");
    up.command("help", "NAME is the name in front of a log line.");
}

#[test]
fn nothing_outlives_cargo_up_whatever_was_frozen() {
    let mut up = Up::start(2);
    up.await_instances(2);
    up.command("cut users", "users is disturbed (cut); look: ");
    for name in ["users-2", "gateway", "distributor"] {
        up.command(&format!("freeze {name}"), &format!("{name} is frozen; look: "));
    }
    let children = up.children();
    assert_eq!(children.len(), 5, "three programs, a second instance and a tap");
    assert_eq!(up.end_by(Signal::SIGTERM), Some(0));
    assert!(children.iter().all(|child| !child.exists()));
    assert!(!up.shows("does not stop; killing it"));
}

#[test]
fn an_instance_that_ends_by_itself_still_stops_everything() {
    let mut up = Up::start(2);
    up.command("kill users", "users was killed; look: ");
    up.command("restart users", "users has started again; look: ");
    let children = up.children();
    let instance = children.iter().find(|child| child.listens_on(up.users_port())).unwrap();
    instance.signal(Signal::SIGKILL);
    assert_eq!(up.await_end(), Some(1));
    assert!(up.stderr().contains("cargo up: users ended by itself (signal: 9"), "{}", up.stderr());
    assert!(children.iter().all(|child| !child.exists()));
}
