//! The promises of `deploy/` and `docs/deployment.md`, tested with the files that are really deployed: the proxy in
//! front of real gateways, the units, the backup.
//!
//! | file | tests |
//! | --- | --- |
//! | [`walk`] | the curl walk over TLS, by HTTP/1.1 and HTTP/2; events; two gateways |
//! | [`doors`] | closed doors: old TLS, plain HTTP, the inner paths, forged addresses, guessing, too many connections |
//! | [`abuse`] | invalid requests, slow ones and huge ones, while others are served |
//! | [`units`] | the units of systemd |
//! | [`backup`] | a backup of a database in use |
//!
//! A story that needs a missing program (haproxy, curl, openssl, systemd-analyze, sqlite3) says so and is skipped.

#![cfg(unix)]

mod abuse;
mod backup;
mod doors;
mod outsider;
mod played_gateway;
mod proxy;
mod units;
mod walk;

use std::path::{Path, PathBuf};

/// The path of a file of this repository.
fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// The path of this program. Daemons are in directories that are only on root's PATH.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        crate::harness::skip(name, "not installed on this machine");
    }
    found
}

/// Whether all of these programs are installed.
fn have(names: &[&str]) -> bool {
    names.iter().all(|name| program(name).is_some())
}
