//! The systemd units. Binaries of this build replace the installed ones.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use super::outsider::Curl;
use super::proxy::Proxy;
use super::{deployed, have};
use crate::harness::{Process, Program, Scratch, await_instances, free_port};

/// Copies of the units that use the binaries of this build.
fn units(scratch: &Scratch) -> Vec<PathBuf> {
    let binaries = PathBuf::from(env!("CARGO_BIN_EXE_users"));
    let binaries = binaries.parent().unwrap();
    ["pilcrow-distributor.service", "pilcrow-gateway.service", "pilcrow-users@.service"]
        .map(|name| {
            let text = fs::read_to_string(deployed("systemd").join(name)).unwrap();
            assert!(text.contains("\nExecStart=/usr/local/bin/"), "{name}");
            let text = text.replace("=/usr/local/bin", &format!("={}", binaries.display()));
            // A template is checked with an instance name.
            let copy = scratch.file(&name.replace('@', "@9020"));
            fs::write(&copy, text).unwrap();
            copy
        })
        .into()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let scratch = Scratch::new();
    let mut all = units(&scratch);
    // A socket is checked together with the service beside it.
    let socket = scratch.file("pilcrow-gateway.socket");
    fs::copy(deployed("systemd").join("pilcrow-gateway.socket"), &socket).unwrap();
    all.push(socket);
    for unit in all {
        let output =
            Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        let (accepted, report) = (output.status.success(), String::from_utf8_lossy(&output.stderr));
        // It also checks the machine's units that ours are ordered after.
        let ours: Vec<&str> = report.lines().filter(|line| line.contains("pilcrow")).collect();
        assert!(accepted && ours.is_empty(), "{}: {}", unit.display(), report);
    }
}

#[test]
fn the_units_drop_unneeded_privileges() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let scratch = Scratch::new();
    for unit in units(&scratch) {
        // The exposure level in tenths: 0 is safest, 100 is worst. The remainder is mostly network access.
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", "--threshold=15"])
            .arg(&unit)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {}", unit.display(), String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_command_lines_of_the_units_are_a_system_with_a_secret() {
    let scratch = Scratch::in_memory();
    fs::create_dir(scratch.file("pilcrow")).unwrap();
    fs::write(scratch.file("secret"), "5f0c".repeat(16)).unwrap();
    fs::set_permissions(scratch.file("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let [distributor, gateway, first, second] = [(); 4].map(|()| free_port().to_string());
    let [distributor, gateway] = [distributor, gateway].map(|port| format!("127.0.0.1:{port}"));
    // The settings that the deployer writes into /etc/pilcrow/pilcrow.env.
    let settings = [
        ("DISTRIBUTOR_LISTEN", distributor.as_str()),
        ("PILCROW_DISTRIBUTOR", &distributor),
        ("GATEWAY_LISTEN", &gateway),
    ];
    let start = |unit: &str, instance: &str| start_unit(&scratch, unit, instance, &settings);
    let distributor = start("pilcrow-distributor.service", "");
    let users = [first, second].map(|port| start("pilcrow-users@.service", &port));
    let gateway = start("pilcrow-gateway.service", "");
    await_instances(&gateway, "POST", "/users", 2);
    if let Some(proxy) = Proxy::before(&[gateway.address()]) {
        let form = ["-d", "name=Kim", "-d", "email=kim@example.com", "-d", "password=correct-horse"];
        let answer = Curl { proxy: &proxy, version: "--http2" }.ask("/users", &form);
        assert_eq!(answer.status, 201, "{}", answer.text());
        assert!(scratch.file("pilcrow/users.db").is_file());
    }
    let [first, second] = users;
    for process in [gateway, first, second, distributor] {
        assert!(process.stop().success());
    }
}

/// Runs the start command of this unit, as this instance, with the systemd files in `scratch`.
fn start_unit(scratch: &Scratch, unit: &str, instance: &str, settings: &[(&str, &str)]) -> Process {
    let text = fs::read_to_string(deployed("systemd").join(unit)).unwrap();
    let values = |name: &str| -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
    };
    let own = values("Environment").into_iter().map(|setting| setting.split_once('=').unwrap());
    let variables: Vec<(&str, &str)> = own.chain(settings.iter().copied()).collect();
    let mut command = values("ExecStart").remove(0).to_owned();
    for (name, value) in &variables {
        command = command.replace(&format!("${{{name}}}"), value);
    }
    // The credentials directory, the state directory, the instance.
    let folder = scratch.path().to_str().unwrap();
    let command = command.replace("%d", folder).replace("%S", folder).replace("%i", instance);
    let mut words = command.split(' ');
    let program = match words.next().unwrap() {
        "/usr/local/bin/distributor" => env!("CARGO_BIN_EXE_distributor"),
        "/usr/local/bin/gateway" => env!("CARGO_BIN_EXE_gateway"),
        "/usr/local/bin/users" => env!("CARGO_BIN_EXE_users"),
        other => panic!("{unit} starts {other}"),
    };
    let process = Program::at(program).flags(words).variables(&variables).start();
    process.await_log(&["secured"]);
    process
}
