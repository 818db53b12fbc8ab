//! Chaos: the effects on clients when processes are killed, stopped and replaced.
//!
//! All stories check the same guarantees. Every request gets the right body within its timeout and one second. No
//! acknowledged write is lost, and none is executed twice. [`Load`] checks all of it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{Load, Process, Scratch, System, await_instances, free_port};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Two users instances on fixed ports, so that each can be restarted at the same address.
struct Pair {
    system: System,
    flags: [[String; 2]; 2],
}

impl Pair {
    fn start(gateway_flags: &[&str]) -> Self {
        let flags = [(); 2].map(|()| ["--listen".to_owned(), format!("127.0.0.1:{}", free_port())]);
        let of = |number: usize| -> Vec<&str> { flags[number].iter().map(String::as_str).collect() };
        let scratch = Scratch::in_memory();
        let distributor = Process::distributor(&["--listen", &format!("127.0.0.1:{}", free_port())]);
        let users = (0..2).map(|number| Process::users(&distributor, &scratch, &of(number))).collect();
        let gateway = Process::gateway(&distributor, gateway_flags);
        await_instances(&gateway, "GET", "/users/changes", 2);
        Self { system: System { gateway, users, distributor, scratch }, flags }
    }

    /// Restarts an instance at the address of the one that has ended.
    fn run_again(&mut self, number: usize) {
        let flags: Vec<&str> = self.flags[number].iter().map(String::as_str).collect();
        let users = Process::users(&self.system.distributor, &self.system.scratch, &flags);
        self.system.users.insert(number, users);
        await_instances(&self.system.gateway, "GET", "/users/changes", 2);
    }

    fn load(&self) -> Load {
        Load::start(self.system.http(), 4, TIMEOUT)
    }
}

fn one_of_two_instances_is_killed_again_and_again(kills: usize, every: Duration) {
    let mut pair = Pair::start(&[]);
    let load = pair.load();
    for _ in 0..kills {
        let next = Instant::now() + every;
        load.await_more(30);
        pair.system.users.remove(0).kill();
        load.await_more(30);
        pair.run_again(0);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let seen = load.end(pair.system.http());
    assert!(seen.failed_reads.is_empty(), "{:#?}", seen.failed_reads);
    let in_flight = |failed: &&String| failed.starts_with("502") && failed.contains("may or may not");
    assert!(seen.failed_writes.iter().all(|failed| in_flight(&failed)), "{:#?}", seen.failed_writes);
    assert!(seen.failed_writes.len() <= 4 * kills, "at most the writes in flight fail: {seen:?}");
}

#[test]
fn killing_one_of_two_instances_fails_only_writes_in_flight_to_it() {
    one_of_two_instances_is_killed_again_and_again(3, Duration::ZERO);
}

#[test]
#[ignore = "slow: a minute"]
fn killing_one_of_two_instances_every_two_seconds_for_a_minute_fails_only_writes_in_flight() {
    one_of_two_instances_is_killed_again_and_again(30, Duration::from_secs(2));
}

/// Sends SIGTERM, waits for the exit and restarts: each users instance in turn, then the distributor.
fn everything_but_the_gateway_is_replaced(rounds: usize) {
    let mut pair = Pair::start(&[]);
    let load = pair.load();
    for _ in 0..rounds {
        for number in 0..2 {
            load.await_more(30);
            let status = pair.system.users.remove(number).stop();
            assert!(status.success(), "{status}");
            pair.run_again(number);
        }
        let listen = pair.system.distributor.address().to_string();
        let again = Process::distributor(&["--listen", "127.0.0.1:0"]);
        let old = std::mem::replace(&mut pair.system.distributor, again);
        assert!(old.stop().success());
        pair.system.distributor = Process::distributor(&["--listen", &listen]);
        await_instances(&pair.system.gateway, "GET", "/users/changes", 2);
    }
    load.await_more(30);
    load.end(pair.system.http()).assert_all_succeeded();
}

#[test]
fn a_rolling_restart_of_both_instances_and_the_distributor_loses_no_request() {
    everything_but_the_gateway_is_replaced(2);
}

#[test]
#[ignore = "slow: a minute"]
fn twenty_rolling_restarts_lose_no_request() {
    everything_but_the_gateway_is_replaced(20);
}

#[test]
fn instances_can_be_replaced_without_loss_while_there_is_no_distributor() {
    let mut pair = Pair::start(&[]);
    let load = pair.load();
    let listen = pair.system.distributor.address().to_string();
    let spare = Process::distributor(&["--listen", "127.0.0.1:0"]);
    std::mem::replace(&mut pair.system.distributor, spare).kill();
    load.await_more(30);
    // No distributor can forward that it leaves, so it notifies its connected peers itself.
    assert!(pair.system.users.remove(0).stop().success());
    load.await_more(30);
    pair.system.gateway.await_log(&["the instance is about to end"]);
    pair.system.distributor = Process::distributor(&["--listen", &listen]);
    pair.run_again(0);
    load.await_more(30);
    load.end(pair.system.http()).assert_all_succeeded();
}

#[test]
fn a_stopped_instance_fails_no_read_becomes_unhealthy_and_recovers() {
    let pair = Pair::start(&["--timeout", "1"]);
    let load = Load::start(pair.system.http(), 4, Duration::from_secs(1));
    load.await_more(30);
    pair.system.users[0].signal(Signal::SIGSTOP);
    pair.system.gateway.await_log(&["set aside for 3 s"]);
    load.await_more(100);
    pair.system.users[0].signal(Signal::SIGCONT);
    pair.system.gateway.await_log(&["answers again"]);
    load.await_more(30);
    let seen = load.end(pair.system.http());
    assert!(seen.failed_reads.is_empty(), "{:#?}", seen.failed_reads);
    let unknown = |failed: &&String| failed.starts_with("504") && failed.contains("may or may not");
    assert!(seen.failed_writes.iter().all(|failed| unknown(&failed)), "{:#?}", seen.failed_writes);
}

#[test]
fn the_last_instance_of_a_route_is_called_even_if_it_is_silent() {
    let mut system = System::builder().gateway_flags(&["--timeout", "0.2"]).start();
    system.create_user("kim@example.com", "Kim");
    system.users[0].signal(Signal::SIGSTOP);
    // The signal takes effect after a short delay.
    crate::harness::eventually("it is silent and marked unhealthy", || {
        let silent = system.http().get("/users/1").status == 504;
        (silent && system.gateway.log().iter().any(|line| line.contains("set aside"))).then_some(())
    });
    assert_eq!(
        system.http().get("/users/1").status,
        504,
        "the only instance was asked, so the gateway waits"
    );
    system.users[0].signal(Signal::SIGCONT);
    crate::harness::eventually("it answers again, though marked unhealthy", || {
        (system.http().get("/users/1").status == 200).then_some(())
    });
    assert!(system.users[0].is_alive());
}

#[test]
fn no_answer_makes_an_instance_unhealthy() {
    let distributor = Process::distributor(&[]);
    let refuse = |request: &crate::harness::ReceivedRequest| {
        request.reply(&serde_json::json!({ "errorcode": 500, "errormessage": "broken" }));
    };
    let _service = crate::harness::Echo::answering(&distributor, "broken", &["GET/broken"], refuse);
    let gateway = Process::gateway(&distributor, &[]);
    await_instances(&gateway, "GET", "/broken", 1);
    for _ in 0..10 {
        assert_eq!(gateway.http().get("/broken").status, 500);
    }
    assert!(!gateway.log().iter().any(|line| line.contains("set aside")), "{:#?}", gateway.log());
}
