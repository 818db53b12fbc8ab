//! Distributors that are down for a while, and several of them.

use std::time::{Duration, Instant};

use crate::harness::{Echo, Load, Process, Program, Scratch, System, await_instances, free_port};

/// The time limit for a request at a gateway with its default settings.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The load makes over 100,000 changes in a minute. Its end reads them all.
const KEEP_ALL_CHANGES: [&str; 2] = ["--keep-changes", "10000000"];

fn without_a_distributor_for(time: Duration) {
    let address = format!("127.0.0.1:{}", free_port());
    let distributor = Process::distributor(&["--listen", &address]);
    let system = System::builder()
        .scratch(Scratch::in_memory())
        .distributor(distributor)
        .users_flags(&KEEP_ALL_CHANGES)
        .start();
    let load = Load::start(system.http(), 4, TIMEOUT);
    load.await_more(50);
    system.distributor.kill();
    let gone = Instant::now();
    system.gateway.await_log(&["distributor", "trying again"]);
    let newcomer = Program::users(&address, &system.scratch).flags(KEEP_ALL_CHANGES).start();
    newcomer.await_log(&["cannot reach", &address, "trying again every 3 s"]);
    load.await_more(100);
    std::thread::sleep(time.saturating_sub(gone.elapsed()));
    load.await_more(100);
    let _distributor = Process::distributor(&["--listen", &address]);
    let (away, back) = (gone.elapsed(), Instant::now());
    await_instances(&system.gateway, "GET", "/users", 2);
    let took = back.elapsed();
    println!("gone for {away:.1?}; the new service had joined {took:.1?} after the return");
    // The newcomer and the gateway each retry every three seconds.
    assert!(took < Duration::from_secs(5), "{took:?}");
    load.await_more(100);
    load.end(system.gateway.http()).assert_all_succeeded();
}

#[test]
fn traffic_continues_without_a_distributor_and_new_services_join_when_it_returns() {
    without_a_distributor_for(Duration::from_secs(2));
}

#[test]
#[ignore = "slow: is without a distributor for a minute"]
fn traffic_continues_for_a_minute_without_a_distributor() {
    without_a_distributor_for(Duration::from_secs(60));
}

#[test]
fn two_distributors_can_be_replaced_in_turn_without_a_failed_request() {
    let addresses = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let both = addresses.join(",");
    let start = |address: &String| Process::distributor(&["--listen", address]);
    let mut distributors = addresses.iter().map(start).collect::<Vec<_>>();
    let scratch = Scratch::in_memory();
    let users = Program::users(&both, &scratch).start();
    let gateway = Program::gateway(&both).start();
    // Both distributors list it, but it counts as one instance.
    for distributor in &distributors {
        distributor.await_log(&["registered: users at"]);
    }
    await_instances(&gateway, "GET", "/users", 1);
    let load = Load::start(gateway.http(), 4, TIMEOUT);
    let mut newcomers = Vec::new();
    for (turn, address) in addresses.iter().enumerate() {
        distributors.remove(0).kill();
        load.await_more(50);
        // The other distributor suffices for discovery.
        let route = format!("GET/new{turn}");
        newcomers.push(Echo::start(&distributors[0], "newcomer", &[&route]));
        await_instances(&gateway, "GET", &route[3..], 1);
        let again = start(address);
        again.await_log(&["registered: users at"]);
        again.await_log(&["registered: gate at"]);
        distributors.push(again);
        await_instances(&gateway, "GET", "/users", 1);
    }
    load.await_more(50);
    load.end(gateway.http()).assert_all_succeeded();
    for turn in 0..2 {
        assert_eq!(gateway.http().get(&format!("/new{turn}")).status, 200);
    }
    drop(users);
}
