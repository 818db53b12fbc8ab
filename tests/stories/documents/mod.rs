//! Runs the console blocks of the documents, in order, as a reader would type them.
//!
//! Each document runs in a separate network namespace, so its ports are the documented ones. It runs in a directory
//! that looks like a fresh clone. A comment before a block says more:
//!
//! - `<!-- terminal: NAME -->`: the block belongs to this terminal. Its last command may go on running. A block without
//!   a command shows what the terminal prints meanwhile.
//! - `<!-- type: NAME -->`: the text of the block is typed into this terminal.
//! - `<!-- stop: NAME -->`: Ctrl-C in this terminal.
//! - `<!-- fresh -->`: all programs are stopped and the database is removed.
//! - `<!-- not run: REASON -->`: the block is not run.
//!
//! In the output that a document shows, `…` stands for anything. Times, ids, tokens and temporary ports match any
//! other.

pub mod blocks;
pub mod output;
mod reader;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::skip;
use blocks::{Action, Block, blocks_of};
use reader::Reader;

/// Set for the process that runs inside the network namespace.
const INSIDE: &str = "PILCROW_DOCUMENT_NAMESPACE";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document with console blocks, as a path below the root.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "bench", "deploy", "docs", "examples", "examples/node", "fuzz"] {
        let entries = fs::read_dir(root().join(folder)).unwrap();
        let names = entries.map(|entry| Path::new(folder).join(entry.unwrap().file_name()));
        found.extend(names.filter(|name| name.extension().is_some_and(|end| end == "md")));
    }
    found.sort();
    found
}

fn read_blocks(document: &Path) -> Vec<Block> {
    blocks_of(&fs::read_to_string(root().join(document)).unwrap())
}

/// Runs the blocks of one document inside a network namespace. If that is not possible here, prints the reason.
fn run_document(test: &str, document: &str) {
    if env::var_os(INSIDE).is_some() {
        return Reader::new(root()).read(document, &read_blocks(Path::new(document)));
    }
    let namespace = ["--net", "--map-root-user"];
    let can_separate =
        Command::new("unshare").args(namespace).args(["ip", "link", "set", "lo", "up"]).output();
    if !can_separate.is_ok_and(|output| output.status.success()) {
        return skip("unshare", "this machine gives no network namespace");
    }
    let missing: Vec<&str> = ["bash", "curl", "nc", "openssl", "python3", "node"]
        .into_iter()
        .filter(|program| read_blocks(Path::new(document)).iter().any(|block| block.runs_program(program)))
        .filter(|program| {
            Command::new("which").arg(program).output().is_ok_and(|found| !found.status.success())
        })
        .collect();
    if !missing.is_empty() {
        return skip(missing[0], "a program of the document is not on this machine");
    }
    let inside = "ip link set lo up && exec \"$0\" --exact \"$1\" --nocapture";
    let output = Command::new("unshare")
        .args(namespace)
        .args(["bash", "-c", inside])
        .arg(env::current_exe().unwrap())
        .arg(test)
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{document}:\n{}", String::from_utf8_lossy(&printed));
}

#[test]
fn the_readme_shows_what_happens() {
    run_document("documents::the_readme_shows_what_happens", "README.md");
}

#[test]
fn the_korean_readme_shows_what_happens() {
    run_document("documents::the_korean_readme_shows_what_happens", "README.ko.md");
}

#[test]
fn the_protocol_document_shows_what_happens() {
    run_document("documents::the_protocol_document_shows_what_happens", "docs/protocol.md");
}

#[test]
fn the_document_about_watching_shows_what_happens() {
    run_document("documents::the_document_about_watching_shows_what_happens", "docs/seeing.md");
}

#[test]
fn the_document_about_the_secret_shows_what_happens() {
    run_document("documents::the_document_about_the_secret_shows_what_happens", "docs/secret.md");
}

#[test]
fn the_document_about_the_tap_shows_what_happens() {
    run_document("documents::the_document_about_the_tap_shows_what_happens", "docs/tap.md");
}

#[test]
fn the_document_about_the_live_page_shows_what_happens() {
    run_document("documents::the_document_about_the_live_page_shows_what_happens", "docs/look.md");
}

#[test]
fn the_document_of_examples_shows_what_happens() {
    run_document("documents::the_document_of_examples_shows_what_happens", "examples/README.md");
}

#[test]
fn the_document_of_decisions_shows_what_happens() {
    run_document("documents::the_document_of_decisions_shows_what_happens", "docs/decisions.md");
}

/// The documents that have separate tests above.
const RUN: [&str; 9] = [
    "README.ko.md",
    "README.md",
    "docs/decisions.md",
    "docs/look.md",
    "docs/protocol.md",
    "docs/secret.md",
    "docs/seeing.md",
    "docs/tap.md",
    "examples/README.md",
];

#[test]
fn every_command_in_a_document_is_run_or_has_a_reason() {
    let mut without_reason = Vec::new();
    for document in documents() {
        let is_run = RUN.iter().any(|run| Path::new(run) == document);
        for block in read_blocks(&document) {
            let has_reason =
                matches!(&block.action, Action::NotRun(reason) if reason.split_whitespace().count() >= 3);
            if block.has_commands && !has_reason && !is_run {
                without_reason.push(format!("{}:{}", document.display(), block.line));
            }
            if matches!(&block.action, Action::NotRun(_)) && !has_reason {
                without_reason.push(format!(
                    "{}:{}: the reason is too short",
                    document.display(),
                    block.line
                ));
            }
        }
    }
    assert_eq!(without_reason, [""; 0], "blocks that are neither run nor marked `not run: REASON`");
}
