//! The units of systemd. Binaries of this build stand where they will be installed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{deployed, have};
use crate::harness::Scratch;

/// The units, as copies in which the binaries are those of this build.
fn units(scratch: &Scratch) -> Vec<PathBuf> {
    let binaries = PathBuf::from(env!("CARGO_BIN_EXE_users"));
    let binaries = binaries.parent().unwrap();
    ["pilcrow-distributor.service", "pilcrow-gateway.service", "pilcrow-users@.service"]
        .map(|name| {
            let text = fs::read_to_string(deployed("systemd").join(name)).unwrap();
            assert!(text.contains("\nExecStart=/usr/local/bin/"), "{name}");
            let text = text.replace("=/usr/local/bin", &format!("={}", binaries.display()));
            // A template is checked with an instance's name.
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
    for unit in units(&scratch) {
        let told = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        let told = (told.status.success(), String::from_utf8_lossy(&told.stderr).into_owned());
        // It also looks at the units of this machine that ours come after.
        let ours: Vec<&str> = told.1.lines().filter(|line| line.contains("pilcrow")).collect();
        assert!(told.0 && ours.is_empty(), "{}: {}", unit.display(), told.1);
    }
}

#[test]
fn the_units_take_away_what_the_processes_do_not_need() {
    if !have(&["systemd-analyze"]) {
        return;
    }
    let scratch = Scratch::new();
    for unit in units(&scratch) {
        // From 0, nothing can go wrong, to 10; in tenths. What is left is mostly that they use the network.
        let told = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", "--threshold=15"])
            .arg(&unit)
            .output()
            .unwrap();
        assert!(told.status.success(), "{}: {}", unit.display(), String::from_utf8_lossy(&told.stdout));
    }
}
